#include "shell/evaluation_controller.h"

#include "format.h"

#include <QDateTime>

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{
constexpr int kRestMsec = 120;
// Losses arrive in bursts of a batch; drawing each of them takes time from the engine's threads.
constexpr int kFrameMsec = 30;

std::vector<WindowLoss> listOf(const PlanRun& run, int count)
{
    std::vector<WindowLoss> losses;
    for (const auto& [window, loss] : run.losses)
        if (window < count) losses.push_back(loss);
    return losses;
}
}  // namespace

EvaluationController::EvaluationController(EngineClient* engine, QObject* parent) : QObject(parent), m_engine(engine)
{
    m_rest.setSingleShot(true);
    connect(&m_rest, &QTimer::timeout, this, &EvaluationController::rest);
    m_frame.setSingleShot(true);
    m_frame.setInterval(kFrameMsec);
    connect(&m_frame, &QTimer::timeout, this, &EvaluationController::changed);
    connect(m_engine, &EngineClient::ready, this, [this] {
        if (isOpen() && m_automatic) rest();
    });
}

void EvaluationController::setModel(const std::string& path, const CompressionPlan& identity, const EvaluationText& text)
{
    clear();
    m_path = path;
    m_identity = identity;
    m_plan = identity;
    m_text = text;
}

void EvaluationController::clear()
{
    cancel();
    m_rest.stop();
    m_path.clear();
    m_profiles.clear();
    m_runs.clear();
    m_lastShown.clear();
    m_job.reset();
    ++m_epoch;
    m_quickWanted = m_fullWanted = false;
    m_totalWindows = -1;
    m_textSha256.clear();
    m_tokenizerSha256.clear();
    m_dtype.clear();
    emit jobChanged(std::nullopt);
    emit changed();
}

void EvaluationController::setPlan(const CompressionPlan& plan, const QString& name, bool moving)
{
    if (!isOpen()) return;
    const bool same = plan.hash() == m_plan.hash();
    if (!same) {
        if (m_runs.contains(m_plan.hash())) m_lastShown = m_plan.hash();
        m_fullWanted = false;
    }
    m_plan = plan;
    m_planName = name;
    // A finished edit is at rest at once; a drag is where it pauses.
    if (m_automatic) m_rest.start(moving ? kRestMsec : 0);
    emit changed();
}

void EvaluationController::setAutomatic(bool on)
{
    m_automatic = on;
    if (on && isOpen())
        m_rest.start(0);
    else
        m_rest.stop();
}

void EvaluationController::setProfiles(std::map<std::string, std::string> files)
{
    if (files == m_profiles) return;
    const bool before = measurable(m_plan);
    m_profiles = std::move(files);
    if (isOpen() && !before && measurable(m_plan) && m_automatic) m_rest.start(0);
    emit changed();
}

std::string EvaluationController::profileFor(const CompressionPlan& plan) const
{
    if (!plan.hasRanks() || plan.factors().method != "whitened-svd") return {};
    const auto it = m_profiles.find(plan.factors().profileSha256);
    return it == m_profiles.end() ? std::string() : it->second;
}

bool EvaluationController::measurable(const CompressionPlan& plan) const
{
    return !plan.hasRanks() || plan.factors().method != "whitened-svd" || !profileFor(plan).empty();
}

void EvaluationController::rest()
{
    m_quickWanted = true;
    next();
}

void EvaluationController::evaluateFull()
{
    if (!isOpen()) return;
    m_quickWanted = true;
    m_fullWanted = true;
    next();
}

void EvaluationController::cancel()
{
    m_fullWanted = false;
    m_quickWanted = false;
    m_rest.stop();
    if (!m_job) return;
    m_engine->cancel(m_job->id);
    m_job->state.phase = JobState::Phase::Cancelling;
    emit jobChanged(m_job->state);
}

std::vector<int> EvaluationController::missing(const std::string& hash, int count) const
{
    if (m_totalWindows >= 0) count = std::min(count, m_totalWindows);
    std::vector<int> windows;
    const auto it = m_runs.find(hash);
    for (int w = 0; w < count; ++w)
        if (it == m_runs.end() || !it->second.losses.contains(w)) windows.push_back(w);
    return windows;
}

int EvaluationController::measuredOf(const std::string& hash, int count) const
{
    const auto it = m_runs.find(hash);
    if (it == m_runs.end()) return 0;
    return static_cast<int>(
        std::count_if(it->second.losses.begin(), it->second.losses.end(), [count](const auto& loss) { return loss.first < count; }));
}

void EvaluationController::next()
{
    if (!isOpen() || !m_engine->usable()) return;
    const std::string planHash = m_plan.hash();
    const std::string denseHash = m_identity.hash();
    struct Step {
        const CompressionPlan* plan;
        std::vector<int> windows;
        bool full;
        QString name;
    };
    std::optional<Step> step;
    const auto consider = [&](bool wanted, const CompressionPlan& plan, const std::string& hash, int count, bool full,
                              const QString& name) {
        if (!wanted || step || !measurable(plan)) return;
        std::vector<int> windows = missing(hash, count);
        if (!windows.empty()) step = Step{&plan, std::move(windows), full, name};
    };
    consider(m_quickWanted, m_plan, planHash, m_text.quickWindows, false, m_planName);
    consider(m_quickWanted, m_identity, denseHash, m_text.quickWindows, false, tr("dense"));
    if (!step) m_quickWanted = false;
    // Dense first, once per text: the difference of every later full evaluation is paired from its first window on.
    consider(m_fullWanted, m_identity, denseHash, m_text.fullWindows, true, tr("dense"));
    consider(m_fullWanted, m_plan, planHash, m_text.fullWindows, true, m_planName);
    if (!step) {
        m_fullWanted = false;
        return;
    }
    // What runs already is what is wanted, or it gives way: a quick one to a newer quick one (latest wins by tag), a full one is
    // asked to stop and goes on later from the windows it has.
    if (m_job) {
        if (m_job->planHash == step->plan->hash() && m_job->full == step->full) return;
        m_engine->cancel(m_job->id);
        return;  // its end calls next() again
    }
    run(*step->plan, step->windows, step->full, step->name);
}

void EvaluationController::run(const CompressionPlan& plan, const std::vector<int>& windows, bool full, const QString& name)
{
    Json params = {{"path", m_path},
                   {"plan", toJson(plan)},
                   {"text", m_text.paths},
                   {"window_length", m_text.windowLength},
                   {"bos", "auto"},
                   {"tier", full ? "full" : "quick"},
                   {"tag", full ? "full" : "quick"},
                   {"lane", full ? "full" : "interactive"}};
    if (const std::string profile = profileFor(plan); !profile.empty()) params["profile"] = profile;
    if (m_totalWindows < 0)
        params["first"] = full ? m_text.fullWindows : m_text.quickWindows;
    else
        params["windows"] = windows;
    const std::string hash = plan.hash();  // NOLINT(performance-unnecessary-copy-initialization): who hears of the job may set a plan
    Running job;
    job.planHash = hash;
    job.full = full;
    job.wanted = full ? m_text.fullWindows : m_text.quickWindows;
    if (m_totalWindows >= 0) job.wanted = std::min(job.wanted, m_totalWindows);
    job.clock.start();
    job.state.what = tr("%1 · %2").arg(full ? tr("Full") : tr("Quick"), name);
    job.state.total = static_cast<std::int64_t>(windows.size());
    m_job = job;
    emit jobChanged(m_job->state);
    m_job->id = m_engine->request(
        "evaluate", params,
        [this, epoch = m_epoch, hash, full](const EngineReply& reply) {
            if (epoch != m_epoch) return;
            const bool mine = m_job && m_job->planHash == hash && m_job->full == full;
            if (mine) {
                if (reply.ok()) {
                    const Json& result = reply.result;
                    m_totalWindows = result.value("window_count_total", m_totalWindows);
                    // Runs that a session brought along from another text are not comparable with this one.
                    const std::string text = result.value("text_sha256", m_textSha256);
                    if (!m_textSha256.empty() && text != m_textSha256) m_runs.clear();
                    m_textSha256 = text;
                    m_tokenizerSha256 = result.value("tokenizer_sha256", m_tokenizerSha256);
                    m_dtype = result.value("dtype", m_dtype);
                    PlanRun& run = m_runs[hash];
                    (full ? run.fullSeconds : run.quickSeconds) = static_cast<double>(m_job->clock.elapsed()) / 1000.0;
                    for (const Json& item : result.value("windows", Json::array()))
                        run.losses[item.at("window").get<int>()] = {item.at("window").get<int>(), item.at("nll").get<double>(),
                                                                    item.at("tokens").get<int>()};
                    run.time = QDateTime::currentSecsSinceEpoch();
                }
                m_job.reset();
                emit jobChanged(std::nullopt);
            }
            m_frame.stop();
            emit changed();
            emit runsChanged();
            if (reply.outcome == EngineReply::Outcome::Failed) {
                m_quickWanted = m_fullWanted = false;
                emit failed(reply.error);
                return;
            }
            if (reply.outcome == EngineReply::Outcome::Lost) return;
            next();
        },
        [this, epoch = m_epoch, hash, full](const EngineProgress& progress) {
            if (epoch != m_epoch || !m_job || m_job->planHash != hash || m_job->full != full) return;
            m_job->state.done = progress.done;
            m_job->state.total = progress.total;
            m_job->state.etaSeconds = progress.etaSeconds;
            m_job->state.count = tr("%1 windows").arg(format::countOf(measuredOf(hash, m_job->wanted), m_job->wanted));
            if (progress.total > 0 && progress.done >= progress.total && m_job->state.phase == JobState::Phase::Running)
                m_job->state.phase = JobState::Phase::Finishing;
            emit jobChanged(m_job->state);
        },
        [this, epoch = m_epoch, hash](const Json& partial) {
            if (epoch != m_epoch || !partial.is_object() || !partial.contains("window")) return;
            PlanRun& run = m_runs[hash];
            const int window = partial["window"].get<int>();
            run.losses[window] = {window, partial.value("nll", 0.0), partial.value("tokens", 0)};
            run.time = QDateTime::currentSecsSinceEpoch();
            if (!m_frame.isActive()) m_frame.start();
        });
}

bool EvaluationController::quickComplete() const
{
    return isOpen() && missing(m_plan.hash(), m_text.quickWindows).empty() && missing(m_identity.hash(), m_text.quickWindows).empty();
}

PerplexityState EvaluationController::state() const
{
    PerplexityState state;
    state.planName = m_planName;
    state.windowLength = m_text.windowLength;
    if (!isOpen()) return state;
    state.planIsDense = m_plan.hash() == m_identity.hash();
    if (!measurable(m_plan)) state.refusal = tr("its factors need a profile that is not here");
    const int quick = m_totalWindows >= 0 ? std::min(m_text.quickWindows, m_totalWindows) : m_text.quickWindows;
    const int full = m_totalWindows >= 0 ? std::min(m_text.fullWindows, m_totalWindows) : m_text.fullWindows;
    if (const auto dense = m_runs.find(m_identity.hash()); dense != m_runs.end()) state.dense = listOf(dense->second, full);
    state.quick.wanted = quick;
    state.full.wanted = full;
    const std::string hash = m_plan.hash();
    const auto fill = [&](const PlanRun& run, const QString& note) {
        state.quick.windows = listOf(run, quick);
        state.quick.seconds = run.quickSeconds;
        state.quick.staleNote = note;
        if (static_cast<int>(run.losses.size()) > quick) {
            state.full.windows = listOf(run, full);
            state.full.seconds = run.fullSeconds;
            state.full.staleNote = note;
        }
    };
    const auto run = m_runs.find(hash);
    if (run != m_runs.end() && !run->second.losses.empty()) {
        fill(run->second, {});
    } else if (const auto last = m_runs.find(m_lastShown); last != m_runs.end()) {
        fill(last->second,
             tr("before this edit · %1").arg(format::time(QDateTime::fromSecsSinceEpoch(last->second.time), QDateTime::currentDateTime())));
        state.age = tr("one edit old");
    }
    if (m_job && m_job->planHash == hash) (m_job->full ? state.full : state.quick).running = true;
    state.quick.paused = m_engine->state() == EngineState::Lost && m_quickWanted;
    state.full.paused = m_engine->state() == EngineState::Lost && m_fullWanted;
    return state;
}

std::optional<double> EvaluationController::densePerplexity() const
{
    const auto dense = m_runs.find(m_identity.hash());
    if (!isOpen() || dense == m_runs.end() || dense->second.losses.empty()) return std::nullopt;
    return perplexity(listOf(dense->second, m_text.fullWindows)).ppl;
}

std::optional<double> EvaluationController::perplexityOf(const std::string& planHash, int windows) const
{
    const auto run = m_runs.find(planHash);
    if (run == m_runs.end()) return std::nullopt;
    if (m_totalWindows >= 0) windows = std::min(windows, m_totalWindows);
    const std::vector<WindowLoss> losses = listOf(run->second, windows);
    if (losses.empty() || static_cast<int>(losses.size()) < windows) return std::nullopt;
    return perplexity(losses).ppl;
}

QHash<QString, PlanLoss> EvaluationController::planLosses() const
{
    QHash<QString, PlanLoss> losses;
    for (const auto& [hash, run] : m_runs) {
        if (run.losses.empty()) continue;
        // Until all windows are there the number is of the quick ones, which the other plans have too.
        const int full = m_totalWindows >= 0 ? std::min(m_text.fullWindows, m_totalWindows) : m_text.fullWindows;
        PlanLoss loss;
        loss.full = full > m_text.quickWindows && static_cast<int>(run.losses.size()) >= full;
        const std::vector<WindowLoss> list = listOf(run, loss.full ? full : m_text.quickWindows);
        if (list.empty()) continue;
        loss.ppl = perplexity(list).ppl;
        losses.insert(QString::fromStdString(hash), loss);
    }
    return losses;
}

void EvaluationController::restoreText(const std::string& textSha256, const std::string& tokenizerSha256, const std::string& dtype)
{
    m_textSha256 = textSha256;
    m_tokenizerSha256 = tokenizerSha256;
    m_dtype = dtype;
}

void EvaluationController::restoreRun(const std::string& planHash, PlanRun run) { m_runs[planHash] = std::move(run); }

}  // namespace espalier
