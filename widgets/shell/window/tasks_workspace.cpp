#include "shell/window/tasks_workspace.h"

#include "look/panel.h"
#include "perplexity/tasks_panel.h"
#include "shell/window/measure_workspace.h"

namespace espalier
{

TasksWorkspace::TasksWorkspace(const WindowContext& context, MeasureWorkspace* beside, QObject* parent)
    : Workspace(context, parent), m_measure(beside)
{
    m_panel = new TasksPanel;
    m_page = m_measure->dock()->addPage(tr("Tasks"), m_panel);
    m_in.actions->add(this, QStringLiteral("evaluate.tasks"), tr("Measure tas&ks"), {}, WindowActions::keys({"Ctrl+T"}),
                      [this] { measure(); });
    connect(m_panel, &TasksPanel::measureRequested, m_in.actions->get(QStringLiteral("evaluate.tasks")), &QAction::trigger);
    connect(m_panel, &TasksPanel::choicesChanged, this, &Workspace::viewChanged);
    connect(workbench().tasks(), &TasksController::changed, this, &TasksWorkspace::refresh);
    connect(workbench().tasks(), &TasksController::runsChanged, m_measure, &MeasureWorkspace::lossesChanged);
    connect(workbench().tasks(), &TasksController::jobChanged, this, &Workspace::actionsChanged);
    connect(&workbench(), &Workbench::textChanged, this, &TasksWorkspace::refresh);
}

QWidget* TasksWorkspace::firstControl() const { return m_panel->firstControl(); }

void TasksWorkspace::updateActions()
{
    const bool engine = workbench().engine()->usable();
    const bool can = isOpen() && engine && workbench().forwardSupported();
    m_in.actions->enable("evaluate.tasks", can);
    m_panel->setMeasureEnabled(can, engine ? tr("The engine has not opened the model.") : tr("The engine is not running."));
}

void TasksWorkspace::measure()
{
    m_measure->dock()->setVisible(true);
    m_measure->dock()->setCurrentPage(m_page);
    workbench().measureTasks(m_panel->questions());
}

void TasksWorkspace::show() { refresh(); }

void TasksWorkspace::refresh()
{
    if (isOpen()) m_panel->setState(workbench().tasks()->state());
}

void TasksWorkspace::addToView(Json& view) const
{
    view["tasks"] = {{"normalised", m_panel->taskMetric() == TaskMetric::Norm}, {"questions", m_panel->questions()}};
}

void TasksWorkspace::restoreView(const Json& view)
{
    const Json tasks = view.value("tasks", Json());
    if (!tasks.is_object()) return;
    m_panel->setMetric(tasks.value("normalised", Json()) == Json(true) ? TaskMetric::Norm : TaskMetric::Acc);
    if (const Json questions = tasks.value("questions", Json()); questions.is_number_integer()) m_panel->setQuestions(questions.get<int>());
}

QString TasksWorkspace::helpPage(const QWidget* focus) const { return isIn(focus, m_panel) ? QStringLiteral("tasks") : QString(); }

}  // namespace espalier
