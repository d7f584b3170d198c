// The kernels on tensors: fp32 and bf16 rows in memory, contiguous unless said otherwise. Compute thread. gatherPadded, siluMul, allFinite
// and negativeLogLikelihood take ATen's operations where model/placement.h says so.
#pragma once

#include <ATen/ATen.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace espalier
{

// Rows that a product of `rows` rows is given. oneDNN writes code for every shape it meets (0.3 to 2 ms, as much as the product of a small
// expert takes), and experts meet a different number of tokens each time: rounded up, a few shapes serve all.
std::int64_t paddedRows(std::int64_t rows);
// x [N,H], index [M] int64 -> [paddedRows(M),H], zero behind the first M rows; exactly M the portable way.
at::Tensor gatherPadded(const at::Tensor& x, const at::Tensor& index);
// x [M,H] -> a copy with paddedRows(M) rows; x itself where it needs none, or the portable way.
at::Tensor padded(const at::Tensor& x);
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
// The same of logits that come in blocks of columns, on the host. finish() after all of them: [M] fp64.
class BlockedNll
{
public:
    explicit BlockedNll(std::span<const std::int64_t> targets);
    // Logits [m,c] of the targets from `row` on, columns from `column` on.
    void add(const at::Tensor& logits, std::int64_t row, std::int64_t column);
    void finish(double* out) const;

private:
    std::span<const std::int64_t> m_targets;
    std::vector<double> m_largest, m_sum, m_logit;  // [M]
};

}  // namespace espalier
