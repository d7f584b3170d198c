// Plans made by method: the pipeline's page in the left panel, the search's page beside the perplexity, and what a search does to the
// window.
#pragma once

#include "shell/window/workspace.h"

namespace espalier
{

class BudgetWorkspace;
class ExploreWorkspace;
class FoldRow;
class HistoryWorkspace;
class MeasureWorkspace;
class PipelinePanel;
class RankWorkspace;
class SearchPanel;
struct MethodChoice;

class PipelineWorkspace final : public Workspace
{
    Q_OBJECT
public:
    // Beside what it shows; all of them outlive it.
    struct Neighbours {
        BudgetWorkspace* budget;
        ExploreWorkspace* explore;
        HistoryWorkspace* history;
        MeasureWorkspace* measure;
        RankWorkspace* ranks;
    };
    PipelineWorkspace(const WindowContext& context, const Neighbours& beside, QObject* parent);

    PipelinePanel* panel() const { return m_panel; }
    SearchPanel* search() const { return m_search; }
    QWidget* firstOfPanel() const;
    QWidget* firstOfSearch() const;

    void updateActions() override;
    void show() override { showMethods(); }
    void setSize(const WindowSize& size) override;
    void addToView(Json& view) const override;
    void restoreView(const Json& view) override;
    QString helpPage(const QWidget* focus) const override;

private:
    void makeActions();
    void makePages();
    void connectPages();
    void connectPlanning();
    void connectRankRule();
    void showMethods();  // the engine's, and which of them can run
    void showSearch();
    void showSearchPage();  // brings it to the front
    void showRunningEntry();
    void open(const QString& allocation = {});
    void run();
    void recover();  // the plan on screen, as it is
    void find(bool sizeOfPlan);
    void rankToSize(qint64 bytes, const MethodChoice& rule);
    void offerToGoOn();
    void tell(const QString& id, const QString& iconName, const QString& cause, const QString& consequence,
              std::vector<BannerAction> actions);
    void dismissTold();

    Neighbours m_beside;
    PipelinePanel* m_panel = nullptr;
    SearchPanel* m_search = nullptr;
    FoldRow* m_headline = nullptr;  // the perplexity in short, beside the search
    int m_page = -1;
    int m_searchPage = -1;
    bool m_offeredToGoOn = false;  // with the search that a lost engine broke off
};

}  // namespace espalier
