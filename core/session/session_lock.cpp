#include "session/session_file.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace espalier
{

namespace
{

std::string hostName()
{
    std::array<char, 256> name = {};
    return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown host";
}

std::string readAll(int descriptor)
{
    std::array<char, 4096> buffer = {};
    const ssize_t size = ::pread(descriptor, buffer.data(), buffer.size(), 0);
    return size > 0 ? std::string(buffer.data(), static_cast<std::size_t>(size)) : std::string();
}

Error lockedError(const std::filesystem::path& session, const std::string& content)
{
    const auto holder = parseJson(content, "lock", "session");
    std::string who = "another program";
    if (holder.ok() && holder->is_object())
        who = fmt::format("{} on {} (process {})", holder->value("user", "somebody"), holder->value("host", "another machine"),
                          holder->value("process", 0));
    Error error = badInput("session.locked", session.string(),
                           {"{session} is open by {who}.", {{"session", session.filename().string()}, {"who", who}}},
                           "Open it read-only, or close it there first.");
    error.kept = "The file was not changed.";
    return error;
}

Error unwritable(const std::filesystem::path& session, const std::filesystem::path& lock, int number)
{
    Error error = resourceError("session.lock_unwritable", session.string(),
                                {"{lock} cannot be written: {strerror}.", {{"lock", lock.string()}, {"strerror", std::strerror(number)}}},
                                "The session can be opened read-only, or saved elsewhere.");
    error.kept = "The session was not changed.";
    return error;
}

}  // namespace

Result<SessionLock> SessionLock::acquire(const std::filesystem::path& session)
{
    SessionLock lock;
    lock.m_path = session;
    lock.m_path += ".lock";
    for (int attempt = 0; attempt < 8; ++attempt) {
        const int descriptor = ::open(lock.m_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        if (descriptor < 0) return unwritable(session, lock.m_path, errno);
        if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
            const std::string content = readAll(descriptor);
            ::close(descriptor);
            return lockedError(session, content);
        }
        // The holder removes the file before it lets go: what was locked may no longer be what the path names.
        struct stat held = {};
        struct stat named = {};
        if (::fstat(descriptor, &held) != 0 || ::stat(lock.m_path.c_str(), &named) != 0 || held.st_ino != named.st_ino) {
            ::close(descriptor);
            continue;
        }
        // A lock by flock does not reach across machines on every network disk. One left by a crash on another machine is the
        // user's to remove; one left on this machine is stale, or flock would have said so.
        const std::string before = readAll(descriptor);
        const auto holder = parseJson(before, "lock", "session");
        if (holder.ok() && holder->is_object() && holder->value("host", hostName()) != hostName()) {
            ::close(descriptor);
            return lockedError(session, before);
        }
        const char* user = std::getenv("USER");
        const std::string text = canonicalJson({{"host", hostName()}, {"process", ::getpid()}, {"user", user ? user : "somebody"}});
        const ssize_t written = ::ftruncate(descriptor, 0) != 0 ? -1 : ::pwrite(descriptor, text.data(), text.size(), 0);
        if (written != static_cast<ssize_t>(text.size())) {
            const int number = written < 0 ? errno : ENOSPC;
            ::unlink(lock.m_path.c_str());
            ::close(descriptor);
            return unwritable(session, lock.m_path, number);
        }
        lock.m_descriptor = descriptor;
        return lock;
    }
    return lockedError(session, {});
}

SessionLock::SessionLock(SessionLock&& other) noexcept { *this = std::move(other); }

SessionLock& SessionLock::operator=(SessionLock&& other) noexcept
{
    std::swap(m_path, other.m_path);
    std::swap(m_descriptor, other.m_descriptor);
    return *this;
}

SessionLock::~SessionLock()
{
    if (m_descriptor < 0) return;
    ::unlink(m_path.c_str());
    ::close(m_descriptor);
}

}  // namespace espalier
