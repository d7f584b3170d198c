// What the str methods of Python do to UTF-8 text: task templates are defined by them. Invalid UTF-8 is taken byte by byte. Any thread.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace espalier
{

// str.isspace of one code point. More than `\s` of the C library, and not the same as Unicode's White_Space.
bool isPythonSpace(char32_t codePoint);
// Length in bytes without the white space at the end: str.rstrip.
std::size_t lengthWithoutTrailingSpace(std::string_view text);
std::string_view stripped(std::string_view text);
// str.capitalize: the first character to title case, all others to lower case, by the full mappings of Unicode.
std::string capitalized(std::string_view text);
// len(str): code points, neither bytes nor what a reader calls characters.
std::size_t codePoints(std::string_view text);

}  // namespace espalier
