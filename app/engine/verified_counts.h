// The verified allocator on a real model (methods.md 6.11): measures on the calibration windows what the exchange asks for. No ATen here.
#pragma once

#include "planner.h"

namespace espalier
{

struct VerifiedCounts {
    ExchangeResult exchange;
    Json detail;  // candidates, layer weights, trace
};

// Candidates are the answers of the other allocators at `keepTotal` experts, each with the best sets of the layers, and the exact
// solver's under weights measured on the model: the rise of the loss when one layer alone gives up its share. `evaluate` gives exact
// losses of a plan on the calibration windows.
Result<VerifiedCounts> verifyCounts(const PlanInputs& inputs, const PlanRecipe& recipe, int keepTotal, const AllocationRequest& request,
                                    const std::function<Result<std::vector<WindowLoss>>(const CompressionPlan&)>& evaluate,
                                    JobContext& job);

}  // namespace espalier
