// The only thing long work may talk to: asked for a stop between layers and windows, told how far it is, handed partial results.
// Cancellation is racy by nature: a result may still arrive after it was asked for.
#pragma once

#include "base/json.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace espalier
{

// Implementations: the command line (progress on stderr, SIGINT), the engine's job queue (rpc), tests. Called from the thread that works.
class JobContext
{
public:
    virtual ~JobContext() = default;
    virtual bool stopRequested() const noexcept = 0;
    // done of total units; `phase` names what is counted ("layer", "window", "file"). Cheap: implementations throttle.
    virtual void progress(std::int64_t done, std::int64_t total, std::string_view phase) = 0;
    // A result that is final in itself (one window's loss, one layer's scores).
    virtual void partial(const Json& result) = 0;
};

// For callers that want neither.
class SilentJob final : public JobContext
{
public:
    bool stopRequested() const noexcept override { return stop.load(std::memory_order_relaxed); }
    void progress(std::int64_t, std::int64_t, std::string_view) override {}
    void partial(const Json&) override {}
    std::atomic<bool> stop = false;
};

}  // namespace espalier
