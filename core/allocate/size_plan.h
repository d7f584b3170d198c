// One byte budget over expert counts and ranks together. Pure arithmetic, any thread.
#pragma once

#include "allocate/allocator.h"
#include "allocate/rank_rule.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace espalier
{

struct SizeRequest {
    CompressionPlan plan;    // locked layers stay as they are, ranks included; protected experts stay; other ranks are replaced
    std::int64_t bytes = 0;  // of the whole model as exported; not exceeded

    // D_l(m): [decoder layer][m], NaN or infinite where not known. Its unit is that of the curves, summed over layers: squared error of
    // the layer output, or estimated nats.
    std::vector<std::vector<double>> lossCurves;
    // Who stays when m experts do: [decoder layer][m]. Where a set is missing: the m best by `scores`.
    std::vector<std::vector<ExpertSet>> keptSets;
    ExpertScores scores;
    std::shared_ptr<const RankCurves> curves;  // null: counts only, everything dense
    std::vector<double> layerWeight;           // multiplies the losses of a decoder layer, counts and ranks alike; empty: 1

    std::vector<int> floor;  // as in AllocationRequest
    std::vector<int> cap;
    int multipleOf = 1;  // counts
    bool uniformCount = false;
    int rankMultipleOf = 1;
    FactorSettings factors;  // written into the plan
};

struct SizedPlan {
    CompressionPlan plan;
    std::int64_t bytes = 0;  // planCost(plan), <= the budget
    double loss = 0;         // of the free layers, as the curves add up: an approximation of the model's
    double dualBound = 0;    // no plan within the bytes has less of it
    double gap = 0;          // loss - dualBound
    std::string method;      // of the solver
};

// Every layer offers each count with a family of rank profiles (the choice of all matrices for one price per byte); the solver chooses
// among them; the ranks of the chosen counts are then split once more over all layers, byte by byte. Milliseconds to seconds.
// Errors: allocate.infeasible (with the feasible interval in bytes), allocate.no_curves, allocate.no_experts, score.shape, plan.*.
Result<SizedPlan> planForBytes(const ModelShape& shape, const SizeRequest& request);

}  // namespace espalier
