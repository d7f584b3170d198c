// A folder of multiple-choice tasks asked of a model: what the verb and the request `tasks` have in common. No ATen here.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/work_share.h"
#include "checkpoint/checkpoint.h"
#include "model/moe_model.h"
#include "plan/compression_plan.h"
#include "tasks/choice_request.h"
#include "tasks/task_files.h"
#include "tasks/task_results.h"
#include "tasks/task_score_file.h"
#include "tokenizer/tokenizer.h"

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace espalier
{

// The tasks of `folder` with these names, or all. Errors: task.none, task.unknown; those of findTaskFiles.
Result<std::vector<TaskFile>> chosenTasks(const std::filesystem::path& folder, const std::vector<std::string>& names);

// The tokenizer of the model's folder. Errors: those of Tokenizer::load, with advice for questions, which have no ids to be given instead.
Result<Tokenizer> taskTokenizer(const std::filesystem::path& model, const Checkpoint& checkpoint);

// One task with what the model is asked, in the order of items and choices.
struct AskedTask {
    Task task;
    std::vector<ChoiceRequest> requests;
    std::vector<std::size_t> first;  // request of each item's first choice
};
// Reads and encodes every question before the model runs. `limit` and `examples` as readTask has them. Errors: those of readTask and
// encodeChoice, the latter with task, question and choice; job.cancelled.
Result<AskedTask> askTask(const TaskFile& file, int limit, int examples, const Tokenizer& tokenizer, const Checkpoint& checkpoint,
                          JobContext& job);
// What is worth saying of questions without a right answer; empty: nothing.
std::string hiddenAnswers(const Task& task);

// Scores of all items under one plan, those of an earlier run included. Belongs to one thread.
class TaskRun
{
public:
    // `kept`: where answers are found and written; null: nowhere. Processes share the questions, and each of them gets all answers. All
    // must outlive it.
    TaskRun(MoeModel& model, const std::vector<AskedTask>& asked, TaskScoreFile* kept, std::vector<std::string>& warnings,
            WorkShare& processes = WorkShare::none())
        : m_model(model), m_asked(asked), m_kept(kept), m_warnings(warnings), m_processes(processes)
    {
    }

    // Of every task of `asked`, by item. Progress counts tokens. Errors: those of scoreChoices.
    Result<std::vector<std::vector<ItemScore>>> all(const CompressionPlan& plan, JobContext& job);
    // Of one of them. `answered` hears of an item that is whole; those of an earlier run come first.
    Result<std::vector<ItemScore>> one(const CompressionPlan& plan, std::size_t task, JobContext& job,
                                       const std::function<void(std::size_t item, const ItemScore& score)>& answered);
    // Tokens that the model is still to see of a task under a plan, at most: choices of a question share their beginning.
    std::int64_t tokensOf(const CompressionPlan& plan, std::size_t task) const;
    int recovered() const { return m_recovered; }  // items taken from an earlier run

private:
    using Answered = std::function<void(std::size_t task, std::size_t item, const ItemScore& score)>;
    Result<std::vector<std::vector<ItemScore>>> run(const CompressionPlan& plan, const std::vector<std::size_t>& tasks, JobContext& job,
                                                    const Answered& answered);
    const ItemScore* known(const CompressionPlan& plan, std::size_t task, std::size_t item) const;
    Status shareKnown(const CompressionPlan& plan, const std::vector<std::size_t>& tasks);
    void note(const Status& kept);

    MoeModel& m_model;
    const std::vector<AskedTask>& m_asked;
    TaskScoreFile* m_kept;
    std::vector<std::string>& m_warnings;
    WorkShare& m_processes;
    std::map<std::pair<std::size_t, std::size_t>, ItemScore> m_fromOthers;  // of the plan that runs: by task and item
    int m_recovered = 0;
};

}  // namespace espalier
