#include "shell/window/window_layout.h"

#include "look/theme.h"

#include <QApplication>
#include <QDockWidget>
#include <QLayout>

#include <algorithm>
#include <utility>

namespace espalier
{

WindowLayout::WindowLayout(const WindowContext& context, const Panels& panels)
    : m_in(context), m_panels(panels), m_default(context.docks->saveState())
{
}

void WindowLayout::restore(bool reset)
{
    if (m_in.safeMode) return;
    if (reset) {
        m_in.settings->remove(QStringLiteral("layout"));
        m_in.settings->remove(QStringLiteral("geometry"));
        return;
    }
    // A layout that cannot be read leaves the compiled-in one.
    const QByteArray geometry = m_in.settings->value(QStringLiteral("geometry")).toByteArray();
    if (!geometry.isEmpty()) m_in.window->restoreGeometry(geometry);
    m_stored = m_in.settings->value(QStringLiteral("layout")).toByteArray();
}

void WindowLayout::store()
{
    if (m_applied) m_in.settings->setValue(QStringLiteral("layout"), m_in.docks->saveState());
    m_in.settings->setValue(QStringLiteral("geometry"), m_in.window->saveGeometry());
}

void WindowLayout::apply()
{
    if (std::exchange(m_applied, true)) return;
    if (QWidget* pages = m_in.docks->parentWidget(); pages && pages->layout()) pages->layout()->activate();
    if (m_stored.isEmpty() || !m_in.docks->restoreState(m_stored)) reset();
}

void WindowLayout::reset()
{
    m_in.docks->restoreState(m_default);
    const int width = m_in.window->width(), height = m_in.window->height();
    // Wider with the text, as far as the map has room.
    const auto side = [width](int units) {
        const int most = width * 26 / 100;
        return std::max(std::min(units, most), std::min(pixelsOf(units), most));
    };
    m_in.docks->resizeDocks({m_panels.left, m_panels.right}, {side(316), side(312)}, Qt::Horizontal);
    m_in.docks->resizeDocks({m_panels.below}, {std::min(292, height * 34 / 100)}, Qt::Vertical);
    m_in.docks->resizeDocks({m_panels.right, m_panels.corner}, {460, 420}, Qt::Vertical);
}

void WindowLayout::orderTabs(const std::vector<const QWidget*>& parts) const
{
    QList<QWidget*> all;
    QWidget* walk = m_in.window;
    do {
        if (walk != m_in.window && walk->focusPolicy() & Qt::TabFocus && !walk->focusProxy()) all << walk;
        walk = walk->nextInFocusChain();
    } while (walk && walk != m_in.window);
    QList<QWidget*> ordered;
    for (const QWidget* part : parts)
        for (QWidget* widget : all)
            if (part->isAncestorOf(widget) && !ordered.contains(widget)) ordered << widget;
    for (int i = 0; i + 1 < ordered.size(); ++i)
        QWidget::setTabOrder(ordered[i], ordered[i + 1]);
}

void WindowLayout::moveFocus(const std::vector<FocusStop>& stops, int step)
{
    const int count = static_cast<int>(stops.size());
    const QWidget* focus = QApplication::focusWidget();
    int at = step > 0 ? -1 : count;
    for (int i = 0; i < count; ++i)
        if (const QWidget* part = stops[static_cast<std::size_t>(i)].part; focus && (part == focus || part->isAncestorOf(focus))) at = i;
    for (int tried = 0; tried < count; ++tried) {
        at = (at + step + count) % count;
        const FocusStop& stop = stops[static_cast<std::size_t>(at)];
        if (!stop.part->isVisible()) continue;
        stop.first()->setFocus(Qt::ShortcutFocusReason);
        return;
    }
}

}  // namespace espalier
