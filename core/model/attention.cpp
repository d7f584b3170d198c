#include "model/attention.h"

#include "model/kernels.h"
#include "model/layer_gradient.h"
#include "model/norm.h"
#include "model/placement.h"
#include "model/weight_matrix.h"

#include <ATen/Parallel.h>
#include <ATen/cpu/Utils.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <optional>

namespace espalier
{

RotarySetup rotarySetup(int dim, double theta, const RopeScaling& scaling, bool scalesSoftmax)
{
    RotarySetup setup;
    const int half = dim / 2;
    setup.inverseFrequencies.resize(static_cast<std::size_t>(half));
    const auto plainFrequency = [&](int j) {
        // fp32 arithmetic like the reference: exponent, power and reciprocal are each rounded.
        const float exponent = static_cast<float>(2 * j) / static_cast<float>(dim);
        return std::pow(static_cast<float>(theta), exponent);
    };
    if (scaling.type != RopeScaling::Type::Yarn) {
        for (int j = 0; j < half; ++j)
            setup.inverseFrequencies[static_cast<std::size_t>(j)] = 1.0f / plainFrequency(j);
        return setup;
    }
    const auto correction = [&](double rotations) {
        return dim * std::log(scaling.originalPositions / (rotations * 2 * std::numbers::pi)) / (2 * std::log(theta));
    };
    double low = correction(scaling.betaFast);
    double high = correction(scaling.betaSlow);
    if (scaling.truncate) {
        low = std::floor(low);
        high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, static_cast<double>(dim - 1));
    if (low == high) high += 0.001;
    for (int j = 0; j < half; ++j) {
        const auto ramp = static_cast<float>(std::clamp((j - low) / (high - low), 0.0, 1.0));
        const float position = plainFrequency(j);
        const float stretched = 1.0f / (static_cast<float>(scaling.factor) * position);
        setup.inverseFrequencies[static_cast<std::size_t>(j)] = stretched * ramp + (1.0f / position) * (1.0f - ramp);
    }
    const auto gain = [](double factor, double mscale) { return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0; };
    const double mscale = scaling.mscale.value_or(0);
    const double mscaleAllDim = scaling.mscaleAllDim.value_or(0);
    if (scaling.attentionFactor)
        setup.cosSinScale = *scaling.attentionFactor;
    else if (mscale != 0 && mscaleAllDim != 0)
        setup.cosSinScale = gain(scaling.factor, mscale) / gain(scaling.factor, mscaleAllDim);
    else
        setup.cosSinScale = gain(scaling.factor, 1);
    if (scalesSoftmax && mscaleAllDim != 0) setup.softmaxFactor = std::pow(gain(scaling.factor, mscaleAllDim), 2);
    return setup;
}

AttentionShape attentionShape(const ModelConfig& config)
{
    AttentionShape shape;
    shape.hiddenSize = config.hiddenSize;
    shape.heads = config.heads;
    shape.kvHeads = config.kvHeads;
    shape.headDim = config.headDim;
    shape.eps = config.rmsNormEps;
    shape.norm = config.qkNorm;
    shape.clip = config.clipQkv.value_or(0);
    int rotaryDim = config.headDim;
    int queryDim = config.headDim;
    if (config.mla) {
        shape.latent = true;
        shape.queryRank = config.mla->qLoraRank;
        shape.latentRank = config.mla->kvLoraRank;
        shape.latentEps = config.mla->normEps;
        shape.nopeDim = config.mla->nopeHeadDim;
        shape.ropeDim = config.mla->ropeHeadDim;
        shape.valueDim = config.mla->valueHeadDim;
        rotaryDim = shape.ropeDim;
        queryDim = shape.nopeDim + shape.ropeDim;
    }
    RotarySetup rotary = rotarySetup(rotaryDim, config.ropeTheta, config.rope, config.mla.has_value());
    shape.inverseFrequencies = std::move(rotary.inverseFrequencies);
    shape.rotaryScale = rotary.cosSinScale;
    shape.softmaxScale = std::pow(static_cast<double>(queryDim), -0.5) * rotary.softmaxFactor;
    return shape;
}

namespace
{

// Tables for trees are made for multiples of so many positions, so that there are few of them.
constexpr std::int64_t kTreePositions = 256;

// Tables for sequences that grow double.
std::int64_t tablePositions(std::int64_t length)
{
    std::int64_t positions = kTreePositions;
    while (positions < length)
        positions *= 2;
    return positions;
}

}  // namespace

const Attention::Tables& Attention::tables(std::int64_t length)
{
    auto& tables = m_tables[length];
    if (tables.cos.defined()) return tables;
    const auto half = static_cast<std::int64_t>(m_shape.inverseFrequencies.size());
    at::Tensor frequencies = at::empty({half}, at::kFloat);
    std::copy(m_shape.inverseFrequencies.begin(), m_shape.inverseFrequencies.end(), frequencies.mutable_data_ptr<float>());
    const at::Tensor angle = at::arange(length, at::kFloat).unsqueeze(1) * frequencies.unsqueeze(0);
    tables.cosHalf = (angle.cos() * m_shape.rotaryScale).contiguous().to(m_device);
    tables.sinHalf = (angle.sin() * m_shape.rotaryScale).contiguous().to(m_device);
    tables.cos = at::cat({tables.cosHalf, tables.cosHalf}, 1).to(m_compute).contiguous();
    tables.sin = at::cat({tables.sinHalf, tables.sinHalf}, 1).to(m_compute).contiguous();
    return tables;
}

// By the positions that the tokens of the row have.
const Attention::Tables& Attention::tablesOfRow(std::int64_t length)
{
    if (m_cache) {
        const std::int64_t past = m_cache->seen();
        const Tables& all = tables(tablePositions(past + length));
        const auto part = [&](const at::Tensor& table) { return table.narrow(0, past, length); };
        m_partTables = {part(all.cos), part(all.sin), part(all.cosHalf), part(all.sinHalf)};
        return m_partTables;
    }
    if (!m_tree) return tables(length);
    const std::int64_t rounded = (m_tree->positionCount() + kTreePositions - 1) / kTreePositions * kTreePositions;
    const Tables& all = tables(rounded);
    at::Tensor positions = at::empty({length}, at::kLong);
    std::copy(m_tree->positions().begin(), m_tree->positions().end(), positions.mutable_data_ptr<std::int64_t>());
    positions = positions.to(m_device);
    const auto pick = [&positions](const at::Tensor& table) { return table.index_select(0, positions); };
    m_partTables = {pick(all.cos), pick(all.sin), pick(all.cosHalf), pick(all.sinHalf)};
    return m_partTables;
}

const at::Tensor& Attention::windowMask(std::int64_t length, int window)
{
    at::Tensor& mask = m_masks[{length, window}];
    if (mask.defined()) return mask;
    const at::Tensor position = at::arange(length, at::kLong);
    const at::Tensor distance = position.unsqueeze(1) - position.unsqueeze(0);  // query - key
    const at::Tensor visible = (distance >= 0).logical_and(distance < window);
    mask = at::zeros({length, length}, m_compute).masked_fill(visible.logical_not(), -std::numeric_limits<float>::infinity()).to(m_device);
    return mask;
}

at::Tensor Attention::normed(const at::Tensor& x, const at::Tensor& weight, double eps) const { return rmsNorm(x, weight, eps); }

namespace
{

// Queries of one head that are computed at a time: the keys behind them are skipped, and their products stay in the cache.
constexpr std::int64_t kQueryRows = 128;

}  // namespace

// scaled_dot_product_attention multiplies these small matrices at a fraction of the speed, and computes the keys behind a query too when a
// window fits one of its blocks.
at::Tensor attendHeadByHead(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int window, double scale)
{
    const std::int64_t past = k.size(2) - q.size(2);
    const std::int64_t batch = q.size(0);
    const std::int64_t heads = q.size(1);
    const std::int64_t length = q.size(2);
    const std::int64_t width = v.size(3);
    const std::int64_t repeat = heads / k.size(1);
    at::Tensor out = at::empty({batch, length, heads, width}, q.options());
    at::parallel_for(0, batch * heads, 1, [&](std::int64_t begin, std::int64_t end) {
        const c10::InferenceMode guard;
        for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t b = i / heads;
            const std::int64_t head = i % heads;
            const auto of = [&](const at::Tensor& x, std::int64_t h) { return x.select(0, b).select(0, h).to(at::kFloat); };
            const at::Tensor queries = of(q, head).contiguous();
            const at::Tensor keys = of(k, head / repeat).contiguous();
            const at::Tensor values = of(v, head / repeat).t().contiguous();  // [dv,T]
            const at::Tensor result = out.select(0, b).select(1, head);
            for (std::int64_t first = 0; first < length; first += kQueryRows) {
                const std::int64_t rows = std::min(kQueryRows, length - first);
                const std::int64_t position = past + first;
                const std::int64_t firstKey = window > 0 ? std::max<std::int64_t>(0, position - window + 1) : 0;
                const std::int64_t columns = position + rows - firstKey;
                at::Tensor weights = WeightMatrix::plain(keys.narrow(0, firstKey, columns)).product(queries.narrow(0, first, rows));
                at::Tensor sums = at::empty({rows, 1}, weights.options());
                kernels::causalSoftmax(weights.mutable_data_ptr<float>(), sums.mutable_data_ptr<float>(), rows, columns, position, firstKey,
                                       window, static_cast<float>(scale));
                at::Tensor mixed = WeightMatrix::plain(values.narrow(1, firstKey, columns).contiguous()).product(weights);
                result.narrow(0, first, rows).copy_(mixed.div_(sums));
            }
        }
    });
    return out.view({batch, length, heads * width});
}

at::Tensor attendFused(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::optional<at::Tensor>& mask, double scale)
{
    const std::int64_t repeat = q.size(1) / k.size(1);
    at::Tensor keys = k;
    at::Tensor values = v;
    if (repeat > 1) {
        keys = k.repeat_interleave(repeat, 1);
        values = v.repeat_interleave(repeat, 1);
    }
    // The fused kernel wants one head width: a narrower v is padded with zeros, which come out as zeros.
    const std::int64_t valueDim = values.size(3);
    if (valueDim != q.size(3)) values = at::constant_pad_nd(values, {0, q.size(3) - valueDim});
    at::Tensor out = at::scaled_dot_product_attention(q, keys, values, mask, 0.0, !mask.has_value(), scale);
    if (valueDim != q.size(3)) out = out.narrow(3, 0, valueDim);
    return out.transpose(1, 2).reshape({q.size(0), q.size(2), q.size(1) * valueDim});
}

namespace
{

// Where bf16 products run on matrix units (AMX) the fused kernel is twice as fast as products in fp32; it has no sliding window and one
// head width.
bool matrixUnits(const at::Tensor& q, const at::Tensor& v, bool windowed)
{
    static const bool there = at::cpu::init_amx();
    return there && q.scalar_type() == at::kBFloat16 && !windowed && v.size(3) == q.size(3);
}

}  // namespace

// q [B,heads,T,d], k [B,kvHeads,T,d], v [B,kvHeads,T,dv] -> [B,T,heads*dv]. KV head g serves q heads g*r .. (g+1)*r - 1.
at::Tensor Attention::attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int window)
{
    const std::int64_t length = q.size(2);
    if (m_cache && !m_shape.latent) {
        const bool begins = m_cache->seen() == 0;
        m_cache->append(k, v, window);
        if (!begins) return attendCached(q, window);
    }
    if (!m_tree && !takesPortableWay(q) && !matrixUnits(q, v, window > 0 && window < length))
        return attendHeadByHead(q, k, v, window, m_shape.softmaxScale);
    std::optional<at::Tensor> mask;
    if (m_tree)
        mask = m_tree->mask(window > 0 && window < length ? window : 0, m_compute, m_device);
    else if (window > 0 && window < length)
        mask = recordable(windowMask(length, window));
    return attendFused(q, k, v, mask, m_shape.softmaxScale);
}

at::Tensor Attention::groupedQuery(const at::Tensor& x, const LayerWeights& weights, int window)
{
    const std::int64_t batch = x.size(0);
    const std::int64_t length = x.size(1);
    const std::int64_t d = m_shape.headDim;
    const std::int64_t queryWidth = m_shape.heads * d;
    const std::int64_t keyWidth = m_shape.kvHeads * d;
    at::Tensor qkv = weights.queryKeyValue(x);  // [B,T,q|k|v]
    if (takesPortableWay(x)) return projected(portableQuery(qkv, weights, window), weights);

    if (m_shape.norm == QkNorm::Whole) {
        qkv.narrow(2, 0, queryWidth).copy_(normed(qkv.narrow(2, 0, queryWidth), weights.queryNorm, m_shape.eps));
        qkv.narrow(2, queryWidth, keyWidth).copy_(normed(qkv.narrow(2, queryWidth, keyWidth), weights.keyNorm, m_shape.eps));
    } else if (m_shape.norm == QkNorm::PerHead) {
        for (const auto& [begin, width, weight] :
             {std::tuple{std::int64_t{0}, queryWidth, weights.queryNorm}, std::tuple{queryWidth, keyWidth, weights.keyNorm}}) {
            at::Tensor part = qkv.narrow(2, begin, width).view({batch, length, width / d, d});
            part.copy_(normed(part, weight, m_shape.eps));
        }
    }
    if (m_shape.clip > 0) qkv.clamp_(-m_shape.clip, m_shape.clip);

    const Tables& rotary = tablesOfRow(length);
    at::Tensor heads = qkv.view({batch, length, m_shape.heads + 2 * m_shape.kvHeads, d});
    const std::int64_t rowWidth = queryWidth + 2 * keyWidth;
    const std::int64_t turned = m_shape.heads + m_shape.kvHeads;
    if (m_compute == at::kFloat) {
        kernels::ropeHalf(qkv.mutable_data_ptr<float>(), rowWidth, d, batch * length, turned, d, length, rotary.cos.const_data_ptr<float>(),
                          rotary.sin.const_data_ptr<float>());
    } else {
        const auto bits = [](const at::Tensor& table) {
            return reinterpret_cast<const std::uint16_t*>(table.const_data_ptr<at::BFloat16>());
        };
        kernels::ropeHalf(reinterpret_cast<std::uint16_t*>(qkv.mutable_data_ptr<at::BFloat16>()), rowWidth, d, batch * length, turned, d,
                          length, bits(rotary.cos), bits(rotary.sin));
    }
    const at::Tensor q = heads.narrow(2, 0, m_shape.heads).transpose(1, 2);
    const at::Tensor k = heads.narrow(2, m_shape.heads, m_shape.kvHeads).transpose(1, 2);
    const at::Tensor v = heads.narrow(2, m_shape.heads + m_shape.kvHeads, m_shape.kvHeads).transpose(1, 2);
    return projected(attend(q, k, v, window), weights);
}

// The same by ATen's operations, and without writing into qkv, which a recorded graph may still need.
at::Tensor Attention::portableQuery(const at::Tensor& qkv, const LayerWeights& weights, int window)
{
    const std::int64_t batch = qkv.size(0);
    const std::int64_t length = qkv.size(1);
    const std::int64_t d = m_shape.headDim;
    const Tables& rotary = tablesOfRow(length);
    const at::Tensor cos = recordable(rotary.cos).view({length, 1, d});
    const at::Tensor sin = recordable(rotary.sin).view({length, 1, d});
    const auto part = [&](std::int64_t firstHead, std::int64_t heads, const at::Tensor& norm) {
        at::Tensor x = qkv.narrow(2, firstHead * d, heads * d);
        if (norm.defined() && m_shape.norm == QkNorm::Whole) x = normed(x, norm, m_shape.eps);
        x = x.reshape({batch, length, heads, d});
        if (norm.defined() && m_shape.norm == QkNorm::PerHead) x = normed(x, norm, m_shape.eps);
        return m_shape.clip > 0 ? x.clamp(-m_shape.clip, m_shape.clip) : x;
    };
    const auto turned = [&](const at::Tensor& x) {
        return x * cos + at::cat({x.narrow(3, d / 2, d - d / 2).neg(), x.narrow(3, 0, d / 2)}, 3) * sin;
    };
    const at::Tensor q = turned(part(0, m_shape.heads, weights.queryNorm)).transpose(1, 2);
    const at::Tensor k = turned(part(m_shape.heads, m_shape.kvHeads, weights.keyNorm)).transpose(1, 2);
    const at::Tensor v = part(m_shape.heads + m_shape.kvHeads, m_shape.kvHeads, {}).transpose(1, 2);
    return attend(q, k, v, window);
}

namespace
{

// Adjacent pairs as complex numbers times s e^{i angle}, in fp32, cast back (native DeepSeek-V2 of transformers 5).
// x [B,T,heads,d], cos and sin [T,d/2] fp32.
at::Tensor ropePairs(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin)
{
    const std::int64_t length = x.size(1);
    const std::int64_t half = x.size(3) / 2;
    const at::Tensor pairs = x.to(at::kFloat).reshape({x.size(0), length, x.size(2), half, 2});
    const at::Tensor real = pairs.select(4, 0);
    const at::Tensor imaginary = pairs.select(4, 1);
    const at::Tensor c = (x.requires_grad() ? recordable(cos) : cos).view({length, 1, half});
    const at::Tensor s = (x.requires_grad() ? recordable(sin) : sin).view({length, 1, half});
    return at::stack({real * c - imaginary * s, real * s + imaginary * c}, 4).flatten(3).to(x.scalar_type());
}

}  // namespace

at::Tensor Attention::latentAttention(const at::Tensor& x, const LayerWeights& weights, int window)
{
    const std::int64_t batch = x.size(0);
    const std::int64_t length = x.size(1);
    const std::int64_t headWidth = m_shape.nopeDim + m_shape.ropeDim;
    const Tables& rotary = tablesOfRow(length);

    at::Tensor q =
        m_shape.queryRank > 0 ? weights.queryB(normed(weights.queryA(x), weights.queryNorm, m_shape.latentEps)) : weights.queryB(x);
    q = q.view({batch, length, m_shape.heads, headWidth});
    const at::Tensor queryRope = ropePairs(q.narrow(3, m_shape.nopeDim, m_shape.ropeDim), rotary.cosHalf, rotary.sinHalf);
    q = at::cat({q.narrow(3, 0, m_shape.nopeDim), queryRope}, 3);

    const at::Tensor compressed = weights.latentA(x);  // [B,T,c | k_rope]
    const at::Tensor latent = normed(compressed.narrow(2, 0, m_shape.latentRank), weights.keyNorm, m_shape.latentEps);
    const at::Tensor keyRope =
        ropePairs(compressed.narrow(2, m_shape.latentRank, m_shape.ropeDim).unsqueeze(2), rotary.cosHalf, rotary.sinHalf);
    if (m_cache) {
        const bool begins = m_cache->seen() == 0;
        m_cache->append(at::cat({latent, keyRope.squeeze(2)}, 2).unsqueeze(1), {}, window);
        if (!begins) return projected(attendLatent(q.transpose(1, 2), weights, window), weights);
    }
    const at::Tensor expanded = weights.latentB(latent).view({batch, length, m_shape.heads, m_shape.nopeDim + m_shape.valueDim});
    const at::Tensor k =
        at::cat({expanded.narrow(3, 0, m_shape.nopeDim), keyRope.expand({batch, length, m_shape.heads, m_shape.ropeDim})}, 3);
    const at::Tensor v = expanded.narrow(3, m_shape.nopeDim, m_shape.valueDim);
    return projected(attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), window), weights);
}

at::Tensor Attention::forward(const at::Tensor& x, const LayerWeights& weights, int window, const TokenTree* tree)
{
    m_tree = tree;
    m_cache = nullptr;
    return m_shape.latent ? latentAttention(x, weights, window) : groupedQuery(x, weights, window);
}

}  // namespace espalier
