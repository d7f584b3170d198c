// Kept counts proportional to (layer importance + eps)^alpha (methods.md 3.2 (b), 6.2). alpha 0 is uniform counts, 1 proportional.
#include "allocate/layer_allocator.h"

#include <cmath>

namespace espalier
{

namespace
{

constexpr double kEpsilon = 1e-12;  // methods.md 3.7

Result<std::vector<int>> importanceUnits(const AllocationProblem& problem, const Params& params)
{
    const double alpha = params.at("alpha").get<double>();
    ESPALIER_TRY(std::vector<double> utility, problem.importance("importance"));
    // The paper's layers are equally wide; counts are weighed as it does, whatever the width.
    for (std::size_t i = 0; i < utility.size(); ++i)
        utility[i] = std::pow(utility[i] + kEpsilon, alpha) / problem.step[i];
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
    method.info.source = "MoE-I² (arXiv 2411.01016), methods.md 3.2 (b)";
    method.info.needs = {"gram"};
    ParamSpec alpha;
    alpha.key = "alpha";
    alpha.type = ParamType::Number;
    alpha.defaultValue = 0.15;
    alpha.low = 0;
    alpha.high = 1.5;
    alpha.help = "How strongly importance shapes the counts: 0 is uniform.";
    method.info.params = {alpha};
    method.units = importanceUnits;
    return method;
}

}  // namespace espalier
