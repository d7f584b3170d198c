#include "task_report.h"

#include "pipeline/result_json.h"

#include <fmt/format.h>

namespace espalier
{

namespace
{

Json errorJson(const std::optional<double>& error) { return error ? numberJson(*error) : Json(); }

void addAccuracy(Json& json, const std::string& name, const Accuracy& accuracy)
{
    json[name] = numberJson(accuracy.value);
    json[name + "_stderr"] = errorJson(accuracy.error);
}

std::string shown(const Accuracy& accuracy)
{
    return accuracy.error ? fmt::format("{:.4f} ± {:.4f}", accuracy.value, *accuracy.error) : fmt::format("{:.4f}", accuracy.value);
}

std::string shownDifference(const Accuracy& change)
{
    return change.error ? fmt::format("{:+.4f} ± {:.4f}", change.value, *change.error) : fmt::format("{:+.4f}", change.value);
}

TaskAnswers reported(const std::vector<AskedTask>& asked, const TaskScores& scores, const TaskScores& reference, const std::string& against)
{
    Json tasks = Json::object();
    std::vector<Accuracy> accuracies, changes;
    std::string text = fmt::format("{:<16}{:>6}  {:<18}{:<18}{}\n", "task", "items", "acc", "acc_norm",
                                   reference.empty() ? "" : fmt::format("acc beside {}", against == "dense" ? "the dense model" : against));
    for (std::size_t t = 0; t < asked.size(); ++t) {
        const Task& task = asked[t].task;
        const TaskResult result = taskResult(task.items, scores[t], task.file.rules->normalised);
        Json entry = {{"items", task.items.size()},
                      {"rules", task.file.rules->id},
                      {"file", task.file.path.string()},
                      {"sha256", task.sha256},
                      {"hidden", task.hidden}};
        addAccuracy(entry, "acc", result.acc);
        if (result.normalised) addAccuracy(entry, "acc_norm", *result.normalised);
        std::string line = fmt::format("{:<16}{:>6}  {:<18}{:<18}", task.file.name, task.items.size(), shown(result.acc),
                                       result.normalised ? shown(*result.normalised) : "");
        if (!reference.empty()) {
            const TaskResult other = taskResult(task.items, reference[t], task.file.rules->normalised);
            const Accuracy change = pairedAccuracy(result.right, other.right);
            Json delta = Json::object();
            addAccuracy(delta, "acc", change);
            if (result.normalised) addAccuracy(delta, "acc_norm", pairedAccuracy(result.rightNormalised, other.rightNormalised));
            entry["delta"] = std::move(delta);
            changes.push_back(change);
            line += shownDifference(change);
        }
        accuracies.push_back(result.acc);
        while (line.ends_with(' '))
            line.pop_back();
        text += line + "\n";
        tasks[task.file.name] = std::move(entry);
    }
    Json json = {{"tasks", std::move(tasks)}, {"delta", nullptr}, {"against", reference.empty() ? "none" : against}};
    addAccuracy(json, "mean", meanAccuracy(accuracies));
    if (asked.size() > 1) text += fmt::format("{:<16}{:>6}  {:<36}", "mean of acc", "", shown(meanAccuracy(accuracies)));
    if (!reference.empty()) {
        json["delta"] = Json::object();
        addAccuracy(json["delta"], "mean", meanAccuracy(changes));
        if (asked.size() > 1) text += shownDifference(meanAccuracy(changes));
    }
    while (text.ends_with(' '))
        text.pop_back();
    if (!text.ends_with('\n')) text += "\n";
    return {std::move(json), std::move(text)};
}

}  // namespace

void addTaskOptions(CLI::App* verb, TaskQuestions& questions)
{
    verb->add_option("--tasks", questions.data, "Also the multiple-choice tasks of this folder (`tasks --data`)")->type_name("DIR");
    verb->add_option("--task-limit", questions.limit, "The first N questions of every task")->check(CLI::PositiveNumber)->type_name("N");
}

Result<TasksToAsk> askTasks(const TaskQuestions& questions, const std::filesystem::path& model, const Checkpoint& checkpoint,
                            Invocation& invocation)
{
    TasksToAsk asked{questions, {}, {}};
    ESPALIER_TRY(const std::vector<TaskFile> files, chosenTasks(questions.data, questions.names));
    ESPALIER_TRY(const Tokenizer tokenizer, taskTokenizer(model, checkpoint));
    asked.tokenizerSha256 = tokenizer.sha256();
    for (const TaskFile& file : files) {
        ESPALIER_TRY(AskedTask next, askTask(file, questions.limit, questions.examples, tokenizer, checkpoint, invocation.job));
        if (std::string hidden = hiddenAnswers(next.task); !hidden.empty()) invocation.warnings.push_back(std::move(hidden));
        asked.tasks.push_back(std::move(next));
    }
    return asked;
}

Result<TaskAnswers> answerTasks(MoeModel& model, const TasksToAsk& asked, const CompressionPlan& plan,
                                const std::optional<CompressionPlan>& reference, const std::string& against, bool resume,
                                Invocation& invocation)
{
    const TaskScoreKey key{model.checkpoint().fingerprint(), asked.tokenizerSha256, model.numericMode(), asked.questions.examples};
    // Under mpirun every process keeps a file of its own, and the first one's holds all of them at the end.
    ProcessGroup& processes = invocation.processes;
    std::filesystem::path path = TaskScoreFile::defaultPath(key);
    if (!processes.first()) path += fmt::format(".{}", processes.rank() + 1);
    Result<TaskScoreFile> kept = TaskScoreFile::open(path, key, resume);
    if (!kept.ok()) {
        if (resume) return std::move(kept).error();
        invocation.warnings.push_back("Answers are not kept for --resume: " + kept.error().message);
    }
    TaskRun run(model, asked.tasks, kept.ok() ? &*kept : nullptr, invocation.warnings, processes);
    ESPALIER_TRY(TaskScores scores, run.all(plan, invocation.job));
    TaskScores other;
    if (reference) {
        ESPALIER_TRY(other, run.all(*reference, invocation.job));
    }
    std::error_code ignored;
    if (!processes.first()) std::filesystem::remove(path, ignored);
    TaskAnswers answers = reported(asked.tasks, scores, other, against);
    answers.scores = std::move(scores);
    answers.json["plan_hash"] = plan.hash();
    answers.json["model"] = invocation.model;
    answers.json["data"] = asked.questions.data.string();
    answers.json["examples"] = asked.questions.examples;
    return answers;
}

}  // namespace espalier
