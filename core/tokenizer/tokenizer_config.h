// What stands beside tokenizer.json: tokenizer_config.json and the older special_tokens_map.json and added_tokens.json.
#pragma once

#include "base/error.h"
#include "tokenizer/added_tokens.h"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

struct TokenizerConfig {
    std::optional<std::string> bos;
    std::optional<bool> addBos;
    // Tokens in the order in which transformers adds those that tokenizer.json lacks: added_tokens_decoder by id, the named special tokens,
    // the further ones. `id` is that of the file, -1 where it has none.
    std::vector<AddedToken> tokens;
};

// Files that are missing say nothing. Errors: tokenizer.invalid_json.
Result<TokenizerConfig> readTokenizerConfig(const std::filesystem::path& folder);

}  // namespace espalier
