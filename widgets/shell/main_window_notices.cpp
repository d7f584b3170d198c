// What the main window says in banners: errors, the engine's end, work that can be recovered.
#include "shell/main_window.h"

#include "format.h"
#include "shell/start_page.h"
#include "status_bar.h"

#include <QDateTime>
#include <QDialog>
#include <QPlainTextEdit>
#include <QVBoxLayout>

#include <utility>

namespace espalier
{

void MainWindow::showEngine()
{
    EngineClient* engine = m_workbench->engine();
    QString text = tr("This computer · %1").arg(engine->stateText().isEmpty() ? tr("not started") : engine->stateText());
    m_status->setEngine(engine->state(), text);
    if (engine->state() == EngineState::NotResponding) {
        Banner banner;
        banner.id = QStringLiteral("engine-silent");
        banner.kind = Banner::Kind::Warning;
        banner.cause = tr("The engine does not respond.");
        banner.consequence = tr("Your plan and history are kept.");
        banner.actions = {{tr("Restart"), [this] { m_workbench->engine()->start(); }, true}, {tr("Wait"), [] {}}};
        m_banners->show(banner);
    } else {
        m_banners->dismiss(QStringLiteral("engine-silent"));
    }
    if (engine->state() == EngineState::Incompatible) {
        Banner banner;
        banner.id = QStringLiteral("engine-incompatible");
        banner.kind = Banner::Kind::Error;
        banner.iconName = QStringLiteral("unplug");
        banner.cause = tr("The engine does not fit this window: %1.").arg(engine->stateText());
        banner.consequence = tr("Sessions can be opened and edited; nothing can be measured.");
        banner.actions = {{tr("Details"), [this, cause = engine->stateText()] { showEngineDetails(cause); }, false, false}};
        m_banners->show(banner);
    } else {
        m_banners->dismiss(QStringLiteral("engine-incompatible"));
    }
    if (engine->usable()) {
        const Json& info = engine->serverInfo();
        text = tr("Ready · %1, %n thread(s)", nullptr, info.value("threads", 1))
                   .arg(QString::fromStdString(info.value("device", std::string("cpu"))).toUpper());
    }
    m_start->setEngine(engine->state(), text);
    updateActions();
}

void MainWindow::notice(const Error& error, const QString& id)
{
    if (id == QStringLiteral("save")) m_closing = false;
    Banner banner;
    banner.id = id;
    // The profile and the evaluation fail for one reason.
    banner.once = id.startsWith(QStringLiteral("problem:"));
    banner.kind = QString::fromStdString(error.code).endsWith(QStringLiteral(".warning")) ? Banner::Kind::Warning : Banner::Kind::Error;
    banner.cause = QString::fromStdString(error.message);
    const QString kept = format::withoutOptions(error.kept);
    const QString action = format::withoutOptions(error.action);
    banner.consequence = QString(kept + QLatin1Char(' ') + action).trimmed();
    m_banners->show(banner);
}

void MainWindow::engineLost(const QString& cause, const QString& lastLine)
{
    ++m_engineLosses;
    const QString during = std::exchange(m_lastJob, QString());
    Banner banner;
    banner.id = QStringLiteral("engine-lost");
    banner.kind = Banner::Kind::Error;
    banner.iconName = QStringLiteral("unplug");
    banner.cause =
        during.isEmpty() ? tr("The engine stopped (%1).").arg(cause) : tr("The engine stopped (%1) during \"%2\".").arg(cause, during);
    const int runs = static_cast<int>(m_workbench->evaluation()->runs().size());
    banner.consequence = m_workbench->isOpen() ? tr("Your plan, history and %n run(s) are kept.", nullptr, runs) : QString();
    if (!lastLine.isEmpty() && m_engineLosses > 1)
        banner.consequence += QStringLiteral(" ") + tr("It last said: %1").arg(lastLine.left(160));
    banner.actions = {{tr("Restart"), [this] { m_workbench->engine()->start(); }, true},
                      {tr("Details"), [this, cause] { showEngineDetails(cause); }, false, false}};
    m_banners->show(banner);
    showPerplexity();
}

void MainWindow::showEngineDetails(const QString& cause)
{
    auto* dialog = new QDialog(this);
    dialog->setAttribute(Qt::WA_DeleteOnClose);
    dialog->setModal(false);
    dialog->setWindowTitle(tr("Engine details"));
    dialog->resize(760, 420);
    auto* text = new QPlainTextEdit;
    text->setReadOnly(true);
    text->setAccessibleName(tr("engine details"));
    text->setPlainText(tr("Command: %1\nEnd: %2\n\nLast lines of its log:\n%3")
                           .arg(m_workbench->engine()->command().join(QLatin1Char(' ')), cause,
                                m_workbench->engine()->lastLogLines().join(QLatin1Char('\n'))));
    auto* layout = new QVBoxLayout(dialog);
    layout->addWidget(text);
    dialog->show();
}

void MainWindow::offerRecovery()
{
    if (m_options.safeMode) return;
    m_workbench->store()->findLeftovers([this](const std::vector<RecoveryEntry>& entries) {
        if (entries.empty()) return;
        const RecoveryEntry& entry = entries.front();
        Banner banner;
        banner.id = QStringLiteral("recovery");
        const QString name = entry.info.session.empty()
                                 ? tr("A session that was never saved")
                                 : tr("Session %1").arg(QString::fromStdString(entry.info.session.filename().string()));
        banner.cause = tr("%1 was not closed cleanly.").arg(name);
        banner.consequence = (entry.info.edits > 0 ? tr("%n edit(s) up to %1 can be brought back.", nullptr, entry.info.edits)
                                                   : tr("What was measured up to %1 can be brought back."))
                                 .arg(format::time(QDateTime::fromSecsSinceEpoch(entry.info.writtenAt), QDateTime::currentDateTime()));
        banner.actions.push_back({tr("Recover"),
                                  [this, entry] {
                                      m_workbench->store()->take(entry, [this](Result<RecoveredSession> recovered) {
                                          if (!recovered.ok()) {
                                              notice(recovered.error(), QStringLiteral("recovery"));
                                              return;
                                          }
                                          const QString file = QString::fromStdString(recovered->entry.info.session.string());
                                          const RecoveryEntry used = recovered->entry;
                                          m_workbench->adoptSession(std::move(recovered->data), file, true);
                                          m_workbench->store()->discard(used);
                                      });
                                  },
                                  true});
        if (!entry.info.session.empty())
            banner.actions.push_back(
                {tr("Open saved"), [this, entry] { m_workbench->openSession(QString::fromStdString(entry.info.session.string())); }});
        banner.actions.push_back({tr("Discard"), [this, entry] { m_workbench->store()->discard(entry); }});
        m_banners->show(banner);
    });
}

}  // namespace espalier
