// The reader of Oniguruma patterns behind pcre2FromOniguruma: a recursive descent that writes PCRE2 as it goes. Private to oniguruma*.cpp.
#pragma once

#include "base/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/character_set.h"
#include "tokenizer/oniguruma.h"

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace espalier::oniguruma
{

constexpr int kMaxDepth = 100;

// One piece of a pattern: its PCRE2 form, and what a quantifier behind it must know.
struct Atom {
    std::string text;
    bool quantifiable = true;
    bool lazy = false;    // a group of nothing but one lazily repeated atom
    bool repeat = false;  // a group of nothing but one repeated atom
    bool empty = false;   // may match nothing
    // Where case is ignored: the letters it begins with, if they stand by themselves, and whether it is nothing else. The reference joins
    // letters that follow one another, also through groups that do nothing, before it folds them.
    std::u32string letters = {};
    bool onlyLetters = false;
};

struct Quantifier {
    int low = 0;
    int high = -1;  // -1: no limit
    bool lazy = false;
    bool possessive = false;
    bool interval = false;
};

class Translator
{
public:
    explicit Translator(std::string_view pattern) : m_pattern(pattern)
    {
        for (std::size_t at = 0; at < pattern.size();) {
            const std::size_t length = utf8Length(static_cast<unsigned char>(pattern[at]));
            m_text += utf8Decode(pattern.substr(at, length));
            at += length;
        }
        countGroups();
    }

    Result<std::string> run()
    {
        ESPALIER_TRY(Atom all, alternatives(0));
        if (!done()) return invalid("a ) without (");
        return all.text;
    }

private:
    struct Flags {
        bool ignoreCase = false;
        bool dotAll = false;
        bool extended = false;
        bool asciiWord = false;
        bool asciiDigit = false;
        bool asciiSpace = false;
    };

    bool done() const { return m_at >= m_text.size(); }
    char32_t peek(std::size_t ahead = 0) const { return m_at + ahead < m_text.size() ? m_text[m_at + ahead] : U'\0'; }
    bool at(std::u32string_view what) const { return !done() && std::u32string_view(m_text).substr(m_at, what.size()) == what; }
    bool take(std::u32string_view what)
    {
        if (!at(what)) return false;
        m_at += what.size();
        return true;
    }
    Error invalid(std::string_view what) const { return invalidPattern(m_pattern, what); }
    Error refused(std::string_view construct) const { return unsupportedPattern(m_pattern, construct); }

    void countGroups();
    void skipFree();
    Result<Atom> alternatives(int depth);
    Result<Atom> branch(int depth, bool& optionsEnded);
    Result<Atom> atom(int depth, bool& isolated);
    Result<Atom> group(int depth, bool& isolated);
    Result<Atom> body(const std::string& opening, int depth, bool plain);
    Result<Atom> escape();
    Result<Atom> backReference(char32_t digit);
    Result<Atom> character(char32_t c);
    Error foldsTogether() const;
    Result<char32_t> hexadecimal(bool braces);
    Result<CharacterSetPtr> property(bool negated, bool inClass);
    Result<Atom> bracketed(int depth);
    Result<CharacterSetPtr> characterClass(int depth, bool& negated);
    Result<CharacterSetPtr> classMember(bool& isSet, char32_t& character);
    std::optional<CharacterSetPtr> type(char32_t letter, bool inClass) const;
    std::optional<Quantifier> interval();
    Result<Atom> quantified(Atom atom);
    std::string wordBoundary(bool negated) const;
    std::string number();

    std::string_view m_pattern;
    std::u32string m_text;
    std::size_t m_at = 0;
    Flags m_flags;
    int m_groups = 0;    // opened so far
    int m_captures = 0;  // in the whole pattern
    bool m_named = false;
    std::map<std::u32string, int> m_names;
};

// Escapes that stand for one character inside a class and outside: \t, \n and their kind.
std::optional<char32_t> controlCharacter(char32_t letter);

}  // namespace espalier::oniguruma
