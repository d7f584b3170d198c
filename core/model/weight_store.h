// Keeps the weights that a pass needs: while layer l computes, one thread converts layer l+1 and another one reads the pages of the layer
// behind it from the disk.
#pragma once

#include "base/error.h"
#include "model/device_staging.h"
#include "model/layer_weights.h"
#include "model/moe_model.h"
#include "model/placement.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace espalier
{

class WeightStore
{
public:
    struct Holding {
        int layers = 0;         // the first so many stay once loaded, the others are dropped when the pass has gone on
        bool readAhead = true;  // the next layer is converted while one computes, so that two streamed layers are in memory; else only its
                                // pages are read
        int experts = -1;       // of a layer; the others are converted each time they are wanted, `mostRead` at a time. -1 = all
        int mostRead = 1;
        bool headInBlocks = false;
    };
    // Where the placement is portable, the weights lie on its device, all experts and the head included. `threads` convert a layer that
    // the compute thread waits for.
    WeightStore(std::shared_ptr<const Checkpoint> checkpoint, at::ScalarType compute, const Placement& placement, int layers,
                const Holding& holding, int threads);
    ~WeightStore();
    WeightStore(const WeightStore&) = delete;
    WeightStore& operator=(const WeightStore&) = delete;

    // Blocks until the layer is there, drops what is neither resident nor next, and starts reading the next layer (layer + step). The
    // caller has let go of the layer before, and a device has finished with it.
    Result<std::shared_ptr<const LayerWeights>> layer(int layer, int step = 1);
    // Layers that do not stay. The caller has let go of them.
    void dropStreamed();
    Result<std::shared_ptr<const GlobalWeights>> globals();
    std::int64_t bytes() const;
    void release();

private:
    struct Slot {
        std::shared_ptr<const LayerWeights> weights;
        std::optional<Error> error;
        bool queued = false;
        bool awaited = false;  // the compute thread waits for it
        bool paged = false;    // its pages were asked for
    };
    void readerLoop();
    void pagesLoop();
    // With the lock held.
    void enqueue(int layer, bool urgent);
    void askForPages(int layer);

    const std::shared_ptr<const Checkpoint> m_checkpoint;
    const at::ScalarType m_compute;
    const Placement m_placement;
    const Holding m_holding;
    const int m_threads;  // that convert a layer the compute thread waits for
    std::shared_ptr<const GlobalWeights> m_globals;

    mutable std::mutex m_mutex;
    std::condition_variable m_work;
    std::condition_variable m_ready;
    std::vector<Slot> m_slots;
    std::condition_variable m_pagesWork;
    std::deque<int> m_queue;
    std::deque<int> m_pagesQueue;
    std::atomic<bool> m_stop = false;
    std::thread m_reader;
    std::thread m_pages;
};

}  // namespace espalier
