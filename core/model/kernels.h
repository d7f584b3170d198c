// Loops that ATen would run as several passes over memory. Plain pointers, row-major, parallel over rows; every row is computed
// independently of the others, so results do not depend on the number of rows or threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace espalier::kernels
{

// out[r] = w * (x[r] * rsqrt(mean(x[r]^2) + eps)); x has `stride` floats from row to row, out is dense.
void rmsNorm(const float* x, std::int64_t stride, const float* weight, float* out, std::int64_t rows, std::int64_t width, float eps);

// Rotary embedding in place, half-split form: heads x rotary dims of every row; row r sits at position r % length.
// x: first rotary element of head 0 of row 0. cos, sin: [length, dim] of angle p theta^(-2j/dim), both halves alike.
void ropeHalf(float* x, std::int64_t rowStride, std::int64_t headStride, std::int64_t rows, std::int64_t heads, std::int64_t dim,
              std::int64_t length, const float* cos, const float* sin);

// out[i] = x[index[i]], rows of any type.
void gatherRows(const std::byte* x, const std::int64_t* index, std::byte* out, std::int64_t count, std::int64_t rowBytes);

// out[r] = sum over i < k of weight[r * k + i] * rows[r * k + i], added up in that order.
void sumWeightedRows(const std::byte* const* rows, const float* weight, int k, float* out, std::int64_t count, std::int64_t width);

// Attention weights of `rows` consecutive queries, not yet divided by their sums: row r of x [rows, columns] holds the products of the
// query at position first + r with the keys at positions `firstKey` and up. Keys from position - window + 1 (window > 0) to the query's
// own become exp(scale * (x - largest of the row)), all others 0. One thread.
void causalSoftmax(float* x, float* sums, std::int64_t rows, std::int64_t columns, std::int64_t first, std::int64_t firstKey,
                   std::int64_t window, float scale);

// Keys and values of one head that a single token sees: `count` of them, rows so many values apart.
template <typename T>
struct CachedRows {
    const T* keys = nullptr;
    const T* values = nullptr;
    std::int64_t count = 0;
    std::int64_t keyWidth = 0, keyStride = 0;
    std::int64_t valueWidth = 0, valueStride = 0;
};
// out[r] = sum over i of softmax_i(scale q[r].key_i) value_i for queries [queries, keyWidth] that share them; out [queries, valueWidth],
// scores: room for queries x count. One thread. bf16 rows are computed with in fp32.
void attendCached(const CachedRows<float>& rows, const float* q, std::int64_t queries, float* scores, float* out, float scale);
void attendCached(const CachedRows<std::uint16_t>& rows, const float* q, std::int64_t queries, float* scores, float* out, float scale);

// gate = silu(gate) * up
void siluMul(float* gate, const float* up, std::int64_t count);

// energy[r] = sum of x[r]^2, added up in fp64; largest[r] = max |x[r]|. x is dense.
void rowEnergy(const float* x, double* energy, float* largest, std::int64_t rows, std::int64_t width);
void rowEnergy(const std::uint16_t* x, double* energy, float* largest, std::int64_t rows, std::int64_t width);

// Products of every pair of rows of each group, fp64 from fp64 copies: group g is rows g * size .. of x, dense; out: per group the lower
// triangle, row by row.
void pairProducts(const float* x, std::int64_t groups, std::int64_t size, std::int64_t width, double* out);
void pairProducts(const std::uint16_t* x, std::int64_t groups, std::int64_t size, std::int64_t width, double* out);

// Whether all values are finite.
bool allFinite(const float* x, std::int64_t count);
bool allFiniteBf16(const std::uint16_t* x, std::int64_t count);

// Conversions from a file's bytes, which need not be aligned. Return whether every value is finite.
bool floatFromFloat(const std::byte* in, float* out, std::int64_t count);
bool floatFromBf16(const std::byte* in, float* out, std::int64_t count);
bool floatFromHalf(const std::byte* in, float* out, std::int64_t count);
bool floatFromDouble(const std::byte* in, float* out, std::int64_t count);
// fp32 to bf16, round to nearest even.
void bf16FromFloat(const float* in, std::uint16_t* out, std::int64_t count);

// -log softmax(logits)[target] per row, in fp32 with the sum over the row in fp64.
void negativeLogLikelihood(const float* logits, const std::int64_t* target, double* out, std::int64_t rows, std::int64_t width);

// A row of logits that comes in blocks of columns, and what is kept of it: the largest so far, and the sum of exp(x - largest). Starts as
// {-infinity, 0}; log(sum) + largest is the log of the sum of all exponentials. A NaN or an infinity ends in the sum.
void addExponentials(const float* logits, double* largest, double* sum, std::int64_t rows, std::int64_t width);
void addExponentials(const std::uint16_t* logits, double* largest, double* sum, std::int64_t rows, std::int64_t width);

// The same on bf16 bits. Computed in fp32 and rounded (to nearest even) where the reference rounds: after the norm and after its weight;
// after each product of the rotation and after the sum; after silu and after the product; after the weighted row and after the sum.
void rmsNorm(const std::uint16_t* x, std::int64_t stride, const std::uint16_t* weight, std::uint16_t* out, std::int64_t rows,
             std::int64_t width, float eps);
void ropeHalf(std::uint16_t* x, std::int64_t rowStride, std::int64_t headStride, std::int64_t rows, std::int64_t heads, std::int64_t dim,
              std::int64_t length, const std::uint16_t* cos, const std::uint16_t* sin);
void sumWeightedRows(const std::byte* const* rows, const float* weight, int k, std::uint16_t* out, std::int64_t count, std::int64_t width);
void siluMul(std::uint16_t* gate, const std::uint16_t* up, std::int64_t count);
void negativeLogLikelihood(const std::uint16_t* logits, const std::int64_t* target, double* out, std::int64_t rows, std::int64_t width);

}  // namespace espalier::kernels
