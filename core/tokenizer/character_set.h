// Sets of characters in patterns of tokenizer.json, and how PCRE2 is told about them. The names of properties mean what they mean in
// Oniguruma (doc/RE and doc/UNICODE_PROPERTIES there); the tables are those of Unicode 16 whatever PCRE2 was built with.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

class CharacterSet;
using CharacterSetPtr = std::shared_ptr<const CharacterSet>;

class CharacterSet
{  // immutable; any thread
public:
    static CharacterSetPtr range(char32_t first, char32_t last);
    static CharacterSetPtr any() { return range(0, 0x10FFFF); }
    static CharacterSetPtr complement(CharacterSetPtr set);
    static CharacterSetPtr unite(std::vector<CharacterSetPtr> sets);
    static CharacterSetPtr intersect(CharacterSetPtr a, CharacterSetPtr b);
    // What stands between the braces of \p{...}, without ^. Nothing where the name is not known here. `inClass`: between [ and ], where
    // Word lacks what word() tells.
    static CharacterSetPtr property(std::string_view name, bool inClass = false);
    // [:name:] inside a class. Differs from property(name) in punct, which has symbols there, too.
    static CharacterSetPtr posixBracket(std::string_view name);
    // \w, \d, \s, \h; `ascii`: under the options W, D, S. Outside of classes \w has the six superscripts and fractions of Latin-1, too:
    // Oniguruma looks characters below 256 up in a table of its own there.
    static CharacterSetPtr word(bool ascii, bool inClass);
    static CharacterSetPtr digit(bool ascii);
    static CharacterSetPtr space(bool ascii);
    static CharacterSetPtr hexDigit();

    // A fragment that matches exactly one character of the set, for PCRE2_UTF | PCRE2_DOTALL.
    std::string pcre2() const;

    struct Folded {
        CharacterSetPtr set;
        bool strings = false;  // some member also equals two or three characters: ß and ss
    };
    // With every character that differs from a member by case alone.
    Folded closedOverCase() const;

private:
    enum class Kind { Range, Property, Complement, Union, Intersection };
    CharacterSet(Kind kind, std::vector<CharacterSetPtr> parts) : m_kind(kind), m_parts(std::move(parts)) {}
    static CharacterSetPtr named(std::string pcre2, std::string icu, std::string_view key);
    // What may stand between [ and ] for this set, if anything may.
    std::optional<std::string> items() const;
    // The same set in ICU's notation.
    std::string icu() const;

    Kind m_kind;
    std::vector<CharacterSetPtr> m_parts;
    char32_t m_first = 0;
    char32_t m_last = 0;
    std::string m_pcre2;
    std::string m_icu;
};

// Whether some character equals these two or three by case alone, as U+FB06 equals st.
bool foldsToOneCharacter(std::u32string_view characters);

}  // namespace espalier
