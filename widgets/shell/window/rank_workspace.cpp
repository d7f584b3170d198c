#include "shell/window/rank_workspace.h"

#include "experts/expert_view.h"
#include "experts/inspector_panel.h"
#include "layers/layers_panel.h"
#include "look/format.h"
#include "look/panel.h"
#include "perplexity/perplexity_panel.h"
#include "plan/rank_edit.h"
#include "ranks/rank_panel.h"
#include "ranks/rank_plot.h"
#include "shell/engine/rank_curve_store.h"
#include "shell/window/budget_workspace.h"
#include "shell/window/explore_workspace.h"
#include "shell/window/measure_workspace.h"

#include <QLayout>

#include <algorithm>
#include <utility>

namespace espalier
{

namespace
{
constexpr int kPlotsWidth = 1560;  // of the window, from which spectrum and energy stand side by side
constexpr int kPlotsHeight = 292;
}  // namespace

RankWorkspace::RankWorkspace(const WindowContext& context, const Neighbours& beside, QObject* parent)
    : Workspace(context, parent), m_beside(beside)
{
    m_panel = new RankPanel(m_in.selection, m_in.hover);
    m_page = m_beside.budget->dock()->addPage(tr("Rank"), m_panel);
    m_curves = new RankCurveStore(workbench().engine(), this);
    makeActions();
    makePlots();
    connectPanel();
    connectPlots();
    connectProfile();
    connect(plans(), &PlanController::shapeChanged, this, [this] { m_panel->setShape(plans()->shape()); });
    connect(plans(), &PlanController::planChanged, this, &RankWorkspace::showRanks);
    // What a search finds stands where the perplexity is.
    connect(workbench().planning(), &PlanningController::started, this, [this] { setRankView(false); });
    connect(m_beside.budget->dock()->header(), &PanelHeader::currentPageChanged, this, [this](int page) { setRankView(page == m_page); });
    connect(m_in.selection, &SelectionModel::currentChanged, this, [this](CellId cell) {
        m_curves->setCell(cell);
        showRanks();
    });
}

void RankWorkspace::makeActions()
{
    m_in.actions
        ->add(this, QStringLiteral("view.ranks"), tr("&Ranks"), {}, WindowActions::keys({"Ctrl+Shift+R"}),
              [this] { setRankView(m_in.actions->get(QStringLiteral("view.ranks"))->isChecked()); })
        ->setCheckable(true);
    m_in.actions->add(this, QStringLiteral("plan.matricesDense"), tr("All &matrices dense"), {}, {}, [this] { plans()->setAllDense(); });
    m_in.actions->add(this, QStringLiteral("plan.measureRanks"), tr("Measure ranks and &gradients"), {}, {},
                      [this] { workbench().measureRanks(); });
}

void RankWorkspace::makePlots()
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
    m_in.docks->splitDockWidget(m_beside.measure->dock(), m_spectrumDock, Qt::Horizontal);
    m_in.docks->splitDockWidget(m_spectrumDock, m_energyDock, Qt::Horizontal);
    m_spectrumDock->hide();
    m_energyDock->hide();
}

void RankWorkspace::connectPanel()
{
    PlanController* plans = this->plans();
    connectGestures(m_panel);
    connect(m_panel, &RankPanel::layerRankMoved, plans, &PlanController::setMeanRank);
    connect(m_panel, &RankPanel::lockRequested, plans, &PlanController::toggleLocked);
    connect(m_panel, &RankPanel::skipRequested, plans, &PlanController::setSkipped);
    connect(m_panel, &RankPanel::lockedTouched, plans, &PlanController::refusesRank);
    connect(m_panel, &RankPanel::unlockRequested, plans, &PlanController::retryUnlocked);
    connect(m_panel, &RankPanel::measureRequested, &workbench(), &Workbench::measureRanks);
    connect(m_panel, &RankPanel::factorsChosen, this, [plans](bool whitened) {
        plans->setPlanFactors(whitened ? plans->rankFactors() : FactorSettings{"svd", {}});
    });
    connect(plans, &PlanController::explained, m_panel, &RankPanel::setMessage);
    connect(plans, &PlanController::explained, m_panel,
            [this](const QString& text, bool isError) { m_panel->table()->explain(text, isError); });
}

void RankWorkspace::connectPlots()
{
    for (RankPlot* plot : {m_spectrum, m_energy, m_energyPage}) {
        connectGestures(plot);
        connect(plot, &RankPlot::rankMoved, plans(), &PlanController::setExpertRank);
        connect(plot, &RankPlot::buttonClicked, &workbench(), &Workbench::measureRanks);
    }
}

void RankWorkspace::connectProfile()
{
    DeepProfile* deep = workbench().deep();
    connect(deep, &DeepProfile::changed, this, [this, deep] {
        m_curves->setProfile(deep->file(), QString::fromStdString(deep->sha256()));
        showRanks();
        emit actionsChanged();
    });
    connect(deep, &DeepProfile::jobChanged, this, &RankWorkspace::showRanks);
    connect(workbench().engine(), &EngineClient::stateChanged, this, &RankWorkspace::showRanks);
    connect(m_curves, &RankCurveStore::changed, this, &RankWorkspace::showRanks);
}

QWidget* RankWorkspace::firstOfPanel() const { return m_panel->curve()->focusTarget(); }

QWidget* RankWorkspace::firstOfSpectrum() const
{
    return m_spectrumDock->currentPage() == m_energyPage ? m_energyPage->focusTarget() : m_spectrum->focusTarget();
}

QWidget* RankWorkspace::firstOfEnergy() const { return m_energy->focusTarget(); }

void RankWorkspace::updateActions()
{
    m_in.actions->enable("view.ranks", isOpen());
    m_in.actions->enable("plan.matricesDense", isOpen() && plans()->plan().hasRanks());
    const DeepProfile::State deep = workbench().deep()->state();
    m_in.actions->enable("plan.measureRanks", isOpen() && workbench().engine()->usable() && workbench().forwardSupported() &&
                                                  deep != DeepProfile::State::Ready && deep != DeepProfile::State::Running);
}

void RankWorkspace::setSize(const WindowSize& size)
{
    m_panel->setCompact(size.compact);
    arrangeDocks();
}

QString RankWorkspace::helpPage(const QWidget* focus) const
{
    return isIn(focus, m_panel) || isIn(focus, m_spectrumDock) || isIn(focus, m_energyDock) ? QStringLiteral("ranks") : QString();
}

bool RankWorkspace::showsRefusals() const { return m_panel->isVisible(); }

void RankWorkspace::setRankView(bool on)
{
    if (std::exchange(m_rankView, on) == on) return;
    Panel* left = m_beside.budget->dock();
    if (on)
        left->setCurrentPage(m_page);
    else if (left->currentPage() == m_panel)
        left->setCurrentPage(0);
    m_in.actions->get(QStringLiteral("view.ranks"))->setChecked(on);
    m_beside.explore->showRankMap(on);
    // The perplexity stays beside them, whatever is looked at.
    Panel* perplexity = m_beside.measure->dock();
    Panel* below = perplexity->isHidden() ? m_spectrumDock : perplexity;
    const int height = below->height();
    if (on) perplexity->setCurrentPage(0);
    m_spectrumDock->setVisible(on);
    m_docksSet = false;
    if (!on) m_energyDock->hide();
    arrangeDocks();
    m_in.docks->resizeDocks({below}, {m_laidOut && height > 100 ? height : kPlotsHeight}, Qt::Vertical);
    showRanks();
    emit viewChanged();
}

void RankWorkspace::arrangeDocks()
{
    const bool wide = m_in.window->width() >= kPlotsWidth;
    m_spectrumDock->header()->setPageVisible(1, !wide);
    if (!m_rankView) return;
    // Only where something comes or goes: a split that was set by hand stays.
    if (m_energyDock->isHidden() != wide && std::exchange(m_docksSet, true)) return;
    m_energyDock->setVisible(wide);
    // What has just been shown has no place yet that could be resized.
    if (QLayout* layout = m_in.docks->layout()) layout->activate();
    // They share the room below the map: asked for more, they would take it from the columns at the sides.
    Panel* perplexity = m_beside.measure->dock();
    const int number = std::max(m_beside.measure->panel()->stripWidth(), perplexity->header()->minimumSizeHint().width());
    const int room = m_laidOut ? std::max(m_beside.explore->frame()->width() - number, 2) : 2 * kPlotsHeight;
    if (wide)
        m_in.docks->resizeDocks({perplexity, m_spectrumDock, m_energyDock}, {number, room / 2, room - room / 2}, Qt::Horizontal);
    else
        m_in.docks->resizeDocks({perplexity, m_spectrumDock}, {number, room}, Qt::Horizontal);
}

void RankWorkspace::showRanks()
{
    if (!isOpen()) return;
    m_panel->setReference(plans()->inGesture() ? std::optional(plans()->committed()) : std::nullopt);
    m_panel->setPlan(plans()->plan());
    RankPlotState shown;
    const QString note = showProfile(shown);
    m_panel->setMeasured(workbench().deep()->ready(), note, !shown.button.isEmpty());
    showExpert(shown);
    for (RankPlot* plot : {m_spectrum, m_energy, m_energyPage})
        plot->setState(shown);
    const CellId cell = m_in.selection->current();
    const bool expert = cell.valid() && cell.expert >= 0 && cell.layer < plans()->plan().layerCount();
    m_spectrumDock->header()->setSubtitle(expert ? tr("layer %1 · expert %2").arg(cell.layer).arg(cell.expert) : QString());
    m_energyDock->header()->setSubtitle(tr("share of squared singular values"));
    m_beside.explore->inspector()->setCurves(shown.curves);
}

QString RankWorkspace::showProfile(RankPlotState& state)
{
    const DeepProfile* deep = workbench().deep();
    using State = DeepProfile::State;
    const bool usable = workbench().engine()->usable() && workbench().forwardSupported();
    if (usable && (deep->state() == State::Missing || deep->state() == State::Failed)) state.button = tr("Measure ranks and gradients");
    switch (deep->state()) {
        case State::Running:
            state.what = tr("Measuring ranks and gradients");
            state.why = deep->progress().isEmpty() ? tr("One more pass over the calibration text.") : deep->progress();
            return deep->progress().isEmpty() ? state.what : state.what + format::kDot + deep->progress();
        case State::Waiting:
            state.what = tr("Measuring ranks and gradients");
            state.why = tr("Measuring ranks and gradients goes on after the evaluation.");
            return state.why;
        case State::None:
        case State::Looking:
        case State::Ready:
            break;
        case State::Missing:
        case State::Failed:
            state.what = tr("No spectra yet");
            state.why =
                usable ? tr("One more pass over the calibration text measures what each rank keeps.") : tr("The engine is not running.");
            return tr("Spectra and whitened factors are not measured: new ranks use plain SVD.");
    }
    return {};
}

void RankWorkspace::showExpert(RankPlotState& state)
{
    const CompressionPlan& plan = plans()->plan();
    const bool ready = workbench().deep()->ready();
    const CellId cell = m_in.selection->current();
    state.curves = m_curves->curves();
    if (!cell.valid() || cell.expert < 0 || cell.layer >= plan.layerCount()) {
        state.curves.reset();
        if (ready) state.what = tr("Nothing selected");
    } else {
        const ExpertView view = expertView(plans()->shape(), plan, cell);
        state.kept = view.state == ExpertState::Kept || view.state == ExpertState::LowRank;
        state.ranks = ranksOf(plan, cell.layer, cell.expert);
        state.locked = plan.isLocked(cell.layer);
    }
    if (state.curves && state.curves->empty()) {
        state.curves.reset();
        state.what = tr("No spectra of this expert");
        state.why = tr("No token of the calibration text was routed to it.");
    } else if (ready && m_curves->error()) {
        state.isError = true;
        state.what = tr("No spectra of this expert");
        state.why = QString::fromStdString(m_curves->error()->message);
    }
}

// ---- what a session keeps of it

void RankWorkspace::addToView(Json& view) const { view["ranks"]["view"] = m_rankView; }

void RankWorkspace::restoreView(const Json& view)
{
    const Json ranks = view.value("ranks", Json());
    const Json of = ranks.is_object() ? ranks : Json::object();
    setRankView(of.value("view", Json()) == Json(true));
    m_beside.explore->restoreRankMap(of);
}

}  // namespace espalier
