#include "shell/window/budget_workspace.h"

#include "experts/expert_view.h"
#include "layers/layers_panel.h"
#include "look/panel.h"
#include "planning/budget_bar.h"

namespace espalier
{

BudgetWorkspace::BudgetWorkspace(const WindowContext& context, QObject* parent) : Workspace(context, parent)
{
    m_panel = new LayersPanel(m_in.selection, m_in.hover);
    m_dock = new Panel(QStringLiteral("layers"), tr("Kept per layer"));
    m_dock->addPage(tr("Kept per layer"), m_panel);
    m_in.docks->addDockWidget(Qt::LeftDockWidgetArea, m_dock);
    makeActions();
    makeFormActions();
    connectPanel();
    connect(plans(), &PlanController::shapeChanged, this, [this] { m_panel->setShape(plans()->shape()); });
    connect(plans(), &PlanController::planChanged, this, &BudgetWorkspace::showPlan);
    connect(plans(), &PlanController::explained, this, &BudgetWorkspace::explain);
    connect(&workbench(), &Workbench::scoresChanged, this, &BudgetWorkspace::showScores);
    connect(&workbench(), &Workbench::profileChanged, this, &BudgetWorkspace::showScores);
    connect(workbench().engine(), &EngineClient::ready, this, &BudgetWorkspace::showScores);
    connect(m_in.selection, &SelectionModel::currentChanged, this, &BudgetWorkspace::updateFormActions);
}

void BudgetWorkspace::makeActions()
{
    m_in.actions->add(this, QStringLiteral("plan.dense"), tr("Keep &all experts"), {}, {}, [this] {
        plans()->cancelGesture();
        plans()->replacePlan(CompressionPlan::identity(plans()->shape()).withModel(plans()->plan().model()), tr("Keep all experts"));
    });
    m_in.actions->add(this, QStringLiteral("plan.equal"), tr("&Equalise counts for a stock export"), {}, {}, [this] { equaliseCounts(); });
    m_in.actions->add(this, QStringLiteral("plan.rank"), tr("&Choose the experts anew by score"), {}, {}, [this] {
        plans()->cancelGesture();
        plans()->rankAnew();
    });
}

void BudgetWorkspace::makeFormActions()
{
    m_in.actions->add(this, QStringLiteral("plan.constants"), tr("&Dropped experts become constants"), {}, {},
                      [this] { plans()->setDroppedAs(ConstantKind::Mean); });
    m_in.actions->add(this, QStringLiteral("plan.constantsWeighted"), tr("Dropped experts become &weighted constants"), {}, {},
                      [this] { plans()->setDroppedAs(ConstantKind::Weighted); });
    m_in.actions->add(this, QStringLiteral("plan.dropConstants"), tr("C&onstants become dropped"), {}, {},
                      [this] { plans()->setDroppedAs({}); });
    m_in.actions
        ->add(this, QStringLiteral("plan.skipLayer"), tr("S&kip the current layer"), {}, {},
              [this] {
                  const int layer = m_in.selection->currentLayer();
                  if (layer < 0 || layer >= plans()->plan().layerCount()) return;
                  plans()->setSkipped(layer, plans()->plan().layer(layer).run() != LayerRun::Skipped);
                  updateFormActions();  // a refusal leaves it as it was
              })
        ->setCheckable(true);
}

void BudgetWorkspace::connectPanel()
{
    PlanController* plans = this->plans();
    BudgetBar* budget = m_panel->budget();
    connectGestures(m_panel);
    connectGestures(budget);
    connect(m_panel, &LayersPanel::layerKeepMoved, plans, &PlanController::setKeep);
    connect(m_panel, &LayersPanel::lockRequested, plans, &PlanController::toggleLocked);
    connect(m_panel, &LayersPanel::skipRequested, plans, &PlanController::setSkipped);
    connect(m_panel, &LayersPanel::lockedTouched, plans, &PlanController::refusesKeep);
    connect(m_panel->curve(), &KeptCurve::resetRequested, this,
            [plans](int layer) { plans->setKeep(layer, plans->shape().layers[static_cast<std::size_t>(layer)].experts); });
    connect(budget, &BudgetBar::allocationRequested, plans, &PlanController::allocateTo);
    connect(budget, &BudgetBar::rankAnewRequested, m_in.actions->get(QStringLiteral("plan.rank")), &QAction::trigger);
    connect(budget, &BudgetBar::unlockRequested, plans, &PlanController::retryUnlocked);
    connect(budget, &BudgetBar::rankingChosen, this, [this](const QString& id) {
        workbench().rankBy(id.toStdString());
        emit viewChanged();
    });
    connect(budget, &BudgetBar::methodElsewhere, this, &BudgetWorkspace::methodElsewhere);
}

void BudgetWorkspace::equaliseCounts()
{
    AllocationIntent intent = m_panel->budget()->intent();
    intent.keepTotal = plans()->plan().keptExperts();
    intent.method = "uniform";
    intent.params.clear();
    intent.equalCounts = true;
    intent.change = AllocationIntent::Change::Equality;
    plans()->allocateTo(intent);
}

QWidget* BudgetWorkspace::firstControl() const { return m_panel->curve()->focusTarget(); }

void BudgetWorkspace::updateActions()
{
    for (const char* id : {"plan.dense", "plan.equal", "plan.rank"})
        m_in.actions->enable(id, isOpen());
    updateFormActions();
}

void BudgetWorkspace::updateFormActions()
{
    const bool open = isOpen();
    const bool hasConstants = open && plans()->plan().hasConstants();
    const bool source = open && (plans()->constantsProblem().isEmpty() ||
                                 (plans()->plan().needsConstants() && !plans()->plan().constantsProfile().empty()));
    const QString why = open && !source ? tr("No constants: %1").arg(plans()->constantsProblem()) : QString();
    for (const char* id : {"plan.constants", "plan.constantsWeighted"}) {
        QAction* action = m_in.actions->get(QString::fromLatin1(id));
        action->setEnabled(source && (plans()->hasDropped() || hasConstants));
        action->setStatusTip(why);
    }
    m_in.actions->enable("plan.dropConstants", hasConstants);
    const int layer = m_in.selection->currentLayer();
    QAction* skip = m_in.actions->get(QStringLiteral("plan.skipLayer"));
    const bool there = open && layer >= 0 && layer < plans()->plan().layerCount();
    skip->setEnabled(there && whyNoSkip(plans()->shape(), plans()->plan(), layer).isEmpty());
    skip->setChecked(there && plans()->plan().layer(layer).run() == LayerRun::Skipped);
}

void BudgetWorkspace::forget() { m_panel->budget()->setMethods(workbench().methods(Slot::Allocate)); }

void BudgetWorkspace::show()
{
    showPlan();
    showScores();
}

void BudgetWorkspace::setSize(const WindowSize& size)
{
    m_panel->setCompact(size.compact);
    m_panel->setLow(size.low);
}

QString BudgetWorkspace::helpPage(const QWidget* focus) const
{
    return isIn(focus, m_dock) ? QStringLiteral("shaping-the-plan") : QString();
}

bool BudgetWorkspace::showsRefusals() const { return m_panel->budget()->isVisible(); }

void BudgetWorkspace::showPlan()
{
    if (!isOpen()) return;
    m_panel->setReference(plans()->inGesture() ? std::optional(plans()->committed()) : std::nullopt);
    m_panel->setPlan(plans()->plan());
}

void BudgetWorkspace::showScores()
{
    if (!isOpen()) return;
    const ExpertScores* scores = workbench().currentScores();
    m_panel->budget()->setRankings(workbench().profiling() || !scores ? QStringList() : workbench().scoreIds(),
                                   QString::fromStdString(workbench().ranking()));
    m_panel->setScores(scores ? *scores : ExpertScores());
    const bool importance = workbench().scores().contains("leave-one-out") && !workbench().profiling();
    for (const char* id : {"importance", "inverse"})
        m_panel->budget()->setMethodAvailable(QString::fromLatin1(id),
                                              importance ? QString() : tr("needs the leave-one-out scores of a profile"));
}

void BudgetWorkspace::explain(const QString& text, bool isError, const std::vector<int>& locks)
{
    m_panel->budget()->setMessage(text, isError, locks);
    // At the box as well, where the number was typed.
    m_panel->table()->explain(text, isError);
}

// ---- what a session keeps of it

void BudgetWorkspace::addToView(Json& view) const
{
    const AllocationIntent intent = m_panel->budget()->intent();
    Json params = Json::object();
    for (const auto& [key, value] : intent.params)
        params[key] = value;
    view["budget"] = {
        {"method", intent.method}, {"params", params}, {"equal_counts", intent.equalCounts}, {"ranking", workbench().ranking()}};
}

void BudgetWorkspace::restoreView(const Json& view)
{
    const Json budget = view.value("budget", Json());
    if (!budget.is_object() || !budget.value("method", Json()).is_string()) return;
    AllocationIntent choice;
    choice.method = budget["method"].get<std::string>();
    choice.equalCounts = budget.value("equal_counts", Json()) == Json(true);
    if (const Json params = budget.value("params", Json()); params.is_object())
        for (const auto& [key, value] : params.items())
            choice.params[key] = value;
    m_panel->budget()->setChoice(choice);
}

}  // namespace espalier
