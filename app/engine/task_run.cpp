#include "task_run.h"

#include "evaluate/choice_scoring.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace espalier
{

Result<std::vector<TaskFile>> chosenTasks(const std::filesystem::path& folder, const std::vector<std::string>& names)
{
    ESPALIER_TRY(const std::vector<TaskFile> there, findTaskFiles(folder));
    std::string all;
    for (const TaskFile& file : there)
        all += (all.empty() ? "" : ", ") + file.name;
    if (there.empty())
        return badInput("task.none", folder.string(), fmt::format("{} holds no task files.", folder.string()),
                        "Put files as hellaswag.jsonl there, or list others in tasks.json.");
    if (names.empty()) return there;
    std::vector<TaskFile> chosen;
    for (const std::string& name : names) {
        const auto found = std::find_if(there.begin(), there.end(), [&](const TaskFile& file) { return file.name == name; });
        if (found == there.end())
            return badInput("task.unknown", name, fmt::format("{} has no task \"{}\".", folder.string(), name),
                            fmt::format("There are: {}.", all));
        chosen.push_back(*found);
    }
    return chosen;
}

Result<Tokenizer> taskTokenizer(const std::filesystem::path& model, const Checkpoint& checkpoint)
{
    Result<Tokenizer> loaded = Tokenizer::load(model, checkpoint.shape().vocabularySize);
    if (loaded.ok()) return loaded;
    Error error = std::move(loaded).error();
    // Questions are texts: there are no ids to give instead.
    if (error.code == "tokenizer.missing") {
        error.action = "Put the model's tokenizer.json there.";
        error.actionPattern.clear();
    }
    return error;
}

Result<AskedTask> askTask(const TaskFile& file, int limit, int examples, const Tokenizer& tokenizer, const Checkpoint& checkpoint,
                          JobContext& job)
{
    const int stated = checkpoint.shape().maxPositions;
    const int positions = stated > 0 ? stated : std::numeric_limits<int>::max() - 1;
    AskedTask asked;
    ESPALIER_TRY(asked.task, readTask(file, limit, examples));
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

std::string hiddenAnswers(const Task& task)
{
    if (task.hidden == 0) return {};
    return fmt::format("{}: {} of {} questions do not say which answer is right, and count as wrong.", task.file.name, task.hidden,
                       task.items.size());
}

const ItemScore* TaskRun::known(const CompressionPlan& plan, std::size_t task, std::size_t item) const
{
    if (const auto found = m_fromOthers.find({task, item}); found != m_fromOthers.end()) return &found->second;
    if (!m_kept) return nullptr;
    const Task& of = m_asked[task].task;
    const ItemScore* score = m_kept->find(plan.hash(), of.sha256, static_cast<int>(item));
    return score && score->tokens.size() == of.items[item].choices() ? score : nullptr;
}

// What one process has from an earlier run, all have: they lay the same rows.
Status TaskRun::shareKnown(const CompressionPlan& plan, const std::vector<std::size_t>& tasks)
{
    m_fromOthers.clear();
    if (m_processes.alone()) return {};
    Json own = Json::array();
    for (const std::size_t t : tasks)
        for (std::size_t i = 0; i < m_asked[t].task.items.size(); ++i)
            if (const ItemScore* score = known(plan, t, i)) own.push_back({t, i, score->logLikelihoods, score->greedy, score->tokens});
    ESPALIER_TRY(const std::vector<Json> parts, m_processes.exchange(std::move(own)));
    for (const Json& part : parts)
        for (const Json& entry : part)
            m_fromOthers.try_emplace(
                {entry[0].get<std::size_t>(), entry[1].get<std::size_t>()},
                ItemScore{entry[2].get<std::vector<double>>(), entry[3].get<std::vector<bool>>(), entry[4].get<std::vector<int>>()});
    return {};
}

std::int64_t TaskRun::tokensOf(const CompressionPlan& plan, std::size_t task) const
{
    const AskedTask& asked = m_asked[task];
    std::int64_t tokens = 0;
    for (std::size_t i = 0; i < asked.task.items.size(); ++i)
        for (std::size_t choice = 0; choice < asked.task.items[i].choices() && !known(plan, task, i); ++choice)
            tokens += static_cast<std::int64_t>(asked.requests[asked.first[i] + choice].ids.size()) - 1;
    return tokens;
}

Result<std::vector<std::vector<ItemScore>>> TaskRun::all(const CompressionPlan& plan, JobContext& job)
{
    std::vector<std::size_t> tasks(m_asked.size());
    std::iota(tasks.begin(), tasks.end(), std::size_t(0));
    return run(plan, tasks, job, {});
}

Result<std::vector<ItemScore>> TaskRun::one(const CompressionPlan& plan, std::size_t task, JobContext& job,
                                            const std::function<void(std::size_t, const ItemScore&)>& answered)
{
    ESPALIER_TRY(auto scores,
                 run(plan, {task}, job, [&](std::size_t, std::size_t item, const ItemScore& score) { answered(item, score); }));
    return std::move(scores.front());
}

Result<std::vector<std::vector<ItemScore>>> TaskRun::run(const CompressionPlan& plan, const std::vector<std::size_t>& tasks,
                                                         JobContext& job, const Answered& answered)
{
    struct Place {
        std::size_t row = 0, task = 0, item = 0, choice = 0;
        bool asked = true;  // no earlier run has the answer
    };
    ESPALIER_CHECK_OK(shareKnown(plan, tasks));
    std::vector<std::vector<ItemScore>> scores;
    std::vector<ChoiceRequest> requests;
    std::vector<Place> places;
    for (const std::size_t t : tasks) {
        const AskedTask& asked = m_asked[t];
        scores.emplace_back(asked.task.items.size());
        for (std::size_t i = 0; i < asked.task.items.size(); ++i) {
            ItemScore& score = scores.back()[i];
            const std::size_t choices = asked.task.items[i].choices();
            const ItemScore* before = known(plan, t, i);
            for (std::size_t choice = 0; choice < choices; ++choice) {
                const ChoiceRequest& request = asked.requests[asked.first[i] + choice];
                places.push_back({scores.size() - 1, t, i, choice, before == nullptr});
                requests.push_back(request);
                if (!before) score.tokens.push_back(request.scored);
            }
            if (!before) {
                score.logLikelihoods.assign(choices, std::numeric_limits<double>::quiet_NaN());
                score.greedy.assign(choices, false);
                continue;
            }
            score = *before;
            ++m_recovered;
            if (m_kept && m_fromOthers.contains({t, i}) && !m_kept->find(plan.hash(), asked.task.sha256, static_cast<int>(i)))
                note(m_kept->append(plan.hash(), asked.task.sha256, static_cast<int>(i), score));
            if (answered) answered(t, i, score);
        }
    }
    Json own = Json::array();
    const auto take = [&](std::size_t request, const ChoiceScore& score) {
        const Place& place = places[request];
        if (!place.asked) return Status();
        ItemScore& item = scores[place.row][place.item];
        item.logLikelihoods[place.choice] = score.logLikelihood;
        item.greedy[place.choice] = score.greedy;
        if (std::any_of(item.logLikelihoods.begin(), item.logLikelihoods.end(), [](double value) { return std::isnan(value); }))
            return Status();
        if (m_kept) note(m_kept->append(plan.hash(), m_asked[place.task].task.sha256, static_cast<int>(place.item), item));
        if (answered) answered(place.task, place.item, item);
        return Status();
    };
    Status status = scoreChoices(
        m_model, plan, requests, job,
        [&](std::size_t request, const ChoiceScore& score) {
            if (!m_processes.alone()) own.push_back({request, score.logLikelihood, score.greedy});
            return take(request, score);
        },
        m_processes, [&](std::size_t request) { return places[request].asked; });
    if (!m_processes.alone()) {
        const auto parts = m_processes.exchange(status.ok() ? Result<Json>(std::move(own)) : Result<Json>(status.error()));
        if (!parts.ok()) status = parts.error();
        for (std::size_t rank = 0; parts.ok() && rank < parts->size(); ++rank)
            for (const Json& entry : (*parts)[rank])
                if (static_cast<int>(rank) != m_processes.rank())
                    ESPALIER_CHECK_OK(take(entry[0].get<std::size_t>(), {entry[1].get<double>(), entry[2].get<bool>()}));
    }
    if (m_kept) note(m_kept->flush());
    if (!status.ok()) {
        Error error = status.error();
        if (m_kept) error.kept = "Questions that were answered are kept: the same command with --resume goes on.";
        return error;
    }
    return scores;
}

void TaskRun::note(const Status& kept)
{
    if (kept.ok()) return;
    m_kept = nullptr;
    m_warnings.push_back("Answers from now on are not kept for --resume: " + kept.error().message);
}

}  // namespace espalier
