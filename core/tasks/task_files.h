// Task files in a folder: JSON lines, as data sets are handed around.
#pragma once

#include "base/error.h"
#include "tasks/task_item.h"
#include "tasks/task_rules.h"

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace espalier
{

struct TaskFile {
    std::string name;  // "hellaswag", or the name that tasks.json gives
    const TaskRules* rules = nullptr;
    std::filesystem::path path;
};

// The tasks of a folder: NAME.jsonl, or a folder NAME with the split that the harness reads (test or validation), in the order of the
// rules; then what tasks.json names: {"name": {"file": ..., "rules": ...}}. Empty: none. Errors: task.folder_missing, task.invalid_json.
Result<std::vector<TaskFile>> findTaskFiles(const std::filesystem::path& folder);

struct Task {
    TaskFile file;
    std::vector<TaskItem> items;  // in file order
    std::string sha256;           // of the file's bytes
    int hidden = 0;               // items whose right answer the file does not say: counted as wrong
};

// `limit` > 0: the first so many items. `examples` > 0: so many answered items before each question, the first of the file that are not the
// question itself. Errors: task.missing, task.too_large, task.empty, task.few_items (fewer than the examples need), task.invalid with file
// and line.
Result<Task> readTask(const TaskFile& file, int limit, int examples);

}  // namespace espalier
