#include "base/atomic_file.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>

namespace espalier
{

namespace
{

Error writeError(const std::filesystem::path& path, int number)
{
    const std::string subject = path.string();
    const bool full = number == ENOSPC || number == EDQUOT;
    Error error = resourceError(full ? "output.disk_full" : "output.unwritable", subject,
                                fmt::format("{} cannot be written: {}.", subject, std::strerror(number)),
                                full ? "Free some space or choose another folder." : "Check the folder and its permissions.");
    error.kept = "What was there before is unchanged.";
    return error;
}

// As much as is handed to the disk at a time.
constexpr std::int64_t kWriteBehind = std::int64_t{16} << 20;

Status syncFolder(const std::filesystem::path& folder)
{
    const int descriptor = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return writeError(folder, errno);
    // Some network file systems refuse fsync on a folder; the rename itself is done by then.
    ::fsync(descriptor);
    ::close(descriptor);
    return {};
}

}  // namespace

Result<AtomicFile> AtomicFile::create(const std::filesystem::path& path)
{
    AtomicFile file;
    file.m_path = path;
    file.m_temporary = path;
    file.m_temporary += fmt::format(".partial-{}", ::getpid());
    file.m_descriptor = ::open(file.m_temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file.m_descriptor < 0) return writeError(path, errno);
    return file;
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept { *this = std::move(other); }

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept
{
    std::swap(m_path, other.m_path);
    std::swap(m_temporary, other.m_temporary);
    std::swap(m_descriptor, other.m_descriptor);
    std::swap(m_written, other.m_written);
    std::swap(m_begun, other.m_begun);
    return *this;
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::discard() noexcept
{
    if (m_descriptor < 0) return;
    ::close(m_descriptor);
    ::unlink(m_temporary.c_str());
    m_descriptor = -1;
}

Status AtomicFile::write(std::span<const std::byte> bytes)
{
    while (!bytes.empty()) {
        const ssize_t written = ::write(m_descriptor, bytes.data(), bytes.size());
        if (written < 0) {
            if (errno == EINTR) continue;
            return writeError(m_path, errno);
        }
        bytes = bytes.subspan(static_cast<std::size_t>(written));
        m_written += written;
    }
    if (m_written - m_begun >= kWriteBehind) {
        // Advice only: what fails here fails again, and is reported, in commit().
        ::sync_file_range(m_descriptor, m_begun, m_written - m_begun, SYNC_FILE_RANGE_WRITE);
        m_begun = m_written;
    }
    return {};
}

Status AtomicFile::commit()
{
    if (::fsync(m_descriptor) != 0) return writeError(m_path, errno);
    if (::close(m_descriptor) != 0) {
        m_descriptor = -1;
        return writeError(m_path, errno);
    }
    m_descriptor = -1;
    if (::rename(m_temporary.c_str(), m_path.c_str()) != 0) {
        const int number = errno;
        ::unlink(m_temporary.c_str());
        return writeError(m_path, number);
    }
    return syncFolder(m_path.parent_path());
}

Status writeFileAtomically(const std::filesystem::path& path, std::string_view bytes)
{
    ESPALIER_TRY(AtomicFile file, AtomicFile::create(path));
    ESPALIER_CHECK_OK(file.write(std::as_bytes(std::span(bytes.data(), bytes.size()))));
    return file.commit();
}

Status syncAndRename(const std::filesystem::path& from, const std::filesystem::path& to)
{
    const int descriptor = ::open(from.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return writeError(from, errno);
    const bool synced = ::fsync(descriptor) == 0;
    const int number = errno;
    ::close(descriptor);
    if (!synced) return writeError(from, number);
    if (::rename(from.c_str(), to.c_str()) != 0) return writeError(to, errno);
    return syncFolder(to.parent_path());
}

Result<std::int64_t> freeDiskBytes(const std::filesystem::path& path)
{
    std::filesystem::path probe = std::filesystem::absolute(path);
    std::error_code failure;
    while (!std::filesystem::exists(probe, failure) && probe.has_relative_path())
        probe = probe.parent_path();
    struct statvfs info = {};
    if (::statvfs(probe.c_str(), &info) != 0) return writeError(path, errno);
    return static_cast<std::int64_t>(info.f_bavail) * static_cast<std::int64_t>(info.f_frsize);
}

}  // namespace espalier
