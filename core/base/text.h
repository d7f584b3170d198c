// Text helpers shared by readers and reports.
#pragma once

#include "base/error.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace espalier
{

// Reads a whole file, size checked first. Errors: <area>.missing, <area>.unreadable, <area>.too_large.
Result<std::string> readTextFile(const std::filesystem::path& path, std::string_view area, std::size_t maxBytes);

// Offset of the first byte that is not valid UTF-8 (overlong forms and surrogates included), or nothing.
std::optional<std::size_t> invalidUtf8Offset(std::string_view text);

// "4GiB", "512MiB", "1.5GB", "1000" (bytes) -> bytes. Error: usage.arguments.
Result<std::int64_t> parseByteSize(std::string_view text);
// 15380088 -> "14.7 MiB" (binary units, one decimal below 1 GiB).
std::string formatBytes(std::int64_t bytes);
// 14315784192 -> "14.3 B", 8650752 -> "8.65 M".
std::string formatCount(std::int64_t count);
// Seconds for people: "1.8 s", "29 s", "6 min 58 s".
std::string formatSeconds(double seconds);

}  // namespace espalier
