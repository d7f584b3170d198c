#include "tokenizer/components.h"
#include "tokenizer/oniguruma.h"
#include "tokenizer/regex.h"

#include <fmt/format.h>
#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uniset.h>
#include <unicode/unistr.h>

namespace espalier
{

Error unsupportedComponent(std::string_view slot, std::string_view name)
{
    return unsupported("tokenizer.unsupported", "tokenizer.json",
                       fmt::format("tokenizer.json uses the {} {}, which is not supported.", slot, name),
                       "Tokenise elsewhere and pass ids with --ids.");
}

Error damagedComponent(std::string_view slot, std::string_view what)
{
    return badInput("tokenizer.invalid", "tokenizer.json", fmt::format("tokenizer.json has a {} that {}.", slot, what),
                    "The file is damaged: fetch it again.");
}

Result<std::string> componentType(const Json& value, std::string_view slot)
{
    if (!value.is_object() || !value.contains("type") || !value["type"].is_string()) return damagedComponent(slot, "has no type");
    return value["type"].get<std::string>();
}

namespace
{

class Unchanged final : public Normalizer
{
public:
    Result<std::string> apply(std::string text) const override { return text; }
};

class UnicodeForm final : public Normalizer
{
public:
    // Both outlive this.
    UnicodeForm(const icu::Normalizer2& form, const icu::UnicodeSet& known) : m_form(form, known) {}
    Result<std::string> apply(std::string text) const override
    {
        UErrorCode status = U_ZERO_ERROR;
        std::string out;
        out.reserve(text.size());
        icu::StringByteSink<std::string> sink(&out);
        m_form.normalizeUTF8(0, text, sink, nullptr, status);
        return U_SUCCESS(status) ? std::move(out) : std::move(text);
    }

private:
    icu::FilteredNormalizer2 m_form;
};

class Prepend final : public Normalizer
{
public:
    explicit Prepend(std::string prefix) : m_prefix(std::move(prefix)) {}
    Result<std::string> apply(std::string text) const override { return text.empty() ? text : m_prefix + text; }

private:
    std::string m_prefix;
};

class ReplaceString final : public Normalizer
{
public:
    ReplaceString(std::string pattern, std::string content) : m_pattern(std::move(pattern)), m_content(std::move(content)) {}
    Result<std::string> apply(std::string text) const override
    {
        std::string out;
        std::size_t from = 0;
        for (std::size_t at; (at = text.find(m_pattern, from)) != std::string::npos; from = at + m_pattern.size()) {
            out.append(text, from, at - from);
            out += m_content;
        }
        return from == 0 ? text : out.append(text, from, std::string::npos);
    }

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
    Result<std::string> apply(std::string text) const override
    {
        ESPALIER_TRY(const std::vector<TextSpan> spans, m_regex.find(text));
        if (!m_decoding && !spans.empty() && spans.front().end == 0)
            return unsupportedPattern(m_pattern, "an empty match at the start of a text");
        std::string out;
        for (const TextSpan& span : spans) {
            if (span.match)
                out += m_content;
            else
                out.append(text, span.begin, span.end - span.begin);
        }
        return out;
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
    Result<std::string> apply(std::string text) const override
    {
        for (const auto& step : m_steps) {
            ESPALIER_TRY(text, step->apply(std::move(text)));
        }
        return text;
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
        return std::unique_ptr<const Normalizer>(std::make_unique<Prepend>(value["prepend"].get<std::string>()));
    }
    if (type == "Replace") return parseReplace(value, false);
    return unsupportedComponent(kSlot, type);
}

}  // namespace espalier
