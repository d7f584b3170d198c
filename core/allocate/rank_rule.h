// Rank rules: which rank each matrix of each surviving expert gets. Pure arithmetic, any thread.
// A new rule is one file in this folder and one line in rank_rule.cpp (rank_rules.h).
#pragma once

#include "base/error.h"
#include "base/method_registry.h"
#include "plan/compression_plan.h"
#include "plan/expert_grid.h"
#include "plan/model_shape.h"

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace espalier
{

// What factors of every rank would lose. Plain numbers: whoever holds a profile fills them in.
struct MatrixCurve {
    std::vector<double> error;  // E(r), r = 0..min(a, b): squared output error of rank r; E(0) the energy. Falls, ever more slowly.
    double weight = 1;          // weight * E(r) is in the unit of the whole: comparable between matrices, experts and layers
};
using ExpertCurves = std::array<MatrixCurve, 3>;  // gate, up, down
struct RankCurves {
    std::vector<std::vector<ExpertCurves>> layers;  // [decoder layer][original expert]; empty for dense layers
};

// How much is left. At most one target is given; none: the rank that autoAverageRank gives each layer's shape.
struct RankRequest {
    std::optional<double> averageRank;         // R_a, >= 1: mean rank of the kept experts, the same in every layer
    std::optional<double> decomposeShare;      // in [0, 1): this share of the surviving experts' parameters goes
    std::optional<std::int64_t> bytes;         // of the whole model as exported: the largest plan that does not exceed it
    ExpertScores importance;                   // raw leave-one-out importance I_le; needed by moe-i2
    std::shared_ptr<const RankCurves> curves;  // needed by exact
    FactorSettings factors;                    // written into the plan
};

// The plan with new ranks for every kept expert of every layer that is not locked. A matrix whose factors would not be smaller than
// itself stays dense: at an integral break-even rank the plan says dense, which costs the same and loses nothing.
// Errors: method.unknown, method.bad_parameter, rank.bad_target, allocate.infeasible (bytes; with the feasible interval),
// allocate.no_importance, allocate.no_curves, plan.*.
Result<CompressionPlan> assignRanks(const ModelShape& shape, const CompressionPlan& plan, const std::string& rule,
                                    const RankRequest& request, const Params& params);
// moe-i2, uniform, exact.
const std::vector<MethodInfo>& rankRules();

// Average rank <-> share of an expert's parameters that factors of that rank remove: R_a = (1 - share) a b / (a + b). Not rounded.
double averageRankForShare(int hiddenSize, int expertWidth, double share);
double shareForAverageRank(int hiddenSize, int expertWidth, double averageRank);
// The paper's nominal 37 %, as a round number: the multiple of 128 nearest to averageRankForShare(.., 0.37), which reproduces the ranks
// that its totals imply: 512 for 2048 x 1408 (38.64 % of an expert), 2048 for 4096 x 14336 (35.71 %). Where that rank is below 256:
// the nearest multiple of the largest power of two that is not above half of it. At least 1.
int autoAverageRank(int hiddenSize, int expertWidth);

// MoE-I2 (arXiv 2411.01016), eq. 5, for one layer: one rank per expert for its three rows x columns matrices, 0 = dense. The cap is
// floor(rows columns / (rows + columns)), break-even itself included. An expert whose floored share exceeds it is dense, is charged
// rows columns, and the rest of averageRank * m * (rows + columns) is shared out again, by largest remainder in whole ranks, until no
// floored share exceeds the cap. Ranks are at least 1.
std::vector<int> moeI2Ranks(std::span<const double> importance, double averageRank, std::int64_t rows, std::int64_t columns,
                            double alpha = 0.15);

}  // namespace espalier
