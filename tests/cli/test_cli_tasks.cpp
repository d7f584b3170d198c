// Multiple-choice tasks end to end: the numbers of lm-evaluation-harness on the same models and files, a plan and its export, and what
// stopped in between.
#include "cli/tiny_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

namespace espalier::testing
{
namespace
{

namespace fs = std::filesystem;
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

// Tasks beside the perplexity, and in the report and the README of a compression: the numbers of `tasks`.
TEST_F(CliTasks, evaluateAndCompressAskThemToo)
{
    const std::string ids = path("ids.json");
    std::ofstream ids_file(ids);
    ids_file << "[";
    for (int window = 0; window < 4; ++window) {
        ids_file << (window ? ",[" : "[");
        for (int i = 0; i < 32; ++i)
            ids_file << (i ? "," : "") << (7 * i + 31 * window) % 250 + 3;
        ids_file << "]";
    }
    ids_file << "]";
    ids_file.close();
    const std::vector<std::string> text = {"--ids", ids, "--window-length", "32", "--dtype", "fp32"};
    const auto with = [&](std::vector<std::string> words) {
        words.insert(words.end(), text.begin(), text.end());
        return json(std::move(words));
    };
    const std::string folder = path("tasks");
    fs::create_directories(folder);
    for (const char* name : {"piqa.jsonl", "boolq.jsonl"})
        fs::copy_file(kData + "/" + name, fs::path(folder) / name);
    const Outcome compressed = with({"compress", kSmall, "--preset", "moe-i2", "--prune", "25%", "--rank-average", "off", "--tasks", folder,
                                     "--task-limit", "15", "--speed", "--out", path("out"), "--report", path("report.html")});
    ASSERT_EQ(compressed.code, 0) << compressed.output << compressed.errors;
    const Json stage = compressed.json()["stages"]["tasks"];
    const std::string plan = path("out.work") + "/plan.json";
    const Outcome direct = tasks({kSmall, "--data", folder, "--plan", plan, "--limit", "15"});
    ASSERT_EQ(direct.code, 0) << direct.output;
    const Json expected = direct.json();
    EXPECT_EQ(stage["tasks"], expected["tasks"]);
    EXPECT_EQ(stage["mean"], expected["mean"]);
    EXPECT_EQ(stage["delta"], expected["delta"]);
    const auto shown = [](const Json& value) {
        char digits[32];
        std::snprintf(digits, sizeof digits, "%.4f", value.get<double>());
        return std::string(digits);
    };
    const std::string html = readFile(path("report.html"));
    const std::string readme = readFile(path("out") + "/README.md");
    for (const char* name : {"piqa", "boolq"}) {
        EXPECT_NE(html.find(std::string("<td>") + name + "</td><td>15</td><td>" + shown(stage["tasks"][name]["acc"])), std::string::npos);
        EXPECT_NE(readme.find(name), std::string::npos);
    }
    EXPECT_NE(html.find("<td>mean</td><td></td><td>" + shown(stage["mean"])), std::string::npos);
    // How fast, in the report and beside the weights: the numbers that it printed.
    const Json speed = compressed.json()["stages"]["speed"];
    ASSERT_GT(speed["ratio"]["prefill"].get<double>(), 0);
    char ratio[64];
    std::snprintf(ratio, sizeof ratio, "%.2fx (%.2f to %.2f)", speed["ratio"]["prefill"].get<double>(), speed["ratio"]["low"].get<double>(),
                  speed["ratio"]["high"].get<double>());
    for (const std::string* page : {&html, &readme})
        EXPECT_NE(page->find(ratio), std::string::npos) << ratio;
    EXPECT_EQ(Json::parse(readFile(path("out") + "/espalier_plan.json"))["export"]["measured_speed"]["ratio"]["prefill"],
              speed["ratio"]["prefill"]);

    const Outcome evaluated = with({"evaluate", kSmall, "--plan", plan, "--tasks", folder, "--task-limit", "15"});
    ASSERT_EQ(evaluated.code, 0) << evaluated.output << evaluated.errors;
    EXPECT_EQ(evaluated.json()["tasks"]["tasks"], expected["tasks"]);
    // What it printed is both: a perplexity and tasks.
    std::ofstream(path("measured.json")) << evaluated.output;
    const Outcome timed = json({"speed", kSmall, "--plan", plan, "--prefill", "16", "--decode", "4", "--rounds", "2"});
    ASSERT_EQ(timed.code, 0) << timed.output;
    std::ofstream(path("speed.json")) << timed.output;
    const Outcome again = json(
        {"export", kSmall, "--plan", plan, "--out", path("again"), "--measured", path("measured.json"), "--measured", path("speed.json")});
    ASSERT_EQ(again.code, 0) << again.output;
    const std::string other = readFile(path("again") + "/README.md");
    EXPECT_NE(other.find("piqa"), std::string::npos);
    EXPECT_NE(other.find("erplexity"), std::string::npos);
    EXPECT_NE(other.find("| a prompt of 16 tokens |"), std::string::npos);
    EXPECT_NE(other.find("Medians of 2 rounds"), std::string::npos);
    EXPECT_TRUE(with({"evaluate", kSmall}).json()["tasks"].is_null());
    EXPECT_EQ(with({"evaluate", kSmall, "--tasks", path("nowhere")}).json()["error"]["code"], "task.folder_missing");
    EXPECT_EQ(with({"compress", kSmall, "--tasks", path("nowhere"), "--out", path("none")}).json()["error"]["code"], "task.folder_missing");
    EXPECT_FALSE(fs::exists(path("none.work")));
}

// Lines that are no questions are named with file and line before the model runs, and cost no answers of an earlier run.
TEST_F(CliTasks, whatIsNoQuestionIsNamedAndNothingIsLost)
{
    const std::string folder = path("tasks");
    fs::create_directories(folder);
    const auto write = [&](const std::string& name, const std::string& lines) { std::ofstream(fs::path(folder) / name) << lines; };
    const std::string good = R"({"goal": "Open a jar", "sol1": "turn the lid", "sol2": "eat the lid", "label": 0})";
    write("piqa.jsonl", good + "\n" + good + "\n");
    const std::vector<std::string> asked = {kSmall, "--data", folder};
    const auto with = [&](std::vector<std::string> more) {
        more.insert(more.begin(), asked.begin(), asked.end());
        return tasks(std::move(more));
    };
    const Outcome first = with({"--samples", path("first.jsonl")});
    ASSERT_EQ(first.code, 0) << first.output;
    struct Bad {
        const char* file;
        const char* line;
        const char* part;
    };
    for (const Bad& bad :
         {Bad{"boolq.jsonl", R"({"passage": "p", "label": 1})", "\"question\" is missing"},
          Bad{"boolq.jsonl", R"({"passage": "p", "question": "q", "label": "maybe"})", "\"label\""},
          Bad{"rte.jsonl", R"({"sentence1": "a", "sentence2": "b", "label": 7})", "0 to 1"},
          Bad{"winogrande.jsonl", R"({"sentence": "a _ b", "option1": "c", "answer": "1"})", "\"option2\" is missing"},
          Bad{"arc_easy.jsonl", R"({"question": "q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "D"})",
              "\"D\", which is no label"},
          Bad{"hellaswag.jsonl", R"({"activity_label": "a", "ctx_a": "b", "ctx_b": "c", "endings": ["x"], "label": "1"})", "\"label\""}}) {
        write(bad.file, std::string(bad.line) + "\n");
        const Outcome outcome = with({"--resume"});
        EXPECT_EQ(outcome.code, 3) << bad.line;
        const Json error = outcome.json()["error"];
        EXPECT_EQ(error["code"], "task.invalid") << bad.line;
        EXPECT_NE(error["message"].get<std::string>().find(std::string(bad.file) + ", line 1"), std::string::npos) << error;
        EXPECT_NE(error["message"].get<std::string>().find(bad.part), std::string::npos) << error;
        fs::remove(fs::path(folder) / bad.file);
    }
    // A context of one token is one.
    write("openbookqa.jsonl", R"({"question_stem": "a", "choices": {"text": ["b", "c"], "label": ["A", "B"]}, "answerKey": "A"})"
                              "\n");
    const Outcome again = with({"--resume", "--samples", path("again.jsonl")});
    ASSERT_EQ(again.code, 0) << again.output;
    EXPECT_EQ(again.json()["tasks"]["openbookqa"]["items"], 1);
    // The answers of before are those of now, to the bit, and another number of examples is another run.
    const std::vector<Json> before = samples(path("first.jsonl"));
    std::vector<Json> now;
    for (const Json& sample : samples(path("again.jsonl")))
        if (sample["task"] == "piqa") now.push_back(sample);
    EXPECT_EQ(now, before);
    const Outcome shots = with({"--tasks", "piqa", "--fewshot", "1", "--resume", "--samples", path("shots.jsonl")});
    ASSERT_EQ(shots.code, 0) << shots.output;
    EXPECT_NE(samples(path("shots.jsonl"))[0]["loglikelihoods"], before[0]["loglikelihoods"]);
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
