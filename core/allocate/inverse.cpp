// Pruned counts proportional to 1 / layer importance, without damping. Kept for comparison with public code.
#include "allocate/layer_allocator.h"

namespace espalier
{

namespace
{

constexpr double kEpsilon = 1e-12;  // as public code for MoE-I2 has it

Result<std::vector<int>> inverseUnits(const AllocationProblem& problem, const Params&)
{
    ESPALIER_TRY(std::vector<double> utility, problem.importance("inverse"));
    for (double& value : utility)
        value = 1.0 / (value + kEpsilon);
    // The budget is that of the experts that go: caps and floors change places.
    const bool plain = problem.plainCounts();
    Budget pruned;
    pruned.unit = problem.budget.unit;
    pruned.total = -problem.budget.total;
    for (std::size_t i = 0; i < problem.slots(); ++i) {
        const int step = problem.step[i];
        const bool locked = problem.locked(i);
        const int experts = problem.experts[i];
        // In experts; a locked layer gives none.
        pruned.limits.low.push_back(locked ? 0 : experts - problem.budget.limits.high[i] * step);
        pruned.limits.high.push_back(locked ? 0 : experts - problem.budget.limits.low[i] * step);
        pruned.cost.push_back(locked ? 1 : problem.budget.cost[i] / step);
        pruned.total += locked ? problem.budget.cost[i] : pruned.cost.back() * experts;
    }
    ESPALIER_TRY(BudgetFill gone,
                 fillBudget(utility, pruned, WaterFill::Proportional, plain ? problem.request.rounding : Rounding::LargestRemainder));
    std::vector<int> units(problem.slots(), 1);
    if (plain) {
        for (std::size_t i = 0; i < units.size(); ++i)
            if (!problem.locked(i)) units[i] = problem.experts[i] - gone.units[i];
        return units;
    }
    // Unequal prices or whole groups: the part that stays is rounded, so that the total is not exceeded.
    std::vector<double> stays(problem.slots(), 1.0);
    for (std::size_t i = 0; i < stays.size(); ++i)
        if (!problem.locked(i)) stays[i] = (problem.experts[i] - gone.reals[i]) / problem.step[i];
    return roundReals(std::move(stays), problem.budget).units;
}

}  // namespace

LayerAllocator inverseAllocator()
{
    LayerAllocator method;
    method.info.id = "inverse";
    method.info.title = "Inverse importance";
    method.info.help = "Pruned experts are proportional to 1 / layer importance, without damping.";
    method.info.source = "Public code for MoE-I2 (github.com/Jyk-122/MoE-Compressors)";
    method.info.needs = {"gram"};
    method.units = inverseUnits;
    return method;
}

}  // namespace espalier
