#include "allocate/budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace espalier
{

namespace
{

std::int64_t costOf(const Budget& budget, std::size_t slot) { return budget.cost.empty() ? 1 : budget.cost[slot]; }

std::int64_t costOf(const Budget& budget, const std::vector<int>& units)
{
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < units.size(); ++i)
        sum += costOf(budget, i) * units[i];
    return sum;
}

double filled(double utility, double s, int low, int high, WaterFill fill)
{
    return std::clamp(fill == WaterFill::Additive ? utility + s : utility * s, static_cast<double>(low), static_cast<double>(high));
}

// One unit at a time to the largest u / (x + 1/2): monotone in the total, because the order of the units does not depend on it.
std::vector<int> highestAverages(std::span<const double> utility, const Budget& budget)
{
    const std::size_t n = utility.size();
    std::vector<int> units = budget.limits.low;
    std::int64_t left = budget.total - costOf(budget, units);
    while (true) {
        std::size_t best = n;
        for (std::size_t i = 0; i < n; ++i) {
            if (units[i] >= budget.limits.high[i] || costOf(budget, i) > left) continue;
            if (best == n || utility[i] / (units[i] + 0.5) > utility[best] / (units[best] + 0.5)) best = i;
        }
        if (best == n) return units;
        ++units[best];
        left -= costOf(budget, best);
    }
}

}  // namespace

Status checkFeasible(const Budget& budget)
{
    const std::int64_t least = costOf(budget, budget.limits.low);
    const std::int64_t most = costOf(budget, budget.limits.high);
    if (budget.total >= least && budget.total <= most) return {};
    return badInput("allocate.infeasible", fmt::format("{} {}", budget.total, budget.unit),
                    {"Keeping {total} {unit} is not possible: with the router's top-k, locks, protected experts and limits the feasible "
                     "range is {least} to {most}.",
                     {{"total", budget.total}, {"unit", budget.unit}, {"least", least}, {"most", most}}},
                    "Choose a target in that range, or unlock layers.");
}

std::vector<double> waterFill(std::span<const double> utility, const Budget& budget, WaterFill fill)
{
    const std::size_t n = utility.size();
    const BudgetLimits& limits = budget.limits;
    const auto total = static_cast<double>(budget.total);
    const auto sumAt = [&](double s) {
        double sum = 0;
        for (std::size_t i = 0; i < n; ++i)
            sum += static_cast<double>(costOf(budget, i)) * filled(utility[i], s, limits.low[i], limits.high[i], fill);
        return sum;
    };
    double low = 0;
    double high = 1;
    if (fill == WaterFill::Additive) {
        double span = 1;
        for (std::size_t i = 0; i < n; ++i)
            span = std::max({span, std::abs(utility[i]), static_cast<double>(limits.high[i])});
        low = -2 * span;
        high = 2 * span;
    } else {
        // Utilities of zero never grow: give up where every other slot is long full.
        for (int doubling = 0; doubling < 300 && sumAt(high) < total; ++doubling)
            high *= 2;
    }
    for (int halving = 0; halving < 200; ++halving) {
        const double middle = low + (high - low) / 2;
        if (middle == low || middle == high) break;  // neighbouring doubles
        (sumAt(middle) < total ? low : high) = middle;
    }
    std::vector<double> x(n);
    for (std::size_t i = 0; i < n; ++i)
        x[i] = filled(utility[i], high, limits.low[i], limits.high[i], fill);
    return x;
}

BudgetFill roundReals(std::vector<double> reals, const Budget& budget)
{
    const std::size_t n = reals.size();
    BudgetFill result;
    result.units.resize(n);
    std::vector<double> fraction(n);
    for (std::size_t i = 0; i < n; ++i) {
        const double nearest = std::round(reals[i]);
        const double snapped = std::abs(reals[i] - nearest) < 1e-9 ? nearest : reals[i];
        result.units[i] = static_cast<int>(std::floor(snapped));
        fraction[i] = snapped - result.units[i];
    }
    std::int64_t left = budget.total - costOf(budget, result.units);
    std::vector<std::size_t> order(n);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return fraction[a] > fraction[b] + 1e-12; });
    // More than one round is needed only where utilities are zero and the bisection leaves a plateau.
    for (bool changed = true; changed && left != 0;) {
        changed = false;
        for (const std::size_t i : order) {
            const std::int64_t cost = costOf(budget, i);
            if (left >= cost && result.units[i] < budget.limits.high[i]) {
                ++result.units[i];
                left -= cost;
                changed = true;
            } else if (left < 0 && result.units[i] > budget.limits.low[i]) {
                --result.units[i];
                left += cost;
                changed = true;
            }
        }
    }
    result.reals = std::move(reals);
    result.unused = left;
    return result;
}

Result<BudgetFill> fillBudget(std::span<const double> utility, const Budget& budget, WaterFill fill, Rounding rounding)
{
    ESPALIER_CHECK_OK(checkFeasible(budget));
    for (std::size_t i = 0; i < utility.size(); ++i)
        if (!std::isfinite(utility[i]) || (fill == WaterFill::Proportional && utility[i] < 0))
            return badInput("allocate.utility", fmt::format("slot {}", i), "A layer's importance is missing, negative or not finite.",
                            "Measure the profile again, or use the uniform allocator.");
    if (rounding == Rounding::LargestRemainder) return roundReals(waterFill(utility, budget, fill), budget);
    BudgetFill result;
    result.units = highestAverages(utility, budget);
    result.unused = budget.total - costOf(budget, result.units);
    return result;
}

Result<std::vector<int>> fillBudget(std::span<const double> utility, const BudgetLimits& limits, int total, WaterFill fill,
                                    Rounding rounding)
{
    ESPALIER_TRY(BudgetFill filledUp, fillBudget(utility, Budget{limits, {}, total, "experts"}, fill, rounding));
    return std::move(filledUp.units);
}

}  // namespace espalier
