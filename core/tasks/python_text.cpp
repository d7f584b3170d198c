#include "tasks/python_text.h"

#include <unicode/locid.h>
#include <unicode/unistr.h>
#include <unicode/utf8.h>

#include <cstdint>

namespace espalier
{

namespace
{

// Code point at `offset`, which moves behind it.
char32_t next(std::string_view text, std::size_t& offset)
{
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
    const auto length = static_cast<std::int32_t>(text.size());
    auto at = static_cast<std::int32_t>(offset);
    UChar32 found = 0;
    U8_NEXT(bytes, at, length, found);
    offset = static_cast<std::size_t>(at);
    return found < 0 ? 0xFFFD : static_cast<char32_t>(found);
}

icu::UnicodeString wide(std::string_view text)
{
    return icu::UnicodeString::fromUTF8(icu::StringPiece(text.data(), static_cast<std::int32_t>(text.size())));
}

}  // namespace

bool isPythonSpace(char32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

std::size_t lengthWithoutTrailingSpace(std::string_view text)
{
    std::size_t end = 0;
    for (std::size_t at = 0; at < text.size();)
        if (!isPythonSpace(next(text, at))) end = at;
    return end;
}

std::string_view stripped(std::string_view text)
{
    text = text.substr(0, lengthWithoutTrailingSpace(text));
    std::size_t begin = 0;
    for (std::size_t at = 0; at < text.size(); begin = at)
        if (!isPythonSpace(next(text, at))) break;
    return text.substr(begin);
}

std::string capitalized(std::string_view text)
{
    if (text.empty()) return {};
    std::size_t rest = 0;
    next(text, rest);
    const icu::Locale root = icu::Locale::getRoot();
    icu::UnicodeString first = wide(text.substr(0, rest));
    // Lower case depends on what stands around (final sigma): the whole, without what the first became.
    icu::UnicodeString lower = wide(text);
    lower.toLower(root);
    icu::UnicodeString lowerFirst = first;
    lowerFirst.toLower(root);
    lower.remove(0, lowerFirst.length());
    first.toTitle(nullptr, root);
    first.append(lower);
    std::string result;
    first.toUTF8String(result);
    return result;
}

std::size_t codePoints(std::string_view text)
{
    std::size_t count = 0;
    for (std::size_t at = 0; at < text.size(); ++count)
        next(text, at);
    return count;
}

}  // namespace espalier
