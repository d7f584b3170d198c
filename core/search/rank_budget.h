// A plan whose experts have ranks, under a byte budget, when its kept sets change: bytes stay what they are, experts come and go.
#pragma once

#include "base/error.h"
#include "plan/compression_plan.h"
#include "plan/model_shape.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace espalier
{

// Squared output error that the last unit of a rank saves, comparable between layers: what is lost when `rank` becomes rank - 1.
// Not smaller for a smaller rank. `matrix`: gate, up, down.
using RankValue = std::function<double(int layer, int expert, int matrix, int rank)>;

// `base` with these experts in each layer ([decoder layer]; an empty set: as in `base`). Experts that stay keep their ranks. Ranks of those
// that leave, the largest first, go to those that enter, of the same layer if it has any left; beyond them an expert enters with
// the middle one of all ranks of `base`. Locked layers are left alone. Errors: those of withKept and withRanks.
Result<CompressionPlan> withSetsHandingRanksOn(const ModelShape& shape, const CompressionPlan& base, const std::vector<ExpertSet>& sets);

struct HeldPlan {
    CompressionPlan plan;
    std::int64_t givenBack = 0;  // rank units, one of one matrix
};

// The plan as it is where it takes no more than `bytes` (planCost), else with lower ranks: the units of least value go first, or, without
// `value`, all ranks fall by the same share. Dense matrices and locked layers stay. nullopt: not even rank 1 everywhere fits.
Result<std::optional<HeldPlan>> heldToBytes(const ModelShape& shape, const CompressionPlan& plan, std::int64_t bytes,
                                            const RankValue& value = {});

// Order in which experts hand their ranks on: dense counts most.
bool lessRank(const RankTriple& a, const RankTriple& b);
// The ranks of an expert; all dense for one that is not kept or a layer without ranks.
RankTriple rankOf(const LayerPlan& layer, int expert);

}  // namespace espalier
