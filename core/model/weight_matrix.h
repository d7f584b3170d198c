// A weight matrix as the products want it. oneDNN multiplies from a blocked layout of its own; a matrix that is brought into it once,
// when the layer is loaded, is multiplied 1.05 to 2.7 times faster than a row-major one that is rearranged in every product,
// and in true fp32 whatever the settings for faster approximations are.
//
// Not every processor has these products in every type: oneDNN multiplies bf16 with AVX-512 or AVX-VNNI-2 only, and throws elsewhere. They
// are tried once per type; where they fail, matrices stay row-major. bf16 is then multiplied in fp32 and rounded, which is what products
// in bf16 are: exact products, summed up in fp32, rounded once.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

namespace espalier
{

// Immutable, cheap to copy (copies share the memory), any thread. fp32 or bf16.
class WeightMatrix
{
public:
    WeightMatrix() = default;  // undefined
    // A copy of `rows` [out,in] in the blocked layout; a row-major copy where this build of libtorch or this processor has no such
    // products. `rows` may lie in memory that goes away.
    static WeightMatrix packed(const at::Tensor& rows);
    // Shares the memory of `rows`: for few products, or where gradients are recorded.
    static WeightMatrix plain(at::Tensor rows);

    bool defined() const { return m_matrix.defined(); }
    std::int64_t rows() const { return m_rows; }
    std::int64_t columns() const { return m_columns; }
    std::int64_t bytes() const;
    bool sharesMemoryWith(const WeightMatrix& other) const { return m_matrix.is_same(other.m_matrix); }

    // x [..,in] -> x W' + bias [..,out]; bias may be undefined.
    at::Tensor product(const at::Tensor& x, const at::Tensor& bias = {}) const;
    // Whether packed() makes blocked matrices of this type here.
    static bool hasBlockedProducts(at::ScalarType type);
    // Row-major [out,in]; a copy of a packed matrix, bit for bit what was packed.
    at::Tensor rowMajor() const;

private:
    at::Tensor m_matrix;
    bool m_packed = false;
    std::int64_t m_rows = 0;
    std::int64_t m_columns = 0;
};

}  // namespace espalier
