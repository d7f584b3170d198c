// Where the panels stand: the layout that is kept from one start to the next, and the ways of the keyboard through them. GUI thread.
#pragma once

#include "shell/window/workspace.h"

#include <functional>
#include <vector>

namespace espalier
{

// A part of the window that F6 stops at, and what takes the keyboard there.
struct FocusStop {
    QWidget* part;
    std::function<QWidget*()> first;
};

class WindowLayout final
{
public:
    struct Panels {
        QDockWidget* left;    // wide as its columns need
        QDockWidget* right;   // likewise
        QDockWidget* corner;  // below `right`
        QDockWidget* below;   // along the bottom
    };
    // All panels are in place: this is the layout that reset() comes back to.
    WindowLayout(const WindowContext& context, const Panels& panels);

    void restore(bool reset);  // what the last start left, or with `reset` nothing of it
    void store();
    // Once, when the panels have their size: sizes asked for before they are on screen are shares of a small default size.
    void apply();
    void reset();
    bool applied() const { return m_applied; }

    void orderTabs(const std::vector<const QWidget*>& parts) const;        // Tab follows the eye, in this order
    static void moveFocus(const std::vector<FocusStop>& stops, int step);  // 1: to the next in sight, -1: to the one before

private:
    WindowContext m_in;
    Panels m_panels;
    QByteArray m_default;
    QByteArray m_stored;
    bool m_applied = false;
};

}  // namespace espalier
