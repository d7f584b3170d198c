#include "pipeline/make_plan.h"

#include "allocate/layer_allocator.h"
#include "allocate/size_plan.h"
#include "base/sha256.h"
#include "base/work_share.h"
#include "evaluate/evaluator.h"
#include "model/moe_model.h"
#include "pipeline/checkpoint_weights.h"
#include "pipeline/drop_layers.h"
#include "pipeline/method_catalog.h"
#include "pipeline/model_match.h"
#include "pipeline/plan_journal.h"
#include "pipeline/profile_rank_curves.h"
#include "pipeline/rank_stage.h"
#include "pipeline/recipe_json.h"
#include "pipeline/recover_stage.h"
#include "pipeline/recovered_finals.h"
#include "pipeline/result_json.h"
#include "pipeline/select_stage.h"
#include "pipeline/size_fit.h"
#include "pipeline/skip_rules.h"
#include "pipeline/stage_job.h"
#include "pipeline/verified_search.h"
#include "pipeline/window_losses.h"
#include "plan/cost_model.h"
#include "plan/plan_edit.h"
#include "score/scorer.h"
#include "search/rank_budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

namespace espalier
{

namespace
{

Error textNeeded(std::string_view who)
{
    Error error = usageError(
        {"{who} runs the model on the calibration text; none was given, and the profile does not hold the ids of its own.", {{"who", who}}},
        "Give the text of the profile with --text or --ids, or take the profile again.");
    error.code = "plan.text_needed";
    return error;
}

constexpr double kSearchShare = 0.7;  // of the minutes, where finalists are recovered in the rest
constexpr int kOtherFinalists = 3;    // beside the answer and the guarded candidates

class Planning
{
public:
    Planning(const PlanInputs& inputs, const PlanRecipe& recipe, JobContext& job)
        : m_inputs(inputs),
          m_recipe(recipe),
          m_shape(inputs.checkpoint->shape()),
          m_base(inputs.base.withModel(planModelOf(*inputs.checkpoint))),
          m_share(inputs.processes ? *inputs.processes : WorkShare::none()),
          m_journal(inputs.journal),
          m_part(job),
          m_job(m_part),
          m_clock(sharedClock()),
          m_ranks(m_shape, inputs.profile, inputs.profileSha256, m_recipe)
    {
        m_started = m_clock();
    }

    Result<PlanOutcome> run()
    {
        ESPALIER_CHECK_OK(checkRecipe(m_recipe));
        const bool model = runsModel(m_recipe);
        if (model && (!m_inputs.model || !m_inputs.windows))
            return textNeeded(m_recipe.receptiveField ? "The receptive field" : measures() ? "The verified allocator" : "Recovery");
        if (m_inputs.recoverOnly) return recoverBase();
        ESPALIER_CHECK_OK(checkRecipeNeeds(m_recipe, m_inputs.profile));
        ESPALIER_TRY(m_base, withoutRecovered(m_shape, m_base));
        ESPALIER_CHECK_OK(dropLayers());
        const CheckpointWeights weights(m_inputs.checkpoint);
        ESPALIER_TRY(m_scores, score(m_inputs.profile, m_recipe.score, m_recipe.paramsOf("score"), &weights));
        begin(Part::Curves);
        ESPALIER_CHECK_OK(prepareRequest());
        if (m_recipe.bytes && solvesJointly(m_recipe)) {
            ESPALIER_CHECK_OK(solveBytes());
        } else if (m_recipe.bytes && choosesRanks(m_recipe) && !m_recipe.ranks) {
            ESPALIER_CHECK_OK(allocateCounts(std::nullopt));
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
        ESPALIER_CHECK_OK(recoverIfPossible());
        if (std::string warning = m_journal.takeWarning(); !warning.empty()) m_outcome.warnings.push_back(std::move(warning));
        if (model && !m_inputs.missingWindows.empty())
            m_outcome.warnings.push_back(
                fmt::format("The profile holds a part of its text; the windows {} are missing and were not run.", m_inputs.missingWindows));
        return std::move(m_outcome);
    }

private:
    using Clock = std::chrono::steady_clock;

    // The plan given, with what an earlier recovery stored, and nothing but its numbers anew.
    Result<PlanOutcome> recoverBase()
    {
        if (m_recipe.recover.empty())
            return usageError("Nothing is to be done: no recovery method is named.", "Name a method of the slot recover.");
        m_outcome.plan = m_base;
        m_outcome.keep = keptOf(m_base);
        m_outcome.selections.resize(m_shape.layers.size());
        ESPALIER_CHECK_OK(recoverIfPossible());
        return std::move(m_outcome);
    }

    Status recoverIfPossible()
    {
        if (m_recipe.recover.empty()) return {};
        RecoverStage stage(m_inputs, m_recipe, m_share);
        if (std::string why = stage.hindrance(); !why.empty()) {
            m_outcome.warnings.push_back(std::move(why));
            return {};
        }
        ESPALIER_CHECK_OK(chooseRecovered(stage));
        return recover(stage);
    }

    // What each part takes of the whole, roughly: on the demo model with the window's text.
    enum class Part { Curves, Allocate, Select, Field, Rank, Finals, Recover, End };
    double weightOf(Part part) const
    {
        if (m_inputs.recoverOnly) return part == Part::Recover ? 1 : 0;
        switch (part) {
            case Part::Curves:
                return needsCurves(m_recipe) ? 2 : 0;
            case Part::Allocate:
                return measures() ? 20 : 0;
            case Part::Select:
                return searches() ? 5 : 0.1;
            case Part::Field:
                return m_recipe.receptiveField ? 5 : 0;
            case Part::Rank:
                return m_recipe.ranks ? 0.5 : 0;
            case Part::Finals:
                return comparesRecovered() ? 15 : 0;
            case Part::Recover:
                return m_recipe.recover.empty() ? 0 : 5;
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

    // The allocator measures plans on the model.
    bool measures() const
    {
        const MethodInfo* allocator = findMethod(Slot::Allocate, m_recipe.allocate);
        return allocator && allocator->runsModel;
    }
    bool searches() const
    {
        const MethodInfo* select = findMethod(Slot::Select, m_recipe.select);
        return select && select->searches;
    }
    // Finalists of the search are compared by what recovery makes of them; a method that takes steps costs more than the search itself.
    bool comparesRecovered() const
    {
        const MethodInfo* method = m_recipe.recover.empty() ? nullptr : findMethod(Slot::Recover, m_recipe.recover);
        return method && measures() && !takesSteps(*method);
    }
    bool shared() const { return !m_share.alone(); }
    Status stopped() const { return m_job.stopRequested() ? Status(cancelledError()) : Status(); }

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

    // With constants and a skip rule where they are asked for.
    Result<CompressionPlan> completed(CompressionPlan plan) const
    {
        if (!m_recipe.skip.empty()) {
            ESPALIER_TRY(plan, withSkipMethod(m_shape, plan, m_recipe.skip, m_recipe.paramsOf("skip")));
        }
        if (!m_recipe.dropped) return plan;
        ESPALIER_TRY(const CompressionPlan next, withDroppedAs(m_shape, plan, m_recipe.dropped));
        return next.needsConstants() ? next.withConstantsProfile(m_inputs.profileSha256) : next;
    }

    Status prepareRequest()
    {
        m_request.plan = m_base;
        // A ranking alone may go below top-k: the router goes on choosing among all columns.
        m_request.dropped = searches() || m_recipe.receptiveField ? std::nullopt : m_recipe.dropped;
        m_request.uniformCount = m_recipe.uniformCount;
        m_request.floor = m_recipe.bounds.floors(m_shape);
        m_request.cap = m_recipe.bounds.caps(m_shape);
        m_request.multipleOf = m_recipe.bounds.multipleOf;
        m_request.scores = m_scores;
        m_request.layerImportance = m_scores.layerImportance;
        if (m_request.layerImportance.empty() && m_inputs.profile.has("gram")) {
            ESPALIER_TRY(const ExpertScores leaveOneOut, espalier::score(m_inputs.profile, "leave-one-out"));
            m_request.layerImportance = leaveOneOut.layerImportance;
        }
        if (needsCurves(m_recipe)) {
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

    Result<std::vector<int>> counts(const std::string& allocator, int total)
    {
        m_request.keepTotal = total;
        return espalier::allocate(allocator, m_shape, m_request, allocator == m_recipe.allocate ? m_recipe.paramsOf("allocate") : Params());
    }

    // So many experts; none said: the bytes of the recipe, by an allocator that decides ranks as well.
    Status allocateCounts(std::optional<int> total)
    {
        if (measures()) return searchVerifiedPlan(total);
        const auto started = Clock::now();
        ESPALIER_TRY(m_outcome.keep, counts(m_recipe.allocate, *total));
        stage("allocate", started, {{"method", m_recipe.allocate}, {"keep", m_outcome.keep}});
        return stopped();
    }

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
            .bounds = m_recipe.bounds,
            .seed = m_recipe.seed,
            .request = m_request,
            .curves = m_curves,
            .factors = m_ranks.factors(),
            .ranked = {},
            .measure = [this](const CompressionPlan& plan, std::span<const int> windows) { return measure(plan, windows); },
            .groups = raceOrder(evaluator->groups()),
            .spentSeconds = m_clock() - m_started,
            .timeShare = comparesRecovered() ? kSearchShare : 1,
            .clock = m_clock};
        if (m_recipe.ranks) problem.ranked = [this](const CompressionPlan& plan) { return m_ranks.ranked(plan); };
        ESPALIER_TRY(VerifiedAnswer verified, searchVerified(problem, m_recipe.paramsOf("allocate"), job));
        m_outcome.search = std::move(verified.search);
        if (verified.allowedSeconds > 0) m_until = m_started + verified.allowedSeconds;
        m_withSets = std::move(verified.withSets);
        m_outcome.keep = keptOf(m_outcome.search->plan);
        Json detail = {{"method", m_recipe.allocate}};
        detail.update(verified.detail);
        detail["keep"] = m_outcome.keep;
        stage("allocate", started, std::move(detail));
        return stopped();
    }

    std::vector<int> keptOf(const CompressionPlan& plan) const
    {
        std::vector<int> keep;
        for (const LayerShape& layer : m_shape.layers)
            keep.push_back(layer.moe ? static_cast<int>(plan.layer(layer.index).kept().size()) : 0);
        return keep;
    }

    // Seconds, the same for all processes: they have to take every turn together.
    std::function<double()> sharedClock() const
    {
        const auto now = [] { return std::chrono::duration<double>(Clock::now().time_since_epoch()).count(); };
        if (!shared()) return now;
        return [this, now, last = 0.0]() mutable {
            const double own = now();
            if (const auto all = m_share.exchange(Json(own)); all.ok()) last = all->front().get<double>();
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
        // Behind every column stays an expert or its constant: there is no loss of a smaller router to compare sets by.
        if (m_request.dropped) {
            ESPALIER_CHECK_OK(reportStart(job));
            ESPALIER_TRY(m_outcome.plan, selectByRanking(m_shape, m_base, m_outcome.keep, m_scores, m_request.dropped));
            stage("select", started, {{"method", m_recipe.select}, {"layers", Json::array()}});
            return stopped();
        }
        SelectRequest request{.shape = m_shape,
                              .profile = m_inputs.profile,
                              .base = m_base,
                              .keep = m_outcome.keep,
                              .method = m_recipe.select,
                              .params = m_recipe.paramsOf("select"),
                              .options = {},
                              .journal = m_journal,
                              .share = m_share,
                              .model = m_inputs.model,
                              .windows = m_inputs.windows ? &*m_inputs.windows : nullptr};
        request.options.bestSets = m_recipe.receptiveField ? m_recipe.receptiveField->sets : 3;
        request.options.seed = m_recipe.seed;
        request.options.threads = m_recipe.threads;
        request.options.scores = m_scores;
        request.options.batch = m_inputs.batch;
        ESPALIER_CHECK_OK(reportStart(job));
        ESPALIER_TRY(SelectAnswer answer, espalier::selectSets(request, job));
        m_outcome.selections = std::move(answer.selections);
        if (std::string warning = m_journal.takeWarning(); !warning.empty()) m_outcome.warnings.push_back(std::move(warning));
        m_outcome.warnings.insert(m_outcome.warnings.end(), answer.warnings.begin(), answer.warnings.end());
        ESPALIER_TRY(m_outcome.plan, applySelections(m_shape, m_base, m_outcome.selections));
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
        job.partial(toJson(PlanFound{toJson(start), m_outcome.keep}));
        return {};
    }

    // The receptive field, and what the exchange measured: the plan that goes on is the one with the lower measured loss.
    Status chooseSets()
    {
        if (timeIsUp()) {
            m_outcome.plan = m_outcome.search->plan;
            return {};
        }
        if (m_recipe.receptiveField) ESPALIER_CHECK_OK(chooseByField());
        ESPALIER_CHECK_OK(stopped());
        if (m_outcome.search) return chooseMeasured();
        ESPALIER_TRY(m_outcome.plan, ranksHandedOn(m_outcome.plan));
        return {};
    }

    Status chooseByField()
    {
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
        options.finished = m_journal.blocks(choicesHash);
        options.onBlock = [&](const FieldBlock& block) { m_journal.add(choicesHash, block); };
        ESPALIER_TRY(MoeModel * model, m_inputs.model());
        options.streamBytes = std::min(options.streamBytes, model->spareBytes() / 2);
        options.share = &m_share;
        ESPALIER_TRY(m_outcome.receptiveField, chooseByBlocks(*model, *m_inputs.windows, m_outcome.selections, m_base, options, job));
        m_outcome.plan = m_outcome.receptiveField->plan;
        Json blocks = Json::array();
        for (const FieldBlock& block : m_outcome.receptiveField->blocks)
            blocks.push_back(toJson(block));
        stage("receptive-field", started, {{"sets", options.sets}, {"block_size", options.blockSize}, {"blocks", std::move(blocks)}});
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
        CompressionPlan other = *chosen;
        if (m_recipe.ranks) {
            ESPALIER_TRY(other, m_ranks.ranked(*chosen));
        }
        std::vector<int> windows;
        for (const WindowLoss& loss : found.losses)
            windows.push_back(loss.window);
        ESPALIER_TRY(const std::vector<WindowLoss> losses, measure(other, windows));
        if (pairedDifference(losses, found.losses).nll < 0) m_outcome.plan = *chosen;
        return {};
    }

    // Experts that come back into a plan with ranks take over those of the experts that leave, unless a rank rule follows.
    Result<CompressionPlan> ranksHandedOn(const CompressionPlan& plan) const
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
        ESPALIER_TRY(m_outcome.plan, m_ranks.ranked(m_outcome.plan));
        return reportRanks(started);
    }
    Status reportRanks(Clock::time_point started)
    {
        stage("rank", started, {{"rule", m_recipe.rankRule}, {"factors", m_outcome.plan.factors().method}});
        StageJob(m_job, "rank").partial(toJson(PlanFound{toJson(m_outcome.plan), {}}));
        return stopped();
    }

    // Counts and ranks from one budget: the solver's own sets, one decision for both.
    Status solveBytes()
    {
        const auto started = Clock::now();
        SizeRequest request;
        request.plan = m_base;
        request.bytes = *m_recipe.bytes;
        request.lossCurves = m_request.lossCurves;
        request.keptSets = setsByCount(m_shape, m_curves);
        request.scores = m_scores;
        request.curves = rankCurvesOf(m_inputs.profile);
        request.floor = m_request.floor;
        request.cap = m_request.cap;
        request.multipleOf = m_request.multipleOf;
        request.uniformCount = m_recipe.uniformCount;
        request.factors = m_ranks.factors();
        ESPALIER_TRY(SizedPlan sized, planForBytes(m_shape, request));
        m_outcome.plan = std::move(sized.plan);
        m_outcome.keep = keptOf(m_outcome.plan);
        m_outcome.selections.resize(m_shape.layers.size());
        stage("allocate", started,
              {{"method", m_recipe.allocate},
               {"keep", m_outcome.keep},
               {"loss", numberJson(sized.loss)},
               {"dual_bound", numberJson(sized.dualBound)},
               {"gap", numberJson(sized.gap)},
               {"solver", sized.method}});
        StageJob(m_job, "rank").partial(toJson(PlanFound{toJson(m_outcome.plan), {}}));
        return stopped();
    }

    // The largest number of experts whose plan, ranks included, is not larger than the target, and the stages once for it.
    Status fitBytes()
    {
        // An allocator that measures says itself how many experts each layer keeps; how many there are in all does not depend on it.
        const std::string counting = measures() ? PlanRecipe().allocate : m_recipe.allocate;
        ESPALIER_TRY(const AllocationProblem limits, allocationProblem(m_shape, m_request));
        int most = 0;
        for (std::size_t i = 0; i < limits.slots(); ++i)
            most += limits.budget.limits.high[i] * limits.step[i];
        const SizeProblem problem{
            .shape = m_shape,
            .base = m_base,
            .bytes = *m_recipe.bytes,
            .scores = m_scores,
            .dropped = m_request.dropped,
            .most = most,
            .counts = [&](int total) { return counts(counting, total); },
            .finish = [this](const CompressionPlan& plan) -> Result<CompressionPlan> {
                ESPALIER_TRY(CompressionPlan next, ranksHandedOn(plan));
                if (m_recipe.ranks) {
                    ESPALIER_TRY(next, m_ranks.ranked(next));
                }
                return completed(next);
            },
            .lowered = [this](const CompressionPlan& chosen, const CompressionPlan& finished) { return lowered(chosen, finished); }};
        ESPALIER_TRY(const SizedCounts sized, mostExperts(problem, m_job));
        ESPALIER_CHECK_OK(allocateCounts(sized.experts));
        ESPALIER_CHECK_OK(selectSets());
        ESPALIER_CHECK_OK(chooseSets());
        const CompressionPlan chosen = m_outcome.plan;
        ESPALIER_CHECK_OK(assign());
        ESPALIER_TRY(const CompressionPlan whole, completed(m_outcome.plan));
        const std::int64_t excess = planCost(m_shape, whole).bytes - *m_recipe.bytes;
        if (excess <= 0) return {};
        const auto started = Clock::now();
        const int experts = chosen.keptExperts();
        ESPALIER_TRY(m_outcome.plan, withinSize(problem, sized, chosen, m_job));
        m_outcome.keep = keptOf(m_outcome.plan);
        stage(
            "size", started,
            {{"excess", excess}, {"experts", m_outcome.plan.keptExperts() - experts}, {"bytes", planCost(m_shape, m_outcome.plan).bytes}});
        StageJob(m_job, "rank").partial(toJson(PlanFound{toJson(m_outcome.plan), {}}));
        return stopped();
    }

    // The same experts with lower ranks: those of the rule for the size, or, where ranks are handed on, the least valuable units fewer.
    Result<std::optional<CompressionPlan>> lowered(const CompressionPlan& chosen, const CompressionPlan& finished)
    {
        if (!m_recipe.ranks) {
            ESPALIER_TRY(auto held, heldToBytes(m_shape, finished, *m_recipe.bytes, m_ranks.value()));
            return held ? std::optional(std::move(held->plan)) : std::optional<CompressionPlan>();
        }
        Result<CompressionPlan> ranked = m_ranks.ranked(chosen, *m_recipe.bytes);
        if (ranked.ok()) return std::optional(std::move(ranked).value());
        if (ranked.error().code == "allocate.infeasible") return std::optional<CompressionPlan>();
        return std::move(ranked).error();
    }

    // The search's finalists after recovery: its answer, what must not have been better, and the nearest of the others.
    Result<std::vector<Finalist>> finalists()
    {
        std::vector<Finalist> all = {{m_outcome.search->finalists.front().name, m_outcome.plan}};
        int others = 0;
        for (const SearchCandidate& candidate : m_outcome.search->finalists) {
            if (!candidate.guarded && others >= kOtherFinalists) continue;
            CompressionPlan plan = candidate.plan;
            if (m_recipe.ranks) {
                const Result<CompressionPlan> ranked = m_ranks.ranked(plan);
                if (!ranked.ok()) continue;
                plan = *ranked;
            }
            ESPALIER_TRY(plan, completed(std::move(plan)));
            if (m_recipe.bytes && planCost(m_shape, plan).bytes > *m_recipe.bytes) continue;
            if (std::any_of(all.begin(), all.end(), [&](const Finalist& other) { return other.plan.hash() == plan.hash(); })) continue;
            if (!candidate.guarded) ++others;
            all.push_back({candidate.name, std::move(plan)});
        }
        return all;
    }

    Status chooseRecovered(RecoverStage& stage)
    {
        m_recoverFolder = m_inputs.recoverFolder;
        if (!comparesRecovered() || !m_outcome.search || m_outcome.search->finalists.empty()) return {};
        const auto started = Clock::now();
        begin(Part::Finals);
        StageJob job(m_job, "finals");
        FinalsRequest request{.finalists = {},
                              .folder = m_inputs.recoverFolder / "finals",
                              .clock = m_clock,
                              .until = m_until,
                              .share = m_share,
                              .journal = m_journal};
        ESPALIER_TRY(request.finalists, finalists());
        ESPALIER_TRY(FinalsAnswer answer, recoveredFinals(request, stage, job));
        if (answer.folder.empty()) return {};
        const Finalist& winner = request.finalists[answer.winner];
        m_outcome.plan = winner.plan;
        m_outcome.keep = keptOf(winner.plan);
        m_recoverFolder = answer.folder;
        answer.detail["finalist"] = winner.name;
        answer.detail["answer"] = request.finalists.front().name;
        this->stage("finals", started, std::move(answer.detail));
        return stopped();
    }

    // What was lost is won back once shapes are settled.
    Status recover(RecoverStage& stage)
    {
        const auto started = Clock::now();
        begin(Part::Recover);
        StageJob job(m_job, "recover");
        job.partial(toJson(PlanFound{toJson(m_outcome.plan), {}}));
        ESPALIER_TRY(const RecoverResult result, stage.run(m_outcome.plan, m_recoverFolder, job));
        m_outcome.warnings.insert(m_outcome.warnings.end(), result.warnings.begin(), result.warnings.end());
        if (!result.accepted && result.changed)
            m_outcome.warnings.push_back("Recovery did not lower the loss on the windows kept apart: the plan is as it was before.");
        m_outcome.plan = result.plan;
        m_outcome.values = result.values;
        m_outcome.recovery = recoverSummary(result, m_recipe.recover);
        this->stage("recover", started, recoverDetail(result, m_recipe.recover));
        // The best so far of a recovery alone is an answer; of a whole pipeline it is not what was asked for.
        return m_inputs.recoverOnly && result.cancelled ? Status() : stopped();
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
        const std::vector<WindowLoss> recorded = m_journal.losses(plan.hash());
        SilentPartials job(m_job);
        ESPALIER_TRY(std::vector<WindowLoss> losses, runShared(*evaluator, plan, windows, recorded, job, m_share));
        std::vector<WindowLoss> fresh;
        for (const WindowLoss& loss : losses)
            if (std::none_of(recorded.begin(), recorded.end(), [&](const WindowLoss& other) { return other.window == loss.window; }))
                fresh.push_back(loss);
        if (!fresh.empty()) m_journal.add(plan.hash(), fresh);
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
    WorkShare& m_share;
    JournalKeeper m_journal;
    PartJob m_part;
    JobContext& m_job;
    std::function<double()> m_clock;  // seconds, the same for all processes
    double m_started = 0;
    double m_until = 0;  // on the clock: the minutes of the verified search; 0: no limit
    std::filesystem::path m_recoverFolder;
    ExpertScores m_scores;
    AllocationRequest m_request;
    std::vector<LayerCurve> m_curves;
    RankStage m_ranks;
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
    if (inputs.recoverOnly) key["recover_only"] = true;
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
