// Multiple-choice knapsack (Sinha and Zoltners 1979): one option per layer, the least sum of losses within a budget. A "layer" is
// anything that offers a choice. Pure arithmetic, deterministic, any thread.
#pragma once

#include "base/error.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace espalier
{

struct SolverOption {
    std::int64_t cost = 0;
    double loss = 0;
    int payload = 0;  // the caller's
};
using SolverLayer = std::vector<SolverOption>;  // not empty; any order; costs may be equal

enum class SolverBudget {
    AtMost,
    Exactly,  // solveExact only; costs must have a common divisor that leaves at most maxStates sums
};

struct SolverSettings {
    SolverBudget meaning = SolverBudget::AtMost;
    // Bound on the sums kept per layer (24 bytes each, for every layer). Where more are left the costs are put on a grid of so many
    // cells, rounded up, and the answer may miss the optimum: then `optimal` is false and `gap` says by how much at most.
    std::size_t maxStates = std::size_t{1} << 16;
};

struct SolverAnswer {
    std::vector<int> choice;   // index into the layer's options
    std::vector<int> payload;  // of the chosen options
    std::int64_t cost = 0;
    double loss = 0;
    double dualBound = 0;  // no answer within the budget has less loss (Lagrangian dual, exact maximum over the multiplier)
    double gap = 0;        // loss - dualBound, >= 0
    std::string method;    // "all" (everything fits), "dp", "dp-grid", "lagrangian", "greedy"
    bool optimal = false;  // proven
};

// All: errors allocate.infeasible with the feasible interval, allocate.no_options (an empty layer), allocate.utility (a loss that is not
// finite). Ties to the cheaper answer, then to the lower option.

// Dominated options pruned, options fixed by their reduced cost, then dynamic programming over the sums that are left.
Result<SolverAnswer> solveExact(const std::vector<SolverLayer>& layers, std::int64_t budget, const SolverSettings& settings = {});

// Greedy: from the best options downwards, always the step that loses least per unit of cost, until the budget is met. Optimal
// where every curve is convex and steps are equal.
Result<SolverAnswer> solveGreedy(const std::vector<SolverLayer>& layers, std::int64_t budget);

// The hull solutions on both sides of the budget, each repaired: the one below filled up with what still fits, the one above given back
// until it fits. The better one is the answer.
struct LagrangianAnswer {
    SolverAnswer filledUp;
    SolverAnswer givenBack;
    const SolverAnswer& best() const { return givenBack.loss < filledUp.loss ? givenBack : filledUp; }
};
Result<LagrangianAnswer> solveLagrangian(const std::vector<SolverLayer>& layers, std::int64_t budget);

}  // namespace espalier
