#include "text_options.h"

#include "base/window_spread.h"
#include "tokenizer/text_windows.h"
#include "tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace espalier
{

void addTextOptions(CLI::App* verb, TextOptions& options)
{
    CLI::Option* text = verb->add_option("--text", options.text, "Text files or JSON lines of {\"text\": ...}, tokenised as one sequence")
                            ->type_name("FILE")
                            ->expected(1, -1);
    verb->add_option("--ids", options.ids, "Token ids instead of text: JSON lists, or safetensors FILE[:NAME]")
        ->type_name("FILE")
        ->excludes(text);
    verb->add_option("--windows", options.windows, "Use the first N windows (default: all)")->check(CLI::Range(1, 1 << 30))->type_name("N");
    verb->add_option("--first-window", options.firstWindow, "Leave out so many windows of the text before them (default: 0)")
        ->check(CLI::Range(0, 1 << 30))
        ->type_name("N");
    verb->add_option("--spread", options.spread, "Of these windows use N, spread evenly (default: all)")
        ->check(CLI::Range(1, 1 << 30))
        ->type_name("N");
    verb->add_option("--window-length", options.windowLength, "Tokens per window (default: 2048, or what the model takes)")
        ->check(CLI::Range(2, 1 << 30))
        ->type_name("N");
    verb->add_option("--text-format", options.format, "Form of the files: auto, text, jsonl or json")
        ->check(CLI::IsMember({"auto", "text", "jsonl", "json"}));
    verb->add_option("--text-field", options.field, "Field of JSON texts (default: text, or the only one)")->type_name("NAME");
    verb->add_option("--bos", options.bos, "Begin-of-sequence token: auto, yes or no")->check(CLI::IsMember({"auto", "yes", "no"}));
}

Result<Bos> parseBos(const std::string& text)
{
    if (text == "auto" || text.empty()) return Bos::Auto;
    if (text == "yes") return Bos::Yes;
    if (text == "no") return Bos::No;
    return usageError({"\"{text}\" is not one of auto, yes, no.", {{"text", text}}});
}

Result<std::vector<int>> parseIdList(const std::string& list)
{
    std::vector<int> ids;
    const char* at = list.data();
    const char* end = at + list.size();
    while (at != end) {
        while (at != end && (*at == ' ' || *at == ',' || *at == '[' || *at == ']'))
            ++at;
        if (at == end) break;
        int id = 0;
        const auto [next, failure] = std::from_chars(at, end, id);
        if (failure != std::errc() || id < 0)
            return usageError({"\"{list}\" is not a list of token ids.", {{"list", list}}}, "Write --ids 1,2,3.");
        ids.push_back(id);
        at = next;
    }
    return ids;
}

TextOptions cutAsProfile(TextOptions options, const ProfileData& profile)
{
    options.windowLength = profile.windowLength;
    if (!profile.tokenizerSha256.empty()) options.bos = profile.bos ? "yes" : "no";
    return options;
}

namespace
{

// Of rows that begin with the text's first one.
Status chooseRows(const TextOptions& options, TokenWindows& windows)
{
    const auto left = [](const std::vector<std::vector<int>>& rows) {
        std::int64_t tokens = 0;
        for (const std::vector<int>& row : rows)
            tokens += static_cast<std::int64_t>(row.size());
        return tokens;
    };
    const std::int64_t before = left(windows.rows);
    const std::size_t count = windows.rows.size();
    if (static_cast<std::size_t>(options.firstWindow) >= count && options.firstWindow > 0)
        return badInput("text.too_short", windows.source,
                        {"{source} has {count} windows of {window_length} tokens; there is none from number {first_window} on.",
                         {{"source", windows.source},
                          {"count", count},
                          {"window_length", windows.windowLength},
                          {"first_window", options.firstWindow}}},
                        "Use a longer text, or leave out fewer windows.");
    windows.rows.erase(windows.rows.begin(), windows.rows.begin() + options.firstWindow);
    if (options.spread > 0) {
        std::vector<std::vector<int>> chosen;
        for (const int w : spreadWindows(static_cast<int>(windows.rows.size()), options.spread))
            chosen.push_back(std::move(windows.rows[static_cast<std::size_t>(w)]));
        windows.rows = std::move(chosen);
    }
    windows.droppedTokens += before - left(windows.rows);
    windows.textSha256 = hashOfRows(windows.rows);
    return {};
}

}  // namespace

Result<TokenWindows> openText(const TextOptions& options, const Checkpoint& checkpoint)
{
    std::vector<std::string> unheard;
    return openText(options, checkpoint, unheard);
}

Result<TokenWindows> openText(const TextOptions& options, const Checkpoint& checkpoint, std::vector<std::string>& warnings)
{
    if (options.text.empty() && options.ids.empty()) return usageError("A text is needed.", "Give --text FILE or --ids FILE.");
    const ModelShape& shape = checkpoint.shape();
    TextRequest request;
    WindowOptions& window = request.window;
    window.windowLength = options.windowLength > 0 ? options.windowLength : 2048;
    if (options.windowLength <= 0 && shape.maxPositions > 0) window.windowLength = std::min(2048, shape.maxPositions);
    window.maxWindows =
        options.windows > 0
            ? static_cast<int>(std::min<std::int64_t>(std::int64_t{options.firstWindow} + options.windows, std::int64_t{1} << 30))
            : 0;
    ESPALIER_TRY(window.bos, parseBos(options.bos));
    // Of a part of the text what was asked for is known only once the part is cut.
    request.countAsked = !options.windowsByDefault && options.firstWindow == 0;
    request.lengthAsked = options.windowLength > 0;
    request.modelPositions = shape.maxPositions;
    request.file.field = options.field;
    ESPALIER_TRY(request.file.form, parseTextForm(options.format));
    RequestedWindows opened;
    if (!options.ids.empty()) {
        ESPALIER_TRY(opened, openIdWindows(options.ids, request, shape.vocabularySize));
        if (window.bos == Bos::Yes)
            opened.warnings.push_back("Ids are used as they are: the begin-of-sequence token that was asked for is not put before them.");
    } else {
        ESPALIER_TRY(const Tokenizer tokenizer, Tokenizer::load(checkpoint.folder(), shape.vocabularySize));
        ESPALIER_TRY(opened, openTextWindows(tokenizer, options.text, request));
    }
    for (std::string& warning : opened.warnings)
        if (std::find(warnings.begin(), warnings.end(), warning) == warnings.end()) warnings.push_back(std::move(warning));
    if (options.firstWindow > 0 || options.spread > 0) ESPALIER_CHECK_OK(chooseRows(options, opened.windows));
    if (options.firstWindow > 0 && !options.windowsByDefault && options.spread == 0)
        if (std::string fewer = fewerWindows(options.windows, opened.windows); !fewer.empty()) warnings.push_back(std::move(fewer));
    return std::move(opened.windows);
}

std::optional<int> windowsAsked(const TextOptions& options)
{
    return options.windows > 0 && !options.windowsByDefault ? std::optional(options.windows) : std::nullopt;
}

TextOptions textOptionsOf(const TextSelection& selection)
{
    TextOptions options;
    options.text = selection.text;
    options.ids = selection.ids;
    options.firstWindow = selection.firstWindow;
    options.windowLength = selection.windowLength;
    options.field = selection.textField;
    options.bos = selection.bos;
    return options;
}

}  // namespace espalier
