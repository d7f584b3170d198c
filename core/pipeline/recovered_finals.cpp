#include "pipeline/recovered_finals.h"

#include "evaluate/evaluator.h"
#include "recover/recover.h"
#include "rpc/plan_event.h"

#include <fmt/format.h>

#include <algorithm>

namespace espalier
{

namespace
{

// Of what a plan loses against the dense model recovery has won back two thirds to four fifths at most: a plan that would need more to come
// out ahead is not recovered to find out.
constexpr double kMostWonBack = 0.8;
constexpr std::int64_t kTicks = 1000;

// Of several recoveries, one after the other. Their points are not points of the one that follows.
class TurnJob final : public JobContext
{
public:
    explicit TurnJob(JobContext& job) : m_job(job) {}
    void begin(std::size_t turn, std::size_t turns)
    {
        m_turn = static_cast<std::int64_t>(turn);
        m_turns = static_cast<std::int64_t>(turns);
    }
    bool stopRequested() const noexcept override { return m_job.stopRequested(); }
    void progress(std::int64_t done, std::int64_t total, std::string_view phase) override
    {
        if (total > 0) m_job.progress(m_turn * kTicks + kTicks * std::min(done, total) / total, m_turns * kTicks, phase);
    }
    void partial(const Json&) override {}

private:
    JobContext& m_job;
    std::int64_t m_turn = 0;
    std::int64_t m_turns = 1;
};

class Finals
{
public:
    Finals(const FinalsRequest& request, RecoverStage& stage, JobContext& job)
        : m_request(request), m_stage(stage), m_job(job), m_turn(job), m_after(request.finalists.size())
    {
    }

    Result<FinalsAnswer> run()
    {
        m_answer.detail = {{"plans", Json::array()}, {"not_recovered", Json::array()}};
        const std::size_t count = m_request.finalists.size();
        if (count < 2) return std::move(m_answer);
        double longest = 0;
        std::size_t leader = 0;
        for (std::size_t i = 0; i < count; ++i) {
            m_turn.begin(i, count);
            if (i > 0) {
                ESPALIER_TRY(const bool worth, mayLead(i, leader));
                if (!worth) continue;
            }
            const double started = m_request.clock();
            if (m_request.until > 0 && started + longest > m_request.until) break;
            ESPALIER_TRY(const std::vector<WindowLoss> before, recovered(i));
            longest = std::max(longest, m_request.clock() - started);
            const PairedDifference change = i == 0 ? PairedDifference() : pairedDifference(m_after[i], m_after[leader]);
            const bool ahead = i == 0 || change.nll < 0;
            note(i, before, change, ahead);
            if (i > 0) ESPALIER_CHECK_OK(forget(ahead ? leader : i));
            if (ahead) leader = i;
            m_answer.winner = leader;
            m_answer.folder = folderOf(leader);
        }
        return std::move(m_answer);
    }

private:
    // Whether what it can win back at best would put it ahead.
    Result<bool> mayLead(std::size_t i, std::size_t leader)
    {
        const Finalist& finalist = m_request.finalists[i];
        ESPALIER_TRY(const std::vector<WindowLoss> dense, m_stage.judgeDense(m_turn));
        ESPALIER_TRY(const std::vector<WindowLoss> before, m_stage.judge(finalist.plan, m_turn));
        const double lost = pairedDifference(before, dense).nll;
        if ((1 - kMostWonBack) * lost < pairedDifference(m_after[leader], dense).nll) return true;
        m_answer.detail["not_recovered"].push_back(
            {{"finalist", finalist.name}, {"plan_hash", finalist.plan.hash()}, {"nll_before", perplexity(before).nll}});
        return false;
    }

    std::filesystem::path folderOf(std::size_t finalist) const
    {
        return m_request.folder / m_request.finalists[finalist].plan.hash().substr(0, 16);
    }

    // Losses on the windows that judge, before; m_after has those afterwards.
    Result<std::vector<WindowLoss>> recovered(std::size_t i)
    {
        const CompressionPlan& plan = m_request.finalists[i].plan;
        const std::string key = fmt::format("recovered:{}", plan.hash());
        const std::string keyBefore = fmt::format("judged:{}", plan.hash());
        const std::vector<WindowLoss> after = m_request.journal.losses(key);
        const std::vector<WindowLoss> before = m_request.journal.losses(keyBefore);
        // What one process knows all have to know: none runs a recovery alone.
        ESPALIER_TRY(const std::vector<Json> all, m_request.share.exchange(Json(!after.empty() && before.size() == after.size())));
        if (std::all_of(all.begin(), all.end(), [](const Json& known) { return known == true; })) {
            m_after[i] = after;
            return before;
        }
        ESPALIER_TRY(const RecoverResult result, m_stage.run(plan, folderOf(i), m_turn));
        if (result.cancelled) return cancelledError();
        m_after[i] = result.accepted ? result.after : result.before;
        if (before.empty()) m_request.journal.add(keyBefore, result.before);
        if (after.empty()) m_request.journal.add(key, m_after[i]);
        return result.before;
    }

    void note(std::size_t i, const std::vector<WindowLoss>& before, const PairedDifference& change, bool ahead)
    {
        const Finalist& finalist = m_request.finalists[i];
        FinalistRecovered event{.name = finalist.name,
                                .planHash = finalist.plan.hash(),
                                .learned = m_stage.learnedWindows(),
                                .windows = static_cast<int>(before.size()),
                                .nllBefore = perplexity(before).nll,
                                .nllAfter = perplexity(m_after[i]).nll,
                                .change = change.nll,
                                .changeError = change.se,
                                .ahead = ahead,
                                .plan = {}};
        m_answer.detail["plans"].push_back(toJson(event));
        if (ahead) event.plan = toJson(finalist.plan);
        m_job.partial(toJson(event));
    }

    Status forget(std::size_t i)
    {
        ESPALIER_CHECK_OK(m_request.share.meet({}));
        if (m_request.share.first()) removeRun(folderOf(i));
        return {};
    }

    const FinalsRequest& m_request;
    RecoverStage& m_stage;
    JobContext& m_job;
    TurnJob m_turn;
    std::vector<std::vector<WindowLoss>> m_after;
    FinalsAnswer m_answer;
};

}  // namespace

Result<FinalsAnswer> recoveredFinals(const FinalsRequest& request, RecoverStage& stage, JobContext& job)
{
    return Finals(request, stage, job).run();
}

}  // namespace espalier
