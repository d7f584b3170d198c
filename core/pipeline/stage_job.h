// Wrappers of a JobContext for the parts of a longer job.
#pragma once

#include "base/job.h"
#include "rpc/plan_event.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

namespace espalier
{

// Passes on what a stage says, with its name.
class StageJob final : public JobContext
{
public:
    StageJob(JobContext& job, std::string stage) : m_job(job), m_stage(std::move(stage)) {}
    bool stopRequested() const noexcept override { return m_job.stopRequested(); }
    void progress(std::int64_t done, std::int64_t total, std::string_view phase) override { m_job.progress(done, total, phase); }
    void partial(const Json& result) override { m_job.partial(withStage(result, m_stage)); }

private:
    JobContext& m_job;
    std::string m_stage;
};

// The progress of one part of a longer job, as thousandths of the whole. Never goes back, whatever the part counts and however often it
// begins again.
class PartJob final : public JobContext
{
public:
    explicit PartJob(JobContext& job) : m_job(job) {}
    // Shares of the whole, in [0, 1].
    void begin(double from, double to)
    {
        m_from = from;
        m_to = to;
        tell(from);
    }
    bool stopRequested() const noexcept override { return m_job.stopRequested(); }
    void progress(std::int64_t done, std::int64_t total, std::string_view) override
    {
        if (total > 0) tell(m_from + (m_to - m_from) * static_cast<double>(std::min(done, total)) / static_cast<double>(total));
    }
    void partial(const Json& result) override { m_job.partial(result); }

private:
    void tell(double share)
    {
        // The last thousandth is the answer's.
        m_told = std::max(m_told, static_cast<std::int64_t>(999 * share));
        m_job.progress(m_told, 1000, "search");
    }

    JobContext& m_job;
    double m_from = 0;
    double m_to = 1;
    std::int64_t m_told = 0;
};

// Windows of single measurements are not results of the search they belong to.
class SilentPartials final : public JobContext
{
public:
    explicit SilentPartials(JobContext& job) : m_job(job) {}
    bool stopRequested() const noexcept override { return m_job.stopRequested(); }
    void progress(std::int64_t, std::int64_t, std::string_view) override {}
    void partial(const Json&) override {}

private:
    JobContext& m_job;
};

}  // namespace espalier
