// A sequence under a plan: what was fed to the model, and the cache that the next token needs. Belongs to the compute thread; the model
// must outlive it.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "model/kv_cache.h"
#include "model/moe_model_torch.h"

#include <chrono>
#include <cstdint>
#include <span>

namespace espalier
{

// Time that passes outside stop checks, in which another job may run.
class WorkClock final : public JobContext
{
public:
    using Clock = std::chrono::steady_clock;
    explicit WorkClock(JobContext& job) : m_job(job), m_start(Clock::now()) {}
    bool stopRequested() const noexcept override
    {
        const auto begin = Clock::now();
        const bool stop = m_job.stopRequested();
        m_elsewhere += Clock::now() - begin;
        return stop;
    }
    void progress(std::int64_t done, std::int64_t total, std::string_view phase) override { m_job.progress(done, total, phase); }
    void partial(const Json& result) override { m_job.partial(result); }
    double seconds() const { return std::chrono::duration<double>(Clock::now() - m_start - m_elsewhere).count(); }

private:
    JobContext& m_job;
    Clock::time_point m_start;
    mutable Clock::duration m_elsewhere{};
};

class Sequence
{
public:
    // For up to `capacity` tokens. Errors: model.cache_too_large.
    static Result<Sequence> begin(MoeModel& model, PreparedPlan plan, std::int64_t capacity);

    // The tokens that follow -> logits [V] fp32 behind the last of them. A long row goes through every layer in parts. After an error,
    // cancellation included, the sequence is of no more use. Errors: those of MoeModel::embed, extend, logits; job.cancelled.
    Result<at::Tensor> feed(std::span<const int> ids, JobContext& job);
    std::int64_t length() const { return m_length; }  // tokens fed
    std::int64_t cacheBytes() const { return m_cache.bytes(); }

private:
    Sequence(MoeModel& model, PreparedPlan plan, KvCache cache) : m_model(&model), m_plan(std::move(plan)), m_cache(std::move(cache)) {}

    MoeModel* m_model;
    PreparedPlan m_plan;
    KvCache m_cache;
    std::int64_t m_length = 0;
};

}  // namespace espalier
