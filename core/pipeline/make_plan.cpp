#include "pipeline/make_plan.h"

#include "allocate/size_plan.h"
#include "base/sha256.h"
#include "base/text.h"
#include "base/work_share.h"
#include "evaluate/evaluator.h"
#include "model/moe_model.h"
#include "pipeline/checkpoint_weights.h"
#include "pipeline/drop_layers.h"
#include "pipeline/model_match.h"
#include "pipeline/profile_rank_curves.h"
#include "pipeline/result_json.h"
#include "pipeline/search_journal.h"
#include "pipeline/stage_job.h"
#include "pipeline/verified_search.h"
#include "pipeline/window_losses.h"
#include "plan/cost_model.h"
#include "plan/plan_edit.h"
#include "profile/profile_pass.h"
#include "score/scorer.h"
#include "search/rank_budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace espalier
{

namespace
{

// Sampled tokens for products of all experts: n(n+1)/2 numbers each.
constexpr int kDenseTokens = 4096;

Error textNeeded(std::string_view who)
{
    Error error = usageError(
        fmt::format("{} runs the model on the calibration text; none was given, and the profile does not hold the ids of its own.", who),
        "Give the text of the profile with --text or --ids, or take the profile again.");
    error.code = "plan.text_needed";
    return error;
}

class Planning
{
public:
    Planning(const PlanInputs& inputs, const PlanRecipe& recipe, JobContext& job)
        : m_inputs(inputs),
          m_recipe(recipe),
          m_shape(inputs.checkpoint->shape()),
          m_base(inputs.base.withModel(planModelOf(*inputs.checkpoint))),
          m_journal(inputs.journal),
          m_part(job),
          m_job(m_part),
          m_clock(sharedClock())
    {
        m_started = m_clock();
    }

    Result<PlanOutcome> run()
    {
        ESPALIER_CHECK_OK(checkRecipe(m_recipe));
        const bool runsModel = m_recipe.receptiveField || m_recipe.allocate == "verified";
        if (runsModel && (!m_inputs.model || !m_inputs.windows))
            return textNeeded(m_recipe.receptiveField ? "The receptive field" : "The verified allocator");
        ESPALIER_CHECK_OK(checkRecipeNeeds(m_recipe, m_inputs.profile));
        ESPALIER_CHECK_OK(dropLayers());
        const CheckpointWeights weights(m_inputs.checkpoint);
        ESPALIER_TRY(m_scores, score(m_inputs.profile, m_recipe.score, m_recipe.paramsOf("score"), &weights));
        begin(Part::Curves);
        ESPALIER_CHECK_OK(prepareRequest());
        const bool joint = m_recipe.allocate == "exact" && m_recipe.ranks && m_recipe.rankRule == "exact";
        if (m_recipe.bytes && joint) {
            ESPALIER_CHECK_OK(solveBytes());
        } else if (m_recipe.bytes && m_recipe.allocate == "verified" && !m_recipe.ranks) {
            ESPALIER_CHECK_OK(searchVerifiedPlan(std::nullopt));
            ESPALIER_CHECK_OK(selectSets());
            ESPALIER_CHECK_OK(chooseSets());
        } else if (m_recipe.bytes) {
            ESPALIER_CHECK_OK(fitBytes());
        } else {
            ESPALIER_CHECK_OK(allocateCounts(*m_recipe.keepTotal));
            ESPALIER_CHECK_OK(selectSets());
            ESPALIER_CHECK_OK(chooseSets());
            ESPALIER_CHECK_OK(assign());
        }
        ESPALIER_TRY(m_outcome.plan, completed(m_outcome.plan));
        if (runsModel && !m_inputs.missingWindows.empty())
            m_outcome.warnings.push_back(
                fmt::format("The profile holds a part of its text; the windows {} are missing and were not run.", m_inputs.missingWindows));
        return std::move(m_outcome);
    }

private:
    using Clock = std::chrono::steady_clock;

    // What each part takes of the whole, roughly: on the demo model with the window's text.
    enum class Part { Curves, Allocate, Select, Field, Rank, End };
    double weightOf(Part part) const
    {
        switch (part) {
            case Part::Curves:
                return m_recipe.allocate == "exact" || m_recipe.allocate == "verified" ? 2 : 0;
            case Part::Allocate:
                return m_recipe.allocate == "verified" ? 20 : 0;
            case Part::Select:
                return m_recipe.select == "ranking" ? 0.1 : 5;
            case Part::Field:
                return m_recipe.receptiveField ? 5 : 0;
            case Part::Rank:
                return m_recipe.ranks ? 0.5 : 0;
            case Part::End:
                break;
        }
        return 0;
    }
    void begin(Part part)
    {
        double all = 0;
        double before = 0;
        for (int i = 0; i < static_cast<int>(Part::End); ++i) {
            const double weight = weightOf(static_cast<Part>(i));
            all += weight;
            if (i < static_cast<int>(part)) before += weight;
        }
        m_part.begin(before / all, (before + weightOf(part)) / all);
    }

    Status dropLayers()
    {
        std::vector<int> layers = m_recipe.dropLayers;
        if (m_recipe.dropSimilar > 0) {
            ESPALIER_TRY(const std::vector<int> similar, mostSimilarLayers(m_inputs.profile, m_base, m_recipe.dropSimilar));
            layers.insert(layers.end(), similar.begin(), similar.end());
        }
        if (layers.empty()) return {};
        ESPALIER_TRY(m_base, withoutLayers(m_shape, m_base, layers));
        // Their experts count among those that are removed.
        if (m_recipe.keepTotal) m_recipe.keepTotal = std::min(*m_recipe.keepTotal, m_base.keptExperts());
        stage("layers", Clock::now(), {{"dropped", layers}});
        return {};
    }

    // With constants where they are asked for.
    Result<CompressionPlan> completed(const CompressionPlan& plan) const
    {
        if (!m_recipe.dropped) return plan;
        ESPALIER_TRY(const CompressionPlan next, withDroppedAs(m_shape, plan, m_recipe.dropped));
        return next.hasConstants() ? next.withConstantsProfile(m_inputs.profileSha256) : next;
    }

    Status prepareRequest()
    {
        m_request.plan = m_base;
        // A ranking alone may go below top-k: the router goes on choosing among all columns.
        m_request.dropped = m_recipe.select == "ranking" ? m_recipe.dropped : std::nullopt;
        m_request.uniformCount = m_recipe.uniformCount;
        m_request.scores = m_scores;
        m_request.layerImportance = m_scores.layerImportance;
        if (m_request.layerImportance.empty() && m_inputs.profile.has("gram")) {
            ESPALIER_TRY(const ExpertScores leaveOneOut, espalier::score(m_inputs.profile, "leave-one-out"));
            m_request.layerImportance = leaveOneOut.layerImportance;
        }
        if (m_recipe.allocate == "exact" || m_recipe.allocate == "verified") {
            StageJob job(m_job, "allocate");
            CurveOptions options;
            options.seed = m_recipe.seed;
            options.threads = m_recipe.threads;
            ESPALIER_TRY(m_curves, layerCurves(m_inputs.profile, m_base, options, job));
            m_request.lossCurves = curveTable(m_curves, m_shape);
            // Squared errors add up over layers, norms do not.
            for (auto& row : m_request.lossCurves)
                for (double& value : row)
                    value *= value;
        }
        return {};
    }

    Result<std::vector<int>> counts(int total)
    {
        m_request.keepTotal = total;
        return espalier::allocate(m_recipe.allocate, m_shape, m_request, m_recipe.paramsOf("allocate"));
    }

    Status allocateCounts(int total)
    {
        if (m_recipe.allocate == "verified") return searchVerifiedPlan(total);
        const auto started = Clock::now();
        ESPALIER_TRY(m_outcome.keep, counts(total));
        stage("allocate", started, {{"method", m_recipe.allocate}, {"keep", m_outcome.keep}});
        return stopped();
    }

    // So many experts, or the bytes of the recipe.
    Status searchVerifiedPlan(std::optional<int> total)
    {
        const auto started = Clock::now();
        begin(Part::Allocate);
        StageJob job(m_job, "allocate");
        ESPALIER_TRY(Evaluator * evaluator, this->evaluator());
        VerifiedProblem problem{
            .inputs = m_inputs,
            .base = m_base,
            .keepTotal = total,
            .bytes = total ? std::nullopt : m_recipe.bytes,
            .uniformCount = m_recipe.uniformCount,
            .seed = m_recipe.seed,
            .request = m_request,
            .curves = m_curves,
            .factors = factorSettings(),
            .ranked = {},
            .measure = [this](const CompressionPlan& plan, std::span<const int> windows) { return measure(plan, windows); },
            .groups = raceOrder(evaluator->groups()),
            .spentSeconds = m_clock() - m_started,
            .clock = m_clock};
        if (m_recipe.ranks) problem.ranked = [this](const CompressionPlan& plan) { return ranked(plan); };
        ESPALIER_TRY(VerifiedAnswer verified, searchVerified(problem, m_recipe.paramsOf("allocate"), job));
        m_outcome.search = std::move(verified.search);
        m_withSets = std::move(verified.withSets);
        m_outcome.keep.assign(m_shape.layers.size(), 0);
        for (const LayerShape& layer : m_shape.layers)
            if (layer.moe)
                m_outcome.keep[static_cast<std::size_t>(layer.index)] =
                    static_cast<int>(m_outcome.search->plan.layer(layer.index).kept().size());
        Json detail = {{"method", m_recipe.allocate}};
        detail.update(verified.detail);
        detail["keep"] = m_outcome.keep;
        stage("allocate", started, std::move(detail));
        return stopped();
    }

    // Seconds, the same for all processes: they have to take every turn together.
    std::function<double()> sharedClock() const
    {
        const auto now = [] { return std::chrono::duration<double>(Clock::now().time_since_epoch()).count(); };
        if (!shared()) return now;
        return [this, now, last = 0.0]() mutable {
            const double own = now();
            if (const auto all = m_inputs.processes->exchange(Json(own)); all.ok()) last = all->front().get<double>();
            return last;
        };
    }

    Status selectSets()
    {
        m_outcome.selections.resize(m_shape.layers.size());
        if (timeIsUp()) return {};
        const auto started = Clock::now();
        begin(Part::Select);
        StageJob job(m_job, "select");
        SelectOptions options;
        options.bestSets = m_recipe.receptiveField ? m_recipe.receptiveField->sets : 3;
        options.seed = m_recipe.seed;
        options.threads = m_recipe.threads;
        options.scores = m_scores;
        options.batch = m_inputs.batch;
        ESPALIER_CHECK_OK(reportStart(job));
        ESPALIER_TRY(m_outcome.selections, search("select", m_inputs.profile, m_base, options, job));
        ESPALIER_CHECK_OK(searchUncoveredAgain(options, job));
        ESPALIER_TRY(m_outcome.plan, applySelections(m_shape, m_base, m_outcome.selections, {}, m_request.dropped));
        Json layers = Json::array();
        for (const Selection& selection : m_outcome.selections) {
            if (selection.best.empty()) continue;
            layers.push_back(toJson(selection));
            if (!selection.warning.empty()) m_outcome.warnings.push_back(selection.warning);
        }
        stage("select", started, {{"method", m_recipe.select}, {"layers", std::move(layers)}});
        return stopped();
    }

    // The minutes of the verified search are over: what it has is the answer, and nothing long begins.
    bool timeIsUp() const { return m_outcome.search && m_outcome.search->end == PlanSearchEnd::TimeLimit; }

    // What a search improves on: the counts with the sets that the score chooses, or what the exchange measured.
    Status reportStart(JobContext& job)
    {
        CompressionPlan start;
        if (m_outcome.search) {
            start = m_outcome.search->plan;
        } else {
            ESPALIER_TRY(start, selectByRanking(m_shape, m_base, m_outcome.keep, m_scores, m_request.dropped));
        }
        job.partial({{"plan", toJson(start)}, {"keep", m_outcome.keep}});
        return {};
    }

    // selectLayers for one stage: what an earlier run finished is taken, every layer is told and recorded as it ends.
    Result<std::vector<Selection>> search(const std::string& stage, const ProfileData& profile, const CompressionPlan& base,
                                          SelectOptions options, JobContext& job)
    {
        const auto tell = [&](const Selection& selection) {
            if (selection.best.empty()) return;
            const KeptSet& best = selection.best.front();
            Json trace = Json::array();
            for (const double value : selection.trace)
                trace.push_back(numberJson(value));
            job.partial({{"layer", selection.layer},
                         {"finished", true},
                         {"kept", best.kept},
                         {"best_loss", numberJson(best.loss)},
                         {"reference_loss", selection.referenceLoss ? numberJson(*selection.referenceLoss) : Json()},
                         {"output_norm", numberJson(selection.outputNorm)},
                         {"evaluated", selection.evaluated},
                         {"trace", std::move(trace)}});
        };
        std::map<int, Selection> recorded;
        if (m_journal) recorded = m_journal->selections(stage, m_outcome.keep);
        ESPALIER_CHECK_OK(gatherFinished(recorded));
        for (const auto& [layer, selection] : recorded)
            if (options.finished.emplace(layer, selection).second) tell(selection);
        CompressionPlan own = base;
        if (shared())
            for (const LayerShape& layer : m_shape.layers)
                if (layer.moe && !m_inputs.processes->owns(static_cast<std::size_t>(layer.index)) &&
                    !options.finished.contains(layer.index))
                    own = own.withLocked(layer.index, true);
        // Layers that are locked for this stage or this process alone are not its results.
        const auto passedOver = [&](const Selection& selection) {
            return own.isLocked(selection.layer) && !m_base.isLocked(selection.layer);
        };
        options.onLayer = [&](const Selection& selection) {
            if (passedOver(selection)) return;
            if (m_journal) record(m_journal->add(stage, selection));
            tell(selection);
        };
        ESPALIER_TRY(std::vector<Selection> selections,
                     selectLayers(profile, m_recipe.select, m_recipe.paramsOf("select"), m_outcome.keep, own, options, job));
        if (!shared()) return selections;
        std::map<int, Selection> searched;
        for (const Selection& selection : selections)
            if (!passedOver(selection)) searched.emplace(selection.layer, selection);
        ESPALIER_CHECK_OK(gatherFinished(searched));
        for (Selection& selection : selections)
            if (passedOver(selection))
                if (const auto it = searched.find(selection.layer); it != searched.end()) selection = it->second;
        return selections;
    }

    bool shared() const { return m_inputs.processes && !m_inputs.processes->alone(); }

    // Adds what the other processes have searched.
    Status gatherFinished(std::map<int, Selection>& selections)
    {
        if (!shared()) return {};
        Json own = Json::array();
        for (const auto& [layer, selection] : selections)
            own.push_back({layer, toJson(selection)});
        ESPALIER_TRY(const std::vector<Json> parts, m_inputs.processes->exchange(std::move(own)));
        for (const Json& part : parts)
            for (const Json& each : part) {
                ESPALIER_TRY(Selection selection, selectionFromJson(each[1]));
                selections.emplace(each[0].get<int>(), std::move(selection));
            }
        return {};
    }

    // A state that cannot be written costs the chance to resume, not the search.
    void record(const Status& written)
    {
        if (written.ok()) return;
        m_outcome.warnings.push_back(written.error().describe());
        m_journal = nullptr;
    }
    Status stopped() const { return m_job.stopRequested() ? Status(cancelledError()) : Status(); }

    // Charging uncovered tokens keeps a search honest but coarse. Above 1 % the layers are searched again on products of all experts,
    // taken from the calibration text. Without the model the warning of the selection stands.
    Status searchUncoveredAgain(const SelectOptions& options, JobContext& job)
    {
        std::vector<Selection>& selections = m_outcome.selections;
        std::vector<bool> open;
        open.reserve(selections.size());
        for (const Selection& selection : selections)
            open.push_back(selection.uncoveredShare > 0.01);
        const auto uncovered = [&](const Selection& selection) { return open[static_cast<std::size_t>(selection.layer)]; };
        if (!m_inputs.model || !m_inputs.windows || std::none_of(selections.begin(), selections.end(), uncovered)) return {};
        ProfileOptions dense;
        dense.collect = {"counts", "gram"};
        dense.gramTokens = kDenseTokens;
        for (const LayerShape& layer : m_shape.layers)
            if (layer.moe) dense.gramExtra = std::max(dense.gramExtra, layer.experts - layer.router.topK);
        for (const Selection& selection : selections)
            if (uncovered(selection)) dense.layers.push_back(selection.layer);
        // One layer's products at a time: those of all experts and layers together would be larger than the profile.
        dense.onLayer = [&](LayerProfile& layer) -> Status {
            const int index = layer.layer;
            const auto l = static_cast<std::size_t>(index);
            if (!open[l]) return {};
            ProfileData one;
            one.shape = m_shape;
            one.layers.resize(m_shape.layers.size());
            one.layers[l] = std::move(layer);
            SelectOptions alone = options;
            for (const Selection& selection : selections)
                if (selection.layer != index) alone.finished.emplace(selection.layer, selection);
            ESPALIER_TRY(std::vector<Selection> again, search("select-again", one, m_base, alone, job));
            m_outcome.warnings.push_back(
                fmt::format("Layer {}: {:.1f} % of the tokens were not covered by their lists; it was searched again on the "
                            "products of all experts.",
                            index, selections[l].uncoveredShare * 100));
            selections[l] = std::move(again[l]);
            return {};
        };
        ESPALIER_TRY(MoeModel * model, m_inputs.model());
        SilentPartials quiet(job);
        ESPALIER_TRY(const ProfileData ran, runProfile(*model, *m_inputs.windows, dense, quiet));
        return {};
    }

    // The receptive field, and what the exchange measured: the plan that goes on is the one with the lower measured loss.
    Status chooseSets()
    {
        if (timeIsUp()) {
            m_outcome.plan = m_outcome.search->plan;
            return {};
        }
        if (m_recipe.receptiveField) {
            const auto started = Clock::now();
            begin(Part::Field);
            StageJob job(m_job, "receptive-field");
            ReceptiveFieldOptions options;
            options.sets = m_recipe.receptiveField->sets;
            options.blockSize = m_recipe.receptiveField->blockSize;
            Json choices = Json::array();
            for (const Selection& selection : m_outcome.selections)
                choices.push_back(toJson(selection));
            const std::string choicesHash = sha256Hex(canonicalJson(choices));
            if (m_journal) options.finished = m_journal->blocks(choicesHash);
            options.onBlock = [&](const FieldBlock& block) {
                if (m_journal) record(m_journal->add(choicesHash, block));
            };
            ESPALIER_TRY(MoeModel * model, m_inputs.model());
            options.streamBytes = std::min(options.streamBytes, model->spareBytes() / 2);
            if (shared())
                options.share = {.part = m_inputs.processes->rank(),
                                 .parts = m_inputs.processes->size(),
                                 .exchange = [this](const Json& own) { return m_inputs.processes->exchange(own); }};
            ESPALIER_TRY(m_outcome.receptiveField, chooseByBlocks(*model, *m_inputs.windows, m_outcome.selections, m_base, options, job));
            m_outcome.plan = m_outcome.receptiveField->plan;
            Json blocks = Json::array();
            for (const FieldBlock& block : m_outcome.receptiveField->blocks)
                blocks.push_back(toJson(block));
            stage("receptive-field", started, {{"sets", options.sets}, {"block_size", options.blockSize}, {"blocks", std::move(blocks)}});
        }
        ESPALIER_CHECK_OK(stopped());
        if (m_outcome.search) return chooseMeasured();
        ESPALIER_TRY(m_outcome.plan, ranksHandedOn(m_outcome.plan));
        return {};
    }

    // The chosen sets in place of those that the search measured, at its bytes, if they measurably lose less.
    Status chooseMeasured()
    {
        const PlanSearchResult& found = *m_outcome.search;
        std::vector<ExpertSet> sets(m_shape.layers.size());
        for (const LayerShape& layer : m_shape.layers)
            if (layer.moe && !m_base.isFixed(layer.index))
                sets[static_cast<std::size_t>(layer.index)] = m_outcome.plan.layer(layer.index).kept();
        ESPALIER_TRY(const auto chosen, m_withSets(found.plan, sets));
        m_outcome.plan = found.plan;
        if (!chosen || chosen->hash() == found.plan.hash() || found.end == PlanSearchEnd::Cancelled) return {};
        const auto finished = [this](const CompressionPlan& plan) { return m_recipe.ranks ? ranked(plan) : Result<CompressionPlan>(plan); };
        ESPALIER_TRY(const CompressionPlan other, finished(*chosen));
        std::vector<int> windows;
        for (const WindowLoss& loss : found.losses)
            windows.push_back(loss.window);
        ESPALIER_TRY(const std::vector<WindowLoss> losses, measure(other, windows));
        if (pairedDifference(losses, found.losses).nll < 0) m_outcome.plan = *chosen;
        return {};
    }

    // Experts that come back into a plan with ranks take over those of the experts that leave, unless a rank rule follows.
    Result<CompressionPlan> ranksHandedOn(const CompressionPlan& plan)
    {
        if (!m_base.hasRanks() || m_recipe.ranks) return plan;
        std::vector<ExpertSet> sets;
        for (const LayerShape& layer : m_shape.layers)
            sets.push_back(plan.layer(layer.index).kept());
        return withSetsHandingRanksOn(m_shape, m_base, sets);
    }

    Status assign()
    {
        if (!m_recipe.ranks) return {};
        const auto started = Clock::now();
        begin(Part::Rank);
        ESPALIER_TRY(m_outcome.plan, ranked(m_outcome.plan));
        stage("rank", started, {{"rule", m_recipe.rankRule}, {"factors", m_outcome.plan.factors().method}});
        StageJob(m_job, "rank").partial({{"plan", toJson(m_outcome.plan)}});
        return stopped();
    }

    FactorSettings factorSettings() const
    {
        FactorSettings factors;
        factors.method = m_recipe.factors;
        if (factors.method.empty()) factors.method = m_inputs.profile.has("factors") ? "whitened-svd" : "svd";
        if (factors.method == "whitened-svd") factors.profileSha256 = m_inputs.profileSha256;
        return factors;
    }

    Result<CompressionPlan> ranked(const CompressionPlan& plan)
    {
        RankRequest request;
        request.averageRank = m_recipe.averageRank;
        request.decomposeShare = m_recipe.decomposeShare;
        ESPALIER_TRY(request.importance, espalier::score(m_inputs.profile, "leave-one-out", {{"normalise", "raw"}}));
        if (!m_rankCurves) m_rankCurves = rankCurvesOf(m_inputs.profile);
        request.curves = m_rankCurves;
        request.factors = factorSettings();
        return assignRanks(m_shape, plan, m_recipe.rankRule, request, m_recipe.paramsOf("rank"));
    }

    // Counts and ranks from one budget: the solver's own sets, one decision for both.
    Status solveBytes()
    {
        const auto started = Clock::now();
        SizeRequest request;
        request.plan = m_base;
        request.bytes = *m_recipe.bytes;
        request.lossCurves = m_request.lossCurves;
        request.keptSets.resize(m_shape.layers.size());
        for (const LayerCurve& curve : m_curves) {
            auto& sets = request.keptSets[static_cast<std::size_t>(curve.layer)];
            sets.resize(static_cast<std::size_t>(m_shape.layers[static_cast<std::size_t>(curve.layer)].experts) + 1);
            for (std::size_t i = 0; i < curve.sets.size(); ++i)
                sets[static_cast<std::size_t>(curve.lowest) + i] = curve.sets[i];
        }
        request.scores = m_scores;
        request.curves = rankCurvesOf(m_inputs.profile);
        request.uniformCount = m_recipe.uniformCount;
        request.factors = factorSettings();
        ESPALIER_TRY(SizedPlan sized, planForBytes(m_shape, request));
        m_outcome.plan = std::move(sized.plan);
        for (const LayerShape& layer : m_shape.layers)
            m_outcome.keep.push_back(layer.moe ? static_cast<int>(m_outcome.plan.layer(layer.index).kept().size()) : 0);
        m_outcome.selections.resize(m_shape.layers.size());
        stage("allocate", started,
              {{"method", m_recipe.allocate},
               {"keep", m_outcome.keep},
               {"loss", numberJson(sized.loss)},
               {"dual_bound", numberJson(sized.dualBound)},
               {"gap", numberJson(sized.gap)},
               {"solver", sized.method}});
        StageJob(m_job, "rank").partial({{"plan", toJson(m_outcome.plan)}});
        return stopped();
    }

    // The largest number of experts whose plan, ranks included, is not larger than the target. Sizes depend on counts and, through the
    // rank rules, a little on who stays: counts are found with ranking, then the real selection is tried and lowered until it fits.
    Status fitBytes()
    {
        int low = 0;
        int high = static_cast<int>(m_shape.totalExperts());
        int best = -1;
        std::optional<Error> failure;
        const std::string allocator = m_recipe.allocate;
        if (allocator == "verified") m_recipe.allocate = "importance";
        while (low <= high) {
            ESPALIER_CHECK_OK(stopped());
            const int middle = low + (high - low) / 2;
            Result<std::vector<int>> keep = counts(middle);
            if (!keep.ok()) {
                if (keep.error().code != "allocate.infeasible") return std::move(keep).error();
                failure = keep.error();
                if (middle == static_cast<int>(m_shape.totalExperts())) return *failure;
                low = middle + 1;
                continue;
            }
            ESPALIER_TRY(CompressionPlan plan, selectByRanking(m_shape, m_base, *keep, m_scores, m_request.dropped));
            ESPALIER_TRY(plan, ranksHandedOn(plan));
            if (m_recipe.ranks) {
                ESPALIER_TRY(plan, ranked(plan));
            }
            ESPALIER_TRY(plan, completed(plan));
            if (planCost(m_shape, plan).bytes > *m_recipe.bytes) {
                high = middle - 1;
            } else {
                best = middle;
                low = middle + 1;
            }
        }
        m_recipe.allocate = allocator;
        for (; best >= 0; --best) {
            m_outcome.stages.clear();
            m_outcome.warnings.clear();
            Status allocated = allocateCounts(best);
            if (!allocated.ok()) {
                if (allocated.error().code == "allocate.infeasible") break;
                return allocated;
            }
            ESPALIER_CHECK_OK(selectSets());
            ESPALIER_CHECK_OK(chooseSets());
            ESPALIER_CHECK_OK(assign());
            ESPALIER_TRY(const CompressionPlan whole, completed(m_outcome.plan));
            if (planCost(m_shape, whole).bytes <= *m_recipe.bytes) return {};
        }
        return badInput("plan.size_infeasible", formatBytes(*m_recipe.bytes),
                        fmt::format("No plan of this model fits {}: experts can be removed down to top-k per layer only.",
                                    formatBytes(*m_recipe.bytes)),
                        "Choose a larger size, or lower ranks.");
    }

    Result<Evaluator*> evaluator()
    {
        if (m_inputs.evaluator) return m_inputs.evaluator;
        ESPALIER_TRY(MoeModel * model, m_inputs.model());
        if (!m_evaluator) m_evaluator.emplace(*model, *m_inputs.windows, evaluatorCacheBytes(*model));
        return &*m_evaluator;
    }

    Result<std::vector<WindowLoss>> measure(const CompressionPlan& plan, std::span<const int> windows)
    {
        // Readies the model for the factors of these plans.
        ESPALIER_TRY([[maybe_unused]] MoeModel * model, m_inputs.model());
        ESPALIER_TRY(Evaluator * evaluator, this->evaluator());
        const std::vector<WindowLoss> recorded = m_journal ? m_journal->losses(plan.hash()) : std::vector<WindowLoss>();
        SilentPartials job(m_job);
        WorkShare one;
        ESPALIER_TRY(std::vector<WindowLoss> losses,
                     runShared(*evaluator, plan, windows, recorded, job, shared() ? *m_inputs.processes : one));
        std::vector<WindowLoss> fresh;
        for (const WindowLoss& loss : losses)
            if (std::none_of(recorded.begin(), recorded.end(), [&](const WindowLoss& other) { return other.window == loss.window; }))
                fresh.push_back(loss);
        if (m_journal && !fresh.empty()) record(m_journal->add(plan.hash(), fresh));
        return losses;
    }

    void stage(std::string name, Clock::time_point started, Json detail)
    {
        m_outcome.stages.push_back({std::move(name), std::chrono::duration<double>(Clock::now() - started).count(), std::move(detail)});
    }

    const PlanInputs& m_inputs;
    PlanRecipe m_recipe;
    const ModelShape& m_shape;
    CompressionPlan m_base;
    SearchJournal* m_journal;  // may be null
    PartJob m_part;
    JobContext& m_job;
    std::function<double()> m_clock;  // seconds, the same for all processes
    double m_started = 0;
    ExpertScores m_scores;
    AllocationRequest m_request;
    std::vector<LayerCurve> m_curves;
    std::shared_ptr<const RankCurves> m_rankCurves;
    std::function<Result<std::optional<CompressionPlan>>(const CompressionPlan&, const std::vector<ExpertSet>&)>
        m_withSets;  // of the search
    std::optional<Evaluator> m_evaluator;
    PlanOutcome m_outcome;
};

}  // namespace

std::string searchKey(const PlanInputs& inputs, const PlanRecipe& recipe, const std::string& computeType)
{
    Json key = {{"model", inputs.checkpoint->fingerprint()},
                {"profile", inputs.profileSha256},
                {"recipe", toJson(recipe)},
                {"factors", recipe.factors},
                {"seed", recipe.seed},
                {"base", toJson(inputs.base)},
                {"compute", computeType},
                {"version", ESPALIER_VERSION}};
    if (inputs.windows) key["text"] = {{"sha256", inputs.windows->textSha256}, {"window_length", inputs.windows->windowLength}};
    return sha256Hex(canonicalJson(key));
}

Result<PlanOutcome> makePlan(const PlanInputs& inputs, const PlanRecipe& recipe, JobContext& job)
{
    return Planning(inputs, recipe, job).run();
}

Json toJson(const PlanStage& stage)
{
    Json json = stage.detail;
    json["stage"] = stage.name;
    json["seconds"] = stage.seconds;
    return json;
}

}  // namespace espalier
