// Sizes of a plan from shapes alone: exact, instant (5 ms for 60 x 384), no weights.
#pragma once

#include "plan/compression_plan.h"
#include "plan/model_shape.h"

#include <cstdint>
#include <string>
#include <vector>

namespace espalier
{

struct PlanCost {
    std::int64_t bytes = 0;  // of all tensors as exported in the source dtype
    std::int64_t parameters = 0;
    std::int64_t activeParameters = 0;       // per token; where tokens may skip experts the most that one meets
    bool activeAtMost = false;               // they may, somewhere: what follows from it (FLOPs) is an upper bound too
    std::int64_t expertParameters = 0;       // routed experts only
    std::int64_t expertParametersDense = 0;  // the same for the uncompressed model
    double expertParametersRemoved() const;  // share in [0, 1]
};

PlanCost planCost(const ModelShape& shape, const CompressionPlan& plan);
// Of one decoder layer: attention, norms and shared experts included.
std::int64_t layerBytes(const LayerShape& shape, int hiddenSize, const LayerPlan& plan);
std::int64_t layerParameters(const LayerShape& shape, int hiddenSize, const LayerPlan& plan);
// Of what stands behind a router column: an expert in its forms, or a constant.
std::int64_t bodyBytes(const LayerShape& shape, int hiddenSize, const Body& body);

// Which export flavours the plan allows, and why not: plan/flavors.h for a view.
struct FlavourChoice {
    std::string id;  // "stock", "factored", "reconstructed", "plan"
    bool allowed = false;
    std::string loadsIn;  // "transformers, vLLM, llama.cpp converters"
    std::string reason;   // why it is not allowed
};
std::vector<FlavourChoice> flavoursFor(const ModelShape& shape, const CompressionPlan& plan);

}  // namespace espalier
