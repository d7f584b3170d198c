// The main window's pipeline and search: the pages, their actions, and what a planning job does to the window.
#include "allocate/allocator.h"
#include "allocate/rank_rule.h"
#include "heatmap/heatmap_table.h"
#include "heatmap/heatmap_view.h"
#include "layers/layers_panel.h"
#include "look/format.h"
#include "look/panel.h"
#include "perplexity/perplexity_panel.h"
#include "plan/cost_model.h"
#include "planning/budget_bar.h"
#include "planning/pipeline_panel.h"
#include "planning/search_panel.h"
#include "ranks/rank_panel.h"
#include "ranks/rank_rule_bar.h"
#include "shell/window/main_window.h"

#include <QFileInfo>
#include <QLabel>

#include <algorithm>

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

// All unlocked ranks anew for this size of the model; who is kept stays. Milliseconds, also for large models.
void rankToSize(Workbench& workbench, RankPanel& panel, std::int64_t bytes, const MethodChoice& rule)
{
    PlanController* plans = workbench.plans();
    if (!workbench.isOpen()) return;
    const CompressionPlan& base = plans->committed();
    RankRequest request;
    request.bytes = bytes;
    request.factors = base.hasRanks() ? base.factors() : plans->rankFactors();
    if (const auto importance = workbench.scores().find("leave-one-out"); importance != workbench.scores().end())
        request.importance = importance->second;
    const Result<CompressionPlan> ranked = assignRanks(plans->shape(), base, rule.method, request, rule.params);
    if (!ranked.ok()) {
        panel.setMessage(QString::fromStdString(ranked.error().message), true);
        return;
    }
    panel.setMessage({}, false);
    const std::vector<MethodInfo> rules = workbench.methods(Slot::RankRule);
    const MethodInfo* info = findMethod(rules, Slot::RankRule, rule.method);
    const QString name = QString::fromStdString(info ? info->title : rule.method);
    plans->replacePlan(*ranked, ranked->hasRanks() ? MainWindow::tr("Ranks by %1, %2").arg(name, format::bytes(bytes))
                                                   : MainWindow::tr("All matrices dense"));
}

}  // namespace

void MainWindow::makePipelineActions()
{
    addAction(QStringLiteral("plan.find"), tr("&Find a plan for this size"), QStringLiteral("search"), {}, [this] { findPlan(true); });
    addAction(QStringLiteral("plan.run"), tr("&Run the pipeline"), {}, {QKeySequence(QStringLiteral("Ctrl+R"))}, [this] { runPipeline(); });
    addAction(QStringLiteral("plan.stop"), tr("&Stop the search and keep the best"), {}, {},
              [this] { m_workbench->planning()->stopAndKeep(); });
    addAction(QStringLiteral("plan.pipeline"), tr("Show the &pipeline"), {}, {QKeySequence(QStringLiteral("Ctrl+L"))},
              [this] { openPipeline(); });
}

void MainWindow::makePipeline()
{
    m_pipeline = new PipelinePanel;
    m_pipelinePage = m_layersDock->addPage(tr("Pipeline"), m_pipeline);
    m_search = new SearchPanel;
    m_searchPage = m_perplexityDock->addPage(tr("Search"), m_search);
    // The perplexity stays in sight while the search is in front.
    m_headline = new QLabel;
    m_headline->setAccessibleName(tr("Perplexity"));
    m_perplexityDock->header()->addTrailing(m_headline);
    m_perplexityDock->header()->addTrailing(m_search->choosers());
    // Of two pages in one place each has its own choosers at the right.
    const auto choosers = [this](int page) {
        m_perplexity->choosers()->setVisible(page != m_searchPage);
        m_search->choosers()->setVisible(page == m_searchPage);
        m_headline->setVisible(page == m_searchPage);
        showSearch();
    };
    connect(m_perplexityDock->header(), &PanelHeader::currentPageChanged, this, choosers);
    choosers(m_perplexityDock->header()->currentPage());
}

void MainWindow::connectPipeline()
{
    PlanController* plans = m_workbench->plans();
    PlanningController* planning = m_workbench->planning();
    connect(m_pipeline, &PipelinePanel::recipeChanged, this, [this] {
        if (m_workbench->isOpen()) m_workbench->setViewState(viewState());
        updateActions();
    });
    connect(m_ranks->rule(), &RankRuleBar::sizeWanted, this,
            [this](qint64 bytes, const MethodChoice& rule) { rankToSize(*m_workbench, *m_ranks, bytes, rule); });
    connect(m_pipeline, &PipelinePanel::runRequested, this, &MainWindow::runPipeline);
    connect(m_pipeline, &PipelinePanel::findRequested, this, [this] { findPlan(false); });
    connect(m_pipeline, &PipelinePanel::unlockRequested, plans, &PlanController::unlock);
    connect(m_search, &SearchPanel::stopRequested, planning, &PlanningController::stopAndKeep);
    connect(m_search, &SearchPanel::keepRequested, planning, &PlanningController::keepBest);
    connect(m_search, &SearchPanel::pipelineRequested, this, [this] { openPipeline(); });
    connect(m_history, &HistoryPanel::runningChosen, this, [this] {
        setRankView(false);
        m_perplexityDock->setVisible(true);
        m_perplexityDock->setCurrentPage(m_searchPage);
    });
    connect(m_search, &SearchPanel::layerChosen, &m_selection, &SelectionModel::setCurrentLayer);
    connect(&m_selection, &SelectionModel::currentChanged, m_search, [this] { m_search->setLayer(m_selection.currentLayer()); });
    connect(m_layers->budget(), &BudgetBar::methodElsewhere, this, &MainWindow::openPipeline);
    connect(plans, &PlanController::shapeChanged, m_pipeline, [this, plans] { m_pipeline->setShape(plans->shape()); });
    connect(plans, &PlanController::planChanged, m_pipeline, [this, plans] {
        if (m_workbench->isOpen()) m_pipeline->setPlan(plans->plan());
    });

    connect(planning, &PlanningController::changed, this, &MainWindow::showSearch);
    connect(planning, &PlanningController::started, this, [this] {
        for (const char* id : {"plan", "plan-branch", "plan-same", "plan-resume"})
            m_banners->dismiss(QString::fromLatin1(id));
        m_perplexityDock->setVisible(true);
        m_perplexityDock->setCurrentPage(m_searchPage);
        updateActions();
    });
    connect(planning, &PlanningController::ended, this, [this] {
        if (m_workbench->isOpen()) m_workbench->setViewState(viewState());
        updateActions();
    });
    connect(planning, &PlanningController::branched, this, [this, plans](int entry, const QString& text) {
        Banner banner;
        banner.id = QStringLiteral("plan-branch");
        banner.kind = Banner::Kind::Info;
        banner.iconName = QStringLiteral("git-branch");
        banner.cause = tr("%1 is ready.").arg(text);
        banner.consequence = tr("The plan was edited meanwhile, so it stands beside it in the history.");
        banner.actions = {{tr("Show it"), [plans, entry] { plans->jumpTo(entry); }}};
        m_banners->show(banner);
    });
    connect(planning, &PlanningController::unchanged, this, [this] {
        Banner banner;
        banner.id = QStringLiteral("plan-same");
        banner.kind = Banner::Kind::Info;
        banner.cause = tr("The search ended with the plan it started from.");
        banner.consequence = tr("Nothing was changed.");
        m_banners->show(banner);
    });
    connect(m_workbench, &Workbench::closed, this, [this] {
        for (const char* id : {"plan", "plan-branch", "plan-same", "plan-resume"})
            m_banners->dismiss(QString::fromLatin1(id));
    });
}

void MainWindow::showPipeline()
{
    if (!m_workbench->isOpen()) return;
    const std::vector<MethodInfo> methods = m_workbench->methods();
    m_pipeline->setMethods(methods);
    m_pipeline->setAvailable(m_workbench->statistics(),
                             QFileInfo::exists(m_workbench->calibrationText()) ? QString() : tr("the calibration text is gone"));
    const bool importance = m_workbench->scores().contains("leave-one-out") && !m_workbench->profiling();
    m_ranks->rule()->setMethods(m_workbench->methods(Slot::RankRule), [importance](const MethodInfo& rule) {
        // Of a profile the window has the scores of its stored products, and nothing else.
        const bool byScores = std::all_of(rule.needs.begin(), rule.needs.end(), [](const std::string& need) { return need == "gram"; });
        if (!byScores) return tr("runs in the pipeline");
        return rule.needs.empty() || importance ? QString() : tr("needs the leave-one-out scores of a profile");
    });
    for (const MethodInfo& method : methods)
        if (method.slot == Slot::Allocate && !runsInWindow(method.id))
            m_layers->budget()->setMethodElsewhere(QString::fromStdString(method.id), tr("Runs in the engine: opens the pipeline"));
}

void MainWindow::updatePipelineActions()
{
    if (!m_pipeline) return;
    PlanningController* planning = m_workbench->planning();
    const QString problem = m_workbench->planningProblem();
    m_pipeline->setBlocked(problem);
    m_actions[QStringLiteral("plan.run")]->setEnabled(problem.isEmpty() && m_pipeline->problem().isEmpty());
    m_actions[QStringLiteral("plan.find")]->setEnabled(m_pipeline->canFind());
    m_actions[QStringLiteral("plan.stop")]->setEnabled(planning->running() && planning->canKeepBest());
    offerToGoOn();
}

void MainWindow::showSearch()
{
    PlanningController* planning = m_workbench->planning();
    m_search->setState(planning->state(), planning->canKeepBest());
    const bool front = m_perplexityDock->header()->currentPage() == m_searchPage;
    m_perplexityDock->header()->setSubtitle(front && planning->running() ? tr("one history entry when done") : QString());
    m_actions[QStringLiteral("plan.stop")]->setEnabled(planning->running() && planning->canKeepBest());
    showRunningEntry();
}

// What runs stands where its result will: in the history, and in the map at the layers it works on.
void MainWindow::showRunningEntry()
{
    const PlanningController* planning = m_workbench->planning();
    const SearchState& state = planning->state();
    if (m_heatmap->setSearching(state.layersBeingSearched())) m_heatmapTable->refresh();
    std::optional<RunningEntry> running;
    if (planning->running()) {
        running.emplace();
        running->parent = planning->startEntry();
        running->text = (state.phase == SearchState::Phase::Cancelling ? tr("%1 (stopping)") : tr("%1 (running)")).arg(state.title);
        if (state.stage == "select") running->progress = format::countOf(state.layersFinished(), state.layersToSearch());
    }
    m_history->setRunning(running);
}

void MainWindow::openPipeline(const QString& allocation)
{
    if (!m_workbench->isOpen()) return;
    m_layersDock->setVisible(true);
    m_layersDock->setCurrentPage(m_pipelinePage);
    if (!allocation.isEmpty()) m_pipeline->chooseAllocation(allocation);
    m_pipeline->firstControl()->setFocus(Qt::OtherFocusReason);
}

void MainWindow::runPipeline()
{
    if (m_workbench->planningProblem().isEmpty() && m_pipeline->problem().isEmpty()) m_workbench->plan(m_pipeline->recipe());
}

// From the menu "this size" is that of the plan on screen; beside the target it is the target. The recipe on the page stays as it is set.
void MainWindow::findPlan(bool sizeOfPlan)
{
    if (!m_workbench->planningProblem().isEmpty() || !m_pipeline->canFind()) return;
    PipelineRecipe recipe = findRecipe(m_pipeline->recipe());
    const PlanController* plans = m_workbench->plans();
    if (sizeOfPlan && !plans->committed().isIdentity(plans->shape())) {
        recipe.target = PipelineRecipe::Target::Bytes;
        recipe.bytes = planCost(plans->shape(), plans->committed()).bytes;
    }
    openPipeline();
    m_workbench->plan(recipe);
}

// What a lost engine had measured is on disk: the search can go on once an engine is there and has the model.
void MainWindow::offerToGoOn()
{
    PlanningController* planning = m_workbench->planning();
    const QString id = QStringLiteral("plan-resume");
    if (!planning->canResume()) {
        m_banners->dismiss(id);
        m_offeredToGoOn = false;
        return;
    }
    if (m_offeredToGoOn || !m_workbench->planningProblem().isEmpty()) return;
    m_offeredToGoOn = true;
    Banner banner;
    banner.id = id;
    banner.kind = Banner::Kind::Info;
    banner.cause = tr("%1 broke off when the engine stopped.").arg(planning->state().title);
    banner.consequence = tr("What it had measured is kept, and need not be measured again.");
    banner.actions = {{tr("Go on"), [planning] { planning->resume(); }, true}};
    m_banners->show(banner);
}

}  // namespace espalier
