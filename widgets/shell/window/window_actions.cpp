#include "shell/window/window_actions.h"

#include "look/icon.h"

#include <QMenu>
#include <QWidget>

#include <utility>

namespace espalier
{

WindowActions::WindowActions(QWidget* window) : QObject(window), m_window(window) {}

QAction* WindowActions::add(const QObject* owner, const QString& id, const QString& text, const QString& iconName,
                            const QList<QKeySequence>& shortcuts, std::function<void()> run)
{
    Q_ASSERT(!m_actions.contains(id));
    auto* made = new QAction(text, m_window);
    made->setObjectName(id);
    if (!iconName.isEmpty()) made->setIcon(icon(iconName));
    made->setShortcuts(shortcuts);
    QString tip = text;
    tip.remove(QLatin1Char('&'));
    tip.remove(QStringLiteral("…"));
    if (!shortcuts.isEmpty()) tip += QStringLiteral(" (%1)").arg(shortcuts.first().toString(QKeySequence::NativeText));
    made->setToolTip(tip);
    connect(made, &QAction::triggered, owner, [run = std::move(run)] { run(); });
    m_window->addAction(made);
    m_actions.insert(id, made);
    return made;
}

void WindowActions::enable(const char* id, bool on)
{
    if (QAction* action = get(QString::fromLatin1(id))) action->setEnabled(on);
}

void WindowActions::fill(QMenu* menu, const QStringList& ids) const
{
    for (const QString& id : ids) {
        if (id.isEmpty())
            menu->addSeparator();
        else
            menu->addAction(get(id));
    }
}

QList<QKeySequence> WindowActions::keys(std::initializer_list<const char*> texts)
{
    QList<QKeySequence> keys;
    for (const char* text : texts)
        keys << QKeySequence(QString::fromLatin1(text));
    return keys;
}

}  // namespace espalier
