// The window: the frame that puts the workspaces side by side (workspace.h), with menus, tool bar, theme and help. Views, actions and their
// wiring are the workspaces'.
#pragma once

#include "look/theme.h"
#include "shell/window/workspace.h"

#include <memory>
#include <vector>

class QStackedWidget;

namespace espalier
{

class BudgetWorkspace;
class EngineNotices;
class ErrorNotices;
class ExploreWorkspace;
class ExportDialog;
class HeatmapView;
class HistoryWorkspace;
class MeasureWorkspace;
class PipelineWorkspace;
class RankWorkspace;
class SessionWorkspace;
class StartPage;
class TasksWorkspace;
class TryWorkspace;
class WindowLayout;

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

    QAction* action(const QString& id) const { return m_actions->get(id); }
    QStringList actionIds() const { return m_actions->ids(); }
    BannerStack* banners() const { return m_banners; }
    HeatmapView* heatmap() const;
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
    void makeFrame();
    void makeWorkspaces();
    void makeActions();
    void makeMenus();
    void makeToolBar();
    void orderTabs();
    void connectWorkbench();
    void connectWorkspaces();
    void modelOpened();
    void showOpen(bool open);
    void updateActions();
    void setTheme(const QString& choice);
    QString helpPage() const;
    void focusPanel(int step);  // 1: the next, -1: the one before
    void resetLayout();
    Json viewState() const;

    Workbench* m_workbench;
    ThemeController* m_themes;
    WindowOptions m_options;
    std::unique_ptr<QSettings> m_settings;
    SelectionModel m_selection;
    HoverModel m_hover;
    WindowActions* m_actions = nullptr;
    WindowContext m_context;

    QStackedWidget* m_pages = nullptr;
    StartPage* m_start = nullptr;
    QMainWindow* m_docks = nullptr;  // holds the panels, so that banners push them down
    BannerStack* m_banners = nullptr;
    StatusBar* m_status = nullptr;
    QWidget* m_toolBar = nullptr;

    BudgetWorkspace* m_budget = nullptr;
    ExploreWorkspace* m_explore = nullptr;
    HistoryWorkspace* m_history = nullptr;
    MeasureWorkspace* m_measure = nullptr;
    RankWorkspace* m_ranks = nullptr;
    TasksWorkspace* m_tasks = nullptr;
    TryWorkspace* m_try = nullptr;
    PipelineWorkspace* m_pipeline = nullptr;
    SessionWorkspace* m_session = nullptr;
    EngineNotices* m_engine = nullptr;
    ErrorNotices* m_errors = nullptr;
    std::vector<Workspace*> m_workspaces;  // all, in the order in which they take a session's view and are asked
    std::unique_ptr<WindowLayout> m_layout;
};

}  // namespace espalier
