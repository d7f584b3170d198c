// Models and sessions as files: opening, saving, closing without losing edits, recovery, export.
#pragma once

#include "shell/window/workspace.h"

#include <QPointer>

#include <functional>

namespace espalier
{

class ExportDialog;
class StartPage;
class TextsWorkspace;

class SessionWorkspace final : public Workspace
{
    Q_OBJECT
public:
    SessionWorkspace(const WindowContext& context, TextsWorkspace* texts, StartPage* start, QObject* parent);

    ExportDialog* exportDialog() const;
    void openPath(const QString& path);  // a model's folder or a session; asks first when that would lose edits
    void offerRecovery();                // looks for work left by a process that did not end cleanly
    // Whether the window may close now: asks in a banner, once; a second close goes through.
    bool mayClose(bool jobRunning);

    void updateActions() override;
    QString helpPage(const QWidget* focus) const override;
    bool showsRefusals() const override;

signals:
    void failed(const espalier::Error& error, const QString& id);  // becomes a banner

private:
    void makeActions();
    void connectWorkbench();
    void connectStart();
    void askModel();
    void askSession();
    void save(bool as);
    void saveThen(std::function<void()> next);        // next once it is on disk; nothing where saving fails or is given up
    void replaceSession(std::function<void()> next);  // `next` replaces what is open; asks first when that would lose edits
    void closeModel();
    void showExport();
    void showSession();
    void dismissQuestions();  // about changes that are not saved
    void recover(const RecoveryEntry& entry);
    void rememberRecent(const QString& path);
    bool hasUnsavedEdits() const;

    TextsWorkspace* m_texts;
    StartPage* m_start;
    QPointer<ExportDialog> m_export;
    std::function<void()> m_afterSave;  // what waits for the session to be on disk
    bool m_leaving = false;             // quits without asking
};

}  // namespace espalier
