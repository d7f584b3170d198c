#include "shell/window/main_window.h"

#include "completions/try_panel.h"
#include "look/controls.h"
#include "look/panel.h"
#include "perplexity/tasks_panel.h"
#include "planning/pipeline_panel.h"
#include "planning/search_panel.h"
#include "ranks/rank_panel.h"
#include "shell/window/budget_workspace.h"
#include "shell/window/engine_notices.h"
#include "shell/window/error_notices.h"
#include "shell/window/explore_workspace.h"
#include "shell/window/help_workspace.h"
#include "shell/window/history_workspace.h"
#include "shell/window/measure_workspace.h"
#include "shell/window/missing_profiles.h"
#include "shell/window/pipeline_workspace.h"
#include "shell/window/rank_workspace.h"
#include "shell/window/session_workspace.h"
#include "shell/window/start_page.h"
#include "shell/window/tasks_workspace.h"
#include "shell/window/texts_workspace.h"
#include "shell/window/try_workspace.h"
#include "shell/window/window_layout.h"

#include <QApplication>
#include <QCloseEvent>
#include <QDragEnterEvent>
#include <QKeyEvent>
#include <QMenuBar>
#include <QMimeData>
#include <QPushButton>
#include <QScreen>
#include <QStackedWidget>
#include <QTemporaryDir>
#include <QToolBar>
#include <QVBoxLayout>

#include <algorithm>
#include <utility>

namespace espalier
{

namespace
{

// Settings that end with the program. A file of its own, never a device such as /dev/null: QSettings saves by renaming a new file over
// the old one, which for root replaces the device.
QString scratchSettings()
{
    static const QTemporaryDir folder;
    return folder.filePath(QStringLiteral("settings.ini"));
}

}  // namespace

MainWindow::MainWindow(Workbench* workbench, ThemeController* themes, WindowOptions options, QWidget* parent)
    : QMainWindow(parent), m_workbench(workbench), m_themes(themes), m_options(std::move(options))
{
    setWindowTitle(QStringLiteral("Espalier"));
    setAcceptDrops(true);
    // With its frame and a panel of the desktop it fits a screen of 1024 x 640.
    setMinimumSize(960, 560);
    // Frame included it fits a screen of that size; a screen smaller than the least size gets that.
    QSize size(1600, 1000);
    if (const QScreen* on = QGuiApplication::primaryScreen()) size = size.boundedTo(on->availableSize() - QSize(8, 40));
    resize(size.expandedTo(minimumSize()));
    m_settings = m_options.safeMode ? std::make_unique<QSettings>(scratchSettings(), QSettings::IniFormat) : std::make_unique<QSettings>();

    makeFrame();
    makeWorkspaces();
    makeActions();
    makeMenus();
    makeToolBar();
    connectWorkbench();
    connectWorkspaces();
    orderTabs();
    showOpen(false);
    m_engine->showEngine();
    m_layout->restore(m_options.resetLayout);
    if (const QString theme = m_settings->value(QStringLiteral("theme")).toString(); !theme.isEmpty())
        m_themes->setChoice(themeChoiceFromId(theme));
    updateActions();
}

MainWindow::~MainWindow()
{
    // The views draw selection and hover, which are members; as children they would outlive them.
    delete takeCentralWidget();
}

HeatmapView* MainWindow::heatmap() const { return m_explore->heatmap(); }

ExportDialog* MainWindow::exportDialog() const { return m_session->exportDialog(); }

void MainWindow::openPath(const QString& path) { m_session->openPath(path); }

void MainWindow::offerRecovery() { m_session->offerRecovery(); }

// ---- what it is made of

void MainWindow::makeFrame()
{
    m_start = new StartPage;
    m_banners = new BannerStack;
    m_docks = new QMainWindow;
    m_docks->setWindowFlags(Qt::Widget);
    m_docks->setDockOptions(QMainWindow::AnimatedDocks | QMainWindow::AllowNestedDocks);
    m_docks->setCorner(Qt::BottomLeftCorner, Qt::LeftDockWidgetArea);
    m_docks->setCorner(Qt::BottomRightCorner, Qt::RightDockWidgetArea);
    m_pages = new QStackedWidget;
    m_pages->addWidget(m_start);
    m_pages->addWidget(m_docks);
    m_status = new StatusBar;
    auto* central = new QWidget;
    auto* column = new QVBoxLayout(central);
    column->setContentsMargins(0, 0, 0, 0);
    column->setSpacing(0);
    column->addWidget(m_banners);
    column->addWidget(m_pages, 1);
    column->addWidget(m_status);
    setCentralWidget(central);
    m_actions = new WindowActions(this);
    m_context = {.window = this,
                 .docks = m_docks,
                 .workbench = m_workbench,
                 .actions = m_actions,
                 .banners = m_banners,
                 .status = m_status,
                 .selection = &m_selection,
                 .hover = &m_hover,
                 .settings = m_settings.get(),
                 .safeMode = m_options.safeMode};
}

// In an order in which each finds those beside it; panels come into the layout in the same order.
void MainWindow::makeWorkspaces()
{
    m_budget = new BudgetWorkspace(m_context, this);
    m_explore = new ExploreWorkspace(m_context, this);
    m_measure = new MeasureWorkspace(m_context, this);
    m_tasks = new TasksWorkspace(m_context, m_measure, this);
    m_try = new TryWorkspace(m_context, m_measure, this);
    m_history = new HistoryWorkspace(m_context, m_measure, this);
    m_docks->splitDockWidget(m_explore->inspectorDock(), m_history->dock(), Qt::Vertical);
    m_ranks = new RankWorkspace(m_context, {m_budget, m_explore, m_measure}, this);
    m_pipeline = new PipelineWorkspace(m_context, {m_budget, m_explore, m_history, m_measure, m_ranks}, this);
    auto* texts = new TextsWorkspace(m_context, this);
    m_session = new SessionWorkspace(m_context, texts, m_start, this);
    m_engine = new EngineNotices(m_context, m_start, this);
    m_errors = new ErrorNotices(m_context, this);
    auto* profiles = new MissingProfiles(m_context, m_measure, this);
    auto* help = new HelpWorkspace(
        m_context, m_options.helpFolder, [this] { return helpPage(); }, this);
    m_workspaces = {m_session, m_explore, m_pipeline, m_ranks,  m_budget, m_history, m_tasks,
                    m_try,     m_measure, profiles,   m_errors, m_engine, texts,     help};
    m_layout = std::make_unique<WindowLayout>(
        m_context, WindowLayout::Panels{m_budget->dock(), m_explore->inspectorDock(), m_history->dock(), m_measure->dock()});
    connect(m_measure, &MeasureWorkspace::cellEstimateChanged, m_explore, &ExploreWorkspace::setCellEstimate);
    connect(m_session, &SessionWorkspace::failed, m_errors, &ErrorNotices::notice);
}

void MainWindow::makeActions()
{
    m_actions->add(this, QStringLiteral("view.resetLayout"), tr("Reset la&yout"), {}, {}, [this] { resetLayout(); });
    for (const auto& [id, text] :
         {std::pair(QStringLiteral("view.theme.system"), tr("&System")), std::pair(QStringLiteral("view.theme.light"), tr("&Light")),
          std::pair(QStringLiteral("view.theme.dark"), tr("&Dark"))}) {
        const QString choice = id.section(QLatin1Char('.'), 2);
        m_actions->add(this, id, text, {}, {}, [this, choice] { setTheme(choice); });
    }
    m_actions->add(this, QStringLiteral("view.nextPanel"), tr("&Next panel"), {}, WindowActions::keys({"F6"}), [this] { focusPanel(1); });
    m_actions->add(this, QStringLiteral("view.previousPanel"), tr("Pre&vious panel"), {}, WindowActions::keys({"Shift+F6"}),
                   [this] { focusPanel(-1); });
}

namespace
{

QStringList ids(std::initializer_list<const char*> names)
{
    QStringList all;
    for (const char* name : names)
        all << QString::fromLatin1(name);
    return all;
}

}  // namespace

void MainWindow::makeMenus()
{
    m_actions->fill(menuBar()->addMenu(tr("&File")), ids({"file.openModel", "file.openSession", "file.demo", "", "file.save", "file.saveAs",
                                                          "", "file.export", "", "file.close", "file.quit"}));
    m_actions->fill(menuBar()->addMenu(tr("&Edit")), ids({"edit.undo", "edit.redo"}));
    QMenu* view = menuBar()->addMenu(tr("&View"));
    m_actions->fill(view, ids({"view.table", "view.ranks", ""}));
    m_actions->fill(view->addMenu(tr("Th&eme")), ids({"view.theme.system", "view.theme.light", "view.theme.dark"}));
    view->addSeparator();
    for (Panel* panel : {m_budget->dock(), m_explore->inspectorDock(), m_history->dock(), m_measure->dock(), m_ranks->spectrumDock(),
                         m_ranks->energyDock()}) {
        panel->toggleViewAction()->setObjectName(QStringLiteral("view.panel.%1").arg(panel->objectName()));
        view->addAction(panel->toggleViewAction());
    }
    m_actions->fill(view, ids({"", "view.nextPanel", "view.previousPanel", "", "view.resetLayout"}));
    m_actions->fill(menuBar()->addMenu(tr("&Plan")),
                    ids({"plan.find", "plan.run", "plan.recover", "plan.stop", "plan.pipeline", "", "plan.name", "plan.dense", "plan.equal",
                         "plan.rank", "", "plan.constants", "plan.constantsWeighted", "plan.dropConstants", "plan.skipLayer", "",
                         "plan.matricesDense", "plan.measureRanks"}));
    m_actions->fill(menuBar()->addMenu(tr("Eva&luate")),
                    ids({"evaluate.full", "evaluate.locked", "evaluate.tasks", "evaluate.try", "evaluate.speed", "evaluate.cancel", "",
                         "evaluate.profile", "evaluate.text", "", "engine.restart"}));
    m_actions->fill(menuBar()->addMenu(tr("&Help")), ids({"help.contents", "help.keyboard", "help.about"}));
}

void MainWindow::makeToolBar()
{
    auto* bar = new QToolBar(tr("Tools"));
    m_toolBar = bar;
    bar->setObjectName(QStringLiteral("toolbar"));
    bar->setMovable(false);
    bar->setFloatable(false);
    bar->setContextMenuPolicy(Qt::PreventContextMenu);
    bar->setIconSize({18, 18});
    addToolBar(bar);
    for (const char* id : {"file.openModel", "file.save", "", "edit.undo", "edit.redo", "", "file.export"}) {
        if (*id == 0)
            bar->addSeparator();
        else
            bar->addAction(action(QString::fromLatin1(id)));
    }
    const auto addGap = [bar](int width) {
        auto* gap = new QWidget;
        if (width > 0)
            gap->setFixedWidth(width);
        else
            gap->setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Preferred);
        bar->addWidget(gap);
    };
    addGap(0);
    bar->addWidget(m_measure->automatic());
    addGap(12);
    bar->addWidget(m_measure->evaluateButton());
    addGap(8);
}

// Tab follows the eye: tool bar, left column, map, what is below it, right column.
void MainWindow::orderTabs()
{
    m_layout->orderTabs({m_banners, m_start, m_toolBar, m_budget->dock(), m_explore->frame()->header(), m_explore->frame(),
                         m_measure->dock(), m_ranks->spectrumDock(), m_ranks->energyDock(), m_explore->inspectorDock(), m_history->dock(),
                         m_status});
}

// ---- wiring

void MainWindow::connectWorkbench()
{
    PlanController* plans = m_workbench->plans();
    connect(plans, &PlanController::planChanged, this, &MainWindow::updateActions);
    connect(plans, &PlanController::historyChanged, this, &MainWindow::updateActions);
    connect(plans, &PlanController::explained, this, [this](const QString& text, bool isError, const std::vector<int>& locks) {
        const bool seen = std::any_of(m_workspaces.begin(), m_workspaces.end(), [](const Workspace* one) { return one->showsRefusals(); });
        m_errors->explain(text, isError, locks, seen);
    });
    connect(m_workbench, &Workbench::opened, this, &MainWindow::modelOpened);
    connect(m_workbench, &Workbench::closed, this, [this] {
        m_banners->dismissOfModel();
        showOpen(false);
    });
}

void MainWindow::connectWorkspaces()
{
    for (const Workspace* workspace : m_workspaces) {
        connect(workspace, &Workspace::viewChanged, this, [this] { m_workbench->setViewState(viewState()); });
        connect(workspace, &Workspace::actionsChanged, this, &MainWindow::updateActions);
    }
}

void MainWindow::modelOpened()
{
    // Taken before anything on screen moves: the selection that the focus brings is the user's view already.
    const Json view = m_workbench->viewState();
    m_banners->dismissOfModel();
    for (Workspace* workspace : m_workspaces)
        workspace->forget();
    showOpen(true);
    if (view.is_object() && !view.empty())
        for (Workspace* workspace : m_workspaces)
            workspace->restoreView(view);
    m_explore->selectSomething();
    for (Workspace* workspace : m_workspaces)
        workspace->show();
    updateActions();
}

void MainWindow::showOpen(bool open)
{
    m_pages->setCurrentIndex(open ? 1 : 0);
    if (open) {
        m_layout->apply();
        m_ranks->setLaidOut();
        // Space, arrows and letters work at once.
        heatmap()->focusTarget()->setFocus(Qt::OtherFocusReason);
    } else {
        m_status->clear();
        setWindowTitle(QStringLiteral("Espalier"));
    }
    updateActions();
}

void MainWindow::updateActions()
{
    for (Workspace* workspace : m_workspaces)
        workspace->updateActions();
}

Json MainWindow::viewState() const
{
    Json view = Json::object();
    for (const Workspace* workspace : m_workspaces)
        workspace->addToView(view);
    return view;
}

void MainWindow::setTheme(const QString& choice)
{
    m_themes->setChoice(themeChoiceFromId(choice));
    m_settings->setValue(QStringLiteral("theme"), choice);
}

// The page about what has the keyboard.
QString MainWindow::helpPage() const
{
    for (const Workspace* workspace : m_workspaces)
        if (QString page = workspace->helpPage(QApplication::focusWidget()); !page.isEmpty()) return page;
    return QStringLiteral("getting-started");
}

void MainWindow::focusPanel(int step)
{
    if (!m_workbench->isOpen()) return;
    Panel* left = m_budget->dock();
    Panel* below = m_measure->dock();
    WindowLayout::moveFocus({{left,
                              [&] {
                                  return left->currentPage() == m_pipeline->panel() ? m_pipeline->firstOfPanel()
                                         : left->currentPage() == m_ranks->panel()  ? m_ranks->firstOfPanel()
                                                                                    : m_budget->firstControl();
                              }},
                             {m_explore->frame(), [&] { return m_explore->firstOfFrame(); }},
                             {below,
                              [&] {
                                  return below->currentPage() == m_pipeline->search() ? m_pipeline->firstOfSearch()
                                         : below->currentPage() == m_tasks->panel()   ? m_tasks->firstControl()
                                         : below->currentPage() == m_try->panel()     ? m_try->firstControl()
                                                                                      : m_measure->firstControl();
                              }},
                             {m_ranks->spectrumDock(), [&] { return m_ranks->firstOfSpectrum(); }},
                             {m_ranks->energyDock(), [&] { return m_ranks->firstOfEnergy(); }},
                             {m_explore->inspectorDock(), [&] { return m_explore->firstOfInspector(); }},
                             {m_history->dock(), [&] { return m_history->firstControl(); }}},
                            step);
}

void MainWindow::resetLayout()
{
    m_ranks->setRankView(false);
    m_layout->reset();
}

// ---- events

void MainWindow::closeEvent(QCloseEvent* event)
{
    if (!m_session->mayClose(m_measure->jobRunning())) {
        event->ignore();
        return;
    }
    if (!m_options.safeMode) {
        m_ranks->setRankView(false);  // the layout that is kept is the first one
        m_layout->store();
    }
    m_workbench->store()->clearRecovery();
    event->accept();
}

void MainWindow::dragEnterEvent(QDragEnterEvent* event)
{
    if (event->mimeData()->hasUrls() && event->mimeData()->urls().first().isLocalFile()) event->acceptProposedAction();
}

void MainWindow::dropEvent(QDropEvent* event) { openPath(event->mimeData()->urls().first().toLocalFile()); }

void MainWindow::resizeEvent(QResizeEvent* event)
{
    QMainWindow::resizeEvent(event);
    for (Workspace* workspace : m_workspaces)
        workspace->setSize(WindowSize::of(*this));
}

void MainWindow::keyPressEvent(QKeyEvent* event)
{
    if (event->key() == Qt::Key_Escape) m_workbench->plans()->cancelGesture();
    QMainWindow::keyPressEvent(event);
}

}  // namespace espalier
