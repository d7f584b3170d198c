#include "pipeline/recovered_finals.h"

#include "evaluate/evaluator.h"
#include "recover/recover.h"
#include "rpc/plan_event.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace espalier
{

namespace
{

constexpr int kPart = 4;           // the first look learns from every fourth window
constexpr int kLeastLearned = 32;  // and is taken where there are so many windows to learn from
constexpr std::size_t kLast = 3;   // plans that are recovered on the whole text
constexpr int kLeastWindows = 4;   // nobody drops out on fewer
constexpr double kReject = 2;      // standard errors behind the leader at which one drops out
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
        m_answer.detail = {{"plans", Json::array()}};
        std::vector<std::size_t> order(m_request.finalists.size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        if (order.size() < 2) return std::move(m_answer);
        const int learned = m_stage.learnedWindows();
        const bool look = order.size() > 2 && learned >= kLeastLearned;
        m_turns = (look ? order.size() : 0) + std::min(kLast, order.size());
        if (look) {
            ESPALIER_TRY(order, round(order, kPart, (learned + kPart - 1) / kPart));
            std::erase_if(order, [&](std::size_t i) {
                const PairedDifference behind = pairedDifference(m_after[i], m_after[order.front()]);
                return behind.windows >= kLeastWindows && behind.nll > kReject * behind.se;
            });
        }
        if (order.size() > kLast) order.resize(kLast);
        ESPALIER_TRY(order, round(order, 1, learned));
        if (order.empty()) return std::move(m_answer);
        m_answer.winner = order.front();
        m_answer.folder = folderOf(order.front(), 1);
        return std::move(m_answer);
    }

private:
    std::filesystem::path folderOf(std::size_t finalist, int every) const
    {
        return m_request.folder / fmt::format("{}-{}", m_request.finalists[finalist].plan.hash().substr(0, 16), every);
    }

    // Each in turn; those that were recovered, best first.
    Result<std::vector<std::size_t>> round(const std::vector<std::size_t>& order, int every, int learned)
    {
        std::vector<std::size_t> done;
        double longest = 0;
        for (const std::size_t i : order) {
            const double started = m_request.clock();
            // Nothing is known of how long it takes before the first of a round; the later rounds take longer at least.
            if (m_request.until > 0 && started + std::max(longest, m_longest) > m_request.until) break;
            m_turn.begin(m_done, std::max(m_turns, m_done + 1));
            ++m_done;
            ESPALIER_TRY(const std::vector<WindowLoss> before, recovered(i, every));
            longest = std::max(longest, m_request.clock() - started);
            const bool first = done.empty();
            const std::size_t leader = first ? i : done.front();
            const PairedDifference change = first ? PairedDifference() : pairedDifference(m_after[i], m_after[leader]);
            const bool ahead = first || change.nll < 0;
            done.insert(ahead ? done.begin() : done.end(), i);
            note(i, learned, before, change, ahead);
            // Of the full recoveries the best one is gone on with.
            if (every > 1)
                ESPALIER_CHECK_OK(forget(i, every));
            else if (!first)
                ESPALIER_CHECK_OK(forget(ahead ? leader : i, every));
        }
        m_longest = std::max(m_longest, longest);
        std::stable_sort(done.begin(), done.end(),
                         [&](std::size_t a, std::size_t b) { return perplexity(m_after[a]).nll < perplexity(m_after[b]).nll; });
        return done;
    }

    // Losses on the windows that judge, before; m_after has those afterwards.
    Result<std::vector<WindowLoss>> recovered(std::size_t i, int every)
    {
        const CompressionPlan& plan = m_request.finalists[i].plan;
        const std::string key = fmt::format("recovered:{}:{}", every, plan.hash());
        const std::string keyBefore = fmt::format("judged:{}", plan.hash());
        const std::vector<WindowLoss> after = m_request.journal.losses(key);
        const std::vector<WindowLoss> before = m_request.journal.losses(keyBefore);
        // What one process knows all have to know: none runs a recovery alone.
        ESPALIER_TRY(const std::vector<Json> all, m_request.share.exchange(Json(!after.empty() && before.size() == after.size())));
        if (std::all_of(all.begin(), all.end(), [](const Json& known) { return known == true; })) {
            m_after[i] = after;
            return before;
        }
        ESPALIER_TRY(const RecoverResult result, m_stage.run(plan, folderOf(i, every), every, m_turn));
        if (result.cancelled) return cancelledError();
        m_after[i] = result.accepted ? result.after : result.before;
        if (before.empty()) m_request.journal.add(keyBefore, result.before);
        if (after.empty()) m_request.journal.add(key, m_after[i]);
        return result.before;
    }

    void note(std::size_t i, int learned, const std::vector<WindowLoss>& before, const PairedDifference& change, bool ahead)
    {
        const Finalist& finalist = m_request.finalists[i];
        FinalistRecovered event{.name = finalist.name,
                                .planHash = finalist.plan.hash(),
                                .learned = learned,
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

    Status forget(std::size_t i, int every)
    {
        ESPALIER_CHECK_OK(m_request.share.meet({}));
        if (m_request.share.first()) removeRun(folderOf(i, every));
        return {};
    }

    const FinalsRequest& m_request;
    RecoverStage& m_stage;
    JobContext& m_job;
    TurnJob m_turn;
    std::vector<std::vector<WindowLoss>> m_after;
    std::size_t m_done = 0;
    std::size_t m_turns = 1;
    double m_longest = 0;
    FinalsAnswer m_answer;
};

}  // namespace

Result<FinalsAnswer> recoveredFinals(const FinalsRequest& request, RecoverStage& stage, JobContext& job)
{
    return Finals(request, stage, job).run();
}

}  // namespace espalier
