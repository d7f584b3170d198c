// Where Unicode 16 differs from Unicode 14, which is what the oldest PCRE2 that is built against has: the reference's tables are of 16.
#pragma once

#include <span>
#include <string_view>

namespace espalier
{

struct UnicodeDelta {
    char32_t first;
    char32_t last;
    bool added;  // false: no longer in the set
};

// `key`: "gc=Lo", "gc=L", "sc=Han", or the long name of a binary property. Empty where nothing changed.
std::span<const UnicodeDelta> unicodeDeltas(std::string_view key);

}  // namespace espalier
