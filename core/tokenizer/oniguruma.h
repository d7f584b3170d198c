// Patterns of tokenizer.json are written for Oniguruma (syntax ONIG_SYNTAX_ONIGURUMA, UTF-8, no options; doc/RE of Oniguruma 6.9). This
// reads that language and writes the same meaning for PCRE2. What cannot be said there, or not for certain, is refused by name.
#pragma once

#include "base/error.h"

#include <string>
#include <string_view>

namespace espalier
{

// A pattern for PCRE2_UTF | PCRE2_MULTILINE | PCRE2_DOTALL with LF as newline. Errors: tokenizer.regex (not a pattern in that language
// either), tokenizer.unsupported (quotes the construct).
Result<std::string> pcre2FromOniguruma(std::string_view pattern);

// The two errors, for what only shows when PCRE2 compiles.
Error invalidPattern(std::string_view pattern, std::string_view what);
Error unsupportedPattern(std::string_view pattern, std::string_view construct);

}  // namespace espalier
