#include "shell/window/try_workspace.h"

#include "completions/try_panel.h"
#include "look/panel.h"
#include "shell/engine/generate_controller.h"
#include "shell/engine/speed_controller.h"
#include "shell/window/measure_workspace.h"

namespace espalier
{

TryWorkspace::TryWorkspace(const WindowContext& context, MeasureWorkspace* beside, QObject* parent)
    : Workspace(context, parent), m_measure(beside)
{
    m_panel = new TryPanel;
    m_page = m_measure->dock()->addPage(tr("Try it"), m_panel);
    m_in.actions->add(this, QStringLiteral("evaluate.try"), tr("Tr&y a prompt"), {}, WindowActions::keys({"Ctrl+Shift+T"}),
                      [this] { open(); });
    m_in.actions->add(this, QStringLiteral("evaluate.speed"), tr("Measure the &speed"), {}, {}, [this] { workbench().measureSpeed(); });
    connect(workbench().speed(), &SpeedController::changed, this, &TryWorkspace::showSpeed);
    connect(workbench().speed(), &SpeedController::changed, m_measure, &MeasureWorkspace::lossesChanged);
    connect(workbench().speed(), &SpeedController::jobChanged, this, &Workspace::actionsChanged);
    connect(plans(), &PlanController::planChanged, this, &TryWorkspace::showSpeed);
    connect(m_panel, &TryPanel::completeRequested, this, &TryWorkspace::complete);
    connect(m_panel, &TryPanel::stopRequested, workbench().completions(), &GenerateController::cancel);
    connect(m_panel, &TryPanel::choicesChanged, this, &Workspace::viewChanged);
    connect(workbench().completions(), &GenerateController::changed, this, &TryWorkspace::refresh);
    connect(workbench().completions(), &GenerateController::jobChanged, this, &Workspace::actionsChanged);
}

QWidget* TryWorkspace::firstControl() const { return m_panel->firstControl(); }

void TryWorkspace::updateActions()
{
    const bool engine = workbench().engine()->usable();
    m_in.actions->enable("evaluate.try", isOpen());
    m_in.actions->enable("evaluate.speed",
                         isOpen() && engine && workbench().forwardSupported() && !plans()->committed().isIdentity(plans()->shape()));
    m_panel->setEnabledFor(isOpen() && engine && workbench().forwardSupported(),
                           engine ? tr("The engine has not opened the model.") : tr("The engine is not running."));
}

void TryWorkspace::open()
{
    m_measure->dock()->setVisible(true);
    m_measure->dock()->setCurrentPage(m_page);
    m_panel->firstControl()->setFocus(Qt::ShortcutFocusReason);
}

void TryWorkspace::complete()
{
    QString prompt = m_panel->prompt();
    prompt.replace(QStringLiteral("\\n"), QStringLiteral("\n"));
    workbench().complete(prompt, m_panel->tokens());
}

void TryWorkspace::show()
{
    refresh();
    showSpeed();
}

void TryWorkspace::showSpeed()
{
    if (!isOpen()) return;
    const std::string& hash = plans()->plan().hash();
    m_in.status->setSpeed(workbench().speed()->brief(hash), workbench().speed()->words(hash));
}

void TryWorkspace::refresh()
{
    if (isOpen()) m_panel->setState(workbench().completions()->state());
}

void TryWorkspace::addToView(Json& view) const
{
    view["try"] = {{"prompt", m_panel->prompt().toStdString()}, {"tokens", m_panel->tokens()}};
}

void TryWorkspace::restoreView(const Json& view)
{
    const Json tried = view.value("try", Json());
    if (!tried.is_object()) return;
    if (const Json prompt = tried.value("prompt", Json()); prompt.is_string())
        m_panel->setPrompt(QString::fromStdString(prompt.get<std::string>()));
    if (const Json tokens = tried.value("tokens", Json()); tokens.is_number_integer()) m_panel->setTokens(tokens.get<int>());
}

QString TryWorkspace::helpPage(const QWidget* focus) const { return isIn(focus, m_panel) ? QStringLiteral("try-it") : QString(); }

}  // namespace espalier
