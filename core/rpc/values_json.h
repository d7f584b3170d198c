// Values of base and core/plan as messages write them, and the command line with them. Pure functions, any thread.
#pragma once

#include "base/method_registry.h"
#include "base/statistics.h"
#include "plan/cost_model.h"
#include "plan/expert_grid.h"
#include "plan/model_shape.h"
#include "rpc/protocol.h"

#include <cstdint>

namespace espalier
{

// NaN and infinities become null.
Json numberJson(double value);

template <>
Result<MethodInfo> fromJson<MethodInfo>(const Json& json);
template <>
Result<ModelShape> fromJson<ModelShape>(const Json& json);

ESPALIER_PROTOCOL_TYPE(WindowLoss);        // {"window", "nll", "tokens"}: also what `evaluate` streams
ESPALIER_PROTOCOL_TYPE(PairedDifference);  // {"nll", "se", "ppl_ratio", "low", "high", "windows"}
ESPALIER_PROTOCOL_TYPE(ExpertScores);      // {"method", "title", "unit", "better", "values", "layer_importance"}

// What a plan costs beside the whole model.
struct CostFacts {
    struct Dense {
        std::int64_t parameters = 0;
        std::int64_t activeParameters = 0;
        std::int64_t bytes = 0;
    };
    std::int64_t parameters = 0;
    std::int64_t activeParameters = 0;  // per token
    bool activeAtMost = false;          // an upper bound: tokens may skip experts
    std::int64_t bytes = 0;
    std::int64_t expertParameters = 0;
    double expertParametersRemoved = 0;  // share in [0, 1]
    Dense dense;
};
ESPALIER_PROTOCOL_TYPE(CostFacts::Dense);
ESPALIER_PROTOCOL_TYPE(CostFacts);
CostFacts costFacts(const PlanCost& cost, const PlanCost& dense);

}  // namespace espalier
