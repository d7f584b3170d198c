// JSON as the whole program reads and writes it: nlohmann::json values, parsed defensively.
#pragma once

#include "base/error.h"

#include <nlohmann/json.hpp>

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace espalier
{

using Json = nlohmann::json;

struct JsonLimits {
    std::size_t maxBytes = 64u << 20;
    int maxDepth = 64;
};

// Parses UTF-8 JSON. Refuses duplicate keys, nesting beyond the limit, invalid UTF-8 and trailing text.
// `subject` names the source in the error; the message says line and column. Errors: <area>.invalid_json,
// <area>.duplicate_key, <area>.too_large, where `area` is the first part of the code ("config", "plan", ...).
Result<Json> parseJson(std::string_view text, std::string_view subject, std::string_view area, const JsonLimits& limits = {});
// Reads and parses a file; also <area>.missing, <area>.unreadable. The size is checked before the file is read.
Result<Json> readJsonFile(const std::filesystem::path& path, std::string_view area, const JsonLimits& limits = {});

// Canonical form: sorted keys, no spaces, UTF-8 unescaped. Equal values give equal bytes. Non-finite numbers become null.
std::string canonicalJson(const Json& value);

// "code", "subject", "message", "kept", "action", "exit_code"; where the texts have places "message_pattern", "action_pattern" and
// "parameters" {name: value} besides.
Json toJson(const Error& error);
Error errorFromJson(const Json& value);

}  // namespace espalier
