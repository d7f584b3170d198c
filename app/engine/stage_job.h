// Wrappers of a JobContext for the parts of a longer job.
#pragma once

#include "base/job.h"

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
    void partial(const Json& result) override
    {
        Json named = result;
        if (named.is_object()) named["stage"] = m_stage;
        m_job.partial(named);
    }

private:
    JobContext& m_job;
    std::string m_stage;
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
