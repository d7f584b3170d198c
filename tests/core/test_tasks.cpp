// Multiple-choice tasks before the model: the questions and token ids that lm-evaluation-harness makes of the same files, and files that it
// could not read.
#include "base/json.h"
#include "tasks/choice_request.h"
#include "tasks/python_text.h"
#include "tasks/task_files.h"
#include "tasks/task_results.h"
#include "tasks/task_score_file.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace espalier
{
namespace
{

namespace fs = std::filesystem;
const fs::path kFixtures = fs::path(ESPALIER_TEST_FIXTURES) / "tasks";

Json readJson(const fs::path& path)
{
    std::ifstream in(path);
    return Json::parse(in);
}

std::vector<Json> jsonLines(const fs::path& path)
{
    std::vector<Json> result;
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);)
        if (!line.empty()) result.push_back(Json::parse(line));
    return result;
}

class TaskFolder : public ::testing::Test
{
protected:
    TaskFolder()
    {
        std::string pattern = (fs::temp_directory_path() / "espalier-tasks-XXXXXX").string();
        folder = mkdtemp(pattern.data());
    }
    ~TaskFolder() override { fs::remove_all(folder); }
    void write(const std::string& name, const std::string& text) const
    {
        fs::create_directories((folder / name).parent_path());
        std::ofstream(folder / name, std::ios::binary) << text;
    }
    // The items of the only task of the folder.
    Result<Task> read(int limit = 0, int examples = 0) const
    {
        auto files = findTaskFiles(folder);
        if (!files.ok()) return std::move(files).error();
        return readTask(files->at(0), limit, examples);
    }
    Error failure(const std::string& task, const std::string& line) const
    {
        write(task + ".jsonl", line + "\n");
        const auto result = read();
        fs::remove(folder / (task + ".jsonl"));
        return result.ok() ? Error{} : result.error();
    }
    fs::path folder;
};

TEST(Tasks, questionsAreThoseOfTheHarness)
{
    const auto files = findTaskFiles(kFixtures / "data");
    ASSERT_TRUE(files.ok()) << files.error().describe();
    ASSERT_EQ(files->size(), allTaskRules().size());
    for (const TaskFile& file : *files) {
        const auto task = readTask(file, 0, 0);
        ASSERT_TRUE(task.ok()) << task.error().describe();
        const std::vector<Json> expected = jsonLines(kFixtures / "requests" / (file.name + ".jsonl"));
        ASSERT_EQ(task->items.size(), expected.size()) << file.name;
        for (std::size_t i = 0; i < expected.size(); ++i) {
            const TaskItem& item = task->items[i];
            SCOPED_TRACE(file.name + ", item " + std::to_string(i));
            const Json& context = expected[i]["context"];
            for (std::size_t choice = 0; choice < item.choices(); ++choice)
                EXPECT_EQ(item.contexts[choice], context.is_array() ? context[choice] : context);
            EXPECT_EQ(Json(item.continuations), expected[i]["continuation"]);
            EXPECT_EQ(item.gold, expected[i]["gold"]);
        }
    }
}

// Single requests with the rules at their edges: white space that moves, prefixes, windows, what cannot be scored.
TEST(Tasks, contextAndContinuationAreJoinedAsInTheHarness)
{
    int compared = 0;
    for (const std::string name : {"espalier-demo-moe", "mixtral-bos", "olmoe-bos-eos", "qwen3-nobos"}) {
        const fs::path model = name == "espalier-demo-moe" ? fs::path(ESPALIER_RESOURCES) / "demo" / name : kFixtures / "models" / name;
        const auto tokenizer = Tokenizer::load(model);
        ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().describe();
        const Json golden = readJson(kFixtures / "goldens" / (name + ".json"));
        const int positions = golden["max_length"];
        for (const Json& pair : golden["pairs"]) {
            SCOPED_TRACE(name + ": " + pair["what"].get<std::string>());
            const auto request =
                encodeChoice(*tokenizer, pair["context"].get<std::string>(), pair["continuation"].get<std::string>(), positions);
            if (pair.contains("error")) {
                ASSERT_FALSE(request.ok());
                EXPECT_TRUE(request.error().code == "task.no_tokens" || request.error().code == "task.too_long") << request.error().code;
                EXPECT_FALSE(request.error().action.empty());
                continue;
            }
            ASSERT_TRUE(request.ok()) << request.error().describe();
            EXPECT_EQ(request->contextTokens, pair["context_tokens"]);
            EXPECT_EQ(request->scored, pair["tokens"]);
            EXPECT_LE(static_cast<int>(request->ids.size()), positions + 1);
            const std::vector<int> scored(request->ids.end() - request->scored, request->ids.end());
            if (pair.contains("continuation_ids")) {
                EXPECT_EQ(Json(scored), pair["continuation_ids"]);
            }
            if (pair.contains("context_ids") && request->ids.size() == pair["context_ids"].size() + scored.size()) {
                EXPECT_EQ(Json(std::vector<int>(request->ids.begin(), request->ids.end() - request->scored)), pair["context_ids"]);
            }
            ++compared;
        }
    }
    EXPECT_GT(compared, 150);
}

TEST(Tasks, textsAreThoseOfPython)
{
    EXPECT_EQ(capitalized("then Mr. Knightley and EMMA"), "Then mr. knightley and emma");
    EXPECT_EQ(capitalized("ßA"), "Ssa");
    EXPECT_EQ(capitalized("ǆUR"), "ǅur");
    EXPECT_EQ(capitalized("ΟΔΟΣ ΟΔΟΣ"), "Οδος οδος");
    EXPECT_EQ(capitalized(" X"), " x");
    EXPECT_EQ(capitalized(""), "");
    EXPECT_EQ(stripped("\u2003\u001f a b\u00a0\n"), "a b");
    EXPECT_EQ(stripped("\u200b a"), "\u200b a") << "a zero width space is none";
    EXPECT_EQ(codePoints("e\u0301\U0001F600"), 3u);
}

// Ties go to the first; an empty choice never wins by length; one question has no error.
TEST(Tasks, accuracies)
{
    TaskItem item;
    item.continuations = {" a", " bb", " "};
    item.lengths = {1, 2, 0};
    EXPECT_EQ(chosen({{-2, -1, -1}, {}, {}}), 1);
    EXPECT_EQ(chosenNormalised({{-2, -3, -0.5}, {}, {}}, item), 1);
    item.lengths = {0, 0, 0};
    EXPECT_EQ(chosenNormalised({{-2, -3, -0.5}, {}, {}}, item), 0);
    EXPECT_FALSE(accuracy(std::vector<double>{1}).error);
    const Accuracy change = pairedAccuracy(std::vector<double>{1, 0, 1, 1}, std::vector<double>{1, 1, 0, 0});
    EXPECT_DOUBLE_EQ(change.value, 0.25);
    EXPECT_DOUBLE_EQ(*change.error, std::sqrt((0.0625 + 1.5625 + 0.5625 + 0.5625) / 3) / 2);
}

TEST_F(TaskFolder, originalLayoutsAreRead)
{
    write("arc_easy/ARC.txt", "not read");
    write(
        "arc_easy/test.jsonl",
        R"({"id": "1", "question": {"stem": "What?", "choices": [{"text": "no", "label": "A"}, {"text": "yes", "label": "B"}]}, "answerKey": "B"})");
    write("arc_easy/validation.jsonl", "{}");
    auto task = read();
    ASSERT_TRUE(task.ok()) << task.error().describe();
    EXPECT_EQ(task->items[0].contexts[0], "Question: What?\nAnswer:");
    EXPECT_EQ(task->items[0].gold, 1);
    fs::remove_all(folder / "arc_easy");
    write("boolq/dev.jsonl", "\xEF\xBB\xBF{\"question\": \"is it\", \"passage\": \"It is.\", \"answer\": true, \"title\": \"t\"}\r\n\n");
    task = read();
    ASSERT_TRUE(task.ok()) << task.error().describe();
    EXPECT_EQ(task->items[0].contexts[0], "It is.\nQuestion: is it?\nAnswer:");
    EXPECT_EQ(task->items[0].gold, 1);
    fs::remove_all(folder / "boolq");
    write("rte.jsonl", R"({"premise": "A.", "hypothesis": "B.", "label": "not_entailment"})");
    task = read();
    ASSERT_TRUE(task.ok()) << task.error().describe();
    EXPECT_EQ(task->items[0].contexts[0], "A.\nQuestion: B. True or False?\nAnswer:");
    EXPECT_EQ(task->items[0].gold, 1);
}

TEST_F(TaskFolder, whatCannotBeAskedIsNamedWithItsLine)
{
    const auto expect = [&](const std::string& task, const std::string& line, const std::string& part) {
        const Error error = failure(task, line);
        EXPECT_EQ(error.code, "task.invalid") << task << line;
        EXPECT_NE(error.message.find(part), std::string::npos) << error.message;
        EXPECT_NE(error.message.find("line 1"), std::string::npos) << error.message;
    };
    expect("piqa", "not json", "JSON object");
    expect("piqa", R"({"goal": "g", "sol1": "a", "label": 0})", "sol2");
    expect("piqa", R"({"goal": "g", "sol1": "a", "sol2": "b", "label": 2})", "label");
    expect("piqa", R"({"goal": 1, "sol1": "a", "sol2": "b", "label": 0})", "goal");
    expect("arc_easy", R"({"question": "q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "C"})", "answerKey");
    expect("arc_easy", R"({"question": "q", "choices": {"text": ["a", "b"], "label": ["A"]}, "answerKey": "A"})", "choices");
    expect("hellaswag", R"({"activity_label": "a", "ctx_a": "b", "ctx_b": "c", "endings": [], "label": "0"})", "endings");
    expect("winogrande", R"({"sentence": "no gap", "option1": "a", "option2": "b", "answer": "1"})", "gap");
    expect("winogrande", R"({"sentence": "a _ b", "option1": "a", "option2": "b", "answer": "3"})", "answer");
    EXPECT_EQ(failure("rte", "").code, "task.empty");
    write("tasks.json", R"({"mine": {"file": "../else.jsonl", "rules": "rte"}})");
    EXPECT_EQ(findTaskFiles(folder).error().code, "task.invalid_json");
    EXPECT_EQ(findTaskFiles(folder / "nowhere").error().code, "task.folder_missing");
}

TEST_F(TaskFolder, hiddenLabelsAreCountedAndNamed)
{
    write("piqa.jsonl", R"({"goal": "g", "sol1": "a", "sol2": "b", "label": -1})");
    const auto task = read();
    ASSERT_TRUE(task.ok());
    EXPECT_EQ(task->hidden, 1);
    EXPECT_EQ(taskResult(task->items, std::vector<ItemScore>{{{-1, -2}, {false, false}, {1, 1}}}, true).acc.value, 0);
}

// Examples come from the other questions of the file, answered; a limit takes nothing from them.
TEST_F(TaskFolder, examplesStandBeforeTheQuestion)
{
    std::string lines;
    for (const char* goal : {"one", "two", "three"})
        lines += std::string(R"({"goal": ")") + goal + R"(", "sol1": "a", "sol2": "b", "label": 1})" + "\n";
    write("piqa.jsonl", lines);
    const auto task = read(1, 2);
    ASSERT_TRUE(task.ok()) << task.error().describe();
    ASSERT_EQ(task->items.size(), 1u);
    EXPECT_EQ(task->items[0].contexts[1], "Question: two\nAnswer: b\n\nQuestion: three\nAnswer: b\n\nQuestion: one\nAnswer:");
    EXPECT_EQ(read(0, 3).error().code, "task.few_items");
}

// What an interrupted run found is found again, by the same model and nobody else; a torn end costs what it holds.
TEST_F(TaskFolder, scoresSurviveTheirProcess)
{
    const TaskScoreKey key{"f", "t", "fp32", 0};
    const fs::path path = folder / "scores.jsonl";
    const ItemScore score{{-1.25, -2.5}, {true, false}, {1, 2}};
    {
        auto file = TaskScoreFile::open(path, key, false);
        ASSERT_TRUE(file.ok()) << file.error().describe();
        ASSERT_TRUE(file->append("plan", "task", 0, score).ok());
        ASSERT_TRUE(file->flush().ok());
        ASSERT_TRUE(file->append("plan", "task", 1, score).ok());
        ASSERT_TRUE(file->flush().ok());
    }
    fs::resize_file(path, fs::file_size(path) - 3);
    auto file = TaskScoreFile::open(path, key, true);
    ASSERT_TRUE(file.ok()) << file.error().describe();
    ASSERT_TRUE(file->find("plan", "task", 0));
    EXPECT_EQ(file->find("plan", "task", 0)->logLikelihoods, score.logLikelihoods);
    EXPECT_EQ(file->find("plan", "task", 0)->greedy, score.greedy);
    EXPECT_FALSE(file->find("plan", "task", 1));
    EXPECT_FALSE(file->find("other", "task", 0));
    TaskScoreKey other = key;
    other.fingerprint = "g";
    auto foreign = TaskScoreFile::open(path, other, true);
    ASSERT_TRUE(foreign.ok());
    EXPECT_FALSE(foreign->find("plan", "task", 0));
}

}  // namespace
}  // namespace espalier
