// Attention over what a cache has of the tokens before.
#include "model/attention.h"
#include "model/kernels.h"
#include "model/placement.h"
#include "model/weight_matrix.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>
#include <vector>

namespace espalier
{

namespace
{

// Up to so many tokens are computed one by one: the kernel needs no code for the length, and latent vectors need not be expanded.
constexpr std::int64_t kStepTokens = 16;

// What is added to the scores of the last `tokens` of `held`: 0 where a token (row) sees another one, -infinity elsewhere.
at::Tensor visible(std::int64_t tokens, std::int64_t held, int window, at::ScalarType type, c10::Device device)
{
    const at::Tensor query = at::arange(held - tokens, held, at::kLong).unsqueeze(1);
    const at::Tensor distance = query - at::arange(held, at::kLong).unsqueeze(0);
    at::Tensor seen = distance >= 0;
    if (window > 0) seen = seen.logical_and(distance < window);
    return at::zeros({tokens, held}, at::kFloat)
        .masked_fill(seen.logical_not(), -std::numeric_limits<float>::infinity())
        .to(type)
        .to(device);
}

template <typename T>
const T* pointer(const at::Tensor& x)
{
    return static_cast<const T*>(x.const_data_ptr());
}

// q [T,heads,dk] fp32, dense, the last T of keys [kvHeads,L,dk] and values [kvHeads,L,dv], whose rows are dense -> [T,heads,dv] fp32.
template <typename T>
at::Tensor stepByStep(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values, int window, double scale)
{
    const std::int64_t tokens = q.size(0);
    const std::int64_t heads = q.size(1);
    const std::int64_t groups = keys.size(0);
    const std::int64_t past = keys.size(1) - tokens;
    const std::int64_t repeat = heads / groups;
    // Enough pieces for all threads where few heads share their keys.
    const std::int64_t pieces = std::clamp<std::int64_t>(at::get_num_threads() / std::max<std::int64_t>(groups * tokens, 1), 1, repeat);
    const std::int64_t each = (repeat + pieces - 1) / pieces;
    at::Tensor out = at::empty({tokens, heads, values.size(2)}, at::kFloat);
    const auto* queries = q.const_data_ptr<float>();
    auto* to = out.mutable_data_ptr<float>();
    at::parallel_for(0, tokens * groups * pieces, 1, [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> scores;
        for (std::int64_t task = begin; task < end; ++task) {
            const std::int64_t token = task / (groups * pieces);
            const std::int64_t group = task / pieces % groups;
            const std::int64_t firstQuery = task % pieces * each;
            const std::int64_t count = std::min(each, repeat - firstQuery);
            if (count <= 0) continue;
            const std::int64_t last = past + token + 1;
            const std::int64_t first = window > 0 ? std::max<std::int64_t>(0, last - window) : 0;
            const kernels::CachedRows<T> rows{
                .keys = pointer<T>(keys) + group * keys.stride(0) + first * keys.stride(1),
                .values = pointer<T>(values) + group * values.stride(0) + first * values.stride(1),
                .count = last - first,
                .keyWidth = keys.size(2),
                .keyStride = keys.stride(1),
                .valueWidth = values.size(2),
                .valueStride = values.stride(1),
            };
            scores.resize(static_cast<std::size_t>(count * rows.count));
            const std::int64_t head = token * heads + group * repeat + firstQuery;
            kernels::attendCached(rows, queries + head * rows.keyWidth, count, scores.data(), to + head * rows.valueWidth,
                                  static_cast<float>(scale));
        }
    });
    return out;
}

at::Tensor stepByStep(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values, int window, double scale)
{
    const at::Tensor wide = q.to(at::kFloat).contiguous();
    if (keys.scalar_type() == at::kFloat) return stepByStep<float>(wide, keys, values, window, scale);
    return stepByStep<std::uint16_t>(wide, keys, values, window, scale).to(keys.scalar_type());
}

// [out,in] of a linear, its terms added up.
at::Tensor rowsOf(const Linear& linear)
{
    at::Tensor rows = linear.weight.defined() ? linear.weight.rowMajor() : at::Tensor();
    if (!linear.u.defined()) return rows;
    const at::Tensor u = linear.u.rowMajor();
    at::Tensor product = at::mm(u.to(at::kFloat), linear.v.rowMajor().to(at::kFloat));
    if (rows.defined()) product.add_(rows);
    return product.to(u.scalar_type());
}

}  // namespace

at::Tensor Attention::attendCached(const at::Tensor& q, int window)
{
    const at::Tensor keys = m_cache->keys();
    const at::Tensor values = m_cache->values();
    const std::int64_t tokens = q.size(2);
    if (takesPortableWay(q))
        return attendFused(q, keys, values, visible(tokens, m_cache->held(), window, m_compute, m_device), m_shape.softmaxScale);
    if (tokens > kStepTokens) return attendHeadByHead(q, keys, values, window, m_shape.softmaxScale);
    return stepByStep(q.squeeze(0).transpose(0, 1), keys.squeeze(0), values.squeeze(0), window, m_shape.softmaxScale)
        .view({1, tokens, m_shape.heads * values.size(3)});
}

// Few tokens: q_nope . (W_k c) = (W_k' q_nope) . c, and the values are mixed as c before W_v, so that the vectors in the cache are read as
// they are. Many: they are expanded, which costs less than what each token saves.
at::Tensor Attention::attendLatent(const at::Tensor& q, const LayerWeights& weights, int window)
{
    const std::int64_t tokens = q.size(2);
    const std::int64_t heads = m_shape.heads;
    const std::int64_t held = m_cache->held();
    const at::Tensor rows = m_cache->keys();  // [1,1,L,c | k_rope]
    const at::Tensor latent = rows.narrow(3, 0, m_shape.latentRank);
    if (tokens > kStepTokens) {
        const at::Tensor expanded =
            weights.latentB(latent.squeeze(1).contiguous()).view({1, held, heads, m_shape.nopeDim + m_shape.valueDim});
        const at::Tensor keyRope =
            rows.narrow(3, m_shape.latentRank, m_shape.ropeDim).transpose(1, 2).expand({1, held, heads, m_shape.ropeDim});
        const at::Tensor k = at::cat({expanded.narrow(3, 0, m_shape.nopeDim), keyRope}, 3).transpose(1, 2);
        const at::Tensor v = expanded.narrow(3, m_shape.nopeDim, m_shape.valueDim).transpose(1, 2);
        if (takesPortableWay(q)) return attendFused(q, k, v, visible(tokens, held, window, m_compute, m_device), m_shape.softmaxScale);
        return attendHeadByHead(q, k, v, window, m_shape.softmaxScale);
    }
    at::Tensor expansion = m_cache->expansion;
    if (!expansion.defined()) {
        expansion = rowsOf(weights.latentB).view({heads, m_shape.nopeDim + m_shape.valueDim, m_shape.latentRank});
        if (m_keepExpansion) m_cache->expansion = expansion;
    }
    const at::Tensor one = q.squeeze(0);  // [heads,T,nope | rope]
    const at::Tensor absorbed = at::bmm(one.narrow(2, 0, m_shape.nopeDim), expansion.narrow(1, 0, m_shape.nopeDim));
    const at::Tensor queries = at::cat({absorbed, one.narrow(2, m_shape.nopeDim, m_shape.ropeDim)}, 2);  // [heads,T,c | rope]
    at::Tensor mixed;                                                                                    // [heads,T,c]
    if (takesPortableWay(q)) {
        const at::Tensor keys = rows.squeeze(0).squeeze(0);
        const at::Tensor scores = at::matmul(queries, keys.t()).to(at::kFloat) * m_shape.softmaxScale;
        const at::Tensor shares = at::softmax(scores + visible(tokens, held, window, at::kFloat, m_device), 2).to(m_compute);
        mixed = at::matmul(shares, keys.narrow(1, 0, m_shape.latentRank));
    } else {
        mixed = stepByStep(queries.transpose(0, 1), rows.squeeze(0), latent.squeeze(0), window, m_shape.softmaxScale).transpose(0, 1);
    }
    at::Tensor out = at::bmm(mixed, expansion.narrow(1, m_shape.nopeDim, m_shape.valueDim).transpose(1, 2));  // [heads,T,v]
    // A bias of the expansion shifts all scores of a head alike, and every value.
    if (weights.latentB.bias.defined())
        out = out + weights.latentB.bias.view({heads, -1}).narrow(1, m_shape.nopeDim, m_shape.valueDim).unsqueeze(1);
    return out.transpose(0, 1).reshape({1, tokens, heads * m_shape.valueDim});
}

at::Tensor Attention::extend(const at::Tensor& x, const LayerWeights& weights, int window, LayerCache& cache, bool keepExpansion)
{
    m_tree = nullptr;
    m_cache = &cache;
    m_keepExpansion = keepExpansion;
    at::Tensor out = m_shape.latent ? latentAttention(x, weights, window) : groupedQuery(x, weights, window);
    m_cache = nullptr;
    return out;
}

}  // namespace espalier
