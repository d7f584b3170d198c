// Ranks: edits, the views that show them, the deep profile that measures what they need, and the instant estimate.
#include "widgets/shell_fixture.h"

#include "experts/inspector_panel.h"
#include "experts/keep_box.h"
#include "experts/rank_box.h"
#include "experts/rank_section.h"
#include "heatmap/heatmap_table.h"
#include "layers/kept_curve.h"
#include "layers/layer_table.h"
#include "layers/layers_panel.h"
#include "look/controls.h"
#include "look/field_note.h"
#include "perplexity/status_bar.h"
#include "plan/rank_edit.h"
#include "ranks/rank_panel.h"
#include "ranks/rank_plot.h"
#include "shell/engine/deep_profile.h"
#include "shell/engine/estimate_controller.h"

#include <QDir>
#include <QLabel>

using namespace espalier;
using namespace espalier::test;

namespace
{

QString jobText(Shell& shell) { return shell.window.findChild<StatusBar*>()->text(); }

// A line of the panel with this start, of those in sight.
QString labelOf(const QWidget* panel, const QString& start)
{
    for (const QLabel* label : panel->findChildren<QLabel*>())
        if (label->isVisibleTo(panel) && label->text().startsWith(start)) return label->text();
    return {};
}

void showRankView(Shell& shell)
{
    shell.window.action(QStringLiteral("view.ranks"))->trigger();
    QApplication::processEvents();
}

}  // namespace

#define OPEN_DEEP(shell)                                                     \
    do {                                                                     \
        (shell).workbench.setDeepRest(0);                                    \
        OPEN_AND_SETTLE(shell);                                              \
        QTRY_VERIFY_WITH_TIMEOUT((shell).workbench.deep()->ready(), kLimit); \
    } while (false)

class ShellRanksTest final : public ShellTestBase
{
    Q_OBJECT

private slots:
    // ---- edits

    void edit_breakEvenSnapsToDense()
    {
        // 64 x 64: at rank 32 the factors are exactly as large as the matrix.
        PlanController plans;
        plans.open(evenShape(2, 4, 2, 64, 64), {}, QStringLiteral("model"));
        QSignalSpy said(&plans, &PlanController::explained);
        QCOMPARE(breakEvenOf(plans.shape(), 0), 31);
        plans.setExpertRank(0, 1, 31);
        QCOMPARE(ranksOf(plans.plan(), 0, 1), (RankTriple{31, 31, 31}));
        QCOMPARE(QString::fromStdString(plans.plan().factors().method), QStringLiteral("svd"));
        QVERIFY(said.last().at(0).toString().isEmpty());
        plans.setExpertRank(0, 1, 32);
        QCOMPARE(ranksOf(plans.plan(), 0, 1), RankTriple{});
        QVERIFY(!plans.plan().hasRanks());
        QVERIFY2(said.last().at(0).toString().contains(QStringLiteral("31")), qPrintable(said.last().at(0).toString()));
        QVERIFY(plans.plan().factors().method.empty());
        plans.setExpertRank(0, 1, -5);
        QCOMPARE(ranksOf(plans.plan(), 0, 1), (RankTriple{1, 1, 1}));
    }

    void edit_layerKeepsDifferencesAndMeetsTheMean()
    {
        PlanController plans;
        plans.open(evenShape(2, 4, 2, 64, 64), {}, QStringLiteral("model"));
        plans.setExpertRank(0, 0, 10);
        plans.setExpertRank(0, 1, 20);
        plans.setExpertRank(0, 2, 12);
        plans.setExpertRank(0, 3, 14);
        QCOMPARE(meanLevelOf(plans.shape(), plans.plan(), 0), 14);
        const std::size_t entries = plans.history().entries().size();
        plans.beginGesture();
        for (const int level : {20, 2, 32, 9})
            plans.setMeanRank(0, level);
        plans.finishGesture();
        QCOMPARE(plans.history().entries().size(), entries + 1);
        QCOMPARE(QString::fromStdString(plans.history().current().text), QStringLiteral("Layer 0: mean rank 14 → 9"));
        QCOMPARE(ranksOf(plans.plan(), 0, 0)[0], 5);
        QCOMPARE(ranksOf(plans.plan(), 0, 1)[0], 15);
        QCOMPARE(ranksOf(plans.plan(), 0, 2)[0], 7);
        QCOMPARE(ranksOf(plans.plan(), 0, 3)[0], 9);
        plans.setMeanRank(0, denseLevel(plans.shape(), 0));
        QVERIFY(!plans.plan().hasRanks());
        QCOMPARE(QString::fromStdString(plans.history().current().text), QStringLiteral("Layer 0: mean rank 9 → dense"));
        plans.undo();
        QCOMPARE(meanLevelOf(plans.shape(), plans.plan(), 0), 9);
        // Every mean is met exactly, whatever stands at an end of the scale.
        for (int level = 1; level <= 31; ++level) {
            plans.setMeanRank(0, level);
            int sum = 0;
            for (int e = 0; e < 4; ++e)
                sum += levelOf(plans.shape(), plans.plan(), 0, e);
            QCOMPARE(sum, 4 * level);
        }
    }

    void edit_lockedLayerRefusesWithTheReason()
    {
        PlanController plans;
        plans.open(smallShape(), {}, QStringLiteral("model"));
        plans.toggleLocked(1);
        QSignalSpy said(&plans, &PlanController::explained);
        const CompressionPlan before = plans.plan();
        plans.setMeanRank(1, 100);
        plans.setExpertRank(1, 0, 100);
        plans.stepMeanRank(1, -1, true);
        QVERIFY(plans.plan() == before);
        QCOMPARE(said.size(), 3);
        QVERIFY2(said.last().at(0).toString().contains(QStringLiteral("Layer 1 is locked")), qPrintable(said.last().at(0).toString()));
        QVERIFY(said.last().at(1).toBool());
    }

    void edit_keysAndMouseAreOneEntryAndUndoRestores()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        showRankView(shell);
        shell.window.selection()->setCurrent({1, 3});
        const std::string dense = shell.hash();
        QWidget* map = shell.window.heatmap()->focusTarget();
        for (int i = 0; i < 4; ++i)
            QTest::keyClick(map, Qt::Key_Left, Qt::ControlModifier);
        QTest::keyClick(map, Qt::Key_Left, Qt::ControlModifier | Qt::ShiftModifier);
        QTRY_VERIFY_WITH_TIMEOUT(!shell.plans().inGesture(), kLimit);
        // Break-even of 64 x 32 is 21, dense one above: four single steps and a coarse one of five, on its multiples.
        QCOMPARE(meanLevelOf(shell.plans().shape(), shell.plans().plan(), 1), 15);
        QCOMPARE(shell.plans().history().entries().size(), std::size_t(2));
        QCOMPARE(QString::fromStdString(shell.plans().history().current().text), QStringLiteral("Layer 1: mean rank dense → 15"));
        shell.plans().undo();
        QCOMPARE(shell.hash(), dense);

        auto* panel = shell.window.findChild<RankPanel*>();
        KeptCurve* curve = panel->curve();
        QWidget* canvas = curve->focusTarget();
        const QPoint from = curve->pointPosition(2).toPoint();
        QTest::mousePress(canvas, Qt::LeftButton, {}, from);
        for (int dy = 10; dy <= 60; dy += 10)
            QTest::mouseMove(canvas, from + QPoint(0, dy));
        QTest::mouseRelease(canvas, Qt::LeftButton, {}, from + QPoint(0, 60));
        const int level = meanLevelOf(shell.plans().shape(), shell.plans().plan(), 2);
        QVERIFY2(level < 20, qPrintable(QString::number(level)));
        QCOMPARE(shell.plans().history().entries().size(), std::size_t(3));
        QCOMPARE(QString::fromStdString(shell.plans().history().current().text),
                 QStringLiteral("Layer 2: mean rank dense → %1").arg(level));
        shell.plans().undo();
        QCOMPARE(shell.hash(), dense);
        QCOMPARE(panel->table()->layerModel()->index(2, LayerModel::Value).data().toString(), QStringLiteral("dense"));
    }

    void views_sayTheSameRank()
    {
        Home home;
        Shell shell(home);
        OPEN_DEEP(shell);
        showRankView(shell);
        HeatmapView* map = shell.window.heatmap();
        QCOMPARE(map->options().score, kRankMetric);
        shell.window.selection()->setCurrent({0, 2});
        auto* inspector = shell.window.findChild<InspectorPanel*>();
        auto* form = inspector->findChild<Segment*>(QStringLiteral("inspector.form"));
        QCOMPARE(form->current(), 0);
        shell.plans().setExpertRank(0, 2, 12);
        QCOMPARE(map->facts({0, 2})->rank, 12);
        QVERIFY2(map->factsText({0, 2}).contains(QStringLiteral("rank 12 of 32")), qPrintable(map->factsText({0, 2})));
        QVERIFY2(map->factsText({0, 2}).contains(QStringLiteral("break-even 21")), qPrintable(map->factsText({0, 2})));
        QVERIFY(map->legend().contains(QStringLiteral("dense")));
        QCOMPARE(form->current(), 1);
        auto* section = inspector->findChild<RankSection*>();
        QVERIFY(section->isVisibleTo(inspector));
        QTRY_VERIFY2_WITH_TIMEOUT(!section->tableText().contains(QStringLiteral("–")), qPrintable(section->tableText()), kLimit);
        QVERIFY2(section->tableText().startsWith(QStringLiteral("gate 32 × 64, rank 12, energy ")), qPrintable(section->tableText()));
        QCOMPARE(inspector->findChild<RankBox*>(QStringLiteral("inspector.rankNumber"))->value(), 12);
        // (7 x 22 + 12) / 8 = 20.75: the mean with dense one above break-even.
        auto* panel = shell.window.findChild<RankPanel*>();
        QCOMPARE(panel->table()->layerModel()->index(0, LayerModel::Value).data().toString(), QStringLiteral("21"));
        shell.window.action(QStringLiteral("view.table"))->trigger();
        auto* table = shell.window.findChild<HeatmapTable*>();
        QTRY_VERIFY2_WITH_TIMEOUT(table->tsv().contains(QStringLiteral("\n0\t2\t")), qPrintable(table->tsv()), kLimit);
        QString row = table->tsv().section(QStringLiteral("\n0\t2\t"), 1).section(QLatin1Char('\n'), 0, 0);
        QVERIFY2(row.contains(QStringLiteral("\tkept\t12\t")), qPrintable(row));
        shell.window.selection()->setCurrent({0, 2});
        // The drop of the same expert takes its rank from every view.
        shell.plans().setKept({CellId{0, 2}}, false);
        QCOMPARE(map->facts({0, 2})->rank, 0);
        QCOMPARE(form->current(), 2);
        QVERIFY(!section->isVisibleTo(inspector));
        shell.plans().undo();
        QCOMPARE(map->facts({0, 2})->rank, 12);
        // Back out of the view the map shows the metric from before.
        showRankView(shell);
        QCOMPARE(map->options().score.toStdString(), shell.workbench.chosenScore());
        QVERIFY(map->legend().contains(QStringLiteral("low rank")));
    }

    void plot_draggingTheLineSetsTheRank()
    {
        Home home;
        Shell shell(home);
        OPEN_DEEP(shell);
        shell.window.resize(1600, 1000);  // a pixel is less than a rank
        showRankView(shell);
        shell.window.selection()->setCurrent({0, 2});
        shell.plans().setExpertRank(0, 2, 8);
        RankPlot* shown = nullptr;
        for (RankPlot* plot : shell.window.findChildren<RankPlot*>())
            if (plot->isVisible()) shown = plot;
        QVERIFY(shown);
        QTRY_VERIFY_WITH_TIMEOUT(
            shown->focusTarget()->isVisible() && shown->focusTarget()->accessibleDescription().contains(QStringLiteral("rank 8")), kLimit);
        QWidget* canvas = shown->focusTarget();
        const QPoint from = shown->rankPosition(8).toPoint();
        const QPoint to = shown->rankPosition(16).toPoint();
        QTest::mousePress(canvas, Qt::LeftButton, {}, from);
        QTest::mouseMove(canvas, (from + to) / 2);
        QTest::mouseMove(canvas, to);
        QTest::mouseRelease(canvas, Qt::LeftButton, {}, to);
        QCOMPARE(ranksOf(shell.plans().plan(), 0, 2), (RankTriple{16, 16, 16}));
        QCOMPARE(QString::fromStdString(shell.plans().history().current().text), QStringLiteral("Expert 2 of layer 0: rank 8 → 16"));
        QCOMPARE(shell.plans().history().entries().size(), std::size_t(3));
    }

    // ---- numbers that are not taken

    void typed_numbersThatAreNotTakenSayWhy()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.window.heatmap()->setFocus();
        auto* inspector = shell.window.findChild<InspectorPanel*>();
        auto* kept = inspector->findChild<KeepBox*>();
        QVERIFY(kept && kept->isVisible());
        const auto note = [&shell] {
            const auto* label = shell.window.findChild<FieldNote*>();
            return label && label->isVisible() ? label->text() : QString();
        };
        const auto type = [](QSpinBox* box, const char* text) {
            box->setFocus();
            box->selectAll();
            QTest::keyClicks(box, QString::fromLatin1(text));
            QTest::keyClick(box, Qt::Key_Return);
            QApplication::processEvents();
        };
        // 8 experts, the router picks 2.
        const std::string before = shell.hash();
        type(kept, "9");
        QCOMPARE(kept->value(), 8);
        QVERIFY2(note().contains(QStringLiteral("9 asked")), qPrintable(note()));
        QTest::keyClick(kept, Qt::Key_Home);
        QCOMPARE(note(), QString());  // the next key takes it away
        type(kept, "many");
        QVERIFY2(note().contains(QStringLiteral("\"many\" is no number of experts")), qPrintable(note()));
        QCOMPARE(shell.hash(), before);
        type(kept, "1");
        QCOMPARE(kept->value(), 2);
        QVERIFY2(note().contains(QStringLiteral("at least 2: the router picks 2")), qPrintable(note()));
        type(kept, "5");
        QCOMPARE(kept->value(), 5);
        QCOMPARE(note(), QString());
        // Given up with Escape: nobody asks why.
        kept->selectAll();
        QTest::keyClicks(kept, QStringLiteral("many"));
        QTest::keyClick(kept, Qt::Key_Escape);
        shell.window.heatmap()->setFocus();
        QApplication::processEvents();
        QCOMPARE(note(), QString());
        QSpinBox* rank = nullptr;
        for (RankBox* box : inspector->findChildren<RankBox*>())
            if (box->accessibleName().startsWith(QStringLiteral("mean rank"))) rank = box;
        QVERIFY(rank);
        type(rank, "5x");
        QVERIFY2(note().contains(QStringLiteral("\"5x\" is no rank")), qPrintable(note()));
        type(rank, "4");
        QCOMPARE(note(), QString());
        type(rank, "9999");
        QVERIFY2(note().contains(QStringLiteral("9,999 asked, dense taken")), qPrintable(note()));
        QCOMPARE(rank->value(), rank->maximum());
        type(rank, "dense");
        QCOMPARE(note(), QString());
        // A locked layer takes no number at all.
        shell.plans().toggleLocked(0);
        QVERIFY(!rank->isEnabled());
    }

    void table_numbersThatAreNotTakenSayWhy()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        auto* table = shell.window.findChild<LayersPanel*>()->table();
        const QModelIndex cell = table->model()->index(1, LayerModel::Value);
        const auto type = [&](const char* text) {
            table->setCurrentIndex(cell);
            table->edit(cell);
            auto* box = table->viewport()->findChild<KeepBox*>();
            QVERIFY(box);
            box->selectAll();
            QTest::keyClicks(box, QString::fromLatin1(text));
            QTest::keyClick(box, Qt::Key_Return);
            QApplication::processEvents();
            QTRY_VERIFY_WITH_TIMEOUT(!table->viewport()->findChild<KeepBox*>(), kLimit);
        };
        const auto note = [&shell] {
            const auto* label = shell.window.findChild<FieldNote*>();
            return label && label->isVisible() ? label->text() : QString();
        };
        type("1");
        QCOMPARE(static_cast<int>(shell.plans().plan().layer(1).kept().size()), 2);
        QVERIFY2(note().contains(QStringLiteral("at least 2")), qPrintable(note()));
        type("80");
        QCOMPARE(static_cast<int>(shell.plans().plan().layer(1).kept().size()), 2);
        QVERIFY2(note().contains(QStringLiteral("80 asked, 2 kept as before")), qPrintable(note()));
        type("6");
        QCOMPARE(static_cast<int>(shell.plans().plan().layer(1).kept().size()), 6);
        QCOMPARE(note(), QString());
    }

    void locks_thePageAboutRanksOffersToUnlock()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        showRankView(shell);
        auto* panel = shell.window.findChild<RankPanel*>();
        auto* unlock = panel->findChild<QPushButton*>(QStringLiteral("rank.unlock"));
        QVERIFY(unlock && !unlock->isVisible());
        shell.plans().toggleLocked(2);
        emit panel->lockedTouched(2);
        QVERIFY2(panel->text().contains(QStringLiteral("Layer 2 is locked")), qPrintable(panel->text()));
        QVERIFY(unlock->isVisible());
        QCOMPARE(unlock->text(), QStringLiteral("Unlock layer 2"));
        unlock->click();
        QVERIFY(!shell.plans().plan().isLocked(2));
        QVERIFY(!unlock->isVisible());
    }

    // ---- the deep profile

    void deep_theFirstProfileGoesOnceNothingRefersToIt()
    {
        Home home;
        const auto profiles = [&home] { return QDir(home.path("data/profiles")).entryList({QStringLiteral("*.h5")}); };
        const QString file = home.path("plan.espalier");
        {
            Shell shell(home);
            OPEN_AND_SETTLE(shell);
            const QStringList first = profiles();
            QCOMPARE(first.size(), 1);
            shell.plans().setKeep(0, 5);
            SAVE(shell, file);  // which refers to the first one
            shell.workbench.setDeepRest(0);
            QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.deep()->ready(), kLimit);
            QCOMPARE(profiles().size(), 2);
            QVERIFY(profiles().contains(first.first()));
            SAVE(shell, file);
            QCOMPARE(profiles(), QStringList{QFileInfo(shell.workbench.deep()->file()).fileName()});
            QCOMPARE(shell.workbench.planningProblem(), QString());
            // Measured again it is there again, beside the other one.
            const int before = home.logLines(QStringLiteral("profile")).size();
            shell.workbench.profileAgain();
            QTRY_VERIFY_WITH_TIMEOUT(home.logLines(QStringLiteral("profile")).size() > before && !shell.workbench.profiling(), kLimit);
            QCOMPARE(profiles().size(), 2);
            QVERIFY(shell.workbench.profileComplete());
        }
        {
            Shell shell(home);
            shell.engine().start();
            shell.workbench.openSession(file);
            QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.deep()->ready(), kLimit);
            QTRY_COMPARE_WITH_TIMEOUT(profiles().size(), 1, kLimit);
            QVERIFY(shell.workbench.profileComplete());
        }
        // The model alone is as complete with the one file, and measures nothing.
        const int measured = home.logLines(QStringLiteral("profile")).size();
        Shell shell(home);
        OPEN_DEEP(shell);
        QVERIFY(shell.workbench.profileComplete());
        QVERIFY(!shell.workbench.scores().empty());
        QCOMPARE(home.logLines(QStringLiteral("profile")).size(), measured);
        QCOMPARE(home.logLines(QStringLiteral("deep-profile")).size(), 1);
        QCOMPARE(profiles().size(), 1);
    }

    void deep_startsByItselfAfterTheQuickTier()
    {
        Home home;
        Shell shell(home);
        OPEN_DEEP(shell);
        const QStringList lines = home.logLines({});
        const auto place = [&](const QString& start) {
            for (int i = 0; i < lines.size(); ++i)
                if (lines[i].startsWith(start)) return i;
            return -1;
        };
        const int deep = place(QStringLiteral("deep-profile"));
        QVERIFY(deep > place(QStringLiteral("profile")));
        QVERIFY(deep > place(QStringLiteral("evaluate quick")));
        QCOMPARE(home.logLines(QStringLiteral("deep-profile")).size(), 1);
        QVERIFY(shell.settled());
        QCOMPARE(QString::fromStdString(shell.plans().rankFactors().method), QStringLiteral("whitened-svd"));
        QVERIFY(!shell.plans().rankFactors().profileSha256.empty());

        // Of a plan with ranks the evaluation names the file, and the plan its content.
        shell.plans().setMeanRank(1, 10);
        QCOMPARE(shell.plans().plan().factors(), shell.plans().rankFactors());
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        const QStringList evaluations = home.logLines(QStringLiteral("evaluate quick ") + QString::fromStdString(shell.hash()));
        QCOMPARE(evaluations.size(), 1);
        QVERIFY2(evaluations.first().contains(QStringLiteral(" profile ") + shell.workbench.deep()->file()),
                 qPrintable(evaluations.first()));
        QCOMPARE(home.logLines(QStringLiteral("evaluate quick")).filter(QStringLiteral(" profile ")).size(), 1);
    }

    void deep_waitsWhileItIsNotWantedAndGivesWay()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--hold"), QStringLiteral("deep-profile")});
        shell.workbench.setDeepRest(0);
        OPEN_AND_SETTLE(shell);
        QTRY_VERIFY2_WITH_TIMEOUT(jobText(shell).contains(QStringLiteral("Ranks and gradients · layer")), qPrintable(jobText(shell)),
                                  kLimit);
        QVERIFY(shell.settled());
        // Nobody asked for it: the button still evaluates.
        auto* button = shell.window.findChild<QPushButton*>(QStringLiteral("evaluate"));
        QCOMPARE(button->text(), QStringLiteral("Evaluate"));
        button->click();
        QTRY_VERIFY_WITH_TIMEOUT(static_cast<int>(shell.evaluation().state().full.windows.size()) == kFull, kLimit);
        // It went on afterwards.
        QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.deep()->ready(), kLimit);
        QCOMPARE(home.logLines(QStringLiteral("deep-profile")).size(), 2);
        QCOMPARE(shell.window.banners()->count(), 0);
    }

    void deep_failureLeavesEverythingUsable()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--fail"), QStringLiteral("deep-profile")});
        OPEN_AND_SETTLE(shell);
        shell.workbench.setDeepRest(0);
        QTRY_COMPARE_WITH_TIMEOUT(shell.window.banners()->count(), 1, kLimit);
        QVERIFY2(shell.banners().contains(QStringLiteral("There is not enough memory")), qPrintable(shell.banners()));
        QVERIFY(shell.settled());
        shell.plans().setMeanRank(1, 10);
        QCOMPARE(QString::fromStdString(shell.plans().plan().factors().method), QStringLiteral("svd"));
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        QCOMPARE(home.logLines(QStringLiteral("deep-profile")).size(), 1);  // not again by itself
        QCOMPARE(shell.window.banners()->count(), 1);
        showRankView(shell);
        auto* measure = shell.window.findChild<RankPanel*>()->findChild<QPushButton*>(QStringLiteral("rank.measure"));
        QVERIFY(measure->isVisible());
        measure->click();
        QTRY_COMPARE_WITH_TIMEOUT(home.logLines(QStringLiteral("deep-profile")).size(), 2, kLimit);
    }

    void deep_isFoundAgainBySessionAndText()
    {
        Home home;
        const QString file = home.path("plan.espalier");
        std::string hash;
        {
            Shell shell(home);
            OPEN_DEEP(shell);
            shell.plans().setMeanRank(1, 10);
            hash = shell.hash();
            QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
            SAVE(shell, file);
        }
        {
            Shell shell(home);
            shell.engine().start();
            shell.workbench.openSession(file);
            QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.deep()->ready(), kLimit);
            QCOMPARE(shell.hash(), hash);
            QVERIFY(shell.evaluation().measurable(shell.plans().plan()));
            QCOMPARE(shell.window.banners()->count(), 0);
            shell.plans().setMeanRank(2, 12);
            QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        }
        QCOMPARE(home.logLines(QStringLiteral("deep-profile")).size(), 1);
        // Without its file the session opens all the same, says what is missing, and measuring again makes it whole.
        QVERIFY(QDir(home.path("data/profiles")).removeRecursively());
        Shell shell(home);
        shell.engine().start();
        shell.workbench.openSession(file);
        QTRY_VERIFY2_WITH_TIMEOUT(shell.banners().contains(QStringLiteral("not on this computer")), qPrintable(shell.banners()), kLimit);
        QCOMPARE(shell.hash(), hash);
        shell.plans().setMeanRank(2, 12);  // edits work
        QCOMPARE(shell.window.banners()->count(), 1);
        QCOMPARE(shell.measured(), 0);
        QPushButton* again = shell.bannerButton(QStringLiteral("Measure ranks and gradients"));
        QVERIFY(again);
        again->click();
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        QCOMPARE(shell.window.banners()->count(), 0);
    }

    void deep_ofTheTextBeforeStaysKnownUntilThereIsOneOfTheNew()
    {
        Home home;
        const QString file = home.path("plan.espalier");
        QFile text(home.path("other.txt"));
        QVERIFY(text.open(QIODevice::WriteOnly));
        text.write("Another text.\n");
        text.close();
        std::string hash;
        QString before;
        const auto switched = [&](Shell& shell) {
            shell.workbench.setDeepRest(-1);
            shell.workbench.setCalibrationText(text.fileName());
            return QTest::qWaitFor([&] { return shell.workbench.calibrationText() == text.fileName() && shell.settled(); }, kLimit);
        };
        {
            Shell shell(home);
            OPEN_DEEP(shell);
            before = shell.workbench.deep()->file();
            shell.plans().setMeanRank(1, 10);
            hash = shell.hash();
            QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
            QVERIFY(switched(shell));
            QVERIFY(shell.evaluation().measurable(shell.plans().plan()));
            SAVE(shell, file);
        }
        // Opened and saved once more, still without a deep profile of the new text.
        for (int round = 0; round < 2; ++round) {
            Shell shell(home);
            shell.engine().start();
            shell.workbench.openSession(file);
            QTRY_VERIFY_WITH_TIMEOUT(shell.settled() && shell.workbench.deep()->state() == DeepProfile::State::Missing, kLimit);
            QCOMPARE(shell.workbench.calibrationText(), text.fileName());
            QCOMPARE(shell.hash(), hash);
            QVERIFY(shell.evaluation().measurable(shell.plans().plan()));
            QCOMPARE(shell.window.banners()->count(), 0);
            QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
            SAVE(shell, file);
        }
        Shell shell(home);
        shell.engine().start();
        shell.workbench.openSession(file);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled() && shell.workbench.deep()->state() == DeepProfile::State::Missing, kLimit);
        // One of the new text takes its place.
        shell.workbench.measureRanks();
        QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.deep()->ready(), kLimit);
        QVERIFY(shell.workbench.deep()->file() != before);
        SAVE(shell, file);
        const Result<SessionData> saved = readSession(file.toStdString());
        QVERIFY(saved.ok());
        QCOMPARE(QString::fromStdString(saved->profile.string()), shell.workbench.deep()->file());
    }

    // ---- the estimate

    void estimate_isOfThePlanOnScreenOnly()
    {
        Home home;
        Shell shell(home);
        shell.window.resize(1600, 1000);
        OPEN_DEEP(shell);
        auto* panel = shell.window.findChild<PerplexityPanel*>();
        auto* auto_ = shell.workbench.evaluation();
        auto_->setAutomatic(false);
        shell.plans().setKeep(0, 5);
        QVERIFY(labelOf(panel, QStringLiteral("est. Δ")).isEmpty());  // not before its answer
        QTRY_VERIFY_WITH_TIMEOUT(!labelOf(panel, QStringLiteral("est. Δ")).isEmpty(), kLimit);
        const QString first = labelOf(panel, QStringLiteral("est. Δ"));
        QVERIFY(jobText(shell).contains(QStringLiteral("est. ")));
        // Another plan: the old number is gone in the same moment, and comes back with its own.
        shell.plans().setKeep(1, 3);
        QVERIFY(labelOf(panel, QStringLiteral("est. ")).isEmpty());
        QTRY_VERIFY_WITH_TIMEOUT(!labelOf(panel, QStringLiteral("est. Δ")).isEmpty(), kLimit);
        QVERIFY(labelOf(panel, QStringLiteral("est. Δ")) != first);
        shell.plans().undo();
        QCOMPARE(labelOf(panel, QStringLiteral("est. Δ")), first);
        // Measured: the estimate stands beside it, never in its place.
        auto_->setAutomatic(true);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        QVERIFY(labelOf(panel, QStringLiteral("est. Δ")).isEmpty());
        QVERIFY(!labelOf(panel, QStringLiteral("est. ")).isEmpty());
        QVERIFY2(!labelOf(panel, QStringLiteral("likely ")).isEmpty(), "how far it may be off");
    }

    void estimate_ofAProfileWithoutMeasuredPlansSaysSo()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--no-probes")});
        shell.window.resize(1600, 1000);
        OPEN_DEEP(shell);
        auto* panel = shell.window.findChild<PerplexityPanel*>();
        shell.plans().setKeep(0, 5);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        QTRY_VERIFY2_WITH_TIMEOUT(!labelOf(panel, QStringLiteral("rough: fitted to 1 measured plan")).isEmpty(), "the run calibrates",
                                  kLimit);
    }

    void estimate_movesWithMeasurementsOfOtherPlansOnly()
    {
        Home home;
        const QString file = home.path("plan.espalier");
        const double dense = 40;
        std::string first, second;
        double ofFirst = 0, ofSecond = 0;
        {
            Shell shell(home);
            OPEN_DEEP(shell);
            auto* estimates = shell.window.findChild<EstimateController*>();
            shell.plans().setKeep(0, 5);
            first = shell.hash();
            QTRY_VERIFY_WITH_TIMEOUT(estimates->estimateOf(first, dense), kLimit);
            const EstimateController::Estimate fresh = *estimates->estimateOf(first, dense);
            QVERIFY(fresh.calibrated);
            QCOMPARE(fresh.probes, 24);
            QVERIFY(fresh.low < fresh.deltaPpl && fresh.deltaPpl < fresh.high);
            QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
            QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
            // Its own measurement, and that of the dense model, do not move it.
            QCOMPARE(estimates->estimateOf(first, dense)->deltaPpl, fresh.deltaPpl);
            QCOMPARE(estimates->estimateOf(first, dense)->runs, 0);
            shell.evaluation().setAutomatic(false);
            shell.plans().setKeep(1, 3);
            second = shell.hash();
            QTRY_VERIFY_WITH_TIMEOUT(estimates->estimateOf(second, dense), kLimit);
            QCOMPARE(estimates->estimateOf(second, dense)->runs, 1);
            // Other windows, other measurements: none of the full tier yet.
            QCOMPARE(estimates->estimateOf(second, dense, EstimateController::Tier::Full)->runs, 0);
            ofSecond = estimates->estimateOf(second, dense)->deltaPpl;
            shell.evaluation().setAutomatic(true);
            QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
            QTRY_COMPARE_WITH_TIMEOUT(estimates->estimateOf(first, dense)->runs, 1, kLimit);
            QCOMPARE(estimates->estimateOf(second, dense)->deltaPpl, ofSecond);
            ofFirst = estimates->estimateOf(first, dense)->deltaPpl;
            QVERIFY(ofFirst != fresh.deltaPpl);
            SAVE(shell, file);
        }
        Shell shell(home);
        shell.engine().start();
        shell.workbench.openSession(file);
        auto* estimates = shell.window.findChild<EstimateController*>();
        QTRY_VERIFY_WITH_TIMEOUT(estimates->estimateOf(second, dense), kLimit);
        QCOMPARE(estimates->estimateOf(second, dense)->deltaPpl, ofSecond);
        QCOMPARE(estimates->estimateOf(first, dense)->deltaPpl, ofFirst);
    }

    void estimate_ofTheCellFollowsTheCell()
    {
        Home home;
        Shell shell(home);
        OPEN_DEEP(shell);
        auto* inspector = shell.window.findChild<InspectorPanel*>();
        shell.window.selection()->setCurrent({1, 2});
        QTRY_VERIFY_WITH_TIMEOUT(!labelOf(inspector, QStringLiteral("est. Δ PPL +")).isEmpty(), kLimit);
        QVERIFY(!labelOf(inspector, QStringLiteral("if dropped")).isEmpty());
        shell.plans().setExpertRank(1, 2, 5);
        QVERIFY(!labelOf(inspector, QStringLiteral("if dense")).isEmpty());
        QVERIFY(labelOf(inspector, QStringLiteral("est. Δ PPL")).isEmpty());
        QTRY_VERIFY_WITH_TIMEOUT(!labelOf(inspector, QStringLiteral("est. Δ PPL −")).isEmpty(), kLimit);
        shell.plans().setKept({CellId{1, 2}}, false);
        QTRY_VERIFY_WITH_TIMEOUT(!labelOf(inspector, QStringLiteral("if kept")).isEmpty(), kLimit);
    }

    void estimate_forAnotherPlanIsNotShown()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--foreign-estimate")});
        OPEN_DEEP(shell);
        shell.plans().setKeep(0, 5);
        QTRY_VERIFY_WITH_TIMEOUT(!home.logLines(QStringLiteral("estimate")).isEmpty(), kLimit);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        QVERIFY(labelOf(shell.window.findChild<PerplexityPanel*>(), QStringLiteral("est. ")).isEmpty());
    }
};

int main(int argc, char** argv) { return runShellTest<ShellRanksTest>(argc, argv); }

#include "test_shell_ranks.moc"
