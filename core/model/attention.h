// Attention of the supported families (formulas: README.md here): grouped-query attention with optional biases, q/k norms, clamp and
// sliding window, and multi-head latent attention with YaRN (DeepSeek-V2).
#pragma once

#include "checkpoint/model_config.h"
#include "model/kv_cache.h"
#include "model/layer_weights.h"
#include "model/token_tree.h"

#include <ATen/ATen.h>

#include <map>
#include <optional>
#include <utility>
#include <vector>

namespace espalier
{

struct AttentionShape {
    int hiddenSize = 0;
    int heads = 0;
    int kvHeads = 0;
    int headDim = 0;  // of q and k; rotary over all of it, MLA excepted
    double eps = 1e-6;
    QkNorm norm = QkNorm::None;
    double clip = 0;  // 0 = none
    double softmaxScale = 0;
    // Multi-head latent attention: q and k heads are nope | rope, v has its own width.
    bool latent = false;
    int queryRank = 0;  // 0: q_proj instead of q_a, q_b
    int latentRank = 0;
    double latentEps = 1e-6;
    int nopeDim = 0;
    int ropeDim = 0;
    int valueDim = 0;
    // Rotary embedding.
    std::vector<float> inverseFrequencies;  // rotary dim / 2
    double rotaryScale = 1;                 // of cos and sin
};

// YaRN (arXiv 2309.00071) or plain frequencies, and the factors that go with them (README.md here).
struct RotarySetup {
    std::vector<float> inverseFrequencies;
    double cosSinScale = 1;
    double softmaxFactor = 1;  // multiplies dim^-0.5
};
// `scalesSoftmax`: DeepSeek multiplies the softmax scale, the others do not.
RotarySetup rotarySetup(int dim, double theta, const RopeScaling& scaling, bool scalesSoftmax);
AttentionShape attentionShape(const ModelConfig& config);

// Belongs to the compute thread; keeps tables and masks of the lengths it has seen, on the device of x. Where x takes the portable way
// (model/placement.h), every operation is one that autograd follows and that any device knows.
class Attention
{
public:
    Attention(AttentionShape shape, at::ScalarType compute, c10::Device device = c10::kCPU)
        : m_shape(std::move(shape)), m_compute(compute), m_device(device)
    {
    }

    // x [B,T,H], normed; window 0 = full causal. Output after o_proj [B,T,H]. With a tree B is 1 and tokens see what leads to them.
    at::Tensor forward(const at::Tensor& x, const LayerWeights& weights, int window, const TokenTree* tree = nullptr);
    // What o_proj gets in the calls to come, put there; null: nowhere.
    void seeOutputInput(at::Tensor* seen) { m_seen = seen; }
    // x [1,T,H]: the T tokens behind those that the cache has seen, which it has as well then. The first ones of a sequence are computed as
    // forward() does, to the bit.
    at::Tensor extend(const at::Tensor& x, const LayerWeights& weights, int window, LayerCache& cache, bool keepExpansion);

private:
    struct Tables {
        at::Tensor cos, sin;          // [T, d] compute type
        at::Tensor cosHalf, sinHalf;  // [T, d/2] fp32, scaled
    };
    const Tables& tables(std::int64_t length);
    const Tables& tablesOfRow(std::int64_t length);
    const at::Tensor& windowMask(std::int64_t length, int window);
    at::Tensor normed(const at::Tensor& x, const at::Tensor& weight, double eps) const;
    at::Tensor groupedQuery(const at::Tensor& x, const LayerWeights& weights, int window);
    at::Tensor portableQuery(const at::Tensor& qkv, const LayerWeights& weights, int window);
    at::Tensor latentAttention(const at::Tensor& x, const LayerWeights& weights, int window);
    at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int window);
    // Over a cache that has tokens from before (cached_attention.cpp). q [1,heads,T,d]; of latent attention q is nope | rope.
    at::Tensor attendCached(const at::Tensor& q, int window);
    at::Tensor attendLatent(const at::Tensor& q, const LayerWeights& weights, int window);

    at::Tensor projected(const at::Tensor& in, const LayerWeights& weights) const
    {
        if (m_seen) *m_seen = in;
        return weights.output(in);
    }

    AttentionShape m_shape;
    at::ScalarType m_compute;
    c10::Device m_device;
    std::map<std::int64_t, Tables> m_tables;
    const TokenTree* m_tree = nullptr;  // of the forward call that runs
    at::Tensor* m_seen = nullptr;
    LayerCache* m_cache = nullptr;  // of the extend call that runs
    bool m_keepExpansion = false;
    Tables m_partTables;  // of the positions of that call
    std::map<std::pair<std::int64_t, int>, at::Tensor> m_masks;
};

// Private to core/model. q [B,heads,T,d], the last T of the k [B,kvHeads,T',d] and v [B,kvHeads,T',dv] -> [B,T,heads*dv]. Head after head,
// each on one thread, in fp32 whatever the compute type.
at::Tensor attendHeadByHead(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int window, double scale);
// The same by ATen's fused kernel; `mask` is added to the scores, without one tokens see those up to their own.
at::Tensor attendFused(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::optional<at::Tensor>& mask, double scale);

}  // namespace espalier
