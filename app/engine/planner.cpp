#include "planner.h"

#include "allocate/size_plan.h"
#include "base/text.h"
#include "evaluate/evaluator.h"
#include "plan/cost_model.h"
#include "profile/profile_pass.h"
#include "score/scorer.h"
#include "verified_counts.h"
#include "work.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace espalier
{

namespace
{

Status checkMethod(const std::vector<MethodInfo>& methods, const std::string& id, std::string_view slot)
{
    if (std::any_of(methods.begin(), methods.end(), [&](const MethodInfo& method) { return method.id == id; })) return {};
    Error error =
        usageError(fmt::format("There is no {} method \"{}\".", slot, id), fmt::format("See `espalier-engine methods --slot {}`.", slot));
    error.code = "method.unknown";
    error.subject = id;
    return error;
}

Json settingsJson(const std::map<std::string, Params>& all, const std::string& slot)
{
    Json json = Json::object();
    if (const auto it = all.find(slot); it != all.end())
        for (const auto& [key, value] : it->second)
            json[key] = value.is_number_float() ? Json(value.dump()) : value;
    return json;
}

Params paramsOf(const PlanRecipe& recipe, const std::string& slot)
{
    const auto it = recipe.params.find(slot);
    return it == recipe.params.end() ? Params() : it->second;
}

// Sampled tokens for products of all experts: n(n+1)/2 numbers each.
constexpr int kDenseTokens = 4096;

// Passes on what a stage says, with its name.
class StageJob final : public JobContext
{
public:
    StageJob(JobContext& job, std::string stage) : m_job(job), m_stage(std::move(stage)) {}
    bool stopRequested() const noexcept override { return m_job.stopRequested(); }
    void progress(std::int64_t done, std::int64_t total, std::string_view phase) override { m_job.progress(done, total, phase); }
    void partial(const Json& result) override
    {
        Json named = result;
        if (named.is_object()) named["stage"] = m_stage;
        m_job.partial(named);
    }

private:
    JobContext& m_job;
    std::string m_stage;
};

Error textNeeded(std::string_view who)
{
    Error error = usageError(fmt::format("{} runs the model on the calibration text, and none was given.", who),
                             "Give the text of the profile with --text or --ids.");
    error.code = "plan.text_needed";
    return error;
}

class Planning
{
public:
    Planning(const PlanInputs& inputs, const PlanRecipe& recipe, JobContext& job)
        : m_inputs(inputs), m_recipe(recipe), m_shape(inputs.checkpoint->shape()), m_job(job)
    {
    }

    Result<PlanOutcome> run()
    {
        ESPALIER_CHECK_OK(checkRecipe(m_recipe));
        if ((m_recipe.receptiveField || m_recipe.allocate == "verified") && (!m_inputs.model || !m_inputs.windows))
            return textNeeded(m_recipe.receptiveField ? "The receptive field" : "The verified allocator");
        ESPALIER_TRY(m_scores, score(m_inputs.profile, m_recipe.score, paramsOf(m_recipe, "score")));
        ESPALIER_CHECK_OK(prepareRequest());
        const bool joint = m_recipe.allocate == "exact" && m_recipe.ranks && m_recipe.rankRule == "exact";
        if (m_recipe.bytes && joint) {
            ESPALIER_CHECK_OK(solveBytes());
        } else if (m_recipe.bytes) {
            ESPALIER_CHECK_OK(fitBytes());
        } else {
            ESPALIER_CHECK_OK(allocateCounts(*m_recipe.keepTotal));
            ESPALIER_CHECK_OK(selectSets());
            ESPALIER_CHECK_OK(chooseSets());
            ESPALIER_CHECK_OK(assign());
        }
        m_outcome.plan = m_outcome.plan.withModel(planModelOf(*m_inputs.checkpoint));
        return std::move(m_outcome);
    }

private:
    using Clock = std::chrono::steady_clock;

    Status prepareRequest()
    {
        m_request.plan = m_inputs.base;
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
            ESPALIER_TRY(m_curves, layerCurves(m_inputs.profile, m_inputs.base, options, job));
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
        return espalier::allocate(m_recipe.allocate, m_shape, m_request, paramsOf(m_recipe, "allocate"));
    }

    Status allocateCounts(int total)
    {
        const auto started = Clock::now();
        Json detail = {{"method", m_recipe.allocate}};
        if (m_recipe.allocate == "verified") {
            StageJob job(m_job, "allocate");
            const auto measure = [this](const CompressionPlan& plan) { return this->measure(plan); };
            ESPALIER_TRY(VerifiedCounts verified, verifyCounts(m_inputs, m_recipe, total, m_request, measure, job));
            m_outcome.keep.assign(m_shape.layers.size(), 0);
            for (const LayerShape& layer : m_shape.layers)
                if (layer.moe)
                    m_outcome.keep[static_cast<std::size_t>(layer.index)] =
                        static_cast<int>(verified.exchange.plan.layer(layer.index).kept.size());
            m_outcome.exchange = std::move(verified.exchange);
            detail.update(verified.detail);
        } else {
            ESPALIER_TRY(m_outcome.keep, counts(total));
        }
        detail["keep"] = m_outcome.keep;
        stage("allocate", started, std::move(detail));
        return {};
    }

    Status selectSets()
    {
        const auto started = Clock::now();
        StageJob job(m_job, "select");
        SelectOptions options;
        options.bestSets = m_recipe.receptiveField ? m_recipe.receptiveField->sets : 3;
        options.seed = m_recipe.seed;
        options.threads = m_recipe.threads;
        options.scores = m_scores;
        ESPALIER_TRY(m_outcome.selections, selectLayers(m_inputs.profile, m_recipe.select, paramsOf(m_recipe, "select"), m_outcome.keep,
                                                        m_inputs.base, options, job));
        ESPALIER_CHECK_OK(searchUncoveredAgain(options, job));
        ESPALIER_TRY(m_outcome.plan, applySelections(m_shape, m_inputs.base, m_outcome.selections));
        Json layers = Json::array();
        for (const Selection& selection : m_outcome.selections) {
            if (selection.best.empty()) continue;
            layers.push_back(toJson(selection));
            if (!selection.warning.empty()) m_outcome.warnings.push_back(selection.warning);
        }
        stage("select", started, {{"method", m_recipe.select}, {"layers", std::move(layers)}});
        return {};
    }

    // Charging uncovered tokens keeps a search honest but coarse. Above 1 % the layers are searched again on products of all experts,
    // taken from the calibration text (methods.md 2.5, 4.5). Without the model the warning of the selection stands.
    Status searchUncoveredAgain(const SelectOptions& options, JobContext& job)
    {
        const auto uncovered = [](const Selection& selection) { return selection.uncoveredShare > 0.01; };
        std::vector<Selection>& selections = m_outcome.selections;
        if (!m_inputs.model || !m_inputs.windows || std::none_of(selections.begin(), selections.end(), uncovered)) return {};
        ESPALIER_TRY(MoeModel * model, m_inputs.model());
        ProfileOptions dense;
        dense.collect = {"counts", "gram"};
        dense.gramTokens = kDenseTokens;
        for (const LayerShape& layer : m_shape.layers)
            if (layer.moe) dense.gramExtra = std::max(dense.gramExtra, layer.experts - layer.router.topK);
        SilentPartials quiet(job);
        ESPALIER_TRY(const ProfileData data, runProfile(*model, *m_inputs.windows, dense, quiet));
        CompressionPlan base = m_inputs.base;
        for (const Selection& selection : selections)
            if (!uncovered(selection)) base = base.withLocked(selection.layer, true);
        ESPALIER_TRY(std::vector<Selection> again,
                     selectLayers(data, m_recipe.select, paramsOf(m_recipe, "select"), m_outcome.keep, base, options, job));
        for (std::size_t l = 0; l < selections.size(); ++l) {
            if (!uncovered(selections[l])) continue;
            m_outcome.warnings.push_back(
                fmt::format("Layer {}: {:.1f} % of the tokens were not covered by their lists; it was searched again on the "
                            "products of all experts.",
                            selections[l].layer, selections[l].uncoveredShare * 100));
            selections[l] = std::move(again[l]);
        }
        return {};
    }

    // The receptive field, and what the exchange measured: the plan that goes on is the one with the lower measured loss.
    Status chooseSets()
    {
        if (m_recipe.receptiveField) {
            const auto started = Clock::now();
            StageJob job(m_job, "receptive-field");
            ReceptiveFieldOptions options;
            options.sets = m_recipe.receptiveField->sets;
            options.blockSize = m_recipe.receptiveField->blockSize;
            ESPALIER_TRY(MoeModel * model, m_inputs.model());
            ESPALIER_TRY(m_outcome.receptiveField,
                         chooseByBlocks(*model, *m_inputs.windows, m_outcome.selections, m_inputs.base, options, job));
            m_outcome.plan = m_outcome.receptiveField->plan;
            Json blocks = Json::array();
            for (const FieldBlock& block : m_outcome.receptiveField->blocks)
                blocks.push_back(toJson(block));
            stage("receptive-field", started, {{"sets", options.sets}, {"block_size", options.blockSize}, {"blocks", std::move(blocks)}});
        }
        if (!m_outcome.exchange || m_outcome.plan.hash() == m_outcome.exchange->plan.hash()) return {};
        ESPALIER_TRY(const std::vector<WindowLoss> losses, measure(m_outcome.plan));
        if (pairedDifference(losses, m_outcome.exchange->losses).nll >= 0) m_outcome.plan = m_outcome.exchange->plan;
        return {};
    }

    Status assign()
    {
        if (!m_recipe.ranks) return {};
        const auto started = Clock::now();
        ESPALIER_TRY(m_outcome.plan, ranked(m_outcome.plan));
        stage("rank", started, {{"rule", m_recipe.rankRule}, {"factors", m_outcome.plan.factors().method}});
        return {};
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
        return assignRanks(m_shape, plan, m_recipe.rankRule, request, paramsOf(m_recipe, "rank"));
    }

    // Counts and ranks from one budget: the solver's own sets, one decision for both.
    Status solveBytes()
    {
        const auto started = Clock::now();
        SizeRequest request;
        request.plan = m_inputs.base;
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
            m_outcome.keep.push_back(layer.moe ? static_cast<int>(m_outcome.plan.layer(layer.index).kept.size()) : 0);
        m_outcome.selections.resize(m_shape.layers.size());
        stage("allocate", started,
              {{"method", m_recipe.allocate},
               {"keep", m_outcome.keep},
               {"loss", numberJson(sized.loss)},
               {"dual_bound", numberJson(sized.dualBound)},
               {"gap", numberJson(sized.gap)},
               {"solver", sized.method}});
        return {};
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
            const int middle = low + (high - low) / 2;
            Result<std::vector<int>> keep = counts(middle);
            if (!keep.ok()) {
                if (keep.error().code != "allocate.infeasible") return std::move(keep).error();
                failure = keep.error();
                if (middle == static_cast<int>(m_shape.totalExperts())) return *failure;
                low = middle + 1;
                continue;
            }
            ESPALIER_TRY(CompressionPlan plan, selectByRanking(m_shape, m_inputs.base, *keep, m_scores));
            if (m_recipe.ranks) {
                ESPALIER_TRY(plan, ranked(plan));
            }
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
            const Status allocated = allocateCounts(best);
            if (!allocated.ok()) {
                if (allocated.error().code == "allocate.infeasible") break;
                return allocated;
            }
            ESPALIER_CHECK_OK(selectSets());
            ESPALIER_CHECK_OK(chooseSets());
            ESPALIER_CHECK_OK(assign());
            if (planCost(m_shape, m_outcome.plan).bytes <= *m_recipe.bytes) return {};
        }
        return badInput("plan.size_infeasible", formatBytes(*m_recipe.bytes),
                        fmt::format("No plan of this model fits {}: experts can be removed down to top-k per layer only.",
                                    formatBytes(*m_recipe.bytes)),
                        "Choose a larger size, or lower ranks.");
    }

    Result<std::vector<WindowLoss>> measure(const CompressionPlan& plan)
    {
        if (!m_evaluator) {
            ESPALIER_TRY(MoeModel * model, m_inputs.model());
            m_evaluator.emplace(*model, *m_inputs.windows, evaluatorCacheBytes());
        }
        const std::vector<int> all = firstWindows(m_evaluator->windowCount());
        const std::vector<WindowLoss> known = m_evaluator->measured(plan.hash());
        if (known.size() == all.size()) return known;
        SilentPartials job(m_job);
        return m_evaluator->run(plan, all, known, job);
    }

    // Windows of single measurements are not results of the search.
    class SilentPartials final : public JobContext
    {
    public:
        explicit SilentPartials(JobContext& job) : m_job(job) {}
        bool stopRequested() const noexcept override { return m_job.stopRequested(); }
        void progress(std::int64_t, std::int64_t, std::string_view) override {}
        void partial(const Json&) override {}

    private:
        JobContext& m_job;
    };

    void stage(std::string name, Clock::time_point started, Json detail)
    {
        m_outcome.stages.push_back({std::move(name), std::chrono::duration<double>(Clock::now() - started).count(), std::move(detail)});
    }

    const PlanInputs& m_inputs;
    PlanRecipe m_recipe;
    const ModelShape& m_shape;
    JobContext& m_job;
    ExpertScores m_scores;
    AllocationRequest m_request;
    std::vector<LayerCurve> m_curves;
    std::shared_ptr<const RankCurves> m_rankCurves;
    std::optional<Evaluator> m_evaluator;
    PlanOutcome m_outcome;
};

}  // namespace

Json toJson(const PlanRecipe& recipe)
{
    Json json = {{"allocate",
                  {{"method", recipe.allocate}, {"parameters", settingsJson(recipe.params, "allocate")}, {"uniform", recipe.uniformCount}}},
                 {"score", {{"method", recipe.score}, {"parameters", settingsJson(recipe.params, "score")}}},
                 {"select", {{"method", recipe.select}, {"parameters", settingsJson(recipe.params, "select")}}}};
    json["budget"] = recipe.bytes ? Json{{"bytes", *recipe.bytes}} : Json{{"experts", recipe.keepTotal.value_or(0)}};
    if (recipe.receptiveField)
        json["receptive_field"] = {{"sets", recipe.receptiveField->sets}, {"block_size", recipe.receptiveField->blockSize}};
    if (recipe.ranks) {
        Json rank = {{"method", recipe.rankRule}, {"parameters", settingsJson(recipe.params, "rank")}};
        rank["average"] = recipe.averageRank ? Json(fmt::format("{}", *recipe.averageRank)) : Json("auto");
        if (recipe.decomposeShare) {
            rank["average"] = nullptr;
            rank["share"] = fmt::format("{}", *recipe.decomposeShare);
        }
        json["rank"] = std::move(rank);
    }
    return json;
}

Status checkRecipe(const PlanRecipe& recipe)
{
    std::vector<MethodInfo> allocate = allocators();
    allocate.push_back(verifiedExchangeInfo());
    ESPALIER_CHECK_OK(checkMethod(selectorMethods(), recipe.select, "select"));
    ESPALIER_CHECK_OK(checkMethod(allocate, recipe.allocate, "allocate"));
    ESPALIER_CHECK_OK(checkMethod(scorers(), recipe.score, "score"));
    if (recipe.ranks) ESPALIER_CHECK_OK(checkMethod(rankRules(), recipe.rankRule, "rank-rule"));
    if (!recipe.factors.empty() && recipe.factors != "svd" && recipe.factors != "whitened-svd") {
        Error error =
            usageError(fmt::format("There is no factors method \"{}\".", recipe.factors), "See `espalier-engine methods --slot factors`.");
        error.code = "method.unknown";
        error.subject = recipe.factors;
        return error;
    }
    if (!recipe.keepTotal && !recipe.bytes) return usageError("A target is needed: a number of experts or a size.");
    return {};
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

std::shared_ptr<const RankCurves> rankCurvesOf(const ProfileData& profile)
{
    if (!profile.has("curves")) return nullptr;
    auto curves = std::make_shared<RankCurves>();
    curves->layers.resize(profile.layers.size());
    for (const LayerProfile& layer : profile.layers) {
        auto& experts = curves->layers[static_cast<std::size_t>(layer.layer)];
        experts.resize(static_cast<std::size_t>(layer.experts));
        for (int e = 0; e < layer.experts; ++e)
            for (int matrix = 0; matrix < 3; ++matrix) {
                MatrixCurve& curve = experts[static_cast<std::size_t>(e)][static_cast<std::size_t>(matrix)];
                curve.error = layer.errorCurve(e, matrix);
                curve.weight = layer.outputEnergy > 0 ? layer.outputGain(e, matrix) / layer.outputEnergy : 0;
            }
    }
    return curves;
}

}  // namespace espalier
