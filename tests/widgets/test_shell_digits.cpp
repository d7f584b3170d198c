// The window and the command line give the same digits: the real workbench and the real engine on the demo model, offscreen.
#include "look/format.h"
#include "perplexity/perplexity_panel.h"
#include "widgets/shell_fixture.h"

#include <QProcess>

using namespace espalier;
using namespace espalier::test;

namespace
{

constexpr int kRealLimit = 240000;  // ms; never reached by a run that works

}  // namespace

class ShellDigitsTest final : public ShellTestBase
{
    Q_OBJECT

    // Losses and perplexity of a plan as `evaluate` prints them.
    static Json evaluated(const QStringList& options)
    {
        QProcess engine;
        engine.start(QStringLiteral(ESPALIER_ENGINE),
                     QStringList{QStringLiteral("evaluate"), QStringLiteral(ESPALIER_RESOURCES "/demo/espalier-demo-moe"),
                                 QStringLiteral("--text"), QStringLiteral(ESPALIER_RESOURCES "/demo/validation.txt"),
                                 QStringLiteral("--window-length"), QStringLiteral("256"), QStringLiteral("--json")} +
                         options);
        if (!engine.waitForFinished(kRealLimit) || engine.exitCode() != 0) return nullptr;
        return Json::parse(engine.readAllStandardOutput().toStdString(), nullptr, false);
    }

private slots:
    void windowAndCommandLine_giveTheSameDigits()
    {
        Home home;
        ThemeController themes;
        Workbench workbench({QStringLiteral(ESPALIER_RESOURCES "/demo"), home.path("data")});
        workbench.engine()->setCommand({QStringLiteral(ESPALIER_ENGINE), QStringLiteral("serve")});
        workbench.setDeepRest(-1);
        MainWindow window(&workbench, &themes, {});
        window.show();
        workbench.engine()->start();
        workbench.openDemo();
        QTRY_VERIFY_WITH_TIMEOUT(workbench.settled(), kRealLimit);
        EvaluationController& evaluation = *workbench.evaluation();
        workbench.plans()->setKeep(1, 12);
        workbench.plans()->setKeep(4, 13);
        evaluation.evaluateFull();
        QTRY_VERIFY_WITH_TIMEOUT(!evaluation.busy() && evaluation.perplexityOf(workbench.plans()->plan().hash(), true), kRealLimit);
        const CompressionPlan plan = workbench.plans()->plan();
        QFile file(home.path("plan.json"));
        QVERIFY(file.open(QIODevice::WriteOnly));
        file.write(QByteArray::fromStdString(toJson(plan).dump()));
        file.close();

        const QStringList all = {QStringLiteral("--windows"), QStringLiteral("128")};
        const QStringList quick = all + QStringList{QStringLiteral("--spread"), QStringLiteral("16")};
        const QStringList which = {QStringLiteral("--plan"), home.path("plan.json"), QStringLiteral("--against"), QStringLiteral("dense")};
        for (const bool full : {true, false}) {
            const Json result = evaluated((full ? all : quick) + which);
            QVERIFY(result.is_object());
            QCOMPARE(result["plan_hash"].get<std::string>(), plan.hash());
            const std::vector<int> windows = evaluation.tierWindows(full);
            QCOMPARE(result["windows"].size(), windows.size());
            const PlanRun& run = evaluation.runs().at(plan.hash());
            for (std::size_t i = 0; i < windows.size(); ++i)
                QCOMPARE(run.losses.at(windows[i]).nll, result["windows"][i]["nll"].get<double>());
            QCOMPARE(*evaluation.perplexityOf(plan.hash(), full), result["ppl"].get<double>());
            QCOMPARE(*evaluation.perplexityOf(CompressionPlan::identity(workbench.plans()->shape()).hash(), full),
                     result["reference"]["ppl"].get<double>());
            QCOMPARE(evaluation.differenceOf(plan.hash(), full)->nll, result["delta"]["nll"].get<double>());
            QCOMPARE(evaluation.differenceOf(plan.hash(), full)->se, result["delta"]["se"].get<double>());
            if (full) QCOMPARE(evaluation.textSha256(), result["text_sha256"].get<std::string>());
        }
        // The table of the README begins with this number.
        QCOMPARE(format::perplexity(*evaluation.perplexityOf(CompressionPlan::identity(workbench.plans()->shape()).hash(), true)),
                 QStringLiteral("38.39"));
        // The large number is the one of all windows, and says so.
        const HeadlinePerplexity shown = headline(evaluation.state());
        QCOMPARE(shown.ppl, *evaluation.perplexityOf(plan.hash(), true));
        QCOMPARE(shown.basis, QStringLiteral("validation.txt · 128 windows of 256 tokens"));
    }
};

int main(int argc, char** argv) { return runShellTest<ShellDigitsTest>(argc, argv); }

#include "test_shell_digits.moc"
