#include "lowrank/plain_svd.h"

#include "lowrank/decomposition_error.h"

#include <c10/core/InferenceMode.h>

#include <algorithm>

namespace espalier
{

Result<PlainSvd> PlainSvd::of(const at::Tensor& weight)
{
    const c10::InferenceMode guard;
    try {
        const at::Tensor w = weight.to(at::kDouble);
        const bool wide = w.size(0) <= w.size(1);
        const at::Tensor gram = wide ? at::mm(w, w.t()) : at::mm(w.t(), w);
        // One NaN or infinity anywhere makes a diagonal entry of the Gram matrix non-finite.
        if (!at::isfinite(gram.diagonal()).all().item<bool>())
            return badInput("lowrank.not_finite", "weight", "The matrix has values that are not finite.");
        const at::Tensor q = std::get<1>(at::linalg_eigh(gram));
        // W = Q (Q^T W) holds for any orthogonal Q, so small directions cost no accuracy although the Gram matrix squares the condition.
        const at::Tensor projected = wide ? at::mm(q.t(), w) : at::mm(w, q);
        const int sumOver = wide ? 1 : 0;
        const at::Tensor norms = projected.square().sum({sumOver}).sqrt();
        const at::Tensor order = at::argsort(norms, /*stable=*/true, /*dim=*/0, /*descending=*/true);

        PlainSvd svd;
        svd.m_sigma = norms.index_select(0, order).contiguous();
        const at::Tensor root = svd.m_sigma.sqrt();
        const at::Tensor inverse = at::where(svd.m_sigma > 0, root.reciprocal(), at::zeros_like(root));
        const at::Tensor basis = q.index_select(1, order);  // [min(out,in), n]
        if (wide) {
            svd.m_u = (basis * root).to(at::kFloat).contiguous();
            svd.m_v = (projected.index_select(0, order) * inverse.unsqueeze(1)).to(at::kFloat).contiguous();
        } else {
            svd.m_u = (projected.index_select(1, order) * inverse).to(at::kFloat).contiguous();
            svd.m_v = (basis.t() * root.unsqueeze(1)).to(at::kFloat).contiguous();
        }
        return svd;
    } catch (const std::exception& exception) {
        return decompositionError(exception);
    }
}

Factors PlainSvd::factors(int rank, at::ScalarType dtype) const
{
    const c10::InferenceMode guard;
    rank = std::clamp(rank, 1, maxRank());
    return {m_u.narrow(1, 0, rank).to(dtype).contiguous(), m_v.narrow(0, 0, rank).to(dtype).contiguous()};
}

double PlainSvd::error(int rank) const
{
    const double* sigma = m_sigma.const_data_ptr<double>();
    double sum = 0;
    for (int i = maxRank() - 1; i >= std::max(rank, 0); --i)
        sum += sigma[i] * sigma[i];
    return std::sqrt(sum);
}

std::int64_t PlainSvd::bytes() const { return m_sigma.defined() ? m_u.numel() * 4 + m_v.numel() * 4 + m_sigma.numel() * 8 : 0; }

}  // namespace espalier
