// What one layer allocator consists of. Each file of this folder that implements one declares its function below and has its line in
// allocator.cpp.
#pragma once

#include "allocate/allocator.h"
#include "allocate/exact_solver.h"

#include <vector>

namespace espalier
{

// The request as slots: one per MoE layer. Units are `step` experts: 1, or what groups and multipleOf demand; a locked layer is one unit.
struct AllocationProblem {
    const ModelShape& shape;
    const AllocationRequest& request;
    std::vector<int> layers;   // decoder layer of each slot
    std::vector<int> experts;  // n_l
    std::vector<int> step;
    Budget budget;  // in units; budget.cost always filled

    std::size_t slots() const noexcept { return layers.size(); }
    const LayerShape& layer(std::size_t slot) const { return shape.layers[static_cast<std::size_t>(layers[slot])]; }
    const LayerPlan& plan(std::size_t slot) const { return request.plan.layer(layers[slot]); }
    const ExpertSet& pinned(std::size_t slot) const { return request.plan.protectedExperts(layers[slot]); }
    bool locked(std::size_t slot) const { return request.plan.isFixed(layers[slot]); }
    // Every unit is one expert of cost 1 (locked layers aside): the classical case.
    bool plainCounts() const;
    // Layer importance per slot. Error: allocate.no_importance.
    Result<std::vector<double>> importance(const std::string& method) const;
    // Scores of one slot. Error: allocate.no_scores.
    Result<std::vector<double>> scores(std::size_t slot, const std::string& method) const;
};

// Errors: allocate.infeasible (a layer whose floor is above its cap), allocate.no_experts. The request must outlive the answer.
Result<AllocationProblem> allocationProblem(const ModelShape& shape, const AllocationRequest& request);

struct LayerAllocator {
    MethodInfo info;
    // Units per slot. The budget is feasible, params are checked and complete.
    Result<std::vector<int>> (*units)(const AllocationProblem&, const Params&) = nullptr;
};

LayerAllocator uniformAllocator();
LayerAllocator importanceAllocator();
LayerAllocator inverseAllocator();
LayerAllocator coverageAllocator();
LayerAllocator globalAllocator();
LayerAllocator exactAllocator();

// The multiple-choice problem of request.lossCurves. Options whose loss is not known are left out.
// Error: allocate.no_curves.
Result<SolverAnswer> solveCounts(const AllocationProblem& problem, SolverBudget meaning);

// Experts of a slot in the order in which they would be kept: protected ones first, then by score; ties to the lower id.
std::vector<int> keepOrder(const ExpertSet& pinned, const std::vector<double>& scores, Better better);

}  // namespace espalier
