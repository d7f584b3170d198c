// Every verb that writes, with a disk that fails and with a process that is killed: no crash, nothing half there, a code and a message, and
// the same bytes when it is run again. An even sample of the calls, or every one; some kills at random moments, or two hundred.
#include "base/random.h"
#include "faults/disturbed_run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <memory>

namespace espalier::testing
{
namespace
{

namespace fs = std::filesystem;

// A tiny model: what takes time is the start of the program.
const std::string kModel = std::string(ESPALIER_TEST_FIXTURES) + "/model/checkpoints/qwen2moe-tiny";
const std::string kIds = std::string(ESPALIER_TEST_FIXTURES) + "/profile/qwen2moe-tiny.json";
const std::string kTasks = std::string(ESPALIER_TEST_FIXTURES) + "/tasks";
constexpr std::size_t kSample = 4;
constexpr int kKills = 2;
constexpr int kAllKills = 50;

using Words = std::vector<std::string>;

Words operator+(Words a, const Words& b)
{
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

const Words kCommon = {"--json", "--quiet", "--threads", "1"};
const Words kText = {"--ids", kIds, "--window-length", "64", "--windows", "4"};

// What the verbs need, made once.
class Inputs
{
public:
    Inputs()
    {
        make(Words{"profile", kModel, "--out", profile()} + kText);
        make(Words{"profile", kModel, "--out", path("a.h5"), "--shard", "1/2"} + kText);
        make(Words{"profile", kModel, "--out", path("b.h5"), "--shard", "2/2"} + kText);
        make(Words{"plan", kModel, "--profile", profile(), "--out", path("uniform.json"), "--prune", "25%", "--allocate", "uniform"});
        make(Words{"plan", kModel, "--profile", profile(), "--out", path("ranks.json"), "--prune", "25%", "--rank-average", "auto"});
        make(Words{"export", kModel, "--plan", path("uniform.json"), "--flavor", "stock", "--out", path("exported")});
    }
    std::string path(const char* name) const { return (m_scratch / name).string(); }
    std::string profile() const { return path("p.h5"); }

private:
    static void make(const Words& words)
    {
        const Outcome outcome = runEngine(words + kCommon);
        EXPECT_EQ(outcome.code, 0) << outcome.output << outcome.errors;
    }
    Scratch m_scratch;
};

class VerbFaults : public ::testing::Test
{
protected:
    static void SetUpTestSuite() { s_inputs = std::make_unique<Inputs>(); }
    static void TearDownTestSuite() { s_inputs.reset(); }

    static Scenario profile()
    {
        return {.name = "profile",
                .arguments = Words{"profile", kModel, "--out", "{W}/p.h5"} + kText + kCommon,
                .targets = {"p.h5"},
                .again = {"--resume"}};
    }
    static Scenario plan()
    {
        return {.name = "plan",
                .arguments = Words{"plan", kModel, "--profile", s_inputs->profile(), "--out", "{W}/plan.json", "--prune", "25%",
                                   "--allocate", "importance", "--select", "genetic", "--kt", "2,2", "--rank-average", "auto", "--param",
                                   "select.enumerate_below=0"} +
                             kCommon,
                .targets = {"plan.json"},
                .again = {"--resume"}};
    }
    // Judged by what it learns from, so that there is a values file.
    static Scenario recover()
    {
        return {.name = "recover",
                .arguments = Words{"recover", kModel, "--plan", s_inputs->path("uniform.json"), "--out", "{W}/mended.json", "--ids", kIds,
                                   "--window-length", "64", "--gate-ids", kIds} +
                             kCommon,
                .targets = {"mended.json", "mended.values.safetensors"},
                .again = {"--resume"},
                .againWith = "mended.json.recover/run.json"};
    }
    static Scenario recovered()
    {
        return {.name = "plan, recovered",
                .arguments = Words{"plan", kModel, "--profile", s_inputs->profile(), "--out", "{W}/plan.json", "--prune", "25%",
                                   "--recover", "least-squares"} +
                             kText + kCommon,
                .targets = {"plan.json"},
                .again = {"--resume"}};
    }
    static Scenario exported(const char* flavor, const char* plan)
    {
        return {.name = std::string("export, ") + flavor,
                .arguments = Words{"export", kModel, "--plan", s_inputs->path(plan), "--profile", s_inputs->profile(), "--flavor", flavor,
                                   "--out", "{W}/out", "--shard-size", "200KB"} +
                             kCommon,
                .targets = {"out"},
                .again = {"--resume"}};
    }
    static Scenario tasks()
    {
        return {.name = "tasks",
                .arguments = Words{"tasks", kTasks + "/models/qwen3-nobos", "--data", kTasks + "/data", "--tasks", "piqa,boolq",
                                   "--samples", "{W}/samples.jsonl"} +
                             kCommon,
                .targets = {"samples.jsonl"},
                .again = {"--resume"}};
    }
    static Scenario compress()
    {
        return {.name = "compress",
                .arguments = Words{"compress", kModel, "--preset", "moe-i2", "--out", "{W}/out"} + kText + kCommon,
                .targets = {"out"},
                .again = {"--resume"}};
    }

    static std::unique_ptr<Inputs> s_inputs;
};
std::unique_ptr<Inputs> VerbFaults::s_inputs;

void disturb(const Scenario& scenario)
{
    DisturbedRun run(scenario);
    std::size_t number = 0;
    const char* kinds[] = {"ENOSPC", "EIO", "KILL"};
    for (const long at : callsToDisturb(run.calls(), kSample)) {
        for (int i = 0; i < 3; ++i) {
            // In a sample each call has one of them.
            if (disturbEverything() || i == static_cast<int>(number % 3)) run.withFault({.at = at, .kind = kinds[i]});
        }
        ++number;
    }
}

// Up to three times each before it is left alone.
void kill(const Scenario& scenario)
{
    DisturbedRun run(scenario);
    for (int i = 0; i < (disturbEverything() ? kAllKills : kKills); ++i) {
        Random random(static_cast<std::uint64_t>(i) + 1);
        std::vector<double> moments;
        for (int k = 0; k <= i % 3; ++k)
            moments.push_back(1.1 * random.uniform() * run.seconds());
        run.withKills(moments);
    }
}

TEST_F(VerbFaults, profile) { disturb(profile()); }

TEST_F(VerbFaults, merge)
{
    disturb({.name = "merge",
             .arguments = Words{"merge", "{W}/sum.h5", s_inputs->path("a.h5"), s_inputs->path("b.h5"), "--model", kModel} + kCommon,
             .targets = {"sum.h5"}});
}

TEST_F(VerbFaults, plan) { disturb(plan()); }

TEST_F(VerbFaults, recover) { disturb(recover()); }
TEST_F(VerbFaults, recovered) { disturb(recovered()); }

TEST_F(VerbFaults, tasks)
{
    disturb({.name = "tasks",
             .arguments = Words{"tasks", kTasks + "/models/qwen3-nobos", "--data", kTasks + "/data", "--tasks", "piqa,rte", "--limit", "3",
                                "--samples", "{W}/samples.jsonl"} +
                          kCommon,
             .targets = {"samples.jsonl"},
             .again = {"--resume"}});
}

TEST_F(VerbFaults, exported)
{
    disturb(exported("stock", "uniform.json"));
    disturb(exported("factored", "ranks.json"));
    disturb(exported("reconstructed", "ranks.json"));
    disturb(exported("plan", "ranks.json"));
}

// The export that was there stays until the new one takes its place.
TEST_F(VerbFaults, exportedAgain)
{
    Scenario scenario = exported("stock", "uniform.json");
    scenario.arguments.emplace_back("--force");
    scenario.prepare = [](const fs::path& folder) {
        ASSERT_EQ(runEngine(Words{"export", kModel, "--plan", s_inputs->path("ranks.json"), "--profile", s_inputs->profile(), "--flavor",
                                  "plan", "--out", (folder / "out").string()} +
                            kCommon)
                      .code,
                  0);
    };
    disturb(scenario);
}

TEST_F(VerbFaults, evaluate)
{
    disturb({.name = "evaluate",
             .arguments = Words{"evaluate", kModel, "--plan", s_inputs->path("uniform.json")} + kText + kCommon,
             .targets = {},
             .again = {"--resume"}});
}

TEST_F(VerbFaults, forward)
{
    disturb({.name = "forward",
             .arguments = Words{"forward", kModel, "--ids", kIds, "--hidden", "--routing", "--out", "{W}/f.safetensors"} + kCommon,
             .targets = {"f.safetensors"}});
}

TEST_F(VerbFaults, compress) { disturb(compress()); }

TEST_F(VerbFaults, report)
{
    Scenario scenario = compress();
    scenario.name = "compress with a report";
    scenario.arguments = scenario.arguments + Words{"--report", "{W}/report.html"};
    // It holds times.
    scenario.ignored.emplace_back("report.html");
    // The next report takes it away, which going on shows.
    scenario.leftovers = "report\\.html\\.partial-[0-9]+-[0-9]+";
    disturb(scenario);
}

// A disk that fails under what is read.
TEST_F(VerbFaults, reading)
{
    Scenario scenario = {.name = "export, reading",
                         .arguments = Words{"export", "{W}/model", "--plan", "{W}/plan.json", "--profile", "{W}/p.h5", "--flavor",
                                            "factored", "--out", "{W}/out"} +
                                      kCommon,
                         .targets = {"out"}};
    scenario.prepare = [](const fs::path& folder) {
        fs::copy(kModel, folder / "model");
        fs::copy(s_inputs->path("ranks.json"), folder / "plan.json");
        fs::copy(s_inputs->profile(), folder / "p.h5");
    };
    DisturbedRun run(scenario);
    for (const long at : callsToDisturb(run.readCalls(), 2 * kSample))
        run.withFault({.at = at, .kind = "EIO", .reads = true});
}

// A checkpoint that changes while it is mapped: no verb makes anything of what is not there, whether the pages are gone (the system sends a
// signal), read as zeros (the last one), or hold other bytes.
TEST_F(VerbFaults, cutShort)
{
    const Scratch scratch;
    const fs::path folder = scratch / "model";
    const std::string model = (folder / "model").string();
    const fs::path out = scratch / "out";
    const Words write = {"--out", out.string()};
    const Words planned = {"--plan", s_inputs->path("ranks.json"), "--profile", s_inputs->profile()};
    const std::vector<Words> verbs = {
        Words{"evaluate", model} + kText,
        Words{"profile", model} + write + kText,
        Words{"merge", out.string(), s_inputs->path("a.h5"), s_inputs->path("b.h5"), "--model", model},
        Words{"forward", model, "--ids", kIds} + write,
        Words{"plan", model, "--profile", s_inputs->profile(), "--prune", "25%", "--select", "genetic", "--kt", "2,2"} + write + kText,
        Words{"export", model, "--plan", s_inputs->path("uniform.json"), "--flavor", "stock"} + write,
        Words{"export", model, "--flavor", "factored"} + planned + write,
        Words{"verify", s_inputs->path("exported"), "--source", model} + kText,
        Words{"compress", model, "--preset", "moe-i2"} + write + kText,
    };
    for (const Words& verb : verbs) {
        const auto run = [&](const Fault& fault, const fs::path& log) {
            fs::remove_all(folder);
            fs::create_directories(folder);
            fs::copy(kModel, folder / "model");
            fs::remove_all(out);
            fs::remove_all(out.string() + ".work");
            return runEngine(verb + kCommon, {}, faultLauncher(folder, fault, log));
        };
        const fs::path log = scratch / "calls.txt";
        fs::remove(log);
        const Outcome whole = run({.reads = true}, log);
        ASSERT_EQ(whole.code, 0) << verb.front() << whole.output << whole.errors;
        fs::remove_all(out);
        std::vector<std::string> calls;
        std::ifstream lines(log);
        for (std::string line; std::getline(lines, line);)
            calls.push_back(line);
        const auto number = [&](const char* name) {
            const auto found = std::find_if(calls.begin(), calls.end(), [&](const std::string& call) { return call.starts_with(name); });
            return found == calls.end() ? 0 : found - calls.begin() + 1;
        };
        const long mapped = number("mmap");
        ASSERT_GT(mapped, 0) << verb.front();
        const long populated = number("populate");
        // Sums of profiles ask for no pages.
        ASSERT_TRUE(populated > mapped || verb.front() == "merge") << verb.front();
        const std::vector<Fault> faults = {
            {mapped, "CUT"}, {mapped, "CLIP"}, {mapped, "WRITTEN"}, {populated, "CLIP"}, {populated, "WRITTEN"}};
        for (const auto& [at, kind, unused] : faults) {
            if (at == 0) continue;
            const Outcome outcome = run({.at = at, .kind = kind, .reads = true}, {});
            const std::string what = verb.front() + ", " + kind + " at " + std::to_string(at) + ": " + outcome.output + outcome.errors;
            EXPECT_EQ(outcome.code, 4) << what;
            const Json answer = Json::parse(outcome.output, nullptr, false);
            ASSERT_TRUE(answer.is_object() && answer.contains("error")) << what;
            EXPECT_EQ(answer["error"]["code"], "input.unreadable") << what;
            EXPECT_NE(answer["error"].value("action", ""), "") << what;
            EXPECT_FALSE(fs::exists(out)) << what;
        }
    }
}

TEST_F(VerbFaults, killedProfile) { kill(profile()); }
TEST_F(VerbFaults, killedPlan) { kill(plan()); }
TEST_F(VerbFaults, killedRecover) { kill(recover()); }
TEST_F(VerbFaults, killedExport) { kill(exported("stock", "uniform.json")); }
TEST_F(VerbFaults, killedTasks) { kill(tasks()); }
TEST_F(VerbFaults, killedCompress) { kill(compress()); }

}  // namespace
}  // namespace espalier::testing
