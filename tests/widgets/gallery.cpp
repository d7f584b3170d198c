// Every view with invented data, in the arrangement of the first layout.
//   gallery [--dark] [--small] [--grab FILE.png] [--state empty|loading|stale]
#include "allocate/allocator.h"
#include "banner.h"
#include "controls.h"
#include "heatmap_view.h"
#include "history_panel.h"
#include "icon.h"
#include "inspector_panel.h"
#include "layers_panel.h"
#include "panel.h"
#include "perplexity_panel.h"
#include "sample.h"
#include "status_bar.h"
#include "theme.h"

#include <QApplication>
#include <QMainWindow>
#include <QVBoxLayout>

using namespace espalier;
using namespace espalier::test;

int main(int argc, char** argv)
{
    QApplication app(argc, argv);
    const QStringList arguments = QApplication::arguments();
    const bool small = arguments.contains(QStringLiteral("--small"));
    const qsizetype at = arguments.indexOf(QStringLiteral("--state"));
    const QString state = at > 0 ? arguments.value(at + 1) : QString();
    ThemeController themes;
    themes.setChoice(arguments.contains(QStringLiteral("--dark")) ? ThemeChoice::Dark : ThemeChoice::Light);

    QFont font = QApplication::font();
    if (!small) font.setFamily(QStringLiteral("Noto Sans"));
    font.setPixelSize(13);
    QApplication::setFont(font);

    SelectionModel selection;
    HoverModel hover;
    const ModelShape shape = qwenShape();
    const ExpertScores scores = reapScores(shape, state == QLatin1StringView("loading") ? 9 : -1);
    std::vector<int> before = kMockKeep;
    before[12] = 39;
    CompressionPlan plan = bestPlan(shape, reapScores(shape), kMockKeep).withLocked(0, true).withLocked(23, true);
    plan = plan.withProtected(1, 17, true).withProtected(2, 44, true).withProtected(3, 8, true).withProtected(22, 5, true);
    const CompressionPlan old = bestPlan(shape, reapScores(shape), before);

    auto* frame = new QWidget;
    QMainWindow& window = *new QMainWindow;  // the layout gives it to the frame
    window.setDockNestingEnabled(true);
    auto* central = new PanelFrame(&window);
    auto* heatmap = new HeatmapView(&selection, &hover);
    central->addPage(QStringLiteral("Importance"), heatmap, heatmap->choosers());
    central->header()->addTool(QStringLiteral("table-2"), QStringLiteral("Table"));
    central->header()->addTool(QStringLiteral("image-down"), QStringLiteral("Figure"));
    auto* holder = new QWidget(&window);
    auto* column = new QVBoxLayout(holder);
    column->setContentsMargins(0, 0, 0, 0);
    column->setSpacing(4);
    auto* banners = new BannerStack(holder);
    column->addWidget(banners);
    column->addWidget(central, 1);
    window.setCentralWidget(holder);

    auto* left = new Panel(QStringLiteral("layers"), QStringLiteral("Kept per layer"), &window);
    auto* layers = new LayersPanel(&selection, &hover);
    left->addPage(QStringLiteral("Kept per layer"), layers);
    left->header()->addTool(QStringLiteral("undo-dot"), QStringLiteral("Reset"));
    window.addDockWidget(Qt::LeftDockWidgetArea, left);
    auto* right = new Panel(QStringLiteral("inspector"), QStringLiteral("Inspector"), &window);
    auto* inspector = new InspectorPanel(&selection);
    right->addPage(QStringLiteral("Inspector"), inspector);
    right->header()->addTool(QStringLiteral("pin"), QStringLiteral("Pin"));
    window.addDockWidget(Qt::RightDockWidgetArea, right);
    auto* historyDock = new Panel(QStringLiteral("history"), QStringLiteral("History"), &window);
    auto* history = new HistoryPanel;
    historyDock->addPage(QStringLiteral("History"), history);
    window.addDockWidget(Qt::RightDockWidgetArea, historyDock);
    auto* bottom = new Panel(QStringLiteral("perplexity"), QStringLiteral("Perplexity"), &window);
    auto* perplexity = new PerplexityPanel;
    bottom->addPage(QStringLiteral("Perplexity"), perplexity);
    bottom->header()->addTrailing(perplexity->choosers());
    window.addDockWidget(Qt::BottomDockWidgetArea, bottom);
    window.setCorner(Qt::BottomLeftCorner, Qt::LeftDockWidgetArea);
    window.setCorner(Qt::BottomRightCorner, Qt::RightDockWidgetArea);
    auto* status = new StatusBar(&window);
    auto* all = new QVBoxLayout(frame);
    all->setContentsMargins(0, 0, 0, 0);
    all->setSpacing(0);
    all->addWidget(&window, 1);
    all->addWidget(status);
    frame->resize(small ? QSize(1280, 800) : QSize(1600, 1000));

    heatmap->setShape(shape);
    heatmap->setScoreChoices({QStringLiteral("reap"), QStringLiteral("ean_mean"), QStringLiteral("expert_frequency")}, {});
    layers->setShape(shape);
    layers->budget()->setMethods(allocators());
    inspector->setShape(shape);
    heatmap->setCompact(small);
    layers->setCompact(small);
    status->setCompact(small);
    heatmap->setPlan(plan);
    layers->setPlan(plan);
    layers->setReference(old);
    inspector->setPlan(plan);
    if (state != QLatin1StringView("empty")) {
        heatmap->setScores(scores);
        heatmap->setUsage(evenUsage(shape));
        layers->setScores(scores);
        inspector->setScores(scores);
        inspector->setUsage(evenUsage(shape));
        inspector->setCellEstimate(0.004);
    }
    selection.setCurrent({12, 35});
    const PlanHistory log = mockHistory(shape, plan, reapScores(shape));
    QHash<QString, PlanLoss> known;
    for (const HistoryEntry& entry : log.entries())
        known.insert(QString::fromStdString(entry.plan.hash()), {7.5 + entry.id * 0.04, entry.id % 3 == 0, false});
    history->setHistory(log, known);

    PerplexityState p;
    p.planName = QStringLiteral("keep-75");
    p.windowLength = 2048;
    p.dense = losses(7.22, 128);
    p.full.windows = shifted(p.dense, 1.05);
    p.full.wanted = 128;
    p.full.seconds = 29;
    p.quick.windows.assign(p.full.windows.begin(), p.full.windows.begin() + 16);
    p.quick.wanted = 16;
    p.quick.seconds = 1.8;
    p.estimatedDelta = 0.35;
    p.estimateNote = QStringLiteral("past error ±0.05 over 14 runs");
    if (state == QLatin1StringView("stale")) {
        p.full.staleNote = QStringLiteral("before this edit · 14:31");
        p.age = QStringLiteral("one edit old");
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
    if (state == QLatin1StringView("empty")) p = {};
    perplexity->setState(p);
    status->setPlan(QStringLiteral("keep-75"), true);
    status->setCost(planCost(shape, plan), planCost(shape, CompressionPlan::identity(shape)));
    status->setPerplexity(headline(p), state == QLatin1StringView("stale") ? std::optional<double>(7.57) : std::nullopt);
    status->setJob(JobState{QStringLiteral("Full · uniform-60"), 41, 128, 20.0, JobState::Phase::Running});
    status->setEngine(state == QLatin1StringView("stale") ? EngineState::Lost : EngineState::Ready,
                      state == QLatin1StringView("stale") ? QString() : QStringLiteral("this computer · 2 threads"));

    frame->show();
    window.resizeDocks({left, right}, {small ? 272 : 316, small ? 288 : 312}, Qt::Horizontal);
    window.resizeDocks({bottom}, {small ? 232 : 292}, Qt::Vertical);
    window.resizeDocks({right, historyDock}, {small ? 420 : 400, 480}, Qt::Vertical);
    const qsizetype grab = arguments.indexOf(QStringLiteral("--grab"));
    if (grab > 0) {
        for (int i = 0; i < 20; ++i)
            QApplication::processEvents();
        frame->grab().save(arguments.value(grab + 1));
        delete frame;
        return 0;
    }
    const int code = QApplication::exec();
    delete frame;
    return code;
}
