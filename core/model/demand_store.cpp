#include "model/demand_store.h"

#include "checkpoint/checkpoint.h"

#include <c10/core/InferenceMode.h>

#include <utility>

namespace espalier
{

// Of one layer. The store outlives the layers that it hands out.
class DemandStore::Experts final : public ExpertSource
{
public:
    Experts(DemandStore& store, int layer) : m_store(store), m_layer(layer) {}
    std::shared_ptr<const GatedMlp> read(int expert) override
    {
        std::string bad;
        auto mlp = m_store.expert(m_layer, expert, bad);
        if (!bad.empty()) {
            const std::scoped_lock lock(m_mutex);
            if (m_bad.empty()) m_bad = bad;
        }
        return mlp;
    }
    std::string nonFinite() const override
    {
        const std::scoped_lock lock(m_mutex);
        return m_bad;
    }

private:
    DemandStore& m_store;
    const int m_layer;
    mutable std::mutex m_mutex;
    std::string m_bad;
};

DemandStore::DemandStore(std::shared_ptr<const Checkpoint> checkpoint, at::ScalarType compute, int layers, std::int64_t budget)
    : m_checkpoint(std::move(checkpoint)), m_compute(compute), m_budget(budget), m_layers(static_cast<std::size_t>(layers))
{
}

Result<std::shared_ptr<const LayerWeights>> DemandStore::layer(int layer)
{
    std::shared_ptr<const LayerWeights>& kept = m_layers[static_cast<std::size_t>(layer)];
    if (kept) return kept;
    LayerLoading loading;
    loading.compute = m_compute;
    loading.experts = std::make_shared<Experts>(*this, layer);
    ESPALIER_TRY(auto weights, loadLayer(*m_checkpoint, layer, loading));
    m_checkpoint->dontNeedLayer(layer);
    const std::scoped_lock lock(m_mutex);
    m_bytesRead += weights->bytes;
    // Every token needs every layer, in turn: those that came first stay, and experts make room for them.
    if (m_layerBytes + weights->bytes <= m_budget) {
        kept = weights;
        m_layerBytes += weights->bytes;
        shrink();
    }
    return weights;
}

// Exactly those: a fault on a page that nobody asked for reads its neighbours too.
void DemandStore::expect(int layer, int expert)
{
    {
        const std::scoped_lock lock(m_mutex);
        if (m_places.contains({layer, expert})) return;
    }
    for (const Matrix matrix : {Matrix::Gate, Matrix::Up, Matrix::Down})
        m_checkpoint->willNeed(m_checkpoint->expert(layer, expert, matrix));
}

std::shared_ptr<const GatedMlp> DemandStore::expert(int layer, int expert, std::string& bad)
{
    const Key key{layer, expert};
    {
        const std::scoped_lock lock(m_mutex);
        if (const auto place = m_places.find(key); place != m_places.end()) {
            m_held.splice(m_held.begin(), m_held, place->second);
            return m_held.front().mlp;
        }
    }
    const c10::InferenceMode guard;
    std::int64_t bytes = 0;
    auto mlp = loadExpert(*m_checkpoint, layer, expert, m_compute, bad, bytes);
    for (const Matrix matrix : {Matrix::Gate, Matrix::Up, Matrix::Down})
        m_checkpoint->dontNeed(m_checkpoint->expert(layer, expert, matrix));
    const std::scoped_lock lock(m_mutex);
    m_bytesRead += bytes;
    ++m_expertsRead;
    // One that is not finite is read, and named, again.
    if (!bad.empty() || m_places.contains(key)) return mlp;
    m_held.push_front({key, mlp, bytes});
    m_places.emplace(key, m_held.begin());
    m_expertBytes += bytes;
    shrink();
    return mlp;
}

void DemandStore::shrink()
{
    while (!m_held.empty() && m_layerBytes + m_expertBytes > m_budget) {
        m_expertBytes -= m_held.back().bytes;
        m_places.erase(m_held.back().key);
        m_held.pop_back();
    }
}

std::int64_t DemandStore::bytes() const
{
    const std::scoped_lock lock(m_mutex);
    return m_layerBytes + m_expertBytes;
}

std::int64_t DemandStore::bytesRead() const
{
    const std::scoped_lock lock(m_mutex);
    return m_bytesRead;
}

std::int64_t DemandStore::expertsRead() const
{
    const std::scoped_lock lock(m_mutex);
    return m_expertsRead;
}

void DemandStore::release()
{
    const std::scoped_lock lock(m_mutex);
    for (auto& layer : m_layers)
        layer.reset();
    m_held.clear();
    m_places.clear();
    m_layerBytes = m_expertBytes = 0;
}

}  // namespace espalier
