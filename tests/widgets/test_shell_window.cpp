// Export dialog and actions.
#include "widgets/shell_fixture.h"

#include "experts/keep_box.h"
#include "layers/kept_curve.h"
#include "layers/layer_table.h"
#include "layers/layers_panel.h"
#include "look/format.h"
#include "perplexity/perplexity_panel.h"
#include "plan/cost_model.h"
#include "shell/window/export_dialog.h"

#include <QAccessible>
#include <QComboBox>
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
    // Alt and a letter must reach one entry, not the first of two.
    void menus_noMnemonicTwice()
    {
        Home home;
        Shell shell(home);
        std::vector<QMenu*> open;
        QStringList bar;
        const auto letterOf = [](const QString& text) {
            const auto at = text.indexOf(QLatin1Char('&'));
            return at < 0 ? QString() : text.mid(at + 1, 1).toLower();
        };
        for (QAction* entry : shell.window.menuBar()->actions()) {
            bar << letterOf(entry->text());
            open.push_back(entry->menu());
        }
        QCOMPARE(bar.removeDuplicates(), 0);
        QVERIFY(open.size() >= 5);
        for (std::size_t i = 0; i < open.size(); ++i) {
            QHash<QString, QString> seen;
            for (QAction* entry : open[i]->actions()) {
                if (entry->menu()) open.push_back(entry->menu());
                const QString letter = letterOf(entry->text());
                if (letter.isEmpty()) continue;
                QVERIFY2(!seen.contains(letter), qPrintable(seen.value(letter) + QStringLiteral(" and ") + entry->text()));
                seen[letter] = entry->text();
            }
        }
    }
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
        QTRY_VERIFY2_WITH_TIMEOUT(texts().contains(QStringLiteral("every check holds")), qPrintable(texts()), kLimit);
        // The number that the window shows, on the windows that it is of.
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        const QString shown = format::number(*shell.evaluation().perplexityOf(shell.hash(), false), 4);
        QVERIFY2(texts().contains(QStringLiteral("perplexity %1, in the window %1, on the same 16 windows").arg(shown)),
                 qPrintable(texts()));
        QVERIFY(texts().contains(home.path("smaller")));
        QVERIFY(texts().contains(QStringLiteral("every check holds")));
        QVERIFY(start->isEnabled());
        for (int layer = 1; layer < 4; ++layer)
            shell.plans().setKeep(layer, 5);
        QVERIFY(stock->isEnabled());
    }

    void export_thatMeasuresOtherwiseIsNotTrusted()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--wrong-export")});
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(0, 5);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        shell.window.action(QStringLiteral("file.export"))->trigger();
        ExportDialog* dialog = shell.window.exportDialog();
        dialog->findChild<QLineEdit*>(QStringLiteral("export.folder"))->setText(home.path("smaller"));
        dialog->findChild<QPushButton*>(QStringLiteral("export.start"))->click();
        QString all;
        const auto said = [&] {
            all.clear();
            for (const QLabel* label : dialog->findChildren<QLabel*>())
                all += label->text() + QLatin1Char('\n');
            return all.contains(QStringLiteral("do not use it"));
        };
        QTRY_VERIFY2_WITH_TIMEOUT(said(), qPrintable(all), kLimit);
        QVERIFY(!all.contains(QStringLiteral("every check holds")));
    }

    void export_equalisesCountsForStock()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(0, 5);
        shell.window.action(QStringLiteral("file.export"))->trigger();
        ExportDialog* dialog = shell.window.exportDialog();
        auto* equalise = dialog->findChild<QPushButton*>(QStringLiteral("export.equalise"));
        auto* stock = dialog->findChild<QRadioButton*>(QStringLiteral("export.stock"));
        QVERIFY(equalise && equalise->isVisible() && !stock->isEnabled());
        equalise->click();
        for (int layer = 0; layer < 4; ++layer)
            QCOMPARE(shell.plans().plan().layer(layer).kept().size(), std::size_t(7));
        QVERIFY(stock->isEnabled());
        QVERIFY(!equalise->isVisible());
        // What was reached, not what was asked for.
        QVERIFY2(QString::fromStdString(shell.plans().history().current().text).contains(QStringLiteral("87.5")),
                 shell.plans().history().current().text.c_str());
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
    // ---- mouse and keys

    void click_selectsAndOnlyADoubleClickEdits()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.window.resize(1600, 1000);
        QCoreApplication::processEvents();
        auto* canvas = shell.window.heatmap()->focusTarget();
        const QPoint at = shell.window.heatmap()->cellRect({2, 3}).center().toPoint();
        const auto kept = [&] { return shell.plans().plan().keeps(2, 3); };
        const std::string before = shell.hash();
        QTest::mouseClick(canvas, Qt::LeftButton, {}, at);
        QVERIFY((shell.window.selection()->current() == CellId{2, 3}));
        QCOMPARE(shell.hash(), before);
        const auto twice = [canvas](const QPoint& first, const QPoint& second, Qt::MouseButton button, Qt::KeyboardModifiers keys) {
            QTest::mouseClick(canvas, button, keys, first);
            QTest::mouseDClick(canvas, button, keys, second);
            QTest::mouseRelease(canvas, button, keys, second);
        };
        twice(at, at, Qt::LeftButton, {});
        QVERIFY(!kept());
        twice(at, at, Qt::LeftButton, {});
        QVERIFY(kept());
        // On two cells it is two clicks.
        twice(shell.window.heatmap()->cellRect({2, 2}).center().toPoint(), at, Qt::LeftButton, {});
        twice(at, at, Qt::LeftButton, Qt::ControlModifier);
        QCOMPARE(shell.hash(), before);
        // A drag selects and changes nothing; Ctrl selects.
        const QPoint from = shell.window.heatmap()->cellRect({1, 1}).center().toPoint();
        QTest::mousePress(canvas, Qt::LeftButton, {}, from);
        QTest::mouseMove(canvas, at);
        QTest::mouseRelease(canvas, Qt::LeftButton, {}, at);
        QCOMPARE(shell.hash(), before);
    }

    // Wherever it lands, beside the labels and on the place of the lock too.
    void click_anywhereInTheMapLeavesAFieldAndEditsNothing()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.window.resize(1600, 1000);
        QCoreApplication::processEvents();
        auto* canvas = shell.window.heatmap()->focusTarget();
        auto* box = shell.window.findChild<KeepBox*>();
        const std::size_t entries = shell.plans().history().entries().size();
        for (int y = 4; y < canvas->height(); y += 23)
            for (int x = 4; x < canvas->width(); x += 61) {
                box->setFocus();
                QTest::mouseClick(canvas, Qt::LeftButton, {}, QPoint(x, y));
            }
        QCOMPARE(shell.plans().history().entries().size(), entries);
        QVERIFY(shell.plans().plan().isIdentity(shell.plans().shape()));
        // Twice on the lock's place is meant.
        const QPoint lock(pixelsOf(8), shell.window.heatmap()->cellRect({1, 0}).center().toPoint().y());
        QTest::mouseDClick(canvas, Qt::LeftButton, {}, lock);
        QVERIFY(shell.plans().plan().isLocked(1));
    }

    // A hand that trembles while it clicks.
    void click_thatMovesAPixelEditsNothing()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--large")});
        OPEN_AND_SETTLE(shell);
        shell.window.resize(1600, 1000);
        QCoreApplication::processEvents();
        auto* layers = shell.window.findChild<LayersPanel*>();
        const std::string before = shell.hash();
        const auto tremble = [](QWidget* on, const QPoint& at) {
            QTest::mousePress(on, Qt::LeftButton, {}, at);
            QTest::mouseMove(on, at + QPoint(2, 2));
            QTest::mouseRelease(on, Qt::LeftButton, {}, at + QPoint(2, 2));
        };
        tremble(layers->curve()->focusTarget(), layers->curve()->pointPosition(3).toPoint());
        const QRect bar = layers->table()->visualRect(layers->table()->model()->index(4, LayerModel::Bar));
        tremble(layers->table()->viewport(), bar.center());
        QCOMPARE(shell.hash(), before);
        QTest::mousePress(layers->table()->viewport(), Qt::LeftButton, {}, bar.center());
        QTest::mouseMove(layers->table()->viewport(), bar.center() - QPoint(20, 0));
        QTest::mouseRelease(layers->table()->viewport(), Qt::LeftButton, {}, bar.center() - QPoint(20, 0));
        QVERIFY(shell.hash() != before);
    }

    void wheel_overAChooserEditsNothing()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(0, 5);
        const std::string before = shell.hash();
        for (QComboBox* box : shell.window.findChild<BudgetBar*>()->findChildren<QComboBox*>()) {
            shell.window.heatmap()->focusTarget()->setFocus();
            QWheelEvent wheel(QPointF(5, 5), box->mapToGlobal(QPointF(5, 5)), {}, QPoint(0, -120), Qt::NoButton, Qt::NoModifier,
                              Qt::NoScrollPhase, false);
            QApplication::sendEvent(box, &wheel);
        }
        QCOMPARE(shell.hash(), before);
    }

    // ---- views do not steer

    void map_metricDoesNotSteerThePlan()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        QCOMPARE(shell.workbench.ranking(), std::string("leave-one-out"));
        shell.plans().setKeep(0, 3);
        const std::string byDefault = shell.hash();
        shell.plans().undo();
        HeatmapOptions options = shell.window.heatmap()->options();
        options.score = QStringLiteral("expert_frequency");
        shell.window.heatmap()->setOptions(options);
        emit shell.window.heatmap()->optionsChanged(options);
        QCOMPARE(shell.workbench.chosenScore(), std::string("expert_frequency"));
        QCOMPARE(shell.workbench.ranking(), std::string("leave-one-out"));
        shell.plans().setKeep(0, 3);
        QCOMPARE(shell.hash(), byDefault);
        // Chosen beside the target it says so in the history, and stays with the session's view.
        emit shell.window.findChild<BudgetBar*>()->rankingChosen(QStringLiteral("reap"));
        AllocationIntent intent;
        intent.keepTotal = 20;
        intent.method = "uniform";
        shell.plans().allocateTo(intent);
        QVERIFY(shell.plans().history().current().text.ends_with("by reap"));
        QCOMPARE(shell.workbench.viewState()["budget"]["ranking"].get<std::string>(), std::string("reap"));
    }

    void locks_areNamedAndOfferedToBeUnlocked()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        auto* budget = shell.window.findChild<BudgetBar*>();
        auto* unlock = budget->findChild<QPushButton*>(QStringLiteral("budget.unlock"));
        QVERIFY(unlock && !unlock->isVisible());
        shell.plans().toggleLocked(1);
        // 4 layers of 8, the router picks 2: 9 are too few while layer 1 is locked at 8.
        auto* field = budget->findChild<QLineEdit*>();
        field->setFocus();
        field->selectAll();
        QTest::keyClicks(field, QStringLiteral("9"));
        QTest::keyClick(field, Qt::Key_Return);
        QCOMPARE(shell.plans().plan().keptExperts(), 14);
        QCOMPARE(field->text(), QStringLiteral("14"));
        const auto told = [budget] {
            QString all;
            for (const QLabel* label : budget->findChildren<QLabel*>())
                if (label->isVisible()) all += label->text() + QLatin1Char('\n');
            return all;
        };
        QVERIFY2(told().contains(QStringLiteral("9 asked, 14 taken: layer 1 is locked at 8")), qPrintable(told()));
        QVERIFY(unlock->isVisible());
        QCOMPARE(unlock->text(), QStringLiteral("Unlock layer 1"));
        const std::size_t entries = shell.plans().history().entries().size();
        unlock->click();
        QCOMPARE(shell.plans().plan().keptExperts(), 9);
        QVERIFY(!shell.plans().plan().isLocked(1));
        QCOMPARE(shell.plans().history().entries().size(), entries + 1);
        QVERIFY(!unlock->isVisible());
        QVERIFY2(!told().contains(QStringLiteral("asked")), qPrintable(told()));
        // More than there are says so too.
        field->setFocus();
        field->selectAll();
        QTest::keyClicks(field, QStringLiteral("500"));
        QTest::keyClick(field, Qt::Key_Return);
        QCOMPARE(shell.plans().plan().keptExperts(), 32);
        QVERIFY2(told().contains(QStringLiteral("500 asked, 32 taken: the model has 32")), qPrintable(told()));
    }

    void locks_inTheWayOfEqualCountsAreUnlockedFromTheDialog()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(0, 5);
        shell.plans().setKeep(3, 6);
        shell.plans().toggleLocked(0);
        shell.plans().toggleLocked(3);
        const std::string before = shell.hash();
        shell.window.action(QStringLiteral("file.export"))->trigger();
        ExportDialog* dialog = shell.window.exportDialog();
        auto* unlock = dialog->findChild<QPushButton*>(QStringLiteral("export.unlock"));
        const int height = dialog->height();
        dialog->findChild<QPushButton*>(QStringLiteral("export.equalise"))->click();
        QCOMPARE(shell.hash(), before);
        QString all;
        for (const QLabel* label : dialog->findChildren<QLabel*>())
            all += label->text() + QLatin1Char('\n');
        QVERIFY2(all.contains(QStringLiteral("One count for all layers is not possible: layer 0 is locked at 5.")), qPrintable(all));
        QVERIFY(unlock->isVisible());
        unlock->click();
        for (int layer = 0; layer < 4; ++layer)
            QCOMPARE(shell.plans().plan().layer(layer).kept().size(), std::size_t(6));
        QVERIFY(!unlock->isVisible());
        QVERIFY(dialog->findChild<QRadioButton*>(QStringLiteral("export.stock"))->isEnabled());
        QCOMPARE(dialog->height(), height);
    }

    void refusals_goWithTheirCause()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        auto* budget = shell.window.findChild<BudgetBar*>();
        auto* field = budget->findChild<QLineEdit*>();
        const auto red = [budget] {
            for (const QLabel* label : budget->findChildren<QLabel*>())
                if (label->isVisible() && label->property("role") == QStringLiteral("error")) return true;
            return false;
        };
        field->setFocus();
        field->selectAll();
        QTest::keyClicks(field, QStringLiteral("rubbish"));
        QTest::keyClick(field, Qt::Key_Return);
        QVERIFY(red() && field->property("invalid").toBool());
        QTest::keyClick(field, Qt::Key_Escape);
        QVERIFY(!red() && !field->property("invalid").toBool());
        QCOMPARE(field->text(), QStringLiteral("32"));
        // Below what the router needs, by hand; then any edit.
        for (const int edit : {0, 1, 2}) {
            while (shell.plans().canUndo())
                shell.plans().undo();
            shell.plans().setKeep(0, 2);
            shell.plans().setKept({{0, shell.plans().plan().layer(0).kept().front()}}, false);
            QVERIFY(red());
            if (edit == 0) shell.plans().toggleLocked(2);
            if (edit == 1) shell.plans().toggleProtected(1, 1);
            if (edit == 2) shell.plans().replacePlan(CompressionPlan::identity(shell.plans().shape()), QStringLiteral("all"));
            QVERIFY2(!red(), qPrintable(QString::number(edit)));
        }
    }

    void profile_thatIsCompleteIsMeasuredAgainOnlyOnRequest()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        QCOMPARE(home.logLines(QStringLiteral("profile")).size(), 1);
        shell.window.action(QStringLiteral("evaluate.profile"))->trigger();
        QVERIFY2(shell.banners().contains(QStringLiteral("profile is complete")), qPrintable(shell.banners()));
        QVERIFY(!shell.workbench.profiling());
        QPushButton* again = shell.bannerButton(QStringLiteral("Measure again"));
        QVERIFY(again);
        again->click();
        QVERIFY(shell.workbench.profiling());
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled() && !shell.workbench.profiling(), kLimit);
        QCOMPARE(home.logLines(QStringLiteral("profile")).size(), 2);
        QCOMPARE(shell.window.banners()->count(), 0);
    }

    // ---- the keyboard stays where it is

    void export_keepsTheKeyboardAndItsHeight()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(0, 5);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        shell.window.action(QStringLiteral("file.export"))->trigger();
        ExportDialog* dialog = shell.window.exportDialog();
        QVERIFY(QTest::qWaitForWindowActive(dialog));
        const int height = dialog->height();
        const auto inside = [dialog] {
            const QWidget* focus = dialog->focusWidget();
            return focus && focus->isEnabled() && focus->isVisible();
        };
        QTRY_VERIFY_WITH_TIMEOUT(inside(), kLimit);
        auto* equalise = dialog->findChild<QPushButton*>(QStringLiteral("export.equalise"));
        equalise->setFocus();
        QTest::keyClick(equalise, Qt::Key_Space);
        QVERIFY(!equalise->isVisible() && inside());
        QCOMPARE(dialog->height(), height);
        const std::string edited = shell.hash();
        dialog->findChild<QLineEdit*>(QStringLiteral("export.folder"))->setText(home.path("smaller"));
        auto* start = dialog->findChild<QPushButton*>(QStringLiteral("export.start"));
        start->setFocus();
        QTest::keyClick(start, Qt::Key_Return);
        QVERIFY(!start->isEnabled() && inside());
        QTRY_VERIFY_WITH_TIMEOUT(start->isEnabled(), kLimit);
        QVERIFY(inside());
        QCOMPARE(dialog->height(), height);
        for (int i = 0; i < 12; ++i) {
            QTest::keyClick(dialog->focusWidget(), Qt::Key_Tab);
            QVERIFY(inside());
        }
        QCOMPARE(shell.hash(), edited);
        // Asked for again while it is open it comes to the front, and the keys with it.
        shell.window.activateWindow();
        QVERIFY(QTest::qWaitForWindowActive(&shell.window));
        shell.window.action(QStringLiteral("file.export"))->trigger();
        QVERIFY(QTest::qWaitForWindowActive(dialog));
        QVERIFY(inside());
    }

    void space_heldDownEditsOnce()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.window.selection()->setCurrent({2, 3});
        QWidget* canvas = shell.window.heatmap()->focusTarget();
        QTest::keyClick(canvas, Qt::Key_Space);
        for (int i = 0; i < 5; ++i) {
            QKeyEvent repeated(QEvent::KeyPress, Qt::Key_Space, Qt::NoModifier, QStringLiteral(" "), true);
            QApplication::sendEvent(canvas, &repeated);
        }
        QVERIFY(!shell.plans().plan().keeps(2, 3));
        QCOMPARE(shell.plans().history().entries().size(), std::size_t(2));
    }

    void redo_isNotForTextFields()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.window.activateWindow();
        QVERIFY(QTest::qWaitForWindowActive(&shell.window));
        shell.plans().setKeep(0, 5);
        shell.plans().undo();
        const std::string before = shell.hash();
        auto* field = shell.window.findChild<BudgetBar*>()->findChild<QLineEdit*>();
        field->setFocus();
        QTest::keyClick(field, Qt::Key_Y, Qt::ControlModifier);
        QTest::keyClick(field, Qt::Key_Z, Qt::ControlModifier);
        QCOMPARE(shell.hash(), before);
        shell.window.heatmap()->focusTarget()->setFocus();
        QTest::keyClick(shell.window.heatmap()->focusTarget(), Qt::Key_Y, Qt::ControlModifier);
        QVERIFY(shell.hash() != before);
    }

    // ---- small screens, every view

    void window_fitsASmallScreen()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        QVERIFY(shell.window.minimumWidth() <= 1000 && shell.window.minimumHeight() <= 600);
        shell.window.resize(1016, 600);  // of 1024 x 640, beside a frame
        QCoreApplication::processEvents();
        QCOMPARE(shell.window.size(), QSize(1016, 600));
        const auto* docks = shell.window.findChild<QMainWindow*>();
        for (const bool ranks : {false, true}) {
            shell.window.action(QStringLiteral("view.ranks"))->setChecked(ranks);
            if (ranks) shell.window.action(QStringLiteral("view.ranks"))->trigger();
            QCoreApplication::processEvents();
            QVERIFY2(docks->minimumSizeHint().width() <= docks->width(), qPrintable(QString::number(docks->minimumSizeHint().width())));
            QVERIFY2(docks->minimumSizeHint().height() <= docks->height(), qPrintable(QString::number(docks->minimumSizeHint().height())));
        }
    }

    void perplexity_isInSightInEveryView()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        auto* panel = shell.window.findChild<PerplexityPanel*>();
        for (const QSize size : {QSize(1600, 1000), QSize(1016, 600)}) {
            shell.window.resize(size);
            for (const char* id : {"view.ranks", "view.table", "view.ranks", "view.table"}) {
                shell.window.action(QString::fromLatin1(id))->trigger();
                QCoreApplication::processEvents();
                QVERIFY2(panel->isVisible(), id);
                QRect inWindow(panel->mapTo(&shell.window, QPoint()), panel->size());
                QVERIFY2(shell.window.rect().contains(inWindow) && inWindow.width() >= panel->minimumSizeHint().width(), id);
            }
        }
    }

    void numbers_areTakenAsPeopleWriteThem()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.window.selection()->setCurrent({2, 3});
        auto* box = shell.window.findChild<KeepBox*>();
        QVERIFY(box && box->isEnabled());
        const auto kept = [&] { return static_cast<int>(shell.plans().plan().layer(2).kept().size()); };
        const auto type = [&](const char* text) {
            box->setFocus();
            box->selectAll();
            QTest::keyClicks(box, QString::fromLatin1(text));
            QTest::keyClick(box, Qt::Key_Return);
        };
        type("75%");
        QCOMPARE(kept(), 6);
        type("0.5");
        QCOMPARE(kept(), 4);
        type("7/8");
        QCOMPARE(kept(), 7);
        QSignalSpy said(&shell.plans(), &PlanController::explained);
        type("1");
        QCOMPARE(kept(), 2);
        QCOMPARE(box->value(), 2);
        QVERIFY2(said.last().at(0).toString().contains(QStringLiteral("the router picks 2")), qPrintable(said.last().at(0).toString()));
        type("rubbish");
        QCOMPARE(kept(), 2);
        QCOMPARE(box->value(), 2);
        QCOMPARE(shell.plans().history().entries().size(), std::size_t(5));
    }

    void tab_followsTheEye()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.window.activateWindow();
        QVERIFY(QTest::qWaitForWindowActive(&shell.window));
        QCOMPARE(QApplication::focusWidget(), shell.window.heatmap()->focusTarget());
        const auto place = [&](const QWidget* widget) {
            for (const QWidget* w = widget; w; w = w->parentWidget()) {
                const QString name = w->objectName();
                if (name == QStringLiteral("toolbar")) return 0;
                if (name == QStringLiteral("layers")) return 1;
                if (w == shell.window.heatmap()) return 3;
                if (w == shell.window.heatmap()->choosers()) return 2;
                if (name == QStringLiteral("perplexity")) return 4;
                if (name == QStringLiteral("inspector")) return 5;
                if (name == QStringLiteral("history")) return 6;
            }
            return -1;
        };
        QList<int> places;
        QSet<QWidget*> seen;
        for (QWidget* widget = QApplication::focusWidget(); widget && !seen.contains(widget); widget = QApplication::focusWidget()) {
            seen << widget;
            QVERIFY2(!widget->accessibleName().isEmpty() || widget->metaObject()->indexOfProperty("text") >= 0,
                     widget->metaObject()->className());
            if (const int p = place(widget); p >= 0 && (places.isEmpty() || places.last() != p)) places << p;
            QTest::keyClick(widget, Qt::Key_Tab);
        }
        // Once around, from the map on.
        QCOMPARE(places, (QList<int>{3, 4, 5, 6, 0, 1, 2}));

        QList<int> panels;
        for (int i = 0; i < 5; ++i) {
            QTest::keyClick(&shell.window, Qt::Key_F6);
            panels << place(QApplication::focusWidget());
        }
        std::sort(panels.begin(), panels.end());
        QCOMPARE(panels, (QList<int>{1, 3, 4, 5, 6}));
        shell.window.heatmap()->focusTarget()->setFocus();
        QTest::keyClick(&shell.window, Qt::Key_F6, Qt::ShiftModifier);
        QCOMPARE(place(QApplication::focusWidget()), 1);
    }

    // ---- assistive technology

    void accessible_mapAndCurveAreTables()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        QAccessibleInterface* map = QAccessible::queryAccessibleInterface(shell.window.heatmap()->focusTarget());
        QVERIFY(map && map->tableInterface());
        QCOMPARE(map->role(), QAccessible::Table);
        QCOMPARE(map->text(QAccessible::Name), QStringLiteral("Importance of experts, layers by experts"));
        QCOMPARE(map->tableInterface()->rowCount(), 4);
        QCOMPARE(map->tableInterface()->columnCount(), 8);
        QCOMPARE(map->childCount(), 32);
        QCOMPARE(map->tableInterface()->rowDescription(2), QStringLiteral("Layer 2"));
        QAccessibleInterface* cell = map->tableInterface()->cellAt(2, 3);
        QVERIFY(cell && cell->tableCellInterface());
        QCOMPARE(cell->tableCellInterface()->rowIndex(), 2);
        QCOMPARE(cell->tableCellInterface()->columnIndex(), 3);
        QCOMPARE(map->child(2 * 8 + 3), cell);
        QCOMPARE(map->indexOfChild(cell), 2 * 8 + 3);
        QCOMPARE(cell->parent(), map);
        QCOMPARE(cell->text(QAccessible::Name), QStringLiteral("Layer 2 · expert 3"));
        QVERIFY2(cell->text(QAccessible::Value).contains(QStringLiteral("kept")), qPrintable(cell->text(QAccessible::Value)));
        QVERIFY(!cell->rect().isEmpty());
        QCOMPARE(map->childAt(cell->rect().center().x(), cell->rect().center().y()), cell);
        shell.plans().toggleExpert(2, 3);
        shell.plans().toggleProtected(2, 4);
        QVERIFY2(cell->text(QAccessible::Value).contains(QStringLiteral("dropped")), qPrintable(cell->text(QAccessible::Value)));
        QVERIFY(map->tableInterface()->cellAt(2, 4)->text(QAccessible::Value).contains(QStringLiteral("protected")));
        shell.window.selection()->select({{2, 3}, {2, 4}});
        QCOMPARE(map->tableInterface()->selectedCellCount(), 2);
        QVERIFY(cell->state().selected);

        QAccessibleInterface* curve = QAccessible::queryAccessibleInterface(shell.window.findChild<LayersPanel*>()->curve()->focusTarget());
        QVERIFY(curve && curve->tableInterface());
        QCOMPARE(curve->tableInterface()->rowCount(), 4);
        shell.plans().toggleLocked(2);
        QCOMPARE(curve->tableInterface()->cellAt(2, 0)->text(QAccessible::Value), QStringLiteral("7 of 8, locked"));
        QVERIFY(curve->tableInterface()->selectRow(1));
        QCOMPARE(shell.window.selection()->currentLayer(), 1);
        QVERIFY(!map->tableInterface()->cellAt(4, 0));
        QVERIFY(!map->tableInterface()->cellAt(0, 8));
    }

    void accessible_theFocusedCellIsAnnounced()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.window.activateWindow();
        QVERIFY(QTest::qWaitForWindowActive(&shell.window));
        QWidget* canvas = shell.window.heatmap()->focusTarget();
        canvas->setFocus();
        shell.window.selection()->setCurrent({1, 1});
        static QStringList told;
        told.clear();
        static QWidget* of = nullptr;
        of = canvas;
        QAccessible::installUpdateHandler([](QAccessibleEvent* event) {
            if (event->object() != of || event->child() < 0) return;
            QAccessibleInterface* cell = QAccessible::queryAccessibleInterface(of)->child(event->child());
            told << QStringLiteral("%1 %2").arg(event->type() == QAccessible::Focus ? QStringLiteral("focus") : QStringLiteral("says"),
                                                cell->text(QAccessible::Name));
        });
        const auto focused = [&] {
            const QAccessibleInterface* cell = QAccessible::queryAccessibleInterface(canvas)->focusChild();
            return cell && cell->state().focused ? cell->text(QAccessible::Name) : QString();
        };
        QCOMPARE(focused(), QStringLiteral("Layer 1 · expert 1"));
        QTest::keyClick(canvas, Qt::Key_Right);
        QCOMPARE(focused(), QStringLiteral("Layer 1 · expert 2"));
        QTest::keyClick(canvas, Qt::Key_Down);
        QCOMPARE(focused(), QStringLiteral("Layer 2 · expert 2"));
        QTest::keyClick(canvas, Qt::Key_Space);
        QAccessible::installUpdateHandler(nullptr);
        // Qt sends events only where something listens, which there is none of on the offscreen platform.
        if (!QAccessible::isActive()) return;
        QCOMPARE(told, (QStringList{QStringLiteral("focus Layer 1 · expert 2"), QStringLiteral("focus Layer 2 · expert 2"),
                                    QStringLiteral("says Layer 2 · expert 2")}));
    }

    // No control without a name.
    void accessible_everyControlHasAName()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.window.action(QStringLiteral("file.export"))->trigger();
        QStringList unnamed;
        for (QWidget* top : {static_cast<QWidget*>(&shell.window), static_cast<QWidget*>(shell.window.exportDialog())})
            for (QWidget* widget : top->findChildren<QWidget*>()) {
                if (!(widget->focusPolicy() & Qt::TabFocus) || widget->focusProxy() || !widget->isVisible()) continue;
                QAccessibleInterface* item = QAccessible::queryAccessibleInterface(widget);
                if (!item || item->text(QAccessible::Name).isEmpty())
                    unnamed << QString::fromLatin1(widget->metaObject()->className()) + QLatin1Char(' ') + widget->objectName();
            }
        QVERIFY2(unnamed.isEmpty(), qPrintable(unnamed.join(QStringLiteral(", "))));
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
