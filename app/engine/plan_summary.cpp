#include "plan_summary.h"

#include "base/text.h"
#include "plan/cost_model.h"
#include "terminal.h"

#include <fmt/format.h>

namespace espalier
{

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
        table.row({std::to_string(layer.index), std::to_string(plan.layer(layer.index).kept().size()), std::to_string(layer.experts), error,
                   relative});
    }
    return text + table.text() + fmt::format("\nplan {}\n", plan.hash().substr(0, 12));
}

}  // namespace espalier
