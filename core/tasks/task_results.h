// From log-likelihoods to accuracies, as lm-evaluation-harness reports them.
#pragma once

#include "base/accuracy.h"
#include "tasks/task_item.h"

#include <optional>
#include <span>
#include <vector>

namespace espalier
{

// What the model says of one item. Per choice.
struct ItemScore {
    std::vector<double> logLikelihoods;  // nats, summed over the tokens of the continuation
    std::vector<bool> greedy;            // every token is the most likely one at its place
    std::vector<int> tokens;             // of the continuation
};

// The choice with the largest sum, and with the largest sum per code point of the choice (one without any loses). The first wins a tie.
int chosen(const ItemScore& score);
int chosenNormalised(const ItemScore& score, const TaskItem& item);

struct TaskResult {
    std::vector<double> right, rightNormalised;  // 0 or 1 per item
    Accuracy acc;
    std::optional<Accuracy> normalised;  // where the rules report it
};
// `items` and `scores` one to one.
TaskResult taskResult(std::span<const TaskItem> items, std::span<const ItemScore> scores, bool normalised);

}  // namespace espalier
