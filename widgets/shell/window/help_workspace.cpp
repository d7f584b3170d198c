#include "shell/window/help_workspace.h"

#include "shell/window/help_window.h"

#include <utility>

namespace espalier
{

HelpWorkspace::HelpWorkspace(const WindowContext& context, QString folder, std::function<QString()> page, QObject* parent)
    : Workspace(context, parent), m_folder(std::move(folder))
{
    QAction* help = m_in.actions->add(this, QStringLiteral("help.contents"), tr("&Help"), {}, WindowActions::keys({"F1"}),
                                      [this, page = std::move(page)] { showPage(page()); });
    QAction* keys = m_in.actions->add(this, QStringLiteral("help.keyboard"), tr("&Keyboard shortcuts"), QStringLiteral("keyboard"),
                                      WindowActions::keys({"Shift+F1"}), [this] { showPage(QStringLiteral("keyboard")); });
    // In the export dialog and the help window too.
    for (QAction* action : {help, keys})
        action->setShortcutContext(Qt::ApplicationShortcut);
    m_in.actions->add(this, QStringLiteral("help.about"), tr("&About Espalier"), {}, {}, [this] { showAbout(); });
}

void HelpWorkspace::showPage(const QString& page)
{
    if (!m_window) {
        m_window = new HelpWindow(m_folder, m_in.window);
        m_window->setAttribute(Qt::WA_DeleteOnClose);
    }
    m_window->showPage(page);
    m_window->show();
    m_window->raise();
    m_window->activateWindow();
}

void HelpWorkspace::showAbout()
{
    Banner banner;
    banner.id = QStringLiteral("about");
    banner.kind = Banner::Kind::Info;
    banner.cause = tr("Espalier %1.").arg(QStringLiteral(ESPALIER_VERSION));
    banner.consequence = tr("Choose what a Mixture-of-Experts model keeps, and watch its perplexity while you do. GPL-3.0-or-later.");
    banners().show(banner);
}

}  // namespace espalier
