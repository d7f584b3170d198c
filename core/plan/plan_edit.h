// Edits of a plan beyond counts and ranks, as pure functions plan -> plan: what the window's gestures, the command line and the pipeline
// are made of. Checked by plan_rules; errors plan.*. Any thread.
#pragma once

#include "base/error.h"
#include "plan/compression_plan.h"

namespace espalier
{

// Keeps these experts of a layer; with `rest`, all others become constants of that kind (the router is unchanged, so that its top-k is no
// floor), without it they are dropped. Forms stay with the experts that stay.
[[nodiscard]] Result<CompressionPlan> withKeptAnd(const ModelShape& shape, const CompressionPlan& plan, int layer, const ExpertSet& kept,
                                                  std::optional<ConstantKind> rest);

// One expert becomes a constant, whether it was kept or dropped. Errors also: plan.invalid where it is the last that computes.
[[nodiscard]] Result<CompressionPlan> withConstant(const ModelShape& shape, const CompressionPlan& plan, int layer, int expert,
                                                   ConstantKind kind);

// Several experts of a layer at once, all others as they are: constants, or gone from router and layer, constants too.
[[nodiscard]] Result<CompressionPlan> withConstants(const ModelShape& shape, const CompressionPlan& plan, int layer,
                                                    const ExpertSet& experts, ConstantKind kind);
[[nodiscard]] Result<CompressionPlan> withDropped(const ModelShape& shape, const CompressionPlan& plan, int layer,
                                                  const ExpertSet& experts);

// In every layer that is not fixed: all experts that were dropped become constants, or with nothing the constants are dropped.
[[nodiscard]] Result<CompressionPlan> withDroppedAs(const ModelShape& shape, const CompressionPlan& plan, std::optional<ConstantKind> kind);

// How many experts the router of a layer picks, 1 to the checkpoint's number: of a token's experts those with the largest routing weights.
// Fewer are active, and as few may be kept. Errors also: plan.invalid for a number beyond.
[[nodiscard]] Result<CompressionPlan> withTopK(const ModelShape& shape, const CompressionPlan& plan, int layer, int topK);

// What becomes of a linear map beside the routed experts ("self_attn.o_proj", "mlp.shared_expert.down_proj"); a form that is the
// checkpoint's own takes it out of the plan. Errors also: plan.unknown_linear.
[[nodiscard]] Result<CompressionPlan> withLinearForm(const ModelShape& shape, const CompressionPlan& plan, int layer,
                                                     const LinearId& linear, const MatrixForm& form);

// The layer's weights become alpha of its own and 1 - alpha of another layer's; none: its own. To be used with the other layer left out.
[[nodiscard]] Result<CompressionPlan> withMergedLayer(const ModelShape& shape, const CompressionPlan& plan, int layer,
                                                      std::optional<LayerMerge> merge);

// Which of its chosen experts a token skips in the layer; none: the checkpoint's own rule, which most have not.
[[nodiscard]] Result<CompressionPlan> withSkipRule(const ModelShape& shape, const CompressionPlan& plan, int layer,
                                                   std::optional<SkipRule> rule);

// Which halves of the layer run. One that comes back to running its experts is whole; one whose experts do not run says nothing of them.
[[nodiscard]] Result<CompressionPlan> withRun(const ModelShape& shape, const CompressionPlan& plan, int layer, LayerRun run);

}  // namespace espalier
