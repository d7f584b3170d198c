#include "tuning_options.h"

#include "base/window_spread.h"
#include "profile/profile_windows.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <system_error>
#include <utility>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

constexpr int kDemoGateLength = 256;

// --first-window, --windows and --spread of windows that are there.
Status choose(const TextOptions& options, TuningText& text)
{
    TokenWindows& windows = text.windows;
    const auto count = static_cast<int>(windows.rows.size());
    const int first = options.firstWindow;
    if (first >= count)
        return badInput("text.too_short", windows.source,
                        {"{source} has {count} windows to tune on; there is none from number {first_window} on.",
                         {{"source", windows.source}, {"count", count}, {"first_window", first}}},
                        "Use a longer text, or leave out fewer windows.");
    const int taken = options.windows > 0 ? std::min(options.windows, count - first) : count - first;
    std::vector<int> chosen;
    if (options.spread > 0)
        chosen = spreadWindows(taken, options.spread);
    else
        for (int w = 0; w < taken; ++w)
            chosen.push_back(w);
    std::vector<std::vector<int>> rows;
    std::vector<std::vector<bool>> scored;
    std::int64_t tokens = 0;
    for (const std::vector<int>& row : windows.rows)
        tokens += std::ssize(row);
    for (const int w : chosen) {
        const auto at = static_cast<std::size_t>(first) + static_cast<std::size_t>(w);
        tokens -= std::ssize(windows.rows[at]);
        rows.push_back(std::move(windows.rows[at]));
        if (!text.scored.empty()) scored.push_back(std::move(text.scored[at]));
    }
    windows.rows = std::move(rows);
    text.scored = std::move(scored);
    windows.droppedTokens += tokens;
    windows.textSha256 = hashOfRows(windows.rows);
    return {};
}

}  // namespace

void addTuningOptions(CLI::App* verb, TuningOptions& options)
{
    verb->add_flag("--no-packing", options.noPacking,
                   "Of JSON records (instruction, input, output; prompt, completion; messages) each has a window of its own");
    verb->add_flag("--leave-out-bad", options.leaveOutBad,
                   "Leave out records that lack a field, have an empty output or are longer than a window, instead of stopping there");
}

Result<TuningText> openTuningText(const TextOptions& options, const TuningOptions& tuning, const Checkpoint& checkpoint,
                                  std::vector<std::string>& warnings)
{
    if (options.text.empty()) {
        TuningText text;
        ESPALIER_TRY(text.windows, openText(options, checkpoint, warnings));
        return text;
    }
    const ModelShape& shape = checkpoint.shape();
    TextRequest request;
    request.window.windowLength = options.windowLength > 0 ? options.windowLength : 2048;
    if (options.windowLength <= 0 && shape.maxPositions > 0) request.window.windowLength = std::min(2048, shape.maxPositions);
    const bool whole = options.firstWindow == 0 && options.spread == 0;
    request.window.maxWindows = whole ? options.windows : 0;
    ESPALIER_TRY(request.window.bos, parseBos(options.bos));
    request.countAsked = whole && !options.windowsByDefault;
    request.lengthAsked = options.windowLength > 0;
    request.modelPositions = shape.maxPositions;
    request.file.field = options.field;
    ESPALIER_TRY(request.file.form, parseTextForm(options.format));
    ESPALIER_TRY(const Tokenizer tokenizer, Tokenizer::load(checkpoint.folder(), shape.vocabularySize));
    ESPALIER_TRY(RequestedTuning opened,
                 openTuningWindows(tokenizer, options.text, request, {.pack = !tuning.noPacking, .leaveOutBad = tuning.leaveOutBad}));
    for (std::string& warning : opened.warnings)
        if (std::find(warnings.begin(), warnings.end(), warning) == warnings.end()) warnings.push_back(std::move(warning));
    if (!whole) ESPALIER_CHECK_OK(choose(options, opened.text));
    return std::move(opened.text);
}

std::optional<DemoTexts> demoTexts(const fs::path& model)
{
    std::error_code failure;
    fs::path folder = fs::weakly_canonical(model, failure);
    if (failure) return std::nullopt;
    folder = folder.parent_path();
    const DemoTexts texts{folder / "calibration.txt", folder / "validation.txt"};
    for (const fs::path& file : {texts.calibration, texts.live, folder / "test.txt"})
        if (!fs::is_regular_file(file, failure)) return std::nullopt;
    return texts;
}

Result<TuningText> unusedWindows(const fs::path& file, const TextOptions& options, const ProfileData* profile, const Checkpoint& checkpoint,
                                 std::vector<std::string>& warnings)
{
    TextOptions cut;
    cut.text = {file};
    cut.windowLength = options.windowLength;
    cut.bos = options.bos;
    std::optional<TokenWindows> used;
    if (profile != nullptr) {
        cut = cutAsProfile(cut, *profile);
        ESPALIER_TRY(auto own, profileWindows(*profile, 0, checkpoint.shape().vocabularySize));
        if (own) used = std::move(own->windows);
    }
    if (cut.windowLength <= 0)
        cut.windowLength =
            checkpoint.shape().maxPositions > 0 ? std::min(kDemoGateLength, checkpoint.shape().maxPositions) : kDemoGateLength;
    TuningText text;
    ESPALIER_TRY(text.windows, openText(cut, checkpoint, warnings));
    auto& rows = text.windows.rows;
    if (used) {
        const std::set<std::vector<int>> known(used->rows.begin(), used->rows.end());
        std::erase_if(rows, [&](const std::vector<int>& row) { return known.contains(row); });
    } else {
        rows.erase(rows.begin(), rows.begin() + std::min<std::ptrdiff_t>(kDemoCalibrationWindows, std::ssize(rows)));
    }
    if (rows.empty())
        return badInput("text.too_short", text.windows.source,
                        {"Calibration uses all of {source}: nothing is left to tune on.", {{"source", text.windows.source}}},
                        "Name another text with --text.");
    text.windows.source = fmt::format("{}, the part that calibration does not use", text.windows.source);
    text.windows.textSha256 = hashOfRows(rows);
    if (options.windows > 0 || options.firstWindow > 0 || options.spread > 0) ESPALIER_CHECK_OK(choose(options, text));
    return text;
}

TuningOverlap overlapOf(const TuningText& text, const TokenWindows* gate, const ProfileData* profile, const Checkpoint& checkpoint,
                        std::vector<std::string>& warnings)
{
    TuningOverlap overlap;
    const auto all = text.windows.rows.size();
    if (gate != nullptr) overlap.gate = sharedWindows(text, *gate);
    if (overlap.gate > 0)
        warnings.push_back(
            fmt::format("{} of the {} windows to tune on are in the text that judges, too: what it says flatters.", overlap.gate, all));
    if (profile == nullptr) return overlap;
    const auto own = profileWindows(*profile, 0, checkpoint.shape().vocabularySize);
    if (!own.ok() || !*own) return overlap;
    overlap.calibration = sharedWindows(text, (*own)->windows);
    if (*overlap.calibration > 0)
        warnings.push_back(fmt::format("{} of the {} windows to tune on are in the text of the profile, too: a fourth text is better.",
                                       *overlap.calibration, all));
    return overlap;
}

}  // namespace espalier
