// Plain truncated SVD of a weight matrix: W [out,in] ~ U V with U [out,r], V [r,in] and the singular values split evenly over both
// (Eckart and Young 1936). The model's preview and the exporter both call this, so that what is measured is what is written.
//
// Computed in fp64 by an eigen-decomposition of the Gram matrix of the smaller side (several times faster than an
// SVD; singular values are then taken as norms of the projected rows, which keeps them to about 1e-8 of the largest one).
#pragma once

#include "base/error.h"

#include <ATen/ATen.h>

#include <cstdint>

namespace espalier
{

struct Factors {
    at::Tensor u;  // [out, r]
    at::Tensor v;  // [r, in]
};

// All ranks at once: factors of rank r are the first r columns of u and rows of v. Cheap to copy. Any thread.
class PlainSvd
{
public:
    PlainSvd() = default;
    // weight [out,in], any floating dtype; finite. Errors: lowrank.not_finite, lowrank.no_convergence.
    static Result<PlainSvd> of(const at::Tensor& weight);

    int maxRank() const { return static_cast<int>(m_sigma.numel()); }
    const at::Tensor& singularValues() const { return m_sigma; }  // [min(out,in)] fp64, descending
    // Contiguous factors of rank r (1..maxRank()), rounded once from fp32 to `dtype`: the dtype the checkpoint stores its weights in.
    Factors factors(int rank, at::ScalarType dtype) const;
    // Frobenius norm of W - U V at rank r, before rounding.
    double error(int rank) const;
    std::int64_t bytes() const;

private:
    at::Tensor m_u;      // [out, n] fp32, scaled by sqrt(sigma)
    at::Tensor m_v;      // [n, in] fp32, scaled by sqrt(sigma)
    at::Tensor m_sigma;  // [n] fp64
};

}  // namespace espalier
