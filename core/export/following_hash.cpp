#include "export/following_hash.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <span>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

namespace espalier
{

namespace
{

constexpr std::size_t kPiece = std::size_t{1} << 20;

}  // namespace

FollowingHash::FollowingHash(const std::filesystem::path& path)
    : m_path(path), m_descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC)), m_failed(m_descriptor < 0), m_thread([this] { follow(); })
{
}

FollowingHash::~FollowingHash()
{
    stop(0);
    if (m_descriptor >= 0) ::close(m_descriptor);
}

void FollowingHash::stop(std::uint64_t bytes)
{
    if (!m_thread.joinable()) return;
    {
        const std::scoped_lock lock(m_mutex);
        m_available = bytes;
        m_last = true;
    }
    m_changed.notify_one();
    m_thread.join();
}

void FollowingHash::advance(std::uint64_t bytes)
{
    {
        const std::scoped_lock lock(m_mutex);
        m_available = bytes;
    }
    m_changed.notify_one();
}

void FollowingHash::follow()
{
    std::vector<std::byte> piece(kPiece);
    std::uint64_t done = 0;
    for (;;) {
        std::uint64_t available = 0;
        {
            std::unique_lock lock(m_mutex);
            m_changed.wait(lock, [&] { return m_last || m_available >= done + kPiece; });
            available = m_available;
            if (m_failed || (m_last && available <= done)) return;
        }
        while (done < available) {
            const auto wanted = static_cast<std::size_t>(std::min<std::uint64_t>(kPiece, available - done));
            const ssize_t count = ::pread(m_descriptor, piece.data(), wanted, static_cast<off_t>(done));
            if (count < 0 && errno == EINTR) continue;
            if (count <= 0) {
                const std::scoped_lock lock(m_mutex);
                m_failed = true;
                return;
            }
            m_hash.update(std::span(piece).first(static_cast<std::size_t>(count)));
            done += static_cast<std::uint64_t>(count);
        }
    }
}

Result<std::string> FollowingHash::finish(std::uint64_t bytes)
{
    stop(bytes);
    if (m_failed)
        return resourceError("export.unreadable", m_path.string(), {"{path} cannot be read back.", {{"path", m_path.string()}}},
                             "Check the disk and export again.");
    return m_hash.finish();
}

}  // namespace espalier
