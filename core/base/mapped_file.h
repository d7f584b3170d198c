// A file mapped read-only. The size is that of the descriptor that is mapped, so nothing derived from the file's content can reach
// outside. The mapping lives as long as the object; a file truncated by somebody else meanwhile raises SIGBUS on access to pages that are
// gone, and reads as zeros in what is left of its last page: checkUnchanged() after reading tells.
#pragma once

#include "base/error.h"

#include <cstddef>
#include <filesystem>
#include <span>

#include <sys/stat.h>

namespace espalier
{

class MappedFile
{
public:
    // Errors: <area>.missing, <area>.unreadable.
    static Result<MappedFile> open(const std::filesystem::path& path, std::string_view area);
    MappedFile() = default;
    MappedFile(MappedFile&& other) noexcept;
    MappedFile& operator=(MappedFile&& other) noexcept;
    ~MappedFile();

    std::span<const std::byte> bytes() const noexcept { return {m_data, m_size}; }
    std::size_t size() const noexcept { return m_size; }
    const std::filesystem::path& path() const noexcept { return m_path; }

    // Whether the file that is mapped still has the size and the time of modification it was opened with: only then is what was read until
    // now what it held. A file of another inode at its path does not matter: the mapping keeps the old one. Any thread.
    // Error: input.unreadable.
    Status checkUnchanged() const;

    // Hint to the kernel: drop the pages (they come back from the file when touched again). Any thread.
    void dontNeed(std::size_t offset, std::size_t length) const noexcept;

    static void dontNeed(std::span<const std::byte> bytes) noexcept;  // of an open file

    // Reads and maps pages of an open file at once, which is cheaper than a fault for every few of them; returns when they are there. Any
    // thread. (The kernel reads ahead a few hundred kB however much it is advised to: reading ahead is calling this on another thread.)
    static void populate(std::span<const std::byte> bytes) noexcept;
    // Starts reading exactly these pages of an open file from the disk, if they are not in memory. Any thread.
    static void willNeed(std::span<const std::byte> bytes) noexcept;

private:
    std::filesystem::path m_path;
    const std::byte* m_data = nullptr;
    std::size_t m_size = 0;
    struct stat m_opened = {};
};

}  // namespace espalier
