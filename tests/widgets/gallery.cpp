// Every view with invented data, in the arrangement of the first layout.
//   gallery [--dark] [--small] [--text 150] [--ranks] [--grab FILE.png] [--state empty|loading|stale] [--search
//   none|genetic|verified|blocks]
#include "allocate/allocator.h"
#include "experts/inspector_panel.h"
#include "heatmap/heatmap_view.h"
#include "layers/layers_panel.h"
#include "look/banner.h"
#include "look/controls.h"
#include "look/icon.h"
#include "look/panel.h"
#include "look/theme.h"
#include "perplexity/history_panel.h"
#include "perplexity/perplexity_panel.h"
#include "perplexity/status_bar.h"
#include "plan/rank_edit.h"
#include "planning/pipeline_panel.h"
#include "planning/search_panel.h"
#include "sample.h"

#include <QApplication>
#include <QMainWindow>
#include <QVBoxLayout>

#include <cmath>

using namespace espalier;
using namespace espalier::test;

namespace
{

std::vector<MethodInfo> someMethods()
{
    const auto method = [](const char* id, const char* title, Slot slot, const char* need) {
        MethodInfo info;
        info.id = id;
        info.title = title;
        info.slot = slot;
        if (*need != 0) info.needs = {need};
        return info;
    };
    const auto param = [](const char* key, ParamType type, Json value, double low, double high, const char* unit = "") {
        ParamSpec spec;
        spec.key = key;
        spec.type = type;
        spec.defaultValue = std::move(value);
        spec.low = low;
        spec.high = high;
        spec.unit = unit;
        return spec;
    };
    std::vector<MethodInfo> methods = allocators();
    methods.push_back(method("verified", "Verified exchange", Slot::Allocate, "gram"));
    methods.back().runsModel = methods.back().searches = true;
    methods.back().params = {param("minutes", ParamType::Number, 0.0, 0, 10000, "min"),
                             param("unit", ParamType::Integer, 1, 1, 64, "experts"), param("moves", ParamType::Integer, 0, 0, 100000)};
    methods.push_back(method("leave-one-out", "Leave-one-out importance", Slot::Score, "gram"));
    methods.push_back(method("reap", "REAP", Slot::Score, "reap"));
    methods.push_back(method("genetic", "Genetic search", Slot::Select, "gram"));
    methods.back().params = {param("population", ParamType::Integer, 100, 4, 5000, "sets"),
                             param("generations", ParamType::Integer, 50, 0, 5000),
                             param("elites", ParamType::Number, 0.2, 0.01, 0.9),
                             param("mutation", ParamType::Number, 0.3, 0, 1),
                             param("enumerate_below", ParamType::Integer, 5000, 0, 1e7, "sets"),
                             param("swap", ParamType::Switch, true, 0, 0)};
    methods.back().stochastic = methods.back().searches = true;
    methods.push_back(method("ranking", "Ranking", Slot::Select, ""));
    methods.push_back(method("moe-i2", "MoE-I²", Slot::RankRule, "gram"));
    methods.back().params = {param("alpha", ParamType::Number, 0.15, 0, 1)};
    methods.push_back(method("exact", "Exact", Slot::RankRule, "curves"));
    methods.push_back(method("svd", "Truncated SVD", Slot::Factors, ""));
    methods.push_back(method("whitened-svd", "Whitened SVD", Slot::Factors, "factors"));
    return methods;
}

// A search over 24 layers in its middle; or at its end, in the blocks of the receptive field.
SearchState someSearch(const ModelShape& shape, const CompressionPlan& base, const QString& kind)
{
    SearchState s;
    s.phase = kind == QLatin1StringView("genetic") ? SearchState::Phase::Running : SearchState::Phase::Finished;
    s.recipe = withPreset({}, kind == QLatin1StringView("verified") ? PipelinePreset::Verified : PipelinePreset::MoeI2);
    s.recipe.seed = 11;
    s.scoreName = QStringLiteral("reap");
    s.generations = 60;
    s.stochastic = true;
    s.shape = shape;
    s.base = base;
    s.best = base;
    s.seconds = 318;
    s.ended = QDateTime::currentDateTime();
    if (kind == QLatin1StringView("verified")) {
        s.stage = "allocate";
        s.measures = true;
        double best = 2.0712;
        for (int i = 0; i < 31; ++i) {
            const double change = i == 0 ? 0 : 0.004 * std::sin(1.7 * i) - 0.0012 * (i % 5 == 0);
            const bool taken = i == 0 || change < -0.003;
            s.measured.push_back({i < 5 ? QStringList{QStringLiteral("uniform"), QStringLiteral("importance"), QStringLiteral("inverse"),
                                                      QStringLiteral("global"), QStringLiteral("exact")}[i]
                                        : QStringLiteral("experts %1 → %2").arg(i % 24).arg((7 * i) % 24),
                                  best + change, change, i == 0 ? 0 : 0.0011, best + change - 1.93, 3.5 + 0.6 * i, i % 3 == 0 ? 96 : 8,
                                  taken});
            if (taken) best += change;
        }
        for (const LayerShape& layer : shape.layers)
            s.alone[layer.index] = 0.02 * std::exp(-0.3 * layer.index) + 0.002 * ((layer.index * 7) % 5);
        return s;
    }
    s.stage = kind == QLatin1StringView("blocks") ? "receptive-field" : "select";
    const int until = kind == QLatin1StringView("blocks") ? 23 : 15;
    for (int layer = 1; layer < until; ++layer) {
        LayerSearch& search = s.layers[layer];
        const double reference = 0.034 + 0.001 * (layer % 4);
        const double gain = 0.06 + 0.18 * ((layer * 5) % 11) / 11.0;
        const int generations = layer == 14 && until == 15 ? 38 : 60;
        for (int g = 0; g <= generations; ++g)
            search.trace.push_back(reference * (1 - gain * (1 - std::exp(-g / 11.0)) - 0.01) +
                                   0.0004 * (5 - g % 6 > 3 ? 1 : 0) * std::exp(-g / 5.0));
        for (std::size_t g = 1; g < search.trace.size(); ++g)
            search.trace[g] = std::min(search.trace[g], search.trace[g - 1]);
        search.best = search.trace.back();
        search.reference = reference;
        search.generation = generations;
        search.finished = generations == 60;
        search.evaluated = 6100;
        if (search.finished) search.kept = base.layer(layer).kept();
    }
    s.currentLayer = until - 1;
    if (kind == QLatin1StringView("blocks"))
        for (int first = 0; first < 24; first += 3) {
            SearchBlock block;
            block.layers = {first, first + 1, first + 2};
            for (int i = 0; i < 27; ++i)
                block.trials.push_back(0.21 + 0.01 * std::sin(2.1 * i + first) - 0.0004 * i);
            block.best = *std::min_element(block.trials.begin(), block.trials.end());
            block.choice = {0, 2, 1};
            s.blocks.push_back(block);
        }
    return s;
}

// What the command line asks for.
struct Asked {
    bool small = false;
    bool ranks = false;
    QString state;   // "loading", "stale", "empty"
    QString search;  // "none", "genetic", "verified"; empty: the perplexity in its place
};

// The window's views side by side, with made-up numbers.
class Gallery : public QWidget
{
public:
    explicit Gallery(const Asked& what) : asked(what)
    {
        compose();
        tellShape();
        tellPlan();
        tellMeasured();
    }

    void arrange()
    {
        const bool small = asked.small;
        window->resizeDocks({left, right}, {small ? 272 : 316, small ? 288 : 312}, Qt::Horizontal);
        window->resizeDocks({bottom}, {small ? 232 : 292}, Qt::Vertical);
        window->resizeDocks({right, historyDock}, {small ? 420 : 400, 480}, Qt::Vertical);
    }

private:
    void compose();
    void tellShape();
    void tellPlan();
    void tellMeasured();
    void tellTrouble(PerplexityState& p);
    static CompressionPlan planOf(const ModelShape& shape, const std::vector<int>& keep)
    {
        return bestPlan(shape, reapScores(shape), keep);
    }

    Asked asked;
    SelectionModel selection;
    HoverModel hover;
    ModelShape shape = qwenShape();
    CompressionPlan plan = planOf(shape, kMockKeep)
                               .withLocked(0, true)
                               .withLocked(23, true)
                               .withProtected(1, 17, true)
                               .withProtected(2, 44, true)
                               .withProtected(3, 8, true)
                               .withProtected(22, 5, true);
    QMainWindow* window = nullptr;
    HeatmapView* heatmap = nullptr;
    LayersPanel* layers = nullptr;
    PipelinePanel* pipeline = nullptr;
    InspectorPanel* inspector = nullptr;
    HistoryPanel* history = nullptr;
    PerplexityPanel* perplexity = nullptr;
    SearchPanel* search = nullptr;
    BannerStack* banners = nullptr;
    StatusBar* status = nullptr;
    Panel* left = nullptr;
    Panel* right = nullptr;
    Panel* bottom = nullptr;
    Panel* historyDock = nullptr;
};

void Gallery::compose()
{
    window = new QMainWindow;  // the layout gives it to this
    window->setDockNestingEnabled(true);
    auto* central = new PanelFrame(window);
    heatmap = new HeatmapView(&selection, &hover);
    central->addPage(QStringLiteral("Importance"), heatmap, heatmap->choosers());
    central->header()->addTool(QStringLiteral("table-2"), QStringLiteral("Table"));
    central->header()->addTool(QStringLiteral("image-down"), QStringLiteral("Figure"));
    auto* holder = new QWidget(window);
    auto* column = new QVBoxLayout(holder);
    column->setContentsMargins(0, 0, 0, 0);
    column->setSpacing(4);
    banners = new BannerStack(holder);
    column->addWidget(banners);
    column->addWidget(central, 1);
    window->setCentralWidget(holder);

    left = new Panel(QStringLiteral("layers"), QStringLiteral("Kept per layer"), window);
    layers = new LayersPanel(&selection, &hover);
    left->addPage(QStringLiteral("Kept per layer"), layers);
    pipeline = new PipelinePanel;
    left->addPage(QStringLiteral("Pipeline"), pipeline);
    if (!asked.search.isEmpty()) left->setCurrentPage(1);
    window->addDockWidget(Qt::LeftDockWidgetArea, left);
    right = new Panel(QStringLiteral("inspector"), QStringLiteral("Inspector"), window);
    inspector = new InspectorPanel(&selection);
    right->addPage(QStringLiteral("Inspector"), inspector);
    right->header()->addTool(QStringLiteral("pin"), QStringLiteral("Pin"));
    window->addDockWidget(Qt::RightDockWidgetArea, right);
    historyDock = new Panel(QStringLiteral("history"), QStringLiteral("History"), window);
    history = new HistoryPanel;
    historyDock->addPage(QStringLiteral("History"), history);
    window->addDockWidget(Qt::RightDockWidgetArea, historyDock);
    bottom = new Panel(QStringLiteral("perplexity"), QStringLiteral("Perplexity"), window);
    perplexity = new PerplexityPanel;
    bottom->addPage(QStringLiteral("Perplexity"), perplexity);
    search = new SearchPanel;
    bottom->addPage(QStringLiteral("Search"), search);
    bottom->header()->addTrailing(asked.search.isEmpty() ? perplexity->choosers() : search->choosers());
    if (!asked.search.isEmpty()) bottom->setCurrentPage(1);
    window->addDockWidget(Qt::BottomDockWidgetArea, bottom);
    window->setCorner(Qt::BottomLeftCorner, Qt::LeftDockWidgetArea);
    window->setCorner(Qt::BottomRightCorner, Qt::RightDockWidgetArea);
    status = new StatusBar(window);
    auto* all = new QVBoxLayout(this);
    all->setContentsMargins(0, 0, 0, 0);
    all->setSpacing(0);
    all->addWidget(window, 1);
    all->addWidget(status);
    resize(asked.small ? QSize(1280, 800) : QSize(1600, 1000));
}

void Gallery::tellShape()
{
    heatmap->setShape(shape);
    heatmap->setScoreChoices({QStringLiteral("reap"), QStringLiteral("ean_mean"), QStringLiteral("expert_frequency")}, {});
    layers->setShape(shape);
    layers->budget()->setMethods(allocators());
    inspector->setShape(shape);
    pipeline->setShape(shape);
    pipeline->setMethods(someMethods());
    pipeline->setAvailable(std::set<std::string>{"counts", "ean", "reap", "gram"}, {});
    pipeline->setPlan(plan);
    search->setCompact(asked.small);
    if (!asked.search.isEmpty() && asked.search != QLatin1StringView("none")) search->setState(someSearch(shape, plan, asked.search), true);
    if (asked.search == QLatin1StringView("verified")) pipeline->choosePreset(PipelinePreset::Verified);
    heatmap->setCompact(asked.small);
    layers->setCompact(asked.small);
    status->setCompact(asked.small);
}

void Gallery::tellPlan()
{
    const ExpertScores scores = reapScores(shape, asked.state == QLatin1StringView("loading") ? 9 : -1);
    std::vector<int> before = kMockKeep;
    before[12] = 39;
    heatmap->setPlan(plan);
    layers->setPlan(plan);
    layers->setReference(planOf(shape, before));
    if (asked.ranks)
        plan = withExpertRank(shape,
                              plan.withKept(shape, 12,
                                            [] {
                                                ExpertSet all;
                                                for (int e = 0; e < 60; ++e)
                                                    all.push_back(e);
                                                return all;
                                            }())
                                  .value(),
                              12, 35, 480, {"svd", {}})
                   .value();
    inspector->setPlan(plan);
    if (asked.state != QLatin1StringView("empty")) {
        heatmap->setScores(scores);
        heatmap->setUsage(evenUsage(shape));
        layers->setScores(scores);
        inspector->setScores(scores);
        inspector->setUsage(evenUsage(shape));
        inspector->setCellEstimate(QStringLiteral("if dropped"), 0.004);
    }
    selection.setCurrent({12, 35});
    const PlanHistory log = mockHistory(shape, plan, reapScores(shape));
    QHash<QString, PlanLoss> known;
    for (const HistoryEntry& entry : log.entries())
        known.insert(QString::fromStdString(entry.plan.hash()),
                     {.ppl = 7.5 + entry.id * 0.04, .full = entry.id % 3 == 0, .increase = 0.04 + entry.id * 0.005});
    history->setHistory(log, known);
    if (asked.search == QLatin1StringView("genetic")) {
        heatmap->setSearching({13, 14});
        history->setRunning(RunningEntry{log.currentId(), QStringLiteral("Genetic search (running)"), QStringLiteral("13 of 22")});
    }
}

void Gallery::tellMeasured()
{
    PerplexityState p;
    p.planName = QStringLiteral("keep-75");
    p.textName = QStringLiteral("wiki.txt");
    p.windowLength = 2048;
    p.dense = losses(7.22, 128);
    p.full.windows = shifted(p.dense, 1.05);
    p.full.wanted = 128;
    p.full.seconds = 29;
    p.quick.windows.assign(p.full.windows.begin(), p.full.windows.begin() + 16);
    p.quick.wanted = 16;
    p.quick.seconds = 1.8;
    p.estimatedDelta = 0.35;
    p.estimateBase = 7.22;
    p.estimateWindows = 128;
    p.estimateNote = QStringLiteral("likely 44.1 to 47.9");
    if (asked.state == QLatin1StringView("stale")) tellTrouble(p);
    if (asked.state == QLatin1StringView("empty")) p = {};
    perplexity->setState(p);
    status->setPlan(QStringLiteral("keep-75"), true);
    status->setCost(planCost(shape, plan), planCost(shape, CompressionPlan::identity(shape)));
    status->setPerplexity(headline(p), asked.state == QLatin1StringView("stale") ? std::optional<double>(7.57) : std::nullopt);
    status->setJob(JobState{QStringLiteral("Full · uniform-60"), 41, 128, 20.0, JobState::Phase::Running});
    status->setEngine(asked.state == QLatin1StringView("stale") ? EngineState::Lost : EngineState::Ready,
                      asked.state == QLatin1StringView("stale") ? QString() : QStringLiteral("this computer · 2 threads"));
}

void Gallery::tellTrouble(PerplexityState& p)
{
    p.full.staleNote = QStringLiteral("before the last change · 14:31");
    p.age = QStringLiteral("before the last change");
    p.quick.windows.clear();
    p.estimatedDelta.reset();
    banners->show({QStringLiteral("engine"),
                   Banner::Kind::Error,
                   QStringLiteral("unplug"),
                   QStringLiteral("The engine ran out of memory (killed, signal 9)."),
                   QStringLiteral("Plan, history and the 23 windows already measured are safe. The estimate goes on."),
                   {{QStringLiteral("Restart and resume"), {}, true}, {QStringLiteral("Details"), {}}}});
    banners->show({QStringLiteral("plan"),
                   Banner::Kind::Warning,
                   {},
                   QStringLiteral("Plan had 128 experts, model has 64."),
                   QStringLiteral("64 entries ignored, original kept."),
                   {{QStringLiteral("Show"), {}}}});
}

}  // namespace

int main(int argc, char** argv)
{
    QApplication app(argc, argv);
    const QStringList arguments = QApplication::arguments();
    const auto valueOf = [&](const char* option) {
        const qsizetype at = arguments.indexOf(QLatin1StringView(option));
        return at > 0 ? arguments.value(at + 1) : QString();
    };
    Asked asked;
    asked.small = arguments.contains(QStringLiteral("--small"));
    asked.ranks = arguments.contains(QStringLiteral("--ranks"));
    asked.state = valueOf("--state");
    asked.search = valueOf("--search");
    ThemeController themes;
    themes.setChoice(arguments.contains(QStringLiteral("--dark")) ? ThemeChoice::Dark : ThemeChoice::Light);
    const QString text = valueOf("--text");
    QFont font = QApplication::font();
    if (!asked.small) font.setFamily(QStringLiteral("Noto Sans"));
    font.setPixelSize(13 * (text.isEmpty() ? 100 : std::max(50, text.toInt())) / 100);
    QApplication::setFont(font);

    Gallery gallery(asked);
    gallery.show();
    gallery.arrange();
    const QString picture = valueOf("--grab");
    if (picture.isEmpty()) return QApplication::exec();
    for (int i = 0; i < 20; ++i)
        QApplication::processEvents();
    return gallery.grab().save(picture) ? 0 : 1;
}
