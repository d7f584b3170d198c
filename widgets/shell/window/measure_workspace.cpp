#include "shell/window/measure_workspace.h"

#include "look/controls.h"
#include "look/format.h"
#include "look/icon.h"
#include "look/panel.h"
#include "perplexity/history_panel.h"
#include "shell/engine/estimate_controller.h"

#include <QFileInfo>
#include <QPushButton>
#include <QStyle>

#include <cmath>

namespace espalier
{

namespace
{

constexpr int kJobShownMsec = 700;
constexpr int kJobGoneMsec = 50;

EstimateController::Tier tierOf(const EvaluationController::DenseBase& base)
{
    return base.full ? EstimateController::Tier::Full : EstimateController::Tier::Quick;
}

}  // namespace

MeasureWorkspace::MeasureWorkspace(const WindowContext& context, QObject* parent) : Workspace(context, parent)
{
    m_panel = new PerplexityPanel;
    m_dock = new Panel(QStringLiteral("perplexity"), tr("Perplexity"));
    m_dock->addPage(tr("Perplexity"), m_panel);
    m_dock->header()->addTrailing(m_panel->choosers());
    // PPL or Δ is a choice of this page alone.
    connect(m_dock->header(), &PanelHeader::currentPageChanged, m_panel->choosers(),
            [this](int page) { m_panel->choosers()->setVisible(page == 0); });
    m_in.docks->addDockWidget(Qt::BottomDockWidgetArea, m_dock);
    m_estimates = new EstimateController(workbench().engine(), this);
    makeActions();
    makeButtons();
    connectEstimates();
    connectJobs();
    connect(m_panel, &PerplexityPanel::evaluateRequested, m_in.actions->get(QStringLiteral("evaluate.full")), &QAction::trigger);
    connect(m_in.status, &StatusBar::cancelRequested, &workbench(), &Workbench::cancelJob);
    connect(m_in.status, &StatusBar::perplexityClicked, m_in.actions->get(QStringLiteral("evaluate.full")), &QAction::trigger);
    connect(workbench().evaluation(), &EvaluationController::changed, this, &MeasureWorkspace::showPerplexity);
    connect(workbench().locked(), &LockedController::changed, this, &MeasureWorkspace::showPerplexity);
    connect(workbench().locked(), &LockedController::changed, this, &Workspace::actionsChanged);
    connect(workbench().engine(), &EngineClient::lost, this, &MeasureWorkspace::showPerplexity);
    connect(&workbench(), &Workbench::profileChanged, this, [this] {
        if (workbench().profiling()) banners().dismiss(QStringLiteral("profile-complete"));
    });
}

void MeasureWorkspace::makeActions()
{
    m_in.actions->add(this, QStringLiteral("evaluate.full"), tr("&Evaluate all windows"), QStringLiteral("play"),
                      WindowActions::keys({"Ctrl+Return", "Ctrl+Enter"}), [this] { workbench().evaluation()->evaluateFull(); });
    m_in.actions->add(this, QStringLiteral("evaluate.cancel"), tr("&Cancel the running job"), QStringLiteral("square"),
                      WindowActions::keys({"Ctrl+."}), [this] { workbench().cancelJob(); });
    m_in.actions->add(this, QStringLiteral("evaluate.profile"), tr("Measure the &profile"), {}, {}, [this] { measureProfile(); });
    m_in.actions->add(this, QStringLiteral("evaluate.locked"), tr("Measure on the &locked text…"), {}, {}, [this] { askLocked(); });
}

void MeasureWorkspace::makeButtons()
{
    m_auto = new Switch(tr("Auto"));
    m_auto->setCheckable(true);
    m_auto->setChecked(true);
    m_auto->setTextLeft(true);
    m_auto->setAccessibleName(tr("evaluate automatically"));
    m_auto->setToolTip(tr("Evaluate the quick windows of the live text after each edit"));
    connect(m_auto, &QAbstractButton::toggled, workbench().evaluation(), &EvaluationController::setAutomatic);
    m_evaluate = new QPushButton;
    m_evaluate->setObjectName(QStringLiteral("evaluate"));
    m_evaluate->setProperty("filled", true);
    connect(m_evaluate, &QPushButton::clicked, this, [this] {
        m_in.actions->get(buttonCancels() ? QStringLiteral("evaluate.cancel") : QStringLiteral("evaluate.full"))->trigger();
    });
}

QWidget* MeasureWorkspace::firstControl() const { return m_panel->choosers(); }

void MeasureWorkspace::updateActions()
{
    const bool open = isOpen();
    const bool engine = workbench().engine()->usable();
    m_in.actions->enable("evaluate.full", open && engine);
    m_in.actions->enable("evaluate.cancel", m_jobRunning);
    m_in.actions->enable("evaluate.profile", open && engine && !workbench().profiling());
    m_in.actions->enable("evaluate.locked", open && engine && workbench().forwardSupported() && !workbench().locked()->busy() &&
                                                !workbench().locked()->measured(plans()->committed().hash()));
    updateButtons();
    m_panel->setEvaluateEnabled(open && engine, engine ? QString() : tr("The engine is not running."));
}

void MeasureWorkspace::updateButtons()
{
    m_auto->setEnabled(isOpen());
    // What runs in the background is cancelled in the status bar; the button is for what is asked for here.
    const bool cancels = buttonCancels();
    m_evaluate->setEnabled(cancels || (isOpen() && workbench().engine()->usable()));
    m_evaluate->setText(cancels ? tr("Cancel") : tr("Evaluate"));
    m_evaluate->setIcon(
        icon(cancels ? QStringLiteral("square") : QStringLiteral("play"), cancels ? QStringLiteral("text") : QStringLiteral("on-accent")));
    if (m_evaluate->property("filled").toBool() == cancels) {
        m_evaluate->setProperty("filled", !cancels);
        // Makes the style look at the property again.
        m_evaluate->style()->unpolish(m_evaluate);
        m_evaluate->style()->polish(m_evaluate);
    }
}

void MeasureWorkspace::show()
{
    showEstimates();
    showPerplexity();
}

void MeasureWorkspace::setSize(const WindowSize& size)
{
    m_panel->setCompact(size.compact);
    m_in.status->setCompact(size.compact);
}

QString MeasureWorkspace::helpPage(const QWidget* focus) const { return isIn(focus, m_dock) ? QStringLiteral("perplexity") : QString(); }

void MeasureWorkspace::measureProfile()
{
    if (!workbench().profileComplete()) {
        workbench().profile();
        return;
    }
    Banner banner;
    banner.id = QStringLiteral("profile-complete");
    banner.kind = Banner::Kind::Info;
    banner.cause = tr("The profile is complete: every layer is measured on %1.").arg(QFileInfo(workbench().calibrationText()).fileName());
    banner.consequence = tr("Measured again, its scores replace these once the pass is done.");
    banner.once = true;
    banner.actions = {{tr("Measure again"), [this] { workbench().profileAgain(); }}};
    banners().show(banner);
}

// Opening the locked text takes a second click: each look makes it less of a check.
void MeasureWorkspace::askLocked()
{
    const LockedState state = workbench().locked()->state(plans()->committed().hash());
    Banner banner;
    banner.id = QStringLiteral("locked");
    banner.kind = Banner::Kind::Info;
    banner.cause = state.openings == 0 ? tr("The locked text %1 was not opened yet.").arg(state.textName)
                                       : tr("The locked text %1 was opened %n time(s), for %2.", nullptr, state.openings)
                                             .arg(state.textName, tr("%n plan(s)", nullptr, state.plans));
    banner.consequence =
        tr("Choosing plans by it makes it one more text that they are fitted to. Every opening is counted and saved with the session.");
    banner.actions = {{tr("Measure %1 on it").arg(workbench().planName()), [this] { workbench().measureLocked(); }},
                      {tr("Not now"), [] {}}};
    banners().show(banner);
}

// ---- the job

void MeasureWorkspace::connectJobs()
{
    connect(&workbench(), &Workbench::jobChanged, this, [this](const std::optional<JobState>& job) {
        m_jobRunning = job.has_value();
        showJob(job);
        emit actionsChanged();
    });
    m_jobShown.setSingleShot(true);
    m_jobShown.setInterval(kJobShownMsec);
    m_jobGone.setSingleShot(true);
    m_jobGone.setInterval(kJobGoneMsec);
    const auto settle = [this] {
        m_jobVisible = m_job.has_value();
        m_in.status->setJob(m_job);
        emit actionsChanged();
    };
    connect(&m_jobShown, &QTimer::timeout, this, settle);
    connect(&m_jobGone, &QTimer::timeout, this, settle);
}

// What takes less than a moment shows nothing: no bar, no other button.
void MeasureWorkspace::showJob(const std::optional<JobState>& job)
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
        m_in.status->setJob(job);
    else if (!m_jobShown.isActive())
        m_jobShown.start();
}

// ---- the numbers

void MeasureWorkspace::showPerplexity()
{
    if (!isOpen()) return;
    PerplexityState state = workbench().evaluation()->state();
    addEstimate(state);
    state.locked = workbench().locked()->state(plans()->plan().hash());
    m_panel->setState(state);
    const HeadlinePerplexity number = headline(state);
    m_in.status->setPerplexity(number);
    using Kind = HeadlinePerplexity::Kind;
    const QString text = number.kind == Kind::None       ? QString()
                         : number.kind == Kind::Estimate ? format::estimate(number.ppl)
                                                         : tr("PPL %1").arg(format::perplexity(number.ppl, number.error));
    emit headlineChanged(text, number.kind == Kind::Stale ? number.note : QString());
    emit lossesChanged();
}

QHash<QString, PlanLoss> MeasureWorkspace::planLosses() const
{
    QHash<QString, PlanLoss> losses = workbench().evaluation()->planLosses();
    for (auto loss = losses.begin(); loss != losses.end(); ++loss)
        loss->elsewhere = workbench().elsewhere(loss.key().toStdString());
    const QString hash = QString::fromStdString(plans()->plan().hash());
    const auto base = workbench().evaluation()->denseBase();
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

// ---- the estimate

void MeasureWorkspace::connectEstimates()
{
    connect(plans(), &PlanController::shapeChanged, this, [this] { m_estimates->setShape(plans()->shape()); });
    connect(plans(), &PlanController::planChanged, this, &MeasureWorkspace::showEstimates);
    connect(m_in.selection, &SelectionModel::currentChanged, this, [this](CellId cell) {
        m_estimates->setCell(cell);
        showEstimates();
    });
    DeepProfile* deep = workbench().deep();
    connect(deep, &DeepProfile::changed, this, [this, deep] {
        m_estimates->setProfile(deep->file(), QString::fromStdString(deep->sha256()));
        tellMeasured();
        showEstimates();
    });
    connect(m_estimates, &EstimateController::changed, this, &MeasureWorkspace::showPerplexity);
    connect(m_estimates, &EstimateController::changed, this, &MeasureWorkspace::showCellEstimate);
    connect(workbench().evaluation(), &EvaluationController::runsChanged, this, &MeasureWorkspace::tellMeasured);
}

void MeasureWorkspace::showEstimates()
{
    if (!isOpen()) return;
    m_estimates->setPlan(plans()->plan());
    showCellEstimate();
}

void MeasureWorkspace::showCellEstimate()
{
    if (const auto base = workbench().evaluation()->denseBase())
        emit cellEstimateChanged(m_estimates->cellWhat(), m_estimates->cellDelta(base->ppl, tierOf(*base)));
    else
        emit cellEstimateChanged({}, std::nan(""));
}

// Runs that a session brings along are measurements too.
void MeasureWorkspace::tellMeasured()
{
    if (!isOpen()) return;
    const EvaluationController& evaluation = *workbench().evaluation();
    m_estimates->setMeasured(evaluation.runs(), plans()->history(), CompressionPlan::identity(plans()->shape()),
                             {.quick = evaluation.tierWindows(false), .full = evaluation.tierWindows(true)});
}

void MeasureWorkspace::addEstimate(PerplexityState& state) const
{
    const auto base = workbench().evaluation()->denseBase();
    state.notEstimated = m_estimates->notCovered();
    if (state.planIsDense || !base) return;
    if (const auto estimate = m_estimates->estimateOf(plans()->plan().hash(), base->ppl, tierOf(*base))) {
        state.estimatedDelta = estimate->deltaPpl;
        state.estimateBase = base->ppl;
        state.estimateWindows = base->windows;
        state.estimateNote = estimate->note;
    }
}

// ---- what a session keeps of it

void MeasureWorkspace::addToView(Json& view) const
{
    view["difference"] = m_panel->showsDelta();
    view["ranks"]["estimates"] = m_estimates->record();
}

void MeasureWorkspace::restoreView(const Json& view)
{
    const Json ranks = view.value("ranks", Json());
    m_estimates->restoreRecord(ranks.is_object() ? ranks.value("estimates", Json()) : Json());
    tellMeasured();
    m_panel->setShowsDelta(view.value("difference", Json()) == Json(true));
}

}  // namespace espalier
