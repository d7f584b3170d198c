// Ranks by rule and size: one gesture is one entry, who is kept and what is locked stays, the size asked for is not exceeded.
#include "allocate/rank_rule.h"
#include "look/controls.h"
#include "plan/rank_edit.h"
#include "ranks/rank_panel.h"
#include "ranks/rank_rule_bar.h"
#include "ranks/rank_table.h"
#include "widgets/shell_fixture.h"

#include <QComboBox>
#include <QDoubleSpinBox>
#include <QStandardItemModel>

using namespace espalier;
using namespace espalier::test;

namespace
{

struct Ranks {
    explicit Ranks(Shell& of) : shell(of) { shell.window.action(QStringLiteral("view.ranks"))->trigger(); }

    Shell& shell;
    RankPanel& panel() { return *shell.window.findChild<RankPanel*>(); }
    RankRuleBar& bar() { return *panel().rule(); }
    Slider& size() { return *panel().findChild<Slider*>(QStringLiteral("rank.size")); }
    QComboBox* rule()
    {
        for (QComboBox* box : bar().findChildren<QComboBox*>())
            if (box->accessibleName() == QStringLiteral("Rank rule, rule")) return box;
        return nullptr;
    }
    void choose(const QString& id)
    {
        const int index = rule()->findData(id);
        rule()->setCurrentIndex(index);
        emit rule()->activated(index);
    }
    QPoint at(double share) { return {static_cast<int>(share * size().width()), size().height() / 2}; }
    std::size_t entries() { return shell.plans().history().entries().size(); }
    QString current() { return QString::fromStdString(shell.plans().history().current().text); }
    std::int64_t bytes() { return shell.workbench.cost().bytes; }
};

}  // namespace

class ShellRankRuleTest final : public ShellTestBase
{
    Q_OBJECT

private slots:
    void size_aDragSharesTheRanksAnewAndIsOneEntry()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(1, 5);
        shell.plans().setMeanRank(3, 7);
        shell.plans().toggleLocked(3);
        Ranks ranks(shell);
        const CompressionPlan before = shell.plans().plan();
        const std::size_t entries = ranks.entries();
        QCOMPARE(ranks.rule()->currentData().toString(), QStringLiteral("moe-i2"));
        QVERIFY(ranks.bar().leastBytes() < ranks.bar().mostBytes());
        QTest::mousePress(&ranks.size(), Qt::LeftButton, {}, ranks.at(0.9));
        std::set<std::string> live;
        for (const double share : {0.8, 0.7, 0.5, 0.6}) {
            QTest::mouseMove(&ranks.size(), ranks.at(share));
            live.insert(shell.hash());  // the plan on screen follows
        }
        QCOMPARE(live.size(), std::size_t(4));
        QTest::mouseRelease(&ranks.size(), Qt::LeftButton, {}, ranks.at(0.6));
        QCOMPARE(ranks.entries(), entries + 1);
        QVERIFY2(ranks.current().startsWith(QStringLiteral("Ranks by MoE-I²")), qPrintable(ranks.current()));
        const CompressionPlan& after = shell.plans().plan();
        const std::int64_t wanted =
            ranks.bar().leastBytes() + (ranks.bar().mostBytes() - ranks.bar().leastBytes()) * ranks.size().value() / 1000;
        QVERIFY(ranks.bytes() < ranks.bar().mostBytes() && ranks.bytes() > ranks.bar().leastBytes());
        QVERIFY2(std::abs(static_cast<double>(ranks.bytes() - wanted)) < 0.02 * static_cast<double>(wanted), "the size asked for");
        for (int layer = 0; layer < 4; ++layer)
            QCOMPARE(after.layer(layer).kept(), before.layer(layer).kept());
        QCOMPARE(after.layer(3).ranks(), before.layer(3).ranks());
        QVERIFY(!after.layer(0).ranks().empty());
        shell.plans().undo();
        QVERIFY(shell.plans().plan() == before);

        // Esc takes the drag back.
        QTest::mousePress(&ranks.size(), Qt::LeftButton, {}, ranks.at(0.8));
        QTest::mouseMove(&ranks.size(), ranks.at(0.3));
        QVERIFY(!(shell.plans().plan() == before));
        QTest::keyClick(&ranks.size(), Qt::Key_Escape);
        QVERIFY(shell.plans().plan() == before);
        QTest::mouseRelease(&ranks.size(), Qt::LeftButton, {}, ranks.at(0.3));
        QCOMPARE(ranks.entries(), entries + 1);
        QCOMPARE(shell.window.banners()->count(), 0);
    }

    void rule_isWhatTheCoreMakesOfIt()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        Ranks ranks(shell);
        // Of a dense plan the choice of a rule changes nothing yet.
        ranks.choose(QStringLiteral("uniform"));
        QCOMPARE(ranks.entries(), std::size_t(1));
        QTest::mousePress(&ranks.size(), Qt::LeftButton, {}, ranks.at(0.9));
        QTest::mouseMove(&ranks.size(), ranks.at(0.5));
        QTest::mouseRelease(&ranks.size(), Qt::LeftButton, {}, ranks.at(0.5));
        QCOMPARE(ranks.entries(), std::size_t(2));
        // Uniform: all experts alike.
        QCOMPARE(levelOf(shell.plans().shape(), shell.plans().plan(), 0, 0), levelOf(shell.plans().shape(), shell.plans().plan(), 2, 5));
        const std::int64_t bytes = ranks.bytes();
        // Another rule: the same size, one entry.
        ranks.choose(QStringLiteral("moe-i2"));
        QCOMPARE(ranks.entries(), std::size_t(3));
        QVERIFY(ranks.bytes() <= bytes);
        RankRequest request;
        request.bytes = bytes;
        request.factors = shell.plans().plan().factors();
        request.importance = shell.workbench.scores().at("leave-one-out");
        const Result<CompressionPlan> expected =
            assignRanks(shell.plans().shape(), CompressionPlan::identity(shell.plans().shape()), "moe-i2", request, {});
        QVERIFY(expected.ok());
        for (int layer = 0; layer < 4; ++layer)
            QCOMPARE(shell.plans().plan().layer(layer).ranks(), expected->layer(layer).ranks());
        // Its parameter, from the registry.
        auto* alpha = ranks.bar().findChild<QDoubleSpinBox*>();
        QVERIFY(alpha);
        const std::string before = shell.hash();
        alpha->setValue(0.8);
        QCOMPARE(ranks.entries(), std::size_t(4));
        QVERIFY(shell.hash() != before);
        // What needs the engine says where it runs.
        const int exact = ranks.rule()->findData(QStringLiteral("exact"));
        QVERIFY(exact >= 0);
        QVERIFY(!qobject_cast<QStandardItemModel*>(ranks.rule()->model())->item(exact)->isEnabled());
        QVERIFY(ranks.rule()->itemText(exact).contains(QStringLiteral("runs in the pipeline")));
    }

    void table_saysKeptRanksDenseAndBytes()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        Ranks ranks(shell);
        RankTable& table = *ranks.panel().matrices();
        QVERIFY(!table.isVisible());
        shell.plans().setKeep(1, 5);
        shell.plans().setExpertRank(0, 2, 12);
        shell.plans().setExpertRank(0, 3, 7);
        auto* shown = ranks.panel().findChild<Segment*>(QStringLiteral("rank.tables"));
        emit shown->chosen(1);
        QVERIFY(table.isVisible());
        const QStringList lines = table.tsv().split(QLatin1Char('\n'));
        QCOMPARE(lines[0], QStringLiteral("layer\tkept\tgate\tup\tdown\tdense\tMiB"));
        QVERIFY2(lines[1].startsWith(QStringLiteral("0\t8\t9.5\t9.5\t9.5\t18\t")), qPrintable(lines[1]));
        QVERIFY2(lines[2].startsWith(QStringLiteral("1\t5\t\t\t\t15\t")), qPrintable(lines[2]));
        // One selection with the map.
        shell.window.selection()->setCurrent({2, 1});
        QCOMPARE(table.currentIndex().row(), 2);
        table.setCurrentIndex(table.model()->index(1, 0));
        QCOMPARE(shell.window.selection()->currentLayer(), 1);
    }
};

int main(int argc, char** argv) { return runShellTest<ShellRankRuleTest>(argc, argv); }
#include "test_shell_rank_rule.moc"
