#include "tokenizer/character_set.h"

#include "tokenizer/unicode_deltas.h"

#include <fmt/format.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>
#include <unicode/unistr.h>

#include <algorithm>
#include <cctype>
#include <set>
#include <utility>

namespace espalier
{

namespace
{

std::string escaped(char32_t c) { return fmt::format("\\x{{{:x}}}", static_cast<std::uint32_t>(c)); }

std::string span(char32_t first, char32_t last) { return first == last ? escaped(first) : escaped(first) + "-" + escaped(last); }

// Names of properties are compared without case, spaces, - and _.
std::string loose(std::string_view name)
{
    std::string out;
    for (const char c : name)
        if (c != ' ' && c != '-' && c != '_') out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return out;
}

// The code points of a set in ICU's notation, as ranges.
std::vector<std::pair<char32_t, char32_t>> rangesOf(const icu::UnicodeSet& set)
{
    std::vector<std::pair<char32_t, char32_t>> ranges;
    ranges.reserve(static_cast<std::size_t>(set.getRangeCount()));
    for (std::int32_t i = 0; i < set.getRangeCount(); ++i)
        ranges.emplace_back(static_cast<char32_t>(set.getRangeStart(i)), static_cast<char32_t>(set.getRangeEnd(i)));
    return ranges;
}

CharacterSetPtr fromRanges(const std::vector<std::pair<char32_t, char32_t>>& ranges)
{
    std::vector<CharacterSetPtr> parts;
    parts.reserve(ranges.size());
    for (const auto& [first, last] : ranges)
        parts.push_back(CharacterSet::range(first, last));
    return CharacterSet::unite(std::move(parts));
}

CharacterSetPtr category(std::string_view shortName) { return CharacterSet::property(shortName); }

const char* valueName(UProperty property, int value, UPropertyNameChoice choice)
{
    const char* name = u_getPropertyValueName(property, value, choice);
    return name != nullptr ? name : u_getPropertyValueName(property, value, U_LONG_PROPERTY_NAME);
}

}  // namespace

CharacterSetPtr CharacterSet::range(char32_t first, char32_t last)
{
    std::shared_ptr<CharacterSet> set(new CharacterSet(Kind::Range, {}));
    set->m_first = first;
    set->m_last = last;
    return set;
}

CharacterSetPtr CharacterSet::complement(CharacterSetPtr set)
{
    if (set->m_kind == Kind::Complement) return set->m_parts.front();
    return CharacterSetPtr(new CharacterSet(Kind::Complement, {std::move(set)}));
}

CharacterSetPtr CharacterSet::unite(std::vector<CharacterSetPtr> sets)
{
    if (sets.size() == 1) return sets.front();
    return CharacterSetPtr(new CharacterSet(Kind::Union, std::move(sets)));
}

CharacterSetPtr CharacterSet::intersect(CharacterSetPtr a, CharacterSetPtr b)
{
    return CharacterSetPtr(new CharacterSet(Kind::Intersection, {std::move(a), std::move(b)}));
}

// A property as PCRE2's and ICU's own tables have it, put right where they are older than Unicode 16.
CharacterSetPtr CharacterSet::named(std::string pcre2, std::string icu, std::string_view key)
{
    std::shared_ptr<CharacterSet> base(new CharacterSet(Kind::Property, {}));
    base->m_pcre2 = std::move(pcre2);
    base->m_icu = std::move(icu);
    std::vector<CharacterSetPtr> with = {base};
    std::vector<CharacterSetPtr> without;
    for (const UnicodeDelta& delta : unicodeDeltas(key))
        (delta.added ? with : without).push_back(range(delta.first, delta.last));
    CharacterSetPtr set = unite(std::move(with));
    return without.empty() ? set : intersect(set, complement(unite(std::move(without))));
}

CharacterSetPtr CharacterSet::hexDigit() { return unite({range('0', '9'), range('A', 'F'), range('a', 'f')}); }

CharacterSetPtr CharacterSet::space(bool ascii)
{
    if (ascii) return unite({range('\t', '\r'), range(' ', ' ')});
    return unite({range('\t', '\r'), range(' ', ' '), range(0x85, 0x85), range(0xA0, 0xA0), range(0x1680, 0x1680), range(0x2000, 0x200A),
                  range(0x2028, 0x2029), range(0x202F, 0x202F), range(0x205F, 0x205F), range(0x3000, 0x3000)});
}

CharacterSetPtr CharacterSet::digit(bool ascii) { return ascii ? range('0', '9') : category("Nd"); }

CharacterSetPtr CharacterSet::word(bool ascii, bool inClass)
{
    if (ascii) return unite({range('0', '9'), range('A', 'Z'), range('_', '_'), range('a', 'z')});
    std::vector<CharacterSetPtr> parts = {property("Alphabetic"), category("M"), category("Nd"), category("Pc")};
    if (!inClass) parts.insert(parts.end(), {range(0xB2, 0xB3), range(0xB9, 0xB9), range(0xBC, 0xBE)});
    return unite(std::move(parts));
}

CharacterSetPtr CharacterSet::posixBracket(std::string_view name)
{
    static const std::set<std::string_view> kNames = {"alnum", "alpha", "ascii", "blank", "cntrl", "digit",  "graph",
                                                      "lower", "print", "punct", "space", "upper", "xdigit", "word"};
    if (!kNames.contains(name)) return nullptr;
    if (name == "punct") return unite({category("P"), category("S")});
    return property(name, true);
}

CharacterSetPtr CharacterSet::property(std::string_view name, bool inClass)
{
    const std::string key = loose(name);
    if (key == "any") return any();
    if (key == "ascii") return range(0, 0x7F);
    if (key == "assigned") return complement(category("Cn"));
    if (key == "alnum") return unite({property("Alphabetic"), category("Nd")});
    if (key == "alpha") return property("Alphabetic");
    if (key == "blank") return unite({category("Zs"), range('\t', '\t')});
    if (key == "cntrl") return category("Cc");
    if (key == "digit") return category("Nd");
    if (key == "graph") return complement(unite({space(false), category("Cc"), category("Cn"), category("Cs")}));
    if (key == "lower") return property("Lowercase");
    if (key == "print") return unite({property("graph"), category("Zs")});
    if (key == "punct") return category("P");
    if (key == "space" || key == "whitespace") return space(false);
    if (key == "upper") return property("Uppercase");
    if (key == "xdigit") return hexDigit();
    if (key == "word") return word(false, inClass);

    if (const int mask = u_getPropertyValueEnum(UCHAR_GENERAL_CATEGORY_MASK, key.c_str()); mask != UCHAR_INVALID_CODE) {
        if (key == "lc" || key == "casedletter") return unite({category("Lu"), category("Ll"), category("Lt")});
        const std::string gc = valueName(UCHAR_GENERAL_CATEGORY_MASK, mask, U_SHORT_PROPERTY_NAME);
        return named(fmt::format("\\p{{{}}}", gc), fmt::format("\\p{{gc={}}}", gc), "gc=" + gc);
    }
    if (const int script = u_getPropertyValueEnum(UCHAR_SCRIPT, key.c_str()); script != UCHAR_INVALID_CODE) {
        const std::string sc = valueName(UCHAR_SCRIPT, script, U_LONG_PROPERTY_NAME);
        return named(fmt::format("\\p{{sc:{}}}", sc), fmt::format("\\p{{sc={}}}", sc), "sc=" + sc);
    }
    // Those whose members were compared with the reference's (unicode_deltas.h).
    static const std::set<std::string_view> kCompared = {"Alphabetic",
                                                         "Uppercase",
                                                         "Lowercase",
                                                         "Hex_Digit",
                                                         "ASCII_Hex_Digit",
                                                         "Emoji",
                                                         "Emoji_Presentation",
                                                         "Emoji_Modifier",
                                                         "Emoji_Modifier_Base",
                                                         "Emoji_Component",
                                                         "Extended_Pictographic",
                                                         "Ideographic",
                                                         "Unified_Ideograph",
                                                         "Dash",
                                                         "Diacritic",
                                                         "Cased",
                                                         "Math",
                                                         "Quotation_Mark",
                                                         "Join_Control",
                                                         "Radical",
                                                         "Variation_Selector",
                                                         "Regional_Indicator"};
    const UProperty binary = u_getPropertyEnum(key.c_str());
    if (binary >= UCHAR_BINARY_START && binary < UCHAR_BINARY_LIMIT) {
        const std::string full = u_getPropertyName(binary, U_LONG_PROPERTY_NAME);
        if (!kCompared.contains(full)) return nullptr;
        return named(fmt::format("\\p{{{}}}", full), fmt::format("\\p{{{}}}", full), full);
    }
    if (key.starts_with("in")) {
        const int block = u_getPropertyValueEnum(UCHAR_BLOCK, key.c_str() + 2);
        UErrorCode status = U_ZERO_ERROR;
        icu::UnicodeSet set;
        if (block != UCHAR_INVALID_CODE) set.applyIntPropertyValue(UCHAR_BLOCK, block, status);
        if (U_SUCCESS(status) && !set.isEmpty()) return fromRanges(rangesOf(set));
    }
    return nullptr;
}

std::optional<std::string> CharacterSet::items() const
{
    switch (m_kind) {
        case Kind::Range:
            return span(m_first, m_last);
        case Kind::Property:
            return m_pcre2;
        case Kind::Union: {
            std::string all;
            for (const CharacterSetPtr& part : m_parts) {
                const std::optional<std::string> own = part->items();
                if (!own) return std::nullopt;
                all += *own;
            }
            return all;
        }
        case Kind::Complement:
        case Kind::Intersection:
            break;
    }
    return std::nullopt;
}

std::string CharacterSet::pcre2() const
{
    if (const std::optional<std::string> own = items()) return own->empty() ? "(?!)" : fmt::format("[{}]", *own);
    switch (m_kind) {
        case Kind::Complement: {
            const std::optional<std::string> own = m_parts.front()->items();
            if (own) return own->empty() ? "." : fmt::format("[^{}]", *own);
            return fmt::format("(?:(?!{}).)", m_parts.front()->pcre2());
        }
        case Kind::Intersection:
            return fmt::format("(?:(?={}){})", m_parts[0]->pcre2(), m_parts[1]->pcre2());
        default: {  // a union, some of whose parts need a fragment of their own
            std::string together;
            std::string rest;
            for (const CharacterSetPtr& part : m_parts) {
                if (const std::optional<std::string> own = part->items())
                    together += *own;
                else
                    rest += fmt::format("|{}", part->pcre2());
            }
            return together.empty() ? fmt::format("(?:{})", rest.substr(1)) : fmt::format("(?:[{}]{})", together, rest);
        }
    }
}

std::string CharacterSet::icu() const
{
    const auto point = [](char32_t c) { return fmt::format("\\U{:08X}", static_cast<std::uint32_t>(c)); };
    switch (m_kind) {
        case Kind::Range:
            if (m_first == m_last) return fmt::format("[{}]", point(m_first));
            return fmt::format("[{}-{}]", point(m_first), point(m_last));
        case Kind::Property:
            return fmt::format("[{}]", m_icu);
        case Kind::Complement:
            return fmt::format("[^{}]", m_parts.front()->icu());
        case Kind::Intersection:
            return fmt::format("[{}&{}]", m_parts[0]->icu(), m_parts[1]->icu());
        case Kind::Union:
            break;
    }
    std::string all;
    for (const CharacterSetPtr& part : m_parts)
        all += part->icu();
    return fmt::format("[{}]", all);
}

CharacterSet::Folded CharacterSet::closedOverCase() const
{
    UErrorCode status = U_ZERO_ERROR;
    icu::UnicodeSet set(icu::UnicodeString::fromUTF8(icu()), status);
    if (U_FAILURE(status)) return {nullptr, false};
    set.closeOver(USET_CASE_INSENSITIVE);
    const bool strings = set.hasStrings();
    return {fromRanges(rangesOf(set)), strings};
}

bool foldsToOneCharacter(std::u32string_view characters)
{
    // Every full folding of more than one character, by its folded form.
    static const std::set<std::u32string> kFoldings = [] {
        std::set<std::u32string> all;
        for (UChar32 c = 0x80; c < 0x10000; ++c) {
            if (!u_hasBinaryProperty(c, UCHAR_CHANGES_WHEN_CASEFOLDED)) continue;
            icu::UnicodeString folded(c);
            folded.foldCase();
            if (folded.countChar32() < 2) continue;
            std::u32string form;
            for (std::int32_t i = 0; i < folded.length(); i = folded.moveIndex32(i, 1))
                form += static_cast<char32_t>(folded.char32At(i));
            all.insert(std::move(form));
        }
        return all;
    }();
    std::u32string folded;
    for (const char32_t c : characters)
        folded += static_cast<char32_t>(u_foldCase(static_cast<UChar32>(c), U_FOLD_CASE_DEFAULT));
    return kFoldings.contains(folded);
}

}  // namespace espalier
