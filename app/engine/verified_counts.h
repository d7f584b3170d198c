// The verified allocator on a real model (methods.md 6.11): measures on the calibration windows what the exchange asks for. No ATen here.
#pragma once

#include "planner.h"

namespace espalier
{

struct VerifiedCounts {
    ExchangeResult exchange;
    Json detail;          // candidates, layer weights, trace
    RankValue rankValue;  // what a unit of rank is worth by the profile's curves; empty without curves
};

struct VerifiedProblem {
    const PlanInputs& inputs;
    const CompressionPlan& base;
    int keepTotal = 0;
    const AllocationRequest& request;
    const std::vector<LayerCurve>& curves;  // of every free MoE layer: the best set at every count
    // Exact losses of a plan on the calibration windows.
    std::function<Result<std::vector<WindowLoss>>(const CompressionPlan&)> evaluate;
};

// Where `base` has ranks, experts that enter take over those of experts that leave, and a plan that takes more bytes than the experts of
// `base` do on average gives back rank. Candidates are the answers of the other allocators at `keepTotal` experts, each with the best sets
// of the layers, and the exact solver's under weights measured on the model: the rise of the loss when one layer alone gives up its share.
Result<VerifiedCounts> verifyCounts(const VerifiedProblem& verified, const Params& params, JobContext& job);

}  // namespace espalier
