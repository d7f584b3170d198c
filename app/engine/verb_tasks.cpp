#include "base/atomic_file.h"
#include "factor_profiles.h"
#include "pipeline/model_match.h"
#include "pipeline/result_json.h"
#include "task_run.h"
#include "verb_inputs.h"

#include <fmt/format.h>

namespace espalier
{

namespace
{

struct TasksOptions {
    std::filesystem::path model;
    std::filesystem::path data;
    std::vector<std::string> names;
    std::filesystem::path plan;
    std::string against;
    std::vector<std::filesystem::path> profiles;
    std::filesystem::path samples;
    int limit = 0;
    int examples = 0;
    bool resume = false;
    bool force = false;
    bool allowOther = false;
};

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

// JSON lines: what the model said of every item.
std::string samplesOf(const std::vector<AskedTask>& asked, const std::vector<std::vector<ItemScore>>& scores)
{
    std::string lines;
    for (std::size_t t = 0; t < asked.size(); ++t)
        for (std::size_t i = 0; i < scores[t].size(); ++i) {
            const ItemScore& score = scores[t][i];
            Json sums = Json::array();
            for (const double value : score.logLikelihoods)
                sums.push_back(numberJson(value));
            Json line = {{"task", asked[t].task.file.name},
                         {"doc", i},
                         {"loglikelihoods", sums},
                         {"greedy", score.greedy},
                         {"tokens", score.tokens},
                         {"prediction", chosen(score)},
                         {"gold", asked[t].task.items[i].gold}};
            if (asked[t].task.file.rules->normalised) line["prediction_norm"] = chosenNormalised(score, asked[t].task.items[i]);
            lines += line.dump() + "\n";
        }
    return lines;
}

// The table, and the same as JSON.
Json report(const std::vector<AskedTask>& asked, const std::vector<std::vector<ItemScore>>& scores,
            const std::vector<std::vector<ItemScore>>& reference, const std::string& against, Invocation& invocation)
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
    invocation.text = std::move(text);
    return json;
}

Result<Json> tasks(const TasksOptions& options, Invocation& invocation)
{
    if (!options.samples.empty()) ESPALIER_CHECK_OK(checkOutput(options.samples, options.force));
    ESPALIER_TRY(const std::vector<TaskFile> files, chosenTasks(options.data, options.names));
    ESPALIER_TRY(const auto checkpoint, openCheckpoint(options.model, invocation));
    const CompressionPlan dense = CompressionPlan::identity(checkpoint->shape());
    ESPALIER_TRY(FactorSources profiles, openProfiles(options.profiles));
    const auto planOf = [&](const std::filesystem::path& path) -> Result<CompressionPlan> {
        ESPALIER_TRY(CompressionPlan plan, readPlan(path, *checkpoint, options.allowOther));
        ESPALIER_CHECK_OK(bindProfile(plan, path, profiles, checkpoint->fingerprint(), invocation.warnings));
        return plan;
    };
    CompressionPlan plan = dense;
    if (!options.plan.empty()) {
        ESPALIER_TRY(plan, planOf(options.plan));
    }
    std::optional<CompressionPlan> reference;
    const std::string against = !options.against.empty() ? options.against : options.plan.empty() ? "none" : "dense";
    if (against == "dense") {
        reference = dense;
    } else if (against != "none") {
        ESPALIER_TRY(reference, planOf(against));
    }
    ESPALIER_TRY(const Tokenizer tokenizer, taskTokenizer(options.model, *checkpoint));
    std::vector<AskedTask> asked;
    for (const TaskFile& file : files) {
        ESPALIER_TRY(AskedTask next, askTask(file, options.limit, options.examples, tokenizer, *checkpoint, invocation.job));
        if (std::string hidden = hiddenAnswers(next.task); !hidden.empty()) invocation.warnings.push_back(std::move(hidden));
        asked.push_back(std::move(next));
    }
    ESPALIER_TRY(const auto model, createModel(checkpoint, invocation));
    model->setFactorSources(profiles);
    const TaskScoreKey key{checkpoint->fingerprint(), tokenizer.sha256(), model->numericMode(), options.examples};
    Result<TaskScoreFile> kept = TaskScoreFile::open(TaskScoreFile::defaultPath(key), key, options.resume);
    if (!kept.ok()) {
        if (options.resume) return std::move(kept).error();
        invocation.warnings.push_back("Answers are not kept for --resume: " + kept.error().message);
    }
    TaskRun run(*model, asked, kept.ok() ? &*kept : nullptr, invocation.warnings);
    ESPALIER_TRY(const auto scores, run.all(plan, invocation.job));
    std::vector<std::vector<ItemScore>> other;
    if (reference) {
        ESPALIER_TRY(other, run.all(*reference, invocation.job));
    }
    if (!options.samples.empty()) ESPALIER_CHECK_OK(writeFileAtomically(options.samples, samplesOf(asked, scores)));
    Json result = report(asked, scores, other, against, invocation);
    result["plan_hash"] = plan.hash();
    result["data"] = options.data.string();
    result["examples"] = options.examples;
    return result;
}

}  // namespace

void addTasks(Verbs& verbs)
{
    auto options = std::make_shared<TasksOptions>();
    CLI::App* verb = verbs.add("tasks", "Multiple-choice tasks: accuracy of a plan, compared with the dense model",
                               [options](Invocation& invocation) { return tasks(*options, invocation); });
    verb->add_option("MODEL", options->model, "Checkpoint folder")->required();
    verb->add_option("--data", options->data,
                     "Folder with TASK.jsonl files: arc_challenge, arc_easy, boolq, hellaswag, openbookqa, rte, winogrande, piqa; others "
                     "by its tasks.json")
        ->required()
        ->type_name("DIR");
    verb->add_option("--tasks", options->names, "These tasks only (default: all of the folder)")->delimiter(',')->type_name("NAME");
    verb->add_option("--plan", options->plan, "Plan file (default: the dense model)")->type_name("FILE");
    verb->add_option("--against", options->against,
                     "What to compare with on the same questions: dense, none or a plan file (default: dense for a plan)")
        ->type_name("WHAT");
    addProfileOption(verb, options->profiles);
    verb->add_option("--limit", options->limit, "The first N questions of every task")->check(CLI::Range(1, 1 << 30))->type_name("N");
    verb->add_option("--fewshot", options->examples, "Answered questions before each one (default: none)")
        ->check(CLI::Range(0, 1 << 30))
        ->type_name("N");
    verb->add_option("--samples", options->samples, "JSON lines to write: log-likelihoods of every choice")->type_name("FILE");
    verb->add_flag("--resume", options->resume, "Use the answers of an earlier run");
    verb->add_flag("--force", options->force, "Replace existing samples");
    verb->add_flag("--allow-other-model", options->allowOther, "Accept a plan made for another model");
    verb->footer("Contexts, choices and accuracies are those of lm-evaluation-harness 0.4. The mean counts every task alike.");
}

}  // namespace espalier
