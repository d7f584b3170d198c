// Global sort: the scores of all layers in one list, the worst removed until the budget is met.
#include "allocate/layer_allocator.h"

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

// Scores compare across layers as they are: counts where every layer serves the same top-k on the same tokens, and losses in nats.
bool comparable(const AllocationProblem& problem)
{
    const ExpertScores& scores = problem.request.scores;
    if (scores.unit.find("nats") != std::string::npos) return true;
    if (scores.unit != "tokens" && scores.unit != "share of tokens") return false;
    for (std::size_t i = 1; i < problem.slots(); ++i)
        if (problem.layer(i).router.topK != problem.layer(0).router.topK) return false;
    return true;
}

// Worth of the experts of one layer in keep order; larger stays longer.
std::vector<double> worths(const AllocationProblem& problem, std::size_t slot, const std::vector<double>& scores, bool raw)
{
    const Better better = problem.request.scores.better;
    double total = 0;
    for (const double value : scores)
        if (std::isfinite(value)) total += std::abs(value);
    std::vector<double> list;
    for (const int expert : keepOrder(problem.pinned(slot), scores, better)) {
        double value = scores[static_cast<std::size_t>(expert)];
        if (!raw) value = total > 0 ? value / total : 1.0 / static_cast<double>(scores.size());
        if (better == Better::Lower) value = -value;
        list.push_back(std::isnan(value) ? -HUGE_VAL : value);
    }
    return list;
}

Result<std::vector<int>> globalUnits(const AllocationProblem& problem, const Params& params)
{
    const std::string scale = params.at("scale");
    const bool raw = scale == "raw" || (scale == "auto" && comparable(problem));
    std::vector<std::vector<double>> worth(problem.slots());
    for (std::size_t i = 0; i < worth.size(); ++i) {
        ESPALIER_TRY(const std::vector<double> scores, problem.scores(i, "global"));
        worth[i] = worths(problem, i, scores, raw);
    }
    const Budget& budget = problem.budget;
    // Mean worth of the experts of one unit: the score itself where a unit is one expert.
    const auto unitWorth = [&](std::size_t slot, int unit) {
        double sum = 0;
        const auto step = static_cast<std::size_t>(problem.step[slot]);
        for (std::size_t k = 0; k < step; ++k)
            sum += worth[slot][static_cast<std::size_t>(unit) * step + k];
        return sum / problem.step[slot];
    };
    std::vector<int> units = budget.limits.high;
    std::int64_t cost = 0;
    for (std::size_t i = 0; i < units.size(); ++i)
        cost += budget.cost[i] * units[i];
    while (cost > budget.total) {
        std::size_t worst = units.size();
        double least = 0;
        for (std::size_t i = 0; i < units.size(); ++i) {
            if (units[i] <= budget.limits.low[i]) continue;
            const double value = unitWorth(i, units[i] - 1);
            // Ties go to the higher layer: the lower one keeps.
            if (worst == units.size() || value <= least) {
                worst = i;
                least = value;
            }
        }
        --units[worst];
        cost -= budget.cost[worst];
    }
    // Units of unequal price may leave room for another one.
    while (true) {
        std::size_t best = units.size();
        for (std::size_t i = 0; i < units.size(); ++i) {
            if (units[i] >= budget.limits.high[i] || budget.cost[i] > budget.total - cost) continue;
            if (best == units.size() || unitWorth(i, units[i]) > unitWorth(best, units[best])) best = i;
        }
        if (best == units.size()) return units;
        cost += budget.cost[best];
        ++units[best];
    }
}

}  // namespace

LayerAllocator globalAllocator()
{
    LayerAllocator method;
    method.info.id = "global";
    method.info.title = "Global sort";
    method.info.help = "Sorts the experts of all layers by score and removes the worst.";
    method.info.source = "One sort over all layers, floors per layer";
    ParamSpec scale;
    scale.key = "scale";
    scale.type = ParamType::Choice;
    scale.defaultValue = "auto";
    scale.choices = {"auto", "raw", "share"};
    scale.help = "Scores as they are, or each as a share of its layer's total; auto takes them as they are where layers compare.";
    method.info.params = {scale};
    method.units = globalUnits;
    return method;
}

}  // namespace espalier
