#include "rpc/values_json.h"

#include "rpc/fields.h"

#include <cmath>

namespace espalier
{

Json numberJson(double value) { return std::isfinite(value) ? Json(value) : Json(); }

template <>
Result<MethodInfo> fromJson<MethodInfo>(const Json& json)
{
    return methodFromJson(json);
}

template <>
Result<ModelShape> fromJson<ModelShape>(const Json& json)
{
    return modelShapeFromJson(json);
}

template <typename Fields, Is<WindowLoss> Message>
void fields(Fields& f, Message& m)
{
    f.required("window", m.window, 0);
    f.required("nll", m.nll);
    f.required("tokens", m.tokens, 0);
}
ESPALIER_PROTOCOL_JSON(WindowLoss);

template <typename Fields, Is<PairedDifference> Message>
void fields(Fields& f, Message& m)
{
    f.required("nll", m.nll);
    f.required("se", m.se);
    f.required("ppl_ratio", m.pplRatio);
    f.required("low", m.low);
    f.required("high", m.high);
    f.required("windows", m.windows);
}
ESPALIER_PROTOCOL_JSON(PairedDifference);

template <typename Fields, Is<ExpertScores> Message>
void fields(Fields& f, Message& m)
{
    f.required("method", m.method);
    f.required("title", m.title);
    f.required("unit", m.unit);
    if constexpr (Fields::kReads) {
        const std::string better = f.text("better", true);
        m.better = better == "lower" ? Better::Lower : Better::Higher;
        if (!better.empty() && better != "lower" && better != "higher") f.fail("better", "is neither \"higher\" nor \"lower\"");
    } else {
        f.set("better", m.better == Better::Higher ? "higher" : "lower");
    }
    f.required("values", m.values.rows);
    f.required("layer_importance", m.layerImportance);
}
ESPALIER_PROTOCOL_JSON(ExpertScores);

template <typename Fields, Is<CostFacts::Dense> Message>
void fields(Fields& f, Message& m)
{
    f.required("parameters", m.parameters);
    f.required("active_parameters", m.activeParameters);
    f.required("bytes", m.bytes);
}
ESPALIER_PROTOCOL_JSON(CostFacts::Dense);

template <typename Fields, Is<CostFacts> Message>
void fields(Fields& f, Message& m)
{
    f.required("parameters", m.parameters);
    f.required("active_parameters", m.activeParameters);
    f.always("active_at_most", m.activeAtMost);
    f.required("bytes", m.bytes);
    f.required("expert_parameters", m.expertParameters);
    f.required("expert_parameters_removed", m.expertParametersRemoved);
    f.required("dense", m.dense);
}
ESPALIER_PROTOCOL_JSON(CostFacts);

CostFacts costFacts(const PlanCost& cost, const PlanCost& dense)
{
    return {.parameters = cost.parameters,
            .activeParameters = cost.activeParameters,
            .activeAtMost = cost.activeAtMost,
            .bytes = cost.bytes,
            .expertParameters = cost.expertParameters,
            .expertParametersRemoved = cost.expertParametersRemoved(),
            .dense = {dense.parameters, dense.activeParameters, dense.bytes}};
}

}  // namespace espalier
