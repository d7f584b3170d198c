// Every action of the window is one QAction with a stable id, shared by menus, tool bar, banners and tests. Who adds one owns what it does.
// GUI thread.
#pragma once

#include <QAction>
#include <QHash>
#include <QKeySequence>
#include <QObject>
#include <QStringList>

#include <functional>

class QMenu;

namespace espalier
{

class WindowActions final : public QObject
{
    Q_OBJECT
public:
    // The actions' parent, which their shortcuts belong to.
    explicit WindowActions(QWidget* window);

    // `run` is called in the life of `owner`. Ids are unique.
    QAction* add(const QObject* owner, const QString& id, const QString& text, const QString& iconName,
                 const QList<QKeySequence>& shortcuts, std::function<void()> run);
    QAction* get(const QString& id) const { return m_actions.value(id); }  // null: there is none
    void enable(const char* id, bool on);
    QStringList ids() const { return m_actions.keys(); }
    // In this order; an empty id is a separator.
    void fill(QMenu* menu, const QStringList& ids) const;

    static QList<QKeySequence> keys(std::initializer_list<const char*> texts);

private:
    QWidget* m_window;
    QHash<QString, QAction*> m_actions;
};

}  // namespace espalier
