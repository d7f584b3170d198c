#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer/regex.h"

#include "tokenizer/byte_level.h"
#include "tokenizer/oniguruma.h"

#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <mutex>
#include <optional>

namespace espalier
{

namespace
{

constexpr std::size_t kMaxPatternBytes = 64u << 10;
constexpr std::uint32_t kMatchLimit = 20'000'000;
constexpr std::uint32_t kDepthLimit = 200'000;
constexpr std::uint32_t kHeapLimitKiB = 64u << 10;
constexpr const char* kLazy[] = {"??", "*?", "+?", "}?"};

}  // namespace

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
    if (pattern.size() > kMaxPatternBytes) return invalidPattern(pattern, fmt::format("it is longer than {} bytes", kMaxPatternBytes));
    ESPALIER_TRY(const std::string rewritten, pcre2FromOniguruma(pattern));
    auto data = std::make_unique<Data>();
    data->pattern = pattern;
    pcre2_compile_context* compile = pcre2_compile_context_create(nullptr);
    pcre2_set_newline(compile, PCRE2_NEWLINE_LF);
    int number = 0;
    PCRE2_SIZE offset = 0;
    data->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(rewritten.data()), rewritten.size(),
                               PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C | PCRE2_MULTILINE | PCRE2_DOTALL, &number, &offset, compile);
    pcre2_compile_context_free(compile);
    if (data->code == nullptr) {
        PCRE2_UCHAR message[160];
        pcre2_get_error_message(number, message, sizeof(message));
        // It was read as a pattern: what is left is what PCRE2 cannot do, such as looking behind a text of any length.
        return unsupportedPattern(pattern, fmt::format("something that PCRE2 cannot do ({})", reinterpret_cast<const char*>(message)));
    }
    // Without JIT the interpreter runs: slower, equal. PCRE2 10.42's JIT goes back into an atomic group that ends in a lazy repeat
    // ([^b]??(?>.??b*?)(?<!a) takes 4 to 6 of aaaaax instead of 5 to 6), the interpreter does not.
    const bool lazy =
        std::any_of(std::begin(kLazy), std::end(kLazy), [&](const char* sign) { return rewritten.find(sign) != std::string::npos; });
    if (!(lazy && rewritten.find("(?>") != std::string::npos)) pcre2_jit_compile(data->code, PCRE2_JIT_COMPLETE);
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
    const auto behindNext = [&](std::size_t at) {
        ++at;
        while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80)
            ++at;
        return at;
    };
    std::size_t covered = 0;
    std::size_t from = 0;
    std::optional<std::size_t> lastEnd;
    while (from <= text.size()) {
        const int rc = m_data->match(text, from, match.get());
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0)
            return badInput("tokenizer.regex_limit", "tokenizer.json",
                            {"The pattern \"{utf8_prefix}\" of tokenizer.json ran into its limit on this text.",
                             {{"utf8_prefix", utf8Prefix(m_data->pattern, 200)}}},
                            "Split the text into shorter lines, or check the tokenizer file.");
        const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match.get());
        const std::size_t begin = bounds[0];
        const std::size_t end = std::max<std::size_t>(bounds[1], begin);
        if (begin == end && lastEnd == end) {  // no empty match directly behind a match
            from = behindNext(from);
            continue;
        }
        if (begin > covered) spans.push_back({covered, begin, false});
        spans.push_back({begin, end, true});
        covered = from = end;
        lastEnd = end;
    }
    if (covered < text.size()) spans.push_back({covered, text.size(), false});
    return spans;
}

}  // namespace espalier
