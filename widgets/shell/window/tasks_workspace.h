// Multiple-choice tasks beside the perplexity: the page of their panel, "Measure tasks".
#pragma once

#include "shell/window/workspace.h"

namespace espalier
{

class MeasureWorkspace;
class TasksPanel;

class TasksWorkspace final : public Workspace
{
    Q_OBJECT
public:
    TasksWorkspace(const WindowContext& context, MeasureWorkspace* beside, QObject* parent);

    TasksPanel* panel() const { return m_panel; }
    QWidget* firstControl() const;

    void updateActions() override;
    void show() override;
    void addToView(Json& view) const override;
    void restoreView(const Json& view) override;
    QString helpPage(const QWidget* focus) const override;

private:
    void measure();
    void refresh();

    MeasureWorkspace* m_measure;
    TasksPanel* m_panel = nullptr;
    int m_page = 0;
};

}  // namespace espalier
