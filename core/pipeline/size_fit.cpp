#include "pipeline/size_fit.h"

#include "allocate/allocator.h"
#include "base/text.h"
#include "plan/cost_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>

namespace espalier
{

namespace
{

Error sizeInfeasible(std::int64_t bytes)
{
    return badInput("plan.size_infeasible", formatBytes(bytes),
                    {"No plan of this model fits {format_bytes}: experts can be removed down to top-k per layer only.",
                     {{"format_bytes", formatBytes(bytes)}}},
                    "Choose a larger size, or lower ranks.");
}

// Bisection over the total: the largest whose plan `planOf` makes and that fits. `planOf` gives no plan for totals below what layers must
// keep.
Result<std::optional<SizedCounts>> largestThatFits(const SizeProblem& problem, int most,
                                                   const std::function<Result<CompressionPlan>(const std::vector<int>&)>& planOf,
                                                   JobContext& job)
{
    std::optional<SizedCounts> best;
    int low = 0;
    int high = most;
    while (low <= high) {
        if (job.stopRequested()) return cancelledError();
        const int middle = low + (high - low) / 2;
        Result<std::vector<int>> keep = problem.counts(middle);
        if (!keep.ok()) {
            // Too few experts, unless not even all that there can be will do.
            if (keep.error().code != "allocate.infeasible" || middle == problem.most) return std::move(keep).error();
            low = middle + 1;
            continue;
        }
        ESPALIER_TRY(CompressionPlan plan, planOf(*keep));
        if (planCost(problem.shape, plan).bytes > problem.bytes) {
            high = middle - 1;
        } else {
            best = SizedCounts{middle, std::move(keep).value(), std::move(plan)};
            low = middle + 1;
        }
    }
    return best;
}

// Scores under which ranking keeps those that `chosen` keeps before all others, and among equals as the scores say.
ExpertScores chosenFirst(const SizeProblem& problem, const CompressionPlan& chosen)
{
    ExpertScores scores = problem.scores;
    scores.better = Better::Higher;
    for (const LayerShape& layer : problem.shape.layers) {
        if (!layer.moe) continue;
        std::vector<double>& row = scores.values.rows[static_cast<std::size_t>(layer.index)];
        std::vector<std::size_t> order(row.size());
        std::iota(order.begin(), order.end(), 0);
        const bool higher = problem.scores.better == Better::Higher;
        std::stable_sort(order.begin(), order.end(),
                         [&](std::size_t a, std::size_t b) { return higher ? row[a] > row[b] : row[a] < row[b]; });
        std::vector<double> places(row.size());
        for (std::size_t i = 0; i < order.size(); ++i) {
            const bool kept = chosen.keeps(layer.index, static_cast<int>(order[i]));
            places[order[i]] = static_cast<double>(row.size() - i) + (kept ? static_cast<double>(row.size()) : 0.0);
        }
        row = std::move(places);
    }
    return scores;
}

}  // namespace

Result<SizedCounts> mostExperts(const SizeProblem& problem, JobContext& job)
{
    const auto byScore = [&](const std::vector<int>& keep) -> Result<CompressionPlan> {
        ESPALIER_TRY(const CompressionPlan plan, selectByRanking(problem.shape, problem.base, keep, problem.scores, problem.dropped));
        return problem.finish(plan);
    };
    ESPALIER_TRY(auto best, largestThatFits(problem, problem.most, byScore, job));
    if (!best) return sizeInfeasible(problem.bytes);
    return *std::move(best);
}

Result<CompressionPlan> withinSize(const SizeProblem& problem, const SizedCounts& counts, const CompressionPlan& chosen, JobContext& job)
{
    ESPALIER_TRY(CompressionPlan finished, problem.finish(chosen));
    if (planCost(problem.shape, finished).bytes <= problem.bytes) return finished;
    ESPALIER_TRY(auto lowered, problem.lowered(chosen, finished));
    if (lowered && planCost(problem.shape, *lowered).bytes <= problem.bytes) return *std::move(lowered);
    const ExpertScores scores = chosenFirst(problem, chosen);
    const auto ofChosen = [&](const std::vector<int>& keep) -> Result<CompressionPlan> {
        ESPALIER_TRY(const CompressionPlan plan, selectByRanking(problem.shape, problem.base, keep, scores, problem.dropped));
        return problem.finish(plan);
    };
    ESPALIER_TRY(auto fewer, largestThatFits(problem, counts.experts - 1, ofChosen, job));
    // The chosen sets without one expert are worth more than all by score; without several they are not.
    if (fewer && fewer->experts + 1 >= counts.experts) return std::move(fewer->plan);
    return counts.plan;
}

}  // namespace espalier
