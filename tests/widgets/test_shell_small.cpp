// A small screen: at 1024 x 640 every text of every view and dialog can be read. Nothing is narrower than its words, nothing lies outside.
#include "look/fold_row.h"
#include "look/panel.h"
#include "shell/session/texts_dialog.h"
#include "shell/window/export_dialog.h"
#include "widgets/shell_fixture.h"

#include <QComboBox>
#include <QLabel>
#include <QLineEdit>
#include <QScrollArea>
#include <QScrollBar>
#include <QToolButton>

#include <algorithm>

using namespace espalier;
using namespace espalier::test;

namespace
{

constexpr QSize kScreen(1024, 640);

// What a widget says, as far as it is one that says something.
QString wordsOf(const QWidget* widget)
{
    if (const auto* label = qobject_cast<const QLabel*>(widget)) return label->pixmap().isNull() ? label->text() : QString();
    if (const auto* box = qobject_cast<const QComboBox*>(widget)) return box->currentText();
    if (const auto* button = qobject_cast<const QAbstractButton*>(widget)) {
        const auto* tool = qobject_cast<const QToolButton*>(widget);
        return tool && tool->toolButtonStyle() == Qt::ToolButtonIconOnly && !tool->icon().isNull() ? QString() : button->text();
    }
    return {};
}

// Why its words cannot be read; empty: they can.
QString whyCut(const QWidget* widget)
{
    if (const auto* label = qobject_cast<const QLabel*>(widget)) {
        if (label->wordWrap()) {
            QSize need(0, label->heightForWidth(label->width()));
            for (const QString& word : label->text().split(QLatin1Char(' ')))
                need.setWidth(std::max(need.width(), label->fontMetrics().horizontalAdvance(word)));
            if (label->width() >= need.width() && label->height() >= need.height()) return {};
            return QStringLiteral("needs %1 x %2, has %3 x %4")
                .arg(need.width())
                .arg(need.height())
                .arg(label->width())
                .arg(label->height());
        }
        const int need = label->sizeHint().width();
        return label->width() < need ? QStringLiteral("needs %1, has %2").arg(need).arg(label->width()) : QString();
    }
    const int need = qobject_cast<const QComboBox*>(widget) ? readableWidth(widget) : widget->minimumSizeHint().width();
    return widget->width() < need ? QStringLiteral("needs %1, has %2").arg(need).arg(widget->width()) : QString();
}

// Whether something between a widget and its window leaves it no place. What scrolls gives all of its content a place, in the ways in which
// it has a bar.
QString whyOutside(const QWidget* widget)
{
    QRect place = widget->rect();
    for (const QWidget* at = widget; !at->isWindow(); at = at->parentWidget()) {
        const QWidget* parent = at->parentWidget();
        place.translate(at->pos());
        if (const auto* area = qobject_cast<const QScrollArea*>(parent->parentWidget()); area && area->viewport() == parent) {
            if (area->horizontalScrollBar()->maximum() > 0 && area->horizontalScrollBarPolicy() == Qt::ScrollBarAlwaysOff)
                return QStringLiteral("lies beyond the right edge of what scrolls");
            return {};
        }
        if (!parent->rect().contains(place))
            return QStringLiteral("lies outside of its %1").arg(QLatin1String(parent->metaObject()->className()));
    }
    return {};
}

QStringList cutIn(const QWidget* top)
{
    QStringList cut;
    for (const QWidget* widget : top->findChildren<QWidget*>()) {
        if (!widget->isVisible() || widget->window() != top || wordsOf(widget).isEmpty()) continue;
        QString why = whyCut(widget);
        if (why.isEmpty()) why = whyOutside(widget);
        if (!why.isEmpty())
            cut << QStringLiteral("%1 \"%2\" %3").arg(QLatin1String(widget->metaObject()->className()), wordsOf(widget), why);
    }
    return cut;
}

// Once it has settled: what is laid out asks for further layouts.
#define NOTHING_IS_CUT(top, where)                  \
    QTRY_VERIFY2_WITH_TIMEOUT(cutIn(top).isEmpty(), \
                              qPrintable(QString::fromUtf8(where) + QStringLiteral(": ") + cutIn(top).join(QStringLiteral("\n"))), 5000)

}  // namespace

class ShellSmallTest final : public ShellTestBase
{
    Q_OBJECT

private slots:
    void nothingIsCut_data()
    {
        QTest::addColumn<bool>("edited");
        QTest::newRow("dense") << false;
        QTest::newRow("edited") << true;
    }

    void nothingIsCut()
    {
        QFETCH(bool, edited);
        Home home;
        Shell shell(home);
        shell.window.resize(kScreen);
        NOTHING_IS_CUT(&shell.window, "start page");
        OPEN_AND_SETTLE(shell);
        if (edited) {
            shell.plans().setKeep(1, 5);
            shell.plans().setExpertRank(2, 3, 20);
            shell.plans().toggleLocked(0);
            QTRY_VERIFY_WITH_TIMEOUT(shell.measured() == kQuick, kLimit);
        }
        shell.window.selection()->setCurrent({2, 3});
        QCOMPARE(shell.window.size(), kScreen);
        NOTHING_IS_CUT(&shell.window, "map");
        shell.window.action(QStringLiteral("view.table"))->trigger();
        NOTHING_IS_CUT(&shell.window, "table");
        shell.window.action(QStringLiteral("view.table"))->trigger();
        shell.window.action(QStringLiteral("view.ranks"))->trigger();
        NOTHING_IS_CUT(&shell.window, "ranks");
        shell.window.action(QStringLiteral("view.ranks"))->trigger();
        shell.window.action(QStringLiteral("plan.pipeline"))->trigger();
        NOTHING_IS_CUT(&shell.window, "pipeline");
    }

    void nothingIsCutWhileSearching()
    {
        Home home;
        Shell shell(home);
        shell.window.resize(kScreen);
        OPEN_AND_SETTLE(shell);
        shell.window.action(QStringLiteral("plan.pipeline"))->trigger();
        QSignalSpy ended(shell.workbench.planning(), &PlanningController::ended);
        shell.window.action(QStringLiteral("plan.find"))->trigger();
        NOTHING_IS_CUT(&shell.window, "search begins");
        QTRY_VERIFY_WITH_TIMEOUT(!ended.isEmpty(), kLimit);
        NOTHING_IS_CUT(&shell.window, "search ended");
    }

    // Not measured, running with half of the answers, measured, of an earlier plan.
    void nothingIsCutInTasks()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--eight"), QStringLiteral("--hold"), QStringLiteral("tasks")});
        shell.window.resize(kScreen);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(1, 5);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        auto* dock = shell.window.findChild<Panel*>(QStringLiteral("perplexity"));
        dock->setCurrentPage(1);
        NOTHING_IS_CUT(&shell.window, "no tasks yet");
        shell.window.action(QStringLiteral("evaluate.tasks"))->trigger();
        QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.tasks()->measured(shell.hash()), kLimit);
        NOTHING_IS_CUT(&shell.window, "tasks run");
        shell.workbench.cancelJob();
        QTRY_VERIFY_WITH_TIMEOUT(!shell.workbench.tasks()->busy(), kLimit);
        shell.window.action(QStringLiteral("evaluate.tasks"))->trigger();
        QTRY_VERIFY_WITH_TIMEOUT(!shell.workbench.tasks()->busy(), kLimit);
        NOTHING_IS_CUT(&shell.window, "tasks measured");
        QCOMPARE(shell.window.size(), kScreen);
        shell.plans().setKeep(2, 5);
        NOTHING_IS_CUT(&shell.window, "tasks of an earlier plan");
    }

    void nothingIsCutInCompletions()
    {
        Home home;
        Shell shell(home);
        shell.window.resize(kScreen);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(1, 5);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        shell.window.action(QStringLiteral("evaluate.try"))->trigger();
        NOTHING_IS_CUT(&shell.window, "no completion yet");
        shell.window.findChild<QPushButton*>(QStringLiteral("try.go"))->click();
        QTRY_VERIFY_WITH_TIMEOUT(!shell.workbench.completions()->busy(), kLimit);
        shell.window.action(QStringLiteral("evaluate.speed"))->trigger();
        QTRY_VERIFY_WITH_TIMEOUT(!shell.workbench.speed()->busy(), kLimit);
        NOTHING_IS_CUT(&shell.window, "completions");
        QCOMPARE(shell.window.size(), kScreen);
        shell.plans().setKeep(2, 5);
        NOTHING_IS_CUT(&shell.window, "completion of an earlier plan");
    }

    void nothingIsCutInDialogs()
    {
        Home home;
        Shell shell(home);
        shell.window.resize(kScreen);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(1, 5);
        shell.window.action(QStringLiteral("file.export"))->trigger();
        ExportDialog* exports = shell.window.exportDialog();
        QVERIFY(exports->width() <= kScreen.width() && exports->height() <= kScreen.height());
        NOTHING_IS_CUT(exports, "export");
        exports->close();
        shell.window.action(QStringLiteral("evaluate.text"))->trigger();
        auto* texts = shell.window.findChild<TextsDialog*>();
        QVERIFY(texts && texts->width() <= kScreen.width() && texts->height() <= kScreen.height());
        NOTHING_IS_CUT(texts, "texts");
    }

    // The chosen score can be read with every score; what has no room stands in a list, and works there.
    void scoreIsReadable()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        auto* row = qobject_cast<FoldRow*>(shell.window.heatmap()->choosers());
        QVERIFY(row);
        QComboBox* score = nullptr;
        QComboBox* norm = nullptr;
        for (QComboBox* box : row->findChildren<QComboBox*>()) {
            if (box->accessibleName() == QStringLiteral("Score")) score = box;
            if (box->accessibleName() == QStringLiteral("Norm")) norm = box;
        }
        QVERIFY(score && norm && score->count() > 3);
        for (const int width : {960, 1016, 1024, 1100, 1280, 1399, 1400, 1600})
            for (int i = 0; i < score->count(); ++i) {
                shell.window.resize(width, 640);
                HeatmapOptions options = shell.window.heatmap()->options();
                options.score = score->itemData(i).toString();
                shell.window.heatmap()->setOptions(options);
                QCoreApplication::processEvents();
                const QString what =
                    QStringLiteral("%1 at %2: %3 of %4").arg(score->currentText()).arg(width).arg(score->width()).arg(readableWidth(score));
                QVERIFY2(score->isVisible() && !row->isFolded(score) && score->width() >= readableWidth(score), qPrintable(what));
                QVERIFY2(row->rect().contains(score->geometry()) && row->parentWidget()->rect().contains(row->geometry()),
                         qPrintable(what));
            }

        shell.window.resize(960, 640);
        QCoreApplication::processEvents();
        QVERIFY(row->moreButton()->isVisible());
        row->showMore();
        QWidget* list = row->findChild<QWidget*>(QStringLiteral("foldedChoosers"));
        QVERIFY(list && list->isVisible());
        QCoreApplication::processEvents();
        NOTHING_IS_CUT(list, "list of choosers");
        row->setFolded(norm, true);
        QVERIFY(row->isFolded(norm) && norm->window() == list && norm->isVisible());
        norm->setFocus();
        norm->setCurrentIndex(1);
        emit norm->activated(1);
        QCOMPARE(shell.window.heatmap()->options().norm.norm, Norm::Log);
        list->hide();
        row->setFolded(norm, false);
        shell.window.resize(1600, 640);
        QCoreApplication::processEvents();
        QVERIFY(!row->isFolded(norm) && norm->isVisible() && norm->window() == &shell.window && row->moreButton()->isHidden());
        // Between its neighbours for the keyboard.
        shell.window.activateWindow();
        QVERIFY(QTest::qWaitForWindowActive(&shell.window));
        score->setFocus();
        QTest::keyClick(score, Qt::Key_Tab);
        QCOMPARE(QApplication::focusWidget(), norm);
    }
};

int main(int argc, char** argv) { return runShellTest<ShellSmallTest>(argc, argv); }
#include "test_shell_small.moc"
