#include "tokenizer/byte_level.h"
#include "tokenizer/components.h"
#include "tokenizer/regex.h"
#include "tokenizer/unicode_deltas.h"

#include <fmt/format.h>
#include <unicode/uchar.h>

#include <algorithm>
#include <functional>
#include <optional>

namespace espalier
{

namespace
{

constexpr std::string_view kSlot = "pre_tokenizer";
constexpr std::string_view kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

enum class Behaviour { Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous };

std::vector<TextSpan> arrange(const std::vector<TextSpan>& spans, Behaviour behaviour)
{
    std::vector<TextSpan> out;
    switch (behaviour) {
        case Behaviour::Isolated:
            return spans;
        case Behaviour::Removed:
            std::copy_if(spans.begin(), spans.end(), std::back_inserter(out), [](const TextSpan& s) { return !s.match; });
            return out;
        case Behaviour::Contiguous:
            for (const TextSpan& span : spans) {
                if (!out.empty() && out.back().match == span.match)
                    out.back().end = span.end;
                else
                    out.push_back(span);
            }
            return out;
        case Behaviour::MergedWithPrevious: {
            bool previousMatch = false;
            for (const TextSpan& span : spans) {
                if (span.match && !previousMatch && !out.empty())
                    out.back().end = span.end;
                else
                    out.push_back(span);
                previousMatch = span.match;
            }
            return out;
        }
        case Behaviour::MergedWithNext: {
            bool previousMatch = false;
            for (auto span = spans.rbegin(); span != spans.rend(); ++span) {
                if (span->match && !previousMatch && !out.empty())
                    out.back().begin = span->begin;
                else
                    out.push_back(*span);
                previousMatch = span->match;
            }
            std::reverse(out.begin(), out.end());
            return out;
        }
    }
    return out;
}

using FindSpans = std::function<Result<std::vector<TextSpan>>(std::string_view)>;

Status splitPieces(std::vector<Piece>& pieces, const FindSpans& find, Behaviour behaviour, bool invert)
{
    std::vector<Piece> out;
    out.reserve(pieces.size() * 2);
    for (Piece& piece : pieces) {
        ESPALIER_TRY(std::vector<TextSpan> spans, find(piece.text));
        if (invert)
            for (TextSpan& span : spans)
                span.match = !span.match;
        for (const TextSpan& span : arrange(spans, behaviour))
            if (span.end > span.begin) out.push_back(piece.part(span.begin, span.end));
    }
    pieces = std::move(out);
    return {};
}

std::vector<TextSpan> findString(std::string_view text, std::string_view pattern)
{
    std::vector<TextSpan> spans;
    std::size_t from = 0;
    for (std::size_t at; !pattern.empty() && (at = text.find(pattern, from)) != std::string_view::npos; from = at + pattern.size()) {
        if (at > from) spans.push_back({from, at, false});
        spans.push_back({at, at + pattern.size(), true});
    }
    if (from < text.size()) spans.push_back({from, text.size(), false});
    return spans;
}

class Split final : public PreTokenizer
{
public:
    Split(FindSpans find, Behaviour behaviour, bool invert) : m_find(std::move(find)), m_behaviour(behaviour), m_invert(invert) {}
    Status apply(std::vector<Piece>& pieces) const override { return splitPieces(pieces, m_find, m_behaviour, m_invert); }

private:
    FindSpans m_find;
    Behaviour m_behaviour;
    bool m_invert;
};

// General category Nd, Nl or No.
bool isNumber(char32_t c)
{
    if ((U_MASK(u_charType(static_cast<UChar32>(c))) & U_GC_N_MASK) != 0) return true;
    if (c < 0x80) return false;
    static const auto deltas = unicodeDeltas("gc=N");
    return std::any_of(deltas.begin(), deltas.end(), [c](const UnicodeDelta& delta) { return c >= delta.first && c <= delta.last; });
}

// Every character that is a number.
std::vector<TextSpan> findDigits(std::string_view text)
{
    std::vector<TextSpan> spans;
    std::size_t gap = 0;
    for (std::size_t i = 0; i < text.size();) {
        const std::size_t length = utf8Length(static_cast<unsigned char>(text[i]));
        if (isNumber(utf8Decode(text.substr(i, length)))) {
            if (i > gap) spans.push_back({gap, i, false});
            spans.push_back({i, i + length, true});
            gap = i + length;
        }
        i += length;
    }
    if (gap < text.size()) spans.push_back({gap, text.size(), false});
    return spans;
}

class ByteLevelPieces final : public PreTokenizer
{
public:
    ByteLevelPieces(bool addPrefixSpace, std::optional<TokenizerRegex> regex) : m_addPrefixSpace(addPrefixSpace), m_regex(std::move(regex))
    {
    }
    Status apply(std::vector<Piece>& pieces) const override
    {
        if (m_addPrefixSpace)
            for (Piece& piece : pieces)
                if (!piece.text.starts_with(' ')) piece.prepend(" ");
        if (m_regex)
            ESPALIER_CHECK_OK(splitPieces(
                pieces, [&](std::string_view text) { return m_regex->find(text); }, Behaviour::Isolated, false));
        for (Piece& piece : pieces) {
            if (piece.head > 0) piece.head = toByteLevel(std::string_view(piece.text).substr(0, piece.head)).size();
            piece.text = toByteLevel(piece.text);
        }
        return {};
    }

private:
    bool m_addPrefixSpace;
    std::optional<TokenizerRegex> m_regex;
};

enum class PrependScheme { Always, First, Never };

class Metaspace final : public PreTokenizer
{
public:
    Metaspace(std::string replacement, PrependScheme scheme, bool split)
        : m_replacement(std::move(replacement)), m_scheme(scheme), m_split(split)
    {
    }
    Status apply(std::vector<Piece>& pieces) const override
    {
        for (Piece& piece : pieces) {
            piece = piece.replaced(" ", m_replacement);
            const bool wanted = m_scheme == PrependScheme::Always || (m_scheme == PrependScheme::First && piece.head > 0);
            if (wanted && !piece.text.starts_with(m_replacement)) piece.prepend(m_replacement);
        }
        if (!m_split) return {};
        return splitPieces(
            pieces, [&](std::string_view text) -> Result<std::vector<TextSpan>> { return findString(text, m_replacement); },
            Behaviour::MergedWithNext, false);
    }

private:
    std::string m_replacement;
    PrependScheme m_scheme;
    bool m_split;
};

class Nothing final : public PreTokenizer
{
public:
    Status apply(std::vector<Piece>&) const override { return {}; }
};

class PreTokenizerSequence final : public PreTokenizer
{
public:
    explicit PreTokenizerSequence(std::vector<std::unique_ptr<const PreTokenizer>> steps) : m_steps(std::move(steps)) {}
    Status apply(std::vector<Piece>& pieces) const override
    {
        for (const auto& step : m_steps)
            ESPALIER_CHECK_OK(step->apply(pieces));
        return {};
    }

private:
    std::vector<std::unique_ptr<const PreTokenizer>> m_steps;
};

using Parsed = Result<std::unique_ptr<const PreTokenizer>>;

template <typename T, typename... Args>
Parsed make(Args&&... args)
{
    return std::unique_ptr<const PreTokenizer>(std::make_unique<T>(std::forward<Args>(args)...));
}

Parsed parseSplit(const Json& value)
{
    static constexpr std::pair<std::string_view, Behaviour> kBehaviours[] = {{"Removed", Behaviour::Removed},
                                                                             {"Isolated", Behaviour::Isolated},
                                                                             {"MergedWithPrevious", Behaviour::MergedWithPrevious},
                                                                             {"MergedWithNext", Behaviour::MergedWithNext},
                                                                             {"Contiguous", Behaviour::Contiguous}};
    const Json pattern = value.value("pattern", Json());
    const Json name = value.value("behavior", Json());
    const auto behaviour = std::find_if(std::begin(kBehaviours), std::end(kBehaviours), [&](const auto& b) { return name == b.first; });
    if (!pattern.is_object() || !name.is_string()) return damagedComponent(kSlot, "is a Split without pattern or behavior");
    if (behaviour == std::end(kBehaviours)) return unsupportedComponent(kSlot, "Split with behavior " + name.get<std::string>());
    const bool invert = value.value("invert", Json(false)) == true;
    // An empty string is a pattern that matches between all characters.
    if (const Json text = pattern.value("String", Json()); text.is_string() && !text.get_ref<const std::string&>().empty())
        return make<Split>(
            [text = text.get<std::string>()](std::string_view t) -> Result<std::vector<TextSpan>> { return findString(t, text); },
            behaviour->second, invert);
    const Json regex = pattern.value("Regex", pattern.value("String", Json()));
    if (!regex.is_string()) return damagedComponent(kSlot, "is a Split without a pattern");
    ESPALIER_TRY(TokenizerRegex compiled, TokenizerRegex::compile(regex.get_ref<const std::string&>()));
    return make<Split>([shared = std::make_shared<TokenizerRegex>(std::move(compiled))](std::string_view t) { return shared->find(t); },
                       behaviour->second, invert);
}

Parsed parseMetaspace(const Json& value)
{
    const Json replacement = value.value("replacement", Json("\xE2\x96\x81"));
    if (!replacement.is_string()) return damagedComponent(kSlot, "is a Metaspace without a replacement");
    const auto& character = replacement.get_ref<const std::string&>();
    if (character.empty() || utf8Length(static_cast<unsigned char>(character.front())) != character.size())
        return damagedComponent(kSlot, fmt::format("is a Metaspace whose replacement \"{}\" is not one character", character));
    PrependScheme scheme = value.value("add_prefix_space", Json(true)) == false ? PrependScheme::Never : PrependScheme::Always;
    if (const Json name = value.value("prepend_scheme", Json()); name.is_string()) {
        if (name == "always")
            scheme = PrependScheme::Always;
        else if (name == "first")
            scheme = PrependScheme::First;
        else if (name == "never")
            scheme = PrependScheme::Never;
        else
            return unsupportedComponent(kSlot, "Metaspace with prepend_scheme " + name.get<std::string>());
        if (scheme != PrependScheme::Never && value.value("add_prefix_space", Json(true)) == false)
            return damagedComponent(kSlot, fmt::format("is a Metaspace with prepend_scheme {} and add_prefix_space false", name.dump()));
    }
    return make<Metaspace>(replacement.get<std::string>(), scheme, value.value("split", Json(true)) != false);
}

}  // namespace

Result<std::unique_ptr<const PreTokenizer>> parsePreTokenizer(const Json& value)
{
    if (value.is_null()) return make<Nothing>();
    ESPALIER_TRY(const std::string type, componentType(value, kSlot));
    if (type == "Sequence") {
        if (!value.contains("pretokenizers") || !value["pretokenizers"].is_array())
            return damagedComponent(kSlot, "is a sequence without \"pretokenizers\"");
        std::vector<std::unique_ptr<const PreTokenizer>> steps;
        for (const Json& item : value["pretokenizers"]) {
            ESPALIER_TRY(auto step, parsePreTokenizer(item));
            steps.push_back(std::move(step));
        }
        return make<PreTokenizerSequence>(std::move(steps));
    }
    if (type == "Split") return parseSplit(value);
    if (type == "Digits") {
        const bool individual = value.value("individual_digits", Json(false)) == true;
        return make<Split>([](std::string_view text) -> Result<std::vector<TextSpan>> { return findDigits(text); },
                           individual ? Behaviour::Isolated : Behaviour::Contiguous, false);
    }
    if (type == "ByteLevel") {
        std::optional<TokenizerRegex> regex;
        if (value.value("use_regex", Json(true)) != false) {
            ESPALIER_TRY(regex, TokenizerRegex::compile(kGpt2Pattern));
        }
        return make<ByteLevelPieces>(value.value("add_prefix_space", Json(true)) != false, std::move(regex));
    }
    if (type == "Metaspace") return parseMetaspace(value);
    return unsupportedComponent(kSlot, type);
}

}  // namespace espalier
