#include "tasks/task_item.h"

namespace espalier
{

std::string TaskItem::example() const
{
    const auto right = static_cast<std::size_t>(gold);
    return contexts[right] + continuations[right];
}

TaskItem withExamples(TaskItem item, const std::vector<const TaskItem*>& examples)
{
    std::string before;
    for (const TaskItem* example : examples)
        before.append(example->example()).append("\n\n");
    for (std::string& context : item.contexts)
        context.insert(0, before);
    return item;
}

}  // namespace espalier
