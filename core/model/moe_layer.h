// The MoE module: router, selected experts, shared experts (formulas: README.md here) under what a plan does in one layer.
#pragma once

#include "base/error.h"
#include "model/form_request.h"
#include "model/layer_weights.h"
#include "model/moe_model_torch.h"
#include "model/router.h"
#include "plan/factor_source.h"

#include <memory>
#include <vector>

namespace espalier
{

// What computes behind one or more columns of the router.
struct PlannedBody {
    int column = 0;          // original id of the first expert that leads here: what observers know it by
    int expert = 0;          // whose weights stand where the plan leaves a matrix as it is
    at::Tensor constant;     // [1,H] in the compute type, where the model computes; undefined where an expert computes
    bool ownWeights = true;  // some matrix is made of the checkpoint's
};

// One layer of a prepared plan.
struct PlannedLayer {
    bool runsAttention = true;
    bool runsExperts = true;
    bool allColumns = true;
    std::vector<int> columns;           // original ids of the experts whose router rows stay, ascending; all of them when allColumns
    at::Tensor columnIndex;             // the same, [n] int64
    std::vector<PlannedBody> bodies;    // in the order in which columns first lead to them
    at::Tensor bodyIndex;               // [n] int64: of every column; undefined where column i leads to body i
    std::vector<FormRequest> requests;  // matrices that are not as the checkpoint has them; forms lie in the plan
    std::vector<std::size_t> places;    // of each request: 3 * body + matrix; the MLP beside the bodies comes last
    bool attentionForms = false;        // linear maps of attention are not as the checkpoint has them
    at::Tensor routerRows;              // [n,H] stored rows, where the model computes; undefined: the checkpoint's
    RouterShape router;                 // with the plan's top_k
};

struct PreparedPlan::Data {
    CompressionPlan plan;
    std::vector<PlannedLayer> layers;
    std::shared_ptr<const FactorSource> factors;  // null: plain
    FactorSources given;                          // values files are among them
};

struct MoeArithmetic {
    at::ScalarType compute = at::kFloat;
    bool routerInFp32 = false;    // DeepSeek-V2: the router product runs in fp32 whatever the compute type
    bool weightsRounded = false;  // Qwen2/3-MoE, OLMoE: routing weights are rounded to the compute type
};

// A body as it runs under the plan: the expert's own weights, or forms (gate, up, down; may be null) in place of some of them.
struct PlannedExpert {
    std::shared_ptr<const GatedMlp> own;  // keeps them there; null where forms stand for all
    GatedMlp mlp;
};
PlannedExpert plannedExpert(const LayerWeights& weights, int expert, const Linear* forms);

// The shared experts or the MLP of a dense layer under the plan: their matrices stand behind those of the bodies in `forms`.
GatedMlp plannedMlp(const GatedMlp& own, const PlannedLayer& plan, const std::vector<Linear>& forms);

// The tokens of one body, each once, ascending.
struct BodyTokens {
    at::Tensor tokens;                // [M] int64 rows of the batch
    at::Tensor weights;               // [M] fp32: summed up over the columns through which a token gets here, largest weight first
    std::vector<std::int64_t> rowOf;  // of each slot of the body in `groups`; empty: slot i is row i
};

// What the router does with the tokens of a batch under a plan. Routing itself runs on the host, wherever x lies.
struct RoutedBatch {
    at::Tensor rows;    // [n,H] of the router, on the device of x
    at::Tensor logits;  // [N,n] fp32, host
    at::Tensor bias;    // [n] fp32, host; or undefined
    RoutedTokens tokens;
    TokenGroups groups;  // by body
    at::Tensor weights;  // [N*k] fp32, host: of groups.order

    std::int64_t slotsOf(std::size_t body) const { return groups.offsets[body + 1] - groups.offsets[body]; }
    BodyTokens tokensOf(std::size_t body) const;
    // Original ids of the selected experts, [N,k].
    at::Tensor selectedIds(const PlannedLayer& plan) const;
};
RoutedBatch routeBatch(const at::Tensor& x, const LayerWeights& weights, const PlannedLayer& plan, const MoeArithmetic& arithmetic);

// x [N,H] normed, what the router did with it -> [N,H]. `forms`: per body and matrix (3 * n, gate, up, down) what the plan makes of it,
// undefined where it is as the checkpoint has it, then the same of the shared experts; empty when all are. The result lies on the device of
// x; what an observer sees lies on the host.
at::Tensor moeForward(int layer, const at::Tensor& x, const LayerWeights& weights, const PlannedLayer& plan,
                      const std::vector<Linear>& forms, const RoutedBatch& routed, LayerObserver* observer);
// Both.
at::Tensor moeForward(int layer, const at::Tensor& x, const LayerWeights& weights, const PlannedLayer& plan,
                      const std::vector<Linear>& forms, const MoeArithmetic& arithmetic, LayerObserver* observer);

}  // namespace espalier
