// Window losses on disk, so that an interrupted evaluation goes on where it stopped (`evaluate --resume`). One JSON object per line:
// a first line that names what the numbers belong to, then one line per window. A line torn by a kill is dropped on opening.
#pragma once

#include "base/error.h"
#include "base/journal_file.h"
#include "base/statistics.h"

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace espalier
{

// Everything that decides a loss besides the plan and the window. Two files with different keys never mix.
struct LossKey {
    std::string fingerprint;  // of the model
    std::string textSha256;   // of the token windows
    std::string mode;         // "fp32", "bf16"
    int windowLength = 0;
    std::string version;  // of the program; empty = this one

    std::string hash() const;  // hex SHA-256, names the default file
};

class LossFile
{
public:
    // $XDG_CACHE_HOME/espalier/evaluations/<key hash>.jsonl (~/.cache without the variable).
    static std::filesystem::path defaultPath(const LossKey& key);

    // Opens or creates. With `resume` false an existing file starts afresh. Errors: evaluate.other_run (the file belongs to another
    // model, text or mode), evaluate.invalid_losses (not such a file), output.unwritable.
    static Result<LossFile> open(const std::filesystem::path& path, const LossKey& key, bool resume);

    // Ascending by window; of a window written twice the first counts.
    std::vector<WindowLoss> known(const std::string& planHash) const;
    // Appends one line and flushes it to the disk.
    Status append(const std::string& planHash, const WindowLoss& loss);
    const std::filesystem::path& path() const { return m_file.path(); }

private:
    LossFile(JournalFile file, std::vector<std::pair<std::string, WindowLoss>> losses)
        : m_file(std::move(file)), m_losses(std::move(losses))
    {
    }

    JournalFile m_file;
    std::vector<std::pair<std::string, WindowLoss>> m_losses;
};

}  // namespace espalier
