#include "base/mapped_file.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstring>

namespace espalier
{

Result<MappedFile> MappedFile::open(const std::filesystem::path& path, std::string_view area)
{
    const std::string subject = path.filename().string();
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return badInput(fmt::format("{}.{}", area, errno == ENOENT ? "missing" : "unreadable"), subject,
                        {"{path} cannot be opened: {strerror}.", {{"path", path.string()}, {"strerror", std::strerror(errno)}}},
                        "Check the path.");
    struct stat info = {};
    MappedFile file;
    file.m_path = path;
    if (::fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode)) {
        ::close(descriptor);
        return badInput(fmt::format("{}.unreadable", area), subject, {"{path} is not a regular file.", {{"path", path.string()}}});
    }
    file.m_size = static_cast<std::size_t>(info.st_size);
    file.m_opened = info;
    if (file.m_size > 0) {
        void* data = ::mmap(nullptr, file.m_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
        const int number = errno;
        if (data == MAP_FAILED) {
            ::close(descriptor);
            return badInput(fmt::format("{}.unreadable", area), subject,
                            {"{path} cannot be mapped: {strerror}.", {{"path", path.string()}, {"strerror", std::strerror(number)}}},
                            number == EIO ? "Check the disk." : "Check that it is a file and that there is memory for its pages.");
        }
        file.m_data = static_cast<const std::byte*>(data);
    }
    ::close(descriptor);
    return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept
{
    std::swap(m_path, other.m_path);
    std::swap(m_data, other.m_data);
    std::swap(m_size, other.m_size);
    std::swap(m_opened, other.m_opened);
    return *this;
}

MappedFile::~MappedFile()
{
    if (m_data != nullptr) ::munmap(const_cast<std::byte*>(m_data), m_size);
}

Status MappedFile::checkUnchanged() const
{
    struct stat now = {};
    // What is mapped cannot lose its inode to another file. Where the path leads elsewhere by now nobody can reach it by this path any
    // more.
    if (m_data == nullptr || ::stat(m_path.c_str(), &now) != 0 || now.st_ino != m_opened.st_ino || now.st_dev != m_opened.st_dev) return {};
    const bool same =
        now.st_size == m_opened.st_size && now.st_mtim.tv_sec == m_opened.st_mtim.tv_sec && now.st_mtim.tv_nsec == m_opened.st_mtim.tv_nsec;
    if (same) return {};
    return resourceError("input.unreadable", m_path.string(),
                         now.st_size == m_opened.st_size ? fmt::format("{} was written to while it was read.", m_path.string())
                                                         : fmt::format("{} had {} bytes when it was opened and has {} now.",
                                                                       m_path.string(), m_opened.st_size, now.st_size),
                         "See that nothing else changes the files, then open the model or run the command again.");
}

namespace
{
void advise(const std::byte* data, std::size_t size, std::size_t offset, std::size_t length, int advice)
{
    if (data == nullptr || offset >= size) return;
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const std::size_t begin = offset / page * page;
    const std::size_t end = std::min(size, offset + length);
    ::madvise(const_cast<std::byte*>(data) + begin, end - begin, advice);
}
}  // namespace

void MappedFile::dontNeed(std::size_t offset, std::size_t length) const noexcept { advise(m_data, m_size, offset, length, MADV_DONTNEED); }

void MappedFile::populate(std::span<const std::byte> bytes) noexcept
{
#ifdef MADV_POPULATE_READ
    const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data()) / page * page;
    const auto end = reinterpret_cast<std::uintptr_t>(bytes.data() + bytes.size());
    ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_READ);  // a hint: kernels before 5.14 refuse it
#else
    (void)bytes;
#endif
}

namespace
{
// Of whole pages.
void advise(std::span<const std::byte> bytes, int advice)
{
    const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data()) / page * page;
    const auto end = reinterpret_cast<std::uintptr_t>(bytes.data() + bytes.size());
    ::madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}
}  // namespace

void MappedFile::willNeed(std::span<const std::byte> bytes) noexcept { advise(bytes, MADV_WILLNEED); }

void MappedFile::dontNeed(std::span<const std::byte> bytes) noexcept { advise(bytes, MADV_DONTNEED); }

}  // namespace espalier
