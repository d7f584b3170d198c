#include "shell/engine/tasks_controller.h"

#include "look/format.h"

#include <QDateTime>
#include <QFileInfo>

#include <algorithm>

namespace espalier
{

namespace
{

// Of one file: an answer given before stays where the new run has none (yet).
TaskMarks merged(const TaskMarks& before, TaskMarks now)
{
    if (before.sha256 != now.sha256 || before.rules != now.rules) return now;
    const auto fill = [](std::string& marks, const std::string& old) {
        if (old.size() > marks.size()) marks.resize(old.size(), TaskMarks::kOpen);
        for (std::size_t i = 0; i < old.size(); ++i)
            if (marks[i] == TaskMarks::kOpen) marks[i] = old[i];
    };
    fill(now.acc, before.acc);
    if (!now.norm.empty()) fill(now.norm, before.norm);
    now.hidden = std::max(now.hidden, before.hidden);
    return now;
}

const TaskMarks* named(const std::vector<TaskMarks>& tasks, const std::string& name)
{
    const auto found = std::find_if(tasks.begin(), tasks.end(), [&](const TaskMarks& task) { return task.name == name; });
    return found == tasks.end() ? nullptr : &*found;
}

}  // namespace

TasksController::TasksController(EngineClient* engine, QObject* parent) : RequestedJob(engine, parent) {}

void TasksController::setModel(const std::string& path, const CompressionPlan& identity, const std::string& folder)
{
    m_running.clear();
    changeModel(path);
    m_folder = folder;
    m_identity = identity;
    m_onScreen = path.empty() ? std::string() : identity.hash();
    m_lastShown.clear();
    m_runs.clear();
    m_words.clear();
    emit changed();
}

void TasksController::setFolder(const std::string& folder)
{
    if (folder == m_folder) return;
    cancel();
    m_folder = folder;
    m_words.clear();
    emit changed();
}

void TasksController::setPlan(const CompressionPlan& plan)
{
    const std::string& hash = plan.hash();
    if (hash == m_onScreen) return;
    if (runOf(m_onScreen)) m_lastShown = m_onScreen;
    m_onScreen = hash;
    emit changed();
}

const PlanAnswers* TasksController::runOf(const std::string& planHash) const
{
    const auto run = m_runs.find({m_folder, planHash});
    return run == m_runs.end() ? nullptr : &run->second;
}

bool TasksController::measured(const std::string& planHash) const { return runOf(planHash) != nullptr; }

bool TasksController::denseIsMissing(const std::string& planHash) const
{
    const PlanAnswers* plan = runOf(planHash);
    const PlanAnswers* dense = runOf(m_identity.hash());
    if (!plan || planHash == m_identity.hash()) return false;
    if (!dense) return true;
    return std::any_of(plan->tasks.begin(), plan->tasks.end(), [&](const TaskMarks& task) {
        const TaskMarks* beside = named(dense->tasks, task.name);
        if (!beside || beside->sha256 != task.sha256 || beside->acc.size() < task.acc.size()) return true;
        for (std::size_t i = 0; i < task.acc.size(); ++i)
            if (task.acc[i] != TaskMarks::kOpen && beside->acc[i] == TaskMarks::kOpen) return true;
        return false;
    });
}

void TasksController::measure(const CompressionPlan& plan, const QString& name, const std::vector<std::filesystem::path>& profiles,
                              int first)
{
    if (!canAsk() || m_folder.empty()) return;
    run({plan, name, profiles, first, m_folder}, true);
}

void TasksController::run(const Wanted& wanted, bool thenDense)
{
    TasksRequest request;
    request.path = path();
    request.data = wanted.folder;
    request.limit = wanted.first;
    request.plan = toJson(wanted.plan);
    request.profiles = wanted.profiles;
    m_running = wanted.name;
    ask(
        request, {"tasks", Lane::Full}, tr("Tasks · %1").arg(wanted.name),
        [this, wanted, thenDense](const EngineAnswer<TasksAnswer>& reply) { finished(reply, wanted, thenDense); },
        [this, wanted](const TaskMarks& task) {
            take(wanted, {task});
            emit changed();
        });
}

void TasksController::describe(JobState& job, const EngineProgress& progress) const
{
    if (progress.total <= 0) return;
    job.count = tr("%1 %").arg(100 * progress.done / progress.total);
    if (progress.done >= progress.total) job.phase = JobState::Phase::Finishing;
}

PlanAnswers& TasksController::take(const Wanted& of, const std::vector<TaskMarks>& tasks)
{
    m_words.clear();
    PlanAnswers& run = m_runs[{of.folder, of.plan.hash()}];
    run.name = of.name;
    run.time = QDateTime::currentSecsSinceEpoch();
    // Of all questions stays of all questions.
    if (run.tasks.empty() || run.first != 0) run.first = of.first == 0 ? 0 : std::max(run.first, of.first);
    for (const TaskMarks& task : tasks) {
        const auto before =
            std::find_if(run.tasks.begin(), run.tasks.end(), [&](const TaskMarks& other) { return other.name == task.name; });
        if (before == run.tasks.end())
            run.tasks.push_back(task);
        else
            *before = merged(*before, task);
    }
    return run;
}

void TasksController::finished(const EngineAnswer<TasksAnswer>& reply, const Wanted& of, bool thenDense)
{
    m_running.clear();
    if (reply.ok()) {
        PlanAnswers& run = take(of, reply->tasks);
        run.dtype = reply->dtype;
        // The folder as it is now, in its order: a task that is no longer in it goes.
        std::vector<TaskMarks> now;
        for (const TaskMarks& task : reply->tasks)
            now.push_back(*named(run.tasks, task.name));
        run.tasks = std::move(now);
        if (!reply->warnings.empty()) emit warned(reply->warnings);
        emit runsChanged();
        if (thenDense && of.folder == m_folder && denseIsMissing(of.plan.hash()))
            return this->run({m_identity, tr("dense"), {}, of.first, of.folder}, false);
    } else if (reply.outcome == EngineEnd::Outcome::Cancelled) {
        emit runsChanged();
    }
    end(reply);
}

TasksState TasksController::state() const
{
    TasksState state;
    state.folder = QFileInfo(QString::fromStdString(m_folder)).fileName();
    state.running = m_running;
    state.planIsDense = m_onScreen == m_identity.hash();
    if (const PlanAnswers* dense = runOf(m_identity.hash())) {
        state.dense = dense->tasks;
        state.first = dense->first;
    }
    const PlanAnswers* plan = runOf(m_onScreen);
    if (!plan && m_lastShown != m_identity.hash() && (plan = runOf(m_lastShown))) {
        state.age = tr("an earlier plan");
        state.planIsDense = false;
    }
    if (!plan) return state;
    state.plan = plan->tasks;
    state.planName = plan->name;
    state.first = plan->first;
    return state;
}

QString TasksController::words(const std::string& planHash) const
{
    const PlanAnswers* run = runOf(planHash);
    if (!run) return {};
    if (const auto known = m_words.find(planHash); known != m_words.end()) return known->second;
    const PlanAnswers* dense = runOf(m_identity.hash());
    const bool isDense = planHash == m_identity.hash();
    const std::vector<TaskRow> rows = taskRows(run->tasks, dense ? dense->tasks : std::vector<TaskMarks>(), isDense, TaskMetric::Acc);
    const TaskRow* head = headlineRow(rows);
    if (!head || !head->plan) return {};
    const bool mean = head->kind != TaskRow::Kind::Task;
    QString text = (mean ? tr("tasks: mean acc %1") : tr("tasks: acc %1")).arg(accuracyText(*head->plan));
    if (head->delta) text += tr(", Δ %1 to dense on the same questions").arg(accuracyDelta(*head->delta));
    text += format::kDot + (mean ? tr("%n task(s)", nullptr, static_cast<int>(run->tasks.size())) : head->name) + format::kDot +
            tr("%n question(s)", nullptr, head->questions);
    return m_words[planHash] = text;
}

std::vector<TaskMeasurement> TasksController::measurements(const std::string& planHash) const
{
    std::vector<TaskMeasurement> list;
    const PlanAnswers* run = runOf(planHash);
    if (!run) return list;
    const PlanAnswers* dense = runOf(m_identity.hash());
    const std::vector<TaskMarks> beside = dense && planHash != m_identity.hash() ? dense->tasks : std::vector<TaskMarks>();
    const std::vector<TaskRow> rows = taskRows(run->tasks, beside, false, TaskMetric::Acc);
    const std::vector<TaskRow> norms = taskRows(run->tasks, beside, false, TaskMetric::Norm);
    for (std::size_t i = 0; i < run->tasks.size(); ++i) {
        const TaskRow& row = rows[i];
        if (!row.plan || row.questions < row.wanted) continue;
        TaskMeasurement one;
        one.task = run->tasks[i].name;
        one.rules = run->tasks[i].rules;
        one.fileSha256 = run->tasks[i].sha256;
        one.questions = row.questions;
        one.planHash = planHash;
        one.dtype = run->dtype;
        one.acc = {*row.plan, row.dense, row.delta};
        if (!norms[i].byAcc && norms[i].plan) one.norm = TaskMeasurement::Metric{*norms[i].plan, norms[i].dense, norms[i].delta};
        list.push_back(std::move(one));
    }
    return list;
}

void TasksController::restoreRun(const Key& key, PlanAnswers run)
{
    m_words.clear();
    m_runs[key] = std::move(run);
}

}  // namespace espalier
