#include "shell/engine/requested_job.h"

#include <utility>

namespace espalier
{

void RequestedJob::setJob(std::optional<JobState> job)
{
    m_job = std::move(job);
    emit jobChanged(m_job);
}

void RequestedJob::changeModel(const std::string& path)
{
    cancel();
    ++m_epoch;
    m_request = 0;
    if (m_job) setJob(std::nullopt);
    m_path = path;
}

void RequestedJob::cancel()
{
    if (m_request == 0) return;
    m_engine->cancel(m_request);
    if (!m_job) return;
    m_job->phase = JobState::Phase::Cancelling;
    emit jobChanged(m_job);
}

void RequestedJob::advance(const EngineProgress& progress)
{
    if (!m_job || m_job->phase == JobState::Phase::Cancelling) return;
    m_job->done = progress.done;
    m_job->total = progress.total;
    m_job->etaSeconds = progress.etaSeconds;
    describe(*m_job, progress);
    emit jobChanged(m_job);
}

void RequestedJob::end(const EngineEnd& reply)
{
    setJob(std::nullopt);
    if (reply.outcome == EngineEnd::Outcome::Failed) emit failed(reply.error);
    emit changed();
}

}  // namespace espalier
