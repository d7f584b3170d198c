// The pipeline and its search: what is sent is what is shown, one search is one entry, and nothing that was edited meanwhile is lost.
#include "layers/layers_panel.h"
#include "look/controls.h"
#include "look/panel.h"
#include "planning/search_facts.h"
#include "planning/search_plots.h"
#include "planning/size_target.h"
#include "rpc/recipe_json.h"
#include "widgets/planner_fixture.h"

#include <QAccessible>
#include <QDir>
#include <QDoubleSpinBox>
#include <QFile>
#include <QFileInfo>
#include <QLineEdit>
#include <QSpinBox>
#include <QStandardItemModel>

#include <csignal>

using namespace espalier;
using namespace espalier::test;

class ShellPlanningTest final : public ShellTestBase
{
    Q_OBJECT

private slots:
    void recipe_whatIsSentIsWhatIsShown()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        shell.plans().toggleLocked(3);
        planner.choose(QStringLiteral("Score, method"), QStringLiteral("reap"));
        planner.choose(QStringLiteral("Allocate, method"), QStringLiteral("importance"));
        planner.control<QDoubleSpinBox>(QStringLiteral("Allocate, alpha"))->setValue(0.4);
        planner.control<QSpinBox>(QStringLiteral("Select, population"))->setValue(60);
        planner.control<QSpinBox>(QStringLiteral("Select, seed"))->setValue(11);
        planner.control<QSpinBox>(QStringLiteral("Receptive field, block"))->setValue(2);
        planner.control<Switch>(QStringLiteral("Ranks"))->click();
        planner.control<Switch>(QStringLiteral("Equal counts"));
        auto* target = planner.control<QLineEdit>(QStringLiteral("Target"));
        target->setText(QStringLiteral("62.5%"));
        target->setModified(true);
        emit target->returnPressed();
        QCOMPARE(target->text(), QStringLiteral("20"));
        planner.click("pipeline.run");
        QTRY_VERIFY_WITH_TIMEOUT(!planner.planning().running() && planner.entries() == 3, kLimit);
        const Json recipe = planner.sent(home);
        QCOMPARE(recipe, requestJson(planRecipe(planner.panel().recipe())));
        QCOMPARE(recipe["target"], Json({{"experts", 20}}));
        QCOMPARE(recipe["score"]["method"].get<std::string>(), std::string("reap"));
        QCOMPARE(recipe["allocate"]["params"]["alpha"].get<double>(), 0.4);
        QCOMPARE(recipe["select"]["params"], Json({{"population", 60}}));
        QCOMPARE(recipe["receptive_field"], Json({{"sets", 3}, {"block_size", 2}}));
        QVERIFY(recipe["rank"].is_null());
        QCOMPARE(recipe["seed"].get<int>(), 11);
        // The plan that it started from goes along with its locks, and the layer that was locked is as it was.
        QVERIFY(shell.plans().plan().isLocked(3));
        QCOMPARE(shell.plans().plan().layer(3).kept().size(), std::size_t(8));
    }

    void search_isOneEntryThatUndoTakesBack()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        const std::string before = shell.hash();
        planner.run();
        QVERIFY(planner.planning().running());
        QTRY_VERIFY_WITH_TIMEOUT(!planner.planning().running(), kLimit);
        QCOMPARE(planner.entries(), std::size_t(2));
        QCOMPARE(planner.current(), QStringLiteral("Genetic search, blocks of 3 layers, ranks"));
        QCOMPARE(shell.plans().plan().keptExperts(), 24);
        QVERIFY(shell.hash() != before);
        // The numbers of the new plan are measured as after any edit.
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        shell.plans().undo();
        QCOMPARE(shell.hash(), before);
        QCOMPARE(shell.window.banners()->count(), 0);
    }

    void search_findUsesVerifiedAndTheSizeOfThePlan()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        for (int layer = 0; layer < 4; ++layer)
            shell.plans().setKeep(layer, 5);
        const std::int64_t bytes = shell.workbench.cost().bytes;
        auto* unit = planner.control<QComboBox>(QStringLiteral("Target, unit"));
        unit->setCurrentIndex(1);
        emit unit->activated(1);
        shell.window.action(QStringLiteral("plan.find"))->trigger();
        QTRY_VERIFY_WITH_TIMEOUT(!planner.planning().running(), kLimit);
        const Json recipe = planner.sent(home);
        QCOMPARE(recipe["allocate"]["method"].get<std::string>(), std::string("verified"));
        QCOMPARE(recipe["target"], Json({{"bytes", bytes}}));
        QVERIFY2(planner.current().startsWith(QStringLiteral("Verified plan for ")), qPrintable(planner.current()));
        QVERIFY(shell.workbench.cost().bytes <= bytes);
        // What is set on the page stays as it was set.
        QCOMPARE(presetOf(planner.panel().recipe()), std::optional(PipelinePreset::MoeI2));
        QCOMPARE(recipe["allocate"]["params"], Json::object());
        QVERIFY(recipe["rank"].is_null());
        const SearchState& state = planner.planning().state();
        QCOMPARE(state.measured.size(), std::size_t(3));
        QCOMPARE(state.alone.size(), std::size_t(4));
        QCOMPARE(state.measured[2].name, QStringLiteral("experts 3 → 1"));
    }

    void search_findTakesItsMinutesAndShowsItsTrace()
    {
        Home home;
        const QString file = home.path("found.espalier");
        {
            Shell shell(home);
            OPEN_AND_SETTLE(shell);
            Planner planner(shell);
            shell.plans().setKeep(0, 5);
            planner.control<QDoubleSpinBox>(QStringLiteral("Find, minutes"))->setValue(2.5);
            QCOMPARE(presetOf(planner.panel().recipe()), std::optional(PipelinePreset::MoeI2));
            std::vector<std::pair<std::int64_t, std::int64_t>> told;
            connect(&planner.planning(), &PlanningController::jobChanged, &shell.window, [&] {
                if (const auto job = planner.planning().job(); job && job->total > 0) told.emplace_back(job->done, job->total);
            });
            shell.window.action(QStringLiteral("plan.find"))->trigger();
            QTRY_VERIFY_WITH_TIMEOUT(!planner.planning().running(), kLimit);
            QCOMPARE(planner.sent(home)["allocate"]["params"], Json({{"minutes", 2.5}}));
            // One count of the whole, that never goes back.
            for (std::size_t i = 0; i < told.size(); ++i) {
                QCOMPARE(told[i].second, std::int64_t(1000));
                QVERIFY(told[i].first <= told[i].second && (i == 0 || told[i].first >= told[i - 1].first));
            }
            // Best so far over passes of the model.
            const SearchState ended = planner.planning().state();
            SearchFactsOf facts(ended, false);
            const SearchCurve curve = facts.planCurve();
            QCOMPARE(curve.xs, (std::vector<double>{4.5, 5.25, 7.0}));
            QVERIFY(std::abs(curve.best[0] - 0.20) < 1e-9 && curve.best[1] == curve.best[0] && std::abs(curve.best[2] - 0.16) < 1e-9);
            QVERIFY2(facts.plans().number.contains(QStringLiteral("0.160")), qPrintable(facts.plans().number));
            SAVE(shell, file);
        }
        Shell shell(home);
        shell.workbench.openSession(file);
        QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.isOpen(), kLimit);
        Planner planner(shell);
        QTRY_COMPARE_WITH_TIMEOUT(planner.planning().state().measured.size(), std::size_t(3), kLimit);
        const SearchState& state = planner.planning().state();
        QCOMPARE(state.phase, SearchState::Phase::Finished);
        QCOMPARE(state.measured[2].name, QStringLiteral("experts 3 → 1"));
        QCOMPARE(state.measured[2].passes.value(), 7.0);
        QCOMPARE(state.alone.size(), std::size_t(4));
        QCOMPARE(planner.panel().recipe().minutes, 2.5);
        QVERIFY(!planner.planning().canKeepBest());
    }

    void recover_isOneEntryWithBeforeAndAfter()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        // Of the whole model nothing was lost.
        QAction* recover = shell.window.action(QStringLiteral("plan.recover"));
        QVERIFY(!recover->isEnabled());
        shell.plans().setKeep(0, 5);
        QTRY_VERIFY_WITH_TIMEOUT(recover->isEnabled(), kLimit);
        const std::string before = shell.hash();
        const std::size_t entries = planner.entries();
        recover->trigger();
        QVERIFY(planner.planning().running());
        QTRY_VERIFY_WITH_TIMEOUT(!planner.planning().running(), kLimit);
        QCOMPARE(planner.entries(), entries + 1);
        QCOMPARE(planner.current(), QStringLiteral("Mend by least squares"));
        QCOMPARE(planner.sent(home)["recover"]["method"].get<std::string>(), std::string("least-squares"));
        QCOMPARE(shell.plans().plan().values().size(), std::size_t(1));
        QCOMPARE(shell.plans().plan().keptExperts(), 29);
        const SearchState& state = planner.planning().state();
        QCOMPARE(state.recovery.size(), std::size_t(8));
        const SearchFactsOf facts(state, false);
        const SearchCurve curve = facts.recoveryCurve();
        QCOMPARE(curve.best, (std::vector<double>{0.5, 0.25, 0.5, 0.25, 0.5, 0.25, 0.5, 0.25}));
        const SearchBars bars = facts.recoveryBars();
        QCOMPARE(bars.bars.size(), std::size_t(3));
        QCOMPARE(bars.bars[1].value.value(), std::exp(2.75));
        QCOMPARE(bars.bars[2].value.value(), std::exp(2.5));
        QVERIFY2(planner.search().text().startsWith(QStringLiteral("12.182")), qPrintable(planner.search().text()));
        QVERIFY2(planner.search().text().contains(QStringLiteral("perplexity 15.643 to 12.182, dense 9.488")),
                 qPrintable(planner.search().text()));
        shell.plans().undo();
        QCOMPARE(shell.hash(), before);
    }

    void recover_aStopKeepsTheBestSoFar()
    {
        Home home;
        Shell shell(home, hold());
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        shell.plans().setKeep(0, 5);
        QAction* recover = shell.window.action(QStringLiteral("plan.recover"));
        QTRY_VERIFY_WITH_TIMEOUT(recover->isEnabled(), kLimit);
        const std::size_t entries = planner.entries();
        recover->trigger();
        QTRY_COMPARE_WITH_TIMEOUT(planner.planning().state().recovery.size(), std::size_t(2), kLimit);
        QVERIFY(!recover->isEnabled());
        shell.window.action(QStringLiteral("evaluate.cancel"))->trigger();
        QTRY_VERIFY_WITH_TIMEOUT(!planner.planning().running(), kLimit);
        QCOMPARE(planner.planning().state().phase, SearchState::Phase::Stopped);
        QCOMPARE(planner.entries(), entries + 1);
        QCOMPARE(planner.current(), QStringLiteral("Mend by least squares, stopped"));
        QCOMPARE(shell.plans().plan().values().front().id, std::string(64, '1'));
        QVERIFY(recover->isEnabled());
    }

    // A method that measures perplexity as it goes: its curve, between the plan before and the control.
    void recover_perplexityIsACurveWithItsLines()
    {
        SearchState state;
        state.recoverOnly = true;
        state.phase = SearchState::Phase::Running;
        for (const char* what : {"dense", "before"})
            state.take(PlanEvent{"recover", RecoverJudged{what, what[0] == 'd' ? 2.0 : 3.0, 12}});
        for (const auto& [step, nll] : {std::pair(10, 2.75), std::pair(20, 2.875), std::pair(30, 2.5)}) {
            state.take(PlanEvent{"recover", RecoverPoint{.step = step - 1, .loss = 3, .layer = {}, .gateNll = {}}});
            state.take(PlanEvent{"recover", RecoverPoint{.step = step, .loss = 3, .layer = {}, .gateNll = nll}});
        }
        const SearchCurve curve = SearchFactsOf(state, false).recoveryCurve();
        QCOMPARE(curve.xs, (std::vector<double>{10, 20, 30}));
        QCOMPARE(curve.best, (std::vector<double>{std::exp(2.75), std::exp(2.75), std::exp(2.5)}));
        QVERIFY(curve.points[0].taken && !curve.points[1].taken && curve.points[2].taken);
        QCOMPARE(curve.reference.value(), std::exp(3.0));
        QCOMPARE(curve.other.value(), std::exp(2.0));
        QCOMPARE(curve.otherName, QStringLiteral("dense"));
        state.take(PlanEvent{"recover", RecoverJudged{"control", 1.75, 12}});
        QCOMPARE(SearchFactsOf(state, false).recoveryCurve().otherName, QStringLiteral("control"));
    }

    void search_goesOnAfterTheEngineWasLost()
    {
        Home home;
        Shell shell(home, hold());
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        shell.plans().setKeep(0, 5);
        const std::string before = shell.hash();
        shell.window.action(QStringLiteral("plan.find"))->trigger();
        QTRY_VERIFY_WITH_TIMEOUT(planner.held(), kLimit);
        const Json recipe = planner.sent(home);
        QVERIFY(!planner.planning().canResume());
        ::kill(static_cast<pid_t>(shell.engine().processId()), SIGKILL);
        QTRY_VERIFY_WITH_TIMEOUT(!planner.planning().running() && planner.planning().canResume(), kLimit);
        QVERIFY(shell.bannerButton(QStringLiteral("Go on")) == nullptr);
        QTRY_VERIFY_WITH_TIMEOUT(shell.bannerButton(QStringLiteral("Restart")) != nullptr, kLimit);
        shell.bannerButton(QStringLiteral("Restart"))->click();
        QTRY_VERIFY_WITH_TIMEOUT(shell.bannerButton(QStringLiteral("Go on")) != nullptr, kLimit);
        QVERIFY(QFile::remove(home.once));  // the engine holds the search once more
        shell.bannerButton(QStringLiteral("Go on"))->click();
        QTRY_VERIFY_WITH_TIMEOUT(planner.held(), kLimit);
        QVERIFY(shell.bannerButton(QStringLiteral("Go on")) == nullptr);
        // The same search, from the same plan, with the file in which it was kept.
        QCOMPARE(planner.sent(home), recipe);
        const QStringList begun = home.logLines(QStringLiteral("search begins in "));
        const QStringList resumed = home.logLines(QStringLiteral("search goes on in "));
        QCOMPARE(begun.size(), 1);
        QCOMPARE(resumed.size(), 1);
        QCOMPARE(resumed.first().section(QStringLiteral(" in "), 1), begun.first().section(QStringLiteral(" in "), 1));
        QVERIFY(QFileInfo(resumed.first().section(QStringLiteral(" in "), 1)).dir().exists());
        QVERIFY(home.logLines(QStringLiteral("plan ")).last().contains(QString::fromStdString(before)));
        // A search that is cancelled is not offered again.
        shell.window.action(QStringLiteral("evaluate.cancel"))->trigger();
        QTRY_VERIFY_WITH_TIMEOUT(!planner.planning().running(), kLimit);
        QVERIFY(!planner.planning().canResume());
        QCOMPARE(shell.hash(), before);
    }

    void search_aLayerThatIsEnumeratedHasStepsAndNoGenerations()
    {
        SearchState state;
        state.phase = SearchState::Phase::Running;
        state.shape = evenShape(2, 8, 2);
        state.base = CompressionPlan::identity(state.shape);
        state.generations = 50;
        state.take(PlanEvent{"select", LayerSearching{0, 1, 3.0, 4.0, false, {4.0, 3.0}}});
        state.take(PlanEvent{"select", LayerSearching{1, 1, 3.0, {}, true, {4.0, 3.0}}});
        const SearchFactsOf facts(state, false);
        QCOMPARE(facts.layerCurve(0).xLabel, QStringLiteral("generation"));
        QCOMPARE(facts.layerCurve(1).xLabel, QStringLiteral("step"));
        QVERIFY(facts.layer(1).rows.front().second.contains(QStringLiteral("step 1")));
    }

    // What the answer remarks stands in the search's own panel, in one line.
    void search_remarksAreNoBanners()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--note-plan")});
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        planner.run();
        QTRY_VERIFY_WITH_TIMEOUT(!planner.planning().running(), kLimit);
        QCOMPARE(shell.window.banners()->count(), 0);
        const auto* notes = shell.window.findChild<QLabel*>(QStringLiteral("search.notes"));
        QVERIFY(notes && notes->isVisible() && !notes->text().contains(QLatin1Char('\n')));
        QVERIFY2(notes->text().startsWith(QStringLiteral("2 notes: The first")), qPrintable(notes->text()));
        QVERIFY(notes->toolTip().contains(QStringLiteral("The second remark.")));
    }

    void search_thatLocksForbidNamesThem()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--refuse-plan")});
        OPEN_AND_SETTLE(shell);
        shell.plans().toggleLocked(3);
        Planner planner(shell);
        planner.run();
        QTRY_VERIFY2_WITH_TIMEOUT(shell.banners().contains(QStringLiteral("Layer 3 is locked at 8.")), qPrintable(shell.banners()), kLimit);
        QPushButton* unlock = shell.bannerButton(QStringLiteral("Unlock layer 3"));
        QVERIFY(unlock);
        unlock->click();
        QVERIFY(!shell.plans().plan().isLocked(3));
        QCOMPARE(shell.window.banners()->count(), 0);
    }

    void target_belowWhatLocksLeaveNamesThem()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        auto* target = planner.control<QLineEdit>(QStringLiteral("Target"));
        const auto enter = [&](const QString& text) {
            target->setText(text);
            target->setModified(true);
            emit target->returnPressed();
        };
        auto* unlock = planner.panel().findChild<QPushButton*>(QStringLiteral("target.unlock"));
        auto* run = planner.panel().findChild<QPushButton*>(QStringLiteral("pipeline.run"));
        auto* find = planner.panel().findChild<QPushButton*>(QStringLiteral("pipeline.find"));
        QVERIFY(unlock && unlock->isHidden());
        enter(QStringLiteral("12"));
        QVERIFY2(planner.panel().problem().isEmpty(), qPrintable(planner.panel().problem()));
        // 4 layers of 8, the router picks 2: with layer 3 locked at 8 at least 14 stay.
        shell.plans().toggleLocked(3);
        QVERIFY2(planner.panel().problem().contains(QStringLiteral("12 asked, at least 14 stay: layer 3 is locked at 8")),
                 qPrintable(planner.panel().problem()));
        QVERIFY(!run->isEnabled() && !find->isEnabled());
        QVERIFY(!shell.window.action(QStringLiteral("plan.run"))->isEnabled());
        QVERIFY(!unlock->isHidden());
        QCOMPARE(unlock->text(), QStringLiteral("Unlock layer 3"));
        enter(QStringLiteral("14"));
        QVERIFY(planner.panel().problem().isEmpty() && run->isEnabled() && unlock->isHidden());
        enter(QStringLiteral("5"));
        QVERIFY2(planner.panel().problem().contains(QStringLiteral("and the routers need their experts")),
                 qPrintable(planner.panel().problem()));
        enter(QStringLiteral("12"));
        unlock->click();
        QVERIFY(!shell.plans().plan().isLocked(3));
        QVERIFY(planner.panel().problem().isEmpty() && run->isEnabled() && find->isEnabled() && unlock->isHidden());
        // A size in bytes: what a locked layer holds, and everything else at rank 1.
        auto* unit = planner.control<QComboBox>(QStringLiteral("Target, unit"));
        unit->setCurrentIndex(1);
        emit unit->activated(1);
        shell.plans().toggleLocked(0);
        const LeastSize least = leastSize(shell.plans().shape(), shell.plans().plan());
        enter(QString::number(static_cast<double>(least.bytes) / (1 << 20) * 0.98, 'f', 6));
        QVERIFY2(planner.panel().problem().contains(QStringLiteral("layer 0 is locked at 8")), qPrintable(planner.panel().problem()));
        enter(QString::number(static_cast<double>(least.bytes) / (1 << 20) * 1.02, 'f', 6));
        QVERIFY2(planner.panel().problem().isEmpty(), qPrintable(planner.panel().problem()));
    }

    void target_thatIsClampedSaysSo()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        auto* target = planner.control<QLineEdit>(QStringLiteral("Target"));
        const auto enter = [&](const char* text) {
            target->setText(QString::fromLatin1(text));
            target->setModified(true);
            emit target->returnPressed();
        };
        const auto* note = shell.window.findChild<QLabel*>(QStringLiteral("target.note"));
        QVERIFY(note && note->text().isEmpty());
        enter("500");
        QCOMPARE(target->text(), QStringLiteral("32"));
        QVERIFY2(note->text().contains(QStringLiteral("500")) && note->text().contains(QStringLiteral("the model has 32")),
                 qPrintable(note->text()));
        enter("20");
        QVERIFY(note->text().isEmpty());
        auto* unit = planner.control<QComboBox>(QStringLiteral("Target, unit"));
        unit->setCurrentIndex(1);
        emit unit->activated(1);
        enter("900");
        QVERIFY2(note->text().contains(QStringLiteral("900")) && note->text().contains(QStringLiteral("dense model")),
                 qPrintable(note->text()));
    }

    void search_anEditMeanwhileIsNotOverwritten()
    {
        Home home;
        Shell shell(home, hold());
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        const int start = shell.plans().history().currentId();
        planner.run();
        QTRY_VERIFY_WITH_TIMEOUT(planner.held(), kLimit);
        shell.plans().setKeep(2, 5);
        const std::string edited = shell.hash();
        planner.click("search.stop");
        QTRY_VERIFY_WITH_TIMEOUT(!planner.planning().running(), kLimit);
        QCOMPARE(shell.hash(), edited);
        QCOMPARE(planner.entries(), std::size_t(3));
        const HistoryEntry& branch = shell.plans().history().entries().back();
        QCOMPARE(branch.parent, start);
        QVERIFY(branch.plan.keptExperts() == 24);
        QVERIFY2(shell.banners().contains(QStringLiteral("The plan was edited meanwhile")), qPrintable(shell.banners()));
        shell.bannerButton(QStringLiteral("Show it"))->click();
        QCOMPARE(shell.plans().history().currentId(), branch.id);
        QCOMPARE(shell.window.banners()->count(), 0);
    }

    void search_aDragThatGoesOnIsNotTakenAway()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        planner.run();
        shell.plans().beginGesture();
        shell.plans().setKeep(1, 4);
        QTRY_VERIFY_WITH_TIMEOUT(!planner.planning().running(), kLimit);
        QVERIFY(shell.plans().inGesture());
        QCOMPARE(shell.plans().plan().layer(1).kept().size(), std::size_t(4));
        shell.plans().finishGesture();
        QCOMPARE(planner.entries(), std::size_t(3));
        QCOMPARE(shell.plans().plan().layer(1).kept().size(), std::size_t(4));
    }

    void search_stopKeepsTheBestSoFar()
    {
        Home home;
        Shell shell(home, hold());
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        planner.run();
        QTRY_VERIFY_WITH_TIMEOUT(planner.held(), kLimit);
        const SearchState state = planner.planning().state();
        const ExpertSet searched = state.layers.at(0).kept;
        shell.window.action(QStringLiteral("plan.stop"))->trigger();
        QTRY_VERIFY_WITH_TIMEOUT(!planner.planning().running(), kLimit);
        QCOMPARE(planner.entries(), std::size_t(2));
        QCOMPARE(planner.current(), QStringLiteral("Genetic search, stopped after 1 of 4 layers"));
        // Layer 0 as searched, the others as the score chooses.
        QCOMPARE(shell.plans().plan().layer(0).kept(), searched);
        QCOMPARE(shell.plans().plan().layer(1).kept().size(), std::size_t(6));
        QVERIFY(planner.search().text().contains(QStringLiteral("best so far kept")));
    }

    void search_cancelLeavesThePlanAndTheBestCanStillBeKept()
    {
        Home home;
        Shell shell(home, hold());
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        const std::string before = shell.hash();
        planner.run();
        QTRY_VERIFY_WITH_TIMEOUT(planner.held(), kLimit);
        shell.window.action(QStringLiteral("evaluate.cancel"))->trigger();
        QTRY_VERIFY_WITH_TIMEOUT(!planner.planning().running(), kLimit);
        QCOMPARE(shell.hash(), before);
        QCOMPARE(planner.entries(), std::size_t(1));
        QCOMPARE(shell.window.banners()->count(), 0);
        // Its curves stay in sight, and its best plan within reach.
        QCOMPARE(planner.search().barPlot()->bars().bars.size(), std::size_t(4));
        QVERIFY(planner.search().text().contains(QStringLiteral("the plan is unchanged")));
        planner.click("search.stop");
        QCOMPARE(planner.entries(), std::size_t(2));
        QVERIFY(shell.hash() != before);
        QVERIFY(!planner.planning().canKeepBest());
    }

    void search_aKilledEngineLeavesThePlan()
    {
        Home home;
        Shell shell(home, hold());
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        const std::string before = shell.hash();
        planner.run();
        QTRY_VERIFY_WITH_TIMEOUT(planner.held(), kLimit);
        ::kill(static_cast<pid_t>(shell.engine().processId()), SIGKILL);
        QTRY_VERIFY_WITH_TIMEOUT(!planner.planning().running(), kLimit);
        QTRY_VERIFY_WITH_TIMEOUT(shell.banners().contains(QStringLiteral("during \"Genetic search\"")), kLimit);
        QCOMPARE(shell.hash(), before);
        QCOMPARE(planner.entries(), std::size_t(1));
        QVERIFY(!shell.window.action(QStringLiteral("plan.run"))->isEnabled());
        // What was found until then is not lost with it.
        planner.click("search.stop");
        QCOMPARE(planner.entries(), std::size_t(2));
        shell.bannerButton(QStringLiteral("Restart"))->click();
        QTRY_VERIFY_WITH_TIMEOUT(shell.window.action(QStringLiteral("plan.run"))->isEnabled(), kLimit);
    }

    void search_aRefusalSaysWhyAndWhatToDo()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--refuse-plan")});
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        const std::string before = shell.hash();
        planner.run();
        QTRY_VERIFY_WITH_TIMEOUT(!planner.planning().running(), kLimit);
        QCOMPARE(shell.hash(), before);
        for (const char* part : {"locked layers alone keep more", "The plan is unchanged.", "raise the target to 24"})
            QVERIFY2(shell.banners().contains(QString::fromLatin1(part)), qPrintable(shell.banners()));
    }

    void search_theSamePlanIsSaidAndNotRecorded()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--same-plan")});
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        planner.run();
        QTRY_VERIFY_WITH_TIMEOUT(!planner.planning().running(), kLimit);
        QCOMPARE(planner.entries(), std::size_t(1));
        QVERIFY2(shell.banners().contains(QStringLiteral("the plan it started from")), qPrintable(shell.banners()));
    }

    void search_anotherModelEndsIt()
    {
        Home home;
        Shell shell(home, hold());
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        planner.run();
        QTRY_VERIFY_WITH_TIMEOUT(planner.held(), kLimit);
        shell.workbench.closeModel();
        QVERIFY(!planner.planning().running());
        QCOMPARE(planner.planning().state().phase, SearchState::Phase::None);
        shell.workbench.openDemo();
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        QCOMPARE(planner.entries(), std::size_t(1));
        QVERIFY(!planner.planning().canKeepBest());
    }

    void search_comesToTheFrontAndShowsWhatRuns()
    {
        Home home;
        Shell shell(home, hold());
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        const Panel* bottom = shell.window.findChild<Panel*>(QStringLiteral("perplexity"));
        QVERIFY(bottom->currentPage() != &planner.search());
        planner.run();
        QCOMPARE(bottom->currentPage(), &planner.search());
        QTRY_VERIFY_WITH_TIMEOUT(planner.held() && planner.search().curvePlot()->curve().best.size() == 4 &&
                                     planner.search().curvePlot()->curve().title.endsWith(QStringLiteral("layer 1")),
                                 kLimit);
        const SearchBars& bars = planner.search().barPlot()->bars();
        QCOMPARE(bars.bars[0].state, SearchBar::State::Done);
        QCOMPARE(bars.bars[0].value.value(), 9.9 / 13.0 - 1);
        QCOMPARE(bars.bars[1].state, SearchBar::State::Running);
        QCOMPARE(bars.bars[2].state, SearchBar::State::Waiting);
        // A layer that was searched can be looked at while the next one runs.
        QTest::keyClick(planner.search().barPlot(), Qt::Key_Left);
        QVERIFY2(planner.search().text().startsWith(QStringLiteral("−24\u00A0%\nlayer 0 against leave-one-out")),
                 qPrintable(planner.search().text()));
        QCOMPARE(planner.search().curvePlot()->curve().reference.value(), 13.0);
        QCOMPARE(shell.window.selection()->currentLayer(), 0);
        const std::optional<JobState> job = planner.planning().job();
        QVERIFY(job.has_value());
        QCOMPARE(job->what, QStringLiteral("Genetic search"));
        QCOMPARE(job->count, QStringLiteral("layer 1, 1 of 4 done"));
        QAccessibleInterface* table = QAccessible::queryAccessibleInterface(planner.search().barPlot());
        QCOMPARE(table->role(), QAccessible::Table);
        QCOMPARE(table->tableInterface()->cellAt(0, 0)->text(QAccessible::Name), QStringLiteral("Layer 0"));
        QVERIFY(table->tableInterface()->cellAt(0, 0)->text(QAccessible::Value).contains(QStringLiteral("−24")));
    }

    void choosers_comeFromTheRegistry()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        // A method that no window knows, with its parameters.
        planner.choose(QStringLiteral("Select, method"), QStringLiteral("annealing"));
        auto* steps = planner.control<QSpinBox>(QStringLiteral("Select, cooling steps"));
        QVERIFY(steps != nullptr);
        QCOMPARE(steps->value(), 200);
        QCOMPARE(steps->maximum(), 9000);
        QVERIFY(planner.control<QComboBox>(QStringLiteral("Select, schedule")) != nullptr);
        // Tab goes to it from the method.
        const QWidget* next = planner.control<QComboBox>(QStringLiteral("Select, method"))->nextInFocusChain();
        while (!(next->focusPolicy() & Qt::TabFocus) || next->focusProxy() || next->isHidden())
            next = next->nextInFocusChain();
        QCOMPARE(next, static_cast<const QWidget*>(steps));
        QVERIFY(planner.control<QSpinBox>(QStringLiteral("Select, population")) == nullptr);
        QCOMPARE(planner.panel().recipe().select.method, std::string("annealing"));
        // A rule that needs what the profile does not hold is listed, grey, with the reason.
        auto* rules = planner.control<QComboBox>(QStringLiteral("Ranks, rule"));
        const int exact = rules->findData(QStringLiteral("exact"));
        QVERIFY(exact >= 0);
        QVERIFY(!qobject_cast<QStandardItemModel*>(rules->model())->item(exact)->isEnabled());
        QVERIFY2(rules->itemText(exact).contains(QStringLiteral("the profile has no curves")), qPrintable(rules->itemText(exact)));
    }

    void choosers_everyControlHasANameAndKeysReachIt()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        shell.window.action(QStringLiteral("plan.pipeline"))->trigger();
        QVERIFY(planner.panel().isVisible());
        int controls = 0;
        for (const QWidget* widget : planner.panel().findChildren<QWidget*>()) {
            if (!widget->isVisible() || !(widget->focusPolicy() & Qt::TabFocus) || widget->focusProxy()) continue;
            const bool button = widget->inherits("QPushButton") || widget->inherits("QAbstractButton");
            QVERIFY2(!widget->accessibleName().isEmpty() || (button && !widget->property("text").toString().isEmpty()),
                     widget->metaObject()->className());
            ++controls;
        }
        QVERIFY(controls > 12);
    }

    void budget_exactAndVerifiedLeadToThePipeline()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        auto* budget = shell.window.findChild<BudgetBar*>();
        auto* box = budget->findChild<QComboBox*>();
        const std::string before = budget->intent().method;
        for (const char* id : {"exact", "verified"}) {
            const int index = box->findData(QString::fromLatin1(id));
            QVERIFY(index >= 0);
            box->setCurrentIndex(index);
            emit box->activated(index);
            QCOMPARE(budget->intent().method, before);
            QCOMPARE(box->currentData().toString().toStdString(), before);
            QCOMPARE(shell.window.findChild<Panel*>(QStringLiteral("layers"))->currentPage(), &planner.panel());
            QCOMPARE(planner.panel().recipe().allocate.method, std::string(id));
        }
        QCOMPARE(planner.entries(), std::size_t(1));
    }

    void target_whatCannotBeReadStartsNothing()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        auto* target = planner.control<QLineEdit>(QStringLiteral("Target"));
        target->setText(QStringLiteral("many"));
        target->setModified(true);
        emit target->returnPressed();
        QVERIFY(!shell.window.action(QStringLiteral("plan.run"))->isEnabled());
        QVERIFY(!planner.panel().canFind());
        target->setText(QStringLiteral("16/32"));
        target->setModified(true);
        emit target->returnPressed();
        QVERIFY(shell.window.action(QStringLiteral("plan.run"))->isEnabled());
        QCOMPARE(planner.panel().recipe().experts, 16);
        auto* unit = planner.control<QComboBox>(QStringLiteral("Target, unit"));
        unit->setCurrentIndex(3);
        emit unit->activated(3);
        target->setText(QStringLiteral("80"));
        target->setModified(true);
        emit target->returnPressed();
        QCOMPARE(planner.panel().recipe().bytes, static_cast<std::int64_t>(0.8 * static_cast<double>(shell.workbench.denseCost().bytes)));
    }

    void session_keepsTheRecipe()
    {
        Home home;
        const QString file = home.path("work.espalier");
        PipelineRecipe recipe;
        {
            Shell shell(home);
            OPEN_AND_SETTLE(shell);
            Planner planner(shell);
            shell.plans().setKeep(0, 5);
            planner.choose(QStringLiteral("Allocate, method"), QStringLiteral("global"));
            planner.choose(QStringLiteral("Select, method"), QStringLiteral("annealing"));
            planner.control<QSpinBox>(QStringLiteral("Select, cooling steps"))->setValue(900);
            planner.choose(QStringLiteral("Ranks, factors"), QStringLiteral("svd"));
            planner.control<Switch>(QStringLiteral("Receptive field"))->click();
            auto* unit = planner.control<QComboBox>(QStringLiteral("Target, unit"));
            unit->setCurrentIndex(1);
            emit unit->activated(1);
            recipe = planner.panel().recipe();
            QCOMPARE(recipe.target, PipelineRecipe::Target::Bytes);
            SAVE(shell, file);
        }
        Shell shell(home);
        shell.workbench.openSession(file);
        QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.isOpen(), kLimit);
        // Before the engine is there, and after.
        const Json before = requestJson(planRecipe(Planner(shell).panel().recipe()));
        QVERIFY2(before == requestJson(planRecipe(recipe)), Json::diff(requestJson(planRecipe(recipe)), before).dump().c_str());
        shell.engine().start();
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        QVERIFY(Planner(shell).panel().recipe() == recipe);
        QCOMPARE(Planner(shell).control<QSpinBox>(QStringLiteral("Select, cooling steps"))->value(), 900);
    }
};

int main(int argc, char** argv) { return runShellTest<ShellPlanningTest>(argc, argv); }
#include "test_shell_planning.moc"
