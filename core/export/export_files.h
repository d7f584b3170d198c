// Files of an export beside its weights, and the digests that let a single changed byte be found.
#pragma once

#include "base/error.h"
#include "base/json.h"

#include <filesystem>
#include <string>
#include <string_view>

namespace espalier
{

inline constexpr std::string_view kPlanFileName = "espalier_plan.json";

// Tokenizer with its vocabulary, chat template, processor and generation settings, licence: what is taken over from the source.
bool isCompanionFile(std::string_view name);
// Whether a file may travel at all where another one names it: code and weights may not.
bool maybeCompanionFile(std::string_view name);

// SHA-256, hex, of a file's bytes. Errors: export.missing, export.unreadable.
Result<std::string> fileSha256(const std::filesystem::path& path);

// The object with a member "seal": SHA-256 over its canonical form without it. Indented, trailing newline.
std::string sealedJson(Json object);
// Whether the text is exactly what sealedJson wrote: any changed byte shows.
bool sealHolds(std::string_view text);

}  // namespace espalier
