// Multiple-choice tasks in the window, against the scripted engine: numbers belong to one plan, what was answered stays, edits do not wait.
#include "look/controls.h"
#include "look/panel.h"
#include "perplexity/history_panel.h"
#include "perplexity/task_bars.h"
#include "perplexity/tasks_panel.h"
#include "shell/engine/tasks_controller.h"
#include "shell/session/texts_dialog.h"
#include "shell/window/export_dialog.h"
#include "widgets/shell_fixture.h"

#include <QComboBox>
#include <QLabel>
#include <QLineEdit>
#include <csignal>

#include <sys/types.h>

using namespace espalier;
using namespace espalier::test;

namespace
{

TasksPanel& panelOf(Shell& shell) { return *shell.window.findChild<TasksPanel*>(); }
TasksController& tasksOf(Shell& shell) { return *shell.workbench.tasks(); }
void measure(Shell& shell) { shell.window.action(QStringLiteral("evaluate.tasks"))->trigger(); }

#define MEASURE(shell)                                            \
    do {                                                          \
        measure(shell);                                           \
        QTRY_VERIFY_WITH_TIMEOUT(!tasksOf(shell).busy(), kLimit); \
        QVERIFY(tasksOf(shell).measured((shell).hash()));         \
    } while (false)

QStringList hold() { return {QStringLiteral("--hold"), QStringLiteral("tasks")}; }

// Of a script of marks, counted by hand.
double share(const std::string& marks)
{
    return static_cast<double>(std::count(marks.begin(), marks.end(), '1')) / static_cast<double>(marks.size());
}

const PlanAnswers& runOf(Shell& shell, const std::string& hash) { return tasksOf(shell).runs().at({tasksOf(shell).folder(), hash}); }

TaskMarks marksFrom(const char* name, const char* acc, const char* norm = "", const char* sha256 = "s")
{
    return {.name = name, .rules = name, .sha256 = sha256, .hidden = 0, .acc = acc, .norm = norm};
}

}  // namespace

class ShellTasksTest final : public ShellTestBase
{
    Q_OBJECT

private slots:
    void table_countsTheQuestionsThatBothAnswered()
    {
        // Right: 3 of 4 against 2 of 4; the differences are 0, 1, 0, 0: mean 0.25, deviation 0.5, by root of 4.
        const std::vector<TaskMarks> plan = {marksFrom("rte", "1110-"), marksFrom("boolq", "01")};
        const std::vector<TaskMarks> dense = {marksFrom("rte", "10101"), marksFrom("boolq", "11")};
        std::vector<TaskRow> rows = taskRows(plan, dense, false, TaskMetric::Acc);
        QCOMPARE(rows.size(), std::size_t(3));
        QCOMPARE(rows[0].questions, 4);
        QCOMPARE(rows[0].wanted, 5);
        QCOMPARE(rows[0].plan->value, 0.75);
        QCOMPARE(rows[0].dense->value, 0.5);
        QCOMPARE(rows[0].delta->value, 0.25);
        QCOMPARE(*rows[0].delta->error, 0.25);
        QCOMPARE(*rows[0].plan->error, 0.5 / 2);
        // A mean of tasks that are not whole is none.
        QVERIFY(rows[2].kind == TaskRow::Kind::Mean && !rows[2].plan);
        rows = taskRows({marksFrom("rte", "1110"), marksFrom("boolq", "01")}, dense, false, TaskMetric::Acc);
        QCOMPARE(rows[2].plan->value, (0.75 + 0.5) / 2);
        QCOMPARE(*rows[2].plan->error, std::sqrt(0.25 * 0.25 + 0.5 * 0.5) / 2);
        QCOMPARE(rows[2].delta->value, (0.25 - 0.5) / 2);
        // Another content of the file is another task.
        rows = taskRows(plan, {marksFrom("rte", "10101", "", "other")}, false, TaskMetric::Acc);
        QVERIFY(rows[0].plan && !rows[0].dense && !rows[0].delta);
        // Where acc_norm is not reported acc stands in, and says so.
        rows = taskRows({marksFrom("piqa", "10", "11"), marksFrom("rte", "10")}, {}, false, TaskMetric::Norm);
        QCOMPARE(rows[0].plan->value, 1.0);
        QVERIFY(!rows[0].byAcc && rows[1].byAcc);
        QCOMPARE(rows[1].plan->value, 0.5);
    }

    void table_hasTheMeanOfTheSevenWhereAllAreThere()
    {
        std::vector<TaskMarks> tasks;
        for (const char* name : {"arc_challenge", "arc_easy", "boolq", "hellaswag", "openbookqa", "rte", "winogrande"})
            tasks.push_back(marksFrom(name, "10"));
        std::vector<TaskRow> rows = taskRows(tasks, {}, false, TaskMetric::Acc);
        QCOMPARE(rows.size(), std::size_t(8));
        QVERIFY(rows.back().kind == TaskRow::Kind::MeanOfSeven);
        tasks.push_back(marksFrom("piqa", "11"));
        rows = taskRows(tasks, {}, false, TaskMetric::Acc);
        QCOMPARE(rows.size(), std::size_t(10));
        QCOMPARE(rows.back().plan->value, 0.5);
        QCOMPARE(rows[8].plan->value, (7 * 0.5 + 1) / 8);
        QCOMPARE(headlineRow(rows)->name, rows[8].name);
        tasks.erase(tasks.begin());
        rows = taskRows(tasks, {}, false, TaskMetric::Acc);
        QVERIFY(rows.back().kind == TaskRow::Kind::Mean);
        QCOMPARE(accuracyText({0.43636, 0.03351}), QStringLiteral("0.4364 ± 0.0335"));
        QCOMPARE(accuracyDelta({-0.012, 0.01}), QStringLiteral("−0.0120 ± 0.0100"));
        QCOMPARE(accuracyDelta({0, 0.0}), QStringLiteral("0"));
    }

    void measure_givesThePlanBesideTheDenseModel()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        QVERIFY(panelOf(shell).text().isEmpty());
        shell.plans().setKeep(1, 4);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        MEASURE(shell);
        // The plan, then the dense model, of the demo's own folder, all questions.
        const QString folder = QStringLiteral(" tasks 0");
        const std::string dense = shell.plans().history().entries().front().plan.hash();
        QCOMPARE(home.logLines(QStringLiteral("tasks ")),
                 (QStringList{QStringLiteral("tasks ") + QString::fromStdString(shell.hash()) + folder,
                              QStringLiteral("tasks ") + QString::fromStdString(dense) + folder}));
        const PlanAnswers& plan = runOf(shell, shell.hash());
        const PlanAnswers& whole = runOf(shell, dense);
        QCOMPARE(plan.tasks.size(), std::size_t(2));
        const double mean = (share(plan.tasks[0].acc) + share(plan.tasks[1].acc)) / 2;
        const double meanOfDense = (share(whole.tasks[0].acc) + share(whole.tasks[1].acc)) / 2;
        QVERIFY(mean < meanOfDense);
        const QString text = panelOf(shell).text();
        const QString number = QLocale().toString(mean, 'f', 4);
        QVERIFY2(text.startsWith(number + QStringLiteral(" ± ")), qPrintable(text));
        QVERIFY2(text.contains(QStringLiteral("mean of 2 tasks · 60 questions · tasks")), qPrintable(text));
        QVERIFY2(text.contains(QStringLiteral("Δ −") + QLocale().toString(meanOfDense - mean, 'f', 4)), qPrintable(text));
        // A second time nothing is missing of the dense model.
        MEASURE(shell);
        QCOMPARE(home.logLines(QStringLiteral("tasks ")).size(), 3);
        // acc_norm is another number of the same answers.
        panelOf(shell).setMetric(TaskMetric::Norm);
        QVERIFY(panelOf(shell).text() != text);
        QCOMPARE(home.logLines(QStringLiteral("tasks ")).size(), 3);
    }

    void edit_leavesTheNumbersToTheirPlan()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(1, 4);
        const std::string first = shell.hash();
        MEASURE(shell);
        const QString before = panelOf(shell).text();
        shell.plans().setKeep(2, 4);
        const TasksState state = tasksOf(shell).state();
        QCOMPARE(state.age, QStringLiteral("an earlier plan"));
        QCOMPARE(state.plan.front().acc, runOf(shell, first).tasks.front().acc);
        QVERIFY2(panelOf(shell).text().contains(QStringLiteral("an earlier plan")), qPrintable(panelOf(shell).text()));
        QVERIFY(!tasksOf(shell).measured(shell.hash()));
        QVERIFY(tasksOf(shell).words(shell.hash()).isEmpty());
        shell.plans().undo();
        QCOMPARE(panelOf(shell).text(), before);
        // The tooltip of a plan's entry has its own.
        const QString words = tasksOf(shell).words(first);
        QVERIFY2(words.startsWith(QStringLiteral("tasks: mean acc 0.")) && words.contains(QStringLiteral("60 questions")),
                 qPrintable(words));
        const QAbstractItemModel* history = shell.window.findChild<HistoryPanel*>()->model();
        QTRY_VERIFY_WITH_TIMEOUT(history->index(1, 0).data(Qt::ToolTipRole).toString().contains(words), kLimit);
        QVERIFY(!history->index(0, 0).data(Qt::ToolTipRole).toString().contains(words));
    }

    void cancel_keepsWhatIsAnswered_andEditsDoNotWait()
    {
        Home home;
        Shell shell(home, hold());
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(1, 4);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        measure(shell);
        QTRY_VERIFY_WITH_TIMEOUT(tasksOf(shell).measured(shell.hash()) && runOf(shell, shell.hash()).tasks.size() == 2, kLimit);
        QVERIFY(tasksOf(shell).busy());
        // Bars are there while it runs; a mean is not.
        const TaskBars* bars = panelOf(shell).bars();
        QCOMPARE(bars->rows()[0].questions, 40);
        QCOMPARE(bars->rows()[1].questions, 10);
        QCOMPARE(bars->rows()[1].wanted, 20);
        QVERIFY(!bars->rows()[2].plan);
        QVERIFY2(panelOf(shell).text().contains(QStringLiteral("measuring")), qPrintable(panelOf(shell).text()));
        shell.window.action(QStringLiteral("evaluate.cancel"))->trigger();
        QTRY_VERIFY_WITH_TIMEOUT(!tasksOf(shell).busy(), kLimit);
        const PlanAnswers& run = runOf(shell, shell.hash());
        QCOMPARE(run.tasks[0].acc.find('-'), std::string::npos);
        QCOMPARE(std::count(run.tasks[1].acc.begin(), run.tasks[1].acc.end(), '-'), std::ptrdiff_t(10));
        QCOMPARE(shell.window.banners()->count(), 0);
        // Whole tasks alone go into an export.
        QCOMPARE(tasksOf(shell).measurements(shell.hash()).size(), std::size_t(1));
        // And what is measured again fills in the rest.
        const std::string answered = run.tasks[1].acc.substr(0, 10);
        MEASURE(shell);
        QCOMPARE(runOf(shell, shell.hash()).tasks[1].acc.substr(0, 10), answered);
        QCOMPARE(runOf(shell, shell.hash()).tasks[1].acc.find('-'), std::string::npos);
    }

    void latest_wins()
    {
        Home home;
        Shell shell(home, hold());
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(1, 4);
        const std::string first = shell.hash();
        measure(shell);
        QTRY_VERIFY_WITH_TIMEOUT(tasksOf(shell).measured(first), kLimit);
        shell.plans().setKeep(2, 3);
        const std::string second = shell.hash();
        measure(shell);
        QTRY_VERIFY_WITH_TIMEOUT(!tasksOf(shell).busy(), kLimit);
        QVERIFY(runOf(shell, second).tasks[1].acc.find('-') == std::string::npos);
        QVERIFY(tasksOf(shell).measured(first));
        QCOMPARE(shell.window.banners()->count(), 0);
    }

    void first_limitsTheQuestions_andMoreOfThemAreKept()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        auto* questions = shell.window.findChild<QComboBox*>(QStringLiteral("tasks.questions"));
        questions->setCurrentIndex(questions->findData(50));
        MEASURE(shell);
        QVERIFY(home.logLines(QStringLiteral("tasks ")).front().endsWith(QStringLiteral(" tasks 50")));
        QVERIFY2(panelOf(shell).text().contains(QStringLiteral("the first 50 of each")), qPrintable(panelOf(shell).text()));
        questions->setCurrentIndex(0);
        MEASURE(shell);
        QVERIFY(!panelOf(shell).text().contains(QStringLiteral("the first")));
        // The dense model alone: one bar, no difference.
        QVERIFY(tasksOf(shell).state().planIsDense);
        QCOMPARE(home.logLines(QStringLiteral("tasks ")).size(), 2);
        QVERIFY(panelOf(shell).bars()->rows()[0].plan && !panelOf(shell).bars()->rows()[0].delta);
    }

    void session_keepsAnswersAndTheFolder()
    {
        Home home;
        const QString file = home.path("a.espalier");
        QString text;
        std::string hash;
        {
            Shell shell(home, {QStringLiteral("--eight")});
            OPEN_AND_SETTLE(shell);
            shell.plans().setKeep(2, 5);
            shell.plans().setKeep(1, 4);
            MEASURE(shell);
            panelOf(shell).setQuestions(100);
            QTest::keyClick(shell.window.findChild<Segment*>(QStringLiteral("tasks.metric")), Qt::Key_Right);
            QCOMPARE(panelOf(shell).taskMetric(), TaskMetric::Norm);
            text = panelOf(shell).text();
            QVERIFY2(text.contains(QStringLiteral("mean of the seven")), qPrintable(text));
            hash = shell.hash();
            QVERIFY(shell.workbench.modified());
            SAVE(shell, file);
            QVERIFY(!shell.workbench.modified());
            // A new answer is worth saving.
            shell.plans().undo();
            MEASURE(shell);
            shell.plans().redo();
            QVERIFY(shell.workbench.modified());
        }
        Shell shell(home, {QStringLiteral("--eight")});
        shell.engine().start();
        shell.workbench.openSession(file);
        QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.isOpen(), kLimit);
        QCOMPARE(shell.hash(), hash);
        QCOMPARE(panelOf(shell).taskMetric(), TaskMetric::Norm);
        QCOMPARE(panelOf(shell).questions(), 100);
        QTRY_COMPARE_WITH_TIMEOUT(panelOf(shell).text(), text, kLimit);
        QVERIFY(shell.workbench.texts().tasks.endsWith(QStringLiteral("/tasks")));
    }

    void folder_isChosenWhereTextsAre_andItsErrorsAreTold()
    {
        Home home;
        QDir(home.folder.path()).mkpath(QStringLiteral("empty"));
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        MEASURE(shell);
        const QString own = panelOf(shell).text();
        shell.window.action(QStringLiteral("evaluate.text"))->trigger();
        auto* dialog = shell.window.findChild<TextsDialog*>();
        dialog->setFile(TextsDialog::Tasks, home.path("empty"));
        dialog->findChild<QPushButton*>(QStringLiteral("texts.use"))->click();
        QTRY_COMPARE_WITH_TIMEOUT(shell.workbench.texts().tasks, home.path("empty"), kLimit);
        // Another folder has answers of its own: none yet.
        QVERIFY2(panelOf(shell).text().isEmpty(), qPrintable(panelOf(shell).text()));
        measure(shell);
        QTRY_VERIFY_WITH_TIMEOUT(shell.banners().contains(QStringLiteral("holds no task files")), kLimit);
        QVERIFY2(shell.banners().contains(QStringLiteral("Put files as hellaswag.jsonl there")), qPrintable(shell.banners()));
        QVERIFY(!tasksOf(shell).busy());
        // The way back needs no measuring, and a run that works takes the error along.
        TextChoice texts = shell.workbench.texts();
        texts.tasks = shell.workbench.builtInTexts().tasks;
        shell.workbench.setTexts(texts);
        QTRY_COMPARE_WITH_TIMEOUT(panelOf(shell).text(), own, kLimit);
        MEASURE(shell);
        QVERIFY2(!shell.banners().contains(QStringLiteral("holds no task files")), qPrintable(shell.banners()));
    }

    void engine_lost_keepsWhatIsAnswered()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--hold"), QStringLiteral("tasks")});
        OPEN_AND_SETTLE(shell);
        measure(shell);
        QTRY_VERIFY_WITH_TIMEOUT(tasksOf(shell).measured(shell.hash()) && runOf(shell, shell.hash()).tasks.size() == 2, kLimit);
        ::kill(static_cast<pid_t>(shell.engine().processId()), SIGKILL);
        QTRY_VERIFY_WITH_TIMEOUT(!tasksOf(shell).busy(), kLimit);
        QVERIFY(tasksOf(shell).measured(shell.hash()));
        QVERIFY(!shell.window.action(QStringLiteral("evaluate.tasks"))->isEnabled());
        shell.engine().start();
        QTRY_VERIFY_WITH_TIMEOUT(shell.window.action(QStringLiteral("evaluate.tasks"))->isEnabled(), kLimit);
        MEASURE(shell);
        QCOMPARE(runOf(shell, shell.hash()).tasks[1].acc.find('-'), std::string::npos);
    }

    void export_recordsTheTasks()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(1, 4);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        MEASURE(shell);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        shell.window.action(QStringLiteral("file.export"))->trigger();
        ExportDialog* dialog = shell.window.exportDialog();
        const auto* measured = dialog->findChild<QLabel*>(QStringLiteral("export.measured"));
        QVERIFY2(measured->text().contains(tasksOf(shell).words(shell.hash())), qPrintable(measured->text()));
        dialog->findChild<QLineEdit*>(QStringLiteral("export.folder"))->setText(home.path("out"));
        dialog->findChild<QPushButton*>(QStringLiteral("export.start"))->click();
        QTRY_VERIFY_WITH_TIMEOUT(!home.logLines(QStringLiteral("export ")).filter(QStringLiteral("\"task\":\"endings\"")).isEmpty(),
                                 kLimit);
        const QString line = home.logLines(QStringLiteral("export ")).filter(QStringLiteral("\"task\":\"endings\"")).last();
        QVERIFY2(line.contains(QStringLiteral("\"task\":\"cloze\"")) && line.contains(QStringLiteral("\"items\":40")), qPrintable(line));
    }

    void chart_isWalkedByKeysAndReadAsATable()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--eight")});
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(1, 4);
        MEASURE(shell);
        shell.window.activateWindow();
        QVERIFY(QTest::qWaitForWindowActive(&shell.window));
        auto* bars = shell.window.findChild<TaskBars*>();
        bars->setFocus(Qt::TabFocusReason);
        QCOMPARE(bars->tableRows(), 10);
        QCOMPARE(bars->tableCurrent(), QPoint(1, 0));
        QTest::keyClick(bars, Qt::Key_Down);
        QTest::keyClick(bars, Qt::Key_Down);
        QCOMPARE(bars->tableCurrent(), QPoint(1, 2));
        QCOMPARE(bars->tableRowName(2), QStringLiteral("boolq"));
        QVERIFY(bars->tableCellValue(2, 2).startsWith(QStringLiteral("−")) || bars->tableCellValue(2, 2) == QStringLiteral("0"));
        QTest::keyClick(bars, Qt::Key_End);
        QCOMPARE(bars->tableRowName(bars->tableCurrent().y()), QStringLiteral("mean of the seven"));
        QVERIFY(!bars->visibleRegion().isEmpty());
        // Clicks choose rows too.
        QTest::mouseClick(bars, Qt::LeftButton, {}, bars->tableCellRect(1, 0).center());
        QCOMPARE(bars->tableCurrent().y(), 1);
    }
};

int main(int argc, char** argv) { return runShellTest<ShellTasksTest>(argc, argv); }
#include "test_shell_tasks.moc"
