#include "shell/window/pipeline_workspace.h"

#include "allocate/allocator.h"
#include "allocate/rank_rule.h"
#include "layers/layers_panel.h"
#include "look/error_text.h"
#include "look/fold_row.h"
#include "look/format.h"
#include "look/panel.h"
#include "perplexity/history_panel.h"
#include "plan/cost_model.h"
#include "planning/budget_bar.h"
#include "planning/pipeline_panel.h"
#include "planning/search_panel.h"
#include "ranks/rank_panel.h"
#include "ranks/rank_rule_bar.h"
#include "shell/window/budget_workspace.h"
#include "shell/window/explore_workspace.h"
#include "shell/window/history_workspace.h"
#include "shell/window/measure_workspace.h"
#include "shell/window/rank_workspace.h"

#include <QFileInfo>
#include <QLabel>

#include <algorithm>
#include <utility>

namespace espalier
{

namespace
{

// Allocators that the window computes itself; every other one needs what the engine holds.
bool runsInWindow(const std::string& id)
{
    const auto& own = allocators();
    return std::any_of(own.begin(), own.end(), [&](const MethodInfo& method) { return method.id == id && !method.needsCurves; });
}

}  // namespace

PipelineWorkspace::PipelineWorkspace(const WindowContext& context, const Neighbours& beside, QObject* parent)
    : Workspace(context, parent), m_beside(beside)
{
    makeActions();
    makePages();
    connectPages();
    connectPlanning();
    connectRankRule();
    connect(&workbench(), &Workbench::scoresChanged, this, &PipelineWorkspace::showMethods);
    connect(&workbench(), &Workbench::profileChanged, this, &PipelineWorkspace::showMethods);
    connect(workbench().engine(), &EngineClient::ready, this, &PipelineWorkspace::showMethods);
    connect(&workbench(), &Workbench::closed, this, &PipelineWorkspace::dismissTold);
}

void PipelineWorkspace::makeActions()
{
    m_in.actions->add(this, QStringLiteral("plan.find"), tr("&Find a plan for this size"), QStringLiteral("search"), {},
                      [this] { find(true); });
    m_in.actions->add(this, QStringLiteral("plan.recover"), tr("Reco&ver the plan on screen"), {}, {}, [this] { recover(); });
    m_in.actions->add(this, QStringLiteral("plan.run"), tr("&Run the pipeline"), {}, WindowActions::keys({"Ctrl+R"}), [this] { run(); });
    m_in.actions->add(this, QStringLiteral("plan.stop"), tr("&Stop the search and keep the best"), {}, {},
                      [this] { workbench().planning()->stopAndKeep(); });
    m_in.actions->add(this, QStringLiteral("plan.pipeline"), tr("Show the &pipeline"), {}, WindowActions::keys({"Ctrl+L"}),
                      [this] { open(); });
}

void PipelineWorkspace::makePages()
{
    m_panel = new PipelinePanel;
    m_page = m_beside.budget->dock()->addPage(tr("Pipeline"), m_panel);
    m_search = new SearchPanel;
    Panel* below = m_beside.measure->dock();
    m_searchPage = below->addPage(tr("Search"), m_search);
    // The perplexity stays in sight while the search is in front.
    m_headline = new FoldRow(tr("Perplexity"));
    auto* number = new QLabel;
    number->setAccessibleName(tr("Perplexity"));
    auto* age = new QLabel;
    m_headline->add(number, 2, {});
    m_headline->add(age, 1, {});
    below->header()->addTrailing(m_headline);
    below->header()->addTrailing(m_search->choosers());
    connect(m_beside.measure, &MeasureWorkspace::headlineChanged, number, [this, number, age](const QString& text, const QString& note) {
        number->setText(text);
        age->setText(note);
        m_headline->setToolTip(note.isEmpty() ? text : text + format::kDot + note);
        m_headline->setShown(age, !note.isEmpty());
    });
    // Of two pages in one place each has its own choosers at the right.
    const auto choosers = [this](int page) {
        m_search->choosers()->setVisible(page == m_searchPage);
        m_headline->setVisible(page == m_searchPage);
        showSearch();
    };
    connect(below->header(), &PanelHeader::currentPageChanged, this, choosers);
    choosers(below->header()->currentPage());
}

void PipelineWorkspace::connectPages()
{
    PlanController* plans = this->plans();
    PlanningController* planning = workbench().planning();
    connect(m_panel, &PipelinePanel::recipeChanged, this, [this] {
        if (isOpen()) emit viewChanged();
        emit actionsChanged();
    });
    connect(m_panel, &PipelinePanel::runRequested, this, &PipelineWorkspace::run);
    connect(m_panel, &PipelinePanel::findRequested, this, [this] { find(false); });
    connect(m_panel, &PipelinePanel::recoverRequested, this, &PipelineWorkspace::recover);
    connect(m_panel, &PipelinePanel::unlockRequested, plans, &PlanController::unlock);
    connect(m_search, &SearchPanel::stopRequested, planning, &PlanningController::stopAndKeep);
    connect(m_search, &SearchPanel::keepRequested, planning, &PlanningController::keepBest);
    connect(m_search, &SearchPanel::pipelineRequested, this, [this] { open(); });
    connect(m_beside.history->panel(), &HistoryPanel::runningChosen, this, [this] {
        m_beside.ranks->setRankView(false);
        showSearchPage();
    });
    connect(m_search, &SearchPanel::layerChosen, m_in.selection, &SelectionModel::setCurrentLayer);
    connect(m_in.selection, &SelectionModel::currentChanged, m_search, [this] { m_search->setLayer(m_in.selection->currentLayer()); });
    connect(m_beside.budget, &BudgetWorkspace::methodElsewhere, this, &PipelineWorkspace::open);
    connect(plans, &PlanController::shapeChanged, m_panel, [this, plans] { m_panel->setShape(plans->shape()); });
    connect(plans, &PlanController::planChanged, m_panel, [this, plans] {
        if (isOpen()) m_panel->setPlan(plans->plan());
    });
}

void PipelineWorkspace::connectPlanning()
{
    PlanningController* planning = workbench().planning();
    connect(planning, &PlanningController::changed, this, &PipelineWorkspace::showSearch);
    connect(planning, &PlanningController::started, this, [this] {
        dismissTold();
        showSearchPage();
        emit actionsChanged();
    });
    connect(planning, &PlanningController::ended, this, [this] {
        if (isOpen()) emit viewChanged();
        emit actionsChanged();
    });
    connect(planning, &PlanningController::branched, this, [this](int entry, const QString& text) {
        tell(QStringLiteral("plan-branch"), QStringLiteral("git-branch"), tr("%1 is ready.").arg(text),
             tr("The plan was edited meanwhile, so it stands beside it in the history."),
             {{tr("Show it"), [plans = plans(), entry] { plans->jumpTo(entry); }}});
    });
    connect(planning, &PlanningController::unchanged, this, [this] {
        tell(QStringLiteral("plan-same"), {}, tr("The search ended with the plan it started from."), tr("Nothing was changed."), {});
    });
}

void PipelineWorkspace::connectRankRule()
{
    connect(m_beside.ranks->panel()->rule(), &RankRuleBar::sizeWanted, this, &PipelineWorkspace::rankToSize);
}

QWidget* PipelineWorkspace::firstOfPanel() const { return m_panel->firstControl(); }

QWidget* PipelineWorkspace::firstOfSearch() const { return m_search->firstControl(); }

void PipelineWorkspace::setSize(const WindowSize& size) { m_search->setCompact(size.compact); }

QString PipelineWorkspace::helpPage(const QWidget* focus) const
{
    return isIn(focus, m_panel) || isIn(focus, m_search) ? QStringLiteral("pipeline") : QString();
}

void PipelineWorkspace::updateActions()
{
    PlanningController* planning = workbench().planning();
    const QString problem = workbench().planningProblem();
    m_panel->setBlocked(problem);
    m_in.actions->enable("plan.pipeline", isOpen());
    m_in.actions->enable("plan.run", problem.isEmpty() && m_panel->problem().isEmpty());
    m_in.actions->enable("plan.find", m_panel->canFind());
    m_in.actions->enable("plan.recover", m_panel->canRecover());
    m_in.actions->enable("plan.stop", planning->running() && planning->canKeepBest());
    offerToGoOn();
}

void PipelineWorkspace::showMethods()
{
    if (!isOpen()) return;
    const std::vector<MethodInfo> methods = workbench().methods();
    m_panel->setMethods(methods);
    m_panel->setAvailable(workbench().statistics(),
                          QFileInfo::exists(workbench().calibrationText()) ? QString() : tr("the calibration text is gone"));
    const bool importance = workbench().scores().contains("leave-one-out") && !workbench().profiling();
    m_beside.ranks->panel()->rule()->setMethods(workbench().methods(Slot::RankRule), [importance](const MethodInfo& rule) {
        // Of a profile the window has the scores of its stored products, and nothing else.
        const bool byScores = std::all_of(rule.needs.begin(), rule.needs.end(), [](const std::string& need) { return need == "gram"; });
        if (!byScores) return tr("runs in the pipeline");
        return rule.needs.empty() || importance ? QString() : tr("needs the leave-one-out scores of a profile");
    });
    for (const MethodInfo& method : methods)
        if (method.slot == Slot::Allocate && !runsInWindow(method.id))
            m_beside.budget->panel()->budget()->setMethodElsewhere(QString::fromStdString(method.id),
                                                                   tr("Runs in the engine: opens the pipeline"));
}

// ---- a search

void PipelineWorkspace::showSearchPage()
{
    m_beside.measure->dock()->setVisible(true);
    m_beside.measure->dock()->setCurrentPage(m_searchPage);
}

void PipelineWorkspace::showSearch()
{
    PlanningController* planning = workbench().planning();
    m_search->setState(planning->state(), planning->canKeepBest());
    PanelHeader* header = m_beside.measure->dock()->header();
    const bool front = header->currentPage() == m_searchPage;
    header->setSubtitle(front && planning->running() ? tr("one history entry when done") : QString());
    m_in.actions->enable("plan.stop", planning->running() && planning->canKeepBest());
    showRunningEntry();
}

// What runs stands where its result will: in the history, and in the map at the layers it works on.
void PipelineWorkspace::showRunningEntry()
{
    const PlanningController* planning = workbench().planning();
    const SearchState& state = planning->state();
    m_beside.explore->setSearching(state.layersBeingSearched());
    std::optional<RunningEntry> running;
    if (planning->running()) {
        running.emplace();
        running->parent = planning->startEntry();
        running->text = (state.phase == SearchState::Phase::Cancelling ? tr("%1 (stopping)") : tr("%1 (running)")).arg(state.title);
        if (state.stage == "select") running->progress = format::countOf(state.layersFinished(), state.layersToSearch());
    }
    m_beside.history->panel()->setRunning(running);
}

void PipelineWorkspace::open(const QString& allocation)
{
    if (!isOpen()) return;
    m_beside.budget->dock()->setVisible(true);
    m_beside.budget->dock()->setCurrentPage(m_page);
    if (!allocation.isEmpty()) m_panel->chooseAllocation(allocation);
    m_panel->firstControl()->setFocus(Qt::OtherFocusReason);
}

void PipelineWorkspace::run()
{
    if (workbench().planningProblem().isEmpty() && m_panel->problem().isEmpty()) workbench().plan(m_panel->recipe());
}

void PipelineWorkspace::recover()
{
    if (workbench().planningProblem().isEmpty() && m_panel->canRecover()) workbench().recover(m_panel->recipe());
}

// From the menu "this size" is that of the plan on screen; beside the target it is the target. The recipe on the page stays as it is set.
void PipelineWorkspace::find(bool sizeOfPlan)
{
    if (!workbench().planningProblem().isEmpty() || !m_panel->canFind()) return;
    PipelineRecipe recipe = findRecipe(m_panel->recipe());
    if (sizeOfPlan && !plans()->committed().isIdentity(plans()->shape())) {
        recipe.target = PipelineRecipe::Target::Bytes;
        recipe.bytes = planCost(plans()->shape(), plans()->committed()).bytes;
    }
    open();
    workbench().plan(recipe);
}

// All unlocked ranks anew for this size of the model; who is kept stays. Milliseconds, also for large models.
void PipelineWorkspace::rankToSize(qint64 bytes, const MethodChoice& rule)
{
    if (!isOpen()) return;
    PlanController* plans = this->plans();
    RankPanel* panel = m_beside.ranks->panel();
    const CompressionPlan& base = plans->committed();
    RankRequest request;
    request.bytes = bytes;
    request.factors = base.hasRanks() ? base.factors() : plans->rankFactors();
    if (const auto importance = workbench().scores().find("leave-one-out"); importance != workbench().scores().end())
        request.importance = importance->second;
    const Result<CompressionPlan> ranked = assignRanks(plans->shape(), base, rule.method, request, rule.params);
    if (!ranked.ok()) {
        panel->setMessage(causeText(ranked.error()), true);
        return;
    }
    panel->setMessage({}, false);
    const std::vector<MethodInfo> rules = workbench().methods(Slot::RankRule);
    const MethodInfo* info = findMethod(rules, Slot::RankRule, rule.method);
    const QString name = QString::fromStdString(info ? info->title : rule.method);
    plans->replacePlan(*ranked, ranked->hasRanks() ? tr("Ranks by %1, %2").arg(name, format::bytes(bytes)) : tr("All matrices dense"));
}

// ---- what is said of it

void PipelineWorkspace::tell(const QString& id, const QString& iconName, const QString& cause, const QString& consequence,
                             std::vector<BannerAction> actions)
{
    Banner banner;
    banner.id = id;
    banner.kind = Banner::Kind::Info;
    banner.iconName = iconName;
    banner.cause = cause;
    banner.consequence = consequence;
    banner.actions = std::move(actions);
    banners().show(banner);
}

void PipelineWorkspace::dismissTold()
{
    for (const char* id : {"plan", "plan-branch", "plan-same", "plan-resume"})
        banners().dismiss(QString::fromLatin1(id));
}

// What a lost engine had measured is on disk: the search can go on once an engine is there and has the model.
void PipelineWorkspace::offerToGoOn()
{
    PlanningController* planning = workbench().planning();
    const QString id = QStringLiteral("plan-resume");
    if (!planning->canResume()) {
        banners().dismiss(id);
        m_offeredToGoOn = false;
        return;
    }
    if (m_offeredToGoOn || !workbench().planningProblem().isEmpty()) return;
    m_offeredToGoOn = true;
    tell(id, {}, tr("%1 broke off when the engine stopped.").arg(planning->state().title),
         tr("What it had measured is kept, and need not be measured again."), {{tr("Go on"), [planning] { planning->resume(); }, true}});
}

// ---- what a session keeps of it

void PipelineWorkspace::addToView(Json& view) const
{
    view["pipeline"] = viewJson(m_panel->recipe());
    view["search"] = viewJson(workbench().planning()->state());
}

void PipelineWorkspace::restoreView(const Json& view)
{
    if (SearchState search = searchFromViewJson(view.value("search", Json()), plans()->shape()); search.phase != SearchState::Phase::None)
        workbench().planning()->show(std::move(search));
    if (const Json pipeline = view.value("pipeline", Json()); pipeline.is_object())
        m_panel->setRecipe(recipeFromViewJson(pipeline, m_panel->recipe()));
}

}  // namespace espalier
