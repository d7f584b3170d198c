// Large text: nothing in the inspector is cut off, at no width that the window gives it.
#include "core/shapes.h"
#include "experts/inspector_panel.h"
#include "look/controls.h"
#include "look/theme.h"
#include "plan/rank_edit.h"
#include "sample.h"

#include <QAbstractSpinBox>
#include <QApplication>
#include <QLabel>
#include <QScrollBar>
#include <QToolButton>
#include <QtTest>

using namespace espalier;
using namespace espalier::test;

class TextSizeTest final : public QObject
{
    Q_OBJECT

private slots:
    void inspector_data()
    {
        QTest::addColumn<int>("percent");
        QTest::addColumn<int>("width");
        QTest::addColumn<bool>("ranks");
        QTest::addColumn<bool>("scrollsSideways");
        for (const bool ranks : {false, true})
            for (const int width : {288, 312, 420}) {
                const QString what = QStringLiteral("%1 px%2").arg(width).arg(ranks ? QStringLiteral(", low rank") : QString());
                QTest::newRow(qPrintable(QStringLiteral("100 %, ") + what)) << 100 << width << ranks << false;
                QTest::newRow(qPrintable(QStringLiteral("150 %, ") + what)) << 150 << width << ranks << false;
                QTest::newRow(qPrintable(QStringLiteral("200 %, ") + what)) << 200 << width << ranks << true;
            }
    }

    void inspector()
    {
        QFETCH(int, percent);
        QFETCH(int, width);
        QFETCH(bool, ranks);
        QFETCH(bool, scrollsSideways);
        const QFont before = QApplication::font();
        QFont font = before;
        font.setPixelSize(13 * percent / 100);
        QApplication::setFont(font);
        ThemeController themes;
        themes.setChoice(ThemeChoice::Light);
        QApplication::setFont(font);

        SelectionModel selection;
        InspectorPanel panel(&selection);
        const ModelShape shape = qwenShape();
        CompressionPlan plan = CompressionPlan::identity(shape);
        if (ranks) plan = withExpertRank(shape, plan, 12, 35, 480, {"svd", {}}).value();
        panel.setShape(shape);
        panel.setPlan(plan);
        panel.setScores(reapScores(shape));
        panel.setUsage(evenUsage(shape));
        panel.setCellEstimate(QStringLiteral("if dropped"), 0.004);
        selection.setCurrent({12, 35});
        panel.resize(width, 460);
        panel.show();
        QApplication::processEvents();

        const QWidget* content = panel.widget();
        const QRect reachable(0, 0, panel.viewport()->width() + panel.horizontalScrollBar()->maximum(),
                              panel.viewport()->height() + panel.verticalScrollBar()->maximum());
        if (!scrollsSideways) QCOMPARE(panel.horizontalScrollBar()->maximum(), 0);
        std::vector<const QWidget*> seen;
        for (const QWidget* each : content->findChildren<QWidget*>()) {
            const auto* label = qobject_cast<const QLabel*>(each);
            const bool control = qobject_cast<const QAbstractSpinBox*>(each) || qobject_cast<const QToolButton*>(each) ||
                                 qobject_cast<const Segment*>(each) || qobject_cast<const Slider*>(each);
            if (!each->isVisible() || (!label && !control) || each->width() == 0) continue;
            const QString what = label ? label->text() : QString::fromLatin1(each->metaObject()->className()) + each->accessibleName();
            const QRect place(each->mapTo(content, QPoint()), each->size());
            QVERIFY2(reachable.contains(place), qPrintable(what));
            if (label && label->wordWrap()) {
                QVERIFY2(each->height() >= each->heightForWidth(each->width()), qPrintable(what));
                QVERIFY2(each->width() >= each->minimumSizeHint().width(), qPrintable(what));
            } else if (label) {
                QVERIFY2(each->width() >= each->sizeHint().width() && each->height() >= each->sizeHint().height(), qPrintable(what));
            } else if (const auto* segment = qobject_cast<const Segment*>(each)) {
                // In one row, or in two where the panel is narrow.
                const int rows = std::max(1, segment->property("rows").toInt());
                const int inRow = (static_cast<int>(segment->texts().size()) + rows - 1) / rows;
                int words = 0;
                for (int first = 0; first < segment->texts().size(); first += inRow) {
                    int row = 0;
                    for (const QString& text : segment->texts().mid(first, inRow))
                        row += QFontMetrics(fontFor(FontRole::Head)).horizontalAdvance(text);
                    words = std::max(words, row);
                }
                QVERIFY2(each->width() > words && each->height() >= each->sizeHint().height(), qPrintable(what));
            } else {
                const QSize least = each->minimumSizeHint();
                QVERIFY2(each->width() >= least.width() && each->height() >= least.height(), qPrintable(what));
            }
            for (const QWidget* other : seen)
                if (other->parentWidget() == each->parentWidget())
                    QVERIFY2(!other->geometry().intersects(each->geometry()), qPrintable(what));
            seen.push_back(each);
        }
        QVERIFY(seen.size() > 10);
        QApplication::setFont(before);
    }
};

int main(int argc, char** argv)
{
    if (!qEnvironmentVariableIsSet("QT_QPA_PLATFORM")) qputenv("QT_QPA_PLATFORM", "offscreen");
    QApplication application(argc, argv);
    TextSizeTest test;
    return QTest::qExec(&test, argc, argv);
}
#include "test_text_size.moc"
