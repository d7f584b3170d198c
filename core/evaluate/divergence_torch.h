// The arithmetic of divergence.h on logits, for its tests.
#pragma once

#include <ATen/ATen.h>

namespace espalier
{

// [N,3] fp64: KL(p || q), sum of min(p, q), 1 where the most probable token is the same (ties: the lower id). Logits [N,V], any float.
at::Tensor rowDivergences(const at::Tensor& referenceLogits, const at::Tensor& planLogits);

}  // namespace espalier
