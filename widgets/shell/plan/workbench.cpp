#include "shell/plan/workbench.h"

#include "allocate/rank_rule.h"
#include "base/sha256.h"
#include "look/error_text.h"
#include "plan/plan_name.h"
#include "plan/values_search.h"
#include "session/session_values.h"
#include "shell/engine/problem_id.h"

#include <QDateTime>
#include <QDir>
#include <QElapsedTimer>
#include <QFile>
#include <QFileInfo>

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

constexpr int kAutosaveMsec = 30000;
const QString kRecoveryNotice = QStringLiteral("recovery-unwritable");
// What the views show. Bases and gradients take twice as long again, and nothing here reads them.
const std::vector<std::string> kCollected = {"counts", "ean", "reap", "gram", "outputs", "similarity"};
const std::set<std::string> kAssumed = {"counts", "ean", "reap", "gram"};  // of a profile of which nothing is known

// A model whose headers can be read but that cannot be run here; the engine's warnings say what is not supported.
Error unsupportedModel(const QString& folder, const std::vector<std::string>& warnings)
{
    std::string reason;
    for (const std::string& warning : warnings)
        reason += (reason.empty() ? "" : " ") + warning;
    if (reason.empty()) reason = Workbench::tr("The architecture of %1 is not supported.").arg(QFileInfo(folder).fileName()).toStdString();
    return unsupported("checkpoint.architecture_unsupported", folder.toStdString(), reason,
                       Workbench::tr("espalier-engine inspect shows its layers and sizes.").toStdString());
}

}  // namespace

Workbench::Workbench(WorkbenchPaths paths, QObject* parent)
    : QObject(parent),
      m_paths(std::move(paths)),
      m_plans(this),
      m_evaluation(&m_engine, this),
      m_locked(&m_engine, this),
      m_tasks(&m_engine, this),
      m_completions(&m_engine, this),
      m_speed(&m_engine, this),
      m_planning(&m_engine, &m_plans, this),
      m_store(m_paths.dataFolder + QStringLiteral("/recovery"), valuesFolder()),
      m_deep(&m_engine, &m_store, this),
      m_weightScores(&m_engine, this)
{
    m_texts = builtInTexts();
    connect(&m_plans, &PlanController::planChanged, this, [this] {
        if (isOpen()) m_evaluation.setPlan(m_plans.plan(), planName(), m_plans.inGesture());
    });
    connect(&m_plans, &PlanController::historyChanged, this, &Workbench::committed);
    connect(&m_evaluation, &EvaluationController::failed, this, [this](const Error& error) {
        if (error.code.starts_with("profile.")) {
            const bool had = m_deep.ready();
            m_rankProfiles.clear();
            m_deep.discard();
            // The first profile went when that one was complete.
            if (had && !QFileInfo::exists(profileOnDisk())) profile();
        }
        emit notice(error, problemId(error));
    });
    connect(&m_evaluation, &EvaluationController::jobChanged, this, [this](const std::optional<JobState>& job) {
        // Lanes are first come, first served: what was asked for now does not wait for what nobody asked for.
        if (job && m_evaluation.runsFull()) m_deep.giveWay();
        tellJob(job ? job : backgroundJob());
        considerDeep();
    });
    connect(&m_locked, &LockedController::jobChanged, this, [this](const std::optional<JobState>& job) {
        if (job) m_deep.giveWay();
        tellJob(job ? job : backgroundJob());
        if (!job) considerDeep();
    });
    connect(&m_locked, &LockedController::failed, this, [this](const Error& error) { emit notice(error, problemId(error)); });
    connect(&m_evaluation, &EvaluationController::warned, this, &Workbench::warnOfText);
    connect(&m_locked, &LockedController::warned, this, &Workbench::warnOfText);
    connect(&m_locked, &LockedController::opened, this, [this] {
        // Every look counts, also the one before a crash.
        ++m_editsSinceSave;
        emit sessionChanged();
        writeRecovery();
    });
    connectWeightScores();
    connectTasks();
    connectTrying();
    connect(&m_planning, &PlanningController::jobChanged, this, [this] { tellJob(backgroundJob()); });
    connect(&m_planning, &PlanningController::failed, this, [this](const Error& error) { emit notice(error, QStringLiteral("plan")); });
    connect(&m_planning, &PlanningController::started, &m_deep, &DeepProfile::giveWay);
    connect(&m_planning, &PlanningController::ended, this, &Workbench::considerDeep);
    connect(&m_evaluation, &EvaluationController::runsChanged, this, &Workbench::sessionChanged);
    connect(&m_evaluation, &EvaluationController::runsChanged, this, &Workbench::considerDeep);
    connect(&m_deep, &DeepProfile::changed, this, &Workbench::deepChanged);
    connect(&m_deep, &DeepProfile::jobChanged, this, [this] {
        if (!m_evaluation.busy() && !m_profileJob) tellJob(m_deep.job());
    });
    connect(&m_deep, &DeepProfile::measured, this, [this](const ScoresByMethod& scores) {
        takeScores(scores);
        emit sessionChanged();
    });
    connect(&m_deep, &DeepProfile::failed, this, [this](const Error& error) {
        Error told = error;
        if (told.kept.empty()) told.kept = tr("Everything measured before is kept; ranks use plain SVD.").toStdString();
        emit notice(told, problemId(error));
    });
    m_autosave.setSingleShot(true);
    m_autosave.setInterval(kAutosaveMsec);
    connect(&m_autosave, &QTimer::timeout, this, &Workbench::writeRecovery);
    connect(&m_evaluation, &EvaluationController::runsChanged, this, [this] {
        if (!m_autosave.isActive()) m_autosave.start();
    });
    connect(&m_store, &SessionStore::heldElsewhere, this, [this](const Error& error) { openedReadOnly(causeText(error)); });
    connect(&m_store, &SessionStore::recoveryFailed, this, [this](const Error& error) { emit notice(error, kRecoveryNotice); });
    connect(&m_store, &SessionStore::recoveryWorks, this, [this] { emit noticeSettled(kRecoveryNotice); });
    connect(&m_engine, &EngineClient::ready, this, [this] {
        if (m_pendingModel) {
            const QString folder = *std::exchange(m_pendingModel, std::nullopt);
            requestOpen(folder, std::exchange(m_pendingSession, std::nullopt));
        } else if (isOpen() && !m_modelPath.isEmpty() && !m_forwardSupported) {
            requestOpen(m_modelPath, std::nullopt, true);
        } else if (isOpen() && !m_profiled && m_profileRequest == 0) {
            profile();
        }
    });
    connect(&m_engine, &EngineClient::lost, this, [this] {
        m_profileJob.reset();
        m_profileRequest = 0;
        emit profileChanged();
        emit jobChanged(std::nullopt);
    });
}

std::optional<JobState> Workbench::backgroundJob() const
{
    return m_completions.job()    ? m_completions.job()
           : m_speed.job()        ? m_speed.job()
           : m_tasks.job()        ? m_tasks.job()
           : m_profileJob         ? m_profileJob
           : m_weightScores.job() ? m_weightScores.job()
                                  : m_deep.job();
}

Workbench::~Workbench() = default;

QString Workbench::modelName() const { return QFileInfo(m_modelPath).fileName(); }

QString Workbench::planName() const
{
    if (!isOpen()) return {};
    if (m_plans.inGesture() && m_plans.plan() != m_plans.committed()) return tr("edit in progress");
    const CompressionPlan& plan = m_plans.committed();
    if (const auto given = m_planNames.find(plan.hash()); given != m_planNames.end()) return QString::fromStdString(given->second);
    // Another plan of the history may do as much to other experts: the second one of a name says so.
    const auto proposed = [this](const CompressionPlan& of) -> const std::string& {
        std::string& name = m_proposedNames[of.hash()];
        if (name.empty()) name = proposedPlanName(m_plans.shape(), of);
        return name;
    };
    const std::string& name = proposed(plan);
    // Entries are never taken away, so that the number of a plan stays while no names are given.
    const auto [number, isNew] = m_nameNumbers.try_emplace(plan.hash(), 0);
    if (isNew) {
        std::set<std::string_view> earlier;
        for (const HistoryEntry& entry : m_plans.history().entries()) {
            if (!entry.readable()) continue;
            if (entry.plan.hash() == plan.hash()) break;
            if (proposed(entry.plan) == name && !m_planNames.contains(entry.plan.hash())) earlier.insert(entry.plan.hash());
        }
        number->second = earlier.size() + 1;
    }
    const QString shown = QString::fromStdString(name);
    return number->second == 1 ? shown : tr("%1 (%2)").arg(shown).arg(number->second);
}

void Workbench::namePlan(const QString& name)
{
    if (!isOpen()) return;
    const std::string& hash = m_plans.committed().hash();
    m_nameNumbers.clear();
    if (name.trimmed().isEmpty())
        m_planNames.erase(hash);
    else
        m_planNames[hash] = name.trimmed().left(80).toStdString();
    m_evaluation.setPlan(m_plans.plan(), planName(), m_plans.inGesture());
    committed();
}

void Workbench::openDemo() { openModel(m_paths.demoFolder + QStringLiteral("/espalier-demo-moe")); }

void Workbench::openModel(const QString& folder, const std::optional<TextChoice>& texts)
{
    const QString path = QDir(folder).absolutePath();
    m_pendingTexts = texts ? *texts : builtInTexts();
    if (!m_engine.usable()) {
        m_pendingModel = path;
        m_pendingSession.reset();
        if (m_engine.state() == EngineState::NotStarted) m_engine.start();
        return;
    }
    requestOpen(path, std::nullopt);
}

void Workbench::requestOpen(const QString& folder, std::optional<SessionData> session, bool reconnect)
{
    auto shared = std::make_shared<std::optional<SessionData>>(std::move(session));
    m_engine.ask(OpenModelRequest{folder.toStdString()}, {}, [this, folder, shared, reconnect](const EngineAnswer<OpenModelAnswer>& reply) {
        if (!reply.ok()) {
            if (reply.outcome == EngineEnd::Outcome::Failed) emit notice(reply.error, QStringLiteral("open:%1").arg(folder));
            return;
        }
        modelOpened(folder, reply.value, *shared, reconnect);
    });
}

void Workbench::modelOpened(const QString& folder, const OpenModelAnswer& answer, const std::optional<SessionData>& session, bool reconnect)
{
    const std::optional<ModelShape>& shape = answer.shape;
    if (!shape || shape->layers.empty()) {
        Error error = unsupportedModel(folder, answer.warnings);
        error.kept = tr("Nothing was changed.").toStdString();
        emit notice(error, QStringLiteral("open:%1").arg(folder));
        return;
    }
    const std::string& fingerprint = answer.fingerprint;
    const bool reconnected = reconnect && isOpen() && fingerprint == m_fingerprint && folder == m_modelPath && !session;
    if ((reconnect || session) && isOpen() && !m_fingerprint.empty() && fingerprint != m_fingerprint && folder == m_modelPath) {
        Error error = badInput("session.other_model", folder.toStdString(),
                               tr("The model in this folder is another one than the session was made with.").toStdString(),
                               tr("Open the right folder.").toStdString());
        error.kept = tr("Plan, history and runs stay as they are.").toStdString();
        emit notice(error, QStringLiteral("open:%1").arg(folder));
        return;
    }
    m_modelPath = folder;
    m_weightScores.setModel(folder);
    m_fingerprint = fingerprint;
    m_configSha256 = answer.configSha256;
    m_weightsSha256 = answer.weightsSha256;
    m_forwardSupported = answer.forwardSupported;
    // After what was said about the model before has gone.
    const auto tellWarnings = [this, warnings = answer.warnings] {
        for (const std::string& warning : warnings) {
            Error note;
            note.code = "checkpoint.warning";
            note.message = warning;
            emit notice(note, problemId(note));
        }
    };
    if (!reconnected && !session) {
        const TextChoice texts = std::exchange(m_pendingTexts, std::nullopt).value_or(builtInTexts());
        const PlanModel model{shape->modelType, m_configSha256, m_weightsSha256};
        m_windowLength = 0;
        withShares(texts, *shape, {}, [this, folder, layers = *shape, model, texts, tellWarnings](const Result<TextShares>& shares) {
            if (folder != m_modelPath) return;
            if (shares.ok()) {
                beginModel(layers, model, texts, *shares);
            } else {
                Error error = shares.error();
                error.kept = tr("The built-in texts are used instead.").toStdString();
                const TextChoice others = builtInTexts();
                beginModel(layers, model, others, shareTexts(others, windowLengthFor(layers), {}).value_or(TextShares()));
                emit notice(error, QStringLiteral("text"));
            }
            tellWarnings();
            emit recentChanged(folder);
            lookForDeep();
            if (!m_profiled) profile();
        });
        return;
    }
    tellWarnings();
    askForWeightScores();
    if (!reconnected || m_deep.state() == DeepProfile::State::None) lookForDeep();
    if (!m_profiled)
        profile();
    else if (!reconnected)
        lookForConstants();
}

void Workbench::beginModel(const ModelShape& shape, const PlanModel& model, const TextChoice& texts, const TextShares& shares)
{
    m_opening = true;
    m_windowLength = 0;
    m_texts = texts;
    m_shares = shares;
    m_planning.reset();
    m_rankProfiles.clear();
    forgetProfile();
    m_otherTexts.clear();
    m_store.release();
    m_kept = {};
    m_keptText.clear();
    m_planNames.clear();
    m_proposedNames.clear();
    m_nameNumbers.clear();
    m_sessionFile.clear();
    m_savedProfile.clear();
    m_toldWarnings.clear();
    m_readOnly.clear();
    m_savedAt = 0;
    m_view = Json::object();
    m_ranking = kRanking;
    m_evaluation.setModel(m_modelPath.toStdString(), CompressionPlan::identity(shape), m_shares.live);
    m_locked.clear();
    m_locked.setModel(m_modelPath.toStdString(), CompressionPlan::identity(shape), m_shares.locked);
    m_tasks.setModel(m_modelPath.toStdString(), CompressionPlan::identity(shape), m_texts.tasks.toStdString());
    setTriedModel(shape);
    m_plans.open(shape, model, modelName());
    m_store.clearRecovery();
    m_editsSinceSave = 0;
    markSaved(sessionContentHash(snapshot()), m_plans.history().entries().size());
    m_opening = false;
    emit opened();
    noteTexts();
    emit sessionChanged();
}

// What was measured so far, and what is being measured, belongs to another model or text.
void Workbench::forgetProfile(bool sameModel)
{
    if (m_profileRequest != 0) m_engine.cancel(m_profileRequest);
    m_profileRequest = 0;
    ++m_profileEpoch;
    m_profileJob.reset();
    m_deep.close();
    forgetScores(sameModel);
    m_profiled = false;
    m_collected.clear();
    m_calibrationSha256.clear();
    lookForConstants();
}

bool Workbench::profileComplete() const { return m_profiled && m_profileRequest == 0 && QFileInfo::exists(profileOnDisk()); }

void Workbench::profileAgain()
{
    if (m_profileRequest != 0) return;
    m_profileAgain = true;
    profile();
}

// Told once where it is opened, and as long as it is open beside its name.
void Workbench::openedReadOnly(const QString& why)
{
    m_readOnly = why;
    Error error;
    error.code = "session.read_only.warning";
    error.message = tr("%1 It is opened read-only.").arg(why).toStdString();
    error.kept = tr("Plans can be edited and measured here; its file stays as it is.").toStdString();
    error.action = tr("Save under another name to keep them.").toStdString();
    emit notice(error, QStringLiteral("session-lock"));
    emit sessionChanged();
}

// What the engine says about a text comes with every reply: told once.
void Workbench::warnOfText(const std::vector<std::string>& sentences)
{
    for (const std::string& sentence : sentences) {
        if (!m_toldWarnings.insert(sentence).second) continue;
        Error note;
        note.code = "text.warning";
        note.message = sentence;
        emit notice(note, problemId(note));
    }
}

QString Workbench::profileFile() const { return profileFileOf(""); }

QString Workbench::profileFileOf(const char* kind) const
{
    const EvaluationText& text = m_shares.calibration;
    const std::string path = text.paths.empty() ? std::string() : text.paths.front();
    const QFileInfo info(QString::fromStdString(path));
    std::string key = m_fingerprint + "|" + path + "|" + std::to_string(info.size()) + "|" +
                      std::to_string(info.lastModified().toSecsSinceEpoch()) + "|" + std::to_string(text.windowLength) + "|" +
                      std::to_string(text.fullWindows);
    if (text.firstWindow > 0) key += "|from " + std::to_string(text.firstWindow);
    if (*kind) key += std::string("|") + kind;
    return m_paths.dataFolder + QStringLiteral("/profiles/%1.h5").arg(QString::fromStdString(sha256Hex(key)).left(32));
}

void Workbench::profile()
{
    const bool again = std::exchange(m_profileAgain, false);
    if (!isOpen() || !m_engine.usable() || m_profileRequest != 0 || !m_forwardSupported) return;
    // The deep one holds all that the first one does, which goes once it is there.
    const QString file = again ? profileFile() : profileOnDisk();
    QDir().mkpath(QFileInfo(file).path());
    auto clock = std::make_shared<QElapsedTimer>();
    clock->start();
    const auto finished = [this, clock, again, fresh = again || !QFileInfo::exists(file), epoch = m_profileEpoch](
                              const EngineEnd& reply, const LoadProfileAnswer& facts, const std::vector<std::string>& textWarnings) {
        if (epoch != m_profileEpoch) return;
        m_profileRequest = 0;
        m_profileJob.reset();
        if (reply.ok()) {
            m_profiled = true;
            m_calibrationSha256 = facts.textSha256;
            m_collected = {facts.collected.begin(), facts.collected.end()};
            warnOfText(textWarnings);
            if (fresh) measuredIn(static_cast<double>(clock->elapsed()) / 1000.0);
            takeScores(facts.scores);
        } else if (reply.outcome == EngineReply::Outcome::Failed) {
            emit notice(reply.error, problemId(reply.error));
        }
        // Rows that had arrived give way to those of the profile that is still there.
        if (again && (reply.outcome == EngineReply::Outcome::Cancelled || reply.outcome == EngineReply::Outcome::Failed)) profile();
        if (!m_evaluation.busy()) tellJob(backgroundJob());
        lookForConstants();
        emit profileChanged();
        if (reply.ok()) {
            m_evaluation.setPlan(m_plans.plan(), planName());
            emit sessionChanged();
            if (!again) dropFirstProfile();
            considerDeep();
        }
    };
    const EvaluationText& text = m_shares.calibration;
    JobState job;
    job.what = tr("Profile · %1").arg(modelName());
    m_profileJob = job;
    if (!again && QFileInfo::exists(file)) {
        m_profileRequest = m_engine.ask(LoadProfileRequest{file.toStdString()}, {},
                                        [this, file, finished, epoch = m_profileEpoch](const EngineAnswer<LoadProfileAnswer>& reply) {
                                            if (epoch != m_profileEpoch) return;
                                            // A file of an older version or a damaged one is measured again, not complained about.
                                            if (reply.outcome == EngineEnd::Outcome::Failed && QFile::remove(file)) {
                                                if (file == m_deep.file()) m_deep.discard();
                                                m_profileRequest = 0;
                                                profile();
                                                return;
                                            }
                                            finished(reply, reply.value, {});
                                        });
        return;
    }
    ProfileRequest request;
    request.path = m_modelPath.toStdString();
    request.text = selectionOf(text);
    request.windows = text.fullWindows;
    request.out = file.toStdString();
    request.collect = kCollected;
    request.resume = !again;
    m_profileRequest = m_engine.ask(
        request, {"profile", Lane::Full},
        [finished](const EngineAnswer<ProfileAnswer>& reply) { finished(reply, reply->facts, reply->textWarnings); },
        [this, epoch = m_profileEpoch](const EngineProgress& progress) {
            if (epoch != m_profileEpoch || !m_profileJob) return;
            m_profileJob->done = progress.done;
            m_profileJob->total = progress.total;
            m_profileJob->etaSeconds = progress.etaSeconds;
            if (const auto layers = static_cast<std::int64_t>(m_plans.shape().layers.size()); progress.total > 0)
                m_profileJob->count = tr("layer %1 of %2").arg(std::min(layers, progress.done * layers / progress.total + 1)).arg(layers);
            if (progress.total > 0 && progress.done >= progress.total) m_profileJob->phase = JobState::Phase::Finishing;
            if (!m_evaluation.busy()) tellJob(m_profileJob);
        },
        [this, epoch = m_profileEpoch](const LayerScored& scored) {
            if (epoch == m_profileEpoch) takePartial(scored);
        });
    tellJob(m_profileJob);
    if (!m_profiled) lookForConstants();
    emit profileChanged();
}

std::vector<MethodInfo> Workbench::methods(Slot slot) const
{
    std::vector<MethodInfo> found;
    if (const auto& info = m_engine.serverInfo())
        for (const MethodInfo& method : info->methods)
            if (method.slot == slot) found.push_back(method);
    if (!found.empty()) return found;
    switch (slot) {
        case Slot::Allocate:
            return allocators();
        case Slot::Select:
            return selectors();
        case Slot::RankRule:
            return rankRules();
        default:
            return found;
    }
}

std::vector<MethodInfo> Workbench::methods() const
{
    std::vector<MethodInfo> all;
    for (const Slot slot : {Slot::Score, Slot::Allocate, Slot::Select, Slot::Factors, Slot::RankRule, Slot::Recover})
        for (MethodInfo& method : methods(slot))
            all.push_back(std::move(method));
    return all;
}

std::optional<std::set<std::string>> Workbench::statistics() const
{
    if (!m_profiled) return std::nullopt;
    if (m_deep.ready()) return std::set<std::string>(DeepProfile::statistics().begin(), DeepProfile::statistics().end());
    // A session says nothing about it: then the file holds at least what any version of this window has asked for.
    return m_collected.empty() ? kAssumed : m_collected;
}

QString Workbench::planningProfile() const { return m_deep.ready() ? m_deep.file() : profileOnDisk(); }

QString Workbench::planningProblem() const
{
    if (!isOpen()) return tr("No model is open.");
    if (!m_engine.usable()) return tr("The engine is not running.");
    if (!m_forwardSupported) return tr("The engine has not opened the model.");
    if (m_profileRequest != 0) return tr("The profile is being measured.");
    if (!m_profiled) return tr("There is no profile yet.");
    if (!QFileInfo::exists(planningProfile())) return tr("The profile's file is gone. Measure the profile again.");
    if (m_planning.running()) return tr("A search is running.");
    return {};
}

PlanningInputs Workbench::planningInputs() const
{
    const QString folder = m_paths.dataFolder + QStringLiteral("/searches");
    QDir().mkpath(folder);
    const QString journal = QStringLiteral("%1/%2.jsonl").arg(folder, QString::fromStdString(sha256Hex(m_fingerprint)).left(32));
    return {m_modelPath.toStdString(),
            planningProfile().toStdString(),
            m_shares.calibration,
            m_shares.calibration.fullWindows,
            methods(),
            journal.toStdString(),
            m_evaluation.profilesFor(m_plans.committed()),
            valuesFolder().toStdString()};
}

void Workbench::plan(const PipelineRecipe& recipe)
{
    if (planningProblem().isEmpty()) m_planning.start(recipe, planningInputs());
}

void Workbench::recover(const PipelineRecipe& recipe)
{
    if (planningProblem().isEmpty()) m_planning.recover(recipe, planningInputs());
}

void Workbench::tellJob(const std::optional<JobState>& job)
{
    const std::optional<JobState> search = m_planning.job();
    emit jobChanged(search ? search : job);
}

PlanCost Workbench::cost() const { return planCost(m_plans.shape(), m_plans.plan()); }
PlanCost Workbench::denseCost() const { return planCost(m_plans.shape(), CompressionPlan::identity(m_plans.shape())); }
bool Workbench::settled() const { return isOpen() && m_profiled && m_evaluation.quickComplete() && m_evaluation.busy() == false; }

void Workbench::cancelJob()
{
    if (m_planning.running()) {
        m_planning.cancel();
        return;
    }
    if (m_evaluation.busy()) {
        m_evaluation.cancel();
        return;
    }
    if (m_locked.busy()) {
        m_locked.cancel();
        return;
    }
    if (m_completions.busy() || m_speed.busy()) {
        m_completions.busy() ? m_completions.cancel() : m_speed.cancel();
        return;
    }
    if (m_tasks.busy()) {
        m_tasks.cancel();
        return;
    }
    if (m_profileRequest == 0) {
        m_weightScores.job() ? m_weightScores.cancel() : m_deep.cancel();
        return;
    }
    m_engine.cancel(m_profileRequest);
    if (m_profileJob) {
        m_profileJob->phase = JobState::Phase::Cancelling;
        tellJob(m_profileJob);
    }
}

void Workbench::closeModel()
{
    m_planning.reset();
    m_rankProfiles.clear();
    forgetProfile();
    m_otherTexts.clear();
    m_store.clearRecovery();
    m_store.release();
    m_evaluation.clear();
    m_locked.clear();
    m_tasks.setModel({}, {}, {});
    m_completions.setModel({}, {});
    m_speed.setModel({});
    m_plans.close();
    m_planNames.clear();
    m_nameNumbers.clear();
    m_kept = {};
    m_keptText.clear();
    m_modelPath.clear();
    m_weightScores.setModel({});
    m_sessionFile.clear();
    m_readOnly.clear();
    m_fingerprint.clear();
    emit closed();
    emit sessionChanged();
}

// ---- sessions

SessionData Workbench::snapshot() const
{
    SessionData data = m_kept;
    data.model = {m_modelPath.toStdString(), m_fingerprint, m_configSha256, m_weightsSha256};
    data.shape = m_plans.shape();
    data.history = m_plans.history();
    saveTexts(data);
    saveRuns(data);
    saveTasks(data);
    if (m_profiled)
        for (const auto& [method, scores] : m_scores)
            data.scores.push_back(scores);
    data.usage = usage();
    // The profile that plans name; where there is none, the one that the scores came from.
    data.profile = m_deep.ready() ? m_deep.file().toStdString() : m_profiled ? profileOnDisk().toStdString() : std::string();
    data.profileFingerprint = m_deep.sha256();
    if (!m_deep.ready() && !m_kept.profileFingerprint.empty()) {
        data.profile = m_kept.profile;
        data.profileFingerprint = m_kept.profileFingerprint;
        if (!m_keptText.isEmpty()) data.texts.push_back({"profile", m_keptText.toStdString()});
    }
    data.planNames = m_planNames;
    data.view = m_view;
    return data;
}

bool Workbench::modified() const
{
    // A model that was only opened and measured has nothing to lose.
    if (!isOpen() || (m_sessionFile.isEmpty() && m_plans.history().entries().size() < 2)) return false;
    // An edit adds an entry, and none is ever taken away: what was saved is hashed only where there are as many as then.
    return m_plans.history().entries().size() != m_savedEntries || sessionContentHash(snapshot()) != m_savedHash;
}

void Workbench::markSaved(std::string hash, std::size_t entries)
{
    m_savedHash = std::move(hash);
    m_savedEntries = entries;
}

void Workbench::committed()
{
    if (!isOpen()) return;
    ++m_editsSinceSave;
    emit sessionChanged();
    writeRecovery();
}

void Workbench::writeRecovery()
{
    m_autosave.stop();
    // The root entry alone is nothing to recover.
    if (!isOpen() || m_plans.history().entries().size() < 2 || !modified()) return;
    RecoveryInfo info;
    info.session = m_sessionFile.toStdString();
    info.savedAt = m_savedAt;
    info.writtenAt = QDateTime::currentSecsSinceEpoch();
    info.edits = m_editsSinceSave;
    m_store.writeRecovery(snapshot(), info);
}

void Workbench::saveSession(const QString& file)
{
    SessionData data = snapshot();
    const std::string hash = sessionContentHash(data);
    const std::size_t entries = data.history.entries().size();
    const QString savedProfile = QString::fromStdString(data.profile.string());
    m_store.write(file, std::move(data), [this, file, hash, entries, savedProfile](const Status& status) {
        if (!status.ok()) {
            emit notice(status.error(), QStringLiteral("save"));
            return;
        }
        m_sessionFile = file;
        m_readOnly.clear();
        markSaved(hash, entries);
        m_savedAt = QDateTime::currentSecsSinceEpoch();
        m_editsSinceSave = 0;
        m_savedProfile = savedProfile;
        dropFirstProfile();
        m_store.clearRecovery();
        m_store.cleanValues(snapshot());
        emit recentChanged(file);
        emit sessionChanged();
        emit saved(file);
    });
}

QString Workbench::valuesFolder() const { return m_paths.dataFolder + QStringLiteral("/values"); }

void Workbench::findValues(const QString& file)
{
    if (!isOpen()) return;
    const SessionData data = snapshot();
    m_store.findValues(file, lostValues(data), [this, file, fingerprint = m_fingerprint](const std::map<ValuesId, std::string>& found) {
        if (!isOpen() || fingerprint != m_fingerprint) return;
        if (found.empty()) {
            Error error = badInput("plan.values_changed", file.toStdString(),
                                   tr("%1 is no values file that a plan of this session names: its content is another.")
                                       .arg(QFileInfo(file).fileName())
                                       .toStdString(),
                                   tr("Choose the file that was written with the plan, whatever it is called now.").toStdString());
            error.kept = tr("Plan, history and what was measured stay as they are.").toStdString();
            emit notice(error, QStringLiteral("values-file-other"));
            return;
        }
        emit noticeSettled(QStringLiteral("values-file-other"));
        for (SessionSnapshot& snapshot : m_kept.snapshots)
            if (!snapshot.unread) snapshot.plan = withValuesAt(snapshot.plan, found);
        m_plans.placeValues(found);
        m_savedHash.clear();  // no edit, but worth saving: it is not looked for again then
        emit sessionChanged();
    });
}

void Workbench::openSession(const QString& file)
{
    m_store.read(file, [this, file](Result<SessionData> data) {
        if (!data.ok()) {
            emit notice(data.error(), QStringLiteral("session:%1").arg(file));
            return;
        }
        adoptSession(std::move(data).value(), file, false);
    });
}

void Workbench::adoptSession(SessionData data, const QString& file, bool recovered)
{
    m_opening = true;
    const bool newerVersion = data.readOnly;
    m_planning.reset();
    m_weightScores.setModel({});  // once the engine has opened it
    m_modelPath = QString::fromStdString(data.model.path.string());
    m_fingerprint = data.model.fingerprint;
    m_configSha256 = data.model.configSha256;
    m_weightsSha256 = data.model.weightsSha256;
    m_forwardSupported = false;  // known once the engine has opened the model again
    m_windowLength = data.runs.empty() ? 0 : data.runs.front().windowLength;
    adoptTexts(data);
    m_sessionFile = file;
    m_savedProfile = QString::fromStdString(data.profile.string());
    m_toldWarnings.clear();
    m_readOnly.clear();
    m_rankProfiles.clear();
    forgetProfile();
    m_otherTexts.clear();
    // Snapshots, notes and whatever a newer version wrote are saved again as they were.
    m_kept = data;
    m_kept.history = PlanHistory();
    m_kept.runs.clear();
    m_kept.openings.clear();
    m_kept.tasks.clear();
    m_kept.scores.clear();
    m_planNames = data.planNames;
    m_proposedNames.clear();
    m_nameNumbers.clear();
    for (const ExpertScores& scores : data.scores)
        m_scores[scores.method] = scores;
    m_profiled = !data.scores.empty();
    m_view = data.view;
    m_plans.restore(data.shape, data.history);
    m_evaluation.setModel(m_modelPath.toStdString(), CompressionPlan::identity(data.shape), m_shares.live);
    m_locked.clear();
    m_locked.setModel(m_modelPath.toStdString(), CompressionPlan::identity(data.shape), m_shares.locked);
    adoptRuns(data);
    adoptTasks(data);
    m_evaluation.setPlan(m_plans.plan(), planName());
    const std::string shown = m_view.value("score", m_chosenScore);
    // Sessions of before ranked by what their map showed.
    const Json budget = m_view.value("budget", Json());
    const Json ranking = budget.is_object() ? budget.value("ranking", Json(shown)) : Json(shown);
    m_ranking = ranking.is_string() ? ranking.get<std::string>() : kRanking;
    chooseScore(shown);
    if (data.currentUnread) {
        Error error;
        error.code = "session.plan_unread.warning";
        error.message =
            tr("The plan that was open in this session cannot be read here: the one before it in the history is.").toStdString();
        error.kept = tr("Its entry stays, and is kept when the session is saved.").toStdString();
        error.action = tr("Open the session with the Espalier that made the plan to go on with it.").toStdString();
        emit notice(error, QStringLiteral("session-plan"));
    }
    markSaved(recovered ? std::string() : sessionContentHash(snapshot()), m_plans.history().entries().size());
    m_savedAt = QDateTime::currentSecsSinceEpoch();
    m_editsSinceSave = 0;
    // What was recovered is not in the user's file yet; what was opened is.
    if (recovered)
        writeRecovery();
    else
        m_store.clearRecovery();
    m_opening = false;
    emit opened();
    noteTexts();
    emit sessionChanged();
    if (!file.isEmpty() && !recovered) emit recentChanged(file);
    if (const QFileInfo info(file); newerVersion)
        openedReadOnly(tr("%1 was written by a newer version of Espalier.").arg(info.fileName()));
    else if (info.exists() && !info.isWritable())
        openedReadOnly(tr("%1 may not be written by this user.").arg(info.fileName()));
    if (m_engine.usable())
        requestOpen(m_modelPath, std::move(data));
    else {
        m_pendingModel = m_modelPath;
        m_pendingSession = std::move(data);
    }
}

}  // namespace espalier
