// The plans there were: history, their names and numbers, undo and redo; what the status bar says of the plan on screen.
#pragma once

#include "shell/window/workspace.h"

namespace espalier
{

class HistoryPanel;
class MeasureWorkspace;
class Panel;

class HistoryWorkspace final : public Workspace
{
    Q_OBJECT
public:
    // Numbers of `measure` stand beside the plans.
    HistoryWorkspace(const WindowContext& context, MeasureWorkspace* measure, QObject* parent);

    HistoryPanel* panel() const { return m_panel; }
    Panel* dock() const { return m_dock; }
    QWidget* firstControl() const;

    void updateActions() override;
    void show() override;

private:
    void makeActions();
    void showPlan();
    void showHistory();
    void showLosses();
    void showNames();

    MeasureWorkspace* m_measure;
    HistoryPanel* m_panel = nullptr;
    Panel* m_dock = nullptr;
};

}  // namespace espalier
