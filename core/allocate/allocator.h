// Layer allocators: how many experts each layer keeps. Pure arithmetic, any thread.
// A new allocator is one file in this folder and one line in allocator.cpp (layer_allocator.h).
#pragma once

#include "allocate/budget.h"
#include "base/error.h"
#include "base/method_registry.h"
#include "plan/compression_plan.h"
#include "plan/expert_grid.h"
#include "plan/model_shape.h"

#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

enum class BudgetUnit { Experts, Bytes, Parameters };

struct AllocationRequest {
    int keepTotal = 0;                    // routed experts kept over all MoE layers
    bool uniformCount = false;            // one count for all layers (stock export): the largest that fits
    CompressionPlan plan;                 // locks, protected experts and current counts
    std::vector<double> layerImportance;  // per decoder layer; needed by importance and inverse

    // Set: dropped experts stay as constants, so that their router columns stay, top-k is no floor, and a constant has its price.
    std::optional<ConstantKind> dropped;

    ExpertScores scores;  // needed by coverage and global
    // Loss of layer l when its best m experts stay: [decoder layer][m], NaN or infinite where not known; one unit for all layers.
    // Needed by exact.
    std::vector<std::vector<double>> lossCurves;
    // Per decoder layer, in experts; empty: none. They narrow what top-k, groups, protected experts and locks already demand.
    std::vector<int> floor;
    std::vector<int> cap;
    int multipleOf = 1;  // every free layer keeps a multiple of it (tensor-parallel size)
    Rounding rounding = Rounding::LargestRemainder;

    // Bytes and Parameters: `target` is that of the whole model, embeddings included, free layers priced with dense experts, and the
    // answer is the largest that does not exceed it. Experts: keepTotal counts, and is met exactly unless multiples forbid.
    BudgetUnit unit = BudgetUnit::Experts;
    std::int64_t target = 0;
};

// Kept count per decoder layer (0 for dense layers). Floors are max(top-k, user floor, protected experts, group rule): a router with
// groups keeps the same number in every group, at least two where the group score sums two, and enough for top-k in its best groups.
// Errors: method.unknown, method.bad_parameter, allocate.infeasible (with the feasible interval), allocate.no_experts,
// allocate.no_importance, allocate.no_scores, allocate.no_curves, allocate.utility.
Result<std::vector<int>> allocate(const std::string& method, const ModelShape& shape, const AllocationRequest& request,
                                  const Params& params);
// uniform, importance, inverse, coverage, global, exact.
const std::vector<MethodInfo>& allocators();

// Selection by ranking: the plan with `keep[l]` experts in layer l, best scores kept, ties to the lower id; protected experts first;
// locked layers unchanged; ranks of experts that stay are kept. With `dropped` the others become constants.
Result<CompressionPlan> selectByRanking(const ModelShape& shape, const CompressionPlan& plan, const std::vector<int>& keep,
                                        const ExpertScores& scores, std::optional<ConstantKind> dropped = {});
const std::vector<MethodInfo>& selectors();
// The same for one layer: its `count` best experts, ascending. Unlike selectByRanking it does not look at the layer's lock.
Result<ExpertSet> rankedExperts(const LayerShape& layer, const ExpertSet& pinned, int count, const ExpertScores& scores);

// "75%", "0.75", "96/128", "18" -> experts kept of `total`. Error: usage.arguments.
Result<int> parseKeep(std::string_view text, int total);

}  // namespace espalier
