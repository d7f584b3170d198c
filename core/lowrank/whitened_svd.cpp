#include "lowrank/whitened_svd.h"

#include "lowrank/decomposition_error.h"

#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <tuple>

namespace espalier
{

namespace
{

constexpr int kRidgeSteps = 8;

Error notFinite(const char* what)
{
    return badInput("lowrank.not_finite", what, std::string("The matrix (") + what + ") has values that are not finite.");
}

// Products of symmetric result and products with a triangle are made in blocks: what is known to be zero, or the same on the other side, is
// left out. Four are 5/8 of the work, and large enough to run at full speed.
constexpr std::int64_t kBlocks = 4;

// The lower triangle of a b (by blocks), where a b is symmetric; zeros above. a [n,m], b [m,n].
at::Tensor lowerProduct(const at::Tensor& a, const at::Tensor& b)
{
    const std::int64_t n = a.size(0);
    at::Tensor out = at::zeros({n, n}, a.options());
    for (std::int64_t block = 0; block < kBlocks; ++block) {
        const std::int64_t begin = n * block / kBlocks;
        const std::int64_t end = n * (block + 1) / kBlocks;
        if (begin == end) continue;
        at::Tensor part = out.narrow(0, begin, end - begin).narrow(1, 0, end);
        at::mm_out(part, a.narrow(0, begin, end - begin), b.narrow(1, 0, end));
    }
    return out;
}

// w s for a lower triangle s.
at::Tensor triangleProduct(const at::Tensor& w, const at::Tensor& s)
{
    const std::int64_t n = s.size(0);
    at::Tensor out = at::empty({w.size(0), n}, w.options());
    for (std::int64_t block = 0; block < kBlocks; ++block) {
        const std::int64_t begin = n * block / kBlocks;
        const std::int64_t end = n * (block + 1) / kBlocks;
        if (begin == end) continue;
        at::Tensor part = out.narrow(1, begin, end - begin);
        at::mm_out(part, w.narrow(1, begin, n - begin), s.narrow(0, begin, n - begin).narrow(1, begin, end - begin));
    }
    return out;
}

// Of a lower triangle. Eigenvalues descend; vectors in columns.
std::tuple<at::Tensor, at::Tensor> eigenDescending(const at::Tensor& lower)
{
    auto [values, vectors] = at::linalg_eigh(lower, "L");
    return {values.flip({0}), vectors.flip({1})};
}

// Left singular vectors found by way of a Gram matrix are orthogonal to about 1e-16 over the square of their singular value's share of the
// largest: those below this share would be seen after the rounding to fp32, and are made so.
constexpr double kOrthogonal = 1e-4;

struct Decomposition {
    at::Tensor q;      // [out, n]
    at::Tensor sigma;  // [n]
    double ridge = 0;
    bool exact = true;  // q^T (W C W^T + ridge) q is diagonal: its diagonal is sigma^2
};

// W (C + ridge) W^T, lower triangle.
at::Tensor outputGram(const at::Tensor& w, const at::Tensor& moment, double ridge)
{
    return lowerProduct(at::addmm(w, w, moment, ridge), w.t());
}

Decomposition onOutputSide(const at::Tensor& w, const at::Tensor& moment, double ridge, double diagonal)
{
    auto [values, vectors] = eigenDescending(outputGram(w, moment, ridge * diagonal));
    const std::int64_t n = std::min(w.size(0), w.size(1));
    return {vectors.narrow(1, 0, n).contiguous(), values.narrow(0, 0, n).clamp_min(0).sqrt(), ridge, true};
}

// The Gram matrix of M = W S gives the right singular vectors and the left ones as M v / sigma. Where sigma is small those are brought to
// exact orthonormality by a QR decomposition: its leading columns span the same nested subspaces, and directions without weight are
// completed to a basis.
Decomposition onInputSide(const at::Tensor& w, const at::Tensor& moment, double ridge, double diagonal)
{
    at::Tensor s;
    for (int step = 0;; ++step) {
        at::Tensor ridged = moment.clone();
        ridged.diagonal().add_(ridge * diagonal);
        auto [factor, info] = at::linalg_cholesky_ex(ridged);
        if (info.item<int>() == 0) {
            s = factor;
            break;
        }
        if (step == kRidgeSteps) throw std::runtime_error("the second moment is not positive");
        ridge = std::max(ridge * 10, kRidge);
    }
    const at::Tensor m = triangleProduct(w, s);
    const at::Tensor vectors = std::get<1>(eigenDescending(lowerProduct(m.t(), m)));
    const at::Tensor scaled = at::mm(m, vectors);
    const at::Tensor norms = scaled.square().sum({0}).sqrt();
    const at::Tensor order = at::argsort(norms, /*stable=*/true, /*dim=*/0, /*descending=*/true);
    const std::int64_t n = std::min(w.size(0), w.size(1));
    const at::Tensor sigma = norms.index_select(0, order).narrow(0, 0, n);
    const bool exact = sigma[n - 1].item<double>() > kOrthogonal * sigma[0].item<double>();
    const at::Tensor columns = scaled.index_select(1, order).narrow(1, 0, n);
    const at::Tensor q = exact ? columns / sigma : std::get<0>(at::linalg_qr(columns, "reduced"));
    return {q.contiguous(), sigma.contiguous(), ridge, exact};
}

}  // namespace

Result<WhitenedSvd> WhitenedSvd::of(const at::Tensor& weight, const at::Tensor& moment, double ridge, WhitenedRoute route)
{
    const c10::InferenceMode guard;
    try {
        const at::Tensor w = weight.to(at::kDouble);
        at::Tensor c = moment.to(at::kDouble);
        if (!std::isfinite(w.sum().item<double>())) return notFinite("weight");
        if (!std::isfinite(c.sum().item<double>())) return notFinite("second moment");
        const std::int64_t in = w.size(1);
        const double diagonal = c.diagonal().sum().item<double>() / static_cast<double>(in);
        const bool empty = !(diagonal > 0);
        const at::Tensor metric = empty ? at::eye(in, c.options()) : c;
        if (route == WhitenedRoute::Auto) route = w.size(0) <= in ? WhitenedRoute::OutputSide : WhitenedRoute::InputSide;
        const double size = empty ? 1.0 : diagonal;
        const Decomposition found =
            route == WhitenedRoute::OutputSide ? onOutputSide(w, metric, ridge, size) : onInputSide(w, metric, ridge, size);
        WhitenedSvd svd;
        svd.m_ridge = found.ridge;
        svd.m_q = found.q;
        svd.m_sigma = found.sigma;
        if (empty) {
            svd.m_energies = at::zeros_like(svd.m_sigma);
        } else if (found.exact) {
            // What the ridge adds is a millionth of a direction's share: fp32 leaves 1e-13 of it.
            const at::Tensor projected = at::mm(svd.m_q.t().to(at::kFloat), w.to(at::kFloat));  // [n, in]
            const at::Tensor added = projected.square().sum({1}, false, at::kDouble);
            svd.m_energies = svd.m_sigma.square() - added * (found.ridge * size);
        } else {
            const at::Tensor projected = at::mm(svd.m_q.t(), w);
            svd.m_energies = (at::mm(projected, c) * projected).sum({1});
        }
        svd.m_energies.clamp_min_(0);
        if (!at::isfinite(svd.m_energies).all().item<bool>()) return notFinite("weight");
        return svd;
    } catch (const std::exception& exception) {
        return decompositionError(exception);
    }
}

at::Tensor WhitenedSvd::basis(int columns) const { return m_q.narrow(1, 0, std::clamp(columns, 0, maxRank())); }

double WhitenedSvd::error(int rank) const
{
    const double* energy = m_energies.const_data_ptr<double>();
    double sum = 0;
    for (int i = maxRank() - 1; i >= std::max(rank, 0); --i)
        sum += energy[i];
    return std::sqrt(sum);
}

Result<at::Tensor> whitenedEnergies(const at::Tensor& weight, const at::Tensor& moment)
{
    const c10::InferenceMode guard;
    try {
        const at::Tensor w = weight.to(at::kDouble);
        const at::Tensor c = moment.to(at::kDouble);
        if (!std::isfinite(w.sum().item<double>())) return notFinite("weight");
        if (!std::isfinite(c.sum().item<double>())) return notFinite("second moment");
        const std::int64_t n = std::min(w.size(0), w.size(1));
        at::Tensor gram;
        if (w.size(0) > w.size(1)) {
            // The smaller side is the input's: eigenvalues of S^T W^T W S. A moment of few tokens has no Cholesky factor; then the
            // other side serves.
            auto [factor, info] = at::linalg_cholesky_ex(c);
            if (info.item<int>() == 0) {
                const at::Tensor m = triangleProduct(w, factor);
                gram = lowerProduct(m.t(), m);
            }
        }
        if (!gram.defined()) gram = outputGram(w, c, 0);
        const at::Tensor values = at::linalg_eigvalsh(gram, "L");
        at::Tensor energies = values.flip({0}).narrow(0, 0, n).clamp_min(0).contiguous();
        if (!at::isfinite(energies).all().item<bool>()) return notFinite("weight");
        return energies;
    } catch (const std::exception& exception) {
        return decompositionError(exception);
    }
}

Result<ProjectionFactors> ProjectionFactors::of(const at::Tensor& weight, const at::Tensor& basis)
{
    const c10::InferenceMode guard;
    // fp64 products: a matrix product of one thread and shape is reproducible, and nothing is lost before the one rounding.
    const at::Tensor q = basis.to(at::kDouble);
    const at::Tensor v = at::mm(q.t(), weight.to(at::kDouble));
    if (!std::isfinite(v.sum().item<double>())) return notFinite("weight");
    const at::Tensor uNorms = q.square().sum({0}).sqrt();
    const at::Tensor vNorms = v.square().sum({1}).sqrt();
    const at::Tensor there = (uNorms > 0).logical_and(vNorms > 0);
    const at::Tensor scale = at::where(there, (vNorms / uNorms).sqrt(), at::zeros_like(vNorms));
    const at::Tensor inverse = at::where(there, scale.reciprocal(), at::zeros_like(scale));
    ProjectionFactors factors;
    factors.m_u = (q * scale).to(at::kFloat).contiguous();
    factors.m_v = (v * inverse.unsqueeze(1)).to(at::kFloat).contiguous();
    return factors;
}

Factors ProjectionFactors::factors(int rank, at::ScalarType dtype) const
{
    const c10::InferenceMode guard;
    rank = std::clamp(rank, 1, std::max(maxRank(), 1));
    return {m_u.narrow(1, 0, rank).to(dtype).contiguous(), m_v.narrow(0, 0, rank).to(dtype).contiguous()};
}

std::int64_t ProjectionFactors::bytes() const { return m_u.defined() ? m_u.numel() * 4 + m_v.numel() * 4 : 0; }

}  // namespace espalier
