#include "base/atomic_file.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace espalier
{

Error writeError(const std::filesystem::path& path, int number)
{
    const std::string subject = path.string();
    // The bytes came from a mapped file that has become shorter, or whose disk fails.
    if (number == EFAULT)
        return resourceError("input.unreadable", subject,
                             {"A file that {subject} is made of has become shorter, or its disk failed.", {{"subject", subject}}},
                             "Check the disk, and that nothing else changes the files, and run it again.");
    const bool full = number == ENOSPC || number == EDQUOT;
    Error error = resourceError(full ? "output.disk_full" : "output.unwritable", subject,
                                {"{subject} cannot be written: {strerror}.", {{"subject", subject}, {"strerror", std::strerror(number)}}},
                                full ? "Free some space or choose another folder." : "Check the folder and its permissions.");
    error.kept = "What was there before is unchanged.";
    return error;
}

Status makeFolder(const std::filesystem::path& path)
{
    std::error_code failure;
    std::filesystem::create_directories(path, failure);
    return failure ? writeError(path, failure.value()) : Status();
}

namespace
{

// As much as is handed to the disk at a time.
constexpr std::int64_t kWriteBehind = std::int64_t{16} << 20;

// Some network file systems refuse fsync, above all on a folder, and say so: that is no failing disk.
bool flushed(int descriptor) { return ::fsync(descriptor) == 0 || errno == EINVAL || errno == ENOTSUP; }

// Makes a rename in `folder` last. `path` is what was renamed.
Status syncFolder(const std::filesystem::path& folder, const std::filesystem::path& path)
{
    const int descriptor = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    // A folder that may be written and not read is no failing disk.
    const bool synced = descriptor < 0 ? errno == EACCES : flushed(descriptor);
    const int number = errno;
    if (descriptor >= 0) ::close(descriptor);
    if (synced) return {};
    Error error = writeError(path, number);
    error.message = fmt::format("{} was written, but its folder cannot be flushed: {}.", path.string(), std::strerror(number));
    error.kept = "The new file is there and whole; a power failure now could bring the old state back.";
    error.action = "Check the disk.";
    return error;
}

constexpr std::string_view kTemporary = ".partial-";

// Whether the path still names what the descriptor has open.
bool isNamed(int descriptor, const std::filesystem::path& path)
{
    struct stat held = {};
    struct stat named = {};
    return ::fstat(descriptor, &held) == 0 && ::lstat(path.c_str(), &named) == 0 && held.st_ino == named.st_ino &&
           held.st_dev == named.st_dev;
}

}  // namespace

// Nobody holds the lock of a temporary whose writer is gone.
void removeAbandonedTemporaries(const std::filesystem::path& path)
{
    std::error_code failure;
    const std::string prefix = path.filename().string() + std::string(kTemporary);
    const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
    for (std::filesystem::directory_iterator it(folder, failure), end; !failure && it != end; it.increment(failure)) {
        if (!it->path().filename().string().starts_with(prefix)) continue;
        const int descriptor = ::open(it->path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (descriptor < 0) continue;
        if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0 && isNamed(descriptor, it->path())) ::unlink(it->path().c_str());
        ::close(descriptor);
    }
}

Result<AtomicFile> AtomicFile::create(const std::filesystem::path& path)
{
    removeAbandonedTemporaries(path);
    AtomicFile file;
    file.m_path = path;
    ESPALIER_CHECK_OK(file.open());
    return file;
}

Status AtomicFile::open()
{
    static std::atomic<unsigned> serial = 0;
    for (;;) {
        m_temporary = m_path;
        m_temporary += fmt::format("{}{}-{}", kTemporary, ::getpid(), serial++);
        const int descriptor = ::open(m_temporary.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        if (descriptor < 0) return writeError(m_path, errno);
        // Where the disk knows no locks, nothing is ever taken for abandoned. A file that is locked belongs to a process of another
        // machine with the same number; one that was unlinked, somebody took for abandoned before it was locked.
        const bool taken = ::flock(descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
        if (taken || !isNamed(descriptor, m_temporary)) {
            ::close(descriptor);
            continue;
        }
        m_descriptor = descriptor;
        return ::ftruncate(descriptor, 0) == 0 ? Status() : writeError(m_path, errno);
    }
}

Error AtomicFile::failure(int number) const { return writeError(m_path, number); }

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
    ::unlink(m_temporary.c_str());  // while it is still locked
    ::close(std::exchange(m_descriptor, -1));
}

Status AtomicFile::write(std::span<const std::byte> bytes)
{
    while (!bytes.empty()) {
        const ssize_t written = ::write(m_descriptor, bytes.data(), bytes.size());
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return writeError(m_path, written < 0 ? errno : ENOSPC);
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
    if (!flushed(m_descriptor)) return writeError(m_path, errno);
    // Renamed before it is closed, so that it is locked as long as it is a temporary.
    if (::rename(m_temporary.c_str(), m_path.c_str()) != 0) return writeError(m_path, errno);
    ::close(std::exchange(m_descriptor, -1));
    return syncFolder(m_path.parent_path(), m_path);
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
    const bool synced = flushed(descriptor);
    const int number = errno;
    ::close(descriptor);
    if (!synced) return writeError(from, number);
    if (::rename(from.c_str(), to.c_str()) != 0) return writeError(to, errno);
    return syncFolder(to.parent_path(), to);
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
