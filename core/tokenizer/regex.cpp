#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer/regex.h"

#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <mutex>

namespace espalier
{

namespace
{

constexpr std::size_t kMaxPatternBytes = 64u << 10;
constexpr std::uint32_t kMatchLimit = 20'000'000;
constexpr std::uint32_t kDepthLimit = 200'000;
constexpr std::uint32_t kHeapLimitKiB = 64u << 10;

constexpr std::string_view kSpace = "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
constexpr std::string_view kNotSpace =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}!-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}"
    "\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}";

// The reference counts marks and all connector punctuation as word characters; PCRE2's \w does not.
constexpr std::string_view kWord = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";

Error regexError(std::string_view pattern, std::string_view what)
{
    return badInput("tokenizer.regex", "tokenizer.json",
                    fmt::format("tokenizer.json has the pattern \"{}\", which is not valid: {}.", pattern.substr(0, 200), what),
                    "The file is damaged: fetch it again.");
}

Error constructError(std::string_view pattern, std::string_view construct)
{
    return unsupported("tokenizer.unsupported", "tokenizer.json",
                       fmt::format("tokenizer.json has the pattern \"{}\" with {}, whose meaning differs between regex engines.",
                                   pattern.substr(0, 200), construct));
}

}  // namespace

Result<std::string> rewriteForPcre2(std::string_view pattern)
{
    std::string out;
    bool inClass = false;
    std::size_t classStart = 0;
    for (std::size_t i = 0; i < pattern.size(); ++i) {
        const char c = pattern[i];
        if (c == '\\' && i + 1 < pattern.size()) {
            const char escaped = pattern[++i];
            if (escaped == 's') {
                out += inClass ? std::string(kSpace) : fmt::format("[{}]", kSpace);
            } else if (escaped == 'S') {
                out += inClass ? std::string(kNotSpace) : fmt::format("[^{}]", kSpace);
            } else if (escaped == 'w') {
                out += inClass ? std::string(kWord) : fmt::format("[{}]", kWord);
            } else if (escaped == 'W') {
                if (inClass) return constructError(pattern, "\\W inside a class");
                out += fmt::format("[^{}]", kWord);
            } else if (std::string_view("hHKGRX").find(escaped) != std::string_view::npos) {
                return constructError(pattern, fmt::format("\\{}", escaped));
            } else {
                out += '\\';
                out += escaped;
            }
            continue;
        }
        if (inClass) {
            if (c == '[') return constructError(pattern, "an unescaped [ inside a class");
            if (c == '&' && i + 1 < pattern.size() && pattern[i + 1] == '&') return constructError(pattern, "&& inside a class");
            if (c == ']' && i > classStart) inClass = false;
        } else if (c == '[') {
            inClass = true;
            classStart = i + 1;
            if (classStart < pattern.size() && pattern[classStart] == '^') {
                out += c;
                out += '^';
                i = classStart++;
                continue;
            }
        } else if (c == '(' && pattern.substr(i, 2) == "(?") {
            // Inline flags: m means dot-all in one engine and line anchors in the other.
            std::size_t j = i + 2;
            while (j < pattern.size() && ((pattern[j] >= 'a' && pattern[j] <= 'z') || pattern[j] == '-')) {
                if (pattern[j] == 'm') return constructError(pattern, "the flag (?m)");
                ++j;
            }
        }
        out += c;
    }
    return out;
}

struct TokenizerRegex::Data {
    std::string pattern;
    pcre2_code* code = nullptr;
    pcre2_match_context* context = nullptr;
    pcre2_jit_stack* stack = nullptr;
    // The enlarged stack is one: calls that need it take turns.
    mutable std::mutex stackMutex;

    ~Data()
    {
        pcre2_match_context_free(context);
        pcre2_jit_stack_free(stack);
        pcre2_code_free(code);
    }

    int match(std::string_view text, std::size_t from, pcre2_match_data* data) const
    {
        const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
        int rc = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, data, context);
        if (rc != PCRE2_ERROR_JIT_STACKLIMIT) return rc;
        {
            const std::scoped_lock lock(stackMutex);
            pcre2_match_context* enlarged = pcre2_match_context_copy(context);
            pcre2_jit_stack_assign(enlarged, nullptr, stack);
            rc = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, data, enlarged);
            pcre2_match_context_free(enlarged);
        }
        if (rc != PCRE2_ERROR_JIT_STACKLIMIT) return rc;
        return pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, context);
    }
};

TokenizerRegex::TokenizerRegex(std::unique_ptr<Data> data) : m_data(std::move(data)) {}
TokenizerRegex::TokenizerRegex(TokenizerRegex&&) noexcept = default;
TokenizerRegex& TokenizerRegex::operator=(TokenizerRegex&&) noexcept = default;
TokenizerRegex::~TokenizerRegex() = default;

Result<TokenizerRegex> TokenizerRegex::compile(std::string_view pattern)
{
    if (pattern.size() > kMaxPatternBytes) return regexError(pattern, fmt::format("it is longer than {} bytes", kMaxPatternBytes));
    ESPALIER_TRY(const std::string rewritten, rewriteForPcre2(pattern));
    auto data = std::make_unique<Data>();
    data->pattern = pattern;
    pcre2_compile_context* compile = pcre2_compile_context_create(nullptr);
    pcre2_set_newline(compile, PCRE2_NEWLINE_LF);
    int number = 0;
    PCRE2_SIZE offset = 0;
    data->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(rewritten.data()), rewritten.size(),
                               PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_MULTILINE, &number, &offset, compile);
    pcre2_compile_context_free(compile);
    if (data->code == nullptr) {
        PCRE2_UCHAR message[160];
        pcre2_get_error_message(number, message, sizeof(message));
        return regexError(pattern, reinterpret_cast<const char*>(message));
    }
    pcre2_jit_compile(data->code, PCRE2_JIT_COMPLETE);  // without JIT support the interpreter runs: slower, equal
    data->stack = pcre2_jit_stack_create(32u << 10, 16u << 20, nullptr);
    data->context = pcre2_match_context_create(nullptr);
    pcre2_set_match_limit(data->context, kMatchLimit);
    pcre2_set_depth_limit(data->context, kDepthLimit);
    pcre2_set_heap_limit(data->context, kHeapLimitKiB);
    return TokenizerRegex(std::move(data));
}

Result<std::vector<TextSpan>> TokenizerRegex::find(std::string_view text) const
{
    std::vector<TextSpan> spans;
    if (text.empty()) return spans;
    const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match(pcre2_match_data_create(1, nullptr),
                                                                                    &pcre2_match_data_free);
    std::size_t covered = 0;
    std::size_t from = 0;
    while (from <= text.size()) {
        const int rc = m_data->match(text, from, match.get());
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0)
            return badInput(
                "tokenizer.regex_limit", "tokenizer.json",
                fmt::format("The pattern \"{}\" of tokenizer.json ran into its limit on this text.", m_data->pattern.substr(0, 200)),
                "Split the text into shorter lines, or check the tokenizer file.");
        const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match.get());
        const std::size_t begin = bounds[0];
        const std::size_t end = std::max<std::size_t>(bounds[1], begin);
        if (begin > covered) spans.push_back({covered, begin, false});
        spans.push_back({begin, end, true});
        covered = std::max(covered, end);
        from = end;
        if (end == begin) {  // an empty match: go on behind the next character
            ++from;
            while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80)
                ++from;
        }
    }
    if (covered < text.size()) spans.push_back({covered, text.size(), false});
    return spans;
}

}  // namespace espalier
