// What is known of every expert: the map and its table in the middle, the inspector beside them. Owns which score the map shows.
#pragma once

#include "heatmap/heatmap_view.h"
#include "shell/window/workspace.h"

namespace espalier
{

class HeatmapTable;
class InspectorPanel;
class Panel;
class PanelFrame;

class ExploreWorkspace final : public Workspace
{
    Q_OBJECT
public:
    ExploreWorkspace(const WindowContext& context, QObject* parent);

    HeatmapView* heatmap() const { return m_heatmap; }
    InspectorPanel* inspector() const { return m_inspector; }
    PanelFrame* frame() const { return m_frame; }
    Panel* inspectorDock() const { return m_inspectorDock; }
    QWidget* firstOfFrame() const;
    QWidget* firstOfInspector() const;

    // The map shows the plan's ranks, or the chosen score.
    void showRankMap(bool on);
    void setSearching(const std::vector<int>& layers);        // that a search works on
    void selectSomething();                                   // where nothing is selected
    void setCellEstimate(const QString& what, double delta);  // of the current expert or layer
    void restoreRankMap(const Json& of);                      // what a session keeps of it

    void updateActions() override;
    void forget() override;
    void show() override;
    void setSize(const WindowSize& size) override;
    void addToView(Json& view) const override;
    void restoreView(const Json& view) override;
    QString helpPage(const QWidget* focus) const override;

private:
    void connectMap();
    void connectInspector();
    void setMapOptions(const HeatmapOptions& options);
    void nameMap();  // in its header
    void showPlan();
    void showScores();
    void showScoreChoices();
    void showNoScores();  // why, and what to do

    HeatmapView* m_heatmap = nullptr;
    HeatmapTable* m_table = nullptr;
    PanelFrame* m_frame = nullptr;
    InspectorPanel* m_inspector = nullptr;
    Panel* m_inspectorDock = nullptr;
};

}  // namespace espalier
