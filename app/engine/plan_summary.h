// A plan for people: sizes and layer losses.
#pragma once

#include "base/json.h"
#include "pipeline/make_plan.h"
#include "plan/compression_plan.h"

#include <string>
#include <vector>

namespace espalier
{

// `losses`: gramLossesJson() of the plan.
std::string planText(const ModelShape& shape, const CompressionPlan& plan, const Json& losses);
// One line on the stage "recover"; nothing without it.
std::string recoveryText(const std::vector<PlanStage>& stages);

}  // namespace espalier
