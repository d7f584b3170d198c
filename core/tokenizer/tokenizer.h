// Interpreter of tokenizer.json: byte-level BPE in the GPT-2, Qwen2, Llama-3 and DeepSeek styles, and the Metaspace / byte-fallback style.
// Other components are refused by name. Regexes are untrusted: compiled with match, depth
// and heap limits.
#pragma once

#include "base/error.h"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

class Tokenizer
{  // immutable; const functions may be called from any thread at the same time
public:
    // A folder with tokenizer.json (else a SentencePiece tokenizer.model; and tokenizer_config.json), or the file itself. Every id of the
    // vocabulary must be below `embeddingRows` where given; an added token beyond them is refused where a text has it. Errors:
    // tokenizer.missing, tokenizer.invalid_json, tokenizer.invalid (damage: exit 3), tokenizer.unsupported (a component that is known but
    // not run here: exit 6), tokenizer.regex, tokenizer.duplicate_id, tokenizer.id_out_of_range, tokenizer.merge.
    static Result<Tokenizer> load(const std::filesystem::path& folderOrFile, std::optional<std::int64_t> embeddingRows = {});
    Tokenizer(Tokenizer&&) noexcept;
    Tokenizer& operator=(Tokenizer&&) noexcept;
    ~Tokenizer();

    // Ids of the text. addSpecial applies the file's template (`<s> $A`). Errors: text.invalid_utf8 (names the byte offset),
    // tokenizer.regex_limit (a pattern ran into its match limit on this text), tokenizer.id_out_of_range (names a token that the embedding
    // lacks).
    Result<std::vector<int>> encode(std::string_view text, bool addSpecial) const;
    // Lossy where ids are not a whole text: broken UTF-8 becomes U+FFFD. Unknown ids are skipped.
    std::string decode(std::span<const int> ids, bool skipSpecial = false) const;

    // Beginning-of-sequence token, from tokenizer_config.json or the template; and whether texts start with it by default
    // (add_bos_token, else the template).
    std::optional<int> bosId() const;
    // End-of-sequence token, from tokenizer_config.json.
    std::optional<int> eosId() const;
    // Error: tokenizer.id_out_of_range.
    Status checkId(int id) const;
    // Whether a token has this id.
    bool has(int id) const;
    // What differs between the file and its use, for people.
    const std::vector<std::string>& warnings() const;
    bool addsBos() const;
    const std::string& sha256() const;  // of tokenizer.json's bytes
    int vocabularySize() const;         // highest id + 1

private:
    struct Data;
    explicit Tokenizer(std::unique_ptr<const Data> data);
    std::unique_ptr<const Data> m_data;
};

}  // namespace espalier
