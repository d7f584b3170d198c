#include "base/statistics.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace espalier
{

namespace
{

struct Ratio {
    double value = 0;  // sum(numerator) / sum(tokens)
    double error = 0;
    double tokens = 0;
};

// Ratio estimator over windows: SE = sqrt(W/(W-1) * sum (d_w - value N_w)^2) / sum N_w   (Cochran, Sampling Techniques, 6.3)
Ratio ratioOverWindows(const std::vector<std::pair<double, double>>& lossAndTokens)
{
    Ratio ratio;
    double sum = 0;
    for (const auto& [loss, tokens] : lossAndTokens) {
        sum += loss;
        ratio.tokens += tokens;
    }
    if (ratio.tokens <= 0) return ratio;
    ratio.value = sum / ratio.tokens;
    const auto windows = static_cast<double>(lossAndTokens.size());
    if (windows < 2) return ratio;
    double squares = 0;
    for (const auto& [loss, tokens] : lossAndTokens) {
        const double residual = loss - ratio.value * tokens;
        squares += residual * residual;
    }
    ratio.error = std::sqrt(windows / (windows - 1) * squares) / ratio.tokens;
    return ratio;
}

}  // namespace

PerplexityEstimate perplexity(std::span<const WindowLoss> windows)
{
    std::vector<std::pair<double, double>> terms;
    for (const WindowLoss& window : windows)
        terms.emplace_back(window.nll, window.tokens);
    const Ratio ratio = ratioOverWindows(terms);
    PerplexityEstimate estimate;
    estimate.nll = ratio.value;
    estimate.ppl = std::exp(ratio.value);
    estimate.nllError = ratio.error;
    estimate.pplError = estimate.ppl * ratio.error;
    estimate.tokens = std::lround(ratio.tokens);
    estimate.windows = static_cast<int>(windows.size());
    return estimate;
}

PairedDifference pairedDifference(std::span<const WindowLoss> plan, std::span<const WindowLoss> reference)
{
    std::map<int, const WindowLoss*> byWindow;
    for (const WindowLoss& window : reference)
        byWindow[window.window] = &window;
    std::vector<std::pair<double, double>> terms;
    for (const WindowLoss& window : plan) {
        const auto it = byWindow.find(window.window);
        if (it != byWindow.end() && it->second->tokens == window.tokens) terms.emplace_back(window.nll - it->second->nll, window.tokens);
    }
    const Ratio ratio = ratioOverWindows(terms);
    PairedDifference difference;
    difference.nll = ratio.value;
    difference.se = ratio.error;
    difference.windows = static_cast<int>(terms.size());
    const double quantile = difference.windows >= 30 ? 1.96 : difference.windows >= 2 ? studentT975(difference.windows - 1) : 0.0;
    difference.pplRatio = std::exp(ratio.value);
    difference.low = std::exp(ratio.value - quantile * ratio.error);
    difference.high = std::exp(ratio.value + quantile * ratio.error);
    return difference;
}

double studentT975(int degreesOfFreedom)
{
    // Table for 1..29; above, the normal quantile with the first Cornish-Fisher terms is exact to three decimals.
    static constexpr double kTable[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
                                        2.201,  2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
                                        2.080,  2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045};
    if (degreesOfFreedom < 1) return kTable[0];
    if (degreesOfFreedom <= 29) return kTable[degreesOfFreedom - 1];
    const double z = 1.959964;
    return z + (z * z * z + z) / (4.0 * degreesOfFreedom);
}

}  // namespace espalier
