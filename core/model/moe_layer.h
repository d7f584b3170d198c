// The MoE module: router, selected experts, shared experts (formulas: README.md here) under what a plan does in one layer.
#pragma once

#include "base/error.h"
#include "model/layer_weights.h"
#include "model/moe_model_torch.h"
#include "model/router.h"
#include "plan/factor_source.h"

#include <memory>
#include <vector>

namespace espalier
{

// One layer of a prepared plan.
struct PlannedLayer {
    bool runsAttention = true;
    bool runsExperts = true;
    bool allColumns = true;
    std::vector<int> columns;       // original ids of the experts whose router rows stay, ascending; all of them when allColumns
    at::Tensor columnIndex;         // the same, [n] int64
    std::vector<RankTriple> ranks;  // per column; empty = all dense
    std::vector<int> constantOf;    // per column: row of `constants`, -1 where an expert computes; empty = no constants
    at::Tensor constants;           // [c,H] in the compute type, where the model computes
    RouterShape router;             // with the plan's top_k

    bool isConstant(std::size_t column) const { return !constantOf.empty() && constantOf[column] >= 0; }
    at::Tensor constant(std::size_t column) const { return constants.narrow(0, constantOf[column], 1); }  // [1,H]
};

struct PreparedPlan::Data {
    CompressionPlan plan;
    std::vector<PlannedLayer> layers;
    std::shared_ptr<const FactorSource> factors;  // null: plain
};

struct MoeArithmetic {
    at::ScalarType compute = at::kFloat;
    bool routerInFp32 = false;    // DeepSeek-V2: the router product runs in fp32 whatever the compute type
    bool weightsRounded = false;  // Qwen2/3-MoE, OLMoE: routing weights are rounded to the compute type
};

// The expert as it runs under the plan: its own weights, or factors (gate, up, down; may be null) in place of some of them.
struct PlannedExpert {
    std::shared_ptr<const GatedMlp> own;  // keeps them there; null where factors stand for all
    GatedMlp mlp;
};
PlannedExpert plannedExpert(const LayerWeights& weights, int expert, const Linear* factors);

// What the router does with the tokens of a batch under a plan. Routing itself runs on the host, wherever x lies.
struct RoutedBatch {
    at::Tensor rows;    // [n,H] of the router, on the device of x
    at::Tensor logits;  // [N,n] fp32, host
    at::Tensor bias;    // [n] fp32, host; or undefined
    RoutedTokens tokens;
    TokenGroups groups;
    at::Tensor weights;  // [N*k] fp32, host: of groups.order

    // Original ids of the selected experts, [N,k].
    at::Tensor selectedIds(const PlannedLayer& plan) const;
};
RoutedBatch routeBatch(const at::Tensor& x, const LayerWeights& weights, const PlannedLayer& plan, const MoeArithmetic& arithmetic);

// x [N,H] normed -> [N,H]. `factors`: per column and matrix (3 * n, gate, up, down) the factored form, undefined where dense;
// empty when the plan sets no rank in this layer. The result lies on the device of x; what an observer sees lies on the host.
at::Tensor moeForward(int layer, const at::Tensor& x, const LayerWeights& weights, const PlannedLayer& plan,
                      const std::vector<Linear>& factors, const MoeArithmetic& arithmetic, LayerObserver* observer);

}  // namespace espalier
