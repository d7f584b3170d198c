// One job from the first click to a folder that loads elsewhere: the real window and the real engine on the demo model, offscreen, on short
// texts. What the two said to each other is recorded between them, and the names of its fields are those of whole_job_fields.txt: scripts
// that speak with `serve` rely on them.
#include "experts/expert_spectra.h"
#include "perplexity/task_bars.h"
#include "perplexity/tasks_panel.h"
#include "rpc/framing.h"
#include "rpc/protocol_engine.h"
#include "shell/engine/deep_profile.h"
#include "shell/engine/estimate_controller.h"
#include "shell/engine/generate_controller.h"
#include "shell/engine/rank_curve_store.h"
#include "shell/engine/speed_controller.h"
#include "shell/engine/tasks_controller.h"
#include "shell/window/export_dialog.h"
#include "widgets/planner_fixture.h"

#include <QLabel>
#include <QLineEdit>
#include <QProcess>
#include <QRadioButton>
#include <QSpinBox>

#include <fstream>
#include <iterator>
#include <set>

using namespace espalier;
using namespace espalier::test;

namespace
{

constexpr int kRealLimit = 240000;  // ms; never reached by a run that works
const QString kModel = QStringLiteral(ESPALIER_RESOURCES "/demo/espalier-demo-moe");

// The demo with so many bytes of each of its texts: a few windows.
void shortenTexts(const Home& home)
{
    for (const char* name : {"calibration.txt", "validation.txt", "test.txt"}) {
        QFile whole(QStringLiteral(ESPALIER_RESOURCES "/demo/") + QString::fromLatin1(name));
        QFile part(home.path("demo/") + QString::fromLatin1(name));
        QVERIFY(whole.open(QIODevice::ReadOnly) && part.open(QIODevice::WriteOnly | QIODevice::Truncate));
        part.write(whole.read(8000));
    }
    QVERIFY(QFile::link(QStringLiteral(ESPALIER_RESOURCES "/demo/tasks"), home.path("demo/tasks")));
    QVERIFY(QDir().rmdir(home.path("demo/espalier-demo-moe")));
    QVERIFY(QFile::link(kModel, home.path("demo/espalier-demo-moe")));
}

std::vector<Json> messagesIn(const QString& file)
{
    std::ifstream stream(file.toStdString(), std::ios::binary);
    FrameDecoder decoder;
    decoder.feed(std::string(std::istreambuf_iterator<char>(stream), {}));
    std::vector<Json> messages;
    for (auto body = decoder.next(); body.ok() && body->has_value(); body = decoder.next())
        messages.push_back(Json::parse(**body));
    return messages;
}

// Paths of all fields of a message. Keys of objects that are named by methods and their parameters are one path, and what has a form of its
// own (plans, models) is not looked into.
void addFields(const Json& value, const std::string& path, std::set<std::string>& fields)
{
    static const std::set<std::string> named = {"scores", "params"};
    static const std::set<std::string> documents = {"plan", "inspection", "shape", "methods", "stages"};
    if (value.is_array())
        for (const Json& item : value)
            addFields(item, path, fields);
    if (!value.is_object()) return;
    const std::string own = path.substr(path.rfind('.') + 1);
    for (const auto& [key, item] : value.items()) {
        const std::string below = path + "." + (named.contains(own) ? std::string("*") : key);
        fields.insert(below);
        if (!documents.contains(key)) addFields(item, below, fields);
    }
}

// "METHOD request|answer|partial.FIELD.." of all that was said.
std::set<std::string> fieldsSaid(const std::vector<Json>& asked, const std::vector<Json>& answered)
{
    std::set<std::string> fields;
    std::map<Json, std::string> methods;
    for (const Json& message : asked) {
        const std::string method = message["method"].get<std::string>();
        if (message.contains("id")) methods[message["id"]] = method;
        // Those two are said when a timer says so.
        if (method == PingRequest::kMethod || method == CancelNote::kMethod) continue;
        addFields(message["params"], method + " request", fields);
    }
    for (const Json& message : answered) {
        if (message.contains("result") && methods[message["id"]] != PingRequest::kMethod)
            addFields(message["result"], methods[message["id"]] + " answer", fields);
        if (!message.contains("method")) continue;
        const Json& params = message["params"];
        addFields(message["method"] == PartialNote::kMethod ? Json{{"id", 0}, {"value", nullptr}} : params,
                  message["method"].get<std::string>(), fields);
        if (message["method"] == PartialNote::kMethod) addFields(params["value"], methods[params["id"]] + " partial", fields);
    }
    return fields;
}

}  // namespace

class ShellWholeJobTest final : public ShellTestBase
{
    Q_OBJECT

private slots:
    void wholeJob_fromTheDemoToAFolderThatIsVerified()
    {
        Home home;
        shortenTexts(home);
        const QString asked = home.path("asked");
        const QString answered = home.path("answered");
        const QString out = home.path("smaller");
        QString profile;
        {
            Shell shell(home);
            shell.workbench.setDeepRest(0);
            shell.engine().setCommand({QStringLiteral("/bin/sh"), QStringLiteral("-c"),
                                       QStringLiteral("tee \"$1\" | \"$0\" serve --threads 2 | tee \"$2\""),
                                       QStringLiteral(ESPALIER_ENGINE), asked, answered});
            job(shell, home, out);
            profile = shell.workbench.deep()->file();
        }
        if (QTest::currentTestFailed()) return;
        verifyFolder(out, profile);
        if (QTest::currentTestFailed()) return;
        compareFields(fieldsSaid(messagesIn(asked), messagesIn(answered)));
    }

private:
    static void job(Shell& shell, const Home& home, const QString& out)
    {
        // Open and profile: rows of scores arrive before the profile is done.
        bool streamed = false;
        connect(&shell.workbench, &Workbench::scoresChanged, &shell.window,
                [&] { streamed = streamed || (shell.workbench.profiling() && !shell.workbench.scores().empty()); });
        shell.engine().start();
        shell.workbench.openDemo();
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kRealLimit);
        QVERIFY(streamed);
        const ModelShape& shape = shell.plans().shape();
        QCOMPARE(shape.layers.size(), std::size_t(6));
        for (const char* method : {"reap", "leave-one-out", "expert_frequency"}) {
            const auto scores = shell.workbench.scores().find(method);
            QVERIFY2(scores != shell.workbench.scores().end(), method);
            for (const LayerShape& layer : shape.layers)
                QCOMPARE(static_cast<int>(scores->second.values.rows[static_cast<std::size_t>(layer.index)].size()), layer.experts);
        }

        // Drop: the number of the dense model gives way to the plan's own.
        const std::string dense = shell.hash();
        const int quick = static_cast<int>(shell.evaluation().tierWindows(false).size());
        QVERIFY(quick > 0);
        const double densePpl = *shell.evaluation().perplexityOf(dense, false);
        shell.plans().toggleExpert(1, 2);
        QVERIFY(shell.hash() != dense && !shell.plans().plan().keeps(1, 2));
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), quick, kRealLimit);
        const double droppedPpl = *shell.evaluation().perplexityOf(shell.hash(), false);
        QVERIFY(std::isfinite(droppedPpl) && droppedPpl != densePpl);
        QCOMPARE(numbersBelongToThePlan(shell), QString());

        // What ranks need is measured in the background: spectra of an expert, and an estimate of the plan on screen.
        QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.deep()->ready(), kRealLimit);
        shell.window.selection()->setCurrent({1, 3});
        auto* curves = shell.window.findChild<RankCurveStore*>();
        QTRY_VERIFY_WITH_TIMEOUT(curves->curves(), kRealLimit);
        QCOMPARE(curves->curves()->cell, (CellId{1, 3}));
        QCOMPARE(curves->curves()->matrices[0].rows, 96);
        QCOMPARE(curves->curves()->matrices[0].columns, 192);
        QVERIFY(!curves->curves()->empty());
        auto* estimates = shell.window.findChild<EstimateController*>();
        QTRY_VERIFY_WITH_TIMEOUT(estimates->estimateOf(shell.hash(), densePpl), kRealLimit);

        // Pipeline: every layer is searched, every block tried, the rest gets ranks, and the new plan gets a number.
        Planner planner(shell);
        planner.choose(QStringLiteral("Select, method"), QStringLiteral("genetic"));
        planner.control<QSpinBox>(QStringLiteral("Select, population"))->setValue(12);
        planner.control<QSpinBox>(QStringLiteral("Select, generations"))->setValue(4);
        QVERIFY(planner.panel().recipe().field && planner.panel().recipe().ranks);
        const std::size_t entries = planner.entries();
        planner.click("pipeline.run");
        QTRY_VERIFY_WITH_TIMEOUT(!planner.planning().running(), kRealLimit);
        const SearchState& search = planner.planning().state();
        QCOMPARE(search.phase, SearchState::Phase::Finished);
        QCOMPARE(planner.entries(), entries + 1);
        QCOMPARE(search.layersFinished(), 6);
        QCOMPARE(static_cast<int>(search.blocks.size()), search.blocksToTry());
        for (const auto& [layer, found] : search.layers)
            QVERIFY(found.best && found.reference && found.outputNorm && !found.trace.empty());
        const CompressionPlan& plan = shell.plans().plan();
        QCOMPARE(plan.hash(), search.best->hash());
        QVERIFY(plan.hasRanks());
        QCOMPARE(plan.keptExperts(), planner.panel().recipe().experts);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), quick, kRealLimit);
        QVERIFY(std::isfinite(*shell.evaluation().perplexityOf(plan.hash(), false)));

        measureTasks(shell);
        if (QTest::currentTestFailed()) return;

        tryAndTime(shell);
        if (QTest::currentTestFailed()) return;

        // Export: the engine reopens what it wrote and finds the number that the window shows.
        shell.window.action(QStringLiteral("file.export"))->trigger();
        ExportDialog* dialog = shell.window.exportDialog();
        dialog->findChild<QRadioButton*>(QStringLiteral("export.factored"))->setChecked(true);
        dialog->findChild<QLineEdit*>(QStringLiteral("export.folder"))->setText(out);
        const auto texts = [dialog] {
            QStringList all;
            for (const QLabel* label : dialog->findChildren<QLabel*>())
                all << label->text();
            return all.join(QLatin1Char('\n'));
        };
        QTRY_VERIFY2_WITH_TIMEOUT(texts().contains(QStringLiteral(" files, ")), qPrintable(texts()), kRealLimit);
        dialog->findChild<QPushButton*>(QStringLiteral("export.start"))->click();
        QTRY_VERIFY2_WITH_TIMEOUT(texts().contains(QStringLiteral("every check holds")), qPrintable(texts()), kRealLimit);
        // What the engine says of the short texts, and nothing else.
        QCOMPARE(shell.window.banners()->count(), 2);
        QCOMPARE(shell.banners().count(QStringLiteral("windows were asked for")), 2);
        SAVE(shell, home.path("job.espalier"));
    }

    // Tasks: the plan, then the dense model on the same questions, while an edit gets its number.
    static void measureTasks(Shell& shell)
    {
        auto* panel = shell.window.findChild<TasksPanel*>();
        panel->setQuestions(50);
        TasksController& tasks = *shell.workbench.tasks();
        const std::string plan = shell.hash();
        shell.window.action(QStringLiteral("evaluate.tasks"))->trigger();
        QVERIFY(tasks.busy());
        const int quick = static_cast<int>(shell.evaluation().tierWindows(false).size());
        shell.plans().toggleExpert(0, shell.plans().plan().layer(0).kept().front());
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), quick, kRealLimit);
        shell.plans().undo();
        QCOMPARE(shell.hash(), plan);
        QTRY_VERIFY_WITH_TIMEOUT(!tasks.busy(), kRealLimit);
        const std::vector<TaskRow>& rows = panel->bars()->rows();
        QCOMPARE(rows.size(), std::size_t(3));
        for (const TaskRow& row : rows) {
            QVERIFY(row.plan && row.dense && row.delta && row.delta->error);
            QCOMPARE(row.questions, row.wanted);
            QVERIFY(std::abs(row.plan->value - row.dense->value - row.delta->value) < 1e-12);
        }
        QCOMPARE(rows[0].questions, 50);
        // What the command line says of the same 50 questions of the dense model.
        QProcess engine;
        engine.start(
            QStringLiteral(ESPALIER_ENGINE),
            {QStringLiteral("tasks"), kModel, QStringLiteral("--data"), QStringLiteral(ESPALIER_RESOURCES "/demo/tasks"),
             QStringLiteral("--limit"), QStringLiteral("50"), QStringLiteral("--json"), QStringLiteral("--threads"), QStringLiteral("2")});
        QVERIFY(engine.waitForFinished(kRealLimit));
        QVERIFY2(engine.exitCode() == 0, engine.readAllStandardError().constData());
        const Json told = Json::parse(engine.readAllStandardOutput().toStdString());
        for (const TaskRow& row : rows)
            if (row.kind == TaskRow::Kind::Task) QCOMPARE(row.dense->value, told["tasks"][row.name.toStdString()]["acc"].get<double>());
    }

    // A prompt, gone on with by both models as the command line does, and what is faster by how much: of this plan and no other.
    static void tryAndTime(Shell& shell)
    {
        constexpr int kTokens = 12;
        const std::string plan = shell.hash();
        GenerateController& completions = *shell.workbench.completions();
        shell.workbench.complete(QStringLiteral("It was a dark night"), kTokens);
        QVERIFY(completions.busy());
        QTRY_VERIFY_WITH_TIMEOUT(!completions.busy(), kRealLimit);
        const CompletionState state = completions.state();
        QProcess engine;
        engine.start(QStringLiteral(ESPALIER_ENGINE),
                     {QStringLiteral("generate"), kModel, QStringLiteral("--prompt"), QStringLiteral("It was a dark night"),
                      QStringLiteral("--tokens"), QString::number(kTokens), QStringLiteral("--json"), QStringLiteral("--threads"),
                      QStringLiteral("2")});
        QVERIFY(engine.waitForFinished(kRealLimit));
        QVERIFY2(engine.exitCode() == 0, engine.readAllStandardError().constData());
        const Json told = Json::parse(engine.readAllStandardOutput().toStdString());
        QCOMPARE(state.dense.tokens.size(), told["ids"].size());
        for (std::size_t i = 0; i < state.dense.tokens.size(); ++i)
            QCOMPARE(state.dense.tokens[i].id, told["ids"][i].get<int>());
        QVERIFY(!state.plan.tokens.empty());

        SpeedController& speed = *shell.workbench.speed();
        QVERIFY(speed.brief(plan).isEmpty());
        shell.window.action(QStringLiteral("evaluate.speed"))->trigger();
        QVERIFY(speed.busy());
        QTRY_VERIFY_WITH_TIMEOUT(!speed.busy(), kRealLimit);
        QVERIFY(speed.brief(plan).contains(QStringLiteral("measured here")));
        QVERIFY(speed.words(plan).contains(QStringLiteral("tokens/s, dense ")));
        shell.plans().toggleExpert(0, shell.plans().plan().layer(0).kept().front());
        QVERIFY(speed.brief(shell.hash()).isEmpty());
        shell.plans().undo();
        QCOMPARE(shell.hash(), plan);
        const int quick = static_cast<int>(shell.evaluation().tierWindows(false).size());
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), quick, kRealLimit);
    }

    static void verifyFolder(const QString& out, const QString& profile)
    {
        QProcess engine;
        engine.start(QStringLiteral(ESPALIER_ENGINE),
                     {QStringLiteral("verify"), out, QStringLiteral("--source"), kModel, QStringLiteral("--profile"), profile,
                      QStringLiteral("--text"), QStringLiteral(ESPALIER_RESOURCES "/demo/validation.txt"), QStringLiteral("--json")});
        QVERIFY(engine.waitForFinished(kRealLimit));
        QVERIFY2(engine.exitCode() == 0, engine.readAllStandardError().constData());
        const Json report = Json::parse(engine.readAllStandardOutput().toStdString());
        QVERIFY(report["holds"].get<bool>());
    }

    static void compareFields(const std::set<std::string>& said)
    {
        std::ifstream file(ESPALIER_WHOLE_JOB_FIELDS);
        std::set<std::string> known;
        for (std::string line; std::getline(file, line);)
            if (!line.empty()) known.insert(line);
        QStringList differences;
        for (const std::string& field : said)
            if (!known.contains(field)) differences << QStringLiteral("new: ") + QString::fromStdString(field);
        for (const std::string& field : known)
            if (!said.contains(field)) differences << QStringLiteral("gone: ") + QString::fromStdString(field);
        for (const QString& difference : differences)
            qWarning().noquote() << difference;
        QVERIFY2(differences.isEmpty(), "The fields of the protocol are not those of whole_job_fields.txt.");
    }
};

int main(int argc, char** argv) { return runShellTest<ShellWholeJobTest>(argc, argv); }

#include "test_shell_whole_job.moc"
