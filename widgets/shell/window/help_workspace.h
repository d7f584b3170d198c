// Help, beside the window, about what has the keyboard; the names of all keys; what this program is.
#pragma once

#include "shell/window/workspace.h"

#include <QPointer>

#include <functional>

namespace espalier
{

class HelpWindow;

class HelpWorkspace final : public Workspace
{
    Q_OBJECT
public:
    // Pages lie in `folder`; `page` says which one is about what has the keyboard.
    HelpWorkspace(const WindowContext& context, QString folder, std::function<QString()> page, QObject* parent);

private:
    void showPage(const QString& page);
    void showAbout();

    QString m_folder;
    QPointer<HelpWindow> m_window;
};

}  // namespace espalier
