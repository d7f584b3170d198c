// Multiple-choice tasks under a plan.
#include "requests.h"

#include "pipeline/model_match.h"
#include "plan/factor_methods.h"
#include "rpc/protocol_tasks.h"
#include "task_run.h"

#include <chrono>
#include <optional>

namespace espalier
{

namespace
{

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kPartialEvery{1000};

// Progress of one task as part of all of them.
class PartOfJob final : public JobContext
{
public:
    PartOfJob(JobContext& job, MoeModel& model, const FactorSources& sources, std::int64_t before, std::int64_t own, std::int64_t all)
        : m_job(job), m_model(model), m_sources(sources), m_before(before), m_own(own), m_all(all)
    {
        m_model.setFactorSources(m_sources);
    }
    bool stopRequested() const noexcept override
    {
        const bool stop = m_job.stopRequested();
        // An evaluation that ran in there left its own.
        m_model.setFactorSources(m_sources);
        return stop;
    }
    void progress(std::int64_t done, std::int64_t total, std::string_view phase) override
    {
        if (total > 0 && m_all > 0)
            m_job.progress(
                m_before + static_cast<std::int64_t>(static_cast<double>(m_own) * static_cast<double>(done) / static_cast<double>(total)),
                m_all, phase);
    }
    void partial(const Json& result) override { m_job.partial(result); }

private:
    JobContext& m_job;
    MoeModel& m_model;
    const FactorSources& m_sources;
    std::int64_t m_before, m_own, m_all;
};

void mark(TaskMarks& marks, const Task& task, std::size_t item, const ItemScore& score)
{
    const int gold = task.items[item].gold;
    marks.acc[item] = chosen(score) == gold ? TaskMarks::kRight : TaskMarks::kWrong;
    if (!marks.norm.empty()) marks.norm[item] = chosenNormalised(score, task.items[item]) == gold ? TaskMarks::kRight : TaskMarks::kWrong;
}

Result<TaskMarks> answersOf(TaskRun& run, const AskedTask& asked, std::size_t index, const CompressionPlan& plan, JobContext& job)
{
    const std::size_t items = asked.task.items.size();
    const TaskRules& rules = *asked.task.file.rules;
    TaskMarks marks{.name = asked.task.file.name,
                    .rules = std::string(rules.id),
                    .sha256 = asked.task.sha256,
                    .hidden = asked.task.hidden,
                    .acc = std::string(items, TaskMarks::kOpen),
                    .norm = rules.normalised ? std::string(items, TaskMarks::kOpen) : std::string()};
    Clock::time_point told = Clock::now();
    ESPALIER_TRY(const auto scores, run.one(plan, index, job, [&](std::size_t item, const ItemScore& score) {
        mark(marks, asked.task, item, score);
        if (Clock::now() - told < kPartialEvery) return;
        told = Clock::now();
        job.partial(toJson(marks));
    }));
    job.partial(toJson(marks));
    return marks;
}

Result<TasksAnswer> runTasks(OpenModels& models, const TasksRequest& request, JobContext& job)
{
    const auto started = Clock::now();
    ESPALIER_TRY(const std::vector<TaskFile> files, chosenTasks(request.data, request.only));
    ESPALIER_TRY(const auto open, models.open(request.path));
    const Checkpoint& checkpoint = *open->checkpoint;
    CompressionPlan plan = CompressionPlan::identity(checkpoint.shape());
    if (!request.plan.is_null()) {
        ESPALIER_TRY(plan, planFromJson(request.plan, checkpoint.shape()));
        ESPALIER_CHECK_OK(checkPlanModel(plan, checkpoint, false));
    }
    ESPALIER_TRY(const Tokenizer tokenizer, taskTokenizer(request.path, checkpoint));
    TasksAnswer answer;
    std::vector<AskedTask> asked;
    for (const TaskFile& file : files) {
        ESPALIER_TRY(AskedTask next, askTask(file, request.limit, request.examples, tokenizer, checkpoint, job));
        if (std::string hidden = hiddenAnswers(next.task); !hidden.empty()) answer.warnings.push_back(std::move(hidden));
        asked.push_back(std::move(next));
    }
    ESPALIER_TRY(const FactorSources profiles, models.factorSourcesOf(plan, request.profiles));
    plan = withGivenProfile(plan, profiles);
    ESPALIER_TRY(const std::shared_ptr<MoeModel> model, models.model(*open));
    const TaskScoreKey key{checkpoint.fingerprint(), tokenizer.sha256(), model->numericMode(), request.examples};
    Result<TaskScoreFile> kept = TaskScoreFile::open(TaskScoreFile::defaultPath(key), key, true);
    // One that cannot be read is no reason not to measure.
    if (!kept.ok()) kept = TaskScoreFile::open(TaskScoreFile::defaultPath(key), key, false);
    if (!kept.ok()) answer.warnings.push_back("Answers are not kept for another time: " + kept.error().message);
    TaskRun run(*model, asked, kept.ok() ? &*kept : nullptr, answer.warnings);
    std::vector<std::int64_t> tokens;
    std::int64_t all = 0;
    for (std::size_t t = 0; t < asked.size(); ++t)
        all += tokens.emplace_back(run.tokensOf(plan, t));
    std::int64_t before = 0;
    for (std::size_t t = 0; t < asked.size(); ++t) {
        PartOfJob part(job, *model, profiles, before, tokens[t], all);
        Result<TaskMarks> marks = answersOf(run, asked[t], t, plan, part);
        if (!marks.ok()) {
            Error error = std::move(marks).error();
            if (kept.ok()) error.kept = "Questions that were answered are kept and not asked again.";
            return error;
        }
        answer.tasks.push_back(std::move(marks).value());
        before += tokens[t];
    }
    answer.planHash = plan.hash();
    answer.dtype = model->numericMode();
    answer.recovered = run.recovered();
    answer.seconds = std::chrono::duration<double>(Clock::now() - started).count();
    return answer;
}

void tasks(RequestCall& call)
{
    auto request = call.read<TasksRequest>();
    if (!request) return;
    // Between two layers an interactive evaluation runs, and the questions go on.
    call.submit(Lane::Full, GiveWay::Pause,
                [models = call.models(), request = std::move(*request)](JobContext& job) { return runTasks(*models, request, job); });
}

}  // namespace

std::vector<RequestHandler> taskRequests() { return {{TasksRequest::kMethod, tasks}}; }

}  // namespace espalier
