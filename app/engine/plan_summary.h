// A plan for people: sizes and layer losses.
#pragma once

#include "base/json.h"
#include "plan/compression_plan.h"

#include <string>

namespace espalier
{

// `losses`: gramLossesJson() of the plan.
std::string planText(const ModelShape& shape, const CompressionPlan& plan, const Json& losses);

}  // namespace espalier
