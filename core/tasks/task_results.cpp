#include "tasks/task_results.h"

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

}  // namespace espalier
