// Tasks asked of a plan, and of what it is compared with, as a table and as JSON: `tasks`, and `evaluate` and `compress` with --tasks.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "options.h"
#include "task_run.h"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

using TaskScores = std::vector<std::vector<ItemScore>>;  // by task and item

struct TaskQuestions {
    std::filesystem::path data;      // folder
    std::vector<std::string> names;  // empty: all of it
    int limit = 0;                   // questions of each task; 0 = all
    int examples = 0;                // answered ones before each
};

// --tasks DIR and --task-limit N of verbs that measure other things too.
void addTaskOptions(CLI::App* verb, TaskQuestions& questions);

// What is asked, read before the model is loaded.
struct TasksToAsk {
    TaskQuestions questions;
    std::vector<AskedTask> tasks;
    std::string tokenizerSha256;
};
// Errors: those of chosenTasks, taskTokenizer and askTask.
Result<TasksToAsk> askTasks(const TaskQuestions& questions, const std::filesystem::path& model, const Checkpoint& checkpoint,
                            Invocation& invocation);

struct TaskAnswers {
    Json json;         // as `tasks --json` has it, without the model
    std::string text;  // the table
    TaskScores scores = {};
};
// `against`: "dense", "none" or what else the reference is called. Answers are kept for `resume`; processes of mpirun share them. Errors:
// those of TaskRun and of a file of answers that cannot be read.
Result<TaskAnswers> answerTasks(MoeModel& model, const TasksToAsk& asked, const CompressionPlan& plan,
                                const std::optional<CompressionPlan>& reference, const std::string& against, bool resume,
                                Invocation& invocation);

}  // namespace espalier
