#include "base/atomic_file.h"
#include "factor_profiles.h"
#include "pipeline/model_match.h"
#include "pipeline/result_json.h"
#include "task_report.h"
#include "verb_inputs.h"

#include <fmt/format.h>

namespace espalier
{

namespace
{

struct TasksOptions {
    std::filesystem::path model;
    TaskQuestions questions;
    std::filesystem::path plan;
    std::string against;
    std::vector<std::filesystem::path> profiles;
    std::filesystem::path samples;
    bool resume = false;
    bool force = false;
    bool allowOther = false;
};

// JSON lines: what the model said of every item.
std::string samplesOf(const std::vector<AskedTask>& asked, const TaskScores& scores)
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

Result<Json> tasks(const TasksOptions& options, Invocation& invocation)
{
    if (!options.samples.empty()) ESPALIER_CHECK_OK(checkOutput(options.samples, options.force));
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
    ESPALIER_TRY(const TasksToAsk asked, askTasks(options.questions, options.model, *checkpoint, invocation));
    ESPALIER_TRY(const auto model, createModel(checkpoint, invocation));
    model->setFactorSources(profiles);
    ESPALIER_TRY(TaskAnswers answers, answerTasks(*model, asked, plan, reference, against, options.resume, invocation));
    if (!options.samples.empty() && invocation.processes.first())
        ESPALIER_CHECK_OK(writeFileAtomically(options.samples, samplesOf(asked.tasks, answers.scores)));
    invocation.text = std::move(answers.text);
    return std::move(answers.json);
}

}  // namespace

void addTasks(Verbs& verbs)
{
    auto options = std::make_shared<TasksOptions>();
    CLI::App* verb = verbs.add(
        "tasks", "Multiple-choice tasks: accuracy of a plan, compared with the dense model",
        [options](Invocation& invocation) { return tasks(*options, invocation); }, Processes::Many);
    verb->add_option("MODEL", options->model, "Checkpoint folder")->required();
    verb->add_option("--data", options->questions.data,
                     "Folder with TASK.jsonl files: arc_challenge, arc_easy, boolq, hellaswag, openbookqa, rte, winogrande, piqa; others "
                     "by its tasks.json")
        ->required()
        ->type_name("DIR");
    verb->add_option("--tasks", options->questions.names, "These tasks only (default: all of the folder)")
        ->delimiter(',')
        ->type_name("NAME");
    verb->add_option("--plan", options->plan, "Plan file (default: the dense model)")->type_name("FILE");
    verb->add_option("--against", options->against,
                     "What to compare with on the same questions: dense, none or a plan file (default: dense for a plan)")
        ->type_name("WHAT");
    addProfileOption(verb, options->profiles);
    verb->add_option("--limit", options->questions.limit, "The first N questions of every task")
        ->check(CLI::Range(1, 1 << 30))
        ->type_name("N");
    verb->add_option("--fewshot", options->questions.examples, "Answered questions before each one (default: none)")
        ->check(CLI::Range(0, 1 << 30))
        ->type_name("N");
    verb->add_option("--samples", options->samples, "JSON lines to write: log-likelihoods of every choice")->type_name("FILE");
    verb->add_flag("--resume", options->resume, "Use the answers of an earlier run");
    verb->add_flag("--force", options->force, "Replace existing samples");
    verb->add_flag("--allow-other-model", options->allowOther, "Accept a plan made for another model");
    verb->footer("Contexts, choices and accuracies are those of lm-evaluation-harness 0.4. The mean counts every task alike.");
}

}  // namespace espalier
