#include "tasks/task_results.h"

#include <cmath>
#include <limits>

namespace espalier
{

namespace
{

int largest(const std::vector<double>& values)
{
    std::size_t best = 0;
    for (std::size_t i = 1; i < values.size(); ++i)
        if (values[i] > values[best]) best = i;
    return static_cast<int>(best);
}

}  // namespace

int chosen(const ItemScore& score) { return largest(score.logLikelihoods); }

int chosenNormalised(const ItemScore& score, const TaskItem& item)
{
    std::vector<double> values;
    for (std::size_t i = 0; i < score.logLikelihoods.size(); ++i)
        values.push_back(item.lengths[i] == 0 ? -std::numeric_limits<double>::infinity()
                                              : score.logLikelihoods[i] / static_cast<double>(item.lengths[i]));
    return largest(values);
}

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

TaskResult taskResult(std::span<const TaskItem> items, std::span<const ItemScore> scores, bool normalised)
{
    TaskResult result;
    for (std::size_t i = 0; i < items.size(); ++i) {
        result.right.push_back(chosen(scores[i]) == items[i].gold ? 1 : 0);
        if (normalised) result.rightNormalised.push_back(chosenNormalised(scores[i], items[i]) == items[i].gold ? 1 : 0);
    }
    result.acc = accuracy(result.right);
    if (normalised) result.normalised = accuracy(result.rightNormalised);
    return result;
}

Accuracy pairedAccuracy(std::span<const double> first, std::span<const double> second)
{
    std::vector<double> differences;
    for (std::size_t i = 0; i < first.size(); ++i)
        differences.push_back(first[i] - second[i]);
    return accuracy(differences);
}

}  // namespace espalier
