// Layers side by side on a pool of threads. The job is told and asked from the calling thread only; while it is asked, which may take as
// long as an interactive evaluation, the layers wait at their next stop check.
#pragma once

#include "base/error.h"
#include "base/job.h"

#include <functional>
#include <string>
#include <vector>

namespace espalier
{

class LayerPool
{
public:
    // What the work of one layer may do while it runs, from its thread.
    class Handle
    {
    public:
        virtual ~Handle() = default;
        virtual bool stopRequested() const = 0;
        // For job.partial, at most ten times a second; a newer report of the same layer replaces one that was not handed over yet.
        virtual void report(Json partial) = 0;
    };
    using Work = std::function<Status(int layer, Handle&)>;

    // Runs `work` for every layer, lowest first, `threads` at a time (0 = one per core). `finished` is called from the calling thread
    // for every layer whose work succeeded. After a stop or an error no further layer is begun; the error of the lowest layer counts.
    // Progress counts layers; `already` of them were done before.
    static Status run(const std::vector<int>& layers, int threads, std::int64_t already, JobContext& job, const Work& work,
                      const std::function<void(int)>& finished);
};

}  // namespace espalier
