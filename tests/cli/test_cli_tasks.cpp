// Multiple-choice tasks end to end: the numbers of lm-evaluation-harness on the same models and files, a plan and its export, and what
// stopped in between.
#include "cli/tiny_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

namespace espalier::testing
{
namespace
{

const std::string kTasks = std::string(ESPALIER_TEST_FIXTURES) + "/tasks";
const std::string kData = kTasks + "/data";
const std::string kSmall = kTasks + "/models/qwen3-nobos";

std::vector<Json> samples(const std::filesystem::path& path)
{
    std::vector<Json> result;
    std::istringstream in(readFile(path));
    for (std::string line; std::getline(in, line);)
        result.push_back(Json::parse(line));
    return result;
}

class CliTasks : public ::testing::Test
{
protected:
    Outcome tasks(std::vector<std::string> arguments) const
    {
        arguments.insert(arguments.begin(), "tasks");
        arguments.insert(arguments.end(), {"--dtype", "fp32", "--force"});
        return json(std::move(arguments));
    }
    std::string path(const std::string& name) const { return (scratch / name).string(); }
    const Scratch scratch;
};

class CliTasksOf : public CliTasks, public ::testing::WithParamInterface<const char*>
{
};

TEST_P(CliTasksOf, numbersAreThoseOfTheHarness)
{
    const std::string name = GetParam();
    const std::string model = name == "espalier-demo-moe" ? std::string(ESPALIER_RESOURCES) + "/demo/" + name : kTasks + "/models/" + name;
    const Outcome outcome = tasks({model, "--data", kData, "--samples", path("samples.jsonl")});
    ASSERT_EQ(outcome.code, 0) << outcome.output << outcome.errors;
    const Json answer = outcome.json();
    const Json golden = Json::parse(readFile(kTasks + "/goldens/" + name + ".json"));
    std::map<std::string, std::vector<Json>> found;
    for (Json& sample : samples(path("samples.jsonl")))
        found[sample["task"].get<std::string>()].push_back(std::move(sample));
    for (const auto& [task, expected] : golden["tasks"].items()) {
        SCOPED_TRACE(task);
        const Json& result = answer["tasks"][task];
        for (const char* key : {"acc", "acc_stderr", "acc_norm", "acc_norm_stderr"})
            if (expected.contains(key)) {
                EXPECT_NEAR(result[key].get<double>(), expected[key].get<double>(), 1e-12) << key;
            }
        EXPECT_EQ(result.contains("acc_norm"), expected.contains("acc_norm"));
        ASSERT_EQ(found[task].size(), expected["items"].size());
        for (std::size_t i = 0; i < found[task].size(); ++i) {
            const Json& sample = found[task][i];
            const Json& item = expected["items"][i];
            EXPECT_EQ(sample["tokens"], item["tokens"]) << i;
            EXPECT_EQ(sample["prediction"] == sample["gold"], item["acc"] == 1) << i;
            for (std::size_t choice = 0; choice < item["loglikelihood"].size(); ++choice) {
                const double sum = item["loglikelihood"][choice];
                EXPECT_NEAR(sample["loglikelihoods"][choice].get<double>(), sum, 2e-4 + 2e-6 * std::abs(sum)) << i << ", " << choice;
                EXPECT_EQ(sample["greedy"][choice].get<bool>(), item["greedy"][choice] == 1) << i << ", " << choice;
            }
        }
    }
}
INSTANTIATE_TEST_SUITE_P(Models, CliTasksOf, ::testing::Values("espalier-demo-moe", "mixtral-bos", "olmoe-bos-eos", "qwen3-nobos"));

// Under a plan, and of the checkpoint that the plan makes: the same answers. The difference to the dense model is one on the same
// questions.
TEST_F(CliTasks, aPlanAndItsExportAnswerAlike)
{
    std::ofstream(path("plan.json")) << R"({"version":1,"layers":[{"layer":0,"kept":[0,1,3,5]},{"layer":1,"kept":[0,2,4,5]}]})";
    const Outcome plan = tasks({kSmall, "--data", kData, "--plan", path("plan.json"), "--samples", path("a.jsonl"), "--limit", "20"});
    ASSERT_EQ(plan.code, 0) << plan.output;
    ASSERT_EQ(json({"export", kSmall, "--plan", path("plan.json"), "--out", path("out")}).code, 0);
    const Outcome exported = tasks({path("out"), "--data", kData, "--samples", path("b.jsonl"), "--limit", "20", "--stream"});
    ASSERT_EQ(exported.code, 0) << exported.output;
    EXPECT_EQ(readFile(path("a.jsonl")), readFile(path("b.jsonl")));
    const Outcome dense = tasks({kSmall, "--data", kData, "--limit", "20"});
    ASSERT_EQ(dense.code, 0) << dense.output;
    const Json pruned = plan.json();
    const Json whole = dense.json();
    EXPECT_EQ(pruned["against"], "dense");
    EXPECT_NEAR(pruned["delta"]["mean"].get<double>(), pruned["mean"].get<double>() - whole["mean"].get<double>(), 1e-12);
    for (const auto& [name, task] : pruned["tasks"].items())
        EXPECT_NEAR(task["delta"]["acc"].get<double>(), task["acc"].get<double>() - whole["tasks"][name]["acc"].get<double>(), 1e-12)
            << name;
}

// What was answered before is not asked again, and the end is the same.
TEST_F(CliTasks, goesOnWhereItWas)
{
    const std::vector<std::string> some = {kSmall, "--data", kData, "--tasks", "rte,piqa"};
    auto with = [&](std::vector<std::string> more) {
        more.insert(more.begin(), some.begin(), some.end());
        return tasks(std::move(more));
    };
    ASSERT_EQ(with({"--samples", path("whole.jsonl")}).code, 0);
    ASSERT_EQ(with({"--limit", "7"}).code, 0);
    ASSERT_EQ(with({"--resume", "--samples", path("again.jsonl")}).code, 0);
    EXPECT_EQ(samples(path("again.jsonl")).size(), 120u);
    const auto whole = samples(path("whole.jsonl"));
    const auto again = samples(path("again.jsonl"));
    for (std::size_t i = 0; i < whole.size(); ++i) {
        EXPECT_EQ(again[i]["prediction"], whole[i]["prediction"]);
        for (std::size_t choice = 0; choice < whole[i]["loglikelihoods"].size(); ++choice)
            EXPECT_NEAR(again[i]["loglikelihoods"][choice].get<double>(), whole[i]["loglikelihoods"][choice].get<double>(), 1e-4);
    }
}

TEST_F(CliTasks, faultsAreNamed)
{
    const auto code = [](const Outcome& outcome) { return outcome.json()["error"]["code"].get<std::string>(); };
    EXPECT_EQ(code(tasks({kSmall, "--data", path("nowhere")})), "task.folder_missing");
    EXPECT_EQ(code(tasks({kSmall, "--data", scratch.path().string()})), "task.none");
    EXPECT_EQ(code(tasks({kSmall, "--data", kData, "--tasks", "mmlu"})), "task.unknown");
    const Outcome wordless = tasks({kModel, "--data", kData});
    EXPECT_EQ(code(wordless), "tokenizer.missing");
    EXPECT_EQ(wordless.json()["error"]["action"].get<std::string>().find("--ids"), std::string::npos) << "which tasks do not take";
    std::ofstream(path("openbookqa.jsonl"))
        << R"({"question_stem": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"})"
        << "\n"
        << R"({"question_stem": " ", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"})"
        << "\n";
    const Outcome empty = tasks({kSmall, "--data", scratch.path().string()});
    EXPECT_EQ(code(empty), "task.no_tokens");
    EXPECT_NE(empty.json()["error"]["message"].get<std::string>().find("question 2"), std::string::npos);
}

}  // namespace
}  // namespace espalier::testing
