// What the window is composed of: workspaces. Each has its views, its actions and its wiring to the controllers behind them, and knows
// those that it is given; the window puts them side by side. GUI thread.
#pragma once

#include "base/json.h"
#include "experts/selection.h"
#include "look/banner.h"
#include "perplexity/status_bar.h"
#include "shell/plan/workbench.h"
#include "shell/window/window_actions.h"

#include <QMainWindow>
#include <QSettings>

namespace espalier
{

// What all of them share. Owned by the window.
struct WindowContext {
    QMainWindow* window = nullptr;  // whom dialogs belong to
    QMainWindow* docks = nullptr;   // holds the panels, so that banners push them down
    Workbench* workbench = nullptr;
    WindowActions* actions = nullptr;
    BannerStack* banners = nullptr;
    StatusBar* status = nullptr;
    SelectionModel* selection = nullptr;
    HoverModel* hover = nullptr;
    QSettings* settings = nullptr;
    bool safeMode = false;  // keeps nothing
};

// How much place there is.
struct WindowSize {
    bool compact = false;  // in width
    bool low = false;

    static WindowSize of(const QWidget& window);
};

class Workspace : public QObject
{
    Q_OBJECT
public:
    Workspace(const WindowContext& context, QObject* parent) : QObject(parent), m_in(context) {}

    virtual void updateActions() {}  // which of its actions can run now
    virtual void forget() {}         // another model comes: what was said of the last one is untrue
    virtual void show() {}           // everything about the model that is open
    virtual void setSize(const WindowSize&) {}
    // What a session keeps of what is on screen. restoreView takes what it finds usable and leaves the rest as it is.
    virtual void addToView(Json&) const {}
    virtual void restoreView(const Json&) {}
    virtual QString helpPage(const QWidget* /*focus*/) const { return {}; }  // about the part that has the keyboard; empty: not here
    virtual bool showsRefusals() const { return false; }                     // a panel that says why an edit was refused is in sight

signals:
    void viewChanged();     // what a session keeps of it
    void actionsChanged();  // updateActions() is to be called, of all

protected:
    Workbench& workbench() const { return *m_in.workbench; }
    PlanController* plans() const { return m_in.workbench->plans(); }
    bool isOpen() const { return m_in.workbench->isOpen(); }
    BannerStack& banners() const { return *m_in.banners; }
    // Every edit of these views between its signals is one gesture of the plan.
    template <class View>
    void connectGestures(View* view) const
    {
        connect(view, &View::gestureStarted, plans(), &PlanController::beginGesture);
        connect(view, &View::gestureFinished, plans(), &PlanController::finishGesture);
        if constexpr (requires { &View::gestureCancelled; })
            connect(view, &View::gestureCancelled, plans(), &PlanController::cancelGesture);
    }
    static bool isIn(const QWidget* focus, const QWidget* part);

    const WindowContext m_in;
};

}  // namespace espalier
