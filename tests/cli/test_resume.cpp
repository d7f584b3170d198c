// Searches that are killed without warning go on where they were, and end with the plan of a search that was not.
#include "base/text.h"
#include "cli/engine_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <thread>

namespace espalier::testing
{
namespace
{

using ::testing::HasSubstr;

const std::string kDemo = std::string(ESPALIER_RESOURCES) + "/demo/espalier-demo-moe";
const std::string kText = std::string(ESPALIER_RESOURCES) + "/demo/calibration.txt";
// Long enough a layer that the kill comes in the middle of the search.
const std::vector<std::string> kLongSearch = {
    "--select",  "genetic", "--param", "select.enumerate_below=0", "--param", "select.population=1500", "--param", "select.generations=300",
    "--threads", "1"};

std::vector<std::string> operator+(std::vector<std::string> a, const std::vector<std::string>& b)
{
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

// Lines of results in a state file; the first line is its key.
int finishedIn(const std::filesystem::path& path, const std::string& what)
{
    const Result<std::string> text = readTextFile(path, "test", 1 << 28);
    if (!text.ok()) return 0;
    int found = 0;
    for (std::size_t at = text->find('"' + what + '"'); at != std::string::npos; at = text->find('"' + what + '"', at + 1))
        ++found;
    return found;
}

// Ends without a word once its state holds `count` results. False: it came to its end before.
bool killAfter(const std::vector<std::string>& arguments, const std::filesystem::path& state, const std::string& what, int count)
{
    EngineProcess engine(arguments);
    bool reached = false;
    while (!(reached = finishedIn(state, what) >= count) && !engine.ended()) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    engine.signal(SIGKILL);
    engine.wait();
    return reached;
}

class Resume : public ::testing::Test
{
protected:
    std::string path(const char* name) const { return (scratch / name).string(); }
    void takeProfile()
    {
        const Outcome outcome = runEngine({"profile", kDemo, "--text", kText, "--window-length", "64", "--windows", "4", "--collect",
                                           "counts,gram", "--out", path("p.h5"), "--json"});
        ASSERT_EQ(outcome.code, 0) << outcome.output;
    }
    std::vector<std::string> planVerb(const char* out) const
    {
        return {"plan", kDemo, "--profile", path("p.h5"), "--prune", "25%", "--out", path(out), "--json"};
    }
    Scratch scratch;
};

TEST_F(Resume, aKilledSearchLosesAtMostItsLayer)
{
    takeProfile();
    const auto arguments = planVerb("plan.json") + kLongSearch;
    const std::filesystem::path state = path("plan.json.search");
    ASSERT_TRUE(killAfter(arguments, state, "selection", 2));
    EXPECT_FALSE(std::filesystem::exists(path("plan.json")));
    const int kept = finishedIn(state, "selection");
    // As after a kill in the middle of a write.
    writeFile(path("torn"), *readTextFile(state, "test", 1 << 28) + R"({"stage":"select","selec)");
    std::filesystem::rename(path("torn"), state);

    const Outcome resumed = runEngine(arguments + std::vector<std::string>{"--resume"});
    ASSERT_EQ(resumed.code, 0) << resumed.output << resumed.errors;
    EXPECT_EQ(resumed.json()["recovered"], kept);
    EXPECT_EQ(resumed.json()["warnings"], Json::array());
    EXPECT_FALSE(std::filesystem::exists(state));
    const Outcome whole = runEngine(planVerb("whole.json") + kLongSearch);
    ASSERT_EQ(whole.code, 0) << whole.output;
    EXPECT_EQ(whole.json()["recovered"], 0);
    EXPECT_EQ(*readTextFile(path("plan.json"), "test", 1 << 20), *readTextFile(path("whole.json"), "test", 1 << 20));
}

TEST_F(Resume, anotherSearchDoesNotUseIt)
{
    takeProfile();
    const std::filesystem::path state = path("plan.json.search");
    ASSERT_TRUE(killAfter(planVerb("plan.json") + kLongSearch, state, "selection", 1));
    const auto other = planVerb("plan.json") + std::vector<std::string>{"--select", "greedy", "--resume"};
    const Outcome outcome = runEngine(other);
    ASSERT_EQ(outcome.code, 0) << outcome.output;
    EXPECT_EQ(outcome.json()["recovered"], 0);
    EXPECT_THAT(outcome.json()["warnings"].dump(), HasSubstr("begins again"));
}

TEST_F(Resume, anInterruptedOneSaysHowToGoOn)
{
    takeProfile();
    EngineProcess engine(planVerb("plan.json") + kLongSearch);
    while (finishedIn(path("plan.json.search"), "selection") == 0 && !engine.ended())
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    engine.signal(SIGINT);
    EXPECT_EQ(engine.wait(), 130);
    const Json error = Json::parse(engine.output())["error"];
    EXPECT_EQ(error["code"], "job.cancelled");
    EXPECT_THAT(error["kept"].get<std::string>(), HasSubstr("plan.json.search"));
    EXPECT_THAT(error["action"].get<std::string>(), HasSubstr("--resume"));
}

TEST_F(Resume, measuredPlansAndBlocksAreNotRunAgain)
{
    takeProfile();
    const std::vector<std::string> verified = {
        "--allocate", "verified",        "--param", "allocate.moves=3", "--kt", "2,2",       "--text",
        kText,        "--window-length", "64",      "--windows",        "16",   "--threads", "1"};
    const auto arguments = planVerb("plan.json") + verified;
    ASSERT_TRUE(killAfter(arguments, path("plan.json.search"), "losses", 5));
    const Outcome resumed = runEngine(arguments + std::vector<std::string>{"--resume"});
    ASSERT_EQ(resumed.code, 0) << resumed.output << resumed.errors;
    EXPECT_GE(resumed.json()["recovered"].get<int>(), 5);
    const Outcome whole = runEngine(planVerb("whole.json") + verified);
    ASSERT_EQ(whole.code, 0) << whole.output;
    EXPECT_EQ(*readTextFile(path("plan.json"), "test", 1 << 20), *readTextFile(path("whole.json"), "test", 1 << 20));
}

TEST_F(Resume, compressGoesOnWithItsSearch)
{
    const auto verb = [&](const char* out) {
        return std::vector<std::string>{
                   "compress",  kDemo, "--prune",         "25%", "--kt",     "2,3",      "--rank-average", "off",     "--text", kText,
                   "--windows", "4",   "--window-length", "64",  "--flavor", "factored", "--out",          path(out), "--json"} +
               kLongSearch;
    };
    ASSERT_TRUE(killAfter(verb("small"), path("small.work") + "/search.jsonl", "selection", 3));
    const Outcome resumed = runEngine(verb("small") + std::vector<std::string>{"--resume"});
    ASSERT_EQ(resumed.code, 0) << resumed.output << resumed.errors;
    EXPECT_GE(resumed.json()["stages"]["plan"]["recovered"].get<int>(), 3);
    const Outcome whole = runEngine(verb("other"));
    ASSERT_EQ(whole.code, 0) << whole.output;
    EXPECT_EQ(resumed.json()["plan_hash"], whole.json()["plan_hash"]);
}

}  // namespace
}  // namespace espalier::testing
