#include "tokenizer/oniguruma_translator.h"

#include <fmt/format.h>

#include <cstdint>
#include <utility>
#include <vector>

namespace espalier::oniguruma
{

std::optional<char32_t> controlCharacter(char32_t letter)
{
    switch (letter) {
        case 't':
            return U'\t';
        case 'n':
            return U'\n';
        case 'r':
            return U'\r';
        case 'f':
            return U'\f';
        case 'v':
            return U'\v';
        case 'a':
            return U'\a';
        case 'e':
            return U'\x1B';
        default:
            return std::nullopt;
    }
}

std::optional<CharacterSetPtr> Translator::type(char32_t letter, bool inClass) const
{
    const bool negated = letter < 'a';
    CharacterSetPtr set;
    switch (letter | 0x20) {
        case 'w':
            set = CharacterSet::word(m_flags.asciiWord, inClass);
            break;
        case 'd':
            set = CharacterSet::digit(m_flags.asciiDigit);
            break;
        case 's':
            set = CharacterSet::space(m_flags.asciiSpace);
            break;
        case 'h':
            set = CharacterSet::hexDigit();
            break;
        default:
            return std::nullopt;
    }
    if (letter >= 0x80) return std::nullopt;
    return negated ? CharacterSet::complement(std::move(set)) : set;
}

// Behind \x (braces allowed) or \u.
Result<char32_t> Translator::hexadecimal(bool braces)
{
    const bool braced = braces && take(U"{");
    const std::size_t most = braced ? 8 : braces ? 2 : 4;
    std::uint64_t value = 0;
    std::size_t digits = 0;
    for (; digits < most && !done(); ++digits, ++m_at) {
        const char32_t c = peek();
        const char32_t lower = c | 0x20;
        if (c >= '0' && c <= '9')
            value = value * 16 + (c - '0');
        else if (lower >= 'a' && lower <= 'f')
            value = value * 16 + (lower - 'a' + 10);
        else
            break;
    }
    if (digits == 0 || (!braces && digits < 4)) return refused("a character without its number");
    if (braced && !take(U"}")) return refused("a sequence of characters \\x{");
    if (braces && !braced && value >= 0x80) return refused("a byte of a character \\x");
    if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) return invalid("a number that is no character");
    return static_cast<char32_t>(value);
}

Result<CharacterSetPtr> Translator::property(bool negated, bool inClass)
{
    std::string name;
    if (take(U"{")) {
        if (take(U"^")) negated = !negated;
        const std::size_t end = m_text.find(U'}', m_at);
        if (end == std::u32string::npos) return invalid("a \\p{ without }");
        for (; m_at < end; ++m_at)
            name += peek() < 0x80 ? static_cast<char>(peek()) : '?';
        ++m_at;
    } else {
        return refused("\\p without braces, which versions of the reference read differently");
    }
    CharacterSetPtr set = CharacterSet::property(name, inClass);
    if (set == nullptr) return refused(fmt::format("the property \\p{{{}}}", name));
    return negated ? CharacterSet::complement(std::move(set)) : set;
}

// A class from [ to ], with regard to (?i): case is ignored within brackets only, before ^ takes the complement.
Result<Atom> Translator::bracketed(int depth)
{
    bool negated = false;
    ESPALIER_TRY(CharacterSetPtr set, characterClass(depth, negated));
    if (m_flags.ignoreCase) {
        CharacterSet::Folded folded = set->closedOverCase();
        if (folded.set == nullptr || (folded.strings && !negated)) return refused("a class with ligatures or sharp s when case is ignored");
        set = std::move(folded.set);
    }
    return Atom{(negated ? CharacterSet::complement(std::move(set)) : set)->pcre2()};
}

// One member, up to but not including a range: a set, or a character.
Result<CharacterSetPtr> Translator::classMember(bool& isSet, char32_t& character)
{
    isSet = true;
    if (const std::size_t end = at(U"[:") ? m_text.find(U":]", m_at + 2) : std::u32string::npos;
        end != std::u32string::npos && end - m_at < 24) {
        m_at += 2;
        const bool without = take(U"^");
        std::string name;
        for (; m_at < end; ++m_at)
            name += peek() < 0x80 ? static_cast<char>(peek()) : '?';
        m_at += 2;
        CharacterSetPtr set = CharacterSet::posixBracket(name);
        if (set == nullptr || m_flags.asciiWord || m_flags.asciiDigit || m_flags.asciiSpace)
            return refused(fmt::format("the class [:{}:]", name));
        return without ? CharacterSet::complement(std::move(set)) : set;
    }
    character = m_text[m_at++];
    if (character == '\\') {
        if (done()) return invalid("it ends with a \\");
        const char32_t c = m_text[m_at++];
        if (const auto set = type(c, true)) return *set;
        if (c == 'p' || c == 'P') return property(c == 'P', true);
        if ((c >= '0' && c <= '9') || c == 'c' || (c == 'o' && peek() == '{') || ((c == 'C' || c == 'M') && peek() == '-'))
            return refused(fmt::format("\\{} in a class", static_cast<char>(c)));
        if (c == 'x' || c == 'u') {
            ESPALIER_TRY(character, hexadecimal(c == 'x'));
        } else {
            character = c == 'b' ? U'\b' : controlCharacter(c).value_or(c);
        }
    }
    isSet = false;
    return CharacterSet::range(character, character);
}

// Behind [ ; takes the ] with it. `negated`: it began with ^, which is left to the caller.
Result<CharacterSetPtr> Translator::characterClass(int depth, bool& negated)
{
    if (depth > kMaxDepth) return refused("classes nested too deeply");
    negated = take(U"^");
    std::vector<CharacterSetPtr> parts;
    CharacterSetPtr before;           // what stands on the left of the last &&
    std::optional<char32_t> pending;  // a character just before, which may begin a range
    bool afterRange = false;          // or behind a nested class
    const auto settle = [&] {
        if (pending) parts.push_back(CharacterSet::range(*pending, *pending));
        pending.reset();
    };
    for (bool first = true;; first = false) {
        if (done()) return invalid("a [ without ]");
        if (peek() == ']' && !(first && m_text.find(U']', m_at + 1) != std::u32string::npos)) {
            if (first) return invalid("an empty class");
            ++m_at;
            break;
        }
        if (take(U"&&")) {
            settle();
            if (parts.empty() || peek() == '-' || peek() == ']' || at(U"&&")) return refused("an && without a set on both sides");
            CharacterSetPtr left = CharacterSet::unite(std::exchange(parts, {}));
            before = before ? CharacterSet::intersect(std::move(before), std::move(left)) : std::move(left);
            afterRange = false;
            continue;
        }
        if (peek() == '[' && !(at(U"[:") && m_text.find(U":]", m_at) != std::u32string::npos)) {
            ++m_at;
            settle();
            bool without = false;
            ESPALIER_TRY(CharacterSetPtr nested, characterClass(depth + 1, without));
            parts.push_back(without ? CharacterSet::complement(std::move(nested)) : std::move(nested));
            afterRange = true;
            continue;
        }
        if (peek() == '-' && !first && peek(1) != ']') {
            ++m_at;
            if (pending) {  // a range
                if (done()) return invalid("a [ without ]");
                if (peek() == '[' || at(U"&&")) return refused("a range without an end");
                bool isSet = false;
                char32_t end = 0;
                ESPALIER_CHECK_OK(classMember(isSet, end));
                if (isSet) return refused("a range that ends in a set");
                if (end < *pending) return invalid("a range from high to low");
                parts.push_back(CharacterSet::range(*std::exchange(pending, std::nullopt), end));
                afterRange = true;
            } else {  // behind a range it is a character
                if (!afterRange || at(U"&&")) return refused("a - that is neither a range nor a character");
                parts.push_back(CharacterSet::range('-', '-'));
                afterRange = false;
            }
            continue;
        }
        bool isSet = false;
        char32_t character = 0;
        ESPALIER_TRY(CharacterSetPtr member, classMember(isSet, character));
        settle();
        afterRange = false;
        if (isSet)
            parts.push_back(std::move(member));
        else
            pending = character;
    }
    settle();
    CharacterSetPtr set = CharacterSet::unite(std::move(parts));
    return before ? CharacterSet::intersect(std::move(before), std::move(set)) : set;
}

}  // namespace espalier::oniguruma
