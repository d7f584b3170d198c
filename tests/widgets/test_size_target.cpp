// A target says the same size in every unit, and the plan that keeps to it does.
#include "planning/size_target.h"

#include "core/shapes.h"
#include "plan/compression_plan.h"
#include "plan/cost_model.h"

#include <QtTest>

using namespace espalier;

namespace
{

CompressionPlan keeping(const ModelShape& shape, int dropped)
{
    CompressionPlan plan = CompressionPlan::identity(shape);
    for (int i = 0; i < dropped; ++i) {
        const int layer = i % static_cast<int>(shape.layers.size());
        ExpertSet kept = plan.layer(layer).kept();
        kept.pop_back();
        plan = plan.withKept(shape, layer, kept).value();
    }
    return plan;
}

}  // namespace

class SizeTargetTest final : public QObject
{
    Q_OBJECT

private slots:
    void sizesOfPlansComeBackAsTheirExperts()
    {
        const ModelShape shape = test::evenShape(4, 8, 2);
        const SizeScale scale = sizeScale(shape);
        QCOMPARE(scale.experts, 32);
        for (const int dropped : {0, 1, 7, 20}) {
            const PlanCost cost = planCost(shape, keeping(shape, dropped));
            QCOMPARE(expertsWithin(cost.bytes, scale), 32 - dropped);
            // One byte less, one expert less.
            QCOMPARE(expertsWithin(cost.bytes - 1, scale), 31 - dropped);
            for (const TargetUnit unit :
                 {TargetUnit::MiB, TargetUnit::GiB, TargetUnit::Percent, TargetUnit::ExpertMiB, TargetUnit::Parameters}) {
                const auto again = bytesOf(valueOf(cost.bytes, unit, scale), unit, scale);
                QVERIFY(again.has_value());
                QVERIFY(std::abs(*again - cost.bytes) <= 1);
            }
            QVERIFY(std::abs(valueOf(cost.bytes, TargetUnit::Parameters, scale) * 1e6 - static_cast<double>(cost.parameters)) < 1);
        }
    }

    void textsCarryTheirUnit()
    {
        const ModelShape shape = test::evenShape(4, 8, 2);
        const SizeScale scale = sizeScale(shape);
        const auto mib = [&scale](const char* text) { return parseSize(QString::fromLatin1(text), TargetUnit::MiB, scale); };
        QCOMPARE(mib("1"), std::optional<std::int64_t>(1 << 20));
        QCOMPARE(mib(" 0.5 GiB "), std::optional<std::int64_t>(1 << 29));
        QCOMPARE(mib("50 %"), std::optional<std::int64_t>(scale.denseBytes / 2));
        QCOMPARE(mib("1 MB"), std::optional<std::int64_t>(1000000));
        const QString parameters = QString::number(static_cast<double>(scale.denseParameters) / 1e6, 'g', 17);
        QCOMPARE(parseSize(parameters + QStringLiteral(" M parameters"), TargetUnit::MiB, scale),
                 std::optional<std::int64_t>(scale.denseBytes));
        for (const char* text : {"", "x", "-3", "0", "nan", "3 parameters", "1 mib 2"})
            QVERIFY2(!mib(text), text);
    }

    void theLeastSizeKeepsWhatLocksProtectionAndRoutersHold()
    {
        const ModelShape shape = test::evenShape(4, 8, 2);
        CompressionPlan plan = CompressionPlan::identity(shape);
        const LeastSize free = leastSize(shape, plan);
        QCOMPARE(free.experts, 8);
        QCOMPARE(free.freeExperts, 8);
        QVERIFY(free.locks.empty());
        // What it names can be made, and nothing smaller.
        CompressionPlan smallest = plan;
        for (int l = 0; l < 4; ++l) {
            smallest = smallest.withKept(shape, l, {0, 1}).value();
            smallest = smallest.withRanks(shape, l, std::vector<RankTriple>(2, RankTriple{1, 1, 1})).value();
        }
        QCOMPARE(free.bytes, planCost(shape, smallest).bytes);
        plan = plan.withProtected(1, 3, true).withProtected(1, 4, true).withProtected(1, 7, true);
        QCOMPARE(leastSize(shape, plan).experts, 9);
        plan = plan.withKept(shape, 2, {0, 1}).value().withLocked(2, true).withLocked(3, true);
        const LeastSize held = leastSize(shape, plan);
        QCOMPARE(held.experts, 2 + 3 + 2 + 8);
        QCOMPARE(held.freeExperts, 9);
        QCOMPARE(held.locks, (std::vector<int>{2, 3}));
        QCOMPARE(held.countLocks, std::vector<int>{3});  // layer 2 is as small as it gets without its lock, but dense
        QVERIFY(held.bytes > held.freeBytes);
        QVERIFY(held.bytes < planCost(shape, plan).bytes);
    }

    void activeParametersNameTheLargestRankThatFits()
    {
        const ModelShape shape = test::evenShape(4, 8, 2);
        const std::int64_t dense = planCost(shape, CompressionPlan::identity(shape)).activeParameters;
        QVERIFY(!rankForActive(dense, shape));
        const auto active = [&shape](int rank) {
            CompressionPlan plan = CompressionPlan::identity(shape);
            for (const LayerShape& layer : shape.layers)
                plan = plan.withRanks(shape, layer.index, std::vector<RankTriple>(8, RankTriple{rank, rank, rank})).value();
            return planCost(shape, plan).activeParameters;
        };
        for (const int rank : {1, 3, 5}) {
            QCOMPARE(rankForActive(active(rank), shape), std::optional<int>(rank));
            QCOMPARE(rankForActive(active(rank) - 1, shape), std::optional<int>(rank - 1));
        }
    }
};

QTEST_MAIN(SizeTargetTest)
#include "test_size_target.moc"
