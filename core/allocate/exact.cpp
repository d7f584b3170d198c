// Counts that minimise the sum of the layers' loss curves under the budget.
#include "allocate/exact_solver.h"
#include "allocate/layer_allocator.h"

#include <fmt/format.h>

#include <cmath>

namespace espalier
{

namespace
{

// Loss of one slot with these units; NaN where the curve does not know it. A locked layer offers no choice, so its loss may be unknown.
double lossAt(const AllocationProblem& problem, std::size_t slot, int units)
{
    const auto& curves = problem.request.lossCurves;
    const auto l = static_cast<std::size_t>(problem.layers[slot]);
    const auto m = static_cast<std::size_t>(units) * static_cast<std::size_t>(problem.step[slot]);
    const double loss = l < curves.size() && m < curves[l].size() ? curves[l][m] : std::nan("");
    return problem.locked(slot) && !std::isfinite(loss) ? 0.0 : loss;
}

Error noCurve(const AllocationProblem& problem, std::size_t slot)
{
    return badInput("allocate.no_curves", fmt::format("layer {}", problem.layers[slot]),
                    {"The loss of layer {slot} is not known for the counts in question.", {{"slot", problem.layers[slot]}}},
                    "Measure the layers' loss curves, or choose another allocator.");
}

Result<std::vector<int>> exactUnits(const AllocationProblem& problem, const Params&)
{
    // Counts are met exactly, as by every allocator, even where a curve is not monotone.
    ESPALIER_TRY(const SolverAnswer answer, solveCounts(problem, problem.plainCounts() ? SolverBudget::Exactly : SolverBudget::AtMost));
    return answer.payload;
}

}  // namespace

Result<SolverAnswer> solveCounts(const AllocationProblem& problem, SolverBudget meaning)
{
    std::vector<SolverLayer> layers(problem.slots());
    for (std::size_t i = 0; i < layers.size(); ++i) {
        for (int units = problem.budget.limits.low[i]; units <= problem.budget.limits.high[i]; ++units)
            if (const double loss = lossAt(problem, i, units); std::isfinite(loss))
                layers[i].push_back({problem.budget.cost[i] * units, loss, units});
        if (layers[i].empty()) return noCurve(problem, i);
    }
    SolverSettings settings;
    settings.meaning = meaning;
    return solveExact(layers, problem.budget.total, settings);
}

Result<double> lossOf(const AllocationProblem& problem, const std::vector<int>& units)
{
    double sum = 0;
    for (std::size_t i = 0; i < units.size(); ++i) {
        const double loss = lossAt(problem, i, units[i]);
        if (!std::isfinite(loss)) return noCurve(problem, i);
        sum += loss;
    }
    return sum;
}

LayerAllocator exactAllocator()
{
    LayerAllocator method;
    method.info.id = "exact";
    method.info.title = "Exact";
    method.info.help = "The counts with the least sum of layer losses, proven by dynamic programming.";
    method.info.source = "Multiple-choice knapsack, Sinha and Zoltners, Operations Research 1979";
    method.info.needsCurves = true;
    method.info.solvesWith = {"exact"};
    method.info.needs = {"gram"};
    method.units = exactUnits;
    return method;
}

}  // namespace espalier
