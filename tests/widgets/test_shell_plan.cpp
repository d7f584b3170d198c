// Editing a plan: gestures, history, clamps, allocation. No window, no engine.
#include "widgets/shell_fixture.h"

#include <algorithm>

using namespace espalier;
using namespace espalier::test;

class ShellPlanTest final : public ShellTestBase
{
    Q_OBJECT

private slots:
    void plan_oneDragIsOneEntry()
    {
        PlanController plans;
        plans.open(smallShape(), {}, QStringLiteral("model"));
        plans.setScores(smallScores());
        QSignalSpy history(&plans, &PlanController::historyChanged);
        QSignalSpy frames(&plans, &PlanController::planChanged);
        plans.beginGesture();
        for (const int keep : {7, 6, 5, 4, 3})
            plans.setKeep(1, keep);
        QCOMPARE(plans.history().entries().size(), std::size_t(1));
        QCOMPARE(plans.plan().layer(1).kept().size(), std::size_t(3));
        QCOMPARE(plans.committed().layer(1).kept().size(), std::size_t(8));
        QVERIFY(!plans.canUndo());
        plans.finishGesture();
        QCOMPARE(plans.history().entries().size(), std::size_t(2));
        QCOMPARE(history.size(), 1);
        QVERIFY(frames.size() >= 5);
        QVERIFY(QString::fromStdString(plans.history().current().text).contains(QStringLiteral("Layer 1")));
        plans.undo();
        QCOMPARE(plans.plan().keptExperts(), 32);
        plans.redo();
        QCOMPARE(plans.plan().keptExperts(), 27);
    }

    void plan_aDragThereAndBackIsNothing()
    {
        PlanController plans;
        plans.open(smallShape(), {}, QStringLiteral("model"));
        plans.beginGesture();
        plans.setKeep(2, 3);
        plans.setKeep(2, 8);
        plans.finishGesture();
        QCOMPARE(plans.history().entries().size(), std::size_t(1));
        plans.beginGesture();
        plans.finishGesture();
        QCOMPARE(plans.history().entries().size(), std::size_t(1));
    }

    void plan_escapeRestores()
    {
        PlanController plans;
        plans.open(smallShape(), {}, QStringLiteral("model"));
        plans.toggleExpert(0, 7);
        const std::string before = plans.plan().hash();
        plans.beginGesture();
        plans.setKeep(3, 2);
        QVERIFY(plans.plan().hash() != before);
        plans.cancelGesture();
        QCOMPARE(plans.plan().hash(), before);
        QVERIFY(!plans.inGesture());
        QCOMPARE(plans.history().entries().size(), std::size_t(2));
    }

    void plan_dropsTheLowestScores()
    {
        PlanController plans;
        plans.open(smallShape(), {}, QStringLiteral("model"));
        plans.setScores(smallScores());
        plans.setKeep(0, 3);
        // Layer 0 scores (5 e) mod 8: the highest are at experts 3 (7), 6 (6) and 1 (5).
        QCOMPARE(plans.plan().layer(0).kept(), (ExpertSet{1, 3, 6}));
        plans.setKeep(0, 4);
        QCOMPARE(plans.plan().layer(0).kept(), (ExpertSet{1, 3, 4, 6}));
    }

    void plan_clampIsExplained()
    {
        PlanController plans;
        plans.open(smallShape(), {}, QStringLiteral("model"));
        QSignalSpy said(&plans, &PlanController::explained);
        plans.setKeep(0, 0);
        QCOMPARE(plans.plan().layer(0).kept().size(), std::size_t(2));
        QVERIFY(!said.isEmpty());
        QVERIFY2(said.last().at(0).toString().contains(QStringLiteral("at least 2")), qPrintable(said.last().at(0).toString()));
        for (int e = 0; e < 5; ++e)
            plans.toggleProtected(1, e);
        plans.setKeep(1, 1);
        QCOMPARE(plans.plan().layer(1).kept().size(), std::size_t(5));
        QVERIFY(said.last().at(0).toString().contains(QStringLiteral("protected")));
        plans.setKeep(1, 6);
        QVERIFY(said.last().at(0).toString().isEmpty());
        // Below the router's count by hand: refused with the reason, nothing changes.
        const std::string before = plans.plan().hash();
        plans.setKept({{0, plans.plan().layer(0).kept().front()}}, false);
        QCOMPARE(plans.plan().hash(), before);
        QVERIFY(said.last().at(1).toBool());
        QVERIFY(!said.last().at(0).toString().isEmpty());
    }

    void plan_randomEditsUndoToTheFirst()
    {
        for (const unsigned seed : {1u, 2u, 3u}) {
            std::mt19937 random(seed);
            PlanController plans;
            plans.open(smallShape(), {}, QStringLiteral("model"));
            plans.setScores(smallScores());
            const CompressionPlan first = plans.plan();
            for (int i = 0; i < 200; ++i) {
                randomEdit(plans, random);
                QVERIFY(!plans.inGesture());
                for (int layer = 0; layer < 4; ++layer)
                    QVERIFY(plans.plan().layer(layer).kept().size() >= 2);
                for (const int e : plans.plan().protectedExperts(i % 4))
                    Q_UNUSED(e);
            }
            const CompressionPlan last = plans.plan();
            QVERIFY(plans.history().entries().size() > 50);
            int steps = 0;
            while (plans.canUndo()) {
                plans.undo();
                ++steps;
            }
            QCOMPARE(plans.plan().hash(), first.hash());
            QVERIFY(plans.plan() == first);
            while (plans.canRedo())
                plans.redo();
            QCOMPARE(plans.plan().hash(), last.hash());
            QVERIFY(plans.plan() == last);
            QCOMPARE(static_cast<std::size_t>(steps) + 1, plans.history().entries().size());
        }
    }

    void plan_anEditAfterUndoKeepsTheOtherBranch()
    {
        PlanController plans;
        plans.open(smallShape(), {}, QStringLiteral("model"));
        plans.setKeep(0, 5);
        const int left = plans.history().currentId();
        const std::string leftHash = plans.plan().hash();
        plans.undo();
        plans.setKeep(1, 5);
        QCOMPARE(plans.history().entries().size(), std::size_t(3));
        plans.jumpTo(left);
        QCOMPARE(plans.plan().hash(), leftHash);
    }

    // Toggling equal counts must not throw a choice away that fits: a genetic one, or one by hand.
    void plan_equalCountsKeepWhatWasChosen()
    {
        PlanController plans;
        plans.open(smallShape(), {}, QStringLiteral("model"));
        plans.setScores(smallScores());
        CompressionPlan chosen = plans.plan();
        // The lowest scores of each layer, so that ranking would choose others.
        const std::vector<ExpertSet> sets = {{0, 2, 4, 5}, {0, 1, 4, 6}, {0, 2, 4, 5}, {1, 2, 3, 4, 5, 7}};
        for (int layer = 0; layer < 4; ++layer)
            chosen = chosen.withKept(plans.shape(), layer, sets[static_cast<std::size_t>(layer)]).value();
        plans.replacePlan(chosen, QStringLiteral("genetic"));
        AllocationIntent intent;
        intent.keepTotal = chosen.keptExperts();
        intent.method = "uniform";
        intent.equalCounts = true;
        intent.change = AllocationIntent::Change::Equality;
        plans.allocateTo(intent);
        for (int layer = 0; layer < 3; ++layer)
            QCOMPARE(plans.plan().layer(layer).kept(), sets[static_cast<std::size_t>(layer)]);
        const ExpertSet& last = plans.plan().layer(3).kept();
        QCOMPARE(last.size(), std::size_t(4));
        QVERIFY(std::includes(sets[3].begin(), sets[3].end(), last.begin(), last.end()));
        // Growing again takes the best of those that are out; what was there stays.
        intent.equalCounts = false;
        intent.keepTotal = 20;
        plans.allocateTo(intent);
        for (int layer = 0; layer < 4; ++layer)
            QVERIFY(std::includes(plans.plan().layer(layer).kept().begin(), plans.plan().layer(layer).kept().end(),
                                  sets[static_cast<std::size_t>(std::min(layer, 2))].begin(),
                                  sets[static_cast<std::size_t>(std::min(layer, 2))].end()) ||
                    layer == 3);
        // Anew only on request, at the counts that are there.
        std::vector<std::size_t> counts;
        for (int layer = 0; layer < 4; ++layer)
            counts.push_back(plans.plan().layer(layer).kept().size());
        plans.rankAnew();
        QCOMPARE(plans.plan().layer(0).kept(), (ExpertSet{1, 3, 4, 6, 7}));
        for (int layer = 0; layer < 4; ++layer)
            QCOMPARE(plans.plan().layer(layer).kept().size(), counts[static_cast<std::size_t>(layer)]);
    }

    void plan_aMethodThatChangesNothingSaysWhy()
    {
        PlanController plans;
        plans.open(smallShape(), {}, QStringLiteral("model"));
        plans.setScores(smallScores());
        plans.setLayerImportance({4, 3, 2, 1});
        QSignalSpy said(&plans, &PlanController::explained);
        const auto told = [&] { return said.last().at(0).toString(); };
        AllocationIntent intent;
        intent.keepTotal = 32;
        intent.method = "importance";
        intent.change = AllocationIntent::Change::Method;
        plans.allocateTo(intent);
        QVERIFY2(told().contains(QStringLiteral("keeps all experts")), qPrintable(told()));
        QVERIFY(!said.last().at(1).toBool());
        intent.keepTotal = 20;
        plans.allocateTo(intent);
        QVERIFY(told().isEmpty());
        plans.allocateTo(intent);
        QVERIFY2(told().contains(QStringLiteral("what they have already")), qPrintable(told()));
        intent.equalCounts = true;
        plans.allocateTo(intent);
        plans.allocateTo(intent);
        QVERIFY2(told().contains(QStringLiteral("whatever the method")), qPrintable(told()));
        intent.equalCounts = false;
        intent.keepTotal = 8;
        plans.allocateTo(intent);
        plans.allocateTo(intent);
        QVERIFY2(told().contains(QStringLiteral("at the least")), qPrintable(told()));
        QCOMPARE(plans.history().entries().size(), std::size_t(4));
    }

    void plan_equalCountsSayWhatTheyRoundTo()
    {
        PlanController plans;
        plans.open(smallShape(), {}, QStringLiteral("model"));
        plans.setScores(smallScores());
        QSignalSpy said(&plans, &PlanController::explained);
        AllocationIntent intent;
        intent.keepTotal = 23;
        intent.method = "uniform";
        intent.equalCounts = true;
        plans.allocateTo(intent);
        QCOMPARE(plans.plan().keptExperts(), 20);
        QVERIFY2(said.last().at(0).toString().contains(QStringLiteral("5 in each layer are 20 of the 23")),
                 qPrintable(said.last().at(0).toString()));
        // A lock that forces another count than the others would get is named.
        plans.undo();
        plans.setKeep(1, 3);
        plans.toggleLocked(1);
        plans.allocateTo(intent);
        QCOMPARE(plans.plan().keptExperts(), 12);
        QVERIFY2(said.last().at(0).toString().contains(QStringLiteral("layer 1 is locked at 3")), qPrintable(said.last().at(0).toString()));
        plans.retryUnlocked();
        QCOMPARE(plans.plan().keptExperts(), 20);
        QVERIFY(!plans.plan().isLocked(1));
    }

    void plan_allocationNeedsScoresAndMeetsTheBudget()
    {
        PlanController plans;
        plans.open(smallShape(), {}, QStringLiteral("model"));
        QSignalSpy said(&plans, &PlanController::explained);
        AllocationIntent intent;
        intent.keepTotal = 20;
        intent.method = "uniform";
        plans.allocateTo(intent);
        QCOMPARE(plans.plan().keptExperts(), 32);
        QVERIFY(said.last().at(1).toBool());
        plans.setScores(smallScores());
        plans.allocateTo(intent);
        QCOMPARE(plans.plan().keptExperts(), 20);
    }
};

int main(int argc, char** argv) { return runShellTest<ShellPlanTest>(argc, argv); }

#include "test_shell_plan.moc"
