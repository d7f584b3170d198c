// Kept counts proportional to (layer importance + eps)^alpha. alpha 0 is uniform counts, 1 proportional.
#include "allocate/importance_exponent.h"
#include "allocate/layer_allocator.h"

namespace espalier
{

namespace
{

Result<std::vector<int>> importanceUnits(const AllocationProblem& problem, const Params& params)
{
    const double alpha = params.at("alpha").get<double>();
    ESPALIER_TRY(std::vector<double> utility, problem.importance("importance"));
    // The paper's layers are equally wide; counts are weighed as it does, whatever the width.
    for (std::size_t i = 0; i < utility.size(); ++i)
        utility[i] = dampedImportance(utility[i], alpha) / problem.step[i];
    ESPALIER_TRY(BudgetFill fill, fillBudget(utility, problem.budget, WaterFill::Proportional, problem.request.rounding));
    return std::move(fill.units);
}

}  // namespace

LayerAllocator importanceAllocator()
{
    LayerAllocator method;
    method.info.id = "importance";
    method.info.title = "By importance";
    method.info.help = "Kept experts grow with layer importance to the power alpha.";
    method.info.source = "MoE-I², arXiv 2411.01016: more important layers lose fewer; the power is ours";
    method.info.baseline = true;
    method.info.needs = {"gram"};
    method.info.params = {importanceExponent("counts")};
    method.units = importanceUnits;
    return method;
}

}  // namespace espalier
