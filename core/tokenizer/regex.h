// Regexes of tokenizer.json on PCRE2 (oniguruma.h translates them), with limits on everything a pattern from a file could cost.
#pragma once

#include "base/error.h"

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

struct TextSpan {
    std::size_t begin = 0;
    std::size_t end = 0;
    bool match = false;
};

class TokenizerRegex
{  // immutable; find() may be called from any thread at the same time
public:
    // Errors: tokenizer.regex (not a pattern; the message quotes it), tokenizer.unsupported (a construct that is not translated).
    static Result<TokenizerRegex> compile(std::string_view pattern);
    TokenizerRegex(TokenizerRegex&&) noexcept;
    TokenizerRegex& operator=(TokenizerRegex&&) noexcept;
    ~TokenizerRegex();

    // Matches and the gaps between them, in order, covering the text (valid UTF-8). Matches may be empty, though never directly behind
    // another. Error: tokenizer.regex_limit.
    Result<std::vector<TextSpan>> find(std::string_view text) const;

private:
    struct Data;
    explicit TokenizerRegex(std::unique_ptr<Data> data);
    std::unique_ptr<Data> m_data;
};

}  // namespace espalier
