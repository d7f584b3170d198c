// How many experts every layer keeps: the left panel with curve, budget and table, and the edits of the whole plan.
#pragma once

#include "shell/window/workspace.h"

namespace espalier
{

class LayersPanel;
class Panel;

class BudgetWorkspace final : public Workspace
{
    Q_OBJECT
public:
    BudgetWorkspace(const WindowContext& context, QObject* parent);

    Panel* dock() const { return m_dock; }  // other workspaces add pages to it
    LayersPanel* panel() const { return m_panel; }
    QWidget* firstControl() const;

    void updateActions() override;
    void forget() override;
    void show() override;
    void setSize(const WindowSize& size) override;
    void addToView(Json& view) const override;
    void restoreView(const Json& view) override;
    QString helpPage(const QWidget* focus) const override;
    bool showsRefusals() const override;

signals:
    void methodElsewhere(const QString& id);  // an allocator that runs in the engine

private:
    void makeActions();
    void makeFormActions();  // constants and skipped layers
    void connectPanel();
    void updateFormActions();
    void equaliseCounts();
    void showPlan();
    void showScores();
    void explain(const QString& text, bool isError, const std::vector<int>& locks);

    LayersPanel* m_panel = nullptr;
    Panel* m_dock = nullptr;
};

}  // namespace espalier
