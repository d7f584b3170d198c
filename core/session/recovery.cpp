#include "session/session_content.h"

#include "base/atomic_file.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>

namespace espalier
{

namespace
{

constexpr const char* kSuffix = ".espalier-recovery";
constexpr const char* kTaken = ".taken";
constexpr const char* kDamaged = ".damaged";

std::filesystem::path withSuffix(std::filesystem::path path, const char* suffix)
{
    path += suffix;
    return path;
}

// Whether a live process holds the lock that belongs to a copy.
bool isHeld(const std::filesystem::path& lock)
{
    const int descriptor = ::open(lock.c_str(), O_RDWR | O_CLOEXEC);
    if (descriptor < 0) return false;
    const bool held = ::flock(descriptor, LOCK_EX | LOCK_NB) != 0;
    ::close(descriptor);
    return held;
}

Error notKept(const std::filesystem::path& folder, const std::string& cause, bool full)
{
    Error error =
        resourceError("session.recovery_unwritable", folder.string(),
                      {"Unsaved work cannot be kept in {folder}: {cause}.", {{"folder", folder.string()}, {"cause", cause}}},
                      full ? "Free some space there, and save often until then." : "Make the folder writable, and save often until then.");
    error.kept = "Edits go on; those that are not saved are lost if the program or the machine stops.";
    return error;
}

Json infoJson(const RecoveryInfo& info)
{
    return {{"session", info.session.string()}, {"saved_at", info.savedAt}, {"written_at", info.writtenAt}, {"edits", info.edits}};
}

Result<RecoveryInfo> readInfo(const std::filesystem::path& file)
{
    ESPALIER_TRY(const Json json, readRecoveryJson(file));
    try {
        return RecoveryInfo{.session = json.at("session").get<std::string>(),
                            .savedAt = json.at("saved_at"),
                            .writtenAt = json.at("written_at"),
                            .edits = json.at("edits")};
    } catch (const Json::exception& failure) {
        return badInput("session.invalid", file.string(), failure.what());
    }
}

}  // namespace

Result<RecoveryFile> RecoveryFile::create(const std::filesystem::path& folder)
{
    std::error_code failure;
    std::filesystem::create_directories(folder, failure);
    if (failure) return notKept(folder, failure.message(), failure.value() == ENOSPC || failure.value() == EDQUOT);
    static std::atomic<int> serial = 0;
    // The time keeps apart what processes with recycled ids leave.
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const auto stamp = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
    RecoveryFile file;
    file.m_path = folder / fmt::format("{}-{}-{}{}", stamp, ::getpid(), serial++, kSuffix);
    file.m_lockPath = withSuffix(file.m_path, ".lock");
    file.m_descriptor = ::open(file.m_lockPath.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file.m_descriptor < 0 || ::flock(file.m_descriptor, LOCK_EX | LOCK_NB) != 0)
        return notKept(folder, std::strerror(errno), errno == ENOSPC || errno == EDQUOT);
    return file;
}

RecoveryFile::RecoveryFile(RecoveryFile&& other) noexcept { *this = std::move(other); }

RecoveryFile& RecoveryFile::operator=(RecoveryFile&& other) noexcept
{
    std::swap(m_path, other.m_path);
    std::swap(m_lockPath, other.m_lockPath);
    std::swap(m_descriptor, other.m_descriptor);
    return *this;
}

RecoveryFile::~RecoveryFile()
{
    if (m_descriptor >= 0) ::close(m_descriptor);
}

Status RecoveryFile::write(const SessionData& data, const RecoveryInfo& info)
{
    const Json json = infoJson(info);
    const Status written = writeSessionContainer(m_path, data, &json);
    if (written.ok()) return {};
    // "FILE cannot be written: CAUSE." of a file whose name says nothing to anybody.
    std::string cause = written.error().message;
    if (const std::string about = fmt::format("{} cannot be written: ", m_path.string()); cause.starts_with(about))
        cause.erase(0, about.size());
    if (cause.ends_with('.')) cause.pop_back();
    return notKept(m_path.parent_path(), cause, written.error().code == "output.disk_full");
}

void RecoveryFile::clear() noexcept { ::unlink(m_path.c_str()); }

void RecoveryFile::finish() noexcept
{
    if (m_descriptor < 0) return;
    ::unlink(m_path.c_str());
    ::unlink(m_lockPath.c_str());
    ::close(m_descriptor);
    m_descriptor = -1;
}

std::vector<std::filesystem::path> recoveryCopies(const std::filesystem::path& folder)
{
    std::vector<std::filesystem::path> copies;
    std::error_code failure;
    for (std::filesystem::directory_iterator it(folder, failure), end; !failure && it != end; it.increment(failure)) {
        std::string name = it->path().filename().string();
        for (const std::string_view more : {kTaken, kDamaged})
            if (name.ends_with(more)) name.erase(name.size() - more.size());
        if (name.ends_with(kSuffix)) copies.push_back(it->path());
    }
    return copies;
}

std::vector<RecoveryEntry> findRecovery(const std::filesystem::path& folder)
{
    std::vector<RecoveryEntry> entries;
    std::error_code failure;
    std::vector<std::filesystem::path> files;
    for (std::filesystem::directory_iterator it(folder, failure), end; !failure && it != end; it.increment(failure))
        files.push_back(it->path());
    for (const std::filesystem::path& file : files) {
        const std::string name = file.filename().string();
        if (name.ends_with(std::string(kSuffix) + ".lock")) {
            // A lock nobody holds and that guards nothing: its process ended with nothing unsaved.
            std::filesystem::path copy = file;
            copy.replace_extension();
            if (!std::filesystem::exists(copy, failure) && !isHeld(file)) ::unlink(file.c_str());
            continue;
        }
        if (const std::size_t end = name.find(std::string(kSuffix) + ".partial-"); end != std::string::npos)
            removeAbandonedTemporaries(folder / name.substr(0, end + std::strlen(kSuffix)));
        if (!name.ends_with(kSuffix) || isHeld(withSuffix(file, ".lock"))) continue;
        auto info = readInfo(file);
        if (info.ok())
            entries.push_back({.file = file, .info = std::move(*info)});
        else
            std::filesystem::rename(file, withSuffix(file, kDamaged), failure);
    }
    std::sort(entries.begin(), entries.end(), [](const RecoveryEntry& a, const RecoveryEntry& b) {
        return std::pair(a.info.writtenAt, a.file) > std::pair(b.info.writtenAt, b.file);
    });
    return entries;
}

Result<RecoveredSession> takeRecovery(const RecoveryEntry& entry)
{
    const std::filesystem::path taken = withSuffix(entry.file, kTaken);
    std::error_code failure;
    std::filesystem::rename(entry.file, taken, failure);
    if (failure)
        return badInput(
            "session.recovery_gone", entry.file.string(),
            {"The recovered copy {file} is no longer there: {message}.", {{"file", entry.file.string()}, {"message", failure.message()}}},
            "Open the saved session.");
    ::unlink(withSuffix(entry.file, ".lock").c_str());
    ESPALIER_TRY(SessionData data, readSessionContainer(taken, nullptr));
    return RecoveredSession{.data = std::move(data), .entry = {.file = taken, .info = entry.info}};
}

void discardRecovery(const RecoveryEntry& entry) noexcept
{
    ::unlink(entry.file.c_str());
    ::unlink(withSuffix(entry.file, ".lock").c_str());
}

}  // namespace espalier
