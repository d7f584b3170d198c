#include "pipeline/skip_rules.h"

#include "plan/plan_edit.h"
#include "plan/routing.h"

#include <algorithm>
#include <cmath>

namespace espalier
{

const std::vector<MethodInfo>& skipMethods()
{
    static const std::vector<MethodInfo> methods = [] {
        ParamSpec threshold;
        threshold.key = "threshold";
        threshold.type = ParamType::Number;
        threshold.defaultValue = 0.5;
        threshold.low = 0;
        threshold.high = 1;
        threshold.help = "Chosen experts whose routing score is below this share of the largest one's are skipped; 0 skips none.";
        MethodInfo ratio;
        ratio.id = std::string(kSkipRuleNames[0]);
        ratio.title = "Share of the largest";
        ratio.slot = Slot::Skip;
        ratio.help = "A token skips those of its chosen experts whose score is far below that of its first; the others are weighed anew.";
        ratio.params = {threshold};
        ratio.source = "NAEE, arXiv 2402.14800, section 3.3: p_(2) < beta p_(1)";
        ratio.answers = {Answer::Forms};

        MethodInfo cumulative = ratio;
        cumulative.id = std::string(kSkipRuleNames[1]);
        cumulative.title = "Cumulative share";
        cumulative.help = "A token skips those of its chosen experts that come after so large a share of their scores.";
        cumulative.params[0].defaultValue = 0.9;
        cumulative.params[0].help = "Share of the sum of the chosen experts' scores after which the others are skipped; 1 skips none.";
        cumulative.source = "NAEE's rule for more than two experts a token: arXiv 2402.14800";
        return std::vector<MethodInfo>{ratio, cumulative};
    }();
    return methods;
}

Result<CompressionPlan> withSkipMethod(const ModelShape& shape, const CompressionPlan& plan, const std::string& method, const Params& given)
{
    const auto& methods = skipMethods();
    const auto found = std::find_if(methods.begin(), methods.end(), [&](const MethodInfo& info) { return info.id == method; });
    if (found == methods.end()) {
        Error error =
            usageError({"There is no skip method \"{method}\".", {{"method", method}}}, "See `espalier-engine methods --slot skip`.");
        error.code = "method.unknown";
        return error;
    }
    ESPALIER_TRY(const Params params, checkParams(*found, given));
    const SkipRule rule{.kind = found == methods.begin() ? SkipRule::Kind::Ratio : SkipRule::Kind::Cumulative,
                        .thresholdMillionths = static_cast<int>(std::lround(params.at("threshold").get<double>() * 1e6))};
    CompressionPlan next = plan;
    for (const LayerShape& layer : shape.layers)
        if (layer.moe && !next.isFixed(layer.index)) {
            ESPALIER_TRY(next, withSkipRule(shape, next, layer.index, rule));
        }
    return next;
}

}  // namespace espalier
