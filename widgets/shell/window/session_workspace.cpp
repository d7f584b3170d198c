#include "shell/window/session_workspace.h"

#include "look/format.h"
#include "shell/window/export_dialog.h"
#include "shell/window/start_page.h"
#include "shell/window/texts_workspace.h"

#include <QDateTime>
#include <QFileDialog>
#include <QFileInfo>

#include <utility>

namespace espalier
{

namespace
{
constexpr int kRecent = 8;
}  // namespace

SessionWorkspace::SessionWorkspace(const WindowContext& context, TextsWorkspace* texts, StartPage* start, QObject* parent)
    : Workspace(context, parent), m_texts(texts), m_start(start)
{
    makeActions();
    connectWorkbench();
    connectStart();
    m_start->setRecent(m_in.settings->value(QStringLiteral("recent")).toStringList());
}

void SessionWorkspace::makeActions()
{
    WindowActions* actions = m_in.actions;
    actions->add(this, QStringLiteral("file.openModel"), tr("&Open model…"), QStringLiteral("box"), WindowActions::keys({"Ctrl+O"}),
                 [this] { askModel(); });
    actions->add(this, QStringLiteral("file.openSession"), tr("Open sess&ion…"), QStringLiteral("folder-open"),
                 WindowActions::keys({"Ctrl+Shift+O"}), [this] { askSession(); });
    actions->add(this, QStringLiteral("file.demo"), tr("Try the &demo"), QStringLiteral("sprout"), {},
                 [this] { replaceSession([this] { workbench().openDemo(); }); });
    actions->add(this, QStringLiteral("file.save"), tr("&Save session"), QStringLiteral("save"), WindowActions::keys({"Ctrl+S"}),
                 [this] { save(false); });
    actions->add(this, QStringLiteral("file.saveAs"), tr("Save session &as…"), {}, WindowActions::keys({"Ctrl+Shift+S"}),
                 [this] { save(true); });
    actions->add(this, QStringLiteral("file.export"), tr("&Export model…"), QStringLiteral("upload"), WindowActions::keys({"Ctrl+E"}),
                 [this] { showExport(); });
    actions->add(this, QStringLiteral("file.close"), tr("&Close model"), {}, WindowActions::keys({"Ctrl+W"}), [this] { closeModel(); });
    actions->add(this, QStringLiteral("file.quit"), tr("&Quit"), {}, WindowActions::keys({"Ctrl+Q"}), [this] { m_in.window->close(); });
}

void SessionWorkspace::connectWorkbench()
{
    connect(&workbench(), &Workbench::sessionChanged, this, &SessionWorkspace::showSession);
    connect(&workbench(), &Workbench::recentChanged, this, &SessionWorkspace::rememberRecent);
    connect(&workbench(), &Workbench::notice, this, [this](const Error&, const QString& id) {
        if (id == QStringLiteral("save")) m_afterSave = {};
    });
    connect(&workbench(), &Workbench::saved, this, [this] {
        dismissQuestions();
        banners().dismiss(QStringLiteral("save"));
        if (const auto next = std::exchange(m_afterSave, {})) next();
    });
    connect(m_texts, &TextsWorkspace::openRequested, this, [this](const QString& folder, const TextChoice& texts) {
        replaceSession([this, folder, texts] { workbench().openModel(folder, texts); });
    });
}

void SessionWorkspace::connectStart()
{
    const auto triggers = [this](auto signal, const char* id) {
        connect(m_start, signal, m_in.actions->get(QString::fromLatin1(id)), &QAction::trigger);
    };
    triggers(&StartPage::openModelRequested, "file.openModel");
    triggers(&StartPage::openSessionRequested, "file.openSession");
    triggers(&StartPage::demoRequested, "file.demo");
    connect(m_start, &StartPage::recentRequested, this, &SessionWorkspace::openPath);
}

void SessionWorkspace::updateActions()
{
    for (const char* id : {"file.save", "file.saveAs", "file.close"})
        m_in.actions->enable(id, isOpen());
    m_in.actions->enable("file.export", isOpen() && workbench().engine()->usable());
}

QString SessionWorkspace::helpPage(const QWidget*) const
{
    return m_export && m_export->isActiveWindow() ? QStringLiteral("export") : QString();
}

bool SessionWorkspace::showsRefusals() const { return m_export && m_export->isVisible(); }

// ---- opening

void SessionWorkspace::openPath(const QString& path)
{
    replaceSession([this, path] {
        if (path.endsWith(QLatin1String(".espalier")))
            workbench().openSession(path);
        else {
            const QString folder = QFileInfo(path).isFile() ? QFileInfo(path).path() : path;
            workbench().openModel(folder, m_texts->textsOf(folder));
        }
    });
}

bool SessionWorkspace::hasUnsavedEdits() const { return isOpen() && plans()->history().entries().size() > 1 && workbench().modified(); }

void SessionWorkspace::replaceSession(std::function<void()> next)
{
    if (!hasUnsavedEdits()) {
        next();
        return;
    }
    Banner banner;
    banner.id = QStringLiteral("replace");
    banner.cause = tr("The session has changes that are not saved.");
    banner.consequence = tr("Opening something else ends its plan and history.");
    banner.actions = {
        {tr("Save and open"), [this, next] { saveThen(next); }, true}, {tr("Discard and open"), next}, {tr("Keep working"), [] {}}};
    banners().show(banner);
}

void SessionWorkspace::askModel()
{
    QFileDialog* dialog = fileDialog(m_in, tr("Open model"), {}, QStringLiteral("model"));
    dialog->setFileMode(QFileDialog::Directory);
    connect(dialog, &QFileDialog::fileSelected, m_texts, &TextsWorkspace::ask);
    dialog->show();
}

void SessionWorkspace::askSession()
{
    QFileDialog* dialog = fileDialog(m_in, tr("Open session"), tr("Espalier sessions (*.espalier)"), QStringLiteral("session"));
    dialog->setFileMode(QFileDialog::ExistingFile);
    connect(dialog, &QFileDialog::fileSelected, this,
            [this](const QString& file) { replaceSession([this, file] { workbench().openSession(file); }); });
    dialog->show();
}

void SessionWorkspace::rememberRecent(const QString& path)
{
    QStringList paths = m_in.settings->value(QStringLiteral("recent")).toStringList();
    paths.removeAll(path);
    paths.prepend(path);
    while (paths.size() > kRecent)
        paths.removeLast();
    m_in.settings->setValue(QStringLiteral("recent"), paths);
    m_start->setRecent(paths);
}

// ---- saving and closing

void SessionWorkspace::saveThen(std::function<void()> next)
{
    m_afterSave = std::move(next);
    save(false);
}

void SessionWorkspace::save(bool as)
{
    if (!isOpen()) return;
    emit viewChanged();
    // What was opened read-only is kept under another name.
    if (!as && !workbench().sessionFile().isEmpty() && workbench().readOnly().isEmpty()) {
        workbench().saveSession(workbench().sessionFile());
        return;
    }
    QFileDialog* dialog = fileDialog(m_in, tr("Save session"), tr("Espalier sessions (*.espalier)"), QStringLiteral("session"));
    dialog->setAcceptMode(QFileDialog::AcceptSave);
    dialog->setDefaultSuffix(QStringLiteral("espalier"));
    const QString name = workbench().readOnly().isEmpty() ? workbench().modelName()
                                                          : tr("%1-copy").arg(QFileInfo(workbench().sessionFile()).completeBaseName());
    dialog->selectFile(name + QStringLiteral(".espalier"));
    connect(dialog, &QFileDialog::fileSelected, &workbench(), &Workbench::saveSession);
    connect(dialog, &QFileDialog::rejected, this, [this] { m_afterSave = {}; });
    dialog->show();
}

void SessionWorkspace::closeModel()
{
    if (!workbench().modified()) {
        workbench().closeModel();
        return;
    }
    Banner banner;
    banner.id = QStringLiteral("close-model");
    banner.cause = tr("The session has changes that are not saved.");
    banner.actions = {{tr("Save and close"), [this] { saveThen([this] { workbench().closeModel(); }); }, true},
                      {tr("Discard and close"), [this] { workbench().closeModel(); }},
                      {tr("Keep working"), [] {}}};
    banners().show(banner);
}

bool SessionWorkspace::mayClose(bool jobRunning)
{
    if (!hasUnsavedEdits() || m_leaving || banners().repeats(QStringLiteral("close")) > 0 || m_in.safeMode) return true;
    const auto leave = [this] {
        m_leaving = true;
        m_in.window->close();
    };
    Banner banner;
    banner.id = QStringLiteral("close");
    banner.cause = tr("The session has changes that are not saved.");
    banner.consequence = jobRunning ? tr("A job is running.") : QString();
    banner.actions = {
        {tr("Save and quit"), [this, leave] { saveThen(leave); }, true}, {tr("Discard and quit"), leave}, {tr("Keep working"), [] {}}};
    banners().show(banner);
    return false;
}

void SessionWorkspace::dismissQuestions()
{
    for (const char* id : {"replace", "close", "close-model"})
        banners().dismiss(QString::fromLatin1(id));
}

void SessionWorkspace::showSession()
{
    if (isOpen()) {
        const QString name =
            workbench().sessionFile().isEmpty() ? workbench().modelName() : QFileInfo(workbench().sessionFile()).fileName();
        const QString& readOnly = workbench().readOnly();
        m_in.window->setWindowTitle(
            (readOnly.isEmpty() ? QStringLiteral("%1[*] · Espalier") : tr("%1 (read-only)[*] · Espalier")).arg(name));
        m_in.status->setReadOnly(readOnly);
        const bool modified = workbench().modified();
        m_in.window->setWindowModified(modified);
        m_in.status->setPlan(workbench().planName(), modified);
        // Nothing is left to be saved: what asked about it has lost its cause.
        if (!modified) dismissQuestions();
    } else {
        m_in.window->setWindowModified(false);
    }
    emit actionsChanged();
}

// ---- export

ExportDialog* SessionWorkspace::exportDialog() const { return m_export; }

void SessionWorkspace::showExport()
{
    if (!m_export) {
        m_export = new ExportDialog(&workbench(), m_in.window);
        m_export->setAttribute(Qt::WA_DeleteOnClose);
        connect(m_export, &ExportDialog::equaliseRequested, m_in.actions->get(QStringLiteral("plan.equal")), &QAction::trigger);
    }
    m_export->show();
    m_export->raise();
    m_export->activateWindow();  // raised alone it would lie in front while the keys still went to the plan
}

// ---- recovery

void SessionWorkspace::offerRecovery()
{
    if (m_in.safeMode) return;
    workbench().store()->findLeftovers([this](const std::vector<RecoveryEntry>& entries) {
        if (entries.empty()) return;
        const RecoveryEntry& entry = entries.front();
        const QString file = QString::fromStdString(entry.info.session.string());
        Banner banner;
        banner.id = QStringLiteral("recovery");
        banner.ofModel = false;
        const QString name = file.isEmpty() ? tr("A session that was never saved") : tr("Session %1").arg(QFileInfo(file).fileName());
        banner.cause = tr("%1 was not closed cleanly.").arg(name);
        banner.consequence = (entry.info.edits > 0 ? tr("%n edit(s) up to %1 can be brought back.", nullptr, entry.info.edits)
                                                   : tr("What was measured up to %1 can be brought back."))
                                 .arg(format::time(QDateTime::fromSecsSinceEpoch(entry.info.writtenAt), QDateTime::currentDateTime()));
        banner.actions.push_back({tr("Recover"), [this, entry] { recover(entry); }, true});
        if (!file.isEmpty()) banner.actions.push_back({tr("Open saved"), [this, file] { workbench().openSession(file); }});
        banner.actions.push_back({tr("Discard"), [this, entry] { workbench().store()->discard(entry); }});
        banners().show(banner);
    });
}

void SessionWorkspace::recover(const RecoveryEntry& entry)
{
    workbench().store()->take(entry, [this](Result<RecoveredSession> recovered) {
        if (!recovered.ok()) {
            emit failed(recovered.error(), QStringLiteral("recovery"));
            return;
        }
        const QString file = QString::fromStdString(recovered->entry.info.session.string());
        const RecoveryEntry used = recovered->entry;
        workbench().adoptSession(std::move(recovered->data), file, true);
        workbench().store()->discard(used);
    });
}

}  // namespace espalier
