// Which of its chosen experts a token may skip: the slot "skip", for thresholds that are given. Pure; any thread.
#pragma once

#include "base/error.h"
#include "base/method_registry.h"
#include "plan/compression_plan.h"

#include <string>
#include <vector>

namespace espalier
{

// "ratio" and "cumulative" (plan/skip_rule.h), each with a threshold.
const std::vector<MethodInfo>& skipMethods();

// The rule in every layer with experts that is not fixed. Errors: method.unknown, method.bad_parameter.
Result<CompressionPlan> withSkipMethod(const ModelShape& shape, const CompressionPlan& plan, const std::string& method,
                                       const Params& given);

}  // namespace espalier
