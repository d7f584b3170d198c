// What attention keeps of a sequence that grows: keys and values of every layer, or, for latent attention (arXiv 2405.04434), the vectors
// c | k_rope that they are made of. A layer with a sliding window keeps what its window can still reach. Belongs to the compute thread, to
// one model and to one plan.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

namespace espalier
{

struct ModelConfig;

class LayerCache
{
public:
    // keys [1,heads,T,d] and values [1,heads,T,dv] of the T tokens that follow, roped and normed as they are compared. Without values
    // (undefined) none are kept. `window`: of the layer, 0 = none.
    void append(const at::Tensor& keys, const at::Tensor& values, int window);

    std::int64_t seen() const { return m_seen; }                         // tokens so far: the position of the next one
    std::int64_t held() const { return m_held; }                         // of those, the last so many
    at::Tensor keys() const { return m_keys.narrow(2, 0, m_held); }      // [1,heads,held,d], rows of a head dense
    at::Tensor values() const { return m_values.narrow(2, 0, m_held); }  // [1,heads,held,dv]
    std::int64_t bytes() const;

    // Of latent attention: W_kvb row by row, [heads,nope + v,rank], where it may be kept.
    at::Tensor expansion;

private:
    at::Tensor m_keys, m_values;  // [1,heads,capacity,..]
    std::int64_t m_held = 0;
    std::int64_t m_seen = 0;
};

class KvCache
{
public:
    // `keepExpansions`: bytes beside the cache for LayerCache::expansion of all layers are there (kvExpansionBytes).
    explicit KvCache(int layers, bool keepExpansions = true) : m_layers(static_cast<std::size_t>(layers)), m_keeps(keepExpansions) {}

    LayerCache& layer(int layer) { return m_layers[static_cast<std::size_t>(layer)]; }
    const LayerCache& layer(int layer) const { return m_layers[static_cast<std::size_t>(layer)]; }
    bool keepsExpansions() const { return m_keeps; }
    std::int64_t bytes() const;

private:
    std::vector<LayerCache> m_layers;
    bool m_keeps;
};

// Bytes that a cache takes for a sequence of so many tokens, and its expansions beside it. `valueBytes`: of the compute type.
std::int64_t kvCacheBytes(const ModelConfig& config, std::int64_t tokens, std::int64_t valueBytes);
std::int64_t kvExpansionBytes(const ModelConfig& config, std::int64_t valueBytes);

}  // namespace espalier
