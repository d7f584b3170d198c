#include "shell/window/main_window.h"

#include "experts/inspector_panel.h"
#include "heatmap/heatmap_table.h"
#include "heatmap/heatmap_view.h"
#include "layers/layers_panel.h"
#include "look/controls.h"
#include "look/format.h"
#include "look/panel.h"
#include "perplexity/history_panel.h"
#include "perplexity/perplexity_panel.h"
#include "perplexity/status_bar.h"
#include "planning/budget_bar.h"
#include "planning/search_panel.h"
#include "ranks/rank_panel.h"
#include "shell/window/export_dialog.h"
#include "shell/window/help_window.h"
#include "shell/window/start_page.h"

#include <QApplication>
#include <QFileInfo>
#include <QKeyEvent>
#include <QLabel>
#include <QPushButton>
#include <QScreen>
#include <QSettings>
#include <QStackedWidget>
#include <QTemporaryDir>
#include <QVBoxLayout>

#include <algorithm>
#include <utility>

namespace espalier
{

namespace
{
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
    // With its frame and a panel of the desktop it fits a screen of 1024 x 640.
    setMinimumSize(960, 560);
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
    m_banners->setFocusReturn(m_heatmap->focusTarget());
    makeMenus();
    makeToolBar();
    connectViews();
    orderTabs();
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
    m_historyDock->header()->setSubtitle(tr("perplexity over dense"));
    m_perplexity = new PerplexityPanel;
    m_perplexityDock = new Panel(QStringLiteral("perplexity"), tr("Perplexity"));
    m_perplexityDock->addPage(tr("Perplexity"), m_perplexity);
    m_perplexityDock->header()->addTrailing(m_perplexity->choosers());
    makeRankPage();
    makePipeline();

    m_docks->setCorner(Qt::BottomLeftCorner, Qt::LeftDockWidgetArea);
    m_docks->setCorner(Qt::BottomRightCorner, Qt::RightDockWidgetArea);
    m_docks->addDockWidget(Qt::LeftDockWidgetArea, m_layersDock);
    m_docks->addDockWidget(Qt::RightDockWidgetArea, m_inspectorDock);
    m_docks->splitDockWidget(m_inspectorDock, m_historyDock, Qt::Vertical);
    m_docks->addDockWidget(Qt::BottomDockWidgetArea, m_perplexityDock);
    makeRankPanels();
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
    setRankView(false);
    m_docks->restoreState(m_defaultLayout);
    // Wider with the text, as far as the map has room.
    const auto side = [this](int units) {
        const int most = width() * 26 / 100;
        return std::max(std::min(units, most), std::min(pixelsOf(units), most));
    };
    m_docks->resizeDocks({m_layersDock, m_inspectorDock}, {side(316), side(312)}, Qt::Horizontal);
    m_docks->resizeDocks({m_perplexityDock}, {std::min(292, height() * 34 / 100)}, Qt::Vertical);
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
    connect(m_heatmap, &HeatmapView::constantRequested, plans, &PlanController::setConstants);
    connect(m_heatmap, &HeatmapView::skipRequested, plans, &PlanController::setSkipped);
    connect(m_heatmap, &HeatmapView::profileRequested, m_workbench, &Workbench::profile);
    connect(m_heatmap, &HeatmapView::optionsChanged, this, [this](const HeatmapOptions& options) {
        if (!options.ranks() && options.score.toStdString() != m_workbench->chosenScore())
            m_workbench->chooseScore(options.score.toStdString());
        m_heatmapFrame->header()->setPageTitle(0, options.ranks() ? tr("Rank") : tr("Importance"));
        m_workbench->setViewState(viewState());
    });
    connectRanks();
    connect(m_layers, &LayersPanel::layerKeepMoved, plans, &PlanController::setKeep);
    connect(m_layers, &LayersPanel::lockRequested, plans, &PlanController::toggleLocked);
    connect(m_layers, &LayersPanel::skipRequested, plans, &PlanController::setSkipped);
    connect(m_layers, &LayersPanel::lockedTouched, plans, &PlanController::refusesKeep);
    connect(m_layers->budget(), &BudgetBar::allocationRequested, plans, &PlanController::allocateTo);
    connect(m_layers->budget(), &BudgetBar::rankAnewRequested, m_actions.value(QStringLiteral("plan.rank")), &QAction::trigger);
    connect(m_layers->budget(), &BudgetBar::unlockRequested, plans, &PlanController::retryUnlocked);
    connect(m_layers->budget(), &BudgetBar::rankingChosen, this, [this](const QString& id) {
        m_workbench->rankBy(id.toStdString());
        m_workbench->setViewState(viewState());
    });
    connect(m_layers->curve(), &KeptCurve::resetRequested, this,
            [plans](int layer) { plans->setKeep(layer, plans->shape().layers[static_cast<std::size_t>(layer)].experts); });
    connect(m_inspector, &InspectorPanel::keepRequested, this, [plans](int layer, int expert, bool keep) {
        plans->setKept({CellId{layer, expert}}, keep);
    });
    connect(m_inspector, &InspectorPanel::constantRequested, this, [plans](int layer, int expert, ConstantKind kind) {
        plans->setConstants({CellId{layer, expert}}, kind);
    });
    connect(m_inspector, &InspectorPanel::skipRequested, plans, &PlanController::setSkipped);
    connect(m_inspector, &InspectorPanel::protectRequested, this, [plans](int layer, int expert, bool on) {
        const ExpertSet& set = plans->plan().protectedExperts(layer);
        if (std::binary_search(set.begin(), set.end(), expert) != on) plans->toggleProtected(layer, expert);
    });
    connect(m_inspector, &InspectorPanel::lockRequested, plans, &PlanController::toggleLocked);
    connect(m_inspector, &InspectorPanel::layerKeepMoved, plans, &PlanController::setKeep);
    connect(m_history, &HistoryPanel::jumpRequested, plans, &PlanController::jumpTo);
    connect(m_history, &HistoryPanel::nameEntered, m_workbench, &Workbench::namePlan);
    connect(m_perplexity, &PerplexityPanel::evaluateRequested, m_actions.value(QStringLiteral("evaluate.full")), &QAction::trigger);
    connect(m_status, &StatusBar::cancelRequested, m_workbench, &Workbench::cancelJob);
    connect(m_status, &StatusBar::perplexityClicked, m_actions.value(QStringLiteral("evaluate.full")), &QAction::trigger);

    connect(plans, &PlanController::planChanged, this, &MainWindow::showPlan);
    connect(plans, &PlanController::historyChanged, this, &MainWindow::showHistory);
    connect(plans, &PlanController::explained, this, &MainWindow::explain);
    connect(m_workbench->evaluation(), &EvaluationController::changed, this, &MainWindow::showPerplexity);
    connect(m_workbench, &Workbench::scoresChanged, this, &MainWindow::showScores);
    connect(m_workbench, &Workbench::profileChanged, this, &MainWindow::showScores);
    connect(m_workbench, &Workbench::sessionChanged, this, &MainWindow::showSession);
    connect(plans, &PlanController::shapeChanged, this, [this, plans] {
        m_heatmap->setShape(plans->shape());
        m_layers->setShape(plans->shape());
        m_inspector->setShape(plans->shape());
        m_ranks->setShape(plans->shape());
    });
    connect(m_workbench, &Workbench::opened, this, [this] {
        // Taken before anything on screen moves: the selection that the focus brings is the user's view already.
        const Json view = m_workbench->viewState();
        m_banners->dismissOfModel();
        m_problems.clear();
        m_evaluationProblems.clear();
        m_rankRefusal.clear();
        m_constantsRefusal.clear();
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
        m_banners->dismissOfModel();
        showOpen(false);
    });
    connect(m_workbench, &Workbench::textChanged, this, [this] { m_banners->dismiss(QStringLiteral("text")); });
    connect(m_workbench, &Workbench::textsNoted, this, &MainWindow::noteTexts);
    connect(m_workbench->locked(), &LockedController::changed, this, &MainWindow::showPerplexity);
    connect(m_workbench->locked(), &LockedController::changed, this, &MainWindow::updateActions);
    connect(m_workbench, &Workbench::notice, this, &MainWindow::notice);
    connect(m_workbench, &Workbench::noticeSettled, m_banners, &BannerStack::dismiss);
    // Its notice is there already.
    connect(m_workbench->evaluation(), &EvaluationController::failed, this, [this] {
        if (!m_problems.isEmpty()) m_evaluationProblems << m_problems.last();
    });
    connect(m_workbench->evaluation(), &EvaluationController::changed, this, [this] {
        if (m_workbench->evaluation()->quickComplete() && !m_workbench->evaluation()->busy()) settleProblems(true);
    });
    connect(m_workbench, &Workbench::profileChanged, this, [this] {
        if (!m_workbench->profiling() && m_workbench->statistics()) settleProblems(false);
        if (m_workbench->profiling()) m_banners->dismiss(QStringLiteral("profile-complete"));
    });
    connect(m_workbench, &Workbench::recentChanged, this, &MainWindow::rememberRecent);
    connect(m_workbench, &Workbench::saved, this, [this] {
        for (const char* id : {"save", "replace", "close", "close-model"})
            m_banners->dismiss(QString::fromLatin1(id));
        if (const auto next = std::exchange(m_afterSave, {})) next();
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
    connectPipeline();
    connect(m_start, &StartPage::openModelRequested, m_actions.value(QStringLiteral("file.openModel")), &QAction::trigger);
    connect(m_start, &StartPage::openSessionRequested, m_actions.value(QStringLiteral("file.openSession")), &QAction::trigger);
    connect(m_start, &StartPage::demoRequested, m_actions.value(QStringLiteral("file.demo")), &QAction::trigger);
    connect(m_start, &StartPage::engineRestartRequested, m_actions.value(QStringLiteral("engine.restart")), &QAction::trigger);
    connect(m_start, &StartPage::recentRequested, this, &MainWindow::openPath);
    connect(&m_selection, &SelectionModel::currentChanged, this, [this] { m_workbench->setViewState(viewState()); });
    connect(&m_selection, &SelectionModel::currentChanged, this, &MainWindow::updateFormActions);
}

// ---- showing

void MainWindow::showOpen(bool open)
{
    m_pages->setCurrentIndex(open ? 1 : 0);
    if (open) {
        applyLayout();
        // Space, arrows and letters work at once.
        m_heatmap->focusTarget()->setFocus(Qt::OtherFocusReason);
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
    showRanks();
    m_status->setCost(m_workbench->cost(), m_workbench->denseCost());
    m_status->setPlan(m_workbench->planName(),
                      m_workbench->plans()->history().entries().size() > 1 && m_workbench->sessionFile().isEmpty());
    updateActions();
}

void MainWindow::showHistory()
{
    if (!m_workbench->isOpen()) return;
    m_history->setHistory(m_workbench->plans()->history(), planLosses());
    showNames();
    updateActions();
}

void MainWindow::showScores()
{
    if (!m_workbench->isOpen()) return;
    const QString noConstants = m_workbench->plans()->constantsProblem();
    m_heatmap->setConstantsProblem(noConstants);
    m_inspector->setConstantsProblem(noConstants);
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
    m_layers->budget()->setRankings(m_workbench->profiling() || !m_workbench->currentScores() ? QStringList() : ids,
                                    QString::fromStdString(m_workbench->ranking()));
    ids << kRankMetric;
    titles << tr("Matrix rank in the plan");
    m_heatmap->setScoreChoices(ids, titles);
    HeatmapOptions options = m_heatmap->options();
    if (!options.ranks()) options.score = QString::fromStdString(m_workbench->chosenScore());
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
    showPipeline();
    m_heatmapTable->refresh();
}

void MainWindow::showPerplexity()
{
    if (!m_workbench->isOpen()) return;
    PerplexityState state = m_workbench->evaluation()->state();
    addEstimate(state);
    state.locked = m_workbench->locked()->state(m_workbench->plans()->plan().hash());
    m_perplexity->setState(state);
    const HeadlinePerplexity number = headline(state);
    m_status->setPerplexity(number);
    using Kind = HeadlinePerplexity::Kind;
    QString text = number.kind == Kind::None       ? QString()
                   : number.kind == Kind::Estimate ? format::estimate(number.ppl)
                                                   : tr("PPL %1").arg(format::perplexity(number.ppl, number.error));
    if (number.kind == Kind::Stale) text += format::kDot + number.note;
    m_headline->setText(text);
    m_history->setHistory(m_workbench->plans()->history(), planLosses());
}

void MainWindow::showNames()
{
    QHash<QString, QString> names;
    for (const auto& [hash, name] : m_workbench->planNames())
        names.insert(QString::fromStdString(hash), QString::fromStdString(name));
    m_history->setNames(names);
}

void MainWindow::showSession()
{
    showNames();
    const bool open = m_workbench->isOpen();
    if (open) {
        const QString name =
            m_workbench->sessionFile().isEmpty() ? m_workbench->modelName() : QFileInfo(m_workbench->sessionFile()).fileName();
        const QString& readOnly = m_workbench->readOnly();
        setWindowTitle((readOnly.isEmpty() ? QStringLiteral("%1[*] · Espalier") : tr("%1 (read-only)[*] · Espalier")).arg(name));
        m_status->setReadOnly(readOnly);
        const bool modified = m_workbench->modified();
        setWindowModified(modified);
        m_status->setPlan(m_workbench->planName(), modified);
        // Nothing is left to be saved: what asked about it has lost its cause.
        if (!modified)
            for (const char* id : {"replace", "close", "close-model"})
                m_banners->dismiss(QString::fromLatin1(id));
    } else {
        setWindowModified(false);
    }
    updateActions();
}

void MainWindow::updateCompact()
{
    const bool compact = width() < kCompactWidth;
    m_heatmap->setCompact(compact);
    m_layers->setCompact(compact);
    m_layers->setLow(height() < kLowHeight);
    m_inspector->setLow(height() < kLowHeight);
    m_ranks->setCompact(compact);
    arrangeRankDocks();
    m_perplexity->setCompact(compact);
    m_search->setCompact(compact);
    m_status->setCompact(compact);
}

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

}  // namespace espalier
