// A measurement that the user asks for: one request to the engine at a time, of which the newest wins, with the job that the status bar
// shows. What came before a stop stays with whoever derives from this. GUI thread.
#pragma once

#include "shell/engine/engine_client.h"

#include <QObject>

#include <optional>
#include <string>
#include <vector>

namespace espalier
{

class RequestedJob : public QObject
{
    Q_OBJECT
public:
    void cancel();
    bool busy() const { return m_job.has_value(); }
    const std::optional<JobState>& job() const { return m_job; }

signals:
    void changed();  // numbers, or what runs
    void jobChanged(const std::optional<espalier::JobState>& job);
    void failed(const espalier::Error& error);
    void warned(const std::vector<std::string>& sentences);

protected:
    RequestedJob(EngineClient* engine, QObject* parent) : QObject(parent), m_engine(engine) {}

    // Another model, or none: what runs is stopped and its answer dropped.
    void changeModel(const std::string& path);
    bool canAsk() const { return !m_path.empty() && m_engine->usable(); }
    const std::string& path() const { return m_path; }

    // `done` and `partial` are called for the newest request only. The engine itself ends what has the same tag.
    template <typename Request>
    void ask(const Request& request, const JobTag& tag, const QString& what,
             std::function<void(const EngineAnswer<typename Request::Answer>&)> done,
             std::function<void(const typename PartialOf<Request>::Type&)> partial = {})
    {
        const int epoch = ++m_epoch;
        JobState job;
        job.what = what;
        setJob(std::move(job));
        std::function<void(const typename PartialOf<Request>::Type&)> newest;
        if (partial)
            newest = [this, epoch, partial = std::move(partial)](const typename PartialOf<Request>::Type& value) {
                if (epoch == m_epoch) partial(value);
            };
        m_request = m_engine->ask(
            request, tag,
            [this, epoch, done = std::move(done)](const EngineAnswer<typename Request::Answer>& reply) {
                if (epoch != m_epoch) return;
                m_request = 0;
                done(reply);
            },
            [this, epoch](const EngineProgress& progress) {
                if (epoch == m_epoch) advance(progress);
            },
            std::move(newest));
        emit changed();
    }
    // No request follows.
    void end(const EngineEnd& reply);
    // More of the job than how far it is.
    virtual void describe(JobState& /*job*/, const EngineProgress& /*progress*/) const {}

private:
    void setJob(std::optional<JobState> job);
    void advance(const EngineProgress& progress);

    EngineClient* m_engine;
    std::string m_path;
    std::optional<JobState> m_job;
    std::int64_t m_request = 0;
    int m_epoch = 0;  // counts requests and models: answers of an earlier one are dropped
};

}  // namespace espalier
