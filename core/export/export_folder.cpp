#include "export/export_folder.h"

#include "base/atomic_file.h"
#include "base/json.h"
#include "export/export_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <vector>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

fs::path withSuffix(fs::path path, std::string_view suffix)
{
    path += suffix;
    return path;
}

std::vector<fs::path> entriesOf(const fs::path& folder)
{
    std::vector<fs::path> entries;
    std::error_code failure;
    for (fs::directory_iterator it(folder, failure), end; !failure && it != end; it.increment(failure))
        entries.push_back(it->path());
    return entries;
}

void syncFolder(const fs::path& folder)
{
    const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return;
    // Some network file systems refuse fsync on a folder.
    ::fsync(descriptor);
    ::close(descriptor);
}

}  // namespace

bool isEspalierExport(const fs::path& folder)
{
    std::error_code ignored;
    return fs::is_regular_file(folder / kPlanFileName, ignored);
}

PartialState partialState(const fs::path& partial)
{
    using Kind = PartialState::Kind;
    std::error_code failure;
    const fs::file_type type = fs::symlink_status(partial, failure).type();
    if (type == fs::file_type::not_found) return {Kind::Absent, {}};
    if (type != fs::file_type::directory) return {Kind::Foreign, {}};
    const auto state = readJsonFile(partial / kExportStateFile, "export");
    if (state.ok() && state->is_object() && state->contains("export_key") && (*state)["export_key"].is_string())
        return {Kind::Interrupted, (*state)["export_key"].get<std::string>()};
    if (isEspalierExport(partial)) return {Kind::Finished, {}};
    const std::vector<fs::path> entries = entriesOf(partial);
    const bool begun = std::all_of(entries.begin(), entries.end(),
                                   [](const fs::path& entry) { return entry.filename().string().starts_with(kExportStateFile); });
    return {begun ? Kind::Begun : Kind::Foreign, {}};
}

void removeExportFolder(const fs::path& folder) noexcept
{
    try {
        std::error_code ignored;
        for (const fs::path& entry : entriesOf(folder))
            if (entry.filename() != kExportStateFile && entry.filename() != kPlanFileName) fs::remove_all(entry, ignored);
        fs::remove(folder / kPlanFileName, ignored);
        fs::remove(folder / kExportStateFile, ignored);
        fs::remove(folder, ignored);
    } catch (...) {
        // Out of memory for a name: what is left is still recognised.
    }
}

Status beginPartial(const fs::path& partial, const std::string& key)
{
    ESPALIER_CHECK_OK(makeFolder(partial));
    std::error_code failure;
    for (const fs::path& entry : entriesOf(partial))
        if (entry.filename().string().find(".partial") != std::string::npos) fs::remove(entry, failure);
    return writeFileAtomically(partial / kExportStateFile, canonicalJson({{"export_key", key}}) + "\n");
}

Status endPartial(const fs::path& partial)
{
    std::error_code failure;
    fs::remove(partial / kExportStateFile, failure);
    if (failure) return writeError(partial / kExportStateFile, failure.value());
    return {};
}

Status moveIntoPlace(const fs::path& partial, const fs::path& out)
{
    // Where two folders cannot change places the old one steps aside for a moment; a kill in that moment leaves it there.
    const fs::path aside = withSuffix(out, ".partial-old");
    std::error_code ignored;
    if (!fs::exists(out, ignored)) {
        ESPALIER_CHECK_OK(syncAndRename(partial, out));
        if (isEspalierExport(aside)) removeExportFolder(aside);
        return {};
    }
    syncFolder(partial);
    if (::renameat2(AT_FDCWD, partial.c_str(), AT_FDCWD, out.c_str(), RENAME_EXCHANGE) == 0) {
        syncFolder(out.parent_path());
        removeExportFolder(partial);
        return {};
    }
    if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP) return writeError(out, errno);
    if (isEspalierExport(aside)) removeExportFolder(aside);
    if (::rename(out.c_str(), aside.c_str()) != 0) return writeError(out, errno);
    const Status moved = syncAndRename(partial, out);
    if (!moved.ok()) {
        (void)::rename(aside.c_str(), out.c_str());
        return moved.error();
    }
    removeExportFolder(aside);
    return {};
}

}  // namespace espalier
