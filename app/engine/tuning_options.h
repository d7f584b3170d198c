// The text that a recovery learns from: that of text_options.h, or records of instructions, or, where nothing is named, what the demo's
// calibration leaves of its text.
#pragma once

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "statistics/profile_data.h"
#include "text_options.h"
#include "tokenizer/tuning_text.h"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

struct TuningOptions {
    bool noPacking = false;
    bool leaveOutBad = false;
};
void addTuningOptions(CLI::App* verb, TuningOptions& options);

// Of --text or --ids. Errors: those of openText and openTuningWindows.
Result<TuningText> openTuningText(const TextOptions& options, const TuningOptions& tuning, const Checkpoint& checkpoint,
                                  std::vector<std::string>& warnings);

// The texts that lie beside the demo model: calibration.txt and validation.txt in the folder that holds the model's.
struct DemoTexts {
    std::filesystem::path calibration, live;
};
std::optional<DemoTexts> demoTexts(const std::filesystem::path& model);

// Windows that calibration leaves unused when no profile says which it used: those behind so many.
inline constexpr int kDemoCalibrationWindows = 128;

// Windows of `file`, cut as the profile's, that are none of the profile's own; without one, or where it holds no ids, those behind the
// first kDemoCalibrationWindows. `options` say which of these. Errors: those of openText; text.too_short (none is left).
Result<TuningText> unusedWindows(const std::filesystem::path& file, const TextOptions& options, const ProfileData* profile,
                                 const Checkpoint& checkpoint, std::vector<std::string>& warnings);

// What of the text is known from elsewhere, for people; added to `warnings` where there is anything. The profile may be null.
struct TuningOverlap {
    int gate = 0;                    // windows that are in the gate's text, too
    std::optional<int> calibration;  // windows that the profile was made from; unknown without its ids
};
TuningOverlap overlapOf(const TuningText& text, const TokenWindows* gate, const ProfileData* profile, const Checkpoint& checkpoint,
                        std::vector<std::string>& warnings);

}  // namespace espalier
