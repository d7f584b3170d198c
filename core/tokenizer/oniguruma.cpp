#include "tokenizer/oniguruma.h"

#include "tokenizer/oniguruma_translator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <utility>

namespace espalier
{

Error invalidPattern(std::string_view pattern, std::string_view what)
{
    return badInput("tokenizer.regex", "tokenizer.json",
                    {"tokenizer.json has the pattern \"{utf8_prefix}\", which is not valid: {what}.",
                     {{"utf8_prefix", utf8Prefix(pattern, 200)}, {"what", what}}},
                    "The file is damaged: fetch it again.");
}

Error unsupportedPattern(std::string_view pattern, std::string_view construct)
{
    return unsupported("tokenizer.unsupported", "tokenizer.json",
                       {"tokenizer.json has the pattern \"{utf8_prefix}\" with {construct}, which is not supported.",
                        {{"utf8_prefix", utf8Prefix(pattern, 200)}, {"construct", construct}}},
                       "Tokenise elsewhere and pass ids with --ids.");
}

namespace oniguruma
{

namespace
{

constexpr int kMaxRepeat = 65535;

Atom anchor(std::string text)
{
    Atom atom{std::move(text)};
    atom.quantifiable = false;
    atom.empty = true;
    return atom;
}

// Whether letters on both sides of the join fold to one character, two or three of them; `before` is at most two.
bool joinsLetters(const std::u32string& before, const std::u32string& after)
{
    const std::u32string all = before + after.substr(0, 2);
    const std::size_t join = before.size();
    for (std::size_t begin = 0; begin < join; ++begin)
        for (std::size_t length = 2; length <= 3; ++length)
            if (begin + length > join && begin + length <= all.size() &&
                foldsToOneCharacter(std::u32string_view(all).substr(begin, length)))
                return true;
    return false;
}

std::string literal(char32_t c) { return fmt::format("\\x{{{:x}}}", static_cast<std::uint32_t>(c)); }

}  // namespace

// How many groups capture: with a named one among them, only those do.
void Translator::countGroups()
{
    int plain = 0;
    int named = 0;
    int nested = 0;
    for (std::size_t i = 0; i < m_text.size(); ++i) {
        if (m_text[i] == '\\') {
            ++i;
        } else if (m_text[i] == '[') {
            ++nested;
        } else if (m_text[i] == ']' && nested > 0) {
            --nested;
        } else if (m_text[i] == '(' && nested == 0) {
            const std::u32string_view rest = std::u32string_view(m_text).substr(i + 1, 3);
            if (!rest.starts_with(U"?"))
                ++plain;
            else if ((rest.starts_with(U"?<") && !rest.starts_with(U"?<=") && !rest.starts_with(U"?<!")) || rest.starts_with(U"?'"))
                ++named;
        }
    }
    m_named = named > 0;
    m_captures = m_named ? named : plain;
}

// Comments, and in extended form spaces.
void Translator::skipFree()
{
    for (;;) {
        if (at(U"(?#")) {
            m_at += 3;
            while (!done() && peek() != ')')
                m_at += peek() == '\\' ? 2 : 1;
            m_at = std::min(m_at + 1, m_text.size());
        } else if (m_flags.extended && !done() && (peek() == ' ' || (peek() >= '\t' && peek() <= '\r' && peek() != '\v'))) {
            ++m_at;
        } else if (m_flags.extended && peek() == '#' && !done()) {
            while (!done() && peek() != '\n')
                ++m_at;
        } else {
            return;
        }
    }
}

Result<Atom> Translator::alternatives(int depth)
{
    if (depth > kMaxDepth) return refused("groups nested too deeply");
    Atom all;
    for (int branches = 0;; ++branches) {
        bool ended = false;
        ESPALIER_TRY(Atom next, branch(depth, ended));
        all.text += (branches > 0 ? "|" : "") + next.text;
        all.empty = all.empty || next.empty;
        all.repeat = branches == 0 && next.repeat;
        all.lazy = branches == 0 && next.lazy;
        all.onlyLetters = branches == 0 && next.onlyLetters;
        all.letters = branches == 0 ? std::move(next.letters) : std::u32string();
        if (ended || !take(U"|")) break;
    }
    return all;
}

// `optionsEnded`: options that stand alone took the rest of the group with them, across |.
Result<Atom> Translator::branch(int depth, bool& optionsEnded)
{
    Atom all;
    all.empty = true;
    all.onlyLetters = true;
    std::u32string before;  // the letters just before
    for (int atoms = 0;; ++atoms) {
        skipFree();
        if (done() || peek() == '|' || peek() == ')') return all;
        ESPALIER_TRY(Atom next, atom(depth, optionsEnded));
        if (!optionsEnded) {
            ESPALIER_TRY(next, quantified(std::move(next)));
        }
        if (!before.empty() && joinsLetters(before, next.letters)) return foldsTogether();
        if (all.onlyLetters) all.letters += next.letters;
        if (next.onlyLetters)
            before += next.letters;
        else
            before.clear();
        if (before.size() > 2) before.erase(0, before.size() - 2);
        all.onlyLetters = all.onlyLetters && next.onlyLetters;
        all.text += next.text;
        all.empty = all.empty && next.empty;
        all.repeat = atoms == 0 && next.repeat && !optionsEnded;
        all.lazy = atoms == 0 && next.lazy && !optionsEnded;
        if (optionsEnded) return all;
    }
}

Result<Atom> Translator::atom(int depth, bool& isolated)
{
    if (peek() == '{' && interval()) return invalid("there is nothing to repeat");
    const char32_t c = m_text[m_at++];
    if (c == '(') return group(depth, isolated);
    if (c != '\\' && std::u32string_view(U".^$[*+?").find(c) == std::u32string_view::npos) return character(c);
    if (c == '\\') return escape();
    switch (c) {
        case '.':
            return Atom{m_flags.dotAll ? "." : "[^\\n]"};
        case '^':
        case '$':
            return anchor(std::string(1, static_cast<char>(c)));
        case '[':
            return bracketed(depth);
        default:
            return invalid("there is nothing to repeat");
    }
}

Result<Atom> Translator::body(const std::string& opening, int depth, bool plain)
{
    const Flags outside = m_flags;
    ESPALIER_TRY(Atom inner, alternatives(depth + 1));
    m_flags = outside;
    if (!take(U")")) return invalid("a ( without )");
    Atom result{opening + inner.text + ")"};
    result.repeat = plain && inner.repeat;
    result.lazy = plain && inner.lazy;
    result.empty = inner.empty;
    if (plain && opening == "(?:") {
        result.letters = std::move(inner.letters);
        result.onlyLetters = inner.onlyLetters && !result.letters.empty();
    }
    return result;
}

Result<Atom> Translator::group(int depth, bool& isolated)
{
    if (peek() == '*') return refused("a callout (*");
    if (!take(U"?")) {
        if (m_named) return body("(?:", depth, true);
        ++m_groups;
        return body("(", depth, false);
    }
    if (take(U":")) return body("(?:", depth, true);
    if (take(U">")) return body("(?>", depth, false);
    static constexpr std::pair<std::u32string_view, const char*> kLooks[] = {
        {U"=", "(?="}, {U"!", "(?!"}, {U"<=", "(?<="}, {U"<!", "(?<!"}};
    for (const auto& [opening, written] : kLooks)
        if (take(opening)) {
            ESPALIER_TRY(Atom look, body(written, depth, false));
            look.quantifiable = false;
            look.empty = true;
            return look;
        }
    if (at(U"<") || at(U"'")) {
        const char32_t closing = peek() == '<' ? U'>' : U'\'';
        const std::size_t end = m_text.find(closing, ++m_at);
        if (end == std::u32string::npos || end == m_at) return invalid("a group name without end");
        if (!m_names.emplace(m_text.substr(m_at, end - m_at), ++m_groups).second) return refused("two groups of one name");
        m_at = end + 1;
        return body("(", depth, false);
    }
    if (peek() == '~') return refused("an absent operator (?~");
    if (peek() == '(') return refused("a condition (?(");
    if (peek() == '{') return refused("a callout (?{");

    Flags flags = m_flags;
    bool on = true;
    for (;; ++m_at) {
        switch (peek()) {
            case '-':
                on = false;
                continue;
            case 'i':
                flags.ignoreCase = on;
                continue;
            case 'm':
                flags.dotAll = on;
                continue;
            case 'x':
                flags.extended = on;
                continue;
            case 'W':
                flags.asciiWord = on;
                continue;
            case 'D':
                flags.asciiDigit = on;
                continue;
            case 'S':
                flags.asciiSpace = on;
                continue;
            case 'P':
            case 'y':
            case 'C':
            case 'I':
            case 'L':
                return refused(fmt::format("the option (?{})", static_cast<char>(peek())));
            default:
                break;
        }
        break;
    }
    if (take(U":")) {
        const Flags outside = std::exchange(m_flags, flags);
        ESPALIER_TRY(Atom inner, body("(?:", depth, true));
        m_flags = outside;
        inner.letters.clear();
        inner.onlyLetters = false;
        return inner;
    }
    if (!take(U")")) return invalid("an unknown kind of group");
    isolated = true;
    m_flags = flags;  // until the end of the group around it, whose flags body() restores
    ESPALIER_TRY(Atom rest, alternatives(depth + 1));
    rest.text = "(?:" + rest.text + ")";
    rest.quantifiable = false;
    rest.letters.clear();
    rest.onlyLetters = false;
    return rest;
}

Result<Atom> Translator::character(char32_t c)
{
    if (!m_flags.ignoreCase) return Atom{literal(c)};
    const CharacterSet::Folded folded = CharacterSet::range(c, c)->closedOverCase();
    if (folded.set == nullptr || folded.strings) return foldsTogether();
    Atom atom{folded.set->pcre2()};
    atom.letters = std::u32string(1, c);
    atom.onlyLetters = true;
    return atom;
}

Error Translator::foldsTogether() const { return refused("letters that equal one ligature or sharp s when case is ignored"); }

std::string Translator::wordBoundary(bool negated) const
{
    const std::string word = CharacterSet::word(m_flags.asciiWord, false)->pcre2();
    return negated ? fmt::format("(?:(?<={0})(?={0})|(?<!{0})(?!{0}))", word) : fmt::format("(?:(?<={0})(?!{0})|(?<!{0})(?={0}))", word);
}

Result<Atom> Translator::escape()
{
    if (done()) return invalid("it ends with a \\");
    const char32_t c = m_text[m_at++];
    if (const auto control = controlCharacter(c)) return character(*control);
    if (c == 'x' || c == 'u') {
        ESPALIER_TRY(const char32_t point, hexadecimal(c == 'x'));
        return character(point);
    }
    if (c >= '1' && c <= '9') return backReference(c);
    if (c == '0') return refused("an octal character");
    if ((c == 'k' || c == 'g') && (peek() == '<' || peek() == '\'')) {
        if (c == 'g') return refused("a call of a group \\g");
        return backReference(c);
    }
    if ((c == 'o' && peek() == '{') || c == 'c' || ((c == 'C' || c == 'M') && peek() == '-'))
        return refused(fmt::format("\\{}", static_cast<char>(c)));
    if (c == 'K' || c == 'X' || c == 'y' || c == 'Y' || c == 'G') return refused(fmt::format("\\{}", static_cast<char>(c)));

    // Case does not concern what is outside a class.
    if (const auto set = type(c, false)) return Atom{(*set)->pcre2()};
    switch (c) {
        case 'p':
        case 'P': {
            ESPALIER_TRY(const CharacterSetPtr set, property(c == 'P', false));
            return Atom{set->pcre2()};
        }
        case 'R':
            return Atom{"(?>\\r\\n|[\\n-\\r\\x{85}\\x{2028}\\x{2029}])"};
        case 'N':
            return Atom{"[^\\n]"};
        case 'O':
            return Atom{"."};
        case 'A':
        case 'z':
        case 'Z':
            return anchor(fmt::format("\\{}", static_cast<char>(c)));
        case 'b':
        case 'B':
            return anchor(wordBoundary(c == 'B'));
        default:
            return character(c);
    }
}

Result<Atom> Translator::backReference(char32_t c)
{
    if (m_flags.ignoreCase) return refused("a back reference without regard to case");
    int group = 0;
    if (c == 'k') {
        const char32_t closing = m_text[m_at++] == '<' ? U'>' : U'\'';
        const std::size_t end = m_text.find(closing, m_at);
        if (end == std::u32string::npos) return invalid("a back reference without end");
        const std::u32string name = m_text.substr(m_at, end - m_at);
        const auto known = m_names.find(name);
        if (known == m_names.end()) return refused("a back reference by number, level or to a later name");
        group = known->second;
        m_at = end + 1;
    } else {
        group = static_cast<int>(c - '0');
        if (m_named || group > m_captures || (peek() >= '0' && peek() <= '9'))
            return refused("a number behind \\ that is not clearly a group");
    }
    Atom reference{fmt::format("\\g{{{}}}", group)};
    reference.empty = true;
    return reference;
}

std::string Translator::number()
{
    std::string digits;
    while (peek() >= '0' && peek() <= '9' && digits.size() < 7)
        digits += static_cast<char>(m_text[m_at++]);
    return digits;
}

// {n}, {n,}, {,m}, {n,m}; anything else is text.
std::optional<Quantifier> Translator::interval()
{
    const std::size_t start = m_at++;
    Quantifier found;
    found.interval = true;
    const std::string low = number();
    const bool comma = take(U",");
    const std::string high = comma ? number() : low;
    if (!take(U"}") || (low.empty() && high.empty())) {
        m_at = start;
        return std::nullopt;
    }
    found.low = low.empty() ? 0 : std::stoi(low);
    found.high = high.empty() ? -1 : std::stoi(high);
    return found;
}

// The atom with the quantifier behind it, if there is one. `repeat` and `lazy` of the result are about that quantifier.
Result<Atom> Translator::quantified(Atom atom)
{
    skipFree();
    Quantifier next;
    const char32_t c = peek();
    const bool repeats = atom.repeat;
    const bool repeatsLazily = atom.lazy;
    atom.repeat = false;
    atom.lazy = false;
    if (!done() && (c == '*' || c == '+' || c == '?')) {
        ++m_at;
        next.low = c == '+' ? 1 : 0;
        next.high = c == '?' ? 1 : -1;
    } else if (c == '{') {
        const std::optional<Quantifier> found = interval();
        if (!found) return atom;
        next = *found;
    } else {
        return atom;
    }
    const bool exact = next.interval && next.low == next.high;
    if (!exact && take(U"?"))
        next.lazy = true;
    else if (!next.interval && take(U"+"))
        next.possessive = true;
    if (!atom.quantifiable) return refused("a repeated anchor, look-around or option");
    if (next.high >= 0 && next.low > next.high) return refused("a count from high to low");
    if (next.low > kMaxRepeat || next.high > kMaxRepeat) return refused(fmt::format("a count above {}", kMaxRepeat));
    // The reference ends a loop where its body matched nothing, whatever is left to count.
    if (next.interval && atom.empty && (next.low > 1 || next.high > 1 || next.high < 0))
        return refused("a count of something that may be empty");
    // The reference simplifies a repeat of a repeat before it runs it; with lazy ones the outcome is not obvious.
    if (repeats && (repeatsLazily || next.lazy)) return refused("a lazy repeat inside another");
    if (next.interval && next.high < 0)
        atom.text += fmt::format("{{{},}}", next.low);
    else if (next.interval)
        atom.text += exact ? fmt::format("{{{}}}", next.low) : fmt::format("{{{},{}}}", next.low, next.high);
    else
        atom.text += static_cast<char>(c);
    atom.text += next.lazy ? "?" : next.possessive ? "+" : "";
    atom.repeat = true;
    atom.lazy = next.lazy;
    atom.empty = atom.empty || next.low == 0;

    if (!(next.interval && next.low == 1 && next.high == 1)) {  // {1} is nothing
        atom.letters.clear();
        atom.onlyLetters = false;
    }

    // Behind a count, + and ? repeat what was counted: there are no possessive counts, and {n}? is not lazy.
    skipFree();
    const char32_t more = peek();
    if (done() || (more != '*' && more != '+' && more != '?' && more != '{')) return atom;
    if (more == '{' && !interval()) return atom;
    if (!next.interval || next.lazy || (more != '+' && more != '?')) return refused("a repeat directly behind a repeat");
    ++m_at;
    skipFree();
    if (!done() && std::u32string_view(U"*+?{").find(peek()) != std::u32string_view::npos)
        return refused("a repeat directly behind a repeat");
    atom.text = fmt::format("(?:{}){}", atom.text, static_cast<char>(more));
    atom.letters.clear();
    atom.onlyLetters = false;
    atom.empty = atom.empty || more == '?';
    return atom;
}

}  // namespace oniguruma

Result<std::string> pcre2FromOniguruma(std::string_view pattern) { return oniguruma::Translator(pattern).run(); }

}  // namespace espalier
