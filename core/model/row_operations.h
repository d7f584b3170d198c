// The kernels on tensors: fp32 and bf16 rows in memory, contiguous unless said otherwise. Compute thread.
#pragma once

#include <ATen/ATen.h>

namespace espalier
{

// x [N,H], index [M] int64 -> [M,H]
at::Tensor gatherRows(const at::Tensor& x, const at::Tensor& index);
// out[index] += y * weight: out [N,H], y [M,H], weight [M] fp32, distinct indices.
void scatterAddRows(at::Tensor& out, const at::Tensor& index, const at::Tensor& y, const at::Tensor& weight);
// gate = silu(gate) * up, any equal shapes.
void siluMul(at::Tensor& gate, const at::Tensor& up);
bool allFinite(const at::Tensor& x);
// logits [M,V], target [M] int64, out [M] fp64.
void negativeLogLikelihood(const at::Tensor& logits, const std::int64_t* target, double* out);

}  // namespace espalier
