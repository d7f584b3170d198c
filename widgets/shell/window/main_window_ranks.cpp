// Ranks in the main window: page, plots, map and inspector about matrix ranks, the deep profile they need, and the instant estimate.
#include "experts/expert_view.h"
#include "experts/inspector_panel.h"
#include "heatmap/heatmap_view.h"
#include "layers/layers_panel.h"
#include "look/format.h"
#include "look/panel.h"
#include "perplexity/perplexity_panel.h"
#include "plan/rank_edit.h"
#include "ranks/rank_panel.h"
#include "ranks/rank_plot.h"
#include "shell/engine/estimate_controller.h"
#include "shell/engine/rank_curve_store.h"
#include "shell/window/main_window.h"

#include <QAction>
#include <QSignalBlocker>

#include <utility>

namespace espalier
{

namespace
{
constexpr int kPlotsWidth = 1560;  // of the window, from which spectrum and energy stand side by side
constexpr int kPlotsHeight = 292;
}  // namespace

void MainWindow::makeRankActions()
{
    addAction(QStringLiteral("view.ranks"), tr("&Ranks"), {}, {QKeySequence(QStringLiteral("Ctrl+Shift+R"))}, [this] {
        setRankView(m_actions[QStringLiteral("view.ranks")]->isChecked());
    })->setCheckable(true);
    addAction(QStringLiteral("plan.matricesDense"), tr("All &matrices dense"), {}, {}, [this] { m_workbench->plans()->setAllDense(); });
    addAction(QStringLiteral("plan.measureRanks"), tr("Measure ranks and &gradients"), {}, {}, [this] { m_workbench->measureRanks(); });
}

void MainWindow::makeRankPage()
{
    m_ranks = new RankPanel(&m_selection, &m_hover);
    m_rankPage = m_layersDock->addPage(tr("Rank"), m_ranks);
}

void MainWindow::makeRankPanels()
{
    m_spectrum = new RankPlot(RankPlot::Kind::Spectrum);
    m_energyPage = new RankPlot(RankPlot::Kind::Energy);
    m_energy = new RankPlot(RankPlot::Kind::Energy);
    m_spectrumDock = new Panel(QStringLiteral("spectrum"), tr("Spectrum"));
    m_spectrumDock->addPage(tr("Spectrum"), m_spectrum);
    m_spectrumDock->addPage(tr("Energy"), m_energyPage);
    m_energyDock = new Panel(QStringLiteral("energy"), tr("Energy"));
    m_energyDock->addPage(tr("Energy"), m_energy);
    m_spectrumDock->header()->addTrailing(m_spectrum->choosers());
    m_spectrumDock->header()->addTrailing(m_energyPage->choosers());
    m_energyDock->header()->addTrailing(m_energy->choosers());
    m_energyPage->choosers()->hide();
    connect(m_spectrumDock->header(), &PanelHeader::currentPageChanged, this, [this](int page) {
        m_spectrum->choosers()->setVisible(page == 0);
        m_energyPage->choosers()->setVisible(page == 1);
    });
    m_docks->splitDockWidget(m_perplexityDock, m_spectrumDock, Qt::Horizontal);
    m_docks->splitDockWidget(m_spectrumDock, m_energyDock, Qt::Horizontal);
    m_spectrumDock->hide();
    m_energyDock->hide();
    m_rankCurves = new RankCurveStore(m_workbench->engine(), this);
    m_estimates = new EstimateController(m_workbench->engine(), this);
}

QWidget* MainWindow::rankStop() const
{
    return m_spectrumDock->currentPage() == m_energyPage ? m_energyPage->focusTarget() : m_spectrum->focusTarget();
}

namespace
{

// Runs that a session brings along are measurements too.
void tellMeasured(EstimateController& estimates, Workbench& workbench)
{
    if (!workbench.isOpen()) return;
    const EvaluationController& evaluation = *workbench.evaluation();
    estimates.setMeasured(evaluation.runs(), workbench.plans()->history(), CompressionPlan::identity(workbench.plans()->shape()),
                          {.quick = evaluation.tierWindows(false), .full = evaluation.tierWindows(true)});
}

}  // namespace

void MainWindow::connectRanks()
{
    PlanController* plans = m_workbench->plans();
    const auto gestures = [plans](auto* view) {
        using View = std::remove_pointer_t<decltype(view)>;
        connect(view, &View::gestureStarted, plans, &PlanController::beginGesture);
        connect(view, &View::gestureFinished, plans, &PlanController::finishGesture);
        connect(view, &View::gestureCancelled, plans, &PlanController::cancelGesture);
    };
    gestures(m_ranks);
    connect(m_ranks, &RankPanel::layerRankMoved, plans, &PlanController::setMeanRank);
    connect(m_ranks, &RankPanel::lockRequested, plans, &PlanController::toggleLocked);
    connect(m_ranks, &RankPanel::skipRequested, plans, &PlanController::setSkipped);
    connect(m_ranks, &RankPanel::lockedTouched, plans, &PlanController::refusesRank);
    connect(m_ranks, &RankPanel::measureRequested, m_workbench, &Workbench::measureRanks);
    connect(m_ranks, &RankPanel::factorsChosen, this, [this, plans](bool whitened) {
        plans->setPlanFactors(whitened ? plans->rankFactors() : FactorSettings{"svd", {}});
    });
    for (RankPlot* plot : {m_spectrum, m_energy, m_energyPage}) {
        gestures(plot);
        connect(plot, &RankPlot::rankMoved, plans, &PlanController::setExpertRank);
        connect(plot, &RankPlot::buttonClicked, m_workbench, &Workbench::measureRanks);
    }
    connect(m_inspector, &InspectorPanel::rankRequested, plans, &PlanController::setExpertRank);
    connect(m_inspector, &InspectorPanel::rankMoved, plans, &PlanController::setExpertRank);
    connect(m_inspector, &InspectorPanel::layerRankMoved, plans, &PlanController::setMeanRank);
    connect(m_heatmap, &HeatmapView::rankStepRequested, plans, &PlanController::stepMeanRank);
    connect(m_layersDock->header(), &PanelHeader::currentPageChanged, this, [this](int page) { setRankView(page == m_rankPage); });
    // What a search finds stands where the perplexity is.
    connect(m_workbench->planning(), &PlanningController::started, this, [this] { setRankView(false); });
    connect(plans, &PlanController::explained, m_ranks, &RankPanel::setMessage);
    connect(m_ranks, &RankPanel::unlockRequested, plans, &PlanController::retryUnlocked);
    connect(plans, &PlanController::shapeChanged, this, [this, plans] { m_estimates->setShape(plans->shape()); });
    connect(&m_selection, &SelectionModel::currentChanged, this, [this](CellId cell) {
        m_rankCurves->setCell(cell);
        m_estimates->setCell(cell);
        showRanks();
    });
    DeepProfile* deep = m_workbench->deep();
    connect(deep, &DeepProfile::changed, this, [this, deep] {
        const QString sha256 = QString::fromStdString(deep->sha256());
        m_rankCurves->setProfile(deep->file(), sha256);
        m_estimates->setProfile(deep->file(), sha256);
        tellMeasured(*m_estimates, *m_workbench);
        showRanks();
        updateActions();
    });
    connect(deep, &DeepProfile::jobChanged, this, &MainWindow::showRanks);
    connect(m_workbench, &Workbench::profileChanged, this, &MainWindow::showConstantsRefusal);
    connect(m_workbench->engine(), &EngineClient::stateChanged, this, &MainWindow::showRanks);
    connect(m_rankCurves, &RankCurveStore::changed, this, &MainWindow::showRanks);
    connect(m_estimates, &EstimateController::changed, this, &MainWindow::showPerplexity);
    connect(m_estimates, &EstimateController::changed, this, &MainWindow::showCellEstimate);
    connect(m_workbench->evaluation(), &EvaluationController::runsChanged, this, [this] { tellMeasured(*m_estimates, *m_workbench); });
}

// The page, the map and the plots about ranks come and go together; each can be chosen otherwise afterwards.
void MainWindow::setRankView(bool on)
{
    if (std::exchange(m_rankView, on) == on) return;
    if (on)
        m_layersDock->setCurrentPage(m_rankPage);
    else if (m_layersDock->currentPage() == m_ranks)
        m_layersDock->setCurrentPage(0);
    m_actions[QStringLiteral("view.ranks")]->setChecked(on);
    HeatmapOptions options = m_heatmap->options();
    options.score = on ? kRankMetric : QString::fromStdString(m_workbench->chosenScore());
    m_heatmap->setOptions(options);
    m_heatmapFrame->header()->setPageTitle(0, on ? tr("Rank") : tr("Importance"));
    // The perplexity stays beside them, whatever is looked at.
    QDockWidget* below = m_perplexityDock->isHidden() ? static_cast<QDockWidget*>(m_spectrumDock) : m_perplexityDock;
    const int height = below->height();
    if (on) m_perplexityDock->setCurrentPage(0);
    m_spectrumDock->setVisible(on);
    m_rankDocksSet = false;
    if (!on) m_energyDock->hide();
    arrangeRankDocks();
    m_docks->resizeDocks({below}, {m_layoutApplied && height > 100 ? height : kPlotsHeight}, Qt::Vertical);
    showRanks();
    m_workbench->setViewState(viewState());
}

void MainWindow::arrangeRankDocks()
{
    const bool wide = width() >= kPlotsWidth;
    m_spectrumDock->header()->setPageVisible(1, !wide);
    if (!m_rankView) return;
    // Only where something comes or goes: a split that was set by hand stays.
    if (m_energyDock->isHidden() != wide && std::exchange(m_rankDocksSet, true)) return;
    m_energyDock->setVisible(wide);
    const int number = m_perplexity->stripWidth();
    if (wide)
        m_docks->resizeDocks({m_perplexityDock, m_spectrumDock, m_energyDock}, {number, 500, 500}, Qt::Horizontal);
    else
        m_docks->resizeDocks({m_perplexityDock, m_spectrumDock}, {number, 500}, Qt::Horizontal);
}

void MainWindow::showRanks()
{
    if (!m_workbench->isOpen()) return;
    PlanController* plans = m_workbench->plans();
    const CompressionPlan& plan = plans->plan();
    const DeepProfile* deep = m_workbench->deep();
    m_ranks->setReference(plans->inGesture() ? std::optional(plans->committed()) : std::nullopt);
    m_ranks->setPlan(plan);
    m_estimates->setPlan(plan);
    showCellEstimate();

    using State = DeepProfile::State;
    const bool usable = m_workbench->engine()->usable() && m_workbench->forwardSupported();
    const bool offer = usable && (deep->state() == State::Missing || deep->state() == State::Failed);
    QString note;
    RankPlotState shown;
    switch (deep->state()) {
        case State::Running:
            shown.what = tr("Measuring ranks and gradients");
            shown.why = deep->progress().isEmpty() ? tr("One more pass over the calibration text.") : deep->progress();
            note = deep->progress().isEmpty() ? shown.what : shown.what + format::kDot + deep->progress();
            break;
        case State::Waiting:
            shown.what = tr("Measuring ranks and gradients");
            shown.why = note = tr("Measuring ranks and gradients goes on after the evaluation.");
            break;
        case State::None:
        case State::Looking:
        case State::Ready:
            break;
        case State::Missing:
        case State::Failed:
            shown.what = tr("No spectra yet");
            shown.why =
                usable ? tr("One more pass over the calibration text measures what each rank keeps.") : tr("The engine is not running.");
            note = tr("Spectra and whitened factors are not measured: new ranks use plain SVD.");
            break;
    }
    if (offer) shown.button = tr("Measure ranks and gradients");
    m_ranks->setMeasured(deep->ready(), note, offer);

    const CellId cell = m_selection.current();
    shown.curves = m_rankCurves->curves();
    const bool expert = cell.valid() && cell.expert >= 0 && cell.layer < plan.layerCount();
    if (!expert) {
        shown.curves.reset();
        if (deep->ready()) shown.what = tr("Nothing selected");
    } else {
        const ExpertView view = expertView(plans->shape(), plan, cell);
        shown.kept = view.state == ExpertState::Kept || view.state == ExpertState::LowRank;
        shown.ranks = ranksOf(plan, cell.layer, cell.expert);
        shown.locked = plan.isLocked(cell.layer);
    }
    if (shown.curves && shown.curves->empty()) {
        shown.curves.reset();
        shown.what = tr("No spectra of this expert");
        shown.why = tr("No token of the calibration text was routed to it.");
    } else if (deep->ready() && m_rankCurves->error()) {
        shown.isError = true;
        shown.what = tr("No spectra of this expert");
        shown.why = QString::fromStdString(m_rankCurves->error()->message);
    }
    for (RankPlot* plot : {m_spectrum, m_energy, m_energyPage})
        plot->setState(shown);
    m_spectrumDock->header()->setSubtitle(expert ? tr("layer %1 · expert %2").arg(cell.layer).arg(cell.expert) : QString());
    m_energyDock->header()->setSubtitle(tr("share of squared singular values"));
    m_inspector->setCurves(shown.curves);
    showRankRefusal();
}

// A plan whose factors cannot be made here is told once, with the ways out; it stays open and can be edited.
void MainWindow::showRankRefusal()
{
    const DeepProfile* deep = m_workbench->deep();
    using State = DeepProfile::State;
    const CompressionPlan& plan = m_workbench->plans()->plan();
    const bool settled = deep->state() == State::Missing || deep->state() == State::Failed || deep->ready();
    QString refusal;
    const EvaluationController& evaluation = *m_workbench->evaluation();
    const bool factorsMissing =
        plan.hasRanks() && plan.factors().method == "whitened-svd" && !evaluation.holds(plan.factors().profileSha256);
    if (settled && factorsMissing) refusal = deep->ready() ? QStringLiteral("other") : QStringLiteral("none");
    showConstantsRefusal();
    if (std::exchange(m_rankRefusal, refusal) == refusal) return;
    m_banners->dismiss(QStringLiteral("rank-profile"));
    if (refusal.isEmpty()) return;
    Banner banner;
    banner.id = QStringLiteral("rank-profile");
    banner.kind = Banner::Kind::Warning;
    PlanController* plans = m_workbench->plans();
    if (deep->ready()) {
        banner.cause = tr("The factors of this plan come from another profile than the one measured here.");
        banner.actions.push_back({tr("Use this profile"), [plans] { plans->setPlanFactors(plans->rankFactors()); }, true});
    } else {
        banner.cause = tr("The factors of this plan come from a profile that is not on this computer.");
        banner.actions.push_back({tr("Measure ranks and gradients"), [this] { m_workbench->measureRanks(); }, true});
    }
    banner.consequence = tr("It cannot be evaluated or exported. Plan and history are kept.");
    banner.actions.push_back({tr("Use plain SVD"), [plans] { plans->setPlanFactors({"svd", {}}); }});
    m_banners->show(banner);
}

// The same of constants whose profile is not here.
void MainWindow::showConstantsRefusal()
{
    // Before the engine has opened the model nothing was looked for.
    if (!m_workbench->isOpen() || !m_workbench->forwardSupported()) return;
    PlanController* plans = m_workbench->plans();
    const CompressionPlan& plan = plans->plan();
    const bool here = !plans->constantsProfile().empty();
    const bool settled = here || (!plans->constantsProblem().isEmpty() && !m_workbench->profiling());
    QString refusal;
    if (settled && !m_workbench->evaluation()->measurable(plan) && plan.hasConstants() &&
        !m_workbench->evaluation()->holds(plan.constantsProfile()))
        refusal = here ? QStringLiteral("other") : QStringLiteral("none");
    if (std::exchange(m_constantsRefusal, refusal) == refusal) return;
    m_banners->dismiss(QStringLiteral("constants-profile"));
    if (refusal.isEmpty()) return;
    Banner banner;
    banner.id = QStringLiteral("constants-profile");
    banner.kind = Banner::Kind::Warning;
    if (here) {
        banner.cause = tr("The constants of this plan come from another profile than the one measured here.");
        banner.actions.push_back({tr("Use this profile"), [plans] { plans->setConstantsFrom(plans->constantsProfile()); }, true});
    } else {
        banner.cause = tr("The constants of this plan come from a profile that is not on this computer.");
        banner.actions.push_back({tr("Measure the profile"), [this] { measureProfile(); }, true});
    }
    banner.consequence = tr("It cannot be evaluated or exported. Plan and history are kept.");
    banner.actions.push_back({tr("Drop these experts"), [plans] { plans->setDroppedAs({}); }});
    m_banners->show(banner);
}

// ---- the estimate

namespace
{

EstimateController::Tier tierOf(const EvaluationController::DenseBase& base)
{
    return base.full ? EstimateController::Tier::Full : EstimateController::Tier::Quick;
}

}  // namespace

void MainWindow::addEstimate(PerplexityState& state) const
{
    const auto base = m_workbench->evaluation()->denseBase();
    state.notEstimated = m_estimates->notCovered();
    if (state.planIsDense || !base) return;
    if (const auto estimate = m_estimates->estimateOf(m_workbench->plans()->plan().hash(), base->ppl, tierOf(*base))) {
        state.estimatedDelta = estimate->deltaPpl;
        state.estimateBase = base->ppl;
        state.estimateWindows = base->windows;
        state.estimateNote = estimate->note;
    }
}

void MainWindow::showCellEstimate()
{
    if (const auto base = m_workbench->evaluation()->denseBase())
        m_inspector->setCellEstimate(m_estimates->cellWhat(), m_estimates->cellDelta(base->ppl, tierOf(*base)));
    else
        m_inspector->setCellEstimate({}, std::nan(""));
}

QHash<QString, PlanLoss> MainWindow::planLosses() const
{
    QHash<QString, PlanLoss> losses = m_workbench->evaluation()->planLosses();
    for (auto loss = losses.begin(); loss != losses.end(); ++loss)
        loss->elsewhere = m_workbench->elsewhere(loss.key().toStdString());
    const QString hash = QString::fromStdString(m_workbench->plans()->plan().hash());
    const auto base = m_workbench->evaluation()->denseBase();
    if (losses.contains(hash) || !base) return losses;
    if (const auto estimate = m_estimates->estimateOf(hash.toStdString(), base->ppl, tierOf(*base))) {
        PlanLoss loss;
        loss.ppl = base->ppl + estimate->deltaPpl;
        loss.increase = estimate->deltaPpl / base->ppl;
        loss.estimate = true;
        losses.insert(hash, loss);
    }
    return losses;
}

// ---- what a session keeps of it

Json MainWindow::rankViewState() const
{
    const HeatmapOptions& options = m_heatmap->options();
    return {{"view", m_rankView},
            {"estimates", m_estimates->record()},
            {"metric", options.ranks()},
            {"norm", normId(options.rankNorm.norm).toStdString()},
            {"clip_percent", options.rankNorm.clipPercent},
            {"colour_map", colourMapId(options.rankMap).toStdString()}};
}

void MainWindow::restoreRankView(const Json& view)
{
    const Json none = Json::object();
    const Json& of = view.is_object() ? view : none;
    const auto text = [&](const char* key, const QString& fallback) {
        const Json value = of.value(key, Json());
        return value.is_string() ? QString::fromStdString(value.get<std::string>()) : fallback;
    };
    setRankView(of.value("view", Json()) == Json(true));
    m_estimates->restoreRecord(of.value("estimates", Json()));
    tellMeasured(*m_estimates, *m_workbench);
    HeatmapOptions options = m_heatmap->options();
    options.rankNorm.norm = normFromId(text("norm", normId(options.rankNorm.norm)));
    options.rankMap = colourMapFromId(text("colour_map", colourMapId(options.rankMap)));
    if (const Json clip = of.value("clip_percent", Json()); clip.is_number()) options.rankNorm.clipPercent = clip.get<double>();
    if (of.value("metric", Json()) == Json(true)) options.score = kRankMetric;
    m_heatmap->setOptions(options);
    m_heatmapFrame->header()->setPageTitle(0, options.ranks() ? tr("Rank") : tr("Importance"));
}

}  // namespace espalier
