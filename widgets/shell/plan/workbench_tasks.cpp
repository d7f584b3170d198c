// The workbench's tasks, completions and speed: who asks for them when, and how a session keeps answers and speeds.
#include "shell/engine/problem_id.h"
#include "shell/plan/workbench.h"

#include <utility>

namespace espalier
{

void Workbench::connectTasks()
{
    connect(&m_plans, &PlanController::planChanged, this, [this] {
        if (isOpen()) m_tasks.setPlan(m_plans.plan());
    });
    connect(&m_tasks, &TasksController::jobChanged, this, [this](const std::optional<JobState>& job) {
        if (job) m_deep.giveWay();
        if (!m_evaluation.busy()) tellJob(backgroundJob());
        if (!job) considerDeep();
    });
    connect(&m_tasks, &TasksController::failed, this, [this](const Error& error) { emit notice(error, QStringLiteral("tasks")); });
    connect(&m_tasks, &TasksController::warned, this, &Workbench::warnOfText);
    connect(&m_tasks, &TasksController::runsChanged, this, [this] {
        emit sessionChanged();
        if (!m_autosave.isActive()) m_autosave.start();
    });
}

void Workbench::connectTrying()
{
    connect(&m_plans, &PlanController::planChanged, this, [this] {
        if (isOpen()) m_completions.setPlan(m_plans.plan());
    });
    // Attended jobs run inside of what is in the background: nothing has to give way to them.
    const auto tell = [this] {
        if (!m_evaluation.busy()) tellJob(backgroundJob());
    };
    connect(&m_completions, &GenerateController::jobChanged, this, tell);
    connect(&m_speed, &SpeedController::jobChanged, this, tell);
    connect(&m_completions, &GenerateController::failed, this, [this](const Error& error) { emit notice(error, QStringLiteral("try")); });
    connect(&m_speed, &SpeedController::failed, this, [this](const Error& error) { emit notice(error, QStringLiteral("speed")); });
    connect(&m_completions, &GenerateController::warned, this, &Workbench::warnOfText);
    connect(&m_speed, &SpeedController::warned, this, &Workbench::warnOfText);
    connect(&m_speed, &SpeedController::speedsChanged, this, [this] {
        emit sessionChanged();
        if (!m_autosave.isActive()) m_autosave.start();
    });
}

void Workbench::setTriedModel(const ModelShape& shape)
{
    m_completions.setModel(m_modelPath.toStdString(), CompressionPlan::identity(shape));
    m_speed.setModel(m_modelPath.toStdString());
}

void Workbench::complete(const QString& prompt, int tokens)
{
    if (!isOpen() || !m_forwardSupported) return;
    emit noticeSettled(QStringLiteral("try"));
    const CompressionPlan plan = m_plans.committed();
    m_completions.complete(plan, planName(), m_evaluation.profilesFor(plan), prompt.toStdString(), tokens);
}

void Workbench::measureSpeed()
{
    if (!isOpen() || !m_forwardSupported) return;
    emit noticeSettled(QStringLiteral("speed"));
    const CompressionPlan plan = m_plans.committed();
    m_speed.measure(plan, planName(), m_evaluation.profilesFor(plan));
}

void Workbench::measureTasks(int first)
{
    if (!isOpen() || !m_forwardSupported) return;
    emit noticeSettled(QStringLiteral("tasks"));
    const CompressionPlan plan = m_plans.committed();
    const bool dense = plan.isIdentity(m_plans.shape());
    m_tasks.measure(plan, dense ? tr("dense") : planName(), m_evaluation.profilesFor(plan), first);
}

void Workbench::saveTasks(SessionData& data) const
{
    data.tasks.clear();
    for (const auto& [key, run] : m_tasks.runs())
        for (const TaskMarks& task : run.tasks)
            data.tasks.push_back({.planHash = key.second,
                                  .planName = run.name.toStdString(),
                                  .folder = key.first,
                                  .name = task.name,
                                  .rules = task.rules,
                                  .fileSha256 = task.sha256,
                                  .hidden = task.hidden,
                                  .acc = task.acc,
                                  .norm = task.norm,
                                  .first = run.first,
                                  .dtype = run.dtype,
                                  .time = run.time});
    data.speeds.clear();
    for (const auto& [planHash, speed] : m_speed.speeds())
        data.speeds.push_back({planHash, speed.computer.toStdString(), toJson(speed.measured), speed.time});
}

void Workbench::adoptTasks(const SessionData& data)
{
    m_tasks.setModel(m_modelPath.toStdString(), CompressionPlan::identity(data.shape), m_texts.tasks.toStdString());
    std::map<TasksController::Key, PlanAnswers> runs;
    for (const SessionTask& task : data.tasks) {
        PlanAnswers& run = runs[{task.folder.string(), task.planHash}];
        run.name = QString::fromStdString(task.planName);
        run.first = task.first;
        run.dtype = task.dtype;
        run.time = task.time;
        run.tasks.push_back(
            {.name = task.name, .rules = task.rules, .sha256 = task.fileSha256, .hidden = task.hidden, .acc = task.acc, .norm = task.norm});
    }
    for (auto& [key, run] : runs)
        m_tasks.restoreRun(key, std::move(run));
    m_tasks.setPlan(m_plans.plan());
    setTriedModel(data.shape);
    for (const SessionSpeed& speed : data.speeds)
        if (Result<SpeedMeasurement> measured = parseMeasuredSpeed(speed.measured); measured.ok())
            m_speed.restore(speed.planHash, {std::move(measured).value(), QString::fromStdString(speed.computer), speed.time});
    m_completions.setPlan(m_plans.plan());
}

}  // namespace espalier
