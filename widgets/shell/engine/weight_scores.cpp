#include "shell/engine/weight_scores.h"

#include <algorithm>
#include <utility>

namespace espalier
{

bool readsWeights(const MethodInfo& method) { return std::find(method.needs.begin(), method.needs.end(), "weights") != method.needs.end(); }

bool readsWeightsAlone(const MethodInfo& method) { return method.needs.size() == 1 && readsWeights(method); }

WeightScores::WeightScores(EngineClient* engine, QObject* parent) : QObject(parent), m_engine(engine) {}

void WeightScores::setModel(const QString& path)
{
    if (m_request != 0) m_engine->cancel(m_request);
    ++m_epoch;
    m_model = path;
    m_request = 0;
    m_wanted.clear();
    if (std::exchange(m_job, std::nullopt)) emit jobChanged();
}

void WeightScores::ask(const MethodInfo& method, const QString& profile)
{
    if (m_model.isEmpty() || !m_engine->usable() || m_wanted.contains(method.id)) return;
    m_wanted[method.id] = {method.title, readsWeightsAlone(method) ? std::string() : profile.toStdString()};
    next();
}

void WeightScores::cancel()
{
    if (m_request == 0) return;
    m_engine->cancel(m_request);
    if (!m_job) return;
    m_job->phase = JobState::Phase::Cancelling;
    emit jobChanged();
}

void WeightScores::next()
{
    if (m_request != 0 || m_wanted.empty()) return;
    const auto& [method, wanted] = *m_wanted.begin();
    m_job.emplace();
    m_job->what = tr("%1 · reads the weights").arg(QString::fromStdString(wanted.title));
    m_job->background = true;
    m_request = m_engine->ask(
        ScoreRequest{.profile = wanted.profile, .method = method, .path = m_model.toStdString()}, JobTag{"weights", Lane::Full},
        [this, method = method, epoch = m_epoch](const EngineAnswer<ExpertScores>& reply) {
            if (epoch == m_epoch) finish(method, reply);
        },
        [this, epoch = m_epoch](const EngineProgress& progress) {
            if (epoch != m_epoch || !m_job) return;
            m_job->done = progress.done;
            m_job->total = progress.total;
            m_job->etaSeconds = progress.etaSeconds;
            emit jobChanged();
        });
    emit jobChanged();
}

void WeightScores::finish(const std::string& method, const EngineAnswer<ExpertScores>& reply)
{
    m_request = 0;
    m_job.reset();
    m_wanted.erase(method);
    if (reply.ok()) {
        emit arrived(method, reply.value);
    } else {
        // A cancelled one takes with it what waited: nobody asked for that alone.
        if (reply.outcome != EngineReply::Outcome::Failed) m_wanted.clear();
        if (reply.outcome == EngineReply::Outcome::Failed) emit failed(reply.error);
        emit gaveUp(method);
    }
    emit jobChanged();
    next();
}

}  // namespace espalier
