// The folder `<out>.partial` that an export grows in: recognisable as ours from the moment it exists, whatever call a kill falls between.
//
// An export makes the folder (empty: ours), then the state file in it through a temporary sibling (a folder with nothing but that
// sibling: ours), then weights and texts beside the state file (ours by the state file), then the sealed plan file; only then does
// the state file go (ours by the plan file), and the whole folder is renamed. Removal goes the other way round: what marks a folder
// goes last.
#pragma once

#include "base/error.h"

#include <filesystem>
#include <string>
#include <string_view>

namespace espalier
{

inline constexpr std::string_view kExportStateFile = "espalier_export_state.json";

struct PartialState {
    enum class Kind {
        Absent,
        Foreign,      // something that no export left: it is not touched
        Begun,        // an export was killed before it said what it writes
        Interrupted,  // `key` says what it was writing
        Finished,     // everything is there, only the rename is missing; or an earlier export that was taken out of the way
    };
    Kind kind = Kind::Absent;
    std::string key;
};
PartialState partialState(const std::filesystem::path& partial);

// Whether the folder holds an export, whole or damaged.
bool isEspalierExport(const std::filesystem::path& folder);

// Removes a folder of ours with all that is in it; what marks it goes last. Nothing happens where it does not exist.
void removeExportFolder(const std::filesystem::path& folder) noexcept;

// The folder and its state file, whichever of them are missing; what a killed run left half written is removed. Parents are made.
// Errors: output.unwritable, output.disk_full.
Status beginPartial(const std::filesystem::path& partial, const std::string& key);
// Takes the state file away: the plan file is written by now.
Status endPartial(const std::filesystem::path& partial);

// `partial` becomes `out`; an earlier export there changes places with it in one step and is then removed.
// Errors: output.unwritable.
Status moveIntoPlace(const std::filesystem::path& partial, const std::filesystem::path& out);

// Removed again when it goes out of scope, unless it is kept for a resumed run or was moved into place.
class PartialFolder
{
public:
    explicit PartialFolder(std::filesystem::path path) : m_path(std::move(path)) {}
    PartialFolder(const PartialFolder&) = delete;
    PartialFolder& operator=(const PartialFolder&) = delete;
    ~PartialFolder()
    {
        if (!m_keep) removeExportFolder(m_path);
    }
    void keep() { m_keep = true; }

private:
    std::filesystem::path m_path;
    bool m_keep = false;
};

}  // namespace espalier
