// Results on disk as they come, so that an interrupted run goes on from them: JSON lines, the first of which names what the others belong
// to. Each is flushed before the run goes on. A line torn by a kill has no end and is dropped on opening.
#pragma once

#include "base/error.h"
#include "base/json.h"

#include <cstddef>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

namespace espalier
{

// One whole line, as opening finds it.
struct JournalLine {
    Result<Json> json;
    std::size_t begin = 0;  // byte in the file
    bool first = false;
    bool last = false;  // nothing but a torn line follows
};

struct JournalOptions {
    bool resume = false;          // else the file starts afresh, whatever it holds
    std::string area;             // of error codes: "evaluate"
    std::size_t maxBytes = 0;     // a larger file is not read: <area>.too_large
    std::optional<Error> locked;  // the error when another process has the file open; without one, processes do not look at each other
};

// Belongs to one thread.
class JournalFile
{
public:
    // What becomes of a line: true, it was taken; false, the file ends before it.
    using Read = std::function<Result<bool>(const JournalLine&)>;

    // Opens or creates, hands every whole line to `read`, cuts off what was not taken, and writes `header` where nothing was. Errors: those
    // of `read`, `locked`, output.unwritable, output.disk_full, <area>.* where it exists and cannot be read.
    static Result<JournalFile> open(const std::filesystem::path& path, const Json& header, const JournalOptions& options, const Read& read);
    JournalFile(JournalFile&& other) noexcept;
    JournalFile& operator=(JournalFile&& other) noexcept;
    ~JournalFile();

    // One line, flushed to the disk. After an error the file is as before. Errors: output.unwritable, output.disk_full.
    Status append(const Json& line);
    const std::filesystem::path& path() const { return m_path; }

private:
    JournalFile() = default;

    std::filesystem::path m_path;
    int m_descriptor = -1;
};

}  // namespace espalier
