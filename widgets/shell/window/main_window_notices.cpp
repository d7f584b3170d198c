// What the main window says in banners: errors, the engine's end, work that can be recovered.
#include "shell/window/main_window.h"

#include "experts/inspector_panel.h"
#include "layers/layers_panel.h"
#include "look/format.h"
#include "perplexity/status_bar.h"
#include "planning/budget_bar.h"
#include "ranks/rank_panel.h"
#include "shell/window/export_dialog.h"
#include "shell/window/start_page.h"

#include <QDateTime>
#include <QDialog>
#include <QFileInfo>
#include <QPlainTextEdit>
#include <QVBoxLayout>

#include <algorithm>
#include <utility>

namespace espalier
{

void MainWindow::showEngine()
{
    EngineClient* engine = m_workbench->engine();
    const QString name = QFontMetrics(font()).elidedText(engine->name(), Qt::ElideMiddle, pixelsOf(width() < kCompactWidth ? 120 : 260));
    QString text = tr("%1 · %2").arg(name, engine->stateText().isEmpty() ? tr("not started") : engine->stateText());
    m_status->setEngine(engine->state(), text);
    if (engine->state() == EngineState::NotResponding) {
        Banner banner;
        banner.id = QStringLiteral("engine-silent");
        banner.ofModel = false;
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
        banner.ofModel = false;
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
    if (id == QStringLiteral("save")) m_afterSave = {};
    Banner banner;
    banner.id = id;
    const bool problem = id.startsWith(QStringLiteral("problem:"));
    if (problem) {
        // The profile and the evaluation fail for one reason.
        banner.once = true;
        banner.id = withoutNumbers(id);
        // The engine that reopens a model says again what it said before.
        if (error.code == "checkpoint.warning" && m_banners->repeats(banner.id) > 0) return;
        m_problems << banner.id;
    }
    // One attempt to open something is answered at a time.
    const QStringList attempts = {QStringLiteral("open:"), QStringLiteral("session:")};
    if (std::any_of(attempts.begin(), attempts.end(), [&](const QString& start) { return id.startsWith(start); }))
        m_banners->dismissOthers(attempts, id);
    banner.kind = QString::fromStdString(error.code).endsWith(QStringLiteral(".warning")) ? Banner::Kind::Warning : Banner::Kind::Error;
    // Of the disk that unsaved work is kept on, whatever model is open.
    banner.ofModel = error.code != "session.recovery_unwritable";
    banner.cause = QString::fromStdString(error.message);
    const QString kept = format::withoutOptions(error.kept);
    const QString action = format::withoutOptions(error.action);
    banner.consequence = QString(kept + QLatin1Char(' ') + action).trimmed();
    if (problem && banner.kind == Banner::Kind::Warning) m_problems.removeAll(banner.id);
    if (error.code == "allocate.infeasible") nameLocks(banner);
    m_banners->show(banner);
}

// A search that cannot meet its target because of locks: which ones, and the way out.
void MainWindow::nameLocks(Banner& banner)
{
    PlanController* plans = m_workbench->plans();
    if (!m_workbench->isOpen()) return;
    const std::vector<int> locks = plans->lockedLayers();
    if (locks.empty()) return;
    banner.consequence = QString(plans->lockedText(locks) + QLatin1Char(' ') + banner.consequence).trimmed();
    banner.actions.push_back({unlockText(locks), [plans, locks] { plans->unlock(locks); }});
}

// Errors of a profile or an evaluation go with their cause: when it succeeds.
void MainWindow::settleProblems(bool evaluated)
{
    for (const QString& id : QStringList(m_problems)) {
        if (m_evaluationProblems.contains(id) != evaluated) continue;
        m_problems.removeAll(id);
        m_evaluationProblems.removeAll(id);
        m_banners->dismiss(id);
    }
}

void MainWindow::measureProfile()
{
    if (!m_workbench->profileComplete()) {
        m_workbench->profile();
        return;
    }
    Banner banner;
    banner.id = QStringLiteral("profile-complete");
    banner.kind = Banner::Kind::Info;
    banner.cause = tr("The profile is complete: every layer is measured on %1.").arg(QFileInfo(m_workbench->calibrationText()).fileName());
    banner.consequence = tr("Measured again, its scores replace these once the pass is done.");
    banner.once = true;
    banner.actions = {{tr("Measure again"), [this] { m_workbench->profileAgain(); }}};
    m_banners->show(banner);
}

void MainWindow::explain(const QString& text, bool isError, const std::vector<int>& locks)
{
    BudgetBar* budget = m_layers->budget();
    budget->setMessage(text, isError, locks);
    // At the box as well, where the number was typed.
    m_inspector->explain(text, isError);
    m_layers->table()->explain(text, isError);
    m_ranks->table()->explain(text, isError);
    const QString id = QStringLiteral("plan-refused");
    // Where no panel that says it is in sight it is a banner, which goes with its cause too.
    const bool seen = budget->isVisible() || m_ranks->isVisible() || (m_export && m_export->isVisible());
    if (seen || text.isEmpty() || (!isError && locks.empty())) {
        m_banners->dismiss(id);
        return;
    }
    Banner banner;
    banner.id = id;
    banner.kind = Banner::Kind::Info;
    banner.cause = text;
    banner.once = true;
    if (!locks.empty()) banner.actions.push_back({unlockText(locks), [this] { m_workbench->plans()->retryUnlocked(); }});
    m_banners->show(banner);
}

void MainWindow::engineLost(const QString& cause, const QString& lastLine)
{
    const QString during = std::exchange(m_lastJob, QString());
    Banner banner;
    banner.id = QStringLiteral("engine-lost");
    banner.ofModel = false;
    banner.kind = Banner::Kind::Error;
    banner.iconName = QStringLiteral("unplug");
    banner.cause =
        during.isEmpty() ? tr("The engine stopped (%1).").arg(cause) : tr("The engine stopped (%1) during \"%2\".").arg(cause, during);
    const int runs = static_cast<int>(m_workbench->evaluation()->runs().size());
    banner.consequence = m_workbench->isOpen() ? tr("Your plan, history and %n run(s) are kept.", nullptr, runs) : QString();
    // What it wrote before its end is often the cause itself.
    const QString name = m_workbench->engine()->name();
    QString said = lastLine.isEmpty() ? QString() : tr("It last said: %1").arg(lastLine.left(200));
    if (!m_workbench->engine()->isOwn())
        said = lastLine.isEmpty() ? tr("It was started by \"%1\".").arg(name) : tr("\"%1\" last said: %2").arg(name, lastLine.left(200));
    banner.consequence = QString(banner.consequence + QLatin1Char(' ') + said).trimmed();
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
        banner.ofModel = false;
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
