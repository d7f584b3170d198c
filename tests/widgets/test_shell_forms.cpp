// Constants in place of experts and skipped layers in the window: one reading of a cell for all views, the gestures that make them, what is
// refused and why, what of it is estimated, what a session keeps.
#include "experts/expert_view.h"
#include "experts/inspector_panel.h"
#include "heatmap/heatmap_table.h"
#include "layers/kept_curve.h"
#include "layers/layer_table.h"
#include "layers/layers_panel.h"
#include "look/controls.h"
#include "look/format.h"
#include "plan/cost_model.h"
#include "plan/plan_edit.h"
#include "planning/budget_bar.h"
#include "planning/size_target.h"
#include "ranks/rank_panel.h"
#include "shell/engine/estimate_controller.h"
#include "widgets/shell_fixture.h"

#include <qcustomplot.h>

#include <QCheckBox>
#include <QLabel>
#include <QMenu>
#include <QMenuBar>

using namespace espalier;
using namespace espalier::test;

namespace
{

const std::string kProfile(64, 'a');

struct Edited {
    PlanController plans;
    QString said;
    bool error = false;
    explicit Edited(const QString& problem = {})
    {
        QObject::connect(&plans, &PlanController::explained, [this](const QString& text, bool isError) {
            said = text;
            error = isError;
        });
        plans.open(smallShape(), {}, QStringLiteral("model"));
        plans.setScores(smallScores());
        plans.setConstantsSource(problem.isEmpty() ? kProfile : std::string(), problem);
    }
    QString entry() const { return QString::fromStdString(plans.history().current().text); }
    const LayerPlan& layer(int l) const { return plans.plan().layer(l); }
};

AllocationIntent keepAll(int total, bool equal)
{
    AllocationIntent intent;
    intent.keepTotal = total;
    intent.method = "uniform";
    intent.equalCounts = equal;
    return intent;
}

// A plan in which every state occurs: layer 0 whole, layer 1 a constant, a dropped expert and a rank, layer 2 skipped.
CompressionPlan mixedPlan(const ModelShape& shape)
{
    CompressionPlan plan = CompressionPlan::identity(shape).withConstantsProfile(kProfile);
    plan = *withConstants(shape, plan, 1, {2}, ConstantKind::Weighted);
    plan = *withDropped(shape, plan, 1, {5});
    std::vector<RankTriple> ranks(plan.layer(1).kept().size(), RankTriple{});
    ranks[0] = {12, 12, 12};
    plan = plan.withRanks(shape, 1, ranks)->withFactors({"svd", {}});
    return *withRun(shape, plan, 2, LayerRun::Skipped);
}

// Ink in the middle of a cell: how many pixels of its inner third are not the cell's own colour.
int inkInside(const QImage& image, const QRectF& cell)
{
    const QRect inner = cell.toRect().adjusted(cell.toRect().width() / 3, cell.toRect().height() / 3, -cell.toRect().width() / 3,
                                               -cell.toRect().height() / 3);
    const QColor own = image.pixelColor(cell.toRect().topLeft() + QPoint(1, 1));
    int ink = 0;
    for (int y = inner.top(); y <= inner.bottom(); ++y)
        for (int x = inner.left(); x <= inner.right(); ++x)
            ink += std::abs(image.pixelColor(x, y).lightness() - own.lightness()) > 40 ? 1 : 0;
    return ink;
}

bool shown(const QLabel* label) { return label && !label->text().isEmpty() && label->isVisible(); }

}  // namespace

class ShellFormsTest final : public ShellTestBase
{
    Q_OBJECT

private slots:
    // A state that one view does not know would be told as "kept" there and "dropped" elsewhere.
    void view_isOneReadingForEveryState()
    {
        const ModelShape shape = smallShape();
        const CompressionPlan plan = mixedPlan(shape);
        const ExpertView kept = expertView(shape, plan, {0, 0});
        QCOMPARE(kept.state, ExpertState::Kept);
        QCOMPARE(kept.text, QStringLiteral("kept"));
        QCOMPARE(kept.share, 1.0);
        const ExpertView rank = expertView(shape, plan, {1, 0});
        QCOMPARE(rank.state, ExpertState::LowRank);
        QCOMPARE(rank.text, QStringLiteral("rank 12"));
        QVERIFY(rank.share > 0 && rank.share < 0.1);
        const ExpertView constant = expertView(shape, plan, {1, 2});
        QCOMPARE(constant.state, ExpertState::Constant);
        QCOMPARE(constant.text, QStringLiteral("constant (weighted mean)"));
        QCOMPARE(constant.bytes, std::int64_t(2 * shape.hiddenSize));
        const ExpertView dropped = expertView(shape, plan, {1, 5});
        QCOMPARE(dropped.state, ExpertState::Dropped);
        QCOMPARE(dropped.share, 0.0);
        const ExpertView skipped = expertView(shape, plan, {2, 3});
        QCOMPARE(skipped.state, ExpertState::Skipped);
        QCOMPARE(skipped.text, QStringLiteral("layer skipped"));
        QCOMPARE(countsText(shape, plan, 1), QStringLiteral("6 kept, 1 constant, 1 dropped"));
        QCOMPARE(countsText(shape, plan, 2), QStringLiteral("skipped"));
        // Every state has an id and a title of its own, and no two marks over the colour are the same.
        std::set<std::string> ids;
        std::set<int> marks;
        for (const ExpertStateInfo& info : expertStates()) {
            QVERIFY(ids.insert(info.id).second);
            QVERIFY(!titleOf(info.state).isEmpty());
            if (info.mark != ExpertMark::None) QVERIFY(marks.insert(static_cast<int>(info.mark)).second);
        }
    }

    // Without a mark of its own a constant looks like a kept expert, and a skipped layer like one that runs.
    void map_marksConstantsAndSkippedLayers_data()
    {
        QTest::addColumn<bool>("dark");
        QTest::newRow("light") << false;
        QTest::newRow("dark") << true;
    }
    void map_marksConstantsAndSkippedLayers()
    {
        QFETCH(bool, dark);
        ThemeController themes;
        themes.setChoice(dark ? ThemeChoice::Dark : ThemeChoice::Light);
        SelectionModel selection;
        HoverModel hover;
        HeatmapView view(&selection, &hover);
        const ModelShape shape = smallShape();
        view.resize(1200, 700);
        view.setShape(shape);
        view.setPlan(CompressionPlan::identity(shape));
        ExpertScores scores = smallScores();
        for (std::vector<double>& row : scores.values.rows)
            for (double& score : row)
                score += 1;  // nothing below the floor of a log scale
        view.setScores(scores);
        view.show();
        const auto shot = [&] {
            view.plot()->replot();
            return view.plot()->toPixmap(view.plot()->width(), view.plot()->height(), 1.0).toImage();
        };
        QVERIFY(view.legend().isEmpty());
        view.plot()->replot();
        const QRectF constant = view.cellRect({1, 2});
        const QRectF kept = view.cellRect({1, 3});
        const QRectF row = view.cellRect({2, 0});
        QCOMPARE(inkInside(shot(), constant), 0);
        view.setPlan(mixedPlan(shape));
        const QImage image = shot();
        QVERIFY2(inkInside(image, constant) > 8, "no dot in the constant's cell");
        QCOMPARE(inkInside(image, kept), 0);
        QVERIFY2(inkInside(image, row) > 8, "the skipped row is not struck out");
        QCOMPARE(view.legend(), (QStringList{QStringLiteral("low rank"), QStringLiteral("constant"), QStringLiteral("dropped"),
                                             QStringLiteral("skipped layer")}));
        // In words: the state, what is left and what it saves.
        const QString facts = view.factsText({1, 2});
        QVERIFY2(facts.contains(QStringLiteral("constant (weighted mean)")), qPrintable(facts));
        QVERIFY2(facts.contains(format::bytes(std::int64_t{2} * shape.hiddenSize) + QStringLiteral(" left")), qPrintable(facts));
        QVERIFY2(facts.contains(QStringLiteral("saved")), qPrintable(facts));
        QVERIFY2(view.factsText({2, 0}).contains(QStringLiteral("layer skipped")), qPrintable(view.factsText({2, 0})));
        QCOMPARE(view.facts({1, 2})->bytes, shape.layers[1].bytesPerExpert - 2 * shape.hiddenSize);
        // The table twin says the same words.
        HeatmapTable table(&view, &selection);
        table.resize(900, 600);
        table.show();
        table.refresh();
        QVERIFY2(table.tsv().contains(QStringLiteral("constant (weighted mean)")), qPrintable(table.tsv()));
        QVERIFY2(table.tsv().contains(QStringLiteral("layer skipped")), qPrintable(table.tsv()));
        view.setPlan(CompressionPlan::identity(shape));
        QVERIFY(view.legend().isEmpty());
        themes.setChoice(ThemeChoice::System);
    }

    // C and S act on the cursor, on a selection as a whole, and once per press.
    void map_keysEmitIntents()
    {
        SelectionModel selection;
        HoverModel hover;
        HeatmapView view(&selection, &hover);
        const ModelShape shape = smallShape();
        view.resize(1000, 600);
        view.setShape(shape);
        view.setPlan(CompressionPlan::identity(shape));
        view.setScores(smallScores());
        view.show();
        qRegisterMetaType<std::set<CellId>>();
        std::set<CellId> asked;
        QObject::connect(&view, &HeatmapView::constantRequested, [&](const std::set<CellId>& cells, ConstantKind) { asked = cells; });
        QSignalSpy skips(&view, &HeatmapView::skipRequested);
        selection.setCurrent({2, 5});
        QTest::keyClick(view.plot(), Qt::Key_C);
        QCOMPARE(asked, (std::set<CellId>{{2, 5}}));
        selection.select({{2, 5}, {2, 6}});
        QTest::keyClick(view.plot(), Qt::Key_C);
        QCOMPARE(asked.size(), std::size_t(2));
        QTest::keyClick(view.plot(), Qt::Key_S);
        QCOMPARE(skips.size(), 1);
        QCOMPARE(skips.first().at(0).toInt(), 2);
        QCOMPARE(skips.first().at(1).toBool(), true);
    }

    void plan_constantsAreOneEntryAndUndone()
    {
        Edited edited;
        edited.plans.setConstants({{1, 2}}, ConstantKind::Mean);
        QCOMPARE(edited.entry(), QStringLiteral("Layer 1: expert 2 constant, mean"));
        QVERIFY(edited.layer(1).isConstant(2));
        QCOMPARE(edited.plans.plan().constantsProfile(), kProfile);
        // Several at once, of several layers, dropped ones too.
        edited.plans.setKept({{0, 1}}, false);
        edited.plans.setConstants({{0, 1}, {0, 2}, {3, 7}}, ConstantKind::Weighted);
        QCOMPARE(edited.entry(), QStringLiteral("3 experts constant, weighted mean"));
        QCOMPARE(edited.layer(0).constants(), (ExpertSet{1, 2}));
        QCOMPARE(edited.layer(3).constants(), (ExpertSet{7}));
        // A constant computes again, or goes; the others stay.
        edited.plans.toggleExpert(0, 1);
        QVERIFY(edited.plans.plan().keeps(0, 1));
        edited.plans.setKept({{0, 2}}, false);
        QVERIFY(edited.layer(0).bodyOf(2) == nullptr);
        QCOMPARE(edited.layer(3).constants(), (ExpertSet{7}));
        while (edited.plans.canUndo())
            edited.plans.undo();
        QVERIFY(edited.plans.plan().isIdentity(smallShape()));
        QVERIFY(edited.plans.plan().constantsProfile().empty());
    }

    // A plan without constants that still names a profile would be refused where that profile is not.
    void plan_namesNoProfileWithoutConstants()
    {
        Edited edited;
        edited.plans.setConstants({{1, 2}}, ConstantKind::Mean);
        edited.plans.setKept({{1, 2}}, true);
        QVERIFY(edited.plans.plan().constantsProfile().empty());
        edited.plans.setConstants({{1, 2}}, ConstantKind::Mean);
        edited.plans.setSkipped(1, true);
        QVERIFY(edited.plans.plan().constantsProfile().empty());
    }

    void plan_refusesConstantsWithTheReason()
    {
        Edited none(QStringLiteral("there is no profile yet"));
        none.plans.setConstants({{1, 2}}, ConstantKind::Mean);
        QVERIFY(none.error && none.said.contains(QStringLiteral("no profile yet")));
        QCOMPARE(none.plans.history().entries().size(), std::size_t(1));
        none.plans.setKept({{1, 2}}, false);
        none.plans.setDroppedAs(ConstantKind::Mean);
        QVERIFY(none.error && none.said.contains(QStringLiteral("no profile yet")));

        Edited edited;
        edited.plans.toggleLocked(1);
        edited.plans.setConstants({{1, 2}}, ConstantKind::Mean);
        QVERIFY2(edited.error && edited.said.contains(QStringLiteral("layer 1 is locked")), qPrintable(edited.said));
        // Of a selection those that can are taken, and the rest is told.
        edited.plans.setConstants({{0, 2}, {1, 2}}, ConstantKind::Mean);
        QVERIFY(edited.layer(0).isConstant(2));
        QVERIFY(!edited.layer(1).isConstant(2));
        QVERIFY2(!edited.error && edited.said.contains(QStringLiteral("1 expert left as before")), qPrintable(edited.said));
        // The last that computes stays.
        std::set<CellId> most;
        for (int e = 0; e < 7; ++e)
            most.insert({3, e});
        edited.plans.setConstants(most, ConstantKind::Mean);
        QCOMPARE(edited.layer(3).kept(), (ExpertSet{7}));
        edited.plans.setConstants({{3, 7}}, ConstantKind::Mean);
        QVERIFY2(edited.error && edited.said.contains(QStringLiteral("last expert")), qPrintable(edited.said));
        QCOMPARE(edited.layer(3).kept(), (ExpertSet{7}));
    }

    void plan_droppedBecomeConstantsAndBack()
    {
        Edited edited;
        edited.plans.setKeep(0, 5);
        edited.plans.setKeep(1, 3);
        edited.plans.toggleLocked(1);
        QVERIFY(edited.plans.hasDropped());
        const ExpertSet kept = edited.layer(0).kept();
        edited.plans.setDroppedAs(ConstantKind::Mean);
        QCOMPARE(edited.entry(), QStringLiteral("Dropped experts become constants, mean"));
        QCOMPARE(edited.layer(0).kept(), kept);
        QCOMPARE(edited.layer(0).constants().size(), std::size_t(3));
        QVERIFY(edited.layer(1).constants().empty());  // locked
        QVERIFY2(edited.said.contains(QStringLiteral("1 locked layer")), qPrintable(edited.said));
        const auto entries = edited.plans.history().entries().size();
        edited.plans.setDroppedAs(ConstantKind::Mean);
        QCOMPARE(edited.plans.history().entries().size(), entries);
        QVERIFY2(edited.said.contains(QStringLiteral("Nothing changes")), qPrintable(edited.said));
        edited.plans.setDroppedAs({});
        QCOMPARE(edited.entry(), QStringLiteral("Constants become dropped experts"));
        QVERIFY(!edited.plans.plan().hasConstants());
        QVERIFY(edited.plans.plan().constantsProfile().empty());
        QCOMPARE(edited.layer(0).kept(), kept);
    }

    // A count that is moved afterwards must not turn a plan of constants into one with holes.
    void plan_countsKeepConstants()
    {
        Edited edited;
        edited.plans.setKeep(0, 5);
        edited.plans.setDroppedAs(ConstantKind::Weighted);
        edited.plans.setKeep(0, 4);
        QCOMPARE(edited.layer(0).kept().size(), std::size_t(4));
        QCOMPARE(edited.layer(0).columns().size(), std::size_t(8));
        QVERIFY(edited.layer(0).constants().size() == 4);
        edited.plans.setKeep(0, 6);
        QCOMPARE(edited.layer(0).constants().size(), std::size_t(2));
        edited.plans.rankAnew();
        QCOMPARE(edited.layer(0).columns().size(), std::size_t(8));
        edited.plans.allocateTo(keepAll(24, true));
        for (int layer = 0; layer < 4; ++layer)
            QCOMPARE(edited.layer(layer).kept().size(), std::size_t(6));
        QCOMPARE(edited.layer(0).columns().size(), std::size_t(8));
        QCOMPARE(edited.layer(1).columns().size(), std::size_t(6));  // had no constants
    }

    void plan_skippedLayersAreLeftAlone()
    {
        Edited edited;
        edited.plans.setSkipped(1, true);
        QCOMPARE(edited.entry(), QStringLiteral("Layer 1: skipped"));
        const PlanCost cost = planCost(smallShape(), edited.plans.plan());
        const PlanCost dense = planCost(smallShape(), CompressionPlan::identity(smallShape()));
        const LayerShape shape = smallShape().layers[1];
        QCOMPARE(dense.bytes - cost.bytes, shape.otherBytes + 8 * (shape.bytesPerExpert + shape.routerBytesPerExpert));
        const std::string skipped = edited.plans.plan().hash();
        for (const auto& edit :
             std::vector<std::function<void()>>{[&] { edited.plans.setKeep(1, 4); }, [&] { edited.plans.stepKeep(1, -1); },
                                                [&] { edited.plans.toggleExpert(1, 3); }, [&] { edited.plans.setMeanRank(1, 8); },
                                                [&] {
                                                    edited.plans.setConstants({{1, 3}}, ConstantKind::Mean);
                                                }}) {
            edited.said.clear();
            edit();
            QCOMPARE(edited.plans.plan().hash(), skipped);
            QVERIFY2(edited.error && edited.said.contains(QStringLiteral("skipped")), qPrintable(edited.said));
        }
        // Targets and equal counts share what is left among the layers that run.
        edited.plans.allocateTo(keepAll(12, false));
        QCOMPARE(edited.plans.plan().keptExperts(), 12);
        QCOMPARE(edited.layer(1).run(), LayerRun::Skipped);
        edited.plans.allocateTo(keepAll(15, true));
        for (const int layer : {0, 2, 3})
            QCOMPARE(edited.layer(layer).kept().size(), std::size_t(5));
        QCOMPARE(edited.layer(1).run(), LayerRun::Skipped);
        edited.plans.allocateTo(keepAll(32, false));
        QCOMPARE(edited.plans.plan().keptExperts(), 24);
        QVERIFY2(edited.said.contains(QStringLiteral("layers that run have 24")), qPrintable(edited.said));
        edited.plans.rankAnew();
        QCOMPARE(edited.layer(1).run(), LayerRun::Skipped);
        edited.plans.setSkipped(1, false);
        QCOMPARE(edited.entry(), QStringLiteral("Layer 1: runs"));
        QVERIFY(edited.layer(1).isWhole(8));
        edited.plans.undo();
        QCOMPARE(edited.layer(1).run(), LayerRun::Skipped);
    }

    // "10 MiB" typed as a target: what is left of a skipped layer is nothing, so more experts fit than in the whole model.
    void plan_aSizeCountsWhatRuns()
    {
        const ModelShape shape = smallShape();
        const LayerShape& layer = shape.layers[0];
        CompressionPlan plan = *withRun(shape, CompressionPlan::identity(shape), 2, LayerRun::Skipped);
        const std::int64_t all = planCost(shape, plan).bytes;
        const std::int64_t each = layer.bytesPerExpert + layer.routerBytesPerExpert;
        QCOMPARE(expertsWithin(all, shape, plan), 24);
        QCOMPARE(expertsWithin(all + 5 * each, shape, plan), 24);
        QCOMPARE(expertsWithin(all - 1, shape, plan), 23);
        QCOMPARE(expertsWithin(all - 5 * each, shape, plan), 19);
        // With constants the plan of so many experts is not larger than asked for.
        plan = plan.withConstantsProfile(kProfile);
        plan = *withConstants(shape, plan, 0, {6, 7}, ConstantKind::Mean);
        const std::int64_t asked = planCost(shape, plan).bytes - 2 * layer.bytesPerExpert;
        const int kept = expertsWithin(asked, shape, plan);
        QCOMPARE(kept, 19);
        plan = *withConstants(shape, plan, 0, {3, 4, 5}, ConstantKind::Mean);
        QCOMPARE(plan.keptExperts(), kept);
        QVERIFY(planCost(shape, plan).bytes <= asked);
    }

    void plan_refusesToSkipWithTheReason()
    {
        Edited edited;
        edited.plans.toggleLocked(2);
        edited.plans.setSkipped(2, true);
        QVERIFY2(edited.error && edited.said.contains(QStringLiteral("layer 2 is locked")), qPrintable(edited.said));
        edited.plans.retryUnlocked();  // what the message offers
        edited.plans.setSkipped(2, true);
        edited.plans.setSkipped(0, true);
        edited.plans.setSkipped(1, true);
        edited.plans.setSkipped(3, true);
        QVERIFY2(edited.error && edited.said.contains(QStringLiteral("last layer that runs")), qPrintable(edited.said));
        QCOMPARE(edited.plans.plan().runningLayers(), 1);
    }

    // Controls of what does not run must not offer to move it; the reason stands at the control.
    void inspector_offersWhatIsPossible()
    {
        SelectionModel selection;
        InspectorPanel panel(&selection);
        const ModelShape shape = smallShape();
        panel.resize(320, 760);
        panel.show();
        panel.setShape(shape);
        panel.setPlan(CompressionPlan::identity(shape));
        panel.setScores(smallScores());
        panel.setConstantsProblem(QStringLiteral("the profile holds no mean outputs"));
        selection.setCurrent({1, 2});
        auto* form = panel.findChild<Segment*>(QStringLiteral("inspector.form"));
        auto* kind = panel.findChild<Segment*>(QStringLiteral("inspector.constant"));
        auto* skip = panel.findChild<QCheckBox*>(QStringLiteral("inspector.skip"));
        auto* why = panel.findChild<QLabel*>(QStringLiteral("inspector.whyNot"));
        auto* whyNoSkipping = panel.findChild<QLabel*>(QStringLiteral("inspector.whyNoSkip"));
        const int constantForm = static_cast<int>(form->texts().indexOf(QStringLiteral("Constant")));
        QVERIFY(constantForm > 0);
        QVERIFY2(shown(why) && why->text().contains(QStringLiteral("no mean outputs")), qPrintable(why->text()));
        QVERIFY(!kind->isVisible());
        std::vector<ConstantKind> asked;
        QObject::connect(&panel, &InspectorPanel::constantRequested, [&](int, int, ConstantKind k) { asked.push_back(k); });
        // From Drop the right arrow leads there, once it is possible.
        panel.setPlan(*CompressionPlan::identity(shape).withKept(shape, 1, {0, 1, 3, 4, 5, 6, 7}));
        QCOMPARE(form->current(), 2);
        QTest::keyClick(form, Qt::Key_Right);
        QVERIFY(asked.empty());
        panel.setConstantsProblem({});
        QVERIFY(!shown(why));
        QTest::keyClick(form, Qt::Key_Right);
        QCOMPARE(asked.size(), std::size_t(1));
        QCOMPARE(asked.back(), ConstantKind::Mean);
        panel.setPlan(mixedPlan(shape));  // expert 2 of layer 1 is a weighted constant
        QCOMPARE(form->current(), constantForm);
        QVERIFY(kind->isVisible());
        QCOMPARE(kind->current(), 1);
        QTest::keyClick(kind, Qt::Key_Left);
        QCOMPARE(asked.back(), ConstantKind::Mean);
        // The layer: a check box with a mnemonic; nothing of a skipped one can be moved.
        QVERIFY(skip->isEnabled() && !skip->isChecked());
        QVERIFY(skip->text().contains(QLatin1Char('&')));
        QSignalSpy skips(&panel, &InspectorPanel::skipRequested);
        QTest::keyClick(skip, Qt::Key_Space);
        QCOMPARE(skips.size(), 1);
        QCOMPARE(skips.first().at(1).toBool(), true);
        selection.setCurrent({2, 0});
        QVERIFY(skip->isChecked());
        QVERIFY(!form->isEnabled());
        QVERIFY(!panel.findChild<Slider*>(QStringLiteral("inspector.keep"))->isEnabled());
        QVERIFY(!panel.findChild<Slider*>(QStringLiteral("inspector.layerRank"))->isEnabled());
        QVERIFY2(shown(why) && why->text().contains(QStringLiteral("skipped")), qPrintable(why->text()));
        panel.setPlan(CompressionPlan::identity(shape).withLocked(2, true));
        QVERIFY(!skip->isEnabled());
        QVERIFY2(shown(whyNoSkipping) && whyNoSkipping->text().contains(QStringLiteral("locked")), qPrintable(whyNoSkipping->text()));
    }

    // A dense layer has no experts, and can be left out all the same.
    void inspector_skipsADenseLayer()
    {
        ModelShape shape = smallShape();
        shape.layers[0].moe = false;
        shape.layers[0].experts = 0;
        SelectionModel selection;
        InspectorPanel panel(&selection);
        panel.show();
        panel.setShape(shape);
        panel.setPlan(CompressionPlan::identity(shape));
        selection.setCurrentLayer(0);
        auto* skip = panel.findChild<QCheckBox*>(QStringLiteral("inspector.skip"));
        QVERIFY(skip->isVisible() && skip->isEnabled());
        QVERIFY(!panel.findChild<Segment*>(QStringLiteral("inspector.form"))->isVisible());
        PlanController plans;
        plans.open(shape, {}, QStringLiteral("model"));
        plans.setSkipped(0, true);
        QCOMPARE(plans.plan().runningLayers(), 3);
    }

    void layers_sayThatNothingRuns()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--outputs")});
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(0, 6);
        shell.plans().setSkipped(1, true);
        auto* layers = shell.window.findChild<LayersPanel*>();
        for (LayerModel* model : {layers->table()->layerModel(), shell.window.findChild<RankPanel*>()->table()->layerModel()}) {
            const QModelIndex value = model->index(1, LayerModel::Value);
            QCOMPARE(value.data().toString(), QStringLiteral("skipped"));
            QVERIFY(!value.data(LayerModel::EditableRole).toBool());
            QVERIFY(!(model->flags(value) & Qt::ItemIsEditable));
            QVERIFY2(value.data(Qt::ToolTipRole).toString().contains(QStringLiteral("skipped")),
                     qPrintable(value.data(Qt::ToolTipRole).toString()));
            QCOMPARE(model->index(1, LayerModel::Mib).data().toString(), QStringLiteral("0.00"));
        }
        QVERIFY(layers->curve()->pointPosition(1).isNull());  // a gap, no handle to drag
        QVERIFY(!layers->curve()->pointPosition(0).isNull());
        shell.window.selection()->setCurrentLayer(1);
        QVERIFY2(layers->curve()->plot()->accessibleDescription().contains(QStringLiteral("skipped")),
                 qPrintable(layers->curve()->plot()->accessibleDescription()));
        const std::string hash = shell.hash();
        QTest::keyClick(layers->curve()->plot(), Qt::Key_Up);
        QCOMPARE(shell.hash(), hash);
        // S there lets it run again.
        QTest::keyClick(layers->curve()->plot(), Qt::Key_S);
        QVERIFY(shell.plans().plan().layer(1).isWhole(8));
        QTest::keyClick(layers->table(), Qt::Key_S);
        QCOMPARE(shell.plans().plan().layer(1).run(), LayerRun::Skipped);
        QCOMPARE(shell.workbench.planName(), QStringLiteral("3 of 4 layers, 22 of 24 experts"));
    }

    void menu_mnemonicsAreUnique()
    {
        Home home;
        Shell shell(home);
        for (QAction* top : shell.window.menuBar()->actions()) {
            QMap<QChar, QString> taken;
            for (QAction* action : top->menu()->actions()) {
                const QString text = action->text();
                const qsizetype at = text.indexOf(QLatin1Char('&'));
                if (at < 0 || at + 1 >= text.size()) continue;
                const QChar key = text.at(at + 1).toLower();
                QVERIFY2(!taken.contains(key), qPrintable(taken.value(key) + QStringLiteral(" / ") + text));
                taken.insert(key, text);
            }
        }
    }

    // Plan-wide commands are there when they can do something; the profile that constants are made of is found by itself.
    void window_makesAndTakesBackConstants()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--outputs")});
        OPEN_AND_SETTLE(shell);
        QTRY_VERIFY_WITH_TIMEOUT(!shell.plans().constantsProfile().empty(), kLimit);
        QAction* make = shell.window.action(QStringLiteral("plan.constants"));
        QAction* back = shell.window.action(QStringLiteral("plan.dropConstants"));
        QVERIFY(!make->isEnabled() && !back->isEnabled());
        shell.plans().setKeep(0, 5);
        QVERIFY(make->isEnabled() && !back->isEnabled());
        make->trigger();
        QVERIFY(shell.plans().plan().hasConstants());
        QVERIFY(back->isEnabled());
        QCOMPARE(shell.workbench.planName(), QStringLiteral("29 of 32 experts, 3 constants"));
        // Measured, with the profile that the constants come from.
        QTRY_VERIFY_WITH_TIMEOUT(shell.measured() == kQuick && !shell.evaluation().busy(), kLimit);
        const QStringList lines = home.logLines(QStringLiteral("evaluate")).filter(QString::fromStdString(shell.hash()));
        QVERIFY(!lines.isEmpty());
        QVERIFY2(lines.last().contains(QStringLiteral(" profile ")), qPrintable(lines.last()));
        // And there again after the session was saved and opened.
        const std::string hash = shell.hash();
        const QString file = home.path("constants.espalier");
        SAVE(shell, file);
        back->trigger();
        QVERIFY(!shell.plans().plan().hasConstants());
        Shell other(home, {QStringLiteral("--outputs")});
        other.engine().start();
        other.workbench.openSession(file);
        QTRY_VERIFY_WITH_TIMEOUT(other.workbench.isOpen() && other.hash() == hash, kLimit);
        QTRY_VERIFY_WITH_TIMEOUT(other.evaluation().measurable(other.plans().plan()), kLimit);
        QCOMPARE(other.measured(), kQuick);
        QTRY_VERIFY2_WITH_TIMEOUT(!other.banners().contains(QStringLiteral("constants of this plan")), qPrintable(other.banners()), kLimit);
    }

    // A profile without outputs: the controls say what measures them, and nothing is made that cannot run.
    void window_withoutOutputsSaysWhatMeasuresThem()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        QTRY_VERIFY_WITH_TIMEOUT(shell.plans().constantsProblem().contains(QStringLiteral("Measure the profile")), kLimit);
        shell.plans().setKeep(0, 5);
        QVERIFY(!shell.window.action(QStringLiteral("plan.constants"))->isEnabled());
        shell.window.selection()->setCurrent({0, 0});
        auto* why = shell.window.findChild<InspectorPanel*>()->findChild<QLabel*>(QStringLiteral("inspector.whyNot"));
        QTRY_VERIFY2_WITH_TIMEOUT(why->text().contains(QStringLiteral("Measure the profile")), qPrintable(why->text()), kLimit);
        const std::string hash = shell.hash();
        shell.plans().setConstants({{0, 0}}, ConstantKind::Mean);
        QCOMPARE(shell.hash(), hash);
    }

    // An estimate that counts constants as dropped, or a skipped layer as nothing, would be a wrong number that looks right.
    void estimate_ofConstantsAndSkippedLayersIsNone()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--outputs")});
        shell.workbench.setDeepRest(0);
        OPEN_AND_SETTLE(shell);
        QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.deep()->ready(), kLimit);
        QTRY_VERIFY_WITH_TIMEOUT(!shell.plans().constantsProfile().empty(), kLimit);
        shell.evaluation().setAutomatic(false);
        auto* estimates = shell.window.findChild<EstimateController*>();
        QVERIFY(estimates && estimates->available());
        shell.plans().setKeep(0, 5);
        QTRY_VERIFY_WITH_TIMEOUT(estimates->estimateOf(shell.hash(), 10.0).has_value(), kLimit);
        QVERIFY(estimates->notCovered().isEmpty());
        shell.plans().setDroppedAs(ConstantKind::Mean);
        QVERIFY2(estimates->notCovered().contains(QStringLiteral("constants")), qPrintable(estimates->notCovered()));
        QVERIFY(!estimates->estimateOf(shell.hash(), 10.0).has_value());
        shell.plans().setSkipped(2, true);
        QVERIFY2(estimates->notCovered().contains(QStringLiteral("skipped")), qPrintable(estimates->notCovered()));
        const QStringList asked = home.logLines(QStringLiteral("estimate")).filter(QString::fromStdString(shell.hash()));
        QVERIFY(asked.isEmpty());
        // Nothing else is lost by it: a plan that is covered is estimated again.
        shell.plans().setDroppedAs({});
        shell.plans().setSkipped(2, false);
        shell.plans().setKeep(1, 6);
        QTRY_VERIFY_WITH_TIMEOUT(estimates->estimateOf(shell.hash(), 10.0).has_value(), kLimit);
    }
};

int main(int argc, char** argv) { return runShellTest<ShellFormsTest>(argc, argv); }

#include "test_shell_forms.moc"
