// What an edit costs the GUI thread: the commit itself, and the events that it posts (layout, painting). The clock counts the thread's own
// processor time, so that the engine and neighbours on the machine do not matter. Offscreen, the scripted engine, 1440 x 900.
//
//   edit_bench [--large] [--history N]          --large: 24 layers of 60 experts instead of 4 of 8; N earlier entries in the history
//   edit_bench --engine PROGRAM --demo FOLDER   a real engine on resources/demo, once its profile and its first perplexity are there
#include "widgets/shell_fixture.h"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <vector>

using namespace espalier;
using namespace espalier::test;

namespace
{

double threadMilliseconds()
{
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) * 1e-6;
}

void report(const char* what, std::vector<double> values)
{
    std::sort(values.begin(), values.end());
    std::printf("%-34s median %6.2f ms, 95 %% %6.2f ms, most %6.2f ms\n", what, values[values.size() / 2], values[values.size() * 95 / 100],
                values.back());
}

class EditBench final : public QObject
{
    Q_OBJECT

private slots:
    void edits()
    {
        const QStringList arguments = QString::fromLocal8Bit(qgetenv("EDIT_BENCH")).split(QLatin1Char(' '), Qt::SkipEmptyParts);
        const int history = arguments.contains(QStringLiteral("--history"))
                                ? arguments.value(arguments.indexOf(QStringLiteral("--history")) + 1).toInt()
                                : 0;
        const Home home;
        if (const auto demo = arguments.indexOf(QStringLiteral("--demo")); demo >= 0) {
            QDir(home.path("demo")).removeRecursively();
            QVERIFY(QFile::link(arguments.value(demo + 1), home.path("demo")));
        }
        Shell shell(home, arguments.contains(QStringLiteral("--large")) ? QStringList{QStringLiteral("--large")} : QStringList());
        shell.window.resize(1440, 900);
        const auto option = [&arguments](const char* name) { return arguments.value(arguments.indexOf(QLatin1String(name)) + 1); };
        if (arguments.contains(QStringLiteral("--engine"))) {
            shell.engine().setCommand({option("--engine"), QStringLiteral("serve")});
            shell.engine().start();
            shell.workbench.openDemo();
            QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), 300000);
        } else {
            OPEN_AND_SETTLE(shell);
        }
        const ModelShape shape = shell.plans().shape();
        const int layers = static_cast<int>(shape.layers.size());
        const int experts = shape.layers.back().experts;
        CompressionPlan plan = shell.plans().plan();
        for (int i = 0; i < history; ++i) {
            Result<CompressionPlan> next = plan.withKept(shape, i % layers, [&] {
                ExpertSet kept = plan.layer(i % layers).kept();
                kept.erase(kept.begin() + (i / layers) % static_cast<int>(kept.size() - 4));
                return kept.size() > 5 ? kept : shell.plans().history().entries().front().plan.layer(i % layers).kept();
            }());
            if (next.ok()) plan = std::move(next).value();
            shell.plans().addBranch(shell.plans().history().currentId(), plan, QStringLiteral("entry %1").arg(i));
        }
        QCoreApplication::processEvents();
        for (const bool ranks : {false, true}) {
            std::vector<double> commit, events;
            if (ranks) shell.plans().setMeanRank(0, 8);
            for (int i = 0; i < 60; ++i) {
                const int layer = i % layers;
                const ExpertSet kept = shell.plans().plan().layer(layer).kept();
                const int rankOf = *std::next(kept.begin(), (i * 7) % std::ssize(kept));
                double start = threadMilliseconds();
                if (ranks)
                    shell.plans().setExpertRank(layer, rankOf, 4 + i % 7);
                else
                    shell.plans().toggleExpert(layer, (i * 7) % experts);
                commit.push_back(threadMilliseconds() - start);
                start = threadMilliseconds();
                QCoreApplication::sendPostedEvents();
                QCoreApplication::processEvents();
                events.push_back(threadMilliseconds() - start);
            }
            report(ranks ? "commit of a rank" : "commit of a dropped expert", commit);
            report("  its layout and painting", events);
        }
    }
};

}  // namespace

int main(int argc, char** argv)
{
    QStringList mine;
    for (int i = 1; i < argc; ++i)
        mine << QString::fromLocal8Bit(argv[i]);
    qputenv("EDIT_BENCH", mine.join(QLatin1Char(' ')).toLocal8Bit());
    int none = 1;
    return runShellTest<EditBench>(none, argv);
}

#include "edit_bench.moc"
