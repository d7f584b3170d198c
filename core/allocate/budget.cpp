// The budget contract of methods.md 1.4 with unit costs of one expert.
#include "allocate/allocator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace espalier
{

namespace
{

double filled(double utility, double s, int low, int high, WaterFill fill)
{
    return std::clamp(fill == WaterFill::Additive ? utility + s : utility * s, static_cast<double>(low), static_cast<double>(high));
}

// Real-valued counts with sum == total: bisection on the monotone sum.
std::vector<double> waterFill(std::span<const double> utility, const BudgetLimits& limits, int total, WaterFill fill)
{
    const std::size_t n = utility.size();
    const auto sumAt = [&](double s) {
        double sum = 0;
        for (std::size_t i = 0; i < n; ++i)
            sum += filled(utility[i], s, limits.low[i], limits.high[i], fill);
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
    for (int halving = 0; halving < 200 && low < high; ++halving) {
        const double middle = low + (high - low) / 2;
        (sumAt(middle) < total ? low : high) = middle;
        if (middle == low && middle == high) break;
    }
    std::vector<double> x(n);
    for (std::size_t i = 0; i < n; ++i)
        x[i] = filled(utility[i], high, limits.low[i], limits.high[i], fill);
    return x;
}

}  // namespace

Result<std::vector<int>> fillBudget(std::span<const double> utility, const BudgetLimits& limits, int total, WaterFill fill,
                                    Rounding rounding)
{
    const std::size_t n = utility.size();
    const int least = std::accumulate(limits.low.begin(), limits.low.end(), 0);
    const int most = std::accumulate(limits.high.begin(), limits.high.end(), 0);
    if (total < least || total > most)
        return badInput(
            "allocate.infeasible", fmt::format("{} experts", total),
            fmt::format(
                "Keeping {} experts is not possible: with the router's top-k, locks and protected experts the feasible range is {} to {}.",
                total, least, most),
            "Choose a target in that range, or unlock layers.");
    for (std::size_t i = 0; i < n; ++i)
        if (!std::isfinite(utility[i]) || (fill == WaterFill::Proportional && utility[i] < 0))
            return badInput("allocate.utility", fmt::format("slot {}", i), "A layer's importance is missing, negative or not finite.",
                            "Measure the profile again, or use the uniform allocator.");

    std::vector<int> counts(n);
    if (rounding == Rounding::HighestAverages) {
        counts = limits.low;
        for (int left = total - least; left > 0; --left) {
            std::size_t best = n;
            for (std::size_t i = 0; i < n; ++i) {
                if (counts[i] >= limits.high[i]) continue;
                if (best == n || utility[i] / (counts[i] + 0.5) > utility[best] / (counts[best] + 0.5)) best = i;
            }
            ++counts[best];
        }
        return counts;
    }

    const std::vector<double> x = waterFill(utility, limits, total, fill);
    std::vector<double> fraction(n);
    int sum = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const double nearest = std::round(x[i]);
        const double snapped = std::abs(x[i] - nearest) < 1e-9 ? nearest : x[i];
        counts[i] = static_cast<int>(std::floor(snapped));
        fraction[i] = snapped - counts[i];
        sum += counts[i];
    }
    std::vector<std::size_t> order(n);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return fraction[a] > fraction[b] + 1e-12; });
    // More than one round is needed only where utilities are zero and the bisection leaves a plateau.
    while (sum != total) {
        const int before = sum;
        for (const std::size_t i : order) {
            if (sum < total && counts[i] < limits.high[i]) {
                ++counts[i];
                ++sum;
            } else if (sum > total && counts[i] > limits.low[i]) {
                --counts[i];
                --sum;
            }
            if (sum == total) break;
        }
        if (sum == before) break;
    }
    return counts;
}

}  // namespace espalier
