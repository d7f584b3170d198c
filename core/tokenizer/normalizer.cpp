#include "tokenizer/byte_level.h"
#include "tokenizer/components.h"
#include "tokenizer/oniguruma.h"
#include "tokenizer/regex.h"

#include <fmt/format.h>
#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uniset.h>
#include <unicode/unistr.h>

#include <algorithm>

namespace espalier
{

Error unsupportedComponent(std::string_view slot, std::string_view name)
{
    return unsupported("tokenizer.unsupported", "tokenizer.json",
                       {"tokenizer.json uses the {slot} {name}, which is not supported.", {{"slot", slot}, {"name", name}}},
                       "Tokenise elsewhere and pass ids with --ids.");
}

Error damagedComponent(std::string_view slot, std::string_view what)
{
    return badInput("tokenizer.invalid", "tokenizer.json", {"tokenizer.json has a {slot} that {what}.", {{"slot", slot}, {"what", what}}},
                    "The file is damaged: fetch it again.");
}

Result<std::string> componentType(const Json& value, std::string_view slot)
{
    if (!value.is_object() || !value.contains("type") || !value["type"].is_string()) return damagedComponent(slot, "has no type");
    return value["type"].get<std::string>();
}

Piece Piece::whole(std::string text)
{
    const std::size_t head = text.empty() ? 0 : utf8Length(static_cast<unsigned char>(text.front()));
    return {std::move(text), head};
}

Piece Piece::part(std::size_t begin, std::size_t end) const
{
    return {text.substr(begin, end - begin), std::min(head > begin ? head - begin : 0, end - begin)};
}

namespace
{

// Writes a piece anew from parts that stay and parts that are replaced.
class Rewriter
{
public:
    explicit Rewriter(const Piece& piece) : m_piece(piece), m_atHead(piece.head > 0) { m_out.text.reserve(piece.text.size()); }
    void keep(std::size_t begin, std::size_t end)
    {
        m_out.text.append(m_piece.text, begin, end - begin);
        count(m_piece.head > begin ? std::min(m_piece.head, end) - begin : 0, end - begin);
    }
    void put(std::string_view content, std::size_t replacedEnd)
    {
        m_out.text += content;
        count(replacedEnd == 0 || replacedEnd - 1 < m_piece.head ? content.size() : 0, content.size());
    }
    Piece take() { return std::move(m_out); }

private:
    void count(std::size_t ofHead, std::size_t length)
    {
        if (m_atHead) m_out.head += ofHead;
        m_atHead = m_atHead && ofHead == length;
    }
    const Piece& m_piece;
    Piece m_out;
    bool m_atHead;
};

}  // namespace

Piece Piece::replaced(std::string_view pattern, std::string_view content) const
{
    Rewriter rewriter(*this);
    std::size_t from = 0;
    for (std::size_t at; (at = text.find(pattern, from)) != std::string::npos; from = at + pattern.size()) {
        rewriter.keep(from, at);
        rewriter.put(content, at + pattern.size());
    }
    rewriter.keep(from, text.size());
    return rewriter.take();
}

Piece Piece::replaced(const std::vector<TextSpan>& spans, std::string_view content) const
{
    Rewriter rewriter(*this);
    for (const TextSpan& span : spans) {
        if (span.match)
            rewriter.put(content, span.end);
        else
            rewriter.keep(span.begin, span.end);
    }
    return rewriter.take();
}

void Piece::prepend(std::string_view prefix)
{
    text.insert(0, prefix);
    if (head > 0) head += prefix.size();
}

Result<std::string> Normalizer::apply(std::string text) const
{
    ESPALIER_TRY(Piece piece, normalize({std::move(text), 0}));
    return std::move(piece.text);
}

namespace
{

class Unchanged final : public Normalizer
{
public:
    Result<Piece> normalize(Piece piece) const override { return piece; }
};

class UnicodeForm final : public Normalizer
{
public:
    // Both outlive this.
    UnicodeForm(const icu::Normalizer2& form, const icu::UnicodeSet& known) : m_form(form, known) {}
    Result<Piece> normalize(Piece piece) const override
    {
        Piece out{normalized(piece.text), 0};
        if (piece.head == 0) return out;
        // As many characters as the head alone becomes: marks behind it join its last one.
        const std::string head = normalized(piece.text.substr(0, piece.head));
        for (std::size_t i = 0; i < head.size() && out.head < out.text.size();) {
            i += utf8Length(static_cast<unsigned char>(head[i]));
            out.head += utf8Length(static_cast<unsigned char>(out.text[out.head]));
        }
        return out;
    }

private:
    std::string normalized(const std::string& text) const
    {
        UErrorCode status = U_ZERO_ERROR;
        std::string out;
        out.reserve(text.size());
        icu::StringByteSink<std::string> sink(&out);
        m_form.normalizeUTF8(0, text, sink, nullptr, status);
        return U_SUCCESS(status) ? out : text;
    }

    icu::FilteredNormalizer2 m_form;
};

class Prepend final : public Normalizer
{
public:
    explicit Prepend(std::string prefix) : m_prefix(std::move(prefix)) {}
    Result<Piece> normalize(Piece piece) const override
    {
        if (!piece.text.empty()) piece.prepend(m_prefix);
        return piece;
    }

private:
    std::string m_prefix;
};

class ReplaceString final : public Normalizer
{
public:
    ReplaceString(std::string pattern, std::string content) : m_pattern(std::move(pattern)), m_content(std::move(content)) {}
    Result<Piece> normalize(Piece piece) const override { return piece.replaced(m_pattern, m_content); }

private:
    std::string m_pattern;
    std::string m_content;
};

// The content is put in as it is written: the reference knows no "$1" there. On an empty match at the start of a text it panics or puts
// the content in twice, so that there is nothing to be equal to; its decoder does neither.
class ReplaceRegex final : public Normalizer
{
public:
    ReplaceRegex(std::string pattern, bool decoding, TokenizerRegex regex, std::string content)
        : m_pattern(std::move(pattern)), m_decoding(decoding), m_regex(std::move(regex)), m_content(std::move(content))
    {
    }
    Result<Piece> normalize(Piece piece) const override
    {
        ESPALIER_TRY(const std::vector<TextSpan> spans, m_regex.find(piece.text));
        if (!m_decoding && !spans.empty() && spans.front().end == 0)
            return unsupportedPattern(m_pattern, "an empty match at the start of a text");
        return piece.replaced(spans, m_content);
    }

private:
    std::string m_pattern;
    bool m_decoding;
    TokenizerRegex m_regex;
    std::string m_content;
};

class NormalizerSequence final : public Normalizer
{
public:
    explicit NormalizerSequence(std::vector<std::unique_ptr<const Normalizer>> steps) : m_steps(std::move(steps)) {}
    Result<Piece> normalize(Piece piece) const override
    {
        for (const auto& step : m_steps) {
            ESPALIER_TRY(piece, step->normalize(std::move(piece)));
        }
        return piece;
    }

private:
    std::vector<std::unique_ptr<const Normalizer>> m_steps;
};

Result<std::unique_ptr<const Normalizer>> unicodeForm(bool compatibility)
{
    UErrorCode status = U_ZERO_ERROR;
    const icu::Normalizer2* form = compatibility ? icu::Normalizer2::getNFKCInstance(status) : icu::Normalizer2::getNFCInstance(status);
    // The reference's tables (crate unicode-normalization-alignments) are of Unicode 12.0: characters from later on stay as they are.
    static const icu::UnicodeSet kKnown = [] {
        UErrorCode failure = U_ZERO_ERROR;
        icu::UnicodeSet known(icu::UnicodeString::fromUTF8("[:age=12.0:]"), failure);
        known.freeze();
        return known;
    }();
    if (U_FAILURE(status) || kKnown.isEmpty()) return internalError(fmt::format("ICU has no normalisation data: {}.", u_errorName(status)));
    return std::unique_ptr<const Normalizer>(std::make_unique<UnicodeForm>(*form, kKnown));
}

}  // namespace

Result<std::unique_ptr<const Normalizer>> parseReplace(const Json& value, bool decoding)
{
    constexpr std::string_view kSlot = "normalizer";
    const Json pattern = value.value("pattern", Json());
    if (!pattern.is_object() || !value.contains("content") || !value["content"].is_string())
        return damagedComponent(kSlot, "replaces nothing");
    if (const Json regex = pattern.value("Regex", Json()); regex.is_string()) {
        const auto& text = regex.get_ref<const std::string&>();
        ESPALIER_TRY(TokenizerRegex compiled, TokenizerRegex::compile(text));
        return std::unique_ptr<const Normalizer>(
            std::make_unique<ReplaceRegex>(text, decoding, std::move(compiled), value["content"].get<std::string>()));
    }
    if (!pattern.contains("String") || !pattern["String"].is_string()) return damagedComponent(kSlot, "replaces nothing");
    if (pattern["String"].get_ref<const std::string&>().empty()) return damagedComponent(kSlot, "replaces an empty string");
    return std::unique_ptr<const Normalizer>(
        std::make_unique<ReplaceString>(pattern["String"].get<std::string>(), value["content"].get<std::string>()));
}

Result<std::unique_ptr<const Normalizer>> parseNormalizer(const Json& value)
{
    constexpr std::string_view kSlot = "normalizer";
    if (value.is_null()) return std::unique_ptr<const Normalizer>(std::make_unique<Unchanged>());
    ESPALIER_TRY(const std::string type, componentType(value, kSlot));
    if (type == "NFC" || type == "NFKC") return unicodeForm(type == "NFKC");
    if (type == "Sequence") {
        if (!value.contains("normalizers") || !value["normalizers"].is_array())
            return damagedComponent(kSlot, "is a sequence without \"normalizers\"");
        std::vector<std::unique_ptr<const Normalizer>> steps;
        for (const Json& item : value["normalizers"]) {
            ESPALIER_TRY(auto step, parseNormalizer(item));
            steps.push_back(std::move(step));
        }
        return std::unique_ptr<const Normalizer>(std::make_unique<NormalizerSequence>(std::move(steps)));
    }
    if (type == "Prepend") {
        if (!value.contains("prepend") || !value["prepend"].is_string()) return damagedComponent(kSlot, "prepends nothing");
        // The reference doubles the first character then.
        if (value["prepend"].get_ref<const std::string&>().empty()) return unsupportedComponent(kSlot, "Prepend of an empty string");
        return std::unique_ptr<const Normalizer>(std::make_unique<Prepend>(value["prepend"].get<std::string>()));
    }
    if (type == "Replace") return parseReplace(value, false);
    return unsupportedComponent(kSlot, type);
}

}  // namespace espalier
