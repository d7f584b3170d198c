// What session_file.cpp and recovery.cpp share: a recovery copy is a session file with one more dataset. Private to core/session.
#pragma once

#include "session/session_file.h"

namespace espalier
{

inline constexpr const char* kRecoveryLink = "recovery";

Status writeSessionContainer(const std::filesystem::path& path, const SessionData& data, const Json* recovery);
Result<SessionData> readSessionContainer(const std::filesystem::path& path, Json* recovery);
// All copies of the folder, those of live processes and those that were taken or set aside too.
std::vector<std::filesystem::path> recoveryCopies(const std::filesystem::path& folder);
// The recovery dataset alone; the checksum of the whole file is verified.
Result<Json> readRecoveryJson(const std::filesystem::path& path);

}  // namespace espalier
