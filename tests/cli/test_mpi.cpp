// Two processes of one mpirun give what one process gives.
#include "cli/engine_process.h"
#include "session/profile_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>

namespace espalier::testing
{
namespace
{

namespace fs = std::filesystem;

const std::string kDemo = std::string(ESPALIER_RESOURCES) + "/demo/espalier-demo-moe";
const std::string kText = std::string(ESPALIER_RESOURCES) + "/demo/calibration.txt";

std::string contentOf(const fs::path& path)
{
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

class Mpi : public ::testing::Test
{
protected:
    void SetUp() override
    {
        // Root may run the tests in a container.
        setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
        setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    }
    static Outcome together(const std::vector<std::string>& arguments)
    {
        return runEngine(arguments, {}, {ESPALIER_MPIRUN, "-n", "2", "--oversubscribe"});
    }
    std::vector<std::string> profileInto(const std::string& name, bool resume = false) const
    {
        std::vector<std::string> words = {"profile",         kDemo,
                                          "--text",          kText,
                                          "--windows",       "32",
                                          "--window-length", "64",
                                          "--threads",       "1",
                                          "--collect",       "counts,ean,reap,gram,curves",
                                          "--out",           (scratch / name).string(),
                                          "--json"};
        if (resume) words.emplace_back("--resume");
        return words;
    }
    std::string profile() const
    {
        const Outcome outcome = runEngine(profileInto("p.h5"));
        EXPECT_EQ(outcome.code, 0) << outcome.errors;
        return (scratch / "p.h5").string();
    }

    Scratch scratch;
};

TEST_F(Mpi, questionsOfTasks)
{
    const std::string tasks = std::string(ESPALIER_TEST_FIXTURES) + "/tasks";
    const auto asked = [&](const std::string& samples) {
        return std::vector<std::string>{
            "tasks",     tasks + "/models/qwen3-nobos", "--data",    tasks + "/data", "--tasks", "piqa,arc_easy", "--threads", "1",
            "--samples", (scratch / samples).string(),  "--against", "none",          "--json"};
    };
    const Outcome one = runEngine(asked("one.jsonl"));
    ASSERT_EQ(one.code, 0) << one.errors;
    const Outcome two = together(asked("two.jsonl"));
    ASSERT_EQ(two.code, 0) << two.errors;
    EXPECT_EQ(two.json()["processes"], 2);
    EXPECT_EQ(contentOf(scratch / "one.jsonl"), contentOf(scratch / "two.jsonl"));
    EXPECT_EQ(one.json()["tasks"], two.json()["tasks"]);
    // The first process's answers are all there are to go on from.
    auto again = asked("again.jsonl");
    again.emplace_back("--resume");
    ASSERT_EQ(runEngine(again).code, 0);
    EXPECT_EQ(contentOf(scratch / "one.jsonl"), contentOf(scratch / "again.jsonl"));
}

TEST_F(Mpi, windowsOfAProfile)
{
    profile();
    const Outcome outcome = together(profileInto("two.h5"));
    ASSERT_EQ(outcome.code, 0) << outcome.errors;
    EXPECT_EQ(outcome.json()["processes"], 2);
    const auto one = readProfile(scratch / "p.h5");
    const auto two = readProfile(scratch / "two.h5");
    ASSERT_TRUE(one.ok() && two.ok());
    EXPECT_EQ(one->tokens, two->tokens);
    EXPECT_TRUE(two->has("curves"));
    for (const char* method : {"reap", "leave-one-out", "ean_mean"}) {
        const Json first = runEngine({"score", (scratch / "p.h5").string(), "--method", method, "--json"}).json();
        const Json second = runEngine({"score", (scratch / "two.h5").string(), "--method", method, "--json"}).json();
        ASSERT_EQ(first["values"].size(), second["values"].size()) << method;
        for (std::size_t layer = 0; layer < first["values"].size(); ++layer)
            for (std::size_t expert = 0; expert < first["values"][layer].size(); ++expert) {
                const double a = first["values"][layer][expert];
                const double b = second["values"][layer][expert];
                EXPECT_NEAR(a, b, 1e-12 * std::abs(a)) << method << " layer " << layer << " expert " << expert;
            }
    }
    // Curves are square roots of sums of hundreds of thousands of products: far below what a rank would notice, not to the last bit.
    for (std::size_t layer = 0; layer < one->layers.size(); ++layer) {
        const std::vector<float>& first = one->layers[layer].spectra;
        const std::vector<float>& second = two->layers[layer].spectra;
        ASSERT_EQ(first.size(), second.size());
        const float largest = first.empty() ? 0.0f : *std::max_element(first.begin(), first.end());
        for (std::size_t i = 0; i < first.size(); ++i)
            ASSERT_NEAR(first[i], second[i], 1e-5f * largest) << "layer " << layer;
    }
    for (const auto& entry : fs::directory_iterator(scratch.path())) {
        EXPECT_EQ(entry.path().string().find("-of-"), std::string::npos) << "a shard was left behind: " << entry.path();
        EXPECT_EQ(entry.path().string().find(".state"), std::string::npos) << "left behind: " << entry.path();
    }
}

// Second moments are not always wanted, and never by default where they would be large.
TEST_F(Mpi, aProfileWithoutCurves)
{
    std::vector<std::string> words = profileInto("counts.h5");
    for (std::string& word : words)
        if (word.find("curves") != std::string::npos) word = "counts,ean";
    const Outcome outcome = together(words);
    ASSERT_EQ(outcome.code, 0) << outcome.errors;
    EXPECT_EQ(outcome.json()["collected"], (Json{"counts", "ean"}));
    EXPECT_EQ(readProfile(scratch / "counts.h5")->tokens, 32 * 64);
}

TEST_F(Mpi, finishedShardsAreNotMeasuredAgain)
{
    ASSERT_EQ(together(profileInto("whole.h5")).code, 0);
    // As if the second process had died: the first one's shard is finished.
    std::vector<std::string> shard = profileInto("two.h5.1-of-2");
    for (std::string& word : shard)
        if (word.find("curves") != std::string::npos) word = "counts,ean,reap,gram,moments";
    shard.insert(shard.end(), {"--shard", "1/2"});
    ASSERT_EQ(runEngine(shard).code, 0);
    const auto written = fs::last_write_time(scratch / "two.h5.1-of-2");
    const Outcome refused = together(profileInto("two.h5"));
    EXPECT_EQ(refused.code, 2) << refused.errors;
    ASSERT_TRUE(fs::exists(scratch / "two.h5.1-of-2"));
    EXPECT_EQ(fs::last_write_time(scratch / "two.h5.1-of-2"), written);
    const Outcome outcome = together(profileInto("two.h5", true));
    ASSERT_EQ(outcome.code, 0) << outcome.errors;
    EXPECT_EQ(contentOf(scratch / "two.h5"), contentOf(scratch / "whole.h5"));
}

TEST_F(Mpi, layersOfASearchAndMeasuredPlans)
{
    const std::string p = profile();
    const auto plan = [&](const std::string& out, const std::string& allocator) {
        return std::vector<std::string>{
            "plan",  kDemo, "--profile", p,    "--prune",   "25%", "--allocate", allocator, "--select", "genetic",
            "--kt",  "2,2", "--windows", "24", "--threads", "1",   "--seed",     "5",       "--out",    (scratch / out).string(),
            "--json"};
    };
    for (const std::string allocator : {"importance", "verified"}) {
        const Outcome one = runEngine(plan(allocator + ".one.json", allocator));
        const Outcome two = together(plan(allocator + ".two.json", allocator));
        ASSERT_EQ(one.code, 0) << one.errors;
        ASSERT_EQ(two.code, 0) << two.errors;
        EXPECT_EQ(one.json()["plan_hash"], two.json()["plan_hash"]) << allocator;
        EXPECT_EQ(contentOf(scratch / (allocator + ".one.json")), contentOf(scratch / (allocator + ".two.json")));
        EXPECT_FALSE(fs::exists(scratch / (allocator + ".two.json.search.2")));
    }
}

TEST_F(Mpi, windowsOfAnEvaluationAndShardsOfAnExport)
{
    const std::string plan = (scratch / "plan.json").string();
    ASSERT_EQ(runEngine({"plan", kDemo, "--profile", profile(), "--prune", "25%", "--select", "ranking", "--out", plan}).code, 0);
    // More than one group of windows for each.
    const std::vector<std::string> evaluation = {"evaluate", kDemo,       "--text", kText,    "--windows", "40",   "--window-length",
                                                 "256",      "--threads", "1",      "--plan", plan,        "--kl", "--json"};
    const Json one = runEngine(evaluation).json();
    const Outcome two = together(evaluation);
    ASSERT_EQ(two.code, 0) << two.errors;
    EXPECT_EQ(one["windows"], two.json()["windows"]);
    EXPECT_EQ(one["delta"], two.json()["delta"]);
    EXPECT_EQ(one["kl"], two.json()["kl"]);

    const auto exported = [&](const char* folder) {
        return std::vector<std::string>{
            "export", kDemo, "--plan", plan, "--flavor", "factored", "--shard-size", "2MB", "--out", (scratch / folder).string(), "--json"};
    };
    ASSERT_EQ(runEngine(exported("one")).code, 0);
    const Outcome export2 = together(exported("two"));
    ASSERT_EQ(export2.code, 0) << export2.errors;
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(scratch / "one"))
        names.insert(entry.path().filename().string());
    EXPECT_GT(names.size(), 8u) << "the export has too few shards to be shared";
    for (const std::string& name : names)
        EXPECT_EQ(contentOf(scratch / "one" / name), contentOf(scratch / "two" / name)) << name;
    for (const auto& entry : fs::directory_iterator(scratch / "two"))
        EXPECT_TRUE(names.contains(entry.path().filename().string())) << entry.path();
}

TEST_F(Mpi, oneMessageWhereSomethingIsWrong)
{
    const Outcome missing = together({"evaluate", (scratch / "nothing").string(), "--text", kText, "--json"});
    EXPECT_EQ(missing.code, 3);
    EXPECT_TRUE(missing.json().contains("error")) << missing.output;
    const Outcome alone = together({"inspect", kDemo, "--json"});
    EXPECT_EQ(alone.code, 2) << alone.errors;
}

}  // namespace
}  // namespace espalier::testing
