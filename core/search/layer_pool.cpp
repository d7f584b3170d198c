#include "search/layer_pool.h"

#include "base/exception.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

namespace espalier
{

namespace
{

constexpr std::chrono::milliseconds kAskEvery{20};      // how soon a stop is noticed
constexpr std::chrono::milliseconds kReportEvery{100};  // a person watches; traces grow with every generation

struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    std::map<int, Json> reports;  // newest per layer
    std::vector<int> finished;
    std::map<int, Error> errors;
    int running = 0;
    std::atomic<bool> stop = false;
    std::atomic<bool> held = false;  // while the job is asked: it may run something else first, which gets the cores
    std::condition_variable released;
    std::atomic<std::size_t> next = 0;
};

class LayerHandle final : public LayerPool::Handle
{
public:
    LayerHandle(Shared& shared, int layer) : m_shared(shared), m_layer(layer) {}
    bool stopRequested() const override
    {
        if (m_shared.held.load(std::memory_order_relaxed)) {
            std::unique_lock lock(m_shared.mutex);
            m_shared.released.wait(lock, [this] { return !m_shared.held; });
        }
        return m_shared.stop.load(std::memory_order_relaxed);
    }
    void report(Json partial) override
    {
        const std::lock_guard lock(m_shared.mutex);
        m_shared.reports.insert_or_assign(m_layer, std::move(partial));
    }

private:
    Shared& m_shared;
    int m_layer;
};

Status guarded(const LayerPool::Work& work, int layer, LayerPool::Handle& handle)
{
    try {
        return work(layer, handle);
    } catch (const std::exception& failure) {
        return errorOf(failure,
                       resourceError("search.out_of_memory", "layer " + std::to_string(layer), "There is not enough memory for the search.",
                                     "Search fewer layers at a time."),
                       "The search in layer " + std::to_string(layer));
    }
}

}  // namespace

Status LayerPool::run(const std::vector<int>& layers, int threads, std::int64_t already, JobContext& job, const Work& work,
                      const std::function<void(int)>& finished)
{
    if (threads <= 0) threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    threads = std::min<int>(threads, static_cast<int>(layers.size()));
    const std::int64_t total = already + static_cast<std::int64_t>(layers.size());
    std::int64_t done = already;
    job.progress(done, total, "layer");

    Shared shared;
    shared.running = threads;
    std::vector<std::thread> pool;
    pool.reserve(static_cast<std::size_t>(threads));
    for (int i = 0; i < threads; ++i)
        pool.emplace_back([&] {
            for (std::size_t at = shared.next++; at < layers.size() && !shared.stop; at = shared.next++) {
                LayerHandle handle(shared, layers[at]);
                Status status = guarded(work, layers[at], handle);
                const std::lock_guard lock(shared.mutex);
                if (status.ok()) {
                    shared.finished.push_back(layers[at]);
                } else {
                    shared.errors.emplace(layers[at], status.error());
                    shared.stop = true;
                }
                shared.changed.notify_one();
            }
            const std::lock_guard lock(shared.mutex);
            --shared.running;
            shared.changed.notify_one();
        });

    bool running = true;
    std::optional<std::chrono::steady_clock::time_point> reported;
    while (running) {
        std::map<int, Json> reports;
        std::vector<int> ready;
        {
            std::unique_lock lock(shared.mutex);
            if (shared.finished.empty() && shared.running > 0) shared.changed.wait_for(lock, kAskEvery);
            ready.swap(shared.finished);
            running = shared.running > 0;
            const auto now = std::chrono::steady_clock::now();
            if (!ready.empty() || !reported || now - *reported >= kReportEvery) {
                reports.swap(shared.reports);
                reported = now;
            }
        }
        for (auto& [layer, report] : reports)
            job.partial(report);
        for (const int layer : ready) {
            finished(layer);
            job.progress(++done, total, "layer");
        }
        shared.held = true;
        if (job.stopRequested()) shared.stop = true;
        {
            const std::lock_guard lock(shared.mutex);
            shared.held = false;
        }
        shared.released.notify_all();
    }
    for (std::thread& thread : pool)
        thread.join();
    for (const auto& [layer, error] : shared.errors)
        if (error.code != cancelledError().code) return error;
    if (done < total) return cancelledError();
    return {};
}

}  // namespace espalier
