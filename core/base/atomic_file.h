// Output that is never half there: written to a temporary sibling, flushed, renamed.
#pragma once

#include "base/error.h"

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

namespace espalier
{

// Of an operation that writes `path` and failed with this errno: output.disk_full where there is no room,
// input.unreadable where the bytes to be written could not be read (EFAULT: from a mapped file), else output.unwritable.
Error writeError(const std::filesystem::path& path, int number);

// The folder and those above it, where they are missing. Errors as above.
Status makeFolder(const std::filesystem::path& path);

// Replaces `path` by `bytes`: temporary file in the same folder, fsync, rename, fsync of the folder. A kill leaves the old file or
// the new one. Errors: output.unwritable, output.disk_full.
Status writeFileAtomically(const std::filesystem::path& path, std::string_view bytes);

// A file being written beside `path`, under its name and ".partial-<process>-<number>"; commit() flushes and renames it, the destructor
// removes what was not committed. What a killed writer left of the same output is removed by the next one: it holds a lock (flock) while
// it writes.
class AtomicFile
{
public:
    static Result<AtomicFile> create(const std::filesystem::path& path);
    AtomicFile(AtomicFile&& other) noexcept;
    AtomicFile& operator=(AtomicFile&& other) noexcept;
    ~AtomicFile();

    // The disk begins to write while more bytes are produced, so that commit() has little to wait for.
    Status write(std::span<const std::byte> bytes);
    // An error after the rename says that the new file is there.
    Status commit();
    const std::filesystem::path& temporaryPath() const { return m_temporary; }
    // Open for reading and writing, for whoever writes at places of its own. Until commit().
    int descriptor() const { return m_descriptor; }
    // The error of an operation on the file that failed with this errno.
    Error failure(int number) const;

private:
    AtomicFile() = default;
    Status open();
    void discard() noexcept;

    std::filesystem::path m_path;
    std::filesystem::path m_temporary;
    int m_descriptor = -1;
    std::int64_t m_written = 0;
    std::int64_t m_begun = 0;  // bytes that the disk was told to write
};

// Removes temporaries of `path` whose writer was killed. AtomicFile::create does so for its own.
void removeAbandonedTemporaries(const std::filesystem::path& path);

// fsync of a file or folder that something else wrote, then rename. Errors as above.
Status syncAndRename(const std::filesystem::path& from, const std::filesystem::path& to);

// Free bytes for an unprivileged writer on the file system that holds `path` (or its nearest existing parent).
Result<std::int64_t> freeDiskBytes(const std::filesystem::path& path);

}  // namespace espalier
