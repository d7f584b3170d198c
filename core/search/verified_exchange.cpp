#include "search/verified_exchange.h"

#include "base/text.h"
#include "plan/cost_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

namespace espalier
{

namespace
{

double steadySeconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Dense matrices cost what they cost: they stay dense, so counting them and the ranks of the others is counting bytes.
std::int64_t plainCost(const CompressionPlan& plan)
{
    std::int64_t sum = 0;
    for (int l = 0; l < plan.layerCount(); ++l) {
        const LayerPlan& layer = plan.layer(l);
        sum += std::int64_t{1000003} * 3 * static_cast<std::int64_t>(layer.kept.size());
        for (const RankTriple& ranks : layer.ranks)
            for (const int rank : ranks)
                if (rank > 0) sum += rank - std::int64_t{1000003};
    }
    return sum;
}

bool anyRank(const LayerPlan& layer)
{
    return std::any_of(layer.ranks.begin(), layer.ranks.end(), [](const RankTriple& ranks) { return ranks != RankTriple{0, 0, 0}; });
}

// Takes `units` off (negative) or puts them on the factored matrices of a layer, as evenly as limits allow. False: no room.
bool spreadRank(std::vector<RankTriple>& ranks, int units, int highest)
{
    const int step = units < 0 ? -1 : 1;
    std::vector<int*> open;
    for (RankTriple& triple : ranks)
        for (int& rank : triple)
            if (rank > 0) open.push_back(&rank);
    int left = std::abs(units);
    while (left > 0) {
        std::erase_if(open, [&](const int* rank) { return step < 0 ? *rank <= 1 : *rank >= highest; });
        if (open.empty()) return false;
        // The last ones of an uneven split: off the largest, onto the smallest.
        std::stable_sort(open.begin(), open.end(), [&](const int* a, const int* b) { return step < 0 ? *a > *b : *a < *b; });
        const int each = std::max(1, left / static_cast<int>(open.size()));
        for (int* rank : open) {
            const int room = step < 0 ? *rank - 1 : highest - *rank;
            const int amount = std::min({each, room, left});
            *rank += step * amount;
            left -= amount;
        }
    }
    return true;
}

class Exchange
{
public:
    Exchange(const ExchangeProblem& problem, const ExchangeOptions& options, JobContext& job)
        : m_problem(problem), m_options(options), m_job(job), m_clock(options.clock ? options.clock : steadySeconds), m_start(m_clock())
    {
        for (const LayerShape& layer : problem.shape.layers)
            if (layer.moe) m_moe.push_back(layer.index);
    }

    Result<ExchangeResult> run()
    {
        ESPALIER_CHECK_OK(checkCandidates());
        ESPALIER_CHECK_OK(measureCandidates());
        if (m_result.measured == 0) return cancelledError();
        const CompressionPlan startPlan = m_result.plan;
        m_bytes = problemBytes(startPlan);
        const std::vector<WindowLoss> startLosses = m_result.losses;
        for (const int unit : m_options.units) {
            m_tabu.clear();
            bool more = true;
            while (more && !m_ended) {
                ESPALIER_TRY(more, round(unit));
            }
        }
        if (m_result.moves > 0)
            m_result.change = pairedDifference(m_result.losses, startLosses);
        else
            m_result.change = {.windows = static_cast<int>(startLosses.size())};
        if (m_problem.measureLocked && m_result.end != ExchangeEnd::Cancelled) {
            ESPALIER_TRY(const std::vector<WindowLoss> before, m_problem.measureLocked(startPlan));
            ESPALIER_TRY(const std::vector<WindowLoss> after, m_problem.measureLocked(m_result.plan));
            m_result.lockedChange = pairedDifference(after, before);
        }
        return std::move(m_result);
    }

private:
    std::int64_t bytes(const CompressionPlan& plan) const { return planCost(m_problem.shape, plan).bytes; }
    std::int64_t problemBytes(const CompressionPlan& start) const { return m_problem.bytes > 0 ? bytes(start) : 0; }
    std::int64_t cost(const CompressionPlan& plan) const { return m_problem.cost ? m_problem.cost(plan) : plainCost(plan); }

    Status checkCandidates() const
    {
        if (m_problem.candidates.empty())
            return badInput("search.no_candidates", "candidates", "There is no plan to start from.", "Choose at least one allocator.");
        for (const ExchangeCandidate& candidate : m_problem.candidates) {
            if (candidate.plan.layerCount() != static_cast<int>(m_problem.shape.layers.size()))
                return badInput("search.shape", candidate.name,
                                fmt::format("The plan of \"{}\" has {} layers, the model {}.", candidate.name, candidate.plan.layerCount(),
                                            m_problem.shape.layers.size()),
                                "Use plans of this model.");
            if (m_problem.budget > 0 && cost(candidate.plan) > m_problem.budget)
                return badInput("search.budget", candidate.name,
                                fmt::format("The plan of \"{}\" costs {}, more than the budget of {}.", candidate.name,
                                            cost(candidate.plan), m_problem.budget),
                                "Compare plans of one budget.");
            if (m_problem.bytes > 0 && bytes(candidate.plan) > m_problem.bytes)
                return badInput("search.budget", candidate.name,
                                fmt::format("The plan of \"{}\" takes {}, more than {}.", candidate.name,
                                            formatBytes(bytes(candidate.plan)), formatBytes(m_problem.bytes)),
                                "Compare plans of one size.");
        }
        return {};
    }

    bool timeIsUp()
    {
        if (m_job.stopRequested()) return end(ExchangeEnd::Cancelled);
        if (m_options.seconds > 0 && m_clock() - m_start >= m_options.seconds) return end(ExchangeEnd::TimeLimit);
        return false;
    }
    bool end(ExchangeEnd how)
    {
        m_ended = true;
        m_result.end = how;
        return true;
    }

    // Losses of a plan; nullopt when the measurement was stopped.
    Result<std::optional<std::vector<WindowLoss>>> measure(const CompressionPlan& plan)
    {
        auto losses = m_problem.measure(plan);
        if (!losses.ok()) {
            if (losses.error().kind != ErrorKind::Cancelled) return losses.error();
            end(ExchangeEnd::Cancelled);
            return std::optional<std::vector<WindowLoss>>();
        }
        m_seen.insert(plan.hash());
        ++m_result.measured;
        return std::optional(std::move(losses).value());
    }

    // Compares with the best plan so far; takes it over when it is better.
    void judge(std::string name, const HeldPlan& held, std::vector<WindowLoss> losses, double estimate, bool anyGain)
    {
        const CompressionPlan& plan = held.plan;
        ExchangeStep step{.name = std::move(name),
                          .planHash = plan.hash(),
                          .nll = perplexity(losses).nll,
                          .estimatedGain = estimate,
                          .rankGivenBack = held.givenBack};
        if (m_result.measured == 1) {
            step.accepted = true;
        } else {
            const PairedDifference difference = pairedDifference(losses, m_result.losses);
            step.change = difference.nll;
            step.changeError = difference.se;
            step.accepted = anyGain ? difference.nll < 0 : -difference.nll > 2 * difference.se;
        }
        if (step.accepted) {
            m_result.plan = plan;
            m_result.rankGivenBack += held.givenBack;
            m_result.losses = std::move(losses);
        }
        Json partial = toJson(step);
        if (step.accepted) partial["plan"] = toJson(plan);
        m_job.partial(partial);
        m_result.trace.push_back(std::move(step));
    }

    Status measureCandidates()
    {
        const auto count = static_cast<std::int64_t>(m_problem.candidates.size());
        for (std::size_t i = 0; i < m_problem.candidates.size(); ++i) {
            m_job.progress(static_cast<std::int64_t>(i), count, "plan");
            const ExchangeCandidate& candidate = m_problem.candidates[i];
            if (m_seen.contains(candidate.plan.hash())) continue;
            // The first one is measured whatever the clock says: there has to be an answer.
            if (timeIsUp() && (i > 0 || m_result.end == ExchangeEnd::Cancelled)) return {};
            ESPALIER_TRY(auto losses, measure(candidate.plan));
            if (!losses) return {};
            judge(candidate.name, {candidate.plan, 0}, std::move(*losses), 0, true);
            if (m_result.trace.back().accepted) m_result.startCandidate = static_cast<int>(i);
            if (m_ended) return {};
        }
        m_job.progress(count, count, "plan");
        return {};
    }

    struct Proposal {
        ExchangeMove move;
        double gain = 0;
    };

    // The moves of a round, most promising first; equal promise: the one that re-runs the fewest layers.
    std::vector<Proposal> proposals(int unit) const
    {
        std::vector<Proposal> list;
        const auto add = [&](const ExchangeMove& move) {
            if (std::find(m_tabu.begin(), m_tabu.end(), move) != m_tabu.end()) return;
            list.push_back({move, m_problem.estimatedGain ? m_problem.estimatedGain(m_result.plan, move) : 0.0});
        };
        for (const int from : m_moe)
            for (const int to : m_moe) {
                if (from == to || m_result.plan.layer(from).locked || m_result.plan.layer(to).locked) continue;
                if (canMoveExperts(from, to, unit)) add({ExchangeMove::Kind::Experts, from, to, unit});
                if (m_options.rankUnits > 0 && anyRank(m_result.plan.layer(from)) && anyRank(m_result.plan.layer(to)))
                    add({ExchangeMove::Kind::Rank, from, to, m_options.rankUnits});
            }
        std::stable_sort(list.begin(), list.end(), [](const Proposal& a, const Proposal& b) {
            const bool knownA = !std::isnan(a.gain);
            const bool knownB = !std::isnan(b.gain);
            if (knownA != knownB) return knownA;
            if (knownA && a.gain != b.gain) return a.gain > b.gain;
            return std::min(a.move.from, a.move.to) > std::min(b.move.from, b.move.to);
        });
        return list;
    }
    bool canMoveExperts(int from, int to, int unit) const
    {
        const auto f = static_cast<std::size_t>(from);
        const LayerPlan& a = m_result.plan.layer(from);
        const LayerPlan& b = m_result.plan.layer(to);
        int lowest = std::max(a.topK.value_or(m_problem.shape.layers[f].router.topK), static_cast<int>(a.protectedExperts.size()));
        if (f < m_problem.lowestCount.size()) lowest = std::max(lowest, m_problem.lowestCount[f]);
        return static_cast<int>(a.kept.size()) - unit >= lowest &&
               static_cast<int>(b.kept.size()) + unit <= m_problem.shape.layers[static_cast<std::size_t>(to)].experts;
    }

    // The plan after a move that costs what the plan before costs, or takes no more bytes than the start; nullopt where there is none.
    Result<std::optional<HeldPlan>> moved(const ExchangeMove& move) const
    {
        ESPALIER_TRY(auto plan, applyMove(m_problem, m_result.plan, move));
        if (!plan || (m_bytes == 0 && cost(*plan) != cost(m_result.plan))) return std::optional<HeldPlan>();
        if (m_bytes == 0) return std::optional(HeldPlan{std::move(*plan), 0});
        return heldToBytes(m_problem.shape, *plan, m_bytes, m_problem.rankValue);
    }

    // True: a move was accepted.
    Result<bool> round(int unit)
    {
        const int limit = m_options.pairsPerRound > 0 ? m_options.pairsPerRound : 2 * static_cast<int>(m_moe.size());
        const std::int64_t before = m_result.measured;
        int tried = 0;
        for (const Proposal& proposal : proposals(unit)) {
            if (tried >= limit) break;
            ESPALIER_TRY(const auto plan, moved(proposal.move));
            if (!plan) continue;
            ++tried;
            if (m_seen.contains(plan->plan.hash())) continue;
            if (timeIsUp()) return false;
            ESPALIER_TRY(auto losses, measure(plan->plan));
            if (!losses) return false;
            judge(fmt::format("{} {} -> {}", proposal.move.kind == ExchangeMove::Kind::Experts ? "experts" : "rank", proposal.move.from,
                              proposal.move.to),
                  *plan, std::move(*losses), proposal.gain, m_options.allWindows);
            m_job.progress(m_result.measured, before + limit, "plan");
            if (!m_result.trace.back().accepted) continue;
            // The way back stays closed until another exchange has changed one of the two layers.
            std::erase_if(m_tabu, [&](const ExchangeMove& move) {
                const auto touched = [&](int l) { return l == proposal.move.from || l == proposal.move.to; };
                return touched(move.from) || touched(move.to);
            });
            ExchangeMove back = proposal.move;
            std::swap(back.from, back.to);
            m_tabu.push_back(back);
            ++m_result.moves;
            if (m_options.maxMoves > 0 && m_result.moves >= m_options.maxMoves) end(ExchangeEnd::MoveLimit);
            return true;
        }
        return false;
    }

    const ExchangeProblem& m_problem;
    const ExchangeOptions& m_options;
    JobContext& m_job;
    std::function<double()> m_clock;
    double m_start = 0;
    std::int64_t m_bytes = 0;  // of the start candidate; 0 = not looked at
    std::vector<int> m_moe;
    std::vector<ExchangeMove> m_tabu;
    std::set<std::string> m_seen;  // hashes of measured plans
    bool m_ended = false;
    ExchangeResult m_result;
};

}  // namespace

Json toJson(const ExchangeStep& step)
{
    Json json = {{"name", step.name},         {"plan_hash", step.planHash},     {"nll", step.nll},          {"change", step.change},
                 {"error", step.changeError}, {"estimate", step.estimatedGain}, {"accepted", step.accepted}};
    if (step.rankGivenBack > 0) json["rank_given_back"] = step.rankGivenBack;
    return json;
}

const char* exchangeEndName(ExchangeEnd end)
{
    switch (end) {
        case ExchangeEnd::Converged:
            return "converged";
        case ExchangeEnd::TimeLimit:
            return "time-limit";
        case ExchangeEnd::MoveLimit:
            return "move-limit";
        case ExchangeEnd::Cancelled:
            return "cancelled";
    }
    return "";
}

Result<std::optional<CompressionPlan>> applyMove(const ExchangeProblem& problem, const CompressionPlan& plan, const ExchangeMove& move)
{
    using Maybe = std::optional<CompressionPlan>;
    const ModelShape& shape = problem.shape;
    const LayerPlan& from = plan.layer(move.from);
    const LayerPlan& to = plan.layer(move.to);
    if (move.kind == ExchangeMove::Kind::Rank) {
        const int highest = breakEvenRank(shape.hiddenSize, shape.layers[static_cast<std::size_t>(move.to)].expertWidth);
        std::vector<RankTriple> less = from.ranks;
        std::vector<RankTriple> more = to.ranks;
        if (!spreadRank(less, -move.amount, highest) || !spreadRank(more, move.amount, highest)) return Maybe();
        ESPALIER_TRY(const CompressionPlan half, plan.withRanks(shape, move.from, std::move(less)));
        ESPALIER_TRY(CompressionPlan moved, half.withRanks(shape, move.to, std::move(more)));
        return Maybe(std::move(moved));
    }

    // Ranks of experts that leave a layer, smallest first, are handed to those that enter it; what is over moves to the other layer.
    std::vector<RankTriple> spare;
    CompressionPlan moved = plan;
    const bool ranks = anyRank(from) || anyRank(to);
    for (const auto& [layer, change] : {std::pair(move.from, -move.amount), std::pair(move.to, move.amount)}) {
        const LayerPlan& old = plan.layer(layer);
        ESPALIER_TRY(const ExpertSet kept, problem.bestSet(layer, static_cast<int>(old.kept.size()) + change));
        if (kept.size() != old.kept.size() + static_cast<std::size_t>(change)) return Maybe();
        auto next = moved.withKept(shape, layer, kept);
        if (!next.ok()) return Maybe();
        moved = std::move(next).value();
        if (!ranks) continue;
        for (const int expert : old.kept)
            if (!std::binary_search(kept.begin(), kept.end(), expert)) spare.push_back(rankOf(old, expert));
        std::sort(spare.begin(), spare.end(), lessRank);
        std::vector<RankTriple> now;
        for (const int expert : kept) {
            if (std::binary_search(old.kept.begin(), old.kept.end(), expert)) {
                now.push_back(rankOf(old, expert));
            } else {
                now.push_back(spare.back());
                spare.pop_back();
            }
        }
        auto ranked = moved.withRanks(shape, layer, std::move(now));
        if (!ranked.ok()) return Maybe();
        moved = std::move(ranked).value();
    }
    return Maybe(std::move(moved));
}

Result<ExchangeResult> exchangeVerified(const ExchangeProblem& problem, const ExchangeOptions& options, JobContext& job)
{
    return Exchange(problem, options, job).run();
}

const MethodInfo& verifiedExchangeInfo()
{
    static const MethodInfo info = {
        .id = "verified",
        .title = "Verified exchange",
        .slot = Slot::Allocate,
        .help = "Measures the answers of the other allocators and exchanges experts between layers as long as the measured loss falls.",
        .params = {{.key = "minutes",
                    .type = ParamType::Number,
                    .defaultValue = 0,
                    .low = 0,
                    .high = 10000,
                    .choices = {},
                    .unit = "min",
                    .help = "Time limit; 0 = until nothing helps. The best plan so far is the answer."},
                   {.key = "unit",
                    .type = ParamType::Integer,
                    .defaultValue = 1,
                    .low = 1,
                    .high = 64,
                    .choices = {},
                    .unit = "experts",
                    .help = "Experts moved at a time at first; halved when nothing helps any more, down to 1."},
                   {.key = "moves",
                    .type = ParamType::Integer,
                    .defaultValue = 0,
                    .low = 0,
                    .high = 100000,
                    .choices = {},
                    .unit = "",
                    .help = "Exchanges at most; 0 = no limit."}},
        .needs = {"gram"},
        .stochastic = false,
        .source = "methods.md 6.11"};
    return info;
}

ExchangeOptions exchangeOptions(const Params& params)
{
    ExchangeOptions options;
    options.seconds = 60 * params.at("minutes").get<double>();
    options.maxMoves = params.at("moves").get<int>();
    options.units.clear();
    for (int unit = params.at("unit").get<int>(); unit >= 1; unit /= 2)
        options.units.push_back(unit);
    return options;
}

}  // namespace espalier
