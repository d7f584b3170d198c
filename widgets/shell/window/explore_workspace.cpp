#include "shell/window/explore_workspace.h"

#include "experts/inspector_panel.h"
#include "heatmap/heatmap_table.h"
#include "look/panel.h"
#include "look/theme.h"

#include <algorithm>
#include <set>
#include <utility>

namespace espalier
{

ExploreWorkspace::ExploreWorkspace(const WindowContext& context, QObject* parent) : Workspace(context, parent)
{
    m_heatmap = new HeatmapView(m_in.selection, m_in.hover);
    m_table = new HeatmapTable(m_heatmap, m_in.selection);
    m_frame = new PanelFrame;
    m_frame->addPage(tr("Importance"), m_heatmap, m_heatmap->choosers());
    m_frame->addPage(tr("Table"), m_table);
    m_in.docks->setCentralWidget(m_frame);
    m_inspector = new InspectorPanel(m_in.selection);
    m_inspectorDock = new Panel(QStringLiteral("inspector"), tr("Inspector"));
    m_inspectorDock->addPage(tr("Inspector"), m_inspector);
    // Below this its rows cannot be read: on a small screen the plots give way.
    m_inspectorDock->setMinimumWidth(pixelsOf(200));
    m_in.docks->addDockWidget(Qt::RightDockWidgetArea, m_inspectorDock);
    banners().setFocusReturn(m_heatmap->focusTarget());

    m_in.actions
        ->add(this, QStringLiteral("view.table"), tr("Heatmap as &table"), QStringLiteral("table-2"), {},
              [this] {
                  const bool table = m_in.actions->get(QStringLiteral("view.table"))->isChecked();
                  m_frame->setCurrentPage(table ? 1 : 0);
                  m_table->refresh();
              })
        ->setCheckable(true);

    connectMap();
    connectInspector();
    connect(plans(), &PlanController::shapeChanged, this, [this] {
        m_heatmap->setShape(plans()->shape());
        m_inspector->setShape(plans()->shape());
    });
    connect(plans(), &PlanController::planChanged, this, &ExploreWorkspace::showPlan);
    connect(plans(), &PlanController::explained, m_inspector,
            [this](const QString& text, bool isError) { m_inspector->explain(text, isError); });
    connect(&workbench(), &Workbench::scoresChanged, this, &ExploreWorkspace::showScores);
    connect(&workbench(), &Workbench::profileChanged, this, &ExploreWorkspace::showScores);
    connect(workbench().engine(), &EngineClient::ready, this, &ExploreWorkspace::showScores);
    connect(&workbench(), &Workbench::closed, this, [this] { m_in.selection->setCurrent({}); });
    connect(m_in.selection, &SelectionModel::currentChanged, this, &Workspace::viewChanged);
}

void ExploreWorkspace::connectMap()
{
    PlanController* plans = this->plans();
    connectGestures(m_heatmap);
    connect(m_heatmap, &HeatmapView::toggleRequested, plans, &PlanController::toggleExpert);
    connect(m_heatmap, &HeatmapView::protectRequested, plans, &PlanController::toggleProtected);
    connect(m_heatmap, &HeatmapView::lockRequested, plans, &PlanController::toggleLocked);
    connect(m_heatmap, &HeatmapView::keepStepRequested, plans, &PlanController::stepKeep);
    connect(m_heatmap, &HeatmapView::rankStepRequested, plans, &PlanController::stepMeanRank);
    connect(m_heatmap, &HeatmapView::setKeptRequested, plans, &PlanController::setKept);
    connect(m_heatmap, &HeatmapView::constantRequested, plans, &PlanController::setConstants);
    connect(m_heatmap, &HeatmapView::skipRequested, plans, &PlanController::setSkipped);
    connect(m_heatmap, &HeatmapView::profileRequested, &workbench(), &Workbench::profile);
    connect(m_heatmap, &HeatmapView::optionsChanged, this, [this](const HeatmapOptions& options) {
        if (!options.ranks() && options.score.toStdString() != workbench().chosenScore())
            workbench().chooseScore(options.score.toStdString());
        nameMap();
        emit viewChanged();
    });
}

void ExploreWorkspace::connectInspector()
{
    PlanController* plans = this->plans();
    connectGestures(m_inspector);
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
    connect(m_inspector, &InspectorPanel::rankRequested, plans, &PlanController::setExpertRank);
    connect(m_inspector, &InspectorPanel::rankMoved, plans, &PlanController::setExpertRank);
    connect(m_inspector, &InspectorPanel::layerRankMoved, plans, &PlanController::setMeanRank);
}

QWidget* ExploreWorkspace::firstOfFrame() const
{
    return m_frame->currentPage() == m_heatmap ? m_heatmap->focusTarget() : m_frame->currentPage();
}

QWidget* ExploreWorkspace::firstOfInspector() const { return m_inspector->firstControl(); }

void ExploreWorkspace::setMapOptions(const HeatmapOptions& options)
{
    m_heatmap->setOptions(options);
    nameMap();
}

void ExploreWorkspace::nameMap() { m_frame->header()->setPageTitle(0, m_heatmap->options().ranks() ? tr("Rank") : tr("Importance")); }

void ExploreWorkspace::showRankMap(bool on)
{
    HeatmapOptions options = m_heatmap->options();
    options.score = on ? kRankMetric : QString::fromStdString(workbench().chosenScore());
    setMapOptions(options);
}

void ExploreWorkspace::setSearching(const std::vector<int>& layers)
{
    if (m_heatmap->setSearching(layers)) m_table->refresh();
}

void ExploreWorkspace::setCellEstimate(const QString& what, double delta) { m_inspector->setCellEstimate(what, delta); }

void ExploreWorkspace::selectSomething()
{
    if (m_in.selection->current().valid()) return;
    for (const LayerShape& layer : plans()->shape().layers)
        if (layer.moe) {
            m_in.selection->setCurrent({layer.index, 0});
            return;
        }
}

void ExploreWorkspace::updateActions() { m_in.actions->enable("view.table", isOpen()); }

void ExploreWorkspace::forget() { m_heatmap->clearScores(); }

void ExploreWorkspace::show()
{
    showPlan();
    showScores();
}

void ExploreWorkspace::setSize(const WindowSize& size)
{
    m_heatmap->setCompact(size.compact);
    m_inspector->setLow(size.low);
}

QString ExploreWorkspace::helpPage(const QWidget* focus) const
{
    if (isIn(focus, m_frame)) return QStringLiteral("heatmap");
    return isIn(focus, m_inspectorDock) ? QStringLiteral("shaping-the-plan") : QString();
}

void ExploreWorkspace::showPlan()
{
    if (!isOpen()) return;
    m_heatmap->setPlan(plans()->plan());
    m_inspector->setPlan(plans()->plan());
}

void ExploreWorkspace::showScoreChoices()
{
    QStringList ids = workbench().scoreIds(), titles = ids;
    ids << kRankMetric;
    titles << tr("Matrix rank in the plan");
    m_heatmap->setScoreChoices(ids, titles);
    HeatmapOptions options = m_heatmap->options();
    if (!options.ranks()) options.score = QString::fromStdString(workbench().chosenScore());
    m_heatmap->setOptions(options);
}

void ExploreWorkspace::showScores()
{
    if (!isOpen()) return;
    const QString noConstants = plans()->constantsProblem();
    m_heatmap->setConstantsProblem(noConstants);
    m_inspector->setConstantsProblem(noConstants);
    showScoreChoices();
    if (const ExpertScores* scores = workbench().currentScores()) {
        m_heatmap->setScores(*scores);
        m_inspector->setScores(*scores);
        const ExpertGrid usage = workbench().usage();
        m_heatmap->setUsage(usage);
        m_inspector->setUsage(usage);
    } else {
        m_heatmap->clearScores();
        m_inspector->setScores({});
        m_inspector->setUsage({});
        showNoScores();
    }
    m_table->refresh();
}

void ExploreWorkspace::showNoScores()
{
    if (workbench().readingWeights()) {
        m_heatmap->setEmptyText(tr("Reading the weights"), tr("This score reads every expert of the model once, and no text."), {});
        return;
    }
    const bool usable = workbench().engine()->usable();
    const bool profiling = workbench().profiling();
    m_heatmap->setEmptyText(profiling ? tr("Measuring the profile") : tr("No scores yet"),
                            profiling ? tr("Rows fill as layers arrive.")
                            : usable  ? tr("One pass over the calibration text measures every expert.")
                                      : tr("The engine is not running."),
                            profiling ? QString() : tr("Profile"), usable);
}

// ---- what a session keeps of it

void ExploreWorkspace::addToView(Json& view) const
{
    const HeatmapOptions& options = m_heatmap->options();
    Json selected = Json::array();
    for (const CellId& cell : m_in.selection->selected())
        selected.push_back({cell.layer, cell.expert});
    const QRect zoom = m_heatmap->zoom();
    view["selected"] = selected;
    view["table"] = m_frame->currentPage() == m_table;
    view["zoom"] = zoom.isNull() ? Json() : Json({zoom.left(), zoom.top(), zoom.width(), zoom.height()});
    view["score"] = workbench().chosenScore();
    view["norm"] = normId(options.norm.norm).toStdString();
    view["clip_percent"] = options.norm.clipPercent;
    view["per_layer"] = options.norm.perLayer;
    view["sort"] = expertSortId(options.sort).toStdString();
    view["colour_map"] = colourMapId(options.map).toStdString();
    view["layer"] = m_in.selection->current().layer;
    view["expert"] = m_in.selection->current().expert;
    view["ranks"]["metric"] = options.ranks();
    view["ranks"]["norm"] = normId(options.rankNorm.norm).toStdString();
    view["ranks"]["clip_percent"] = options.rankNorm.clipPercent;
    view["ranks"]["colour_map"] = colourMapId(options.rankMap).toStdString();
}

namespace
{

QString textOf(const Json& view, const char* key, const QString& fallback)
{
    const Json value = view.value(key, Json());
    return value.is_string() ? QString::fromStdString(value.get<std::string>()) : fallback;
}

bool areIntegers(const Json& list, std::size_t count)
{
    return list.is_array() && list.size() == count &&
           std::all_of(list.begin(), list.end(), [](const Json& x) { return x.is_number_integer(); });
}

}  // namespace

void ExploreWorkspace::restoreView(const Json& view)
{
    HeatmapOptions options = m_heatmap->options();
    options.score = textOf(view, "score", options.ranks() ? QString::fromStdString(workbench().chosenScore()) : options.score);
    options.norm.norm = normFromId(textOf(view, "norm", normId(options.norm.norm)));
    options.sort = expertSortFromId(textOf(view, "sort", expertSortId(options.sort)));
    options.map = colourMapFromId(textOf(view, "colour_map", colourMapId(options.map)));
    if (const Json clip = view.value("clip_percent", Json()); clip.is_number()) options.norm.clipPercent = clip.get<double>();
    if (const Json perLayer = view.value("per_layer", Json()); perLayer.is_boolean()) options.norm.perLayer = perLayer.get<bool>();
    m_heatmap->setOptions(options);
    const Json zoom = view.value("zoom", Json());
    m_heatmap->setZoom(areIntegers(zoom, 4) ? QRect(zoom[0].get<int>(), zoom[1].get<int>(), zoom[2].get<int>(), zoom[3].get<int>())
                                            : QRect());
    const Json layer = view.value("layer", Json());
    const Json expert = view.value("expert", Json());
    if (layer.is_number_integer() && expert.is_number_integer()) m_in.selection->setCurrent({layer.get<int>(), expert.get<int>()});
    std::set<CellId> selected;
    for (const Json& cell : view.value("selected", Json::array()))
        if (areIntegers(cell, 2)) selected.insert({cell[0].get<int>(), cell[1].get<int>()});
    m_in.selection->select(std::move(selected));
    const bool table = view.value("table", Json()) == Json(true);
    m_in.actions->get(QStringLiteral("view.table"))->setChecked(table);
    m_frame->setCurrentPage(table ? 1 : 0);
}

void ExploreWorkspace::restoreRankMap(const Json& of)
{
    HeatmapOptions options = m_heatmap->options();
    options.rankNorm.norm = normFromId(textOf(of, "norm", normId(options.rankNorm.norm)));
    options.rankMap = colourMapFromId(textOf(of, "colour_map", colourMapId(options.rankMap)));
    if (const Json clip = of.value("clip_percent", Json()); clip.is_number()) options.rankNorm.clipPercent = clip.get<double>();
    if (of.value("metric", Json()) == Json(true)) options.score = kRankMetric;
    setMapOptions(options);
}

}  // namespace espalier
