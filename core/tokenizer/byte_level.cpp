#include "tokenizer/byte_level.h"

#include <array>
#include <unordered_map>

namespace espalier
{

namespace
{

std::string encode(char32_t c)
{
    std::string out;
    if (c < 0x80) {
        out += static_cast<char>(c);
    } else if (c < 0x800) {
        out += static_cast<char>(0xC0 | (c >> 6));
        out += static_cast<char>(0x80 | (c & 0x3F));
    } else if (c < 0x10000) {
        out += static_cast<char>(0xE0 | (c >> 12));
        out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
        out += static_cast<char>(0x80 | (c & 0x3F));
    } else {
        out += static_cast<char>(0xF0 | (c >> 18));
        out += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
        out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
        out += static_cast<char>(0x80 | (c & 0x3F));
    }
    return out;
}

struct Map {
    std::array<std::string, 256> characters;
    std::unordered_map<char32_t, unsigned char> bytes;

    Map()
    {
        char32_t next = 0x100;
        for (int byte = 0; byte < 256; ++byte) {
            const bool itself = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
            const char32_t c = itself ? static_cast<char32_t>(byte) : next++;
            characters[static_cast<std::size_t>(byte)] = encode(c);
            bytes[c] = static_cast<unsigned char>(byte);
        }
    }
};

const Map& map()
{
    static const Map instance;
    return instance;
}

// Length of the valid character at the start of `text`, or 0 and the length of the maximal invalid part.
std::size_t validLength(std::string_view text, std::size_t& invalidPart)
{
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char lead = byte(0);
    invalidPart = 1;
    if (lead < 0x80) return 1;
    std::size_t length = 0;
    unsigned char low = 0x80;
    unsigned char high = 0xBF;
    if (lead >= 0xC2 && lead <= 0xDF)
        length = 2;
    else if (lead >= 0xE0 && lead <= 0xEF)
        length = 3;
    else if (lead >= 0xF0 && lead <= 0xF4)
        length = 4;
    else
        return 0;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
    for (std::size_t i = 1; i < length; ++i) {
        if (i >= text.size() || byte(i) < low || byte(i) > high) return 0;
        invalidPart = i + 1;
        low = 0x80;
        high = 0xBF;
    }
    return length;
}

}  // namespace

const std::string& byteLevelCharacter(unsigned char byte) { return map().characters[byte]; }

std::string toByteLevel(std::string_view bytes)
{
    std::string out;
    out.reserve(bytes.size() + bytes.size() / 4);
    for (const char c : bytes)
        out += map().characters[static_cast<unsigned char>(c)];
    return out;
}

std::optional<std::string> fromByteLevel(std::string_view mapped)
{
    std::string out;
    for (std::size_t i = 0; i < mapped.size();) {
        const std::size_t length = utf8Length(static_cast<unsigned char>(mapped[i]));
        const auto it = map().bytes.find(utf8Decode(mapped.substr(i, length)));
        if (it == map().bytes.end()) return std::nullopt;
        out += static_cast<char>(it->second);
        i += length;
    }
    return out;
}

char32_t utf8Decode(std::string_view character)
{
    const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(character[i])); };
    switch (character.size()) {
        case 1:
            return byte(0);
        case 2:
            return (byte(0) & 0x1F) << 6 | (byte(1) & 0x3F);
        case 3:
            return (byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
        case 4:
            return (byte(0) & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
        default:
            return 0xFFFD;
    }
}

std::string_view utf8Prefix(std::string_view text, std::size_t bytes)
{
    if (text.size() <= bytes) return text;
    while (bytes > 0 && (static_cast<unsigned char>(text[bytes]) & 0xC0) == 0x80)
        --bytes;
    return text.substr(0, bytes);
}

std::string lossyUtf8(std::string_view bytes)
{
    std::string out;
    while (!bytes.empty()) {
        std::size_t invalid = 0;
        const std::size_t length = validLength(bytes, invalid);
        if (length > 0)
            out += bytes.substr(0, length);
        else
            out += "\xEF\xBF\xBD";
        bytes.remove_prefix(length > 0 ? length : invalid);
    }
    return out;
}

}  // namespace espalier
