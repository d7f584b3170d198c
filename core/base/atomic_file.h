// Output that is never half there: written to a temporary sibling, flushed, renamed (cli.md 2).
#pragma once

#include "base/error.h"

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

namespace espalier
{

// Replaces `path` by `bytes`: temporary file in the same folder, fsync, rename, fsync of the folder. A kill leaves the old file or
// the new one. Errors: output.unwritable, output.disk_full.
Status writeFileAtomically(const std::filesystem::path& path, std::string_view bytes);

// A file being written at `path` + ".partial"; commit() flushes and renames it, the destructor removes what was not committed.
class AtomicFile
{
public:
    static Result<AtomicFile> create(const std::filesystem::path& path);
    AtomicFile(AtomicFile&& other) noexcept;
    AtomicFile& operator=(AtomicFile&& other) noexcept;
    ~AtomicFile();

    // The disk begins to write while more bytes are produced, so that commit() has little to wait for.
    Status write(std::span<const std::byte> bytes);
    Status commit();
    const std::filesystem::path& temporaryPath() const { return m_temporary; }

private:
    AtomicFile() = default;
    void discard() noexcept;

    std::filesystem::path m_path;
    std::filesystem::path m_temporary;
    int m_descriptor = -1;
    std::int64_t m_written = 0;
    std::int64_t m_begun = 0;  // bytes that the disk was told to write
};

// fsync of a file or folder that something else wrote, then rename. Errors as above.
Status syncAndRename(const std::filesystem::path& from, const std::filesystem::path& to);

// Free bytes for an unprivileged writer on the file system that holds `path` (or its nearest existing parent).
Result<std::int64_t> freeDiskBytes(const std::filesystem::path& path);

}  // namespace espalier
