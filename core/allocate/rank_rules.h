// What one rank rule consists of. Each file of this folder that implements one declares its function below and has its line in
// rank_rule.cpp.
#pragma once

#include "allocate/rank_rule.h"

#include <vector>

namespace espalier
{

// Layers in play: MoE and not locked.
struct RankProblem {
    const ModelShape& shape;
    const CompressionPlan& plan;
    const RankRequest& request;
    std::vector<int> layers;          // decoder layers
    std::vector<double> averageRank;  // of each of them; empty where `bytes` is the target of a rule that solves it itself
    std::optional<std::int64_t> bytes;

    const LayerShape& layer(std::size_t i) const { return shape.layers[static_cast<std::size_t>(layers[i])]; }
    const ExpertSet& kept(std::size_t i) const { return plan.layer(layers[i]).kept(); }
};

struct RankRule {
    MethodInfo info;
    // One triple per kept expert of each layer in play; ranks may lie at or beyond break-even (then dense). Params are checked.
    Result<std::vector<std::vector<RankTriple>>> (*ranks)(const RankProblem&, const Params&) = nullptr;
    bool solvesBytes = false;  // takes `bytes` itself; for the others the average rank is searched
};

RankRule moeI2RankRule();
RankRule uniformRankRule();
RankRule exactRankRule();

// Curves of one expert. Error: allocate.no_curves.
Result<const ExpertCurves*> curvesOf(const RankCurves* curves, int layer, int expert);
// Bytes of `parameters` numbers of a routed expert, rounded up.
std::int64_t expertBytes(const LayerShape& layer, std::int64_t parameters);

}  // namespace espalier
