// The allocator "verified" on a real model: candidates and forms of layers from a profile, measured on the calibration windows
// (search/plan_search.h). No ATen here.
#pragma once

#include "pipeline/make_plan.h"
#include "search/layer_forms.h"
#include "search/plan_search.h"

#include <map>
#include <memory>

namespace espalier
{

struct VerifiedProblem {
    const PlanInputs& inputs;
    const CompressionPlan& base;
    // One of them: so many experts, with the ranks of `base` as they are; or the bytes of the whole model, ranks chosen along with counts.
    std::optional<int> keepTotal;
    std::optional<std::int64_t> bytes;
    bool uniformCount = false;
    CountBounds bounds;
    std::uint64_t seed = 0;
    const AllocationRequest& request;       // scores, importance, curves
    const std::vector<LayerCurve>& curves;  // of every free MoE layer: the best set at every count
    FactorSettings factors;                 // of new ranks
    // Ranks by a rule, where one follows: what is measured of a plan of counts. May be empty.
    std::function<Result<CompressionPlan>(const CompressionPlan&)> ranked;
    MeasuredPlans::Measure measure;        // exact losses on calibration windows
    std::vector<std::vector<int>> groups;  // of those windows
    double spentSeconds = 0;               // of the time allowed, before the search begins
    double timeShare = 1;                  // of the time allowed: what follows needs the rest
    std::function<double()> clock;         // empty: a steady clock
};

struct VerifiedAnswer {
    PlanSearchResult search;
    Json detail;                // candidates, layer weights, trace
    double allowedSeconds = 0;  // for everything; 0: no limit
    // The plan with other sets in some layers ([decoder layer], empty: as it is), in no more bytes. nullopt: not possible.
    std::function<Result<std::optional<CompressionPlan>>(const CompressionPlan&, const std::vector<ExpertSet>&)> withSets;
};

// Candidates: the plan that was given, where it has the size, the presets, and the answers of the other allocators.
Result<VerifiedAnswer> searchVerified(const VerifiedProblem& problem, const Params& params, JobContext& job);

// The best sets of every layer as the solver for a size takes them: [decoder layer][count].
std::vector<std::vector<ExpertSet>> setsByCount(const ModelShape& shape, const std::vector<LayerCurve>& curves);

// The groups of windows in the order in which a race measures them: spread over the text from the start.
std::vector<std::vector<int>> raceOrder(const std::vector<std::vector<int>>& groups);

}  // namespace espalier
