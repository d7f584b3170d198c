// The three texts of a model: asked for where it is opened, remembered for the next time, changed while it is open.
#pragma once

#include "shell/window/workspace.h"

#include <QPointer>

class QFileDialog;

namespace espalier
{

class TextsDialog;

// Not modal. Begins where the user was last for this `kind` of file.
QFileDialog* fileDialog(const WindowContext& context, const QString& title, const QString& filter, const QString& kind);

class TextsWorkspace final : public Workspace
{
    Q_OBJECT
public:
    TextsWorkspace(const WindowContext& context, QObject* parent);

    void ask(const QString& folder);                  // of a model that is about to be opened, or of the open one where it is empty
    TextChoice textsOf(const QString& folder) const;  // as they were chosen last for this model; the built-in ones at first

    void updateActions() override;

signals:
    void openRequested(const QString& folder, const espalier::TextChoice& texts);

private:
    void remember();
    void note(const QString& cause, const QString& consequence);

    QPointer<TextsDialog> m_dialog;
};

}  // namespace espalier
