// Values files that have moved, and those of a folder that nobody names any more. A file is told by its content, the SHA-256 that is its
// id, wherever it lies and whatever it is called. Blocks on the disk: a thread that may wait.
//
// A folder that the program keeps values files in has beside each of them a record, FILE.users: a line per file that was seen to name
// it (a session, a plan of an export). Who makes the file begins the record; a file without one is older than records and never removed.
#pragma once

#include "base/error.h"
#include "plan/compression_plan.h"

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <vector>

namespace espalier
{

class ValuesSearch
{
public:
    // Looked at in this order, each with its folder `values`.
    explicit ValuesSearch(std::vector<std::filesystem::path> folders) : m_folders(std::move(folders)) {}

    // Where the plan says, if a file is there (whoever opens it checks its content). Else in each folder the file of the same name,
    // ID.safetensors, and every other values file, whose content is the id. Nothing where there is none.
    std::optional<std::filesystem::path> find(const ValuesInfo& values);
    // Whether this file's content is the id. Read once, however often it is asked for.
    bool holds(const std::filesystem::path& file, const ValuesId& id);

private:
    std::vector<std::filesystem::path> m_folders;
    std::map<std::filesystem::path, ValuesId> m_content;
};

// The values files that the plan reads and that are not where it says. Looks whether files are there; nothing is opened.
std::vector<ValuesInfo> lostValues(const CompressionPlan& plan);

// The plan with these files for those that it reads, by id. Hash and everything else stay.
CompressionPlan withValuesAt(const CompressionPlan& plan, const std::map<ValuesId, std::string>& files);

// Where the values file of this id would lie in such a folder.
std::filesystem::path keptValuesFile(const std::filesystem::path& folder, const ValuesId& id);
// Begins the record of a values file that was just made. Errors: output.*.
Status beginValuesRecord(const std::filesystem::path& valuesFile);
// Adds `user` where there is a record. Where that fails the record goes: the file is never removed then.
void noteValuesUser(const std::filesystem::path& valuesFile, const std::filesystem::path& user);

// Removes from `folder` the values files ID.safetensors that have a record and were last written before `before`, that `inUse` does not
// name, and of which `names(user, id)` is false for every user of the record. A user that is gone or cannot be read has to count as one
// that names it. Returns what was removed.
std::vector<std::filesystem::path> removeUnusedValues(const std::filesystem::path& folder, std::filesystem::file_time_type before,
                                                      const std::function<bool(const ValuesId&)>& inUse,
                                                      const std::function<bool(const std::filesystem::path& user, const ValuesId&)>& names);

}  // namespace espalier
