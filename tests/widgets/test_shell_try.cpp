// Try it, against the scripted engine: two completions side by side, what differs marked, cancelled at any token, edits do not wait.
#include "completions/token_view.h"
#include "completions/try_panel.h"
#include "look/panel.h"
#include "perplexity/status_bar.h"
#include "shell/engine/generate_controller.h"
#include "shell/engine/speed_controller.h"
#include "widgets/shell_fixture.h"

#include <QLineEdit>

using namespace espalier;
using namespace espalier::test;

namespace
{

TryPanel& panelOf(Shell& shell) { return *shell.window.findChild<TryPanel*>(); }
GenerateController& controllerOf(Shell& shell) { return *shell.workbench.completions(); }

void complete(Shell& shell, const char* prompt)
{
    panelOf(shell).setPrompt(QString::fromLatin1(prompt));
    panelOf(shell).setTokens(16);
    shell.window.findChild<QPushButton*>(QStringLiteral("try.go"))->click();
}

GeneratedTokenEvent token(int index, int id, const char* text, double logprob)
{
    return {.index = index, .id = id, .text = text, .logprob = logprob, .alternatives = {}};
}

}  // namespace

class ShellTryTest final : public ShellTestBase
{
    Q_OBJECT

private slots:
    void differences_areFoundByPlace()
    {
        Completion a, b;
        a.tokens = {token(0, 1, "a", -0.1), token(1, 2, "b", -0.2), token(2, 3, "c", -0.3)};
        b.tokens = {token(0, 1, "a", -0.2), token(1, 5, "x", -0.2)};
        b.name = QStringLiteral("dense");
        b.running = true;
        QCOMPARE(firstDifference(a, b), 1);
        QVERIFY(!differsAt(a, b, 0) && differsAt(a, b, 1) && !differsAt(a, b, 2));
        b.running = false;
        QVERIFY(differsAt(a, b, 2));
        a.tokens[1].id = 5;
        QCOMPARE(firstDifference(a, b), 2);
        b.running = true;
        QCOMPARE(firstDifference(a, b), -1);
        a.tokens[0].alternatives = {{1, "a", -0.1}, {7, " z", std::log(0.05)}};
        const QString words = tokenWords(a, b, 0);
        QVERIFY2(words.contains(QStringLiteral("90.5")), qPrintable(words));
        QVERIFY2(words.contains(QStringLiteral("“ z” 5.0")), qPrintable(words));
        QVERIFY2(words.contains(QStringLiteral("dense: the same, 81.9")), qPrintable(words));
    }

    void complete_givesBothSides_andTheDenseModelOnce()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(1, 4);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        complete(shell, "It was a");
        QTRY_VERIFY_WITH_TIMEOUT(!controllerOf(shell).busy(), kLimit);
        QCOMPARE(home.logLines(QStringLiteral("generate ")).size(), 2);
        const CompletionState state = controllerOf(shell).state();
        QCOMPARE(state.dense.tokens.size(), std::size_t(16));
        QCOMPARE(state.plan.tokens.size(), std::size_t(16));
        QVERIFY(!state.planIsDense && !state.plan.stale);
        const int first = firstDifference(state.dense, state.plan);
        QVERIFY(first > 0);
        QVERIFY(panelOf(shell).plan()->marked(first) && panelOf(shell).dense()->marked(first));
        QVERIFY(!panelOf(shell).plan()->marked(first - 1));
        QVERIFY(panelOf(shell).plan()->text() != panelOf(shell).dense()->text());
        // After an edit the completion is of an earlier plan; the dense model's stays as it is.
        shell.plans().setKeep(2, 4);
        QVERIFY(controllerOf(shell).state().plan.stale);
        QVERIFY2(panelOf(shell).text().contains(QStringLiteral("an earlier plan")), qPrintable(panelOf(shell).text()));
        complete(shell, "It was a");
        QTRY_VERIFY_WITH_TIMEOUT(!controllerOf(shell).busy(), kLimit);
        QCOMPARE(home.logLines(QStringLiteral("generate ")).size(), 3);
        QVERIFY(!controllerOf(shell).state().plan.stale);
        // Another prompt is another one for both.
        complete(shell, "She was a");
        QTRY_VERIFY_WITH_TIMEOUT(!controllerOf(shell).busy(), kLimit);
        QCOMPARE(home.logLines(QStringLiteral("generate ")).size(), 5);
    }

    void cancel_atAnyTokenKeepsWhatHasCome()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--hold"), QStringLiteral("generate")});
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(1, 4);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        complete(shell, "It was a");
        QTRY_COMPARE_WITH_TIMEOUT(controllerOf(shell).state().dense.tokens.size(), std::size_t(3), kLimit);
        QVERIFY(controllerOf(shell).state().plan.waiting);
        QCOMPARE(shell.window.findChild<QPushButton*>(QStringLiteral("try.go"))->text(), QStringLiteral("Stop"));
        shell.window.action(QStringLiteral("evaluate.cancel"))->trigger();
        QTRY_VERIFY_WITH_TIMEOUT(!controllerOf(shell).busy(), kLimit);
        QCOMPARE(controllerOf(shell).state().dense.tokens.size(), std::size_t(3));
        QCOMPARE(controllerOf(shell).state().dense.finish, QStringLiteral("stopped"));
        QVERIFY(controllerOf(shell).state().plan.tokens.empty() && !controllerOf(shell).state().plan.waiting);
        QCOMPARE(shell.window.banners()->count(), 0);
        // What was stopped is asked again.
        complete(shell, "It was a");
        QTRY_VERIFY_WITH_TIMEOUT(!controllerOf(shell).busy(), kLimit);
        QCOMPARE(controllerOf(shell).state().dense.tokens.size(), std::size_t(16));
    }

    void latest_wins()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--hold"), QStringLiteral("generate")});
        OPEN_AND_SETTLE(shell);
        complete(shell, "It was a");
        QTRY_COMPARE_WITH_TIMEOUT(controllerOf(shell).state().dense.tokens.size(), std::size_t(3), kLimit);
        panelOf(shell).setPrompt(QStringLiteral("She was a"));
        auto* prompt = shell.window.findChild<QLineEdit*>(QStringLiteral("try.prompt"));
        QTest::keyClick(prompt, Qt::Key_Return);
        QTRY_VERIFY_WITH_TIMEOUT(!controllerOf(shell).busy(), kLimit);
        QCOMPARE(controllerOf(shell).state().dense.tokens.size(), std::size_t(16));
        // The dense model alone: one side.
        QVERIFY(controllerOf(shell).state().planIsDense);
        QVERIFY(!panelOf(shell).plan()->isVisibleTo(&panelOf(shell)));
        QCOMPARE(shell.window.banners()->count(), 0);
    }

    void failure_isToldAndPromptIsKept()
    {
        Home home;
        const QString file = home.path("a.espalier");
        {
            Shell shell(home, {QStringLiteral("--fail"), QStringLiteral("generate")});
            OPEN_AND_SETTLE(shell);
            shell.plans().setKeep(1, 4);
            complete(shell, "It was a");
            QTRY_VERIFY_WITH_TIMEOUT(shell.banners().contains(QStringLiteral("not enough memory")), kLimit);
            QVERIFY(!controllerOf(shell).busy());
            auto* prompt = shell.window.findChild<QLineEdit*>(QStringLiteral("try.prompt"));
            prompt->clear();
            QTest::keyClicks(prompt, QStringLiteral("Once there"));
            SAVE(shell, file);
        }
        Shell shell(home);
        shell.engine().start();
        shell.workbench.openSession(file);
        QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.isOpen(), kLimit);
        QCOMPARE(panelOf(shell).prompt(), QStringLiteral("Once there"));
    }

    void speed_standsInTheStatusBarOfItsPlan()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        QAction* measure = shell.window.action(QStringLiteral("evaluate.speed"));
        QVERIFY(!measure->isEnabled());  // nothing to compare
        shell.plans().setKeep(1, 4);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        QVERIFY(measure->isEnabled());
        measure->trigger();
        QTRY_VERIFY_WITH_TIMEOUT(!shell.workbench.speed()->brief(shell.hash()).isEmpty(), kLimit);
        const QString faster = QStringLiteral("1.31x faster, measured here");
        auto* status = shell.window.findChild<StatusBar*>();
        QVERIFY2(status->text().contains(faster), qPrintable(status->text()));
        QVERIFY2(shell.workbench.speed()->words(shell.hash()).contains(QStringLiteral("1.31x (1.25 to 1.35)")),
                 qPrintable(shell.workbench.speed()->words(shell.hash())));
        shell.plans().setKeep(2, 4);
        QVERIFY2(!status->text().contains(faster), qPrintable(status->text()));
        shell.plans().undo();
        QVERIFY(status->text().contains(faster));
    }

    // A speed is a fact about a plan and a computer: it outlives the window, and goes out with an export of that plan alone.
    void speed_staysWithItsPlanAndItsComputer()
    {
        Home home;
        const QString file = home.path("a.espalier");
        std::string plan;
        {
            Shell shell(home);
            OPEN_AND_SETTLE(shell);
            shell.plans().setKeep(1, 4);
            QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
            plan = shell.hash();
            shell.window.action(QStringLiteral("evaluate.speed"))->trigger();
            QTRY_VERIFY_WITH_TIMEOUT(!shell.workbench.speed()->brief(plan).isEmpty(), kLimit);
            SAVE(shell, file);
        }
        {
            SessionData elsewhere = readSession(file.toStdString()).value();
            QCOMPARE(elsewhere.speeds.size(), std::size_t(1));
            QCOMPARE(elsewhere.speeds[0].computer, QSysInfo::machineHostName().toStdString());
            elsewhere.speeds[0].computer = "loft";
            QVERIFY(writeSession(home.path("b.espalier").toStdString(), elsewhere).ok());
        }
        {
            Shell shell(home);
            shell.engine().start();
            shell.workbench.openSession(home.path("b.espalier"));
            QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.isOpen(), kLimit);
            auto* status = shell.window.findChild<StatusBar*>();
            QVERIFY2(status->text().contains(QStringLiteral("1.31x faster, measured on loft")), qPrintable(status->text()));
        }
        Shell shell(home);
        shell.engine().start();
        shell.workbench.openSession(file);
        QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.isOpen(), kLimit);
        QCOMPARE(shell.hash(), plan);
        auto* status = shell.window.findChild<StatusBar*>();
        QVERIFY2(status->text().contains(QStringLiteral("1.31x faster, measured here")), qPrintable(status->text()));
        QVERIFY(shell.workbench.speed()->measurement(plan));
        shell.plans().setKeep(2, 4);
        QVERIFY(!shell.workbench.speed()->measurement(shell.hash()));
    }

    void tokens_areWalkedByKeys()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(1, 4);
        shell.window.action(QStringLiteral("evaluate.try"))->trigger();
        complete(shell, "It was a");
        QTRY_VERIFY_WITH_TIMEOUT(!controllerOf(shell).busy() && controllerOf(shell).state().plan.tokens.size() == 16, kLimit);
        shell.window.activateWindow();
        QVERIFY(QTest::qWaitForWindowActive(&shell.window));
        TokenView* view = shell.window.findChildren<TokenView*>().last();
        view->setFocus(Qt::TabFocusReason);
        QTest::keyClick(view, Qt::Key_Home);
        QCOMPARE(view->tableCurrent(), QPoint(0, 0));
        QTest::keyClick(view, Qt::Key_Right);
        QCOMPARE(view->tableCurrent(), QPoint(0, 1));
        QVERIFY(view->tableCellValue(1, 0).contains(QStringLiteral("%")));
        QVERIFY(!view->tableCellRect(1, 0).isNull());
        QTest::keyClick(view, Qt::Key_End);
        QCOMPARE(view->tableCurrent(), QPoint(0, 15));
        QVERIFY(view->tableCellValue(15, 0).contains(QStringLiteral("differs")));
    }
};

int main(int argc, char** argv) { return runShellTest<ShellTryTest>(argc, argv); }
#include "test_shell_try.moc"
