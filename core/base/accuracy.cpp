#include "base/accuracy.h"

#include <cmath>
#include <vector>

namespace espalier
{

Accuracy accuracy(std::span<const double> right)
{
    const auto n = static_cast<double>(right.size());
    double sum = 0;
    for (const double value : right)
        sum += value;
    Accuracy result{sum / n, std::nullopt};
    if (right.size() < 2) return result;
    double squares = 0;
    for (const double value : right)
        squares += (value - result.value) * (value - result.value);
    result.error = std::sqrt(squares / (n - 1)) / std::sqrt(n);
    return result;
}

Accuracy pairedAccuracy(std::span<const double> first, std::span<const double> second)
{
    std::vector<double> differences;
    for (std::size_t i = 0; i < first.size(); ++i)
        differences.push_back(first[i] - second[i]);
    return accuracy(differences);
}

Accuracy meanAccuracy(std::span<const Accuracy> tasks)
{
    Accuracy mean{0, 0.0};
    for (const Accuracy& each : tasks) {
        mean.value += each.value / static_cast<double>(tasks.size());
        mean.error = mean.error && each.error ? std::optional(*mean.error + *each.error * *each.error) : std::nullopt;
    }
    if (mean.error) mean.error = std::sqrt(*mean.error) / static_cast<double>(tasks.size());
    return mean;
}

}  // namespace espalier
