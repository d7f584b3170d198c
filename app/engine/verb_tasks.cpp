#include "base/atomic_file.h"
#include "base/text.h"
#include "evaluate/choice_scoring.h"
#include "factor_profiles.h"
#include "pipeline/model_match.h"
#include "pipeline/result_json.h"
#include "tasks/task_files.h"
#include "tasks/task_results.h"
#include "tasks/task_score_file.h"
#include "tokenizer/tokenizer.h"
#include "verb_inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

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

// One task with what the model is asked, in the order of items and choices.
struct Asked {
    Task task;
    std::vector<ChoiceRequest> requests;
    std::vector<std::size_t> first;  // request of each item's first choice
};

// The chosen tasks, or all of the folder.
Result<std::vector<TaskFile>> chosenTasks(const TasksOptions& options)
{
    ESPALIER_TRY(const std::vector<TaskFile> there, findTaskFiles(options.data));
    std::string names;
    for (const TaskFile& file : there)
        names += (names.empty() ? "" : ", ") + file.name;
    if (there.empty())
        return badInput("task.none", options.data.string(), fmt::format("{} holds no task files.", options.data.string()),
                        "Put files as hellaswag.jsonl there, or list others in tasks.json.");
    if (options.names.empty()) return there;
    std::vector<TaskFile> chosen;
    for (const std::string& name : options.names) {
        const auto found = std::find_if(there.begin(), there.end(), [&](const TaskFile& file) { return file.name == name; });
        if (found == there.end())
            return badInput("task.unknown", name, fmt::format("{} has no task \"{}\".", options.data.string(), name),
                            fmt::format("There are: {}.", names));
        chosen.push_back(*found);
    }
    return chosen;
}

Result<Asked> ask(const TaskFile& file, const TasksOptions& options, const Tokenizer& tokenizer, int positions, JobContext& job)
{
    Asked asked;
    ESPALIER_TRY(asked.task, readTask(file, options.limit, options.examples));
    for (std::size_t i = 0; i < asked.task.items.size(); ++i) {
        if (job.stopRequested()) return cancelledError();
        const TaskItem& item = asked.task.items[i];
        asked.first.push_back(asked.requests.size());
        for (std::size_t choice = 0; choice < item.choices(); ++choice) {
            Result<ChoiceRequest> request = encodeChoice(tokenizer, item.contexts[choice], item.continuations[choice], positions);
            if (!request.ok()) {
                Error error = std::move(request).error();
                error.message = fmt::format("{}, question {}, choice {}: {}", file.name, i + 1, choice + 1, error.message);
                return error;
            }
            asked.requests.push_back(std::move(request).value());
        }
    }
    return asked;
}

// Scores of all items under one plan, those of an earlier run included.
class Measurement
{
public:
    Measurement(MoeModel& model, const std::vector<Asked>& asked, TaskScoreFile* file, Invocation& invocation)
        : m_model(model), m_asked(asked), m_file(file), m_invocation(invocation)
    {
    }

    Result<std::vector<std::vector<ItemScore>>> run(const CompressionPlan& plan)
    {
        std::vector<std::vector<ItemScore>> scores;
        std::vector<ChoiceRequest> requests;
        std::vector<Place> places;
        for (std::size_t t = 0; t < m_asked.size(); ++t) {
            const Asked& asked = m_asked[t];
            scores.emplace_back(asked.task.items.size());
            for (std::size_t i = 0; i < asked.task.items.size(); ++i) {
                const std::size_t choices = asked.task.items[i].choices();
                const ItemScore* known = m_file ? m_file->find(plan.hash(), asked.task.sha256, static_cast<int>(i)) : nullptr;
                if (known && known->tokens.size() == choices) {
                    scores[t][i] = *known;
                    continue;
                }
                for (std::size_t choice = 0; choice < choices; ++choice) {
                    places.push_back({t, i, choice});
                    requests.push_back(asked.requests[asked.first[i] + choice]);
                }
                ItemScore& score = scores[t][i];
                score.logLikelihoods.assign(choices, std::numeric_limits<double>::quiet_NaN());
                score.greedy.assign(choices, false);
                for (std::size_t choice = 0; choice < choices; ++choice)
                    score.tokens.push_back(asked.requests[asked.first[i] + choice].scored);
            }
        }
        const Status status = scoreChoices(m_model, plan, requests, m_invocation.job, [&](std::size_t request, const ChoiceScore& score) {
            const Place& place = places[request];
            ItemScore& item = scores[place.task][place.item];
            item.logLikelihoods[place.choice] = score.logLikelihood;
            item.greedy[place.choice] = score.greedy;
            const bool whole =
                std::none_of(item.logLikelihoods.begin(), item.logLikelihoods.end(), [](double value) { return std::isnan(value); });
            if (whole) keep(plan.hash(), place, item);
            return Status();
        });
        if (m_file) note(m_file->flush());
        if (!status.ok()) {
            Error error = status.error();
            if (m_file) error.kept = "Questions that were answered are kept: the same command with --resume goes on.";
            return error;
        }
        return scores;
    }

private:
    struct Place {
        std::size_t task = 0, item = 0, choice = 0;
    };

    void keep(const std::string& planHash, const Place& place, const ItemScore& score)
    {
        if (m_file) note(m_file->append(planHash, m_asked[place.task].task.sha256, static_cast<int>(place.item), score));
    }
    void note(const Status& kept)
    {
        if (kept.ok()) return;
        m_file = nullptr;
        m_invocation.warnings.push_back("Answers from now on are not kept for --resume: " + kept.error().message);
    }

    MoeModel& m_model;
    const std::vector<Asked>& m_asked;
    TaskScoreFile* m_file;
    Invocation& m_invocation;
};

Json errorJson(const std::optional<double>& error) { return error ? numberJson(*error) : Json(); }

void addAccuracy(Json& json, const std::string& name, const Accuracy& accuracy)
{
    json[name] = numberJson(accuracy.value);
    json[name + "_stderr"] = errorJson(accuracy.error);
}

// Mean over tasks, each of which counts alike; its error from theirs.
Accuracy meanOf(const std::vector<Accuracy>& values)
{
    Accuracy mean{0, 0.0};
    for (const Accuracy& each : values) {
        mean.value += each.value / static_cast<double>(values.size());
        mean.error = mean.error && each.error ? std::optional(*mean.error + *each.error * *each.error) : std::nullopt;
    }
    if (mean.error) mean.error = std::sqrt(*mean.error) / static_cast<double>(values.size());
    return mean;
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
std::string samplesOf(const std::vector<Asked>& asked, const std::vector<std::vector<ItemScore>>& scores)
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
Json report(const std::vector<Asked>& asked, const std::vector<std::vector<ItemScore>>& scores,
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
    addAccuracy(json, "mean", meanOf(accuracies));
    if (asked.size() > 1) text += fmt::format("{:<16}{:>6}  {:<36}", "mean of acc", "", shown(meanOf(accuracies)));
    if (!reference.empty()) {
        json["delta"] = Json::object();
        addAccuracy(json["delta"], "mean", meanOf(changes));
        if (asked.size() > 1) text += shownDifference(meanOf(changes));
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
    ESPALIER_TRY(const std::vector<TaskFile> files, chosenTasks(options));
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
    Result<Tokenizer> loaded = Tokenizer::load(options.model, checkpoint->shape().vocabularySize);
    if (!loaded.ok()) {
        Error error = std::move(loaded).error();
        // Questions are texts: there are no ids to give instead.
        if (error.code == "tokenizer.missing") {
            error.action = "Put the model's tokenizer.json there.";
            error.actionPattern.clear();
        }
        return error;
    }
    const Tokenizer tokenizer = std::move(loaded).value();
    const int stated = checkpoint->shape().maxPositions;
    std::vector<Asked> asked;
    for (const TaskFile& file : files) {
        ESPALIER_TRY(Asked next, ask(file, options, tokenizer, stated > 0 ? stated : std::numeric_limits<int>::max() - 1, invocation.job));
        if (next.task.hidden > 0)
            invocation.warnings.push_back(fmt::format("{}: {} of {} questions do not say which answer is right, and count as wrong.",
                                                      file.name, next.task.hidden, next.task.items.size()));
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
    Measurement measurement(*model, asked, kept.ok() ? &*kept : nullptr, invocation);
    ESPALIER_TRY(const auto scores, measurement.run(plan));
    std::vector<std::vector<ItemScore>> other;
    if (reference) {
        ESPALIER_TRY(other, measurement.run(*reference));
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
    verb->add_option("--limit", options->limit, "The first N questions of every task")->check(CLI::PositiveNumber)->type_name("N");
    verb->add_option("--fewshot", options->examples, "Answered questions before each one (default: none)")
        ->check(CLI::NonNegativeNumber)
        ->type_name("N");
    verb->add_option("--samples", options->samples, "JSON lines to write: log-likelihoods of every choice")->type_name("FILE");
    verb->add_flag("--resume", options->resume, "Use the answers of an earlier run");
    verb->add_flag("--force", options->force, "Replace existing samples");
    verb->add_flag("--allow-other-model", options->allowOther, "Accept a plan made for another model");
    verb->footer("Contexts, choices and accuracies are those of lm-evaluation-harness 0.4. The mean counts every task alike.");
}

}  // namespace espalier
