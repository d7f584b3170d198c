// Coverage (MoE-Slimming, arXiv 2606.18304): every layer keeps the fewest experts that hold the same share of its total score.
#include "allocate/layer_allocator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

struct Layer {
    std::vector<double> prefix;  // [m] = score of the m best, [0] = 0
    double total = 0;

    // Least m whose experts hold the share s. A layer that scores nothing counts experts.
    int experts(double s) const
    {
        const auto n = static_cast<int>(prefix.size()) - 1;
        if (total <= 0) return static_cast<int>(std::ceil(s * n - 1e-9));
        const double wanted = s * total - 1e-12 * total;
        return static_cast<int>(std::lower_bound(prefix.begin(), prefix.end(), wanted) - prefix.begin());
    }
    // What `count` experts after the first m add, as a share of the layer.
    double next(int m, int count) const
    {
        const auto n = static_cast<int>(prefix.size()) - 1;
        if (total <= 0) return static_cast<double>(count) / n;
        return (prefix[static_cast<std::size_t>(std::min(n, m + count))] - prefix[static_cast<std::size_t>(m)]) / total;
    }
};

Result<std::vector<int>> coverageUnits(const AllocationProblem& problem, const Params&)
{
    if (problem.request.scores.better == Better::Lower)
        return badInput("allocate.score_direction", problem.request.scores.method,
                        "Coverage adds scores up, so a higher score must mean a more valuable expert.",
                        "Choose another score, or another allocator.");
    std::vector<Layer> layers(problem.slots());
    for (std::size_t i = 0; i < layers.size(); ++i) {
        ESPALIER_TRY(std::vector<double> scores, problem.scores(i, "coverage"));
        for (double& value : scores)
            value = value > 0 && std::isfinite(value) ? value : 0;  // NaN too
        layers[i].prefix.push_back(0);
        for (const int expert : keepOrder(problem.pinned(i), scores, Better::Higher))
            layers[i].prefix.push_back(layers[i].prefix.back() + scores[static_cast<std::size_t>(expert)]);
        layers[i].total = layers[i].prefix.back();
    }
    const Budget& budget = problem.budget;
    const auto unitsAt = [&](double s, std::int64_t& cost) {
        std::vector<int> units(layers.size());
        cost = 0;
        for (std::size_t i = 0; i < layers.size(); ++i) {
            const int wanted = (layers[i].experts(s) + problem.step[i] - 1) / problem.step[i];
            units[i] = std::clamp(wanted, budget.limits.low[i], budget.limits.high[i]);
            cost += budget.cost[i] * units[i];
        }
        return units;
    };
    // The cost is a step function of s: the last step below the budget, then single units in descending share.
    double low = 0;
    double high = 1;
    std::int64_t cost = 0;
    unitsAt(high, cost);
    if (cost <= budget.total) low = high;
    while (low < high) {
        const double middle = low + (high - low) / 2;
        if (middle == low || middle == high) break;
        unitsAt(middle, cost);
        (cost <= budget.total ? low : high) = middle;
    }
    std::vector<int> units = unitsAt(low, cost);
    while (true) {
        std::size_t best = layers.size();
        double bestShare = -1;
        for (std::size_t i = 0; i < layers.size(); ++i) {
            if (units[i] >= budget.limits.high[i] || budget.cost[i] > budget.total - cost) continue;
            const double share = layers[i].next(units[i] * problem.step[i], problem.step[i]) / problem.step[i];
            if (share <= bestShare) continue;
            best = i;
            bestShare = share;
        }
        if (best == layers.size()) return units;
        ++units[best];
        cost += budget.cost[best];
    }
}

}  // namespace

LayerAllocator coverageAllocator()
{
    LayerAllocator method;
    method.info.id = "coverage";
    method.info.title = "Coverage";
    method.info.help = "Every layer keeps the fewest experts that hold the same share of its total score.";
    method.info.source = "MoE-Slimming, arXiv 2606.18304";
    method.units = coverageUnits;
    return method;
}

}  // namespace espalier
