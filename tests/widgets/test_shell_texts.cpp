// What a perplexity in the window is of: three texts that share no window, quick windows spread over the live one, comparisons on the
// same windows only, and a locked text whose openings are counted.
#include "base/window_spread.h"
#include "perplexity/history_panel.h"
#include "perplexity/perplexity_panel.h"
#include "perplexity/status_bar.h"
#include "shell/engine/locked_controller.h"
#include "shell/session/texts_dialog.h"
#include "shell/window/export_dialog.h"
#include "widgets/shell_fixture.h"

#include <QComboBox>
#include <QLabel>

#include <set>

using namespace espalier;
using namespace espalier::test;

namespace
{

std::set<int> windowsOf(const EvaluationText& text)
{
    std::set<int> windows;
    for (int w = 0; w < text.fullWindows; ++w)
        windows.insert(text.firstWindow + w);
    return windows;
}

bool disjoint(const EvaluationText& a, const EvaluationText& b)
{
    const std::set<int> first = windowsOf(a);
    const std::set<int> second = windowsOf(b);
    return std::none_of(first.begin(), first.end(), [&second](int w) { return second.contains(w); });
}

QString writeText(const Home& home, const char* name)
{
    QFile file(home.path(name));
    if (file.open(QIODevice::WriteOnly)) file.write(QByteArray("A text of one's own: ") + name + '\n');
    return file.fileName();
}

}  // namespace

class ShellTextsTest final : public ShellTestBase
{
    Q_OBJECT

private slots:
    void warnings_ofTheEngineAboutTextsAreBannersOfTheModel()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--warn-text")});
        shell.engine().start();
        shell.workbench.openDemo();
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        const auto count = [&shell](const char* part) { return shell.banners().count(QString::fromLatin1(part)); };
        QTRY_COMPARE_WITH_TIMEOUT(count("128 were asked for"), 1, kLimit);
        QCOMPARE(count("longer than the model's 2048 positions"), 1);
        // Every reply brings them again: they are told once, also when they were put away.
        shell.plans().setKeep(0, 5);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        QCOMPARE(count("128 were asked for"), 1);
        QVERIFY2(!shell.banners().contains(QStringLiteral("×")), qPrintable(shell.banners()));
        // They go with the model, and come with the next one that has them.
        shell.workbench.closeModel();
        QApplication::processEvents();
        QCOMPARE(count("128 were asked for"), 0);
        shell.workbench.openDemo();
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        QTRY_COMPARE_WITH_TIMEOUT(count("128 were asked for"), 1, kLimit);
    }

    void quickWindows_areSpreadOverTheLiveText()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        QCOMPARE(shell.evaluation().state().textName, QStringLiteral("validation.txt"));
        const std::vector<int> spread = spreadWindows(kFull, kQuick);
        QCOMPARE(spread.front(), 4);
        QCOMPARE(spread.back(), 124);
        QCOMPARE(shell.evaluation().tierWindows(false), spread);
        std::vector<int> measured;
        for (const auto& [window, loss] : shell.evaluation().runs().at(shell.hash()).losses)
            measured.push_back(window);
        QCOMPARE(measured, spread);
    }

    void numbers_sayTextWindowsAndLength()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(0, 5);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        const QString basis = QStringLiteral("validation.txt · 16 of 128 windows of 256 tokens");
        QCOMPARE(headline(shell.evaluation().state()).basis, basis);
        QStringList labels;
        for (const QLabel* label : shell.window.findChild<PerplexityPanel*>()->findChildren<QLabel*>())
            labels << label->text() + label->toolTip();
        QVERIFY2(labels.join(QLatin1Char('\n')).contains(basis), qPrintable(labels.join(QLatin1Char('\n'))));
        QCOMPARE(headline(shell.evaluation().state()).shortBasis, QStringLiteral("validation.txt 16/128 × 256"));
        auto* status = shell.window.findChild<StatusBar*>();
        QVERIFY2(status->text().contains(basis), qPrintable(status->text()));
        const auto* history = shell.window.findChild<HistoryPanel*>();
        QVERIFY2(history->model()->index(0, 0).data(Qt::ToolTipRole).toString().contains(basis),
                 qPrintable(history->model()->index(0, 0).data(Qt::ToolTipRole).toString()));
        QVERIFY2(history->model()->index(0, 0).data(Qt::ToolTipRole).toString().contains(QStringLiteral("to dense on the same windows")),
                 qPrintable(history->model()->index(0, 0).data(Qt::ToolTipRole).toString()));
    }

    // One full run, one edit: no plan that dropped experts may look better than dense by having seen other windows.
    void comparisons_standOnTheSameWindows()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(0, 5);
        shell.evaluation().evaluateFull();
        QTRY_COMPARE_WITH_TIMEOUT(shell.evaluation().state().full.windows.size(), std::size_t(kFull), kLimit);
        QTRY_COMPARE_WITH_TIMEOUT(shell.evaluation().state().dense.size(), std::size_t(kFull), kLimit);
        QTRY_VERIFY_WITH_TIMEOUT(!shell.evaluation().busy(), kLimit);
        const std::string full = shell.hash();
        shell.plans().setKeep(1, 4);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);

        const PerplexityState state = shell.evaluation().state();
        QVERIFY(state.full.windows.empty());
        QCOMPARE(state.dense.size(), std::size_t(kFull));
        const std::vector<WindowLoss> beside = sameWindows(state.dense, state.quick.windows);
        QCOMPARE(beside.size(), state.quick.windows.size());
        QVERIFY(perplexity(state.quick.windows).ppl > perplexity(beside).ppl);
        const auto losses = shell.evaluation().planLosses();
        QCOMPARE(losses.size(), 3);
        QCOMPARE(losses.value(QString::fromStdString(full)).full, true);
        QCOMPARE(losses.value(QString::fromStdString(shell.hash())).full, false);
        const QString dense = QString::fromStdString(CompressionPlan::identity(shell.plans().shape()).hash());
        QCOMPARE(losses.value(dense).increase, 0.0);
        QVERIFY(losses.value(QString::fromStdString(full)).increase > 0);
        QVERIFY(losses.value(QString::fromStdString(shell.hash())).increase > losses.value(QString::fromStdString(full)).increase);
        QCOMPARE(shell.evaluation().denseBase()->full, false);
        QCOMPARE(shell.evaluation().denseBase()->ppl, perplexity(beside).ppl);
    }

    // What an estimate is added to stays while nothing but the dense run goes on.
    void estimateBase_staysWhileTheDenseRunProceeds()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.evaluation().setAutomatic(false);
        const double before = shell.evaluation().denseBase()->ppl;
        shell.plans().setKeep(0, 5);
        std::set<double> seen;
        const auto note = [&] {
            if (const auto base = shell.evaluation().denseBase(); base && !base->full) seen.insert(base->ppl);
        };
        connect(&shell.evaluation(), &EvaluationController::changed, this, note);
        shell.evaluation().evaluateFull();
        QTRY_COMPARE_WITH_TIMEOUT(shell.evaluation().state().full.windows.size(), std::size_t(kFull), kLimit);
        QTRY_VERIFY_WITH_TIMEOUT(!shell.evaluation().busy(), kLimit);
        disconnect(&shell.evaluation(), nullptr, this, nullptr);
        QCOMPARE(seen, std::set<double>{before});
        QCOMPARE(shell.evaluation().denseBase()->full, true);
    }

    void staleNumbers_sayHowOldTheyAre()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--hold"), QStringLiteral("never")});
        OPEN_AND_SETTLE(shell);
        shell.evaluation().setAutomatic(false);
        shell.plans().beginGesture();
        shell.plans().setKeep(0, 6);
        QCOMPARE(shell.workbench.planName(), QStringLiteral("edit in progress"));
        QCOMPARE(shell.evaluation().state().age, QStringLiteral("before this drag"));
        shell.plans().setKeep(0, 5);
        QCOMPARE(shell.evaluation().state().age, QStringLiteral("before this drag"));
        shell.plans().finishGesture();
        QCOMPARE(shell.evaluation().state().age, QStringLiteral("before the last change"));
        QCOMPARE(shell.evaluation().state().staleName, QStringLiteral("dense"));
        shell.plans().setKeep(1, 5);
        shell.plans().setKeep(2, 5);
        QCOMPARE(shell.evaluation().state().age, QStringLiteral("before the last 3 changes"));
        QCOMPARE(headline(shell.evaluation().state()).kind, HeadlinePerplexity::Kind::Stale);
    }

    void oneText_isSharedByWindows()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        const QString own = writeText(home, "own.txt");
        shell.workbench.setTexts({own, {}, {}, {}});
        QTRY_COMPARE_WITH_TIMEOUT(shell.workbench.calibrationText(), own, kLimit);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        const TextShares& shares = shell.workbench.textShares();
        QCOMPARE(shares.calibration.firstWindow, 0);
        QCOMPARE(shares.calibration.fullWindows, kCalibrationWindows);
        QCOMPARE(shares.live.fullWindows, kFull);
        QCOMPARE(shares.locked.fullWindows, kFull);
        QVERIFY(disjoint(shares.calibration, shares.live) && disjoint(shares.live, shares.locked) &&
                disjoint(shares.calibration, shares.locked));
        QVERIFY2(shell.banners().contains(
                     QStringLiteral("no window is used twice: windows 0 to 95 are for scores and searches, windows 96 to 223")),
                 qPrintable(shell.banners()));
        QCOMPARE(shell.evaluation().state().textName, QStringLiteral("own.txt from window 96"));
        // The same file under another name is the same text.
        QVERIFY(QFile::copy(own, home.path("copy.txt")));
        shell.workbench.setTexts({own, home.path("copy.txt"), home.path("demo/test.txt"), {}});
        QTRY_COMPARE_WITH_TIMEOUT(shell.workbench.texts().live, home.path("copy.txt"), kLimit);
        QVERIFY(disjoint(shell.workbench.textShares().calibration, shell.workbench.textShares().live));
        QVERIFY(!shell.workbench.textShares().locked.part);
    }

    void oneText_thatIsShortIsSharedInProportion()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--short-text")});
        OPEN_AND_SETTLE(shell);
        QCOMPARE(static_cast<int>(shell.evaluation().tierWindows(true).size()), 9);
        shell.workbench.setTexts({writeText(home, "own.txt"), {}, {}, {}});
        QTRY_COMPARE_WITH_TIMEOUT(shell.workbench.calibrationText(), home.path("own.txt"), kLimit);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        const TextShares& shares = shell.workbench.textShares();
        QCOMPARE(shares.calibration.fullWindows, 2);
        QCOMPARE(shares.live.fullWindows, 3);
        QCOMPARE(shares.locked.firstWindow, 5);
        QCOMPARE(shares.locked.fullWindows, 3);
        // Fewer windows than texts: nothing to share.
        QVERIFY(!shareTexts({writeText(home, "tiny.txt"), {}, {}, {}}, 256, {{home.path("tiny.txt"), 2}}));
    }

    void ownModel_isAskedForItsTexts()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        QVERIFY(QDir(home.folder.path()).mkpath(QStringLiteral("my-model")));
        shell.workbench.openModel(home.path("my-model"));
        QTRY_COMPARE_WITH_TIMEOUT(shell.workbench.modelName(), QStringLiteral("my-model"), kLimit);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        QVERIFY2(
            shell.banners().contains(QStringLiteral("Built-in texts are used: calibration.txt for scores and searches, validation.txt for "
                                                    "the perplexity, test.txt as the locked text.")),
            qPrintable(shell.banners()));
        QPushButton* choose = shell.bannerButton(QStringLiteral("Choose texts…"));
        QVERIFY(choose);
        choose->click();
        auto* dialog = shell.window.findChild<TextsDialog*>();
        QVERIFY(dialog && dialog->isVisible());
        QVERIFY(dialog->findChild<QComboBox*>(QStringLiteral("texts.live"))
                    ->currentText()
                    .startsWith(QStringLiteral("validation.txt · built in")));
        const QString own = writeText(home, "own.txt");
        dialog->setFile(TextsDialog::Calibration, own);
        // One text given: the others follow it, none stays a built-in one unasked.
        QCOMPARE(dialog->choice().calibration, own);
        QVERIFY(dialog->choice().live.isEmpty() && dialog->choice().locked.isEmpty());
        QVERIFY(dialog->findChild<QLabel*>(QStringLiteral("texts.note"))->text().contains(QStringLiteral("shared out")));
        const QString live = writeText(home, "live.txt");
        const QString locked = writeText(home, "locked.txt");
        dialog->setFile(TextsDialog::Live, live);
        dialog->setFile(TextsDialog::Locked, locked);
        dialog->findChild<QPushButton*>(QStringLiteral("texts.use"))->click();
        QTRY_COMPARE_WITH_TIMEOUT(shell.workbench.texts().calibration, own, kLimit);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        QCOMPARE(shell.workbench.texts().live, live);
        QCOMPARE(shell.evaluation().state().textName, QStringLiteral("live.txt"));
        QCOMPARE(shell.window.banners()->repeats(QStringLiteral("texts")), 0);
    }

    void lockedText_isOpenedOnRequestAndCounted()
    {
        Home home;
        const QString file = home.path("work.espalier");
        std::string plan;
        double ppl = 0;
        {
            Shell shell(home);
            OPEN_AND_SETTLE(shell);
            shell.plans().setKeep(0, 5);
            QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
            shell.evaluation().evaluateFull();
            QTRY_VERIFY_WITH_TIMEOUT(!shell.evaluation().busy(), kLimit);
            QCOMPARE(home.logLines(QStringLiteral("evaluate full locked")).size(), 0);
            LockedController* locked = shell.workbench.locked();
            shell.window.action(QStringLiteral("evaluate.locked"))->trigger();
            QVERIFY2(shell.banners().contains(QStringLiteral("test.txt was not opened yet")), qPrintable(shell.banners()));
            QCOMPARE(home.logLines(QStringLiteral("evaluate full locked")).size(), 0);
            plan = shell.hash();
            shell.bannerButton(QStringLiteral("Measure %1 on it").arg(shell.workbench.planName()))->click();
            QTRY_COMPARE_WITH_TIMEOUT(locked->openings().size(), std::size_t(1), kLimit);
            const SessionOpening opening = locked->openings().front();
            QCOMPARE(opening.planHash, plan);
            QCOMPARE(opening.windows, kFull);
            QVERIFY(opening.ppl > opening.densePpl);
            ppl = opening.ppl;
            const LockedState state = locked->state(plan);
            QCOMPARE(perplexity(state.windows).ppl, ppl);
            QCOMPARE(state.openings, 1);
            // It is there: no second look is needed, and none is counted.
            QVERIFY(!shell.window.action(QStringLiteral("evaluate.locked"))->isEnabled());
            shell.workbench.measureLocked();
            QCOMPARE(locked->openings().size(), std::size_t(1));
            shell.plans().setKeep(1, 5);
            QVERIFY(shell.window.action(QStringLiteral("evaluate.locked"))->isEnabled());
            shell.workbench.measureLocked();
            QTRY_COMPARE_WITH_TIMEOUT(locked->openings().size(), std::size_t(2), kLimit);
            QCOMPARE(locked->plansOpened(), 2);
            QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
            SAVE(shell, file);
            // Dense once, each plan once.
            QCOMPARE(home.logLines(QStringLiteral("evaluate full locked")).size(), 3);
        }
        QFile::remove(home.log);
        Shell shell(home);
        shell.engine().start();
        shell.workbench.openSession(file);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        QVERIFY(!shell.workbench.modified());
        const LockedController* locked = shell.workbench.locked();
        QCOMPARE(locked->openings().size(), std::size_t(2));
        QCOMPARE(locked->openings().front().planHash, plan);
        QCOMPARE(locked->openings().front().ppl, ppl);
        shell.plans().undo();
        QCOMPARE(perplexity(locked->state(shell.hash()).windows).ppl, ppl);
        QCOMPARE(locked->state(shell.hash()).openings, 2);
        QVERIFY2(shell.workbench.elsewhere(plan).join(QLatin1Char('\n')).contains(QStringLiteral("test.txt")),
                 qPrintable(shell.workbench.elsewhere(plan).join(QLatin1Char('\n'))));
        QTRY_COMPARE_WITH_TIMEOUT(home.logLines(QStringLiteral("open_model")).size(), 1, kLimit);
        QCOMPARE(home.logLines(QStringLiteral("evaluate")).size(), 0);
    }

    // Before there were three texts everything was measured on the calibration text.
    void oldSession_keepsItsRunsOnTheirText()
    {
        Home home;
        const QString file = home.path("old.espalier");
        std::string hash;
        {
            Shell shell(home);
            OPEN_AND_SETTLE(shell);
            shell.plans().setKeep(0, 5);
            QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
            QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
            hash = shell.hash();
            SAVE(shell, file);
        }
        Result<SessionData> data = readSession(file.toStdString());
        QVERIFY(data.ok());
        std::erase_if(data->texts, [](const SessionText& text) { return text.role != "calibration"; });
        for (SessionText& text : data->texts)
            text = {.role = text.role, .path = text.path};
        for (SessionRun& run : data->runs) {
            run.textSha256 = std::string(64, '7');
            for (const char* key : {"text", "first_window", "windows", "part"})
                run.settings.erase(key);
        }
        const auto runs = data->runs.size();
        QVERIFY(runs >= 2);
        QVERIFY(writeSession(file.toStdString(), *data).ok());

        Shell shell(home);
        shell.engine().start();
        shell.workbench.openSession(file);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        QCOMPARE(shell.hash(), hash);
        QCOMPARE(shell.evaluation().state().textName, QStringLiteral("validation.txt"));
        QCOMPARE(shell.measured(), kQuick);  // anew, on the live text
        const QString told = shell.workbench.elsewhere(hash).join(QLatin1Char('\n'));
        QVERIFY2(told.contains(QStringLiteral("on calibration.txt · 16 windows of 256 tokens")), qPrintable(told));
        QVERIFY2(shell.banners().contains(QStringLiteral("What was measured on calibration.txt, which scores are fitted to, is kept")),
                 qPrintable(shell.banners()));
        SAVE(shell, file);
        const Result<SessionData> again = readSession(file.toStdString());
        QVERIFY(again.ok());
        QCOMPARE(std::count_if(again->runs.begin(), again->runs.end(),
                               [](const SessionRun& run) { return run.textSha256 == std::string(64, '7'); }),
                 static_cast<std::ptrdiff_t>(runs));
    }

    void export_recordsWhatTheWindowMeasured()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(0, 5);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        const auto found = shell.evaluation().measuredOf(shell.hash());
        QVERIFY(found);
        const Measurement& measured = found->measurement;
        QCOMPARE(measured.text, std::string("validation.txt"));
        QCOMPARE(measured.windows, kQuick);
        QCOMPARE(measured.windowLength, 256);
        QVERIFY(measured.densePpl && measured.ppl > *measured.densePpl);
        QVERIFY(measured.deltaNll && *measured.deltaNll > 0 && measured.deltaNllError && *measured.deltaNllError > 0);
        shell.window.action(QStringLiteral("file.export"))->trigger();
        auto* dialog = shell.window.exportDialog();
        const QString shown = dialog->findChild<QLabel*>(QStringLiteral("export.measured"))->text();
        QVERIFY2(shown.contains(QStringLiteral("validation.txt · 16 of 128 windows of 256 tokens")), qPrintable(shown));
    }
};

int main(int argc, char** argv) { return runShellTest<ShellTextsTest>(argc, argv); }

#include "test_shell_texts.moc"
