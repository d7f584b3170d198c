#include "allocate/allocator.h"
#include "base/json.h"
#include "pipeline/model_match.h"
#include "pipeline/plan_estimates.h"
#include "pipeline/result_json.h"
#include "plan_summary.h"
#include "terminal.h"
#include "verb_inputs.h"

#include <fmt/format.h>

#include <cmath>

namespace espalier
{

namespace
{

// Above this share of charged tokens the number says more about the lists than about the plan .
constexpr double kMostUncovered = 0.01;

struct EstimateOptions {
    std::filesystem::path model;
    std::filesystem::path profile;
    std::filesystem::path plan;
    std::filesystem::path pairs;
    bool allowOther = false;
};

std::string estimateText(const Estimate& estimate)
{
    if (!std::isfinite(estimate.deltaNll)) return {};
    std::string text =
        fmt::format("\n{}: NLL {:+.4f} per token, perplexity x {:.4f}\n", estimate.label, estimate.deltaNll, std::exp(estimate.deltaNll));
    if (std::isfinite(estimate.band))
        text += fmt::format("nine of ten measurements lie in {:+.4f} to {:+.4f}, perplexity x {:.4f} to {:.4f}\n", estimate.low,
                            estimate.high, std::exp(estimate.low), std::exp(estimate.high));
    if (const Estimate::Calibration calibration = estimate.calibration.value_or(Estimate::Calibration()); calibration.probes > 0) {
        text += fmt::format("fitted to {} plans measured with the profile on {} of its windows", calibration.probes, calibration.windows);
        if (calibration.pairs > 0) text += fmt::format(", refined by {} later measurements", calibration.pairs);
        return text + "\n";
    }
    return text + fmt::format("slope {:+.4f} (error over windows {:.4f}), curvature {:.4f}\n", estimate.e1, estimate.e1Error, estimate.e2);
}

// Sizes are exact, the change of NLL is an estimate where the profile has what it takes.
Result<Json> estimate(const EstimateOptions& options, Invocation& invocation)
{
    EstimateRecord record;
    if (!options.pairs.empty()) {
        ESPALIER_TRY(const Json json, readJsonFile(options.pairs, "pairs"));
        ESPALIER_TRY(record, recordFromJson(json));
    }
    ESPALIER_TRY(const auto checkpoint, openCheckpoint(options.model, invocation));
    const ModelShape& shape = checkpoint->shape();
    ESPALIER_TRY(const CompressionPlan plan, readPlan(options.plan, *checkpoint, options.allowOther));
    Json result = toJson(costFacts(planCost(shape, plan), planCost(shape, CompressionPlan::identity(shape))));
    result["plan_hash"] = plan.hash();
    result["losses"] = Json::array();
    Estimate found;
    if (!options.profile.empty()) {
        ESPALIER_TRY(const ProfileData data, readProfileFor(options.profile, *checkpoint, options.allowOther));
        result["losses"] = gramLossesJson(data, plan);
        Result<std::unique_ptr<NllEstimator>> estimator = NllEstimator::create(data);
        Result<NllEstimate> estimated = estimator.ok() ? (*estimator)->estimate(plan) : Result<NllEstimate>(estimator.error());
        if (estimated.ok()) {
            const std::optional<ProbeBasis> basis = basisOf(**estimator);
            found = estimateOf(*estimated, basis, record);
            if (basis && record.fitted.size() < record.expansion.size())
                invocation.warnings.push_back("Pairs without \"fitted\" were not used: they belong to profiles without measured plans.");
            if (!basis)
                invocation.warnings.push_back(
                    "The profile holds no measured plans to fit the estimate to: it is the right order and several times too small. Take "
                    "the profile again with this version.");
            if (estimated->uncoveredFraction > kMostUncovered)
                invocation.warnings.push_back(
                    fmt::format("{:.1f} % of the sampled tokens in the changed layers reach beyond their lists and are charged their whole "
                                "output: the estimate is too high. Longer lists: `profile --gram-extra`.",
                                estimated->uncoveredFraction * 100));
        } else if (estimated.error().code == "profile.missing_statistics") {
            invocation.warnings.push_back("No change of NLL: " + estimated.error().message + " " + estimated.error().action);
        } else {
            return estimated.error();
        }
    }
    result.update(toJson(found));
    Json flavors = Json::array();
    for (const FlavourChoice& choice : flavoursFor(shape, plan))
        flavors.push_back({{"flavor", choice.id}, {"allowed", choice.allowed}, {"loads_in", choice.loadsIn}, {"reason", choice.reason}});
    result["flavors"] = std::move(flavors);
    invocation.text = planText(shape, plan, result["losses"]) + estimateText(found);
    return result;
}

}  // namespace

void addEstimate(Verbs& verbs)
{
    auto options = std::make_shared<EstimateOptions>();
    CLI::App* verb = verbs.add("estimate", "Sizes and estimated change of NLL of a plan, without a forward pass",
                               [options](Invocation& invocation) { return estimate(*options, invocation); });
    verb->add_option("MODEL", options->model, "Checkpoint folder")->required();
    verb->add_option("--profile", options->profile, "Profile of the model, for layer errors and the change of NLL")->type_name("P.h5");
    verb->add_option("--plan", options->plan, "Plan file")->required()->type_name("FILE");
    verb->add_option("--pairs", options->pairs,
                     "Earlier estimates beside exact changes, as a JSON list of {\"e1\", \"e2\", \"fitted\", \"delta_nll\"} with the first "
                     "three as this verb gave them: refines the estimate and its band")
        ->type_name("FILE");
    verb->add_flag("--allow-other-model", options->allowOther, "Accept a profile or plan of another model");
}

}  // namespace espalier
