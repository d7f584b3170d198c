// A decoder layer whose weights are a mean of its own and another layer's: alpha a + (1 - alpha) b for every number of every tensor, in
// fp32, rounded to the dtype that the layer stores the tensor in. Preview and export mix here.
#pragma once

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "plan/layer_plan.h"

#include <ATen/ATen.h>

#include <cstdint>

namespace espalier
{

class LayerMix
{
public:
    // `merge` of `layer`; the checkpoint must outlive it.
    LayerMix(const Checkpoint& checkpoint, int layer, const LayerMerge& merge) : m_checkpoint(checkpoint), m_layer(layer), m_merge(merge) {}

    // Numbers [first, first + count) of a tensor of the layer, or of a slice of a fused one, in the dtype it is stored in; one dimension.
    // Any thread. Errors: checkpoint.tensor_missing.
    Result<at::Tensor> numbers(const TensorView& view, std::int64_t first, std::int64_t count) const;

private:
    const Checkpoint& m_checkpoint;
    int m_layer;
    LayerMerge m_merge;
};

}  // namespace espalier
