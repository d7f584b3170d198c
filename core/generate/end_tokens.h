// Which tokens end a sequence.
#pragma once

#include "base/error.h"

#include <filesystem>
#include <optional>
#include <vector>

namespace espalier
{

// "eos_token_id" of generation_config.json, else of config.json, as transformers has it; else `tokenizer`, where the tokenizer names one.
// A number or a list, null for none. Errors: generate.end_token (BadInput): a file that is no JSON object, or something else there.
Result<std::vector<int>> endTokens(const std::filesystem::path& folder, std::optional<int> tokenizer);

}  // namespace espalier
