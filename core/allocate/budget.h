// The budget contract: integers per slot that meet a total, from real utilities. A slot is a layer (units are experts
// or multiples of experts) or anything else with a floor, a cap and a price. Pure arithmetic in double, any thread.
#pragma once

#include "base/error.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace espalier
{

// Floors and caps per slot, in units; a locked layer has low == high.
struct BudgetLimits {
    std::vector<int> low;
    std::vector<int> high;
};

struct Budget {
    BudgetLimits limits;
    std::vector<std::int64_t> cost;  // of one unit of each slot, > 0; empty: 1 each
    std::int64_t total = 0;
    std::string unit = "experts";  // what `total` counts, for messages
};

enum class Rounding { LargestRemainder, HighestAverages };
// Proportional: clip(s u), needs utilities >= 0. Additive: clip(u + s).
enum class WaterFill { Proportional, Additive };

struct BudgetFill {
    std::vector<int> units;
    std::vector<double> reals;  // before rounding; empty with HighestAverages, which never forms them
    std::int64_t unused = 0;    // of the total; 0 with unit costs. No further unit fits.
};

// Errors: allocate.infeasible, whose message carries the feasible interval; allocate.utility (missing, not finite, negative).
Result<BudgetFill> fillBudget(std::span<const double> utility, const Budget& budget, WaterFill fill = WaterFill::Proportional,
                              Rounding rounding = Rounding::LargestRemainder);

// The two halves of it. Reals with sum cost x == total (bisection; unchecked input), and their rounding by largest remainder: floors,
// then one unit at a time in descending fractional part, ties to the lower slot, never above the cap, never past the total.
std::vector<double> waterFill(std::span<const double> utility, const Budget& budget, WaterFill fill);
BudgetFill roundReals(std::vector<double> reals, const Budget& budget);
// allocate.infeasible unless the floors fit below the total and the caps reach it.
Status checkFeasible(const Budget& budget);

// Unit costs of one.
Result<std::vector<int>> fillBudget(std::span<const double> utility, const BudgetLimits& limits, int total,
                                    WaterFill fill = WaterFill::Proportional, Rounding rounding = Rounding::LargestRemainder);

}  // namespace espalier
