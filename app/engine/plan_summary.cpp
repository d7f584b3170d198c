#include "plan_summary.h"

#include "base/text.h"
#include "plan/cost_model.h"
#include "plan/plan_name.h"
#include "terminal.h"

#include <fmt/format.h>

namespace espalier
{

std::string planText(const ModelShape& shape, const CompressionPlan& plan, const Json& losses)
{
    const PlanCost cost = planCost(shape, plan);
    const PlanCost dense = planCost(shape, CompressionPlan::identity(shape));
    std::string text = fmt::format(
        "{} of {} experts, {} (dense {}), {} parameters ({}{} active), {:.1f} % of expert parameters removed\n\n", plan.keptExperts(),
        shape.totalExperts(), formatBytes(cost.bytes), formatBytes(dense.bytes), formatCount(cost.parameters),
        cost.activeAtMost ? "at most " : "", formatCount(cost.activeParameters), cost.expertParametersRemoved() * 100);
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
        table.row({std::to_string(layer.index), std::to_string(plan.layer(layer.index).kept().size()), std::to_string(layer.experts), error,
                   relative});
    }
    std::string others;
    for (const LayerShape& layer : shape.layers)
        for (const std::string& words : otherForms(plan.layer(layer.index)))
            others += fmt::format("layer {}: {}\n", layer.index, words);
    return text + table.text() + (others.empty() ? "" : "\n" + others) + fmt::format("\nplan {}\n", plan.hash().substr(0, 12));
}

std::string recoveryText(const std::vector<PlanStage>& stages)
{
    std::string text;
    for (const PlanStage& stage : stages) {
        if (stage.name == "finals")
            for (const Json& plan : stage.detail.value("plans", Json::array()))
                text += fmt::format("Finalist \"{}\", recovered on {} windows: NLL per token {:.4f} before, {:.4f} after\n",
                                    plan.value("finalist", ""), plan.value("learned", 0), plan.value("nll_before", 0.0),
                                    plan.value("nll_after", 0.0));
        if (stage.name != "recover") continue;
        const auto number = [&](const char* key) {
            return stage.detail.value(key, Json()).is_number() ? stage.detail[key].get<double>() : 0.0;
        };
        const char* outcome = stage.detail.value("accepted", false)  ? ""
                              : stage.detail.value("changed", false) ? ": not accepted, the plan stays as it was"
                                                                     : ": nothing was missing";
        text += fmt::format("Recovery by {}: perplexity {:.4f} before, {:.4f} after, dense {:.4f}, on {} windows kept apart{}\n",
                            stage.detail.value("method", ""), number("ppl_before"), number("ppl_after"), number("ppl_dense"),
                            stage.detail.value("gate_windows", 0), outcome);
    }
    return text;
}

}  // namespace espalier
