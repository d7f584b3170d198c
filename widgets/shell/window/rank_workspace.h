// Matrix ranks: their page in the left panel, spectrum and energy beside the perplexity, and the deep profile that they need.
#pragma once

#include "shell/window/workspace.h"

namespace espalier
{

class BudgetWorkspace;
class ExploreWorkspace;
class MeasureWorkspace;
class Panel;
class RankCurveStore;
class RankPanel;
class RankPlot;
struct RankPlotState;

class RankWorkspace final : public Workspace
{
    Q_OBJECT
public:
    // Beside what these show; all of them outlive it.
    struct Neighbours {
        BudgetWorkspace* budget;
        ExploreWorkspace* explore;
        MeasureWorkspace* measure;
    };
    RankWorkspace(const WindowContext& context, const Neighbours& beside, QObject* parent);

    RankPanel* panel() const { return m_panel; }
    Panel* spectrumDock() const { return m_spectrumDock; }
    Panel* energyDock() const { return m_energyDock; }
    QWidget* firstOfPanel() const;
    QWidget* firstOfSpectrum() const;
    QWidget* firstOfEnergy() const;

    // Page, map and plots about ranks come and go together; each can be chosen otherwise afterwards.
    void setRankView(bool on);
    void setLaidOut() { m_laidOut = true; }  // the panels have heights of their own from now on

    void updateActions() override;
    void show() override { showRanks(); }
    void setSize(const WindowSize& size) override;
    void addToView(Json& view) const override;
    void restoreView(const Json& view) override;
    QString helpPage(const QWidget* focus) const override;
    bool showsRefusals() const override;

private:
    void makeActions();
    void makePlots();
    void connectPanel();
    void connectPlots();
    void connectProfile();
    void arrangeDocks();
    void showRanks();
    QString showProfile(RankPlotState& state);  // how far the deep profile is
    void showExpert(RankPlotState& state);

    Neighbours m_beside;
    RankPanel* m_panel = nullptr;
    RankPlot* m_spectrum = nullptr;
    RankPlot* m_energy = nullptr;
    RankPlot* m_energyPage = nullptr;  // beside the spectrum's tab where there is no room for two panels
    Panel* m_spectrumDock = nullptr;
    Panel* m_energyDock = nullptr;
    RankCurveStore* m_curves = nullptr;
    int m_page = 0;
    bool m_rankView = false;
    bool m_docksSet = false;  // their widths, since they are on screen
    bool m_laidOut = false;
};

}  // namespace espalier
