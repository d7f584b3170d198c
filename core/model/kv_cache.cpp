#include "model/kv_cache.h"

#include "checkpoint/model_config.h"

#include <algorithm>

namespace espalier
{

namespace
{

// Rows of a cache that is made anew: it doubles as it grows, so that a sequence is copied once or twice in all.
constexpr std::int64_t kFirstRows = 64;

std::int64_t roomFor(std::int64_t rows)
{
    std::int64_t room = kFirstRows;
    while (room < rows)
        room *= 2;
    return room;
}

void write(at::Tensor& buffer, const at::Tensor& rows, std::int64_t at) { buffer.narrow(2, at, rows.size(2)).copy_(rows); }

at::Tensor grown(const at::Tensor& buffer, const at::Tensor& like, std::int64_t first, std::int64_t held, std::int64_t room)
{
    at::Tensor next = at::empty({1, like.size(1), room, like.size(3)}, like.options());
    if (held > 0) next.narrow(2, 0, held).copy_(buffer.narrow(2, first, held));
    return next;
}

}  // namespace

void LayerCache::append(const at::Tensor& keys, const at::Tensor& values, int window)
{
    const std::int64_t added = keys.size(2);
    const std::int64_t room = m_keys.defined() ? m_keys.size(2) : 0;
    if (m_held + added > room) {
        // The first of the new tokens still looks back over window - 1 others.
        const std::int64_t kept = window > 0 ? std::min<std::int64_t>(m_held, window - 1) : m_held;
        const std::int64_t wanted = std::max(roomFor(kept + added), room);
        m_keys = grown(m_keys, keys, m_held - kept, kept, wanted);
        if (values.defined()) m_values = grown(m_values, values, m_held - kept, kept, wanted);
        m_held = kept;
    }
    write(m_keys, keys, m_held);
    if (values.defined()) write(m_values, values, m_held);
    m_held += added;
    m_seen += added;
}

std::int64_t LayerCache::bytes() const
{
    std::int64_t bytes = 0;
    for (const at::Tensor* tensor : {&m_keys, &m_values, &expansion})
        if (tensor->defined()) bytes += static_cast<std::int64_t>(tensor->nbytes());
    return bytes;
}

std::int64_t KvCache::bytes() const
{
    std::int64_t bytes = 0;
    for (const LayerCache& layer : m_layers)
        bytes += layer.bytes();
    return bytes;
}

std::int64_t kvCacheBytes(const ModelConfig& config, std::int64_t tokens, std::int64_t valueBytes)
{
    const std::int64_t width =
        config.mla ? config.mla->kvLoraRank + config.mla->ropeHeadDim : std::int64_t{2} * config.kvHeads * config.headDim;
    std::int64_t bytes = 0;
    for (const LayerConfig& layer : config.layers) {
        const std::int64_t rows = layer.window > 0 ? std::min<std::int64_t>(tokens, 2 * std::int64_t{layer.window}) : tokens;
        bytes += roomFor(rows) * width * valueBytes;
    }
    return bytes;
}

std::int64_t kvExpansionBytes(const ModelConfig& config, std::int64_t valueBytes)
{
    if (!config.mla) return 0;
    const std::int64_t each = std::int64_t{config.heads} * (config.mla->nopeHeadDim + config.mla->valueHeadDim) * config.mla->kvLoraRank;
    return each * std::ssize(config.layers) * valueBytes;
}

}  // namespace espalier
