#include "model/weight_store.h"

#include "base/exception.h"
#include "checkpoint/checkpoint.h"

#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <utility>

#include <malloc.h>

namespace espalier
{

WeightStore::WeightStore(std::shared_ptr<const Checkpoint> checkpoint, at::ScalarType compute, const Placement& placement, int layers,
                         const Holding& holding, int threads)
    : m_checkpoint(std::move(checkpoint)),
      m_compute(compute),
      m_placement(placement),
      m_holding(holding),
      m_threads(threads),
      m_slots(static_cast<std::size_t>(layers)),
      m_reader([this] { readerLoop(); }),
      m_pages([this] { pagesLoop(); })
{
}

WeightStore::~WeightStore()
{
    {
        const std::lock_guard lock(m_mutex);
        m_stop = true;
        m_queue.clear();
        m_pagesQueue.clear();
    }
    m_work.notify_all();
    m_pagesWork.notify_all();
    m_reader.join();
    m_pages.join();
}

void WeightStore::enqueue(int layer, bool urgent)
{
    Slot& slot = m_slots[static_cast<std::size_t>(layer)];
    if (slot.weights) return;
    if (!slot.queued) {
        slot.queued = true;
        slot.error.reset();
        m_queue.push_back(layer);
    }
    slot.awaited = slot.awaited || urgent;
    if (urgent) {
        const auto place = std::find(m_queue.begin(), m_queue.end(), layer);
        if (place != m_queue.end()) std::rotate(m_queue.begin(), place, place + 1);
    }
    m_work.notify_one();
}

void WeightStore::askForPages(int layer)
{
    if (layer < 0 || layer >= static_cast<int>(m_slots.size())) return;
    Slot& slot = m_slots[static_cast<std::size_t>(layer)];
    if (slot.weights || slot.paged) return;
    slot.paged = true;
    m_pagesQueue.push_back(layer);
    m_pagesWork.notify_one();
}

void WeightStore::pagesLoop()
{
    for (;;) {
        int layer = 0;
        {
            std::unique_lock lock(m_mutex);
            m_pagesWork.wait(lock, [this] { return m_stop || !m_pagesQueue.empty(); });
            if (m_stop) return;
            layer = m_pagesQueue.front();
            m_pagesQueue.pop_front();
            if (m_slots[static_cast<std::size_t>(layer)].weights) continue;
        }
        m_checkpoint->readLayer(layer, [this] { return !m_stop; });
    }
}

void WeightStore::readerLoop()
{
    const c10::InferenceMode guard;
    std::optional<DeviceStaging> staging;
    for (;;) {
        int layer = 0;
        int threads = 1;
        {
            std::unique_lock lock(m_mutex);
            m_work.wait(lock, [this] { return m_stop || !m_queue.empty(); });
            if (m_stop) return;
            layer = m_queue.front();
            m_queue.pop_front();
            if (m_slots[static_cast<std::size_t>(layer)].awaited) threads = m_threads;
        }
        std::shared_ptr<const LayerWeights> weights;
        std::optional<Error> error;
        try {
            if (m_placement.portable && !staging) staging.emplace(m_placement.device);
            auto loaded = loadLayer(*m_checkpoint, layer,
                                    {.compute = m_compute,
                                     .threads = threads,
                                     .heldExperts = staging ? -1 : m_holding.experts,
                                     .mostRead = m_holding.mostRead,
                                     .staging = staging ? &*staging : nullptr});
            if (loaded)
                weights = std::move(loaded).value();
            else
                error = std::move(loaded).error();
        } catch (const std::exception& failure) {
            error = errorOf(failure,
                            resourceError("model.out_of_memory", std::to_string(layer),
                                          "The weights of layer " + std::to_string(layer) + " do not fit in memory.",
                                          "Close other programs, or lower the memory budget so that layers are streamed."),
                            "Loading layer " + std::to_string(layer));
        }
        // Where the converted copy is all that is read from now on, the file's pages may go.
        if (!weights || !weights->reader) m_checkpoint->dontNeedLayer(layer);
        {
            const std::lock_guard lock(m_mutex);
            Slot& slot = m_slots[static_cast<std::size_t>(layer)];
            slot.weights = std::move(weights);
            slot.error = std::move(error);
            slot.queued = false;
            slot.awaited = false;
            slot.paged = false;
        }
        m_ready.notify_all();
    }
}

Result<std::shared_ptr<const LayerWeights>> WeightStore::layer(int layer, int step)
{
    std::unique_lock lock(m_mutex);
    Slot& slot = m_slots[static_cast<std::size_t>(layer)];
    const int count = static_cast<int>(m_slots.size());
    bool dropped = false;
    // Room first: in a stream the layer before this one must be gone before the next one is read.
    for (int i = m_holding.layers; i < count; ++i)
        if (i != layer && (i != layer + step || !m_holding.readAhead))
            if (const auto gone = std::exchange(m_slots[static_cast<std::size_t>(i)].weights, {})) {
                dropped = true;
                if (gone->reader) m_checkpoint->dontNeedLayer(i);
            }
    // The allocator keeps freed pages between those of the layer that was read meanwhile; a memory budget counts them.
    if (dropped) malloc_trim(0);
    const int next = layer + step;
    askForPages(layer);
    askForPages(next);
    if (m_holding.readAhead) askForPages(next + step);
    if (!slot.weights) {
        slot.error.reset();
        enqueue(layer, true);
        m_ready.wait(lock, [&] { return slot.weights || slot.error; });
    }
    if (!slot.weights) {
        Error error = *std::move(slot.error);
        slot.error.reset();
        return error;
    }
    auto weights = slot.weights;
    if (next < 0 || next >= count || m_slots[static_cast<std::size_t>(next)].weights) return weights;
    if (m_holding.readAhead || next < m_holding.layers) enqueue(next, false);
    return weights;
}

void WeightStore::dropStreamed()
{
    const std::unique_lock lock(m_mutex);
    for (std::size_t i = static_cast<std::size_t>(m_holding.layers); i < m_slots.size(); ++i)
        if (const auto gone = std::exchange(m_slots[i].weights, {}); gone && gone->reader) m_checkpoint->dontNeedLayer(static_cast<int>(i));
    malloc_trim(0);
}

Result<std::shared_ptr<const GlobalWeights>> WeightStore::globals()
{
    if (!m_globals) {
        try {
            std::optional<DeviceStaging> staging;
            if (m_placement.portable) staging.emplace(m_placement.device);
            ESPALIER_TRY(m_globals,
                         loadGlobals(*m_checkpoint, m_compute, m_holding.headInBlocks && !staging, staging ? &*staging : nullptr));
        } catch (const std::exception& failure) {
            return errorOf(failure,
                           resourceError("model.out_of_memory", "embedding", "The embedding and the output head do not fit in memory.",
                                         "Close other programs, or lower the memory budget so that the head is converted in blocks."),
                           "Loading the output head");
        }
    }
    return m_globals;
}

std::int64_t WeightStore::bytes() const
{
    const std::lock_guard lock(m_mutex);
    std::int64_t total = m_globals ? m_globals->bytes : 0;
    for (const Slot& slot : m_slots)
        if (slot.weights) total += slot.weights->bytes;
    return total;
}

void WeightStore::release()
{
    std::unique_lock lock(m_mutex);
    for (const int layer : m_queue)
        m_slots[static_cast<std::size_t>(layer)].queued = false;
    m_queue.clear();
    m_pagesQueue.clear();
    for (Slot& slot : m_slots) {
        slot.weights.reset();
        slot.paged = false;
    }
    m_globals.reset();
}

}  // namespace espalier
