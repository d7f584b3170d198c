// SHA-256 of a file while it is being written: a thread of its own reads behind the writer, so that the digest is there when the last
// byte is, and costs the writer nothing.
#pragma once

#include "base/error.h"
#include "base/sha256.h"

#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>

namespace espalier
{

// Made, fed and finished by the writer's thread.
class FollowingHash
{
public:
    // The file must exist; it may be renamed afterwards.
    explicit FollowingHash(const std::filesystem::path& path);
    ~FollowingHash();
    FollowingHash(const FollowingHash&) = delete;
    FollowingHash& operator=(const FollowingHash&) = delete;

    // So many bytes from the start of the file are final now.
    void advance(std::uint64_t bytes);
    // Digest of the first `bytes` of the file, all of them written. Errors: export.unreadable (the file was cut or cannot be read).
    Result<std::string> finish(std::uint64_t bytes);

private:
    void follow();
    void stop(std::uint64_t bytes);

    std::filesystem::path m_path;
    int m_descriptor = -1;
    std::mutex m_mutex;
    std::condition_variable m_changed;
    std::uint64_t m_available = 0;
    bool m_last = false;
    bool m_failed = false;
    Sha256 m_hash;
    std::thread m_thread;
};

}  // namespace espalier
