// The kernels on tensors: fp32 and bf16 rows in memory, contiguous unless said otherwise. Compute thread. gatherRows, siluMul, allFinite
// and negativeLogLikelihood take ATen's operations where model/placement.h says so.
#pragma once

#include <ATen/ATen.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace espalier
{

// x [N,H], index [M] int64 -> [M,H]
at::Tensor gatherRows(const at::Tensor& x, const at::Tensor& index);
// out[t] = sum over i of weight[t * k + i] * rows[t * k + i], in that order, for all rows of out [N,H] (overwritten); every row pointer
// leads to H values of out's type.
void sumWeightedRows(std::span<const std::byte* const> rows, std::span<const float> weight, int k, at::Tensor& out);
// gate = silu(gate) * up, any equal shapes.
void siluMul(at::Tensor& gate, const at::Tensor& up);
struct RowEnergy {
    std::vector<double> energy;  // sum of squares, in fp64
    std::vector<float> largest;  // max |x|
};
RowEnergy rowEnergy(const at::Tensor& x);
// x [groups * size, H] -> per group the lower triangle of the products of its rows, row by row, in fp64.
void pairProducts(const at::Tensor& x, std::int64_t size, double* out);
bool allFinite(const at::Tensor& x);
// logits [M,V], target [M] int64, out [M] fp64.
void negativeLogLikelihood(const at::Tensor& logits, const std::int64_t* target, double* out);

}  // namespace espalier
