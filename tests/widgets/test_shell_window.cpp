// Export dialog and actions.
#include "widgets/shell_fixture.h"

#include "plan/cost_model.h"
#include "shell/export_dialog.h"

#include <QFileDialog>
#include <QLabel>
#include <QLineEdit>
#include <QMenu>
#include <QMenuBar>
#include <QPointer>
#include <QRadioButton>

#include <csignal>

using namespace espalier;
using namespace espalier::test;

class ShellWindowTest final : public ShellTestBase
{
    Q_OBJECT

private slots:
    void export_closedDialogIsNotCalledBack()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--hold"), QStringLiteral("export")});
        OPEN_AND_SETTLE(shell);
        shell.window.action(QStringLiteral("file.export"))->trigger();
        QPointer<ExportDialog> dialog = shell.window.exportDialog();
        QVERIFY(dialog);
        QTRY_VERIFY_WITH_TIMEOUT(QFile::exists(home.once), kLimit);  // the dry run is open
        dialog->close();
        QTRY_VERIFY_WITH_TIMEOUT(dialog.isNull(), kLimit);
        QCOMPARE(::kill(static_cast<pid_t>(shell.engine().processId()), SIGKILL), 0);
        QTRY_COMPARE_WITH_TIMEOUT(shell.engine().openRequests(), 0, kLimit);
    }

    void export_explainsAndProves()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.window.action(QStringLiteral("file.export"))->trigger();
        ExportDialog* dialog = shell.window.exportDialog();
        QVERIFY(dialog && dialog->isVisible() && !dialog->isModal());
        auto* stock = dialog->findChild<QRadioButton*>(QStringLiteral("export.stock"));
        QVERIFY(stock);
        QVERIFY(stock->isEnabled() && stock->isChecked());

        const auto texts = [&] {
            QStringList all;
            for (const QLabel* label : dialog->findChildren<QLabel*>())
                all << label->text();
            return all.join(QLatin1Char('\n'));
        };
        shell.plans().setKeep(0, 5);  // counts differ from layer to layer now
        QVERIFY(!stock->isEnabled());
        QVERIFY(!stock->isChecked());
        QString reason;
        for (const FlavourChoice& choice : flavoursFor(shell.plans().shape(), shell.plans().plan()))
            if (choice.id == "stock") reason = QString::fromStdString(choice.reason);
        QVERIFY(!reason.isEmpty());
        QVERIFY2(texts().contains(reason), qPrintable(texts()));
        QTRY_VERIFY_WITH_TIMEOUT(texts().contains(QStringLiteral("3 file")), kLimit);

        auto* folder = dialog->findChild<QLineEdit*>(QStringLiteral("export.folder"));
        auto* start = dialog->findChild<QPushButton*>(QStringLiteral("export.start"));
        QVERIFY(folder && start && start->isEnabled());
        folder->setText(home.path("smaller"));
        start->click();
        QTRY_VERIFY2_WITH_TIMEOUT(texts().contains(QStringLiteral("7.5012")) && texts().contains(QStringLiteral("7.5034")),
                                  qPrintable(texts()), kLimit);
        QVERIFY(texts().contains(home.path("smaller")));
        QVERIFY(texts().contains(QStringLiteral("every check holds")));
        QVERIFY(start->isEnabled());
        for (int layer = 1; layer < 4; ++layer)
            shell.plans().setKeep(layer, 5);
        QVERIFY(stock->isEnabled());
    }

    void export_engineDiesMeanwhile()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--hold"), QStringLiteral("export")});
        OPEN_AND_SETTLE(shell);
        shell.window.action(QStringLiteral("file.export"))->trigger();
        ExportDialog* dialog = shell.window.exportDialog();
        QVERIFY(dialog);
        QTRY_VERIFY_WITH_TIMEOUT(QFile::exists(home.once), kLimit);
        auto* start = dialog->findChild<QPushButton*>(QStringLiteral("export.start"));
        start->click();
        QVERIFY(!start->isEnabled());
        QCOMPARE(::kill(static_cast<pid_t>(shell.engine().processId()), SIGKILL), 0);
        QTRY_COMPARE_WITH_TIMEOUT(shell.engine().state(), EngineState::Lost, 1000);
        QString all;
        for (const QLabel* label : dialog->findChildren<QLabel*>())
            all += label->text() + QLatin1Char('\n');
        QVERIFY2(all.contains(QStringLiteral("The engine stopped")), qPrintable(all));
        QVERIFY(dialog->isVisible());
    }
    void actions_haveIdsAndTexts()
    {
        Home home;
        Shell shell(home);
        QStringList bad;
        QSet<QString> ids;
        for (QMenu* menu : shell.window.menuBar()->findChildren<QMenu*>()) {
            for (QAction* action : menu->actions()) {
                if (action->isSeparator() || action->menu()) continue;
                if (action->objectName().isEmpty()) bad << QStringLiteral("no id: ") + action->text();
                if (action->text().isEmpty()) bad << QStringLiteral("no text: ") + action->objectName();
                ids << action->objectName();
            }
        }
        QVERIFY2(bad.isEmpty(), qPrintable(bad.join(QStringLiteral("; "))));
        for (const QString& id : shell.window.actionIds())
            QVERIFY2(ids.contains(id), qPrintable(id));
        QMap<QString, QString> shortcuts;
        for (const QString& id : shell.window.actionIds())
            for (const QKeySequence& keys : shell.window.action(id)->shortcuts()) {
                QVERIFY2(!shortcuts.contains(keys.toString()), qPrintable(keys.toString()));
                shortcuts.insert(keys.toString(), id);
            }
    }

    void actions_openNothingModal()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        QStringList ids = shell.window.actionIds();
        ids.sort();
        for (const QString& id : ids) {
            if (id == QStringLiteral("file.quit") || id == QStringLiteral("file.close")) continue;
            shell.window.action(id)->trigger();
            QCoreApplication::processEvents();
            QVERIFY2(!QApplication::activeModalWidget(), qPrintable(id));
            for (QFileDialog* dialog : shell.window.findChildren<QFileDialog*>())
                dialog->close();
        }
        shell.window.action(QStringLiteral("file.close"))->trigger();
    }
};

int main(int argc, char** argv) { return runShellTest<ShellWindowTest>(argc, argv); }

#include "test_shell_window.moc"
