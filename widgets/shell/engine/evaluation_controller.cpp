#include "shell/engine/evaluation_controller.h"

#include "base/window_spread.h"
#include "look/format.h"
#include "plan/factor_methods.h"
#include "plan/values_search.h"

#include <QDateTime>

#include <algorithm>
#include <cmath>
#include <set>

namespace espalier
{

namespace
{
constexpr int kRestMsec = 120;
// Losses arrive in bursts of a batch; drawing each of them takes time from the engine's threads.
constexpr int kFrameMsec = 30;

// Those of these windows that are measured.
std::vector<WindowLoss> listOf(const PlanRun& run, const std::vector<int>& windows)
{
    std::vector<WindowLoss> losses;
    for (const int window : windows)
        if (const auto found = run.losses.find(window); found != run.losses.end()) losses.push_back(found->second);
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
    m_lastShownName.clear();
    m_committed.clear();
    m_moving = m_lastShownMoving = false;
    m_changes = 0;
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
        if (m_runs.contains(m_plan.hash())) {
            m_lastShown = m_plan.hash();
            m_lastShownName = m_planName;
            m_lastShownMoving = m_moving;
            m_changes = 0;
        }
        m_fullWanted = false;
    }
    if (m_committed.empty()) m_committed = m_plan.hash();
    if (!moving && plan.hash() != m_committed) {
        ++m_changes;
        m_committed = plan.hash();
    }
    m_moving = moving;
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

namespace
{

// Contents of the profiles without which a plan says nothing that can run.
std::set<std::string> profilesOf(const CompressionPlan& plan)
{
    std::set<std::string> contents;
    if (factorsNeedProfile(plan)) contents.insert(plan.factors().profileSha256);
    if (plan.needsConstants()) contents.insert(plan.constantsProfile());
    return contents;
}

}  // namespace

std::vector<std::filesystem::path> EvaluationController::profilesFor(const CompressionPlan& plan) const
{
    std::vector<std::filesystem::path> files;
    for (const std::string& content : profilesOf(plan))
        if (const auto it = m_profiles.find(content); it != m_profiles.end()) files.emplace_back(it->second);
    return files;
}

bool EvaluationController::measurable(const CompressionPlan& plan) const
{
    const std::set<std::string> contents = profilesOf(plan);
    return std::all_of(contents.begin(), contents.end(), [this](const std::string& content) { return m_profiles.contains(content); }) &&
           lostValues(plan).empty();
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

int EvaluationController::totalWindows() const
{
    return m_totalWindows >= 0 ? std::min(m_text.fullWindows, m_totalWindows) : m_text.fullWindows;
}

std::vector<int> EvaluationController::tierWindows(bool full) const
{
    const int total = totalWindows();
    return spreadWindows(total, full ? total : m_text.quickWindows);
}

std::vector<int> EvaluationController::missing(const std::string& hash, bool full) const
{
    std::vector<int> windows = tierWindows(full);
    if (const auto it = m_runs.find(hash); it != m_runs.end())
        std::erase_if(windows, [&run = it->second](int window) { return run.losses.contains(window); });
    return windows;
}

int EvaluationController::windowsMeasured(const std::string& hash, bool full) const
{
    const auto it = m_runs.find(hash);
    return it == m_runs.end() ? 0 : static_cast<int>(listOf(it->second, tierWindows(full)).size());
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
    const auto consider = [&](bool wanted, const CompressionPlan& plan, const std::string& hash, bool full, const QString& name) {
        if (!wanted || step || !measurable(plan)) return;
        std::vector<int> windows = missing(hash, full);
        if (!windows.empty()) step = Step{&plan, std::move(windows), full, name};
    };
    consider(m_quickWanted, m_plan, planHash, false, m_planName);
    consider(m_quickWanted, m_identity, denseHash, false, tr("dense"));
    if (!step) m_quickWanted = false;
    // Dense first, once per text: the difference of every later full evaluation is paired from its first window on.
    consider(m_fullWanted, m_identity, denseHash, true, tr("dense"));
    consider(m_fullWanted, m_plan, planHash, true, m_planName);
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
    EvaluateRequest request;
    request.path = m_path;
    request.text = selectionOf(m_text);
    request.maxWindows = m_text.fullWindows;
    request.plan = toJson(plan);
    request.profiles = profilesFor(plan);
    request.tier = full ? "full" : "quick";
    // How many windows the text has is known with the first answer.
    if (m_totalWindows >= 0)
        request.windows = {WindowChoice::Kind::Listed, 0, windows};
    else if (!full)
        request.windows = {WindowChoice::Kind::Spread, m_text.quickWindows, {}};
    const std::string hash = plan.hash();  // NOLINT(performance-unnecessary-copy-initialization): who hears of the job may set a plan
    Running job;
    job.planHash = hash;
    job.full = full;
    job.wanted = static_cast<int>(tierWindows(full).size());
    job.clock.start();
    job.state.what = tr("%1 · %2").arg(full ? tr("Full") : tr("Quick"), name);
    job.state.total = static_cast<std::int64_t>(windows.size());
    m_job = job;
    emit jobChanged(m_job->state);
    m_job->id = m_engine->ask(
        request, {request.tier, full ? Lane::Full : Lane::Interactive},
        [this, epoch = m_epoch, hash, full](const EngineAnswer<EvaluateAnswer>& reply) {
            if (epoch != m_epoch) return;
            const bool mine = m_job && m_job->planHash == hash && m_job->full == full;
            if (mine) {
                if (reply.ok()) {
                    const EvaluateAnswer& answer = reply.value;
                    m_totalWindows = answer.windowCountTotal;
                    // Runs that a session brought along from another text are not comparable with this one.
                    if (!m_textSha256.empty() && answer.textSha256 != m_textSha256) m_runs.clear();
                    m_textSha256 = answer.textSha256;
                    m_tokenizerSha256 = answer.tokenizerSha256;
                    m_dtype = answer.dtype;
                    PlanRun& run = m_runs[hash];
                    (full ? run.fullSeconds : run.quickSeconds) = static_cast<double>(m_job->clock.elapsed()) / 1000.0;
                    for (const WindowLoss& loss : answer.windows)
                        run.losses[loss.window] = loss;
                    run.time = QDateTime::currentSecsSinceEpoch();
                    if (!answer.warnings.empty()) emit warned(answer.warnings);
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
            m_job->state.count = tr("%1 windows").arg(format::countOf(windowsMeasured(hash, full), m_job->wanted));
            if (progress.total > 0 && progress.done >= progress.total && m_job->state.phase == JobState::Phase::Running)
                m_job->state.phase = JobState::Phase::Finishing;
            emit jobChanged(m_job->state);
        },
        [this, epoch = m_epoch, hash](const WindowLoss& loss) {
            if (epoch != m_epoch) return;
            PlanRun& run = m_runs[hash];
            run.losses[loss.window] = loss;
            run.time = QDateTime::currentSecsSinceEpoch();
            if (!m_frame.isActive()) m_frame.start();
        });
}

bool EvaluationController::quickComplete() const
{
    return isOpen() && missing(m_plan.hash(), false).empty() && missing(m_identity.hash(), false).empty();
}

QString EvaluationController::age() const
{
    if (m_moving) return m_lastShownMoving ? tr("earlier in this drag") : tr("before this drag");
    if (m_lastShownMoving) return tr("earlier in a drag");
    return m_changes <= 1 ? tr("before the last change") : tr("before the last %n changes", nullptr, m_changes);
}

PerplexityState EvaluationController::state() const
{
    PerplexityState state;
    state.planName = m_planName;
    state.windowLength = m_text.windowLength;
    state.textName = textName(m_text);
    if (!isOpen()) return state;
    state.planIsDense = m_plan.hash() == m_identity.hash();
    if (!measurable(m_plan))
        state.refusal = !lostValues(m_plan).empty() ? tr("its values file is not where it was")
                        : m_plan.needsConstants() && !m_profiles.contains(m_plan.constantsProfile())
                            ? tr("its constants need a profile that is not here")
                            : tr("its factors need a profile that is not here");
    const std::vector<int> quick = tierWindows(false);
    const std::vector<int> full = tierWindows(true);
    if (const auto dense = m_runs.find(m_identity.hash()); dense != m_runs.end()) state.dense = listOf(dense->second, full);
    state.quick.wanted = static_cast<int>(quick.size());
    state.full.wanted = static_cast<int>(full.size());
    const std::string hash = m_plan.hash();
    const auto fill = [&](const PlanRun& run, const QString& note) {
        state.quick.windows = listOf(run, quick);
        state.quick.seconds = run.quickSeconds;
        state.quick.staleNote = note;
        if (run.losses.size() > quick.size()) {
            state.full.windows = listOf(run, full);
            state.full.seconds = run.fullSeconds;
            state.full.staleNote = note;
        }
    };
    const auto run = m_runs.find(hash);
    if (run != m_runs.end() && !run->second.losses.empty()) {
        fill(run->second, {});
    } else if (const auto last = m_runs.find(m_lastShown); last != m_runs.end()) {
        state.age = age();
        state.staleName = m_lastShownName;
        fill(last->second,
             state.age + format::kDot + format::time(QDateTime::fromSecsSinceEpoch(last->second.time), QDateTime::currentDateTime()));
    }
    if (m_job && m_job->planHash == hash) (m_job->full ? state.full : state.quick).running = true;
    state.quick.paused = m_engine->state() == EngineState::Lost && m_quickWanted;
    state.full.paused = m_engine->state() == EngineState::Lost && m_fullWanted;
    return state;
}

std::optional<EvaluationController::DenseBase> EvaluationController::denseBase() const
{
    if (!isOpen()) return std::nullopt;
    const bool current = m_runs.contains(m_plan.hash()) && !m_runs.at(m_plan.hash()).losses.empty();
    const std::string& shown = current ? m_plan.hash() : m_lastShown;
    for (const bool full : {true, false}) {
        // Nothing on screen yet: the quick windows come first.
        if (full && (!m_runs.contains(shown) || !missing(shown, true).empty())) continue;
        if (const std::optional<double> ppl = perplexityOf(m_identity.hash(), full))
            return DenseBase{*ppl, full, static_cast<int>(tierWindows(full).size())};
    }
    return std::nullopt;
}

std::optional<double> EvaluationController::perplexityOf(const std::string& planHash, bool full) const
{
    const auto run = m_runs.find(planHash);
    if (run == m_runs.end() || !missing(planHash, full).empty()) return std::nullopt;
    return perplexity(listOf(run->second, tierWindows(full))).ppl;
}

std::optional<PairedDifference> EvaluationController::differenceOf(const std::string& planHash, bool full) const
{
    const auto plan = m_runs.find(planHash);
    const auto dense = m_runs.find(m_identity.hash());
    if (plan == m_runs.end() || dense == m_runs.end()) return std::nullopt;
    if (!missing(planHash, full).empty() || !missing(m_identity.hash(), full).empty()) return std::nullopt;
    const std::vector<int> windows = tierWindows(full);
    return pairedDifference(listOf(plan->second, windows), listOf(dense->second, windows));
}

std::optional<EvaluationController::Measured> EvaluationController::measuredOf(const std::string& planHash) const
{
    for (const bool full : {true, false}) {
        const std::optional<double> ppl = perplexityOf(planHash, full);
        const std::optional<PairedDifference> difference = differenceOf(planHash, full);
        if (!ppl || !difference) continue;
        Measured measured;
        measured.windowsOf = totalWindows();
        Measurement& measurement = measured.measurement;
        measurement.text = textName(m_text).toStdString();
        measurement.textSha256 = m_textSha256;
        measurement.windows = difference->windows;
        measurement.windowLength = m_text.windowLength;
        measurement.ppl = *ppl;
        measurement.densePpl = perplexityOf(m_identity.hash(), full);
        measurement.deltaNll = difference->nll;
        measurement.deltaNllError = difference->se;
        return measured;
    }
    return std::nullopt;
}

QHash<QString, PlanLoss> EvaluationController::planLosses() const
{
    QHash<QString, PlanLoss> losses;
    const auto dense = m_runs.find(m_identity.hash());
    if (!isOpen() || dense == m_runs.end()) return losses;
    for (const bool full : {false, true}) {  // the full ones replace the quick ones
        const std::vector<int> windows = tierWindows(full);
        const std::vector<WindowLoss> reference = listOf(dense->second, windows);
        if (reference.size() < windows.size()) continue;
        for (const auto& [hash, run] : m_runs) {
            if (run.losses.size() < windows.size()) continue;
            const std::vector<WindowLoss> list = listOf(run, windows);
            if (list.size() < windows.size()) continue;
            const PairedDifference difference = pairedDifference(list, reference);
            PlanLoss loss;
            loss.ppl = perplexity(list).ppl;
            loss.full = full && m_text.quickWindows < totalWindows();
            loss.increase = difference.pplRatio - 1;
            loss.increaseError = difference.pplRatio * difference.se;
            loss.basis = basisText(textName(m_text), difference.windows, totalWindows(), m_text.windowLength);
            losses.insert(QString::fromStdString(hash), loss);
        }
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
