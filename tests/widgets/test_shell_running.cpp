// A search while it runs: what of it stands in the history and in the map, and that nothing of it stays behind.
#include "look/panel.h"
#include "perplexity/history_panel.h"
#include "widgets/planner_fixture.h"

#include <qcustomplot.h>

using namespace espalier;
using namespace espalier::test;

namespace
{

QStringList rowsOf(Shell& shell)
{
    const QAbstractItemModel* model = shell.window.findChild<HistoryPanel*>()->model();
    QStringList rows;
    for (int row = 0; row < model->rowCount(); ++row) {
        const QModelIndex index = model->index(row, 0);
        QString text = index.data().toString();
        if (index.data(HistoryModel::RunningRole).toBool())
            text += QStringLiteral(" | ") + index.data(HistoryModel::ProgressRole).toString();
        rows << text;
    }
    return rows;
}

const QString kRunning = QStringLiteral("Genetic search, blocks of 3 layers, ranks (running) | 1 of 4");

// Left of the map, beside a row.
QColor besideRow(Shell& shell, int row)
{
    QCustomPlot* plot = shell.window.heatmap()->plot();
    plot->replot(QCustomPlot::rpImmediateRefresh);
    const QRectF cell = shell.window.heatmap()->cellRect({row, 0});
    return plot->grab().toImage().pixelColor(2, static_cast<int>(cell.top()) + 2);
}

}  // namespace

class ShellRunningTest final : public ShellTestBase
{
    Q_OBJECT

private slots:
    void history_holdsTheSearchUntilItsEntryIsThere()
    {
        Home home;
        Shell shell(home, hold());
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        const QString root = rowsOf(shell).value(0);
        QCOMPARE(rowsOf(shell), QStringList{root});
        planner.run();
        QTRY_COMPARE_WITH_TIMEOUT(rowsOf(shell), (QStringList{kRunning, root}), kLimit);
        // It is in no history yet: the current entry is what it was, and what is edited meanwhile stands beside it.
        const auto* model = qobject_cast<HistoryModel*>(shell.window.findChild<HistoryPanel*>()->model());
        QCOMPARE(model->currentRow(), 1);
        QVERIFY(!model->index(1, 0).data(HistoryModel::RailAboveRole).toBool());
        QVERIFY(!model->index(0, 0).data(HistoryModel::LossRole).isValid());
        shell.plans().setKeep(2, 5);
        QCOMPARE(rowsOf(shell).size(), 3);
        QCOMPARE(rowsOf(shell)[1], kRunning);
        shell.plans().undo();
        planner.click("search.stop");
        QTRY_VERIFY_WITH_TIMEOUT(!planner.planning().running(), kLimit);
        QVERIFY2(!rowsOf(shell).join(QLatin1Char('\n')).contains(QStringLiteral("(running)")),
                 qPrintable(rowsOf(shell).join(QLatin1Char('\n'))));
        QCOMPARE(static_cast<std::size_t>(rowsOf(shell).size()), planner.entries());
        QCOMPARE(planner.current(), QStringLiteral("Genetic search, stopped after 1 of 4 layers"));
    }

    void history_ofACancelledSearchNothingStays()
    {
        Home home;
        Shell shell(home, hold());
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        const QStringList before = rowsOf(shell);
        planner.run();
        QTRY_COMPARE_WITH_TIMEOUT(rowsOf(shell), (QStringList{kRunning, before.value(0)}), kLimit);
        shell.workbench.cancelJob();
        QVERIFY2(rowsOf(shell).value(0).contains(QStringLiteral("(stopping)")), qPrintable(rowsOf(shell).value(0)));
        QTRY_COMPARE_WITH_TIMEOUT(rowsOf(shell), before, kLimit);
        QCOMPARE(planner.entries(), std::size_t(1));
    }

    void history_theRunningRowLeadsToTheSearchAndIsNoWayBack()
    {
        Home home;
        Shell shell(home, hold());
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        planner.run();
        QTRY_VERIFY_WITH_TIMEOUT(planner.held() && rowsOf(shell).size() == 2, kLimit);
        auto* bottom = shell.window.findChild<Panel*>(QStringLiteral("perplexity"));
        bottom->setCurrentPage(0);
        auto* history = shell.window.findChild<HistoryPanel*>();
        const int before = shell.plans().history().currentId();
        QTest::mouseClick(history->viewport(), Qt::LeftButton, {}, history->visualRect(history->model()->index(0, 0)).center());
        QCOMPARE(bottom->currentPage(), &planner.search());
        QCOMPARE(shell.plans().history().currentId(), before);
    }

    void map_marksTheLayerBeingSearched()
    {
        Home home;
        Shell shell(home, hold());
        OPEN_AND_SETTLE(shell);
        Planner planner(shell);
        HeatmapView* map = shell.window.heatmap();
        const QColor plain = besideRow(shell, 1);
        QVERIFY(!map->legend().contains(QStringLiteral("being searched")));
        planner.run();
        QTRY_VERIFY_WITH_TIMEOUT(planner.held() && map->facts({1, 0})->searching, kLimit);
        QVERIFY(!map->facts({0, 0})->searching);
        QVERIFY(map->legend().contains(QStringLiteral("being searched")));
        QVERIFY2(map->factsText({1, 3}).contains(QStringLiteral("layer being searched")), qPrintable(map->factsText({1, 3})));
        QCOMPARE(besideRow(shell, 1), theme().selection);
        QCOMPARE(besideRow(shell, 0), plain);
        shell.workbench.cancelJob();
        QTRY_VERIFY_WITH_TIMEOUT(!planner.planning().running(), kLimit);
        QVERIFY(!map->facts({1, 0})->searching);
        QCOMPARE(besideRow(shell, 1), plain);
    }
};

int main(int argc, char** argv) { return runShellTest<ShellRunningTest>(argc, argv); }
#include "test_shell_running.moc"
