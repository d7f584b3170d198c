// One multiple-choice question as the model is asked it: text that is there, and for every choice the text whose log-likelihood counts.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace espalier
{

struct TaskItem {
    std::vector<std::string> contexts;       // one per choice; all alike where the choices continue one text
    std::vector<std::string> continuations;  // one per choice, the space before it included
    std::vector<std::size_t> lengths;        // code points of the choice itself: what acc_norm divides by
    int gold = -1;                           // index of the right choice; -1: the file does not say it (hidden test labels)

    std::size_t choices() const { return continuations.size(); }
    // The text of the right answer, as examples before a question show it.
    std::string example() const;
};

// Examples, then the question: examples are answered and end with an empty line.
TaskItem withExamples(TaskItem item, const std::vector<const TaskItem*>& examples);

}  // namespace espalier
