#include "shell/window/engine_notices.h"

#include "look/theme.h"
#include "shell/window/start_page.h"

#include <QDialog>
#include <QPlainTextEdit>
#include <QVBoxLayout>

#include <utility>

namespace espalier
{

EngineNotices::EngineNotices(const WindowContext& context, StartPage* start, QObject* parent) : Workspace(context, parent), m_start(start)
{
    QAction* restart = m_in.actions->add(this, QStringLiteral("engine.restart"), tr("&Restart the engine"), QStringLiteral("cpu"), {},
                                         [this] { workbench().engine()->start(); });
    EngineClient* engine = workbench().engine();
    connect(m_start, &StartPage::engineRestartRequested, restart, &QAction::trigger);
    connect(engine, &EngineClient::stateChanged, this, &EngineNotices::showEngine);
    connect(engine, &EngineClient::lost, this, &EngineNotices::lost);
    connect(engine, &EngineClient::ready, this, [this] { banners().dismiss(QStringLiteral("engine-lost")); });
    connect(&workbench(), &Workbench::jobChanged, this, [this](const std::optional<JobState>& job) {
        // Of a lost engine the jobs end before the loss is told.
        if (job)
            m_lastJob = job->what;
        else if (workbench().engine()->state() != EngineState::Lost)
            m_lastJob.clear();
    });
}

void EngineNotices::showEngine()
{
    EngineClient* engine = workbench().engine();
    const int room = pixelsOf(WindowSize::of(*m_in.window).compact ? 120 : 260);
    const QString name = QFontMetrics(m_in.window->font()).elidedText(engine->name(), Qt::ElideMiddle, room);
    QString text = tr("%1 · %2").arg(name, engine->stateText().isEmpty() ? tr("not started") : engine->stateText());
    m_in.status->setEngine(engine->state(), text);
    showSilence();
    showMisfit();
    if (engine->usable()) {
        const InitializeAnswer info = engine->serverInfo().value_or(InitializeAnswer());
        text = tr("Ready · %1, %n thread(s)", nullptr, info.threads).arg(QString::fromStdString(info.device).toUpper());
    }
    m_start->setEngine(engine->state(), text);
    emit actionsChanged();
}

void EngineNotices::showSilence()
{
    const QString id = QStringLiteral("engine-silent");
    if (workbench().engine()->state() != EngineState::NotResponding) {
        banners().dismiss(id);
        return;
    }
    Banner banner;
    banner.id = id;
    banner.ofModel = false;
    banner.kind = Banner::Kind::Warning;
    banner.cause = tr("The engine does not respond.");
    banner.consequence = tr("Your plan and history are kept.");
    banner.actions = {{tr("Restart"), [this] { workbench().engine()->start(); }, true}, {tr("Wait"), [] {}}};
    banners().show(banner);
}

void EngineNotices::showMisfit()
{
    const QString id = QStringLiteral("engine-incompatible");
    EngineClient* engine = workbench().engine();
    if (engine->state() != EngineState::Incompatible) {
        banners().dismiss(id);
        return;
    }
    Banner banner;
    banner.id = id;
    banner.ofModel = false;
    banner.kind = Banner::Kind::Error;
    banner.iconName = QStringLiteral("unplug");
    banner.cause = tr("The engine does not fit this window: %1.").arg(engine->stateText());
    banner.consequence = tr("Sessions can be opened and edited; nothing can be measured.");
    banner.actions = {{tr("Details"), [this, cause = engine->stateText()] { showDetails(cause); }, false, false}};
    banners().show(banner);
}

void EngineNotices::lost(const QString& cause, const QString& lastLine)
{
    const QString during = std::exchange(m_lastJob, QString());
    Banner banner;
    banner.id = QStringLiteral("engine-lost");
    banner.ofModel = false;
    banner.kind = Banner::Kind::Error;
    banner.iconName = QStringLiteral("unplug");
    banner.cause =
        during.isEmpty() ? tr("The engine stopped (%1).").arg(cause) : tr("The engine stopped (%1) during \"%2\".").arg(cause, during);
    const int runs = static_cast<int>(workbench().evaluation()->runs().size());
    banner.consequence = isOpen() ? tr("Your plan, history and %n run(s) are kept.", nullptr, runs) : QString();
    // What it wrote before its end is often the cause itself.
    const QString name = workbench().engine()->name();
    QString said = lastLine.isEmpty() ? QString() : tr("It last said: %1").arg(lastLine.left(200));
    if (!workbench().engine()->isOwn())
        said = lastLine.isEmpty() ? tr("It was started by \"%1\".").arg(name) : tr("\"%1\" last said: %2").arg(name, lastLine.left(200));
    banner.consequence = QString(banner.consequence + QLatin1Char(' ') + said).trimmed();
    banner.actions = {{tr("Restart"), [this] { workbench().engine()->start(); }, true},
                      {tr("Details"), [this, cause] { showDetails(cause); }, false, false}};
    banners().show(banner);
}

void EngineNotices::showDetails(const QString& cause)
{
    auto* dialog = new QDialog(m_in.window);
    dialog->setAttribute(Qt::WA_DeleteOnClose);
    dialog->setModal(false);
    dialog->setWindowTitle(tr("Engine details"));
    dialog->resize(760, 420);
    auto* text = new QPlainTextEdit;
    text->setReadOnly(true);
    text->setAccessibleName(tr("engine details"));
    text->setPlainText(tr("Command: %1\nEnd: %2\n\nLast lines of its log:\n%3")
                           .arg(workbench().engine()->command().join(QLatin1Char(' ')), cause,
                                workbench().engine()->lastLogLines().join(QLatin1Char('\n'))));
    auto* layout = new QVBoxLayout(dialog);
    layout->addWidget(text);
    dialog->show();
}

}  // namespace espalier
