// The window and its engine: measuring, stale numbers, cancelling, and every way in which an engine can fail.
#include "widgets/shell_fixture.h"

#include "perplexity/status_bar.h"

#include <QComboBox>

#include <csignal>

using namespace espalier;
using namespace espalier::test;

class ShellEngineTest final : public ShellTestBase
{
    Q_OBJECT

    static QComboBox* scoreChooser(Shell& shell)
    {
        for (QComboBox* box : shell.window.heatmap()->choosers()->findChildren<QComboBox*>())
            if (box->accessibleName() == QStringLiteral("Score")) return box;
        return nullptr;
    }
    // As somebody does in the list.
    static void choose(QComboBox* box, const QString& id)
    {
        const int index = box->findData(id);
        box->setCurrentIndex(index);
        emit box->activated(index);
    }

private slots:
    void window_opensProfilesAndMeasures()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        QCOMPARE(shell.measured(), kQuick);
        QVERIFY(shell.workbench.currentScores() != nullptr);
        for (const char* method : {"expert_frequency", "ean_mean", "reap", "leave-one-out"})
            QVERIFY2(shell.workbench.scores().contains(method), method);
        QCOMPARE(shell.window.heatmap()->facts({0, 0})->experts, 8);
        QCOMPARE(home.logLines(QStringLiteral("profile")).size(), 1);
    }

    void window_escapeEndsADrag()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        const std::string before = shell.hash();
        shell.plans().beginGesture();
        shell.plans().setKeep(1, 3);
        QTest::keyClick(&shell.window, Qt::Key_Escape);
        QVERIFY(!shell.plans().inGesture());
        QCOMPARE(shell.hash(), before);
        QCOMPARE(shell.plans().history().entries().size(), std::size_t(1));
    }

    void window_spaceTogglesTheCurrentExpert()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.window.selection()->setCurrent({2, 3});
        QTest::keyClick(shell.window.heatmap()->focusTarget(), Qt::Key_Space);
        QVERIFY(!shell.plans().plan().keeps(2, 3));
        QCOMPARE(shell.window.heatmap()->facts({2, 3})->view.state, ExpertState::Dropped);
        QTest::keyClick(shell.window.heatmap()->focusTarget(), Qt::Key_Space);
        QVERIFY(shell.plans().plan().keeps(2, 3));
    }

    void evaluation_numbersBelongToThePlanOnScreen()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        QStringList wrong;
        const auto check = [&] {
            const QString problem = numbersBelongToThePlan(shell);
            if (!problem.isEmpty()) wrong << problem;
        };
        connect(&shell.evaluation(), &EvaluationController::changed, this, check);
        connect(&shell.plans(), &PlanController::historyChanged, this, check);

        shell.plans().setKeep(0, 5);
        const std::string edited = shell.hash();
        // Before an answer can have come, the numbers of the plan before are drawn as such.
        QVERIFY(!shell.evaluation().state().quick.staleNote.isEmpty());
        QCOMPARE(shell.evaluation().state().quick.windows.size(), std::size_t(kQuick));
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        QVERIFY(shell.evaluation().runs().contains(edited));

        shell.plans().undo();
        QCOMPARE(shell.measured(), kQuick);  // at once
        // The next plan's numbers come after whatever undo might have asked for: lanes are answered in order.
        QVERIFY(!shell.evaluation().busy());
        shell.plans().setKeep(1, 5);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        const QString dense = QString::fromStdString(CompressionPlan::identity(shell.plans().shape()).hash());
        QCOMPARE(home.logLines(QStringLiteral("evaluate quick ") + dense).size(), 1);
        QCOMPARE(home.logLines(QStringLiteral("evaluate quick ") + QString::fromStdString(edited)).size(), 1);
        disconnect(&shell.evaluation(), nullptr, this, nullptr);
        disconnect(&shell.plans(), nullptr, this, nullptr);
        QVERIFY2(wrong.isEmpty(), qPrintable(wrong.join(QStringLiteral("; "))));
    }

    void evaluation_fullTierMeasuresOnlyWhatIsMissing()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(0, 5);
        shell.window.action(QStringLiteral("evaluate.full"))->trigger();
        QTRY_COMPARE_WITH_TIMEOUT(shell.evaluation().state().full.windows.size(), std::size_t(kFull), kLimit);
        QTRY_COMPARE_WITH_TIMEOUT(shell.evaluation().state().dense.size(), std::size_t(kFull), kLimit);
        QTRY_VERIFY_WITH_TIMEOUT(!shell.evaluation().busy(), kLimit);
        const HeadlinePerplexity number = headline(shell.evaluation().state());
        QCOMPARE(number.kind, HeadlinePerplexity::Kind::Full);
        QVERIFY(number.delta.has_value() && *number.delta > 0);
        const QString hash = QString::fromStdString(shell.hash());
        QCOMPARE(home.logLines(QStringLiteral("evaluate quick ") + hash).size(), 1);
        QCOMPARE(home.logLines(QStringLiteral("evaluate full ") + hash).size(), 1);
        QCOMPARE(shell.evaluation().planLosses().value(hash).full, true);
    }

    void evaluation_manyEditsEndWithTheLastPlan()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        std::mt19937 random(7);
        QStringList wrong;
        for (int i = 0; i < 60; ++i) {
            randomEdit(shell.plans(), random);
            QCoreApplication::processEvents();
            const QString problem = numbersBelongToThePlan(shell);
            if (!problem.isEmpty()) wrong << problem;
        }
        QVERIFY2(wrong.isEmpty(), qPrintable(wrong.join(QStringLiteral("; "))));
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        QCOMPARE(numbersBelongToThePlan(shell), QString());
    }

    void evaluation_cancelEndsTheJob()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--hold"), QStringLiteral("evaluate")});
        shell.engine().start();
        shell.workbench.openDemo();
        QTRY_VERIFY_WITH_TIMEOUT(shell.evaluation().busy() && !shell.evaluation().runs().empty(), kLimit);
        shell.window.action(QStringLiteral("evaluate.cancel"))->trigger();
        QTRY_VERIFY_WITH_TIMEOUT(!shell.evaluation().busy(), kLimit);
        QVERIFY(shell.engine().usable());
        QCOMPARE(shell.window.banners()->count(), 0);
        shell.evaluation().evaluateFull();
        QTRY_COMPARE_WITH_TIMEOUT(shell.evaluation().state().full.windows.size(), std::size_t(kFull), kLimit);
    }

    // What it is called by, and what it said: the command that was given, and the last line of it, ended or not.
    void engine_ofAnotherCommandIsNamedByIt()
    {
        Home home;
        Shell shell(home);
        const QStringList command = {QStringLiteral("sh"), QStringLiteral("-c"),
                                     QStringLiteral("echo first >&2; printf 'gpubox: Permission denied (publickey).' >&2; exit 255")};
        shell.engine().setCommand(command);
        shell.engine().start();
        QTRY_COMPARE_WITH_TIMEOUT(shell.window.banners()->repeats(QStringLiteral("engine-lost")), 1, kLimit);
        const QString banner = shell.banners();
        QVERIFY2(banner.contains(QStringLiteral("The engine stopped (the engine or the connection ended with status 255)")),
                 qPrintable(banner));
        QVERIFY2(banner.contains(QStringLiteral("\"sh -c echo first")) &&
                     banner.contains(QStringLiteral("last said: gpubox: Permission denied (publickey).")),
                 qPrintable(banner));
        auto* status = shell.window.findChild<StatusBar*>();
        QVERIFY2(status->text().contains(QStringLiteral("sh -c")) && !status->text().contains(QStringLiteral("This computer")),
                 qPrintable(status->text()));
        // The next one is not blamed with what the last one said.
        shell.engine().setCommand({QStringLiteral("false")}, QStringLiteral("This computer"));
        shell.engine().start();
        QTRY_VERIFY_WITH_TIMEOUT(shell.banners().contains(QStringLiteral("status 1")), kLimit);
        QVERIFY2(!shell.banners().contains(QStringLiteral("Permission")), qPrintable(shell.banners()));
        QVERIFY(status->text().contains(QStringLiteral("This computer")));
    }

    void engine_killedDuringAJob_data()
    {
        QTest::addColumn<QString>("method");
        QTest::newRow("profile") << QStringLiteral("profile");
        QTest::newRow("evaluate") << QStringLiteral("evaluate");
    }

    void engine_killedDuringAJob()
    {
        QFETCH(QString, method);
        Home home;
        Shell shell(home, {QStringLiteral("--hold"), method});
        shell.engine().start();
        shell.workbench.openDemo();
        if (method == QStringLiteral("profile"))
            QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.profiling() && !shell.workbench.scores().empty(), kLimit);
        else
            QTRY_VERIFY_WITH_TIMEOUT(!shell.evaluation().runs().empty(), kLimit);
        shell.plans().setKeep(0, 5);
        shell.plans().toggleExpert(1, 2);
        const std::string edited = shell.hash();
        int ends = 0;
        EngineReply::Outcome outcome = EngineReply::Outcome::Finished;
        shell.engine().request("evaluate", Json::object(), [&](const EngineReply& reply) {
            ++ends;
            outcome = reply.outcome;
        });
        QSignalSpy lost(&shell.engine(), &EngineClient::lost);
        QVERIFY(shell.engine().processId() > 0);
        QElapsedTimer clock;
        clock.start();
        QCOMPARE(::kill(static_cast<pid_t>(shell.engine().processId()), SIGKILL), 0);
        QTRY_COMPARE_WITH_TIMEOUT(shell.engine().state(), EngineState::Lost, 1000);
        QVERIFY(clock.elapsed() < 1000);
        QCOMPARE(lost.size(), 1);
        QCOMPARE(ends, 1);
        QCOMPARE(outcome, EngineReply::Outcome::Lost);
        QCOMPARE(shell.engine().openRequests(), 0);
        QCOMPARE(shell.window.banners()->repeats(QStringLiteral("engine-lost")), 1);
        QVERIFY2(shell.banners().contains(QStringLiteral("killed by signal 9")), qPrintable(shell.banners()));
        QVERIFY(!shell.workbench.profiling());
        QVERIFY(!shell.evaluation().busy());

        // The work goes on without an engine.
        QCOMPARE(shell.hash(), edited);
        QCOMPARE(shell.plans().history().entries().size(), std::size_t(3));
        shell.plans().undo();
        shell.plans().redo();
        shell.plans().setKeep(3, 4);
        QCOMPARE(shell.plans().history().entries().size(), std::size_t(4));

        // Restart goes on where it was: the script's accident happens once.
        QPushButton* restart = shell.bannerButton(QStringLiteral("Restart"));
        QVERIFY(restart);
        restart->click();
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        QCOMPARE(shell.window.banners()->repeats(QStringLiteral("engine-lost")), 0);
        QCOMPARE(ends, 1);
        QCOMPARE(shell.plans().history().entries().size(), std::size_t(4));
    }

    void engine_diesOnEveryRequest()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--die-on"), QStringLiteral("evaluate"), QStringLiteral("--once"), QString()});
        shell.engine().start();
        shell.workbench.openDemo();
        for (int deaths = 1; deaths <= 3; ++deaths) {
            QTRY_COMPARE_WITH_TIMEOUT(shell.engine().state(), EngineState::Lost, kLimit);
            QVERIFY(shell.window.banners()->count() >= 1);
            QVERIFY(shell.workbench.isOpen());
            shell.window.action(QStringLiteral("engine.restart"))->trigger();
            QTRY_VERIFY_WITH_TIMEOUT(shell.engine().state() != EngineState::Starting, kLimit);
        }
    }

    void engine_thatCannotBeUnderstood_data()
    {
        QTest::addColumn<QString>("script");
        QTest::addColumn<EngineState>("state");
        QTest::addColumn<QString>("cause");
        QTest::newRow("rubbish") << QStringLiteral("--rubbish") << EngineState::Lost << QStringLiteral("hello");
        QTest::newRow("half a message") << QStringLiteral("--half") << EngineState::Lost << QStringLiteral("status 0");
        QTest::newRow("huge") << QStringLiteral("--huge") << EngineState::Lost << QStringLiteral("99999999999");
        QTest::newRow("old") << QStringLiteral("--old") << EngineState::Incompatible << QStringLiteral("protocol");
    }

    void engine_thatCannotBeUnderstood()
    {
        QFETCH(QString, script);
        QFETCH(EngineState, state);
        QFETCH(QString, cause);
        Home home;
        Shell shell(home, {script});
        QSignalSpy lost(&shell.engine(), &EngineClient::lost);
        shell.engine().start();
        shell.workbench.openDemo();
        QTRY_COMPARE_WITH_TIMEOUT(shell.engine().state(), state, kLimit);
        const QString said = shell.banners() + shell.engine().stateText() + (lost.isEmpty() ? QString() : lost.first().first().toString());
        QVERIFY2(said.contains(cause), qPrintable(said));
        QCOMPARE(lost.size(), state == EngineState::Lost ? 1 : 0);
        QCOMPARE(shell.window.banners()->count(), 1);
        QVERIFY(!shell.workbench.isOpen());
        QCOMPARE(shell.engine().openRequests(), 0);
        QVERIFY(shell.window.action(QStringLiteral("file.openModel"))->isEnabled());
        QVERIFY(!shell.window.action(QStringLiteral("evaluate.full"))->isEnabled());
    }

    void engine_thatIsNotThere()
    {
        Home home;
        Shell shell(home);
        shell.engine().setCommand({home.path("no-such-program"), QStringLiteral("serve")});
        shell.engine().start();
        QTRY_COMPARE_WITH_TIMEOUT(shell.engine().state(), EngineState::Lost, kLimit);
        QVERIFY2(shell.banners().contains(QStringLiteral("no-such-program")), qPrintable(shell.banners()));
        // With the right command it comes up.
        Shell::prepared(shell.workbench, home, {});
        shell.engine().start();
        QTRY_COMPARE_WITH_TIMEOUT(shell.engine().state(), EngineState::Ready, kLimit);
        QCOMPARE(shell.window.banners()->count(), 0);
    }

    void engine_thatSaysHalfAMessageAndWaitsIsLeftInPeace()
    {
        Home home;
        QElapsedTimer clock;
        {
            Shell shell(home, {QStringLiteral("--half-silent")});
            shell.engine().start();
            QTRY_VERIFY_WITH_TIMEOUT(shell.engine().processId() > 0, kLimit);
            QVERIFY(!shell.engine().usable());
            clock.start();
        }
        // Its input is closed, so it ends by itself: no kill was waited for.
        QVERIFY2(clock.elapsed() < 5000, qPrintable(QString::number(clock.elapsed())));
    }

    void engine_endsWithTheWindow()
    {
        Home home;
        qint64 process = 0;
        {
            Shell shell(home);
            OPEN_AND_SETTLE(shell);
            process = shell.engine().processId();
            QVERIFY(process > 0);
        }
        QTRY_VERIFY_WITH_TIMEOUT(::kill(static_cast<pid_t>(process), 0) != 0, 5000);
        QVERIFY(!home.logLines(QStringLiteral("shutdown")).isEmpty());
    }

    // ---- scores of the weights

    // No profile has them: computed when somebody wants to see them, once, and kept with the session.
    void weights_scoreIsComputedWhenItIsChosen()
    {
        Home home;
        const QString file = home.path("weights.espalier");
        {
            Shell shell(home);
            OPEN_AND_SETTLE(shell);
            QComboBox* chooser = scoreChooser(shell);
            QVERIFY(chooser && chooser->findData(QStringLiteral("aimer")) >= 0);
            QVERIFY(home.logLines(QStringLiteral("score ")).isEmpty());
            choose(chooser, QStringLiteral("aimer"));
            QVERIFY(shell.workbench.readingWeights() && !shell.workbench.currentScores());
            QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.currentScores() != nullptr, kLimit);
            QCOMPARE(shell.workbench.currentScores()->method, std::string("aimer"));
            QVERIFY(!shell.workbench.readingWeights());
            const auto facts = shell.window.heatmap()->facts({2, 5});
            QVERIFY(facts && std::abs(facts->value - (1.2 + 0.01 * ((5 * 3 + 2) % 8))) < 1e-12);
            QVERIFY(!shell.workbench.modified());
            // Another one and back: it is there.
            choose(chooser, QStringLiteral("reap"));
            choose(chooser, QStringLiteral("aimer"));
            QVERIFY(shell.workbench.currentScores());
            QCOMPARE(home.logLines(QStringLiteral("score aimer of ")).size(), 1);
            // Ranks as any other: of layer 0 those with the highest stay.
            shell.workbench.rankBy("aimer");
            shell.plans().setKeep(0, 4);
            QCOMPARE(shell.plans().plan().layer(0).kept(), (ExpertSet{2, 4, 5, 7}));
            SAVE(shell, file);
        }
        QFile::remove(home.log);
        Shell shell(home);
        shell.engine().start();
        shell.workbench.openSession(file);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        QVERIFY(shell.workbench.currentScores() && shell.workbench.currentScores()->method == "aimer");
        QVERIFY(home.logLines(QStringLiteral("score ")).isEmpty());
    }

    // Another calibration text is profiled again; of the weights nothing has changed.
    void weights_scoreOutlivesTheText()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.workbench.chooseScore("aimer");
        QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.currentScores() != nullptr, kLimit);
        shell.workbench.setCalibrationText(home.path("demo/test.txt"));
        QTRY_VERIFY_WITH_TIMEOUT(home.logLines(QStringLiteral("profile")).size() >= 2 && shell.settled(), kLimit);
        QVERIFY(shell.workbench.currentScores() && shell.workbench.currentScores()->method == "aimer");
        QCOMPARE(home.logLines(QStringLiteral("score ")).size(), 1);
    }

    void weights_scoreThatFailsLeavesTheMap()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--fail"), QStringLiteral("score")});
        OPEN_AND_SETTLE(shell);
        choose(scoreChooser(shell), QStringLiteral("aimer"));
        QTRY_VERIFY_WITH_TIMEOUT(shell.banners().contains(QStringLiteral("not enough memory")), kLimit);
        QCOMPARE(shell.workbench.chosenScore(), std::string("leave-one-out"));
        QVERIFY(shell.workbench.currentScores() && !shell.workbench.readingWeights());
        QCOMPARE(scoreChooser(shell)->currentData().toString(), QStringLiteral("leave-one-out"));
    }

    void weights_scoreCanBeCancelled()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--hold"), QStringLiteral("score")});
        OPEN_AND_SETTLE(shell);
        std::optional<JobState> job;
        connect(&shell.workbench, &Workbench::jobChanged, this, [&job](const std::optional<JobState>& now) { job = now; });
        shell.workbench.rankBy("aimer");
        shell.workbench.chooseScore("aimer");
        QTRY_VERIFY_WITH_TIMEOUT(job && job->total > 0, kLimit);
        QVERIFY2(job->what.contains(QStringLiteral("AIMER")) && job->background, qPrintable(job->what));
        shell.workbench.cancelJob();
        QTRY_VERIFY_WITH_TIMEOUT(!job && !shell.workbench.readingWeights(), kLimit);
        QCOMPARE(shell.workbench.chosenScore(), std::string("leave-one-out"));
        QCOMPARE(shell.workbench.ranking(), std::string("leave-one-out"));
    }

    void badModel_namesTheShardAndStaysUsable()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--bad-model")});
        shell.engine().start();
        shell.workbench.openDemo();
        QTRY_COMPARE_WITH_TIMEOUT(shell.window.banners()->count(), 1, kLimit);
        QVERIFY2(shell.banners().contains(QStringLiteral("model-00002-of-00003.safetensors")), qPrintable(shell.banners()));
        QVERIFY(shell.banners().contains(QStringLiteral("Nothing was loaded.")));
        QVERIFY(!shell.workbench.isOpen());
        QVERIFY(shell.engine().usable());
        QVERIFY(shell.window.action(QStringLiteral("file.openModel"))->isEnabled());
        // Once more is the same banner, counted.
        shell.workbench.openDemo();
        QTRY_VERIFY_WITH_TIMEOUT(shell.window.banners()->repeats(QStringLiteral("open:%1").arg(home.path("demo/espalier-demo-moe"))) == 2,
                                 kLimit);
        QCOMPARE(shell.window.banners()->count(), 1);
    }

    void model_thatIsKnownButNotSupportedSaysWhy()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--unsupported-model")});
        shell.engine().start();
        shell.workbench.openDemo();
        QTRY_COMPARE_WITH_TIMEOUT(shell.window.banners()->count(), 1, kLimit);
        QVERIFY2(shell.banners().contains(QStringLiteral("model_type \"novel_moe\", which is not known")), qPrintable(shell.banners()));
        QVERIFY(shell.banners().contains(QStringLiteral("Nothing was changed.")));
        QVERIFY(!shell.workbench.isOpen());
    }

    void text_thatIsRefusedChangesNothing()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(0, 5);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        const auto runs = shell.evaluation().runs().size();
        QFile text(home.path("bad.txt"));
        QVERIFY(text.open(QIODevice::WriteOnly));
        text.write("refuse me");
        text.close();
        shell.workbench.setCalibrationText(text.fileName());
        QTRY_COMPARE_WITH_TIMEOUT(shell.window.banners()->count(), 1, kLimit);
        QVERIFY2(shell.banners().contains(QStringLiteral("not valid UTF-8")), qPrintable(shell.banners()));
        QVERIFY2(shell.banners().contains(QStringLiteral("The texts in use stay")), qPrintable(shell.banners()));
        QCOMPARE(shell.workbench.calibrationText(), home.path("demo/calibration.txt"));
        QCOMPARE(shell.evaluation().runs().size(), runs);
        QCOMPARE(shell.measured(), kQuick);
        QVERIFY(!shell.workbench.scores().empty());
        QCOMPARE(home.logLines(QStringLiteral("profile")).size(), 1);
        // One that is fine takes its place and the banner goes; back on the first text what was measured is there at once.
        const double ppl = *shell.evaluation().perplexityOf(shell.hash(), false);
        QFile fine(home.path("fine.txt"));
        QVERIFY(fine.open(QIODevice::WriteOnly));
        fine.write("Another text.");
        fine.close();
        shell.workbench.setCalibrationText(fine.fileName());
        QTRY_COMPARE_WITH_TIMEOUT(shell.workbench.calibrationText(), fine.fileName(), kLimit);
        QCOMPARE(shell.window.banners()->count(), 0);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        const auto asked = home.logLines(QStringLiteral("evaluate quick")).size();
        shell.workbench.setCalibrationText(home.path("demo/calibration.txt"));
        QTRY_COMPARE_WITH_TIMEOUT(shell.workbench.calibrationText(), home.path("demo/calibration.txt"), kLimit);
        QCOMPARE(*shell.evaluation().perplexityOf(shell.hash(), false), ppl);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        // The one request more is the look at the text.
        QCOMPARE(home.logLines(QStringLiteral("evaluate quick")).size(), asked + 1);
    }

    void damagedProfileIsMeasuredAgain()
    {
        Home home;
        {
            Shell shell(home);
            OPEN_AND_SETTLE(shell);
        }
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        QCOMPARE(home.logLines(QStringLiteral("load_profile")).size(), 1);
        QCOMPARE(home.logLines(QStringLiteral("profile")).size(), 2);
    }
};

int main(int argc, char** argv) { return runShellTest<ShellEngineTest>(argc, argv); }

#include "test_shell_engine.moc"
