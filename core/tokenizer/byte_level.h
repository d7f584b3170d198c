// GPT-2's reversible map between bytes and printable characters, and small UTF-8 helpers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace espalier
{

// UTF-8 of the character that stands for a byte.
const std::string& byteLevelCharacter(unsigned char byte);
std::string toByteLevel(std::string_view bytes);
// The bytes of a mapped string; nothing when any character lies outside the map.
std::optional<std::string> fromByteLevel(std::string_view mapped);

// Length in bytes of the character that starts at `lead` in valid UTF-8.
inline std::size_t utf8Length(unsigned char lead) { return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4; }
char32_t utf8Decode(std::string_view character);
// Valid UTF-8 with U+FFFD for each maximal invalid part.
std::string lossyUtf8(std::string_view bytes);
// At most `bytes` bytes of valid UTF-8, whole characters, for messages.
std::string_view utf8Prefix(std::string_view text, std::size_t bytes);

}  // namespace espalier
