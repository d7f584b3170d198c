#include "base/journal_file.h"

#include "base/atomic_file.h"
#include "base/text.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>
#include <system_error>
#include <utility>

namespace espalier
{

namespace
{

Status writeAndFlush(int descriptor, std::string_view bytes, const std::filesystem::path& path)
{
    while (!bytes.empty()) {
        const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
        if (written < 0 && errno == EINTR) continue;
        if (written == 0) errno = ENOSPC;
        if (written <= 0) return writeError(path, errno);
        bytes.remove_prefix(static_cast<std::size_t>(written));
    }
    // Some things that can be written to cannot be flushed.
    if (::fdatasync(descriptor) != 0 && errno != EINVAL && errno != EROFS) return writeError(path, errno);
    return {};
}

// Bytes of the leading lines that `read` takes.
Result<std::size_t> takeLines(const std::string& content, const std::string& subject, const std::string& area,
                              const JournalFile::Read& read)
{
    const std::size_t whole = content.rfind('\n');  // what follows was torn by a kill
    std::size_t begin = 0;
    while (whole != std::string::npos && begin <= whole) {
        const std::size_t end = content.find('\n', begin);
        const JournalLine line{.json = parseJson(std::string_view(content).substr(begin, end - begin), subject, area),
                               .begin = begin,
                               .first = begin == 0,
                               .last = end == whole};
        ESPALIER_TRY(const bool taken, read(line));
        if (!taken) break;
        begin = end + 1;
    }
    return begin;
}

}  // namespace

Result<JournalFile> JournalFile::open(const std::filesystem::path& path, const Json& header, const JournalOptions& options,
                                      const Read& read)
{
    JournalFile file;
    file.m_path = path;
    file.m_descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (file.m_descriptor < 0) return writeError(path, errno);
    if (options.locked && ::flock(file.m_descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) return *options.locked;
    std::size_t taken = 0;
    if (options.resume) {
        // What cannot be read is not taken for missing: the file is cut to what was understood.
        ESPALIER_TRY(const std::string content, readTextFile(path, options.area, options.maxBytes));
        ESPALIER_TRY(taken, takeLines(content, path.string(), options.area, read));
    }
    if (::ftruncate(file.m_descriptor, static_cast<off_t>(taken)) != 0 || ::lseek(file.m_descriptor, 0, SEEK_END) < 0)
        return writeError(path, errno);
    if (taken == 0) ESPALIER_CHECK_OK(file.append(header));
    return file;
}

JournalFile::JournalFile(JournalFile&& other) noexcept
    : m_path(std::move(other.m_path)), m_descriptor(std::exchange(other.m_descriptor, -1))
{
}

JournalFile& JournalFile::operator=(JournalFile&& other) noexcept
{
    std::swap(m_path, other.m_path);
    std::swap(m_descriptor, other.m_descriptor);
    return *this;
}

JournalFile::~JournalFile()
{
    if (m_descriptor >= 0) ::close(m_descriptor);
}

Status JournalFile::append(const Json& line)
{
    const off_t whole = ::lseek(m_descriptor, 0, SEEK_CUR);
    Status written = writeAndFlush(m_descriptor, canonicalJson(line) + "\n", m_path);
    if (!written.ok()) {
        // No half line stays in the way of the next one. Where not even this works, what is there counts as torn by a kill.
        if (whole >= 0 && ::ftruncate(m_descriptor, whole) == 0) ::lseek(m_descriptor, whole, SEEK_SET);
    }
    return written;
}

}  // namespace espalier
