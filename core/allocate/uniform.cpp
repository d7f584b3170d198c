// Every layer keeps the same share of its experts: the baseline of every comparison.
#include "allocate/layer_allocator.h"

namespace espalier
{

namespace
{

Result<std::vector<int>> uniformUnits(const AllocationProblem& problem, const Params&)
{
    std::vector<double> utility;
    for (std::size_t i = 0; i < problem.slots(); ++i)
        utility.push_back(static_cast<double>(problem.experts[i]) / problem.step[i]);
    ESPALIER_TRY(BudgetFill fill, fillBudget(utility, problem.budget, WaterFill::Proportional, problem.request.rounding));
    return std::move(fill.units);
}

}  // namespace

LayerAllocator uniformAllocator()
{
    LayerAllocator method;
    method.info.id = "uniform";
    method.info.title = "Uniform";
    method.info.help = "Every layer keeps the same share.";
    method.info.baseline = true;
    method.info.source = "Baseline: kept_l = n_l * (1 - ratio), largest remainder";
    method.units = uniformUnits;
    return method;
}

}  // namespace espalier
