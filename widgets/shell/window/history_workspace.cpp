#include "shell/window/history_workspace.h"

#include "look/panel.h"
#include "perplexity/history_panel.h"
#include "shell/window/measure_workspace.h"

#include <QAbstractSpinBox>
#include <QApplication>
#include <QLineEdit>

namespace espalier
{

namespace
{

// Whether the keyboard is in a field that takes text.
bool isTyping()
{
    const QWidget* focus = QApplication::focusWidget();
    const auto* line = qobject_cast<const QLineEdit*>(focus);
    return (line && !line->isReadOnly()) || qobject_cast<const QAbstractSpinBox*>(focus);
}

}  // namespace

HistoryWorkspace::HistoryWorkspace(const WindowContext& context, MeasureWorkspace* measure, QObject* parent)
    : Workspace(context, parent), m_measure(measure)
{
    m_panel = new HistoryPanel;
    m_dock = new Panel(QStringLiteral("history"), tr("History"));
    m_dock->addPage(tr("History"), m_panel);
    m_dock->header()->setSubtitle(tr("perplexity over dense"));
    makeActions();
    connect(m_panel, &HistoryPanel::jumpRequested, plans(), &PlanController::jumpTo);
    connect(m_panel, &HistoryPanel::nameEntered, &workbench(), &Workbench::namePlan);
    connect(plans(), &PlanController::planChanged, this, &HistoryWorkspace::showPlan);
    connect(plans(), &PlanController::historyChanged, this, &HistoryWorkspace::showHistory);
    connect(m_measure, &MeasureWorkspace::lossesChanged, this, &HistoryWorkspace::showLosses);
    connect(&workbench(), &Workbench::sessionChanged, this, &HistoryWorkspace::showNames);
}

void HistoryWorkspace::makeActions()
{
    m_in.actions->add(this, QStringLiteral("edit.undo"), tr("&Undo"), QStringLiteral("undo-2"), WindowActions::keys({"Ctrl+Z"}),
                      [this] { plans()->undo(); });
    m_in.actions->add(this, QStringLiteral("edit.redo"), tr("&Redo"), QStringLiteral("redo-2"),
                      WindowActions::keys({"Ctrl+Shift+Z", "Ctrl+Y"}), [this] {
                          // A text field undoes and redoes its own text; not every platform gives it Ctrl+Y.
                          if (!isTyping()) plans()->redo();
                      });
    m_in.actions->add(this, QStringLiteral("plan.name"), tr("Name &this plan…"), {}, WindowActions::keys({"F2"}), [this] {
        m_dock->setVisible(true);
        m_panel->editName();
    });
}

QWidget* HistoryWorkspace::firstControl() const { return m_panel; }

void HistoryWorkspace::updateActions()
{
    m_in.actions->enable("edit.undo", isOpen() && plans()->canUndo());
    m_in.actions->enable("edit.redo", isOpen() && plans()->canRedo());
    m_in.actions->enable("plan.name", isOpen());
}

void HistoryWorkspace::show()
{
    showPlan();
    showHistory();
}

void HistoryWorkspace::showPlan()
{
    if (!isOpen()) return;
    m_in.status->setCost(workbench().cost(), workbench().denseCost());
    m_in.status->setPlan(workbench().planName(), plans()->history().entries().size() > 1 && workbench().sessionFile().isEmpty());
}

void HistoryWorkspace::showHistory()
{
    if (!isOpen()) return;
    m_panel->setHistory(plans()->history(), m_measure->planLosses());
    showNames();
}

void HistoryWorkspace::showLosses()
{
    if (isOpen()) m_panel->setLosses(m_measure->planLosses());
}

void HistoryWorkspace::showNames()
{
    QHash<QString, QString> names;
    for (const auto& [hash, name] : workbench().planNames())
        names.insert(QString::fromStdString(hash), QString::fromStdString(name));
    m_panel->setNames(names);
}

}  // namespace espalier
