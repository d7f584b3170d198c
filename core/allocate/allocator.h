// Layer allocators: how many experts each layer keeps (methods.md 1.4, 3.2). Pure arithmetic, any thread.
#pragma once

#include "base/error.h"
#include "base/method_registry.h"
#include "plan/compression_plan.h"
#include "plan/expert_grid.h"
#include "plan/model_shape.h"

#include <span>
#include <vector>

namespace espalier
{

// Floors and caps per slot; a locked layer has low == high.
struct BudgetLimits {
    std::vector<int> low;
    std::vector<int> high;
};

enum class Rounding { LargestRemainder, HighestAverages };
enum class WaterFill { Proportional, Additive };

// The budget contract (methods.md 1.4), unit costs of 1: integers with sum == total. Error: allocate.infeasible, whose message
// carries the feasible interval.
Result<std::vector<int>> fillBudget(std::span<const double> utility, const BudgetLimits& limits, int total,
                                    WaterFill fill = WaterFill::Proportional, Rounding rounding = Rounding::LargestRemainder);

struct AllocationRequest {
    int keepTotal = 0;                    // routed experts kept over all MoE layers
    bool uniformCount = false;            // one count for all layers (stock export)
    CompressionPlan plan;                 // locks, protected experts and current counts
    std::vector<double> layerImportance;  // per decoder layer; needed by importance and inverse
};

// Kept count per decoder layer (0 for dense layers).
Result<std::vector<int>> allocate(const std::string& method, const ModelShape& shape, const AllocationRequest& request,
                                  const Params& params);
// uniform, importance, inverse.
const std::vector<MethodInfo>& allocators();

// Selection by ranking: the plan with `keep[l]` experts in layer l, best scores kept, ties to the lower id; protected experts first;
// locked layers unchanged; ranks of experts that stay are kept.
Result<CompressionPlan> selectByRanking(const ModelShape& shape, const CompressionPlan& plan, const std::vector<int>& keep,
                                        const ExpertScores& scores);
const std::vector<MethodInfo>& selectors();

// "75%", "0.75", "96/128", "18" -> experts kept of `total`. Error: usage.arguments.
Result<int> parseKeep(std::string_view text, int total);

}  // namespace espalier
