// What was measured of an export before it was written: perplexities, each with the text, windows and window length it belongs to.
#pragma once

#include "base/error.h"
#include "base/json.h"

#include <optional>
#include <string>
#include <vector>

namespace espalier
{

struct Measurement {
    std::string text;  // name of the text
    std::string role;  // "live", "locked", "calibration": what the text was to the plan; may be empty
    std::string textSha256;
    int windows = 0;       // windows do not overlap, the first token of each is unscored
    int windowLength = 0;  // in tokens
    double ppl = 0;        // of the plan
    std::optional<double> densePpl;
    // Paired difference to the dense model in nats per token, and its standard error.
    std::optional<double> deltaNll;
    std::optional<double> deltaNllError;
    std::string dtype;             // computed in
    std::string planHash;          // of the plan that was measured; empty: the one exported
    std::string modelFingerprint;  // of the model it was measured on; empty: not said
};

// One object or a list of them: {"text", "windows", "window_length", "ppl"} and, optionally, {"role", "text_sha256", "dense_ppl",
// "delta_nll", "delta_nll_error", "dtype", "plan_hash"}. What `evaluate --json` prints is read as well: there "windows" is a list, the
// difference is in "delta" and the dense perplexity in "reference". Null gives none.
// Error: export.measured_invalid (names the field).
Result<std::vector<Measurement>> parseMeasured(const Json& value);

Json toJson(const Measurement& measurement);

}  // namespace espalier
