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
    std::optional<std::string> eos;
    std::optional<bool> addBos;
    // split_special_tokens: special tokens in a text are text.
    bool splitsSpecial = false;
    // Tokens in the order in which transformers adds them to those of tokenizer.json: numbered ones by id, the standard names, further
    // ones. The last of equal content has the flags. `id` is that of the file, -1 where it has none.
    std::vector<AddedToken> tokens;
};

// `ownList` is added_tokens of tokenizer.json. Files that are missing say nothing. Errors: tokenizer.invalid_json.
Result<TokenizerConfig> readTokenizerConfig(const std::filesystem::path& folder, const Json& ownList);

}  // namespace espalier
