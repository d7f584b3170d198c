// A plan for a size, by arithmetic: the bytes of a plan follow from its counts and ranks, so that the counts are found before anything is
// searched or measured, and the stages of the pipeline run once.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "plan/compression_plan.h"
#include "plan/expert_grid.h"
#include "plan/layer_plan.h"
#include "plan/model_shape.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace espalier
{

struct SizeProblem {
    const ModelShape& shape;
    const CompressionPlan& base;  // locks, protection
    std::int64_t bytes = 0;       // of the whole model as exported; not exceeded
    ExpertScores scores = {};
    std::optional<ConstantKind> dropped = {};  // as selectByRanking takes it
    int most = 0;                              // experts that there can be, with the layers that are left out, locked or capped
    // Counts of so many experts, per decoder layer. Error allocate.infeasible: not so few.
    std::function<Result<std::vector<int>>(int total)> counts = {};
    // A plan of counts and sets with the ranks that it is to have.
    std::function<Result<CompressionPlan>(const CompressionPlan&)> finish = {};
    // The same plan with lower ranks, within the bytes. nullopt: there are none, or not even the lowest fit.
    std::function<Result<std::optional<CompressionPlan>>(const CompressionPlan& chosen, const CompressionPlan& finished)> lowered = {};
};

struct SizedCounts {
    int experts = 0;
    std::vector<int> keep;  // per decoder layer
    CompressionPlan plan;   // of these counts with the sets that the scores choose: it fits
};

// The most experts whose plan, ranks included, is not larger than the bytes; sets by score stand for those that will be searched. Costs a
// few dozen plans, no pass. Errors: plan.size_infeasible, cancelled, those of the functions.
Result<SizedCounts> mostExperts(const SizeProblem& problem, JobContext& job);

// `chosen`, made for `counts` with sets of its own, and finished. Who stays decides a little about the ranks, and may make a plan too large
// by that little: it gives back rank, else the experts of least score, and where not even that is enough the answer is counts.plan. Never
// larger than the bytes.
Result<CompressionPlan> withinSize(const SizeProblem& problem, const SizedCounts& counts, const CompressionPlan& chosen, JobContext& job);

}  // namespace espalier
