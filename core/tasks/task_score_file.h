// Scores of items on disk as they come, so that an interrupted run goes on from them.
#pragma once

#include "base/error.h"
#include "base/journal_file.h"
#include "base/json.h"
#include "tasks/task_results.h"

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>

namespace espalier
{

// What scores belong to besides plan, task and item.
struct TaskScoreKey {
    std::string fingerprint;      // of the checkpoint
    std::string tokenizerSha256;  //
    std::string mode;             // MoeModel::numericMode()
    int examples = 0;             // answered questions before each one
};

// Belongs to one thread.
class TaskScoreFile
{
public:
    static std::filesystem::path defaultPath(const TaskScoreKey& key);
    // Without `resume` it starts afresh. Errors: tasks.* where the file exists and cannot be read; output.unwritable, output.disk_full.
    static Result<TaskScoreFile> open(const std::filesystem::path& path, const TaskScoreKey& key, bool resume);

    // `task`: the SHA-256 of its file.
    const ItemScore* find(const std::string& planHash, const std::string& task, int item) const;
    // Kept at once, and on the disk after flush() or a second: every line waits for the disk, and there are thousands of items. Errors:
    // output.unwritable, output.disk_full.
    Status append(const std::string& planHash, const std::string& task, int item, const ItemScore& score);
    Status flush();

private:
    explicit TaskScoreFile(JournalFile file) : m_file(std::move(file)) {}

    JournalFile m_file;
    std::map<std::pair<std::string, int>, ItemScore> m_scores;  // by plan and task, item
    Json m_waiting = Json::array();
    std::chrono::steady_clock::time_point m_flushed = std::chrono::steady_clock::now();
};

}  // namespace espalier
