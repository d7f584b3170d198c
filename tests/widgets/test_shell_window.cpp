// Export dialog and actions.
#include "widgets/shell_fixture.h"

#include "format.h"
#include "keep_box.h"
#include "kept_curve.h"
#include "layers_panel.h"
#include "plan/cost_model.h"
#include "shell/export_dialog.h"

#include <QAccessible>
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
            QCOMPARE(shell.plans().plan().layer(layer).kept.size(), std::size_t(7));
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

    void click_togglesTheCell()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.window.resize(1600, 1000);
        QCoreApplication::processEvents();
        auto* canvas = shell.window.heatmap()->focusTarget();
        const QPoint at = shell.window.heatmap()->cellRect({2, 3}).center().toPoint();
        const auto kept = [&] { return shell.plans().plan().keeps(2, 3); };
        QTest::mouseClick(canvas, Qt::LeftButton, {}, at);
        QVERIFY((shell.window.selection()->current() == CellId{2, 3}));
        QVERIFY(!kept());
        QTest::mouseClick(canvas, Qt::LeftButton, {}, at);
        QVERIFY(kept());
        // Two quick clicks are two clicks.
        QTest::mouseClick(canvas, Qt::LeftButton, {}, at);
        QTest::mouseDClick(canvas, Qt::LeftButton, {}, at);
        QTest::mouseRelease(canvas, Qt::LeftButton, {}, at);
        QVERIFY(kept());
        // A drag selects and changes nothing; Ctrl selects.
        const std::string before = shell.hash();
        const QPoint from = shell.window.heatmap()->cellRect({1, 1}).center().toPoint();
        QTest::mousePress(canvas, Qt::LeftButton, {}, from);
        QTest::mouseMove(canvas, at);
        QTest::mouseRelease(canvas, Qt::LeftButton, {}, at);
        QTest::mouseClick(canvas, Qt::LeftButton, Qt::ControlModifier, at);
        QTest::mouseClick(canvas, Qt::LeftButton, Qt::ControlModifier, at);
        QCOMPARE(shell.hash(), before);
    }

    void numbers_areTakenAsPeopleWriteThem()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.window.selection()->setCurrent({2, 3});
        auto* box = shell.window.findChild<KeepBox*>();
        QVERIFY(box && box->isEnabled());
        const auto kept = [&] { return static_cast<int>(shell.plans().plan().layer(2).kept.size()); };
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
