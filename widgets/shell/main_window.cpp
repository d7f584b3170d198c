#include "shell/main_window.h"

#include "budget_bar.h"
#include "controls.h"
#include "format.h"
#include "heatmap_table.h"
#include "heatmap_view.h"
#include "history_panel.h"
#include "icon.h"
#include "inspector_panel.h"
#include "layers_panel.h"
#include "panel.h"
#include "perplexity_panel.h"
#include "shell/export_dialog.h"
#include "shell/help_window.h"
#include "shell/start_page.h"
#include "status_bar.h"

#include <QApplication>
#include <QCloseEvent>
#include <QDateTime>
#include <QDir>
#include <QDragEnterEvent>
#include <QFileDialog>
#include <QFileInfo>
#include <QLabel>
#include <QMenuBar>
#include <QMimeData>
#include <QPlainTextEdit>
#include <QPushButton>
#include <QScreen>
#include <QSettings>
#include <QStackedWidget>
#include <QStyle>
#include <QTemporaryDir>
#include <QTextBrowser>
#include <QToolBar>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

namespace espalier
{

namespace
{
constexpr int kRecent = 8;
constexpr int kCompactWidth = 1400;
constexpr int kJobShownMsec = 700;
constexpr int kJobGoneMsec = 50;

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
    setMinimumSize(1152, 700);
    // Frame included it fits a screen of that size; a screen smaller than the least size gets that.
    QSize size(1600, 1000);
    if (const QScreen* on = QGuiApplication::primaryScreen()) size = size.boundedTo(on->availableSize() - QSize(8, 40));
    resize(size.expandedTo(minimumSize()));
    m_settings = m_options.safeMode ? std::make_unique<QSettings>(scratchSettings(), QSettings::IniFormat) : std::make_unique<QSettings>();

    m_start = new StartPage;
    m_banners = new BannerStack;
    m_docks = new QMainWindow;
    m_docks->setWindowFlags(Qt::Widget);
    m_docks->setDockOptions(QMainWindow::AnimatedDocks | QMainWindow::AllowNestedDocks);
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

    makeActions();
    makePanels();
    m_banners->setFocusReturn(m_heatmap);
    makeMenus();
    makeToolBar();
    connectViews();
    m_start->setRecent(recent());
    showOpen(false);
    showEngine();
    restoreLayout();
    if (const QString theme = settings().value(QStringLiteral("theme")).toString(); !theme.isEmpty())
        m_themes->setChoice(themeChoiceFromId(theme));
    updateActions();
}

MainWindow::~MainWindow()
{
    // The views draw selection and hover, which are members; as children they would outlive them.
    delete takeCentralWidget();
}

ExportDialog* MainWindow::exportDialog() const { return m_export; }

QSettings& MainWindow::settings() const { return *m_settings; }

// ---- actions

QAction* MainWindow::addAction(const QString& id, const QString& text, const QString& iconName, const QList<QKeySequence>& shortcuts,
                               std::function<void()> run)
{
    auto* made = new QAction(text, this);
    made->setObjectName(id);
    if (!iconName.isEmpty()) made->setIcon(icon(iconName));
    made->setShortcuts(shortcuts);
    QString tip = text;
    tip.remove(QLatin1Char('&'));
    tip.remove(QStringLiteral("…"));
    if (!shortcuts.isEmpty()) tip += QStringLiteral(" (%1)").arg(shortcuts.first().toString(QKeySequence::NativeText));
    made->setToolTip(tip);
    connect(made, &QAction::triggered, this, [run = std::move(run)] { run(); });
    QMainWindow::addAction(made);
    m_actions.insert(id, made);
    return made;
}

void MainWindow::makeActions()
{
    const auto key = [](const char* text) { return QList<QKeySequence>{QKeySequence(QString::fromLatin1(text))}; };
    addAction(QStringLiteral("file.openModel"), tr("&Open model…"), QStringLiteral("box"), key("Ctrl+O"), [this] { askModel(); });
    addAction(QStringLiteral("file.openSession"), tr("Open &session…"), QStringLiteral("folder-open"), key("Ctrl+Shift+O"),
              [this] { askSession(); });
    addAction(QStringLiteral("file.demo"), tr("Try the &demo"), QStringLiteral("sprout"), {},
              [this] { replaceSession([this] { m_workbench->openDemo(); }); });
    addAction(QStringLiteral("file.save"), tr("&Save session"), QStringLiteral("save"), key("Ctrl+S"), [this] { save(false); });
    addAction(QStringLiteral("file.saveAs"), tr("Save session &as…"), {}, key("Ctrl+Shift+S"), [this] { save(true); });
    addAction(QStringLiteral("file.export"), tr("&Export model…"), QStringLiteral("upload"), key("Ctrl+E"), [this] {
        if (!m_export) {
            m_export = new ExportDialog(m_workbench, this);
            m_export->setAttribute(Qt::WA_DeleteOnClose);
        }
        m_export->show();
        m_export->raise();
    });
    addAction(QStringLiteral("file.close"), tr("&Close model"), {}, key("Ctrl+W"), [this] {
        if (m_workbench->modified()) {
            Banner banner;
            banner.id = QStringLiteral("close-model");
            banner.cause = tr("The session has changes that are not saved.");
            banner.actions = {{tr("Save…"), [this] { save(false); }, true},
                              {tr("Discard and close"), [this] { m_workbench->closeModel(); }}};
            m_banners->show(banner);
        } else {
            m_workbench->closeModel();
        }
    });
    addAction(QStringLiteral("file.quit"), tr("&Quit"), {}, key("Ctrl+Q"), [this] { close(); });
    addAction(QStringLiteral("edit.undo"), tr("&Undo"), QStringLiteral("undo-2"), key("Ctrl+Z"), [this] { m_workbench->plans()->undo(); });
    addAction(QStringLiteral("edit.redo"), tr("&Redo"), QStringLiteral("redo-2"),
              {QKeySequence(QStringLiteral("Ctrl+Shift+Z")), QKeySequence(QStringLiteral("Ctrl+Y"))},
              [this] { m_workbench->plans()->redo(); });
    addAction(QStringLiteral("plan.dense"), tr("Keep &all experts"), {}, {}, [this] {
        m_workbench->plans()->replacePlan(
            CompressionPlan::identity(m_workbench->plans()->shape()).withModel(m_workbench->plans()->plan().model()),
            tr("Keep all experts"));
    });
    addAction(QStringLiteral("plan.equal"), tr("&Equalise counts for a stock export"), {}, {}, [this] {
        AllocationIntent intent = m_layers->budget()->intent();
        intent.keepTotal = m_workbench->plans()->plan().keptExperts();
        intent.method = "uniform";
        intent.params.clear();
        intent.equalCounts = true;
        m_workbench->plans()->allocateTo(intent);
    });
    addAction(QStringLiteral("evaluate.full"), tr("&Evaluate all windows"), QStringLiteral("play"),
              {QKeySequence(QStringLiteral("Ctrl+Return")), QKeySequence(QStringLiteral("Ctrl+Enter"))},
              [this] { m_workbench->evaluation()->evaluateFull(); });
    addAction(QStringLiteral("evaluate.cancel"), tr("&Cancel the running job"), QStringLiteral("square"), key("Ctrl+."),
              [this] { m_workbench->cancelJob(); });
    addAction(QStringLiteral("evaluate.profile"), tr("Measure the &profile"), {}, {}, [this] { m_workbench->profile(); });
    addAction(QStringLiteral("evaluate.text"), tr("Calibration &text…"), {}, {}, [this] { askText(); });
    addAction(QStringLiteral("engine.restart"), tr("&Restart the engine"), QStringLiteral("cpu"), {},
              [this] { m_workbench->engine()->start(); });
    addAction(QStringLiteral("view.resetLayout"), tr("&Reset layout"), {}, {}, [this] { resetLayout(); });
    addAction(QStringLiteral("view.table"), tr("Heatmap as &table"), QStringLiteral("table-2"), {}, [this] {
        const bool table = m_actions[QStringLiteral("view.table")]->isChecked();
        m_heatmapFrame->setCurrentPage(table ? 1 : 0);
        m_heatmapTable->refresh();
    })->setCheckable(true);
    for (const auto& [id, text] :
         {std::pair(QStringLiteral("view.theme.system"), tr("&System")), std::pair(QStringLiteral("view.theme.light"), tr("&Light")),
          std::pair(QStringLiteral("view.theme.dark"), tr("&Dark"))}) {
        const QString choice = id.section(QLatin1Char('.'), 2);
        addAction(id, text, {}, {}, [this, choice] {
            m_themes->setChoice(themeChoiceFromId(choice));
            settings().setValue(QStringLiteral("theme"), choice);
        });
    }
    addAction(QStringLiteral("help.contents"), tr("&Help"), {}, key("F1"), [this] {
        if (!m_help) {
            m_help = new HelpWindow(m_options.helpFolder, this);
            m_help->setAttribute(Qt::WA_DeleteOnClose);
        }
        m_help->show();
        m_help->raise();
    });
    addAction(QStringLiteral("help.keyboard"), tr("&Keyboard shortcuts"), QStringLiteral("keyboard"), key("Shift+F1"), [this] {
        m_actions[QStringLiteral("help.contents")]->trigger();
        m_help->showPage(QStringLiteral("keyboard"));
    });
    addAction(QStringLiteral("help.about"), tr("&About Espalier"), {}, {}, [this] {
        Banner banner;
        banner.id = QStringLiteral("about");
        banner.kind = Banner::Kind::Info;
        banner.cause = tr("Espalier %1.").arg(QStringLiteral(ESPALIER_VERSION));
        banner.consequence = tr("Choose what a Mixture-of-Experts model keeps, and watch its perplexity while you do. GPL-3.0-or-later.");
        m_banners->show(banner);
    });
}

void MainWindow::makeMenus()
{
    const auto fill = [this](QMenu* menu, const QStringList& ids) {
        for (const QString& id : ids) {
            if (id.isEmpty())
                menu->addSeparator();
            else
                menu->addAction(m_actions.value(id));
        }
    };
    fill(menuBar()->addMenu(tr("&File")), {QStringLiteral("file.openModel"),
                                           QStringLiteral("file.openSession"),
                                           QStringLiteral("file.demo"),
                                           {},
                                           QStringLiteral("file.save"),
                                           QStringLiteral("file.saveAs"),
                                           {},
                                           QStringLiteral("file.export"),
                                           {},
                                           QStringLiteral("file.close"),
                                           QStringLiteral("file.quit")});
    fill(menuBar()->addMenu(tr("&Edit")), {QStringLiteral("edit.undo"), QStringLiteral("edit.redo")});
    QMenu* view = menuBar()->addMenu(tr("&View"));
    fill(view, {QStringLiteral("view.table"), {}});
    QMenu* themes = view->addMenu(tr("&Theme"));
    fill(themes, {QStringLiteral("view.theme.system"), QStringLiteral("view.theme.light"), QStringLiteral("view.theme.dark")});
    view->addSeparator();
    for (Panel* panel : {m_layersDock, m_inspectorDock, m_historyDock, m_perplexityDock}) {
        panel->toggleViewAction()->setObjectName(QStringLiteral("view.panel.%1").arg(panel->objectName()));
        view->addAction(panel->toggleViewAction());
    }
    fill(view, {QStringLiteral("view.resetLayout")});
    fill(menuBar()->addMenu(tr("&Plan")), {QStringLiteral("plan.dense"), QStringLiteral("plan.equal")});
    fill(menuBar()->addMenu(tr("E&valuate")), {QStringLiteral("evaluate.full"),
                                               QStringLiteral("evaluate.cancel"),
                                               {},
                                               QStringLiteral("evaluate.profile"),
                                               QStringLiteral("evaluate.text"),
                                               {},
                                               QStringLiteral("engine.restart")});
    fill(menuBar()->addMenu(tr("&Help")), {QStringLiteral("help.contents"), QStringLiteral("help.keyboard"), QStringLiteral("help.about")});
}

void MainWindow::makeToolBar()
{
    auto* bar = new QToolBar(tr("Tools"));
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
            bar->addAction(m_actions.value(QString::fromLatin1(id)));
    }
    auto* stretch = new QWidget;
    stretch->setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Preferred);
    bar->addWidget(stretch);
    m_auto = new Switch(tr("Auto"));
    m_auto->setCheckable(true);
    m_auto->setChecked(true);
    m_auto->setTextLeft(true);
    m_auto->setAccessibleName(tr("evaluate automatically"));
    m_auto->setToolTip(tr("Evaluate the quick windows half a second after each edit"));
    connect(m_auto, &QAbstractButton::toggled, m_workbench->evaluation(), &EvaluationController::setAutomatic);
    bar->addWidget(m_auto);
    auto* gap = new QWidget;
    gap->setFixedWidth(12);
    bar->addWidget(gap);
    m_evaluate = new QPushButton;
    m_evaluate->setObjectName(QStringLiteral("evaluate"));
    m_evaluate->setProperty("filled", true);
    connect(m_evaluate, &QPushButton::clicked, this,
            [this] { m_actions[m_jobVisible ? QStringLiteral("evaluate.cancel") : QStringLiteral("evaluate.full")]->trigger(); });
    bar->addWidget(m_evaluate);
    auto* end = new QWidget;
    end->setFixedWidth(8);
    bar->addWidget(end);
}

// ---- panels

void MainWindow::makePanels()
{
    m_heatmap = new HeatmapView(&m_selection, &m_hover);
    m_heatmapTable = new HeatmapTable(m_heatmap, &m_selection);
    m_heatmapFrame = new PanelFrame;
    m_heatmapFrame->addPage(tr("Importance"), m_heatmap, m_heatmap->choosers());
    m_heatmapFrame->addPage(tr("Table"), m_heatmapTable);
    m_docks->setCentralWidget(m_heatmapFrame);

    m_layers = new LayersPanel(&m_selection, &m_hover);
    m_layersDock = new Panel(QStringLiteral("layers"), tr("Kept per layer"));
    m_layersDock->addPage(tr("Kept per layer"), m_layers);
    m_inspector = new InspectorPanel(&m_selection);
    m_inspectorDock = new Panel(QStringLiteral("inspector"), tr("Inspector"));
    m_inspectorDock->addPage(tr("Inspector"), m_inspector);
    m_history = new HistoryPanel;
    m_historyDock = new Panel(QStringLiteral("history"), tr("History"));
    m_historyDock->addPage(tr("History"), m_history);
    m_perplexity = new PerplexityPanel;
    m_perplexityDock = new Panel(QStringLiteral("perplexity"), tr("Perplexity"));
    m_perplexityDock->addPage(tr("Perplexity"), m_perplexity);
    m_perplexityDock->header()->addTrailing(m_perplexity->choosers());

    m_docks->setCorner(Qt::BottomLeftCorner, Qt::LeftDockWidgetArea);
    m_docks->setCorner(Qt::BottomRightCorner, Qt::RightDockWidgetArea);
    m_docks->addDockWidget(Qt::LeftDockWidgetArea, m_layersDock);
    m_docks->addDockWidget(Qt::RightDockWidgetArea, m_inspectorDock);
    m_docks->splitDockWidget(m_inspectorDock, m_historyDock, Qt::Vertical);
    m_docks->addDockWidget(Qt::BottomDockWidgetArea, m_perplexityDock);
    m_defaultLayout = m_docks->saveState();
}

void MainWindow::restoreLayout()
{
    if (m_options.safeMode) return;
    if (m_options.resetLayout) {
        settings().remove(QStringLiteral("layout"));
        settings().remove(QStringLiteral("geometry"));
        return;
    }
    // A layout that cannot be read leaves the compiled-in one.
    const QByteArray geometry = settings().value(QStringLiteral("geometry")).toByteArray();
    if (!geometry.isEmpty()) restoreGeometry(geometry);
    m_storedLayout = settings().value(QStringLiteral("layout")).toByteArray();
}

void MainWindow::resetLayout()
{
    m_docks->restoreState(m_defaultLayout);
    m_docks->resizeDocks({m_layersDock, m_inspectorDock}, {316, 312}, Qt::Horizontal);
    m_docks->resizeDocks({m_perplexityDock}, {292}, Qt::Vertical);
    m_docks->resizeDocks({m_inspectorDock, m_historyDock}, {460, 420}, Qt::Vertical);
}

// Sizes asked for before the panels are on screen are shares of a small default size, so this waits for the first model.
void MainWindow::applyLayout()
{
    if (std::exchange(m_layoutApplied, true)) return;
    m_pages->layout()->activate();
    if (m_storedLayout.isEmpty() || !m_docks->restoreState(m_storedLayout)) resetLayout();
}

void MainWindow::connectViews()
{
    PlanController* plans = m_workbench->plans();
    const auto gestures = [plans](auto* view) {
        using View = std::remove_pointer_t<decltype(view)>;
        connect(view, &View::gestureStarted, plans, &PlanController::beginGesture);
        connect(view, &View::gestureFinished, plans, &PlanController::finishGesture);
        if constexpr (requires { &View::gestureCancelled; }) connect(view, &View::gestureCancelled, plans, &PlanController::cancelGesture);
    };
    gestures(m_heatmap);
    gestures(m_layers);
    gestures(m_inspector);
    gestures(m_layers->budget());
    connect(m_heatmap, &HeatmapView::toggleRequested, plans, &PlanController::toggleExpert);
    connect(m_heatmap, &HeatmapView::protectRequested, plans, &PlanController::toggleProtected);
    connect(m_heatmap, &HeatmapView::lockRequested, plans, &PlanController::toggleLocked);
    connect(m_heatmap, &HeatmapView::keepStepRequested, plans, &PlanController::stepKeep);
    connect(m_heatmap, &HeatmapView::setKeptRequested, plans, &PlanController::setKept);
    connect(m_heatmap, &HeatmapView::profileRequested, m_workbench, &Workbench::profile);
    connect(m_heatmap, &HeatmapView::optionsChanged, this, [this](const HeatmapOptions& options) {
        if (options.score.toStdString() != m_workbench->chosenScore()) m_workbench->chooseScore(options.score.toStdString());
        m_workbench->setViewState(viewState());
    });
    connect(m_layers, &LayersPanel::layerKeepMoved, plans, &PlanController::setKeep);
    connect(m_layers, &LayersPanel::lockRequested, plans, &PlanController::toggleLocked);
    connect(m_layers->budget(), &BudgetBar::allocationRequested, plans, &PlanController::allocateTo);
    connect(m_layers->curve(), &KeptCurve::resetRequested, this,
            [plans](int layer) { plans->setKeep(layer, plans->shape().layers[static_cast<std::size_t>(layer)].experts); });
    connect(m_inspector, &InspectorPanel::keepRequested, this, [plans](int layer, int expert, bool keep) {
        plans->setKept({CellId{layer, expert}}, keep);
    });
    connect(m_inspector, &InspectorPanel::protectRequested, this, [plans](int layer, int expert, bool on) {
        const ExpertSet& set = plans->plan().layer(layer).protectedExperts;
        if (std::binary_search(set.begin(), set.end(), expert) != on) plans->toggleProtected(layer, expert);
    });
    connect(m_inspector, &InspectorPanel::lockRequested, plans, &PlanController::toggleLocked);
    connect(m_inspector, &InspectorPanel::layerKeepMoved, plans, &PlanController::setKeep);
    connect(m_history, &HistoryPanel::jumpRequested, plans, &PlanController::jumpTo);
    connect(m_perplexity, &PerplexityPanel::evaluateRequested, m_actions.value(QStringLiteral("evaluate.full")), &QAction::trigger);
    connect(m_status, &StatusBar::cancelRequested, m_workbench, &Workbench::cancelJob);
    connect(m_status, &StatusBar::perplexityClicked, m_actions.value(QStringLiteral("evaluate.full")), &QAction::trigger);

    connect(plans, &PlanController::planChanged, this, &MainWindow::showPlan);
    connect(plans, &PlanController::historyChanged, this, &MainWindow::showHistory);
    connect(plans, &PlanController::explained, this,
            [this](const QString& text, bool isError) { m_layers->budget()->setMessage(text, isError); });
    connect(m_workbench->evaluation(), &EvaluationController::changed, this, &MainWindow::showPerplexity);
    connect(m_workbench, &Workbench::scoresChanged, this, &MainWindow::showScores);
    connect(m_workbench, &Workbench::profileChanged, this, &MainWindow::showScores);
    connect(m_workbench, &Workbench::sessionChanged, this, &MainWindow::showSession);
    connect(plans, &PlanController::shapeChanged, this, [this, plans] {
        m_heatmap->setShape(plans->shape());
        m_layers->setShape(plans->shape());
        m_inspector->setShape(plans->shape());
    });
    connect(m_workbench, &Workbench::opened, this, [this] {
        // Taken before anything on screen moves: the selection that the focus brings is the user's view already.
        const Json view = m_workbench->viewState();
        showOpen(true);
        const ModelShape& shape = m_workbench->plans()->shape();
        m_heatmap->clearScores();
        m_layers->budget()->setMethods(m_workbench->methods(Slot::Allocate));
        restoreViewState(view);
        if (!m_selection.current().valid())
            for (const LayerShape& layer : shape.layers)
                if (layer.moe) {
                    m_selection.setCurrent({layer.index, 0});
                    break;
                }
        showPlan();
        showHistory();
        showScores();
        showPerplexity();
    });
    connect(m_workbench, &Workbench::closed, this, [this] {
        m_selection.setCurrent({});
        showOpen(false);
    });
    connect(m_workbench, &Workbench::notice, this, &MainWindow::notice);
    connect(m_workbench, &Workbench::recentChanged, this, &MainWindow::rememberRecent);
    connect(m_workbench, &Workbench::saved, this, [this] {
        if (!std::exchange(m_closing, false)) return;
        m_leaving = true;
        close();
    });
    connect(m_workbench, &Workbench::jobChanged, this, [this](const std::optional<JobState>& job) {
        m_jobRunning = job.has_value();
        // Of a lost engine the jobs end before the loss is told.
        if (job)
            m_lastJob = job->what;
        else if (m_workbench->engine()->state() != EngineState::Lost)
            m_lastJob.clear();
        showJob(job);
        updateActions();
    });
    m_jobShown.setSingleShot(true);
    m_jobShown.setInterval(kJobShownMsec);
    m_jobGone.setSingleShot(true);
    m_jobGone.setInterval(kJobGoneMsec);
    const auto settle = [this] {
        m_jobVisible = m_job.has_value();
        m_status->setJob(m_job);
        updateActions();
    };
    connect(&m_jobShown, &QTimer::timeout, this, settle);
    connect(&m_jobGone, &QTimer::timeout, this, settle);
    connect(m_workbench->engine(), &EngineClient::stateChanged, this, &MainWindow::showEngine);
    connect(m_workbench->engine(), &EngineClient::lost, this, &MainWindow::engineLost);
    connect(m_workbench->engine(), &EngineClient::ready, this, [this] {
        m_banners->dismiss(QStringLiteral("engine-lost"));
        if (m_workbench->isOpen()) showScores();
    });
    connect(m_start, &StartPage::openModelRequested, m_actions.value(QStringLiteral("file.openModel")), &QAction::trigger);
    connect(m_start, &StartPage::openSessionRequested, m_actions.value(QStringLiteral("file.openSession")), &QAction::trigger);
    connect(m_start, &StartPage::demoRequested, m_actions.value(QStringLiteral("file.demo")), &QAction::trigger);
    connect(m_start, &StartPage::engineRestartRequested, m_actions.value(QStringLiteral("engine.restart")), &QAction::trigger);
    connect(m_start, &StartPage::recentRequested, this, &MainWindow::openPath);
    connect(&m_selection, &SelectionModel::currentChanged, this, [this] { m_workbench->setViewState(viewState()); });
}

// ---- showing

void MainWindow::showOpen(bool open)
{
    m_pages->setCurrentIndex(open ? 1 : 0);
    if (open) {
        applyLayout();
        // Space, arrows and letters work at once.
        m_heatmap->setFocus(Qt::OtherFocusReason);
    }
    if (!open) {
        m_status->clear();
        setWindowTitle(QStringLiteral("Espalier"));
    }
    updateActions();
}

// What takes less than a moment shows nothing: no bar, no other button.
void MainWindow::showJob(const std::optional<JobState>& job)
{
    m_job = job;
    if (!job) {
        // The next one may follow at once: a full evaluation is one of the dense model, then one of the plan.
        m_jobShown.stop();
        if (m_jobVisible) m_jobGone.start();
        return;
    }
    m_jobGone.stop();
    if (m_jobVisible)
        m_status->setJob(job);
    else if (!m_jobShown.isActive())
        m_jobShown.start();
}

void MainWindow::showPlan()
{
    if (!m_workbench->isOpen()) return;
    PlanController* plans = m_workbench->plans();
    const CompressionPlan& plan = plans->plan();
    m_heatmap->setPlan(plan);
    m_layers->setReference(plans->inGesture() ? std::optional(plans->committed()) : std::nullopt);
    m_layers->setPlan(plan);
    m_inspector->setPlan(plan);
    m_status->setCost(m_workbench->cost(), m_workbench->denseCost());
    m_status->setPlan(m_workbench->planName(),
                      m_workbench->plans()->history().entries().size() > 1 && m_workbench->sessionFile().isEmpty());
    updateActions();
}

void MainWindow::showHistory()
{
    if (!m_workbench->isOpen()) return;
    m_history->setHistory(m_workbench->plans()->history(), m_workbench->evaluation()->planLosses());
    updateActions();
}

void MainWindow::showScores()
{
    if (!m_workbench->isOpen()) return;
    QStringList ids, titles;
    for (const MethodInfo& method : m_workbench->methods(Slot::Score)) {
        ids << QString::fromStdString(method.id);
        titles << QString::fromStdString(method.id);
    }
    for (const auto& [id, scores] : m_workbench->scores())
        if (!ids.contains(QString::fromStdString(id))) {
            ids << QString::fromStdString(id);
            titles << QString::fromStdString(id);
        }
    // Only what the profile brought with it is offered: nothing else has values here.
    if (!m_workbench->scores().empty())
        for (int i = static_cast<int>(ids.size()) - 1; i >= 0; --i)
            if (!m_workbench->scores().contains(ids[i].toStdString())) {
                ids.removeAt(i);
                titles.removeAt(i);
            }
    m_heatmap->setScoreChoices(ids, titles);
    HeatmapOptions options = m_heatmap->options();
    options.score = QString::fromStdString(m_workbench->chosenScore());
    m_heatmap->setOptions(options);
    if (const ExpertScores* scores = m_workbench->currentScores()) {
        m_heatmap->setScores(*scores);
        m_layers->setScores(*scores);
        m_inspector->setScores(*scores);
        const ExpertGrid usage = m_workbench->usage();
        m_heatmap->setUsage(usage);
        m_inspector->setUsage(usage);
    } else {
        m_heatmap->clearScores();
        m_layers->setScores({});
        m_inspector->setScores({});
        m_inspector->setUsage({});
        const bool usable = m_workbench->engine()->usable();
        m_heatmap->setEmptyText(m_workbench->profiling() ? tr("Measuring the profile") : tr("No scores yet"),
                                m_workbench->profiling() ? tr("Rows fill as layers arrive.")
                                : usable                 ? tr("One pass over the calibration text measures every expert.")
                                                         : tr("The engine is not running."),
                                m_workbench->profiling() ? QString() : tr("Profile"), usable);
    }
    const bool importance = m_workbench->scores().contains("leave-one-out") && !m_workbench->profiling();
    for (const char* id : {"importance", "inverse"})
        m_layers->budget()->setMethodAvailable(QString::fromLatin1(id),
                                               importance ? QString() : tr("needs the leave-one-out scores of a profile"));
    m_heatmapTable->refresh();
}

void MainWindow::showPerplexity()
{
    if (!m_workbench->isOpen()) return;
    const PerplexityState state = m_workbench->evaluation()->state();
    m_perplexity->setState(state);
    m_status->setPerplexity(headline(state));
    m_history->setHistory(m_workbench->plans()->history(), m_workbench->evaluation()->planLosses());
}

void MainWindow::showSession()
{
    const bool open = m_workbench->isOpen();
    if (open) {
        const QString name =
            m_workbench->sessionFile().isEmpty() ? m_workbench->modelName() : QFileInfo(m_workbench->sessionFile()).fileName();
        setWindowTitle(QStringLiteral("%1[*] · Espalier").arg(name));
        const bool modified = m_workbench->modified();
        setWindowModified(modified);
        m_status->setPlan(m_workbench->planName(), modified);
    } else {
        setWindowModified(false);
    }
    updateActions();
}

void MainWindow::showEngine()
{
    EngineClient* engine = m_workbench->engine();
    QString text = tr("This computer · %1").arg(engine->stateText().isEmpty() ? tr("not started") : engine->stateText());
    m_status->setEngine(engine->state(), text);
    if (engine->state() == EngineState::NotResponding) {
        Banner banner;
        banner.id = QStringLiteral("engine-silent");
        banner.kind = Banner::Kind::Warning;
        banner.cause = tr("The engine does not respond.");
        banner.consequence = tr("Your plan and history are kept.");
        banner.actions = {{tr("Restart"), [this] { m_workbench->engine()->start(); }, true}, {tr("Wait"), [] {}}};
        m_banners->show(banner);
    } else {
        m_banners->dismiss(QStringLiteral("engine-silent"));
    }
    if (engine->state() == EngineState::Incompatible) {
        Banner banner;
        banner.id = QStringLiteral("engine-incompatible");
        banner.kind = Banner::Kind::Error;
        banner.iconName = QStringLiteral("unplug");
        banner.cause = tr("The engine does not fit this window: %1.").arg(engine->stateText());
        banner.consequence = tr("Sessions can be opened and edited; nothing can be measured.");
        banner.actions = {{tr("Details"), [this, cause = engine->stateText()] { showEngineDetails(cause); }, false, false}};
        m_banners->show(banner);
    } else {
        m_banners->dismiss(QStringLiteral("engine-incompatible"));
    }
    if (engine->usable()) {
        const Json& info = engine->serverInfo();
        text = tr("Ready · %1, %n thread(s)", nullptr, info.value("threads", 1))
                   .arg(QString::fromStdString(info.value("device", std::string("cpu"))).toUpper());
    }
    m_start->setEngine(engine->state(), text);
    updateActions();
}

void MainWindow::updateActions()
{
    const bool open = m_workbench->isOpen();
    const bool engine = m_workbench->engine()->usable();
    const auto enable = [this](const char* id, bool on) {
        if (QAction* a = m_actions.value(QString::fromLatin1(id))) a->setEnabled(on);
    };
    enable("file.save", open);
    enable("file.saveAs", open);
    enable("file.export", open && engine);
    enable("file.close", open);
    enable("edit.undo", open && m_workbench->plans()->canUndo());
    enable("edit.redo", open && m_workbench->plans()->canRedo());
    enable("plan.dense", open);
    enable("plan.equal", open);
    enable("evaluate.full", open && engine);
    enable("evaluate.cancel", m_jobRunning);
    enable("evaluate.profile", open && engine && !m_workbench->profiling());
    enable("evaluate.text", open);
    enable("view.table", open);
    if (!m_evaluate) return;
    m_evaluate->setEnabled(m_jobVisible || (open && engine));
    m_evaluate->setText(m_jobVisible ? tr("Cancel") : tr("Evaluate"));
    m_evaluate->setIcon(icon(m_jobVisible ? QStringLiteral("square") : QStringLiteral("play"),
                             m_jobVisible ? QStringLiteral("text") : QStringLiteral("on-accent")));
    if (m_evaluate->property("filled").toBool() == m_jobVisible) {
        m_evaluate->setProperty("filled", !m_jobVisible);
        // Makes the style look at the property again.
        m_evaluate->style()->unpolish(m_evaluate);
        m_evaluate->style()->polish(m_evaluate);
    }
    m_perplexity->setEvaluateEnabled(open && engine, engine ? QString() : tr("The engine is not running."));
}

void MainWindow::updateCompact()
{
    const bool compact = width() < kCompactWidth;
    m_heatmap->setCompact(compact);
    m_layers->setCompact(compact);
    m_perplexity->setCompact(compact);
    m_status->setCompact(compact);
}

// ---- notices

void MainWindow::notice(const Error& error, const QString& id)
{
    if (id == QStringLiteral("save")) m_closing = false;
    Banner banner;
    banner.id = id;
    // The profile and the evaluation fail for one reason.
    banner.once = id.startsWith(QStringLiteral("problem:"));
    banner.kind = error.code == "checkpoint.warning" ? Banner::Kind::Warning : Banner::Kind::Error;
    banner.cause = QString::fromStdString(error.message);
    banner.consequence = QString::fromStdString(error.kept + (error.kept.empty() || error.action.empty() ? "" : " ") + error.action);
    m_banners->show(banner);
}

void MainWindow::engineLost(const QString& cause, const QString& lastLine)
{
    ++m_engineLosses;
    const QString during = std::exchange(m_lastJob, QString());
    Banner banner;
    banner.id = QStringLiteral("engine-lost");
    banner.kind = Banner::Kind::Error;
    banner.iconName = QStringLiteral("unplug");
    banner.cause =
        during.isEmpty() ? tr("The engine stopped (%1).").arg(cause) : tr("The engine stopped (%1) during \"%2\".").arg(cause, during);
    const int runs = static_cast<int>(m_workbench->evaluation()->runs().size());
    banner.consequence = m_workbench->isOpen() ? tr("Your plan, history and %n run(s) are kept.", nullptr, runs) : QString();
    if (!lastLine.isEmpty() && m_engineLosses > 1)
        banner.consequence += QStringLiteral(" ") + tr("It last said: %1").arg(lastLine.left(160));
    banner.actions = {{tr("Restart"), [this] { m_workbench->engine()->start(); }, true},
                      {tr("Details"), [this, cause] { showEngineDetails(cause); }, false, false}};
    m_banners->show(banner);
    showPerplexity();
}

void MainWindow::showEngineDetails(const QString& cause)
{
    auto* dialog = new QDialog(this);
    dialog->setAttribute(Qt::WA_DeleteOnClose);
    dialog->setModal(false);
    dialog->setWindowTitle(tr("Engine details"));
    dialog->resize(760, 420);
    auto* text = new QPlainTextEdit;
    text->setReadOnly(true);
    text->setAccessibleName(tr("engine details"));
    text->setPlainText(tr("Command: %1\nEnd: %2\n\nLast lines of its log:\n%3")
                           .arg(m_workbench->engine()->command().join(QLatin1Char(' ')), cause,
                                m_workbench->engine()->lastLogLines().join(QLatin1Char('\n'))));
    auto* layout = new QVBoxLayout(dialog);
    layout->addWidget(text);
    dialog->show();
}

void MainWindow::offerRecovery()
{
    if (m_options.safeMode) return;
    m_workbench->store()->findLeftovers([this](const std::vector<RecoveryEntry>& entries) {
        if (entries.empty()) return;
        const RecoveryEntry entry = entries.front();
        Banner banner;
        banner.id = QStringLiteral("recovery");
        const QString name = entry.info.session.empty()
                                 ? tr("A session that was never saved")
                                 : tr("Session %1").arg(QString::fromStdString(entry.info.session.filename().string()));
        banner.cause = tr("%1 was not closed cleanly.").arg(name);
        banner.consequence = (entry.info.edits > 0 ? tr("%n edit(s) up to %1 can be brought back.", nullptr, entry.info.edits)
                                                   : tr("What was measured up to %1 can be brought back."))
                                 .arg(format::time(QDateTime::fromSecsSinceEpoch(entry.info.writtenAt), QDateTime::currentDateTime()));
        banner.actions.push_back({tr("Recover"),
                                  [this, entry] {
                                      m_workbench->store()->take(entry, [this](Result<RecoveredSession> recovered) {
                                          if (!recovered.ok()) {
                                              notice(recovered.error(), QStringLiteral("recovery"));
                                              return;
                                          }
                                          const QString file = QString::fromStdString(recovered->entry.info.session.string());
                                          const RecoveryEntry used = recovered->entry;
                                          m_workbench->adoptSession(std::move(recovered->data), file, true);
                                          m_workbench->store()->discard(used);
                                      });
                                  },
                                  true});
        if (!entry.info.session.empty())
            banner.actions.push_back(
                {tr("Open saved"), [this, entry] { m_workbench->openSession(QString::fromStdString(entry.info.session.string())); }});
        banner.actions.push_back({tr("Discard"), [this, entry] { m_workbench->store()->discard(entry); }});
        m_banners->show(banner);
    });
}

// ---- opening, saving, closing

void MainWindow::openPath(const QString& path)
{
    replaceSession([this, path] {
        if (path.endsWith(QLatin1String(".espalier")))
            m_workbench->openSession(path);
        else
            m_workbench->openModel(QFileInfo(path).isDir() ? path : QFileInfo(path).path());
    });
}

void MainWindow::replaceSession(std::function<void()> next)
{
    if (!m_workbench->isOpen() || m_workbench->plans()->history().entries().size() < 2 || !m_workbench->modified()) {
        next();
        return;
    }
    Banner banner;
    banner.id = QStringLiteral("replace");
    banner.cause = tr("The session has changes that are not saved.");
    banner.consequence = tr("Opening something else ends its plan and history.");
    banner.actions = {{tr("Save…"), [this] { save(false); }, true}, {tr("Discard and open"), std::move(next)}, {tr("Keep working"), [] {}}};
    m_banners->show(banner);
}

// Not modal. Begins where the user was last for this kind of file.
QFileDialog* MainWindow::fileDialog(const QString& title, const QString& filter, const QString& key)
{
    const QString setting = QStringLiteral("folder/") + key;
    auto* dialog = new QFileDialog(this, title, settings().value(setting, QDir::homePath()).toString(), filter);
    dialog->setAttribute(Qt::WA_DeleteOnClose);
    dialog->setModal(false);
    connect(dialog, &QFileDialog::fileSelected, this,
            [this, setting](const QString& file) { settings().setValue(setting, QFileInfo(file).path()); });
    return dialog;
}

void MainWindow::askModel()
{
    QFileDialog* dialog = fileDialog(tr("Open model"), {}, QStringLiteral("model"));
    dialog->setFileMode(QFileDialog::Directory);
    connect(dialog, &QFileDialog::fileSelected, this,
            [this](const QString& folder) { replaceSession([this, folder] { m_workbench->openModel(folder); }); });
    dialog->show();
}

void MainWindow::askSession()
{
    QFileDialog* dialog = fileDialog(tr("Open session"), tr("Espalier sessions (*.espalier)"), QStringLiteral("session"));
    dialog->setFileMode(QFileDialog::ExistingFile);
    connect(dialog, &QFileDialog::fileSelected, this,
            [this](const QString& file) { replaceSession([this, file] { m_workbench->openSession(file); }); });
    dialog->show();
}

void MainWindow::askText()
{
    QFileDialog* dialog = fileDialog(tr("Calibration text"), tr("Text (*.txt *.md);;All files (*)"), QStringLiteral("text"));
    dialog->setDirectory(QFileInfo(m_workbench->calibrationText()).path());
    dialog->setFileMode(QFileDialog::ExistingFile);
    connect(dialog, &QFileDialog::fileSelected, m_workbench, &Workbench::setCalibrationText);
    dialog->show();
}

void MainWindow::save(bool as)
{
    if (!m_workbench->isOpen()) return;
    m_workbench->setViewState(viewState());
    if (!as && !m_workbench->sessionFile().isEmpty()) {
        m_workbench->saveSession(m_workbench->sessionFile());
        return;
    }
    QFileDialog* dialog = fileDialog(tr("Save session"), tr("Espalier sessions (*.espalier)"), QStringLiteral("session"));
    dialog->setAcceptMode(QFileDialog::AcceptSave);
    dialog->setDefaultSuffix(QStringLiteral("espalier"));
    dialog->selectFile(m_workbench->modelName() + QStringLiteral(".espalier"));
    connect(dialog, &QFileDialog::fileSelected, m_workbench, &Workbench::saveSession);
    connect(dialog, &QFileDialog::rejected, this, [this] { m_closing = false; });
    dialog->show();
}

void MainWindow::closeEvent(QCloseEvent* event)
{
    // Closing asks in a banner, once; a second close goes through.
    const bool unsaved = m_workbench->isOpen() && m_workbench->plans()->history().entries().size() > 1 && m_workbench->modified();
    if (unsaved && !m_leaving && m_banners->repeats(QStringLiteral("close")) == 0 && !m_options.safeMode) {
        Banner banner;
        banner.id = QStringLiteral("close");
        banner.cause = tr("The session has changes that are not saved.");
        banner.consequence = m_jobRunning ? tr("A job is running.") : QString();
        banner.actions = {{tr("Save and quit"),
                           [this] {
                               m_closing = true;
                               save(false);
                           },
                           true},
                          {tr("Discard and quit"),
                           [this] {
                               m_leaving = true;
                               close();
                           }},
                          {tr("Keep working"), [this] { m_closing = false; }}};
        m_banners->show(banner);
        event->ignore();
        return;
    }
    finishClose();
    event->accept();
}

void MainWindow::finishClose()
{
    if (!m_options.safeMode) {
        if (m_layoutApplied) settings().setValue(QStringLiteral("layout"), m_docks->saveState());
        settings().setValue(QStringLiteral("geometry"), saveGeometry());
    }
    m_workbench->store()->clearRecovery();
}

void MainWindow::dragEnterEvent(QDragEnterEvent* event)
{
    if (event->mimeData()->hasUrls() && event->mimeData()->urls().first().isLocalFile()) event->acceptProposedAction();
}

void MainWindow::dropEvent(QDropEvent* event) { openPath(event->mimeData()->urls().first().toLocalFile()); }

void MainWindow::resizeEvent(QResizeEvent* event)
{
    QMainWindow::resizeEvent(event);
    updateCompact();
}

void MainWindow::keyPressEvent(QKeyEvent* event)
{
    if (event->key() == Qt::Key_Escape) m_workbench->plans()->cancelGesture();
    QMainWindow::keyPressEvent(event);
}

void MainWindow::rememberRecent(const QString& path)
{
    QStringList paths = recent();
    paths.removeAll(path);
    paths.prepend(path);
    while (paths.size() > kRecent)
        paths.removeLast();
    settings().setValue(QStringLiteral("recent"), paths);
    m_start->setRecent(paths);
}

QStringList MainWindow::recent() const { return settings().value(QStringLiteral("recent")).toStringList(); }

Json MainWindow::viewState() const
{
    const HeatmapOptions& options = m_heatmap->options();
    const AllocationIntent budget = m_layers->budget()->intent();
    Json params = Json::object();
    for (const auto& [key, value] : budget.params)
        params[key] = value;
    Json selected = Json::array();
    for (const CellId& cell : m_selection.selected())
        selected.push_back({cell.layer, cell.expert});
    const QRect zoom = m_heatmap->zoom();
    return {{"budget", {{"method", budget.method}, {"params", params}, {"equal_counts", budget.equalCounts}}},
            {"difference", m_perplexity->showsDelta()},
            {"selected", selected},
            {"table", m_heatmapFrame->currentPage() == m_heatmapTable},
            {"zoom", zoom.isNull() ? Json() : Json({zoom.left(), zoom.top(), zoom.width(), zoom.height()})},
            {"score", options.score.toStdString()},
            {"norm", normId(options.norm.norm).toStdString()},
            {"clip_percent", options.norm.clipPercent},
            {"per_layer", options.norm.perLayer},
            {"sort", expertSortId(options.sort).toStdString()},
            {"colour_map", colourMapId(options.map).toStdString()},
            {"layer", m_selection.current().layer},
            {"expert", m_selection.current().expert}};
}

void MainWindow::restoreViewState(const Json& view)
{
    if (!view.is_object() || view.empty()) return;
    HeatmapOptions options = m_heatmap->options();
    const auto text = [&](const char* key, const QString& fallback) {
        const Json value = view.value(key, Json());
        return value.is_string() ? QString::fromStdString(value.get<std::string>()) : fallback;
    };
    options.score = text("score", options.score);
    options.norm.norm = normFromId(text("norm", normId(options.norm.norm)));
    options.sort = expertSortFromId(text("sort", expertSortId(options.sort)));
    options.map = colourMapFromId(text("colour_map", colourMapId(options.map)));
    if (const Json clip = view.value("clip_percent", Json()); clip.is_number()) options.norm.clipPercent = clip.get<double>();
    if (const Json perLayer = view.value("per_layer", Json()); perLayer.is_boolean()) options.norm.perLayer = perLayer.get<bool>();
    m_heatmap->setOptions(options);
    const auto integers = [](const Json& list, std::size_t count) {
        return list.is_array() && list.size() == count &&
               std::all_of(list.begin(), list.end(), [](const Json& x) { return x.is_number_integer(); });
    };
    const auto flag = [&](const char* key) { return view.value(key, Json()) == Json(true); };
    const Json zoom = view.value("zoom", Json());
    m_heatmap->setZoom(integers(zoom, 4) ? QRect(zoom[0].get<int>(), zoom[1].get<int>(), zoom[2].get<int>(), zoom[3].get<int>()) : QRect());
    const Json layer = view.value("layer", Json());
    const Json expert = view.value("expert", Json());
    if (layer.is_number_integer() && expert.is_number_integer()) m_selection.setCurrent({layer.get<int>(), expert.get<int>()});
    std::set<CellId> selected;
    for (const Json& cell : view.value("selected", Json::array()))
        if (integers(cell, 2)) selected.insert({cell[0].get<int>(), cell[1].get<int>()});
    m_selection.select(std::move(selected));
    if (const Json budget = view.value("budget", Json()); budget.is_object() && budget.value("method", Json()).is_string()) {
        AllocationIntent choice;
        choice.method = budget["method"].get<std::string>();
        choice.equalCounts = budget.value("equal_counts", Json()) == Json(true);
        if (const Json params = budget.value("params", Json()); params.is_object())
            for (const auto& [key, value] : params.items())
                choice.params[key] = value;
        m_layers->budget()->setChoice(choice);
    }
    m_perplexity->setShowsDelta(flag("difference"));
    m_actions[QStringLiteral("view.table")]->setChecked(flag("table"));
    m_heatmapFrame->setCurrentPage(flag("table") ? 1 : 0);
}

}  // namespace espalier
