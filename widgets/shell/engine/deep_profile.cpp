#include "shell/engine/deep_profile.h"

#include "shell/session/session_store.h"

#include <QDir>
#include <QFile>
#include <QFileInfo>

#include <algorithm>
#include <utility>

namespace espalier
{

DeepProfile::DeepProfile(EngineClient* engine, SessionStore* store, QObject* parent) : QObject(parent), m_engine(engine), m_store(store)
{
    m_rest.setSingleShot(true);
    connect(&m_rest, &QTimer::timeout, this, [this] {
        if (m_state == State::Missing || m_state == State::Waiting) start();
    });
}

const std::vector<std::string>& DeepProfile::statistics()
{
    // Without the second moments: they only serve to merge profiles, and are a fifth of the bytes.
    static const std::vector<std::string> names = {"counts", "ean", "reap", "gram", "outputs", "curves", "factors", "gradients"};
    return names;
}

void DeepProfile::setState(State state)
{
    if (std::exchange(m_state, state) != state) emit changed();
}

void DeepProfile::open(Target target)
{
    close();
    m_target = std::move(target);
    setState(State::Looking);
    look(m_target.file, {}, m_target.otherFile.isEmpty());
}

void DeepProfile::close()
{
    ++m_epoch;
    m_rest.stop();
    if (m_request != 0) m_engine->cancel(m_request);
    m_request = 0;
    m_givingWay = false;
    m_file.clear();
    m_sha256.clear();
    if (std::exchange(m_job, std::nullopt)) emit jobChanged();
    setState(State::None);
}

void DeepProfile::look(const QString& file, const std::string& wanted, bool last)
{
    m_store->profileHash(file, [this, file, wanted, last, epoch = m_epoch](Result<std::string> sha256) {
        if (epoch != m_epoch) return;
        if (sha256.ok() && (wanted.empty() || *sha256 == wanted))
            found(file, *sha256);
        else if (!last)
            look(m_target.otherFile, m_target.otherSha256, true);
        else
            setState(State::Missing);
    });
}

void DeepProfile::found(const QString& file, const std::string& sha256)
{
    m_file = file;
    m_sha256 = sha256;
    m_rest.stop();
    setState(State::Ready);
}

QString DeepProfile::progress() const { return m_job ? m_job->count : QString(); }

void DeepProfile::startAfterRest(int msec)
{
    if (m_state == State::Missing || m_state == State::Waiting) m_rest.start(msec);
}

void DeepProfile::start()
{
    if (m_request != 0 || !m_engine->usable() || m_state == State::None || m_state == State::Looking || m_state == State::Ready) return;
    m_rest.stop();
    QDir().mkpath(QFileInfo(m_target.file).path());
    JobState job;
    job.what = tr("Ranks and gradients");
    job.background = true;
    m_job = job;
    ProfileRequest request;
    request.path = m_target.model;
    request.text = selectionOf(m_target.text);
    request.windows = m_target.windows;
    request.out = m_target.file.toStdString();
    request.collect = statistics();
    request.resume = true;
    m_request = m_engine->ask(
        request, {"deep-profile", Lane::Full},
        [this, epoch = m_epoch](const EngineAnswer<ProfileAnswer>& reply) {
            if (epoch == m_epoch) finished(reply);
        },
        [this, epoch = m_epoch](const EngineProgress& progress) {
            if (epoch != m_epoch || !m_job) return;
            m_job->done = progress.done;
            m_job->total = progress.total;
            m_job->etaSeconds = progress.etaSeconds;
            const std::int64_t layers = m_target.layers;
            if (progress.total > 0)
                m_job->count = tr("layer %1 of %2").arg(std::min(layers, progress.done * layers / progress.total + 1)).arg(layers);
            if (progress.total > 0 && progress.done >= progress.total && m_job->phase == JobState::Phase::Running)
                m_job->phase = JobState::Phase::Finishing;
            emit jobChanged();
        });
    setState(State::Running);
    emit jobChanged();
}

void DeepProfile::finished(const EngineAnswer<ProfileAnswer>& reply)
{
    m_request = 0;
    m_job.reset();
    const bool gaveWay = std::exchange(m_givingWay, false);
    if (reply.ok()) {
        setState(State::Looking);
        emit jobChanged();
        m_store->profileHash(m_target.file, [this, scores = reply->facts.scores, epoch = m_epoch](Result<std::string> sha256) {
            if (epoch != m_epoch) return;
            if (!sha256.ok()) {
                setState(State::Failed);
                emit failed(sha256.error());
                return;
            }
            emit measured(scores);
            found(m_target.file, *sha256);
        });
        return;
    }
    if (reply.outcome == EngineReply::Outcome::Failed) {
        setState(State::Failed);
        emit failed(reply.error);
    } else if (gaveWay) {
        setState(State::Waiting);
    } else {
        // Cancelled by hand, or its engine is gone: nothing runs again by itself.
        setState(State::Failed);
    }
    emit jobChanged();
}

void DeepProfile::giveWay()
{
    m_rest.stop();
    if (m_request == 0 || m_givingWay) return;
    m_givingWay = true;
    m_engine->cancel(m_request);
}

void DeepProfile::cancel()
{
    m_rest.stop();
    if (m_request == 0) return;
    m_givingWay = false;
    m_engine->cancel(m_request);
    m_job->phase = JobState::Phase::Cancelling;
    emit jobChanged();
}

void DeepProfile::discard()
{
    if (m_state != State::Ready) return;
    // Of a session's file only the engine that made it knows more; ours is made again.
    if (m_file == m_target.file) QFile::remove(m_file);
    m_file.clear();
    m_sha256.clear();
    setState(State::Failed);
}

}  // namespace espalier
