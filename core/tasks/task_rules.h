// The tasks: how the fields of a file become contexts and choices. Templates and metrics are those of lm-evaluation-harness (version 0.4),
// whose numbers papers report. A new task is one entry of the table.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "tasks/task_item.h"

#include <span>
#include <string_view>

namespace espalier
{

struct TaskRules {
    std::string_view id;
    std::string_view title;
    bool normalised = true;  // acc_norm is reported: where all choices are alike in form it says nothing
    // One object of the file. Values are inserted as they are. Error: task.invalid, which names the field.
    Result<TaskItem> (*read)(const Json& fields);
};

// In the order in which they are reported.
std::span<const TaskRules> allTaskRules();
const TaskRules* findTaskRules(std::string_view id);

}  // namespace espalier
