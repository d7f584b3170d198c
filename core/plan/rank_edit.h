// Edits of matrix ranks by hand: a rank that saves nothing is no rank, the matrix stays dense. Pure; any thread.
#pragma once

#include "base/error.h"
#include "plan/compression_plan.h"
#include "plan/model_shape.h"

#include <cstdint>

namespace espalier
{

// Of the experts' matrices of this layer, [H, I] or [I, H]; 0 in a dense layer.
int breakEvenOf(const ModelShape& shape, int layer);
int fullRankOf(const ModelShape& shape, int layer);

// Ranks on one ascending scale: 1 .. break-even, and one step above it dense. What sliders, curves and tables move on.
int denseLevel(const ModelShape& shape, int layer);
int rankOfLevel(const ModelShape& shape, int layer, int level);  // 0 = dense
// Of keys and wheel: a hundredth of the scale or so, a power of two, since factors of such ranks are quick everywhere; coarse: five of
// them.
int rankStep(int breakEven, bool coarse);

// Of the expert's three matrices; zeros where it is dense or dropped.
RankTriple ranksOf(const CompressionPlan& plan, int layer, int expert);
// Mean over the three matrices, rounded; the dense level where all are dense. 0 where the expert is dropped.
int levelOf(const ModelShape& shape, const CompressionPlan& plan, int layer, int expert);
// Mean level of the layer's kept experts, rounded; the dense level only where all of them are dense.
int meanLevelOf(const ModelShape& shape, const CompressionPlan& plan, int layer);

// Of one kept expert as the plan writes it, in the checkpoint's storage.
std::int64_t expertBytes(const ModelShape& shape, const CompressionPlan& plan, int layer, int expert);

// Gate, up and down together. `rank` below 1 becomes 1, beyond break-even (or exactly there, where factors cost what the matrix costs)
// dense; 0 = dense. `factors`: what the plan's factors are made by where it has none yet; a plan without ranks names none.
// Errors: plan.rank_of_dropped, plan.unknown_layer.
[[nodiscard]] Result<CompressionPlan> withExpertRank(const ModelShape& shape, const CompressionPlan& plan, int layer, int expert, int rank,
                                                     const FactorSettings& factors);

// Moves the kept experts of a layer together until the mean of their levels is `meanLevel`: differences between them stay as far as
// 1 and dense allow. The dense level makes all of them dense. Errors: plan.unknown_layer.
[[nodiscard]] Result<CompressionPlan> withMeanLevel(const ModelShape& shape, const CompressionPlan& plan, int layer, int meanLevel,
                                                    const FactorSettings& factors);

// All matrices dense.
[[nodiscard]] CompressionPlan withoutRanks(const ModelShape& shape, const CompressionPlan& plan);

}  // namespace espalier
