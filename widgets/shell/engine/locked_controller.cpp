#include "shell/engine/locked_controller.h"

#include <QDateTime>

#include <algorithm>
#include <set>

namespace espalier
{

namespace
{

std::vector<WindowLoss> lossesOf(const PlanRun& run)
{
    std::vector<WindowLoss> losses;
    for (const auto& [window, loss] : run.losses)
        losses.push_back(loss);
    return losses;
}

}  // namespace

LockedController::LockedController(EngineClient* engine, QObject* parent) : QObject(parent), m_engine(engine) {}

void LockedController::setModel(const std::string& path, const CompressionPlan& identity, const EvaluationText& text)
{
    cancel();
    ++m_epoch;
    m_request = 0;
    m_wanted.reset();
    if (std::exchange(m_job, std::nullopt)) emit jobChanged(std::nullopt);
    m_path = path;
    m_identity = identity;
    m_text = text;
    m_runs.clear();
    m_textSha256.clear();
    m_total = -1;
    emit changed();
}

void LockedController::clear()
{
    m_openings.clear();
    setModel({}, {}, {});
}

bool LockedController::complete(const std::string& planHash) const { return m_runs.contains(planHash); }

bool LockedController::measured(const std::string& planHash) const { return complete(planHash) && complete(m_identity.hash()); }

int LockedController::plansOpened() const
{
    std::set<std::string> plans;
    for (const SessionOpening& opening : m_openings)
        if (m_textSha256.empty() || opening.textSha256 == m_textSha256) plans.insert(opening.planHash);
    return static_cast<int>(plans.size());
}

void LockedController::measure(const CompressionPlan& plan, const QString& name, const std::vector<std::filesystem::path>& profiles)
{
    if (m_path.empty() || busy() || measured(plan.hash()) || !m_engine->usable()) return;
    m_wanted = Wanted{plan, name, profiles};
    next();
}

void LockedController::next()
{
    if (!m_wanted) return;
    if (!complete(m_identity.hash()))
        run(m_identity, tr("dense"), {});
    else if (!complete(m_wanted->plan.hash()))
        run(m_wanted->plan, m_wanted->name, m_wanted->profiles);
    else
        finish();
}

void LockedController::run(const CompressionPlan& plan, const QString& name, const std::vector<std::filesystem::path>& profiles)
{
    EvaluateRequest request;
    request.path = m_path;
    request.text = selectionOf(m_text);
    request.maxWindows = m_text.fullWindows;
    request.plan = toJson(plan);
    request.profiles = profiles;
    request.tier = "full";
    JobState job;
    job.what = tr("Locked text · %1").arg(name);
    m_job = job;
    emit jobChanged(m_job);
    const std::string hash = plan.hash();  // NOLINT(performance-unnecessary-copy-initialization): the wanted plan may go meanwhile
    m_request = m_engine->ask(
        request, {"locked", Lane::Full},
        [this, epoch = m_epoch, hash](const EngineAnswer<EvaluateAnswer>& reply) {
            if (epoch != m_epoch) return;
            m_request = 0;
            m_job.reset();
            emit jobChanged(std::nullopt);
            if (!reply.ok()) {
                m_wanted.reset();
                if (reply.outcome == EngineReply::Outcome::Failed) emit failed(reply.error);
                emit changed();
                return;
            }
            // Runs of a session that belong to another content of the file.
            if (!m_textSha256.empty() && reply->textSha256 != m_textSha256) m_runs.clear();
            m_textSha256 = reply->textSha256;
            m_total = reply->windowCountTotal;
            PlanRun measured;
            for (const WindowLoss& loss : reply->windows)
                measured.losses[loss.window] = loss;
            measured.time = QDateTime::currentSecsSinceEpoch();
            m_runs[hash] = std::move(measured);
            if (!reply->warnings.empty()) emit warned(reply->warnings);
            next();
        },
        [this, epoch = m_epoch](const EngineProgress& progress) {
            if (epoch != m_epoch || !m_job) return;
            m_job->done = progress.done;
            m_job->total = progress.total;
            m_job->etaSeconds = progress.etaSeconds;
            if (progress.total > 0) m_job->count = tr("%1 %").arg(100 * progress.done / progress.total);
            if (progress.total > 0 && progress.done >= progress.total && m_job->phase == JobState::Phase::Running)
                m_job->phase = JobState::Phase::Finishing;
            emit jobChanged(m_job);
        });
    emit changed();
}

// Plan and dense are there: this is the opening.
void LockedController::finish()
{
    const Wanted wanted = *std::exchange(m_wanted, std::nullopt);
    const std::vector<WindowLoss> plan = lossesOf(m_runs.at(wanted.plan.hash()));
    const std::vector<WindowLoss> dense = lossesOf(m_runs.at(m_identity.hash()));
    const PerplexityEstimate estimate = perplexity(plan);
    const PairedDifference difference = pairedDifference(plan, dense);
    SessionOpening opening;
    opening.planHash = wanted.plan.hash();
    opening.planName = wanted.name.toStdString();
    opening.text = m_text.paths.empty() ? std::string() : m_text.paths.front();
    opening.textSha256 = m_textSha256;
    opening.windows = estimate.windows;
    opening.windowLength = m_text.windowLength;
    opening.time = QDateTime::currentSecsSinceEpoch();
    opening.ppl = estimate.ppl;
    opening.pplError = estimate.pplError;
    opening.densePpl = perplexity(dense).ppl;
    opening.deltaNll = difference.nll;
    opening.deltaNllError = difference.se;
    m_openings.push_back(opening);
    emit opened(opening);
    emit changed();
}

void LockedController::cancel()
{
    if (m_request == 0) return;
    m_engine->cancel(m_request);
    if (!m_job) return;
    m_job->phase = JobState::Phase::Cancelling;
    emit jobChanged(m_job);
}

LockedState LockedController::state(const std::string& planHash) const
{
    LockedState state;
    state.textName = textName(m_text);
    state.running = busy();
    for (const SessionOpening& opening : m_openings)
        if (m_textSha256.empty() || opening.textSha256 == m_textSha256) ++state.openings;
    state.plans = plansOpened();
    if (!measured(planHash)) return state;
    state.windows = lossesOf(m_runs.at(planHash));
    state.dense = lossesOf(m_runs.at(m_identity.hash()));
    state.windowLength = m_text.windowLength;
    return state;
}

void LockedController::restoreRun(const std::string& planHash, PlanRun run) { m_runs[planHash] = std::move(run); }

}  // namespace espalier
