#include "shell/engine/speed_controller.h"

#include "look/format.h"

namespace espalier
{

SpeedController::SpeedController(EngineClient* engine, QObject* parent) : QObject(parent), m_engine(engine) {}

void SpeedController::setJob(std::optional<JobState> job)
{
    m_job = std::move(job);
    emit jobChanged(m_job);
}

void SpeedController::setModel(const std::string& path)
{
    cancel();
    ++m_epoch;
    m_request = 0;
    if (m_job) setJob(std::nullopt);
    m_path = path;
    m_measured.clear();
    emit changed();
}

void SpeedController::measure(const CompressionPlan& plan, const QString& name, const std::vector<std::filesystem::path>& profiles)
{
    if (m_path.empty() || !m_engine->usable()) return;
    SpeedRequest request;
    request.path = m_path;
    request.plan = toJson(plan);
    request.profiles = profiles;
    const int epoch = ++m_epoch;
    JobState job;
    job.what = tr("Speed · %1").arg(name);
    setJob(std::move(job));
    m_request = m_engine->ask(
        request, {"speed", Lane::Attended},
        [this, epoch, hash = plan.hash()](const EngineAnswer<SpeedAnswer>& reply) {
            if (epoch != m_epoch) return;
            m_request = 0;
            setJob(std::nullopt);
            if (reply.ok()) {
                m_measured[hash] = reply.value;
                if (!reply->warnings.empty()) emit warned(reply->warnings);
            } else if (reply.outcome == EngineEnd::Outcome::Failed) {
                emit failed(reply.error);
            }
            emit changed();
        },
        [this, epoch](const EngineProgress& progress) {
            if (epoch != m_epoch || !m_job || m_job->phase == JobState::Phase::Cancelling) return;
            m_job->done = progress.done;
            m_job->total = progress.total;
            m_job->etaSeconds = progress.etaSeconds;
            emit jobChanged(m_job);
        });
    emit changed();
}

void SpeedController::cancel()
{
    if (m_request == 0) return;
    m_engine->cancel(m_request);
    if (!m_job) return;
    m_job->phase = JobState::Phase::Cancelling;
    emit jobChanged(m_job);
}

// Of the prompt: what papers report.
QString SpeedController::brief(const std::string& planHash) const
{
    const auto found = m_measured.find(planHash);
    if (found == m_measured.end() || !found->second.ratio) return {};
    const double ratio = found->second.ratio->prefill;
    if (!(ratio > 0)) return {};
    // Nearer to 1 than its own spread it is neither.
    if (found->second.ratio->low <= 1 && found->second.ratio->high >= 1) return tr("as fast as dense, measured here");
    return ratio > 1 ? tr("%1x faster, measured here").arg(format::number(ratio, 2))
                     : tr("%1x slower, measured here").arg(format::number(1 / ratio, 2));
}

QString SpeedController::words(const std::string& planHash) const
{
    const auto found = m_measured.find(planHash);
    if (found == m_measured.end() || !found->second.ratio || !found->second.plan) return {};
    const SpeedAnswer& of = found->second;
    const auto line = [&](const QString& what, double plan, double dense, double ratio, double low, double high) {
        return tr("%1: %2 tokens/s, dense %3: %4x (%5 to %6)")
            .arg(what, format::number(plan, 1), format::number(dense, 1), format::number(ratio, 2), format::number(low, 2),
                 format::number(high, 2));
    };
    return QStringList{line(tr("prompt of %n token(s)", nullptr, of.prefill), of.plan->prefillTokensPerSecond,
                            of.dense.prefillTokensPerSecond, of.ratio->prefill, of.ratio->low, of.ratio->high),
                       line(tr("%n token(s) behind it", nullptr, of.decode), of.plan->decodeTokensPerSecond, of.dense.decodeTokensPerSecond,
                            of.ratio->decode, of.ratio->decodeLow, of.ratio->decodeHigh),
                       tr("medians of %n round(s) in turn, %1, on %2 threads", nullptr, of.rounds)
                           .arg(QString::fromStdString(of.dtype), format::count(of.threads))}
        .join(QLatin1Char('\n'));
}

}  // namespace espalier
