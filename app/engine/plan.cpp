#include "allocate/allocator.h"
#include "base/atomic_file.h"
#include "base/text.h"
#include "output.h"
#include "score/scorer.h"
#include "session/profile_file.h"
#include "work.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace espalier
{

namespace
{

struct PlanOptions {
    std::filesystem::path model;
    std::filesystem::path profile;
    std::filesystem::path out;
    std::filesystem::path from;
    std::string prune;
    std::string keep;
    std::string size;
    std::string allocate = "importance";
    std::string score = "leave-one-out";
    std::string select = "ranking";
    std::vector<int> lock;
    std::vector<std::string> protect;
    std::vector<std::string> params;
    bool uniform = false;
    bool force = false;
    bool allowOther = false;
};

Status checkMethod(const std::vector<MethodInfo>& methods, const std::string& id, std::string_view slot)
{
    if (std::any_of(methods.begin(), methods.end(), [&](const MethodInfo& method) { return method.id == id; })) return {};
    Error error =
        usageError(fmt::format("There is no {} method \"{}\".", slot, id), fmt::format("See `espalier-engine methods --slot {}`.", slot));
    error.code = "method.unknown";
    error.subject = id;
    return error;
}

Result<CompressionPlan> withLocksAndProtection(CompressionPlan plan, const ModelShape& shape, const PlanOptions& options)
{
    const auto isMoe = [&](int layer) {
        return layer >= 0 && layer < plan.layerCount() && shape.layers[static_cast<std::size_t>(layer)].moe;
    };
    for (const int layer : options.lock) {
        if (!isMoe(layer)) return usageError(fmt::format("Layer {} has no experts to lock.", layer));
        plan = plan.withLocked(layer, true);
    }
    for (const std::string& item : options.protect) {
        int layer = -1;
        int expert = -1;
        const std::size_t colon = item.find(':');
        if (colon != std::string::npos) {
            std::from_chars(item.data(), item.data() + colon, layer);
            std::from_chars(item.data() + colon + 1, item.data() + item.size(), expert);
        }
        if (!isMoe(layer) || expert < 0 || expert >= shape.layers[static_cast<std::size_t>(layer)].experts)
            return usageError(fmt::format("\"{}\" is not a layer and an expert of this model.", item), "Write --protect LAYER:EXPERT.");
        plan = plan.withProtected(layer, expert, true);
    }
    return plan;
}

// How many experts the plan keeps, from --prune, --keep or --size (then found by bisection over plans).
struct Target {
    std::optional<int> keepTotal;
    std::optional<std::int64_t> bytes;
};

Result<Target> parseTarget(const PlanOptions& options, const ModelShape& shape)
{
    const int total = static_cast<int>(shape.totalExperts());
    const int given = !options.prune.empty() + !options.keep.empty() + !options.size.empty();
    if (given != 1) return usageError("One of --prune, --keep and --size is needed.", "For example --prune 25%.");
    Target target;
    if (!options.prune.empty()) {
        ESPALIER_TRY(const int removed, parseKeep(options.prune, total));
        target.keepTotal = total - removed;
    } else if (!options.keep.empty()) {
        ESPALIER_TRY(target.keepTotal, parseKeep(options.keep, total));
    } else {
        ESPALIER_TRY(target.bytes, parseByteSize(options.size));
    }
    return target;
}

class Planner
{
public:
    Planner(const ModelShape& shape, const PlanOptions& options, AllocationRequest request, Params params, ExpertScores scores)
        : m_shape(shape), m_options(options), m_request(std::move(request)), m_params(std::move(params)), m_scores(std::move(scores))
    {
    }

    Result<CompressionPlan> keeping(int total)
    {
        m_request.keepTotal = total;
        ESPALIER_TRY(const std::vector<int> keep, allocate(m_options.allocate, m_shape, m_request, m_params));
        return selectByRanking(m_shape, m_request.plan, keep, m_scores);
    }

    // The largest plan that is not larger than `bytes`.
    Result<CompressionPlan> fitting(std::int64_t bytes)
    {
        int low = 0;  // too few experts for a plan, or one that fits
        int high = static_cast<int>(m_shape.totalExperts());
        Result<CompressionPlan> best =
            badInput("plan.size_infeasible", formatBytes(bytes),
                     fmt::format("No plan of this model fits {}: experts can be removed down to top-k per layer only.", formatBytes(bytes)),
                     "Choose a larger size.");
        while (low <= high) {
            const int middle = low + (high - low) / 2;
            Result<CompressionPlan> plan = keeping(middle);
            if (!plan.ok() && plan.error().code != "allocate.infeasible") return plan;
            if (!plan.ok() && middle == static_cast<int>(m_shape.totalExperts())) return plan;
            if (plan.ok() && planCost(m_shape, *plan).bytes > bytes) {
                high = middle - 1;
            } else {
                if (plan.ok()) best = std::move(plan);
                low = middle + 1;
            }
        }
        return best;
    }

private:
    const ModelShape& m_shape;
    const PlanOptions& m_options;
    AllocationRequest m_request;
    Params m_params;
    ExpertScores m_scores;
};

// Settings as text: the plan file holds no floating point numbers, so that equal plans are equal bytes.
Json settingsJson(const Params& params)
{
    Json json = Json::object();
    for (const auto& [key, value] : params)
        json[key] = value.is_number_float() ? Json(value.dump()) : value;
    return json;
}

Json keptJson(const ModelShape& shape, const CompressionPlan& plan)
{
    Json kept = Json::array();
    for (const LayerShape& layer : shape.layers)
        kept.push_back(plan.layer(layer.index).kept);
    return kept;
}

Json ranksJson(const ModelShape& shape, const CompressionPlan& plan)
{
    Json ranks = Json::array();
    for (const LayerShape& layer : shape.layers)
        ranks.push_back(plan.layer(layer.index).ranks);
    return ranks;
}

std::string planText(const ModelShape& shape, const CompressionPlan& plan, const Json& losses)
{
    const PlanCost cost = planCost(shape, plan);
    const PlanCost dense = planCost(shape, CompressionPlan::identity(shape));
    std::string text = fmt::format("{} of {} experts, {} (dense {}), {} parameters ({} active), {:.1f} % of expert parameters removed\n\n",
                                   plan.keptExperts(), shape.totalExperts(), formatBytes(cost.bytes), formatBytes(dense.bytes),
                                   formatCount(cost.parameters), formatCount(cost.activeParameters), cost.expertParametersRemoved() * 100);
    Table table({"layer", "kept", "of", "layer error", "relative"});
    for (const LayerShape& layer : shape.layers) {
        if (!layer.moe) continue;
        std::string error;
        std::string relative;
        for (const Json& loss : losses)
            if (loss["layer"] == layer.index) {
                if (loss["loss"].is_number()) error = fmt::format("{:.4g}", loss["loss"].get<double>());
                if (loss["relative"].is_number()) relative = fmt::format("{:.2f} %", loss["relative"].get<double>() * 100);
            }
        table.row({std::to_string(layer.index), std::to_string(plan.layer(layer.index).kept.size()), std::to_string(layer.experts), error,
                   relative});
    }
    return text + table.text() + fmt::format("\nplan {}\n", plan.hash().substr(0, 12));
}

Result<ProfileData> readProfileFor(const std::filesystem::path& path, const Checkpoint& checkpoint, bool allowOther)
{
    ESPALIER_TRY(ProfileData data, readProfile(path));
    if (!allowOther && data.fingerprint != checkpoint.fingerprint())
        return badInput("profile.other_model", path.string(), "The profile was taken of another model.",
                        "Profile this model, or open the one it belongs to.");
    return data;
}

Result<Json> makePlan(const PlanOptions& options, Invocation& invocation)
{
    ESPALIER_CHECK_OK(checkOutput(options.out, options.force));
    ESPALIER_CHECK_OK(checkMethod(selectors(), options.select, "select"));
    ESPALIER_CHECK_OK(checkMethod(allocators(), options.allocate, "allocate"));
    ESPALIER_CHECK_OK(checkMethod(scorers(), options.score, "score"));
    ESPALIER_TRY(auto params, parseParams(options.params, {"score", "allocate", "select"}));
    ESPALIER_TRY(const auto checkpoint, openCheckpoint(options.model, invocation));
    const ModelShape& shape = checkpoint->shape();
    ESPALIER_TRY(const Target target, parseTarget(options, shape));
    ESPALIER_TRY(const ProfileData data, readProfileFor(options.profile, *checkpoint, options.allowOther));
    ESPALIER_TRY(const std::string profileHash, profileSha256(options.profile));
    ESPALIER_TRY(ExpertScores scores, score(data, options.score, params["score"]));

    AllocationRequest request;
    request.uniformCount = options.uniform;
    request.plan = CompressionPlan::identity(shape);
    if (!options.from.empty()) {
        ESPALIER_TRY(request.plan, readPlan(options.from, *checkpoint, options.allowOther));
    }
    ESPALIER_TRY(request.plan, withLocksAndProtection(request.plan, shape, options));
    request.layerImportance = scores.layerImportance;
    if (request.layerImportance.empty() && options.allocate != "uniform") {
        ESPALIER_TRY(const ExpertScores leaveOneOut, score(data, "leave-one-out"));
        request.layerImportance = leaveOneOut.layerImportance;
    }
    request.scores = scores;
    Planner planner(shape, options, std::move(request), params["allocate"], std::move(scores));
    ESPALIER_TRY(CompressionPlan plan, target.bytes ? planner.fitting(*target.bytes) : planner.keeping(*target.keepTotal));
    plan = plan.withModel(planModelOf(*checkpoint));

    const Json budget = target.bytes ? Json{{"bytes", *target.bytes}} : Json{{"experts", *target.keepTotal}};
    const Json settings = {
        {"allocate", {{"method", options.allocate}, {"parameters", settingsJson(params["allocate"])}, {"uniform", options.uniform}}},
        {"score", {{"method", options.score}, {"parameters", settingsJson(params["score"])}}},
        {"select", {{"method", options.select}, {"parameters", settingsJson(params["select"])}}},
        {"profile_sha256", profileHash}};
    Json file = toJson(plan);
    file["budget"] = budget;
    file["method_settings"] = settings;
    file["seed"] = invocation.options.seed;
    ESPALIER_CHECK_OK(writeFileAtomically(options.out, canonicalJson(file) + "\n"));

    const PlanCost cost = planCost(shape, plan);
    Json result = costJson(cost, planCost(shape, CompressionPlan::identity(shape)));
    const Json losses = gramLossesJson(data, plan);
    result["plan"] = options.out.string();
    result["plan_hash"] = plan.hash();
    result["kept"] = keptJson(shape, plan);
    result["ranks"] = ranksJson(shape, plan);
    result["kept_experts"] = plan.keptExperts();
    result["experts"] = shape.totalExperts();
    result["losses"] = losses;
    result["trace"] = settings;
    result["trace"]["budget"] = budget;
    invocation.text = planText(shape, plan, losses);
    return result;
}

struct EstimateOptions {
    std::filesystem::path model;
    std::filesystem::path profile;
    std::filesystem::path plan;
    bool allowOther = false;
};

// Sizes are exact. No change of NLL is given: the layer errors below do not add up to one without a calibrated model of how they pass
// through the layers above.
Result<Json> estimate(const EstimateOptions& options, Invocation& invocation)
{
    ESPALIER_TRY(const auto checkpoint, openCheckpoint(options.model, invocation));
    const ModelShape& shape = checkpoint->shape();
    ESPALIER_TRY(const CompressionPlan plan, readPlan(options.plan, *checkpoint, options.allowOther));
    Json losses = Json::array();
    if (!options.profile.empty()) {
        ESPALIER_TRY(const ProfileData data, readProfileFor(options.profile, *checkpoint, options.allowOther));
        losses = gramLossesJson(data, plan);
    }
    Json result = costJson(planCost(shape, plan), planCost(shape, CompressionPlan::identity(shape)));
    result["plan_hash"] = plan.hash();
    result["losses"] = losses;
    result["delta_nll"] = nullptr;
    result["band"] = nullptr;
    result["label"] = "estimate";
    Json flavors = Json::array();
    for (const FlavourChoice& choice : flavoursFor(shape, plan))
        flavors.push_back({{"flavor", choice.id}, {"allowed", choice.allowed}, {"loads_in", choice.loadsIn}, {"reason", choice.reason}});
    result["flavors"] = std::move(flavors);
    invocation.text = planText(shape, plan, losses);
    return result;
}

}  // namespace

void addPlan(Verbs& verbs)
{
    auto options = std::make_shared<PlanOptions>();
    CLI::App* verb = verbs.add("plan", "Which experts to keep: allocates and selects",
                               [options](Invocation& invocation) { return makePlan(*options, invocation); });
    verb->add_option("MODEL", options->model, "Checkpoint folder")->required();
    verb->add_option("--profile", options->profile, "Profile of the model")->required()->type_name("P.h5");
    verb->add_option("--out", options->out, "Plan to write")->required()->type_name("PLAN.json");
    CLI::Option* prune = verb->add_option("--prune", options->prune, "Experts to remove: 25%, 0.25, 32/128 or a number");
    CLI::Option* keep = verb->add_option("--keep", options->keep, "Experts to keep: 75%, 0.75, 96/128 or a number")->excludes(prune);
    verb->add_option("--size", options->size, "Largest size of the weights, for example 14GiB")->excludes(prune)->excludes(keep);
    verb->add_option("--allocate", options->allocate, "How counts are spread over layers (see `methods --slot allocate`)");
    verb->add_option("--score", options->score, "Which experts matter (see `methods --slot score`)");
    verb->add_option("--select", options->select, "How kept sets are chosen (see `methods --slot select`)");
    verb->add_option("--lock", options->lock, "Layers that stay as they are")->delimiter(',')->type_name("L");
    verb->add_option("--protect", options->protect, "Experts that are never removed, LAYER:EXPERT")->delimiter(',')->type_name("L:E");
    verb->add_flag("--uniform", options->uniform, "The same count in every layer");
    verb->add_option("--param", options->params, "Parameter of a method, as allocate.alpha=0.15")->type_name("SLOT.K=V");
    verb->add_option("--from", options->from, "Start from this plan's locks, protection and ranks")->type_name("FILE");
    verb->add_flag("--force", options->force, "Replace an existing output");
    verb->add_flag("--allow-other-model", options->allowOther, "Accept a profile or plan of another model");

    auto estimateOptions = std::make_shared<EstimateOptions>();
    CLI::App* estimateVerb = verbs.add("estimate", "Sizes of a plan, without a forward pass",
                                       [estimateOptions](Invocation& invocation) { return estimate(*estimateOptions, invocation); });
    estimateVerb->add_option("MODEL", estimateOptions->model, "Checkpoint folder")->required();
    estimateVerb->add_option("--profile", estimateOptions->profile, "Profile of the model, for layer errors")->type_name("P.h5");
    estimateVerb->add_option("--plan", estimateOptions->plan, "Plan file")->required()->type_name("FILE");
    estimateVerb->add_flag("--allow-other-model", estimateOptions->allowOther, "Accept a profile or plan of another model");
}

}  // namespace espalier
