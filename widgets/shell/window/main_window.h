// The window: wires views to the workbench. Every action is one QAction with a stable id, shared by menu, tool bar and tests.
#pragma once

#include "experts/selection.h"
#include "look/banner.h"
#include "look/theme.h"
#include "perplexity/history_panel.h"
#include "shell/plan/workbench.h"

#include <QHash>
#include <QMainWindow>
#include <QPointer>
#include <QStringList>
#include <QTimer>

#include <functional>
#include <vector>

class QAbstractButton;
class QFileDialog;
class QLabel;
class QPushButton;
class QSettings;
class QStackedWidget;

namespace espalier
{

class ExportDialog;
class EstimateController;
class HeatmapTable;
class HeatmapView;
class HelpWindow;
class InspectorPanel;
class LayersPanel;
class Panel;
class PanelFrame;
class PerplexityPanel;
class PipelinePanel;
class SearchPanel;
class RankCurveStore;
class RankPanel;
class RankPlot;
class StartPage;
class StatusBar;
class Switch;
class TextsDialog;

struct WindowOptions {
    bool resetLayout = false;
    bool safeMode = false;  // ignores settings, layout, recovery
    QString helpFolder;
};

class MainWindow final : public QMainWindow
{
    Q_OBJECT
public:
    MainWindow(Workbench* workbench, ThemeController* themes, WindowOptions options, QWidget* parent = nullptr);
    ~MainWindow() override;

    QAction* action(const QString& id) const { return m_actions.value(id); }
    QStringList actionIds() const { return m_actions.keys(); }
    BannerStack* banners() const { return m_banners; }
    HeatmapView* heatmap() const { return m_heatmap; }
    SelectionModel* selection() { return &m_selection; }
    ExportDialog* exportDialog() const;
    void openPath(const QString& path);  // a model's folder or a session; asks first when that would lose edits
    void offerRecovery();                // looks for work left by a process that did not end cleanly

protected:
    void closeEvent(QCloseEvent* event) override;
    void dragEnterEvent(QDragEnterEvent* event) override;
    void dropEvent(QDropEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;

private:
    QAction* addAction(const QString& id, const QString& text, const QString& iconName, const QList<QKeySequence>& shortcuts,
                       std::function<void()> run);
    void makeActions();
    void makeMenus();
    void makeToolBar();
    void orderTabs();
    void focusPanel(int step);  // 1: the next, -1: the one before
    QString helpPage() const;
    bool typing() const;
    void measureProfile();  // one that is complete is measured again only on request
    void makePanels();
    // Ranks: main_window_ranks.cpp.
    void makeRankActions();
    void makeRankPage();  // of the left panel
    void makeRankPanels();
    void connectRanks();
    void setRankView(bool on);
    void arrangeRankDocks();
    void showRanks();
    void showRankRefusal();
    void showConstantsRefusal();
    void addEstimate(PerplexityState& state) const;
    void showCellEstimate();
    QHash<QString, PlanLoss> planLosses() const;  // measured, and the estimate of the plan on screen
    QWidget* rankStop() const;                    // where the keyboard enters the plots
    Json rankViewState() const;
    void restoreRankView(const Json& view);
    void connectViews();
    void showJob(const std::optional<JobState>& job);
    void showPlan();
    void showHistory();
    void showNames();
    void showScores();
    void showPerplexity();
    void showSession();
    void showEngine();
    void showOpen(bool open);
    void restoreLayout();
    void resetLayout();
    void makePipelineActions();
    void makePipeline();  // the pages Pipeline and Search, in panels that are there
    void connectPipeline();
    void showPipeline();           // the engine's methods, and which of them can run
    void updatePipelineActions();  // what can start now
    void showSearch();
    void showRunningEntry();
    void openPipeline(const QString& allocation = {});
    void runPipeline();
    void findPlan(bool sizeOfPlan);
    void offerToGoOn();
    void applyLayout();  // once, when the panels have their size
    void updateActions();
    void updateFormActions();  // constants and skipped layers
    void updateCompact();
    void askModel();
    void askSession();
    // The three texts of a model that is about to be opened, or of the one that is open where `folder` is empty.
    void askTexts(const QString& folder);
    void askLocked();
    TextChoice textsOf(const QString& folder) const;
    void rememberTexts();
    void noteTexts(const QString& cause, const QString& consequence);
    void save(bool as);
    void saveThen(std::function<void()> next);  // next once it is on disk; nothing where saving fails or is given up
    void finishClose();
    // Runs `next`, which replaces what is open; asks first when that would lose edits.
    void replaceSession(std::function<void()> next);
    void showEngineDetails(const QString& cause);
    void nameLocks(Banner& banner);
    void settleProblems(bool evaluated);
    // What the plan says about an edit; `locks` stand in its way.
    void explain(const QString& text, bool isError, const std::vector<int>& locks);
    void notice(const Error& error, const QString& id);
    void engineLost(const QString& cause, const QString& lastLine);
    void rememberRecent(const QString& path);
    QStringList recent() const;
    Json viewState() const;
    void restoreViewState(const Json& view);
    QFileDialog* fileDialog(const QString& title, const QString& filter, const QString& key);
    QSettings& settings() const;

    static constexpr int kCompactWidth = 1400;
    static constexpr int kLowHeight = 760;

    Workbench* m_workbench;
    ThemeController* m_themes;
    WindowOptions m_options;
    std::unique_ptr<QSettings> m_settings;
    SelectionModel m_selection;
    HoverModel m_hover;
    QHash<QString, QAction*> m_actions;

    QStackedWidget* m_pages = nullptr;
    StartPage* m_start = nullptr;
    QMainWindow* m_docks = nullptr;  // holds the panels, so that banners push them down
    BannerStack* m_banners = nullptr;
    PanelFrame* m_heatmapFrame = nullptr;
    HeatmapView* m_heatmap = nullptr;
    HeatmapTable* m_heatmapTable = nullptr;
    LayersPanel* m_layers = nullptr;
    InspectorPanel* m_inspector = nullptr;
    HistoryPanel* m_history = nullptr;
    PerplexityPanel* m_perplexity = nullptr;
    PipelinePanel* m_pipeline = nullptr;
    SearchPanel* m_search = nullptr;
    QLabel* m_headline = nullptr;  // the perplexity in short, beside the search
    int m_pipelinePage = -1;
    int m_searchPage = -1;
    Panel* m_layersDock = nullptr;
    Panel* m_inspectorDock = nullptr;
    Panel* m_historyDock = nullptr;
    Panel* m_perplexityDock = nullptr;
    RankPanel* m_ranks = nullptr;
    RankPlot* m_spectrum = nullptr;
    RankPlot* m_energy = nullptr;
    RankPlot* m_energyPage = nullptr;  // beside the spectrum's tab where there is no room for two panels
    Panel* m_spectrumDock = nullptr;
    Panel* m_energyDock = nullptr;
    RankCurveStore* m_rankCurves = nullptr;
    EstimateController* m_estimates = nullptr;
    int m_rankPage = 0;
    bool m_rankView = false;
    bool m_rankDocksSet = false;  // their widths, since they are on screen
    QString m_rankRefusal;        // which one is told
    QString m_constantsRefusal;
    StatusBar* m_status = nullptr;
    Switch* m_auto = nullptr;
    QPushButton* m_evaluate = nullptr;
    QWidget* m_toolBar = nullptr;
    QPointer<ExportDialog> m_export;
    QPointer<HelpWindow> m_help;
    QPointer<TextsDialog> m_texts;
    QByteArray m_defaultLayout;
    QByteArray m_storedLayout;
    bool m_layoutApplied = false;
    std::function<void()> m_afterSave;  // what waits for the session to be on disk
    QStringList m_problems;             // banners about a profile or an evaluation that failed
    QStringList m_evaluationProblems;   // of these, the evaluation's
    bool m_leaving = false;             // quits without asking
    bool m_jobRunning = false;
    bool m_jobVisible = false;  // in the status bar
    std::optional<JobState> m_job;
    QTimer m_jobShown;
    QTimer m_jobGone;
    bool m_offeredToGoOn = false;  // with the search that a lost engine broke off
    QString m_lastJob;             // what runs, for the message when the engine stops
};

}  // namespace espalier
