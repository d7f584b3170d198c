// What was measured of an export before it was written: perplexities, each with the text, windows and window length it belongs to, and
// accuracies on multiple-choice tasks, each with the file and the questions.
#pragma once

#include "base/accuracy.h"
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

// One task under the plan, zero-shot.
struct TaskMeasurement {
    struct Metric {
        Accuracy plan;
        std::optional<Accuracy> dense;
        std::optional<Accuracy> delta;  // plan - dense on the same questions, with its paired error
    };
    std::string task;   // "hellaswag"
    std::string rules;  // whose contexts and choices
    std::string fileSha256;
    int questions = 0;
    Metric acc;                    // the choice with the largest log-likelihood
    std::optional<Metric> norm;    // the largest per character, where the rules report it
    std::string dtype;             // computed in
    std::string planHash;          // of the plan that was measured; empty: the one exported
    std::string modelFingerprint;  // of the model it was measured on; empty: not said
};

// What `tasks --json` prints, or the list that toJson makes of them. Null gives none. Error: export.measured_invalid (names the field).
Result<std::vector<TaskMeasurement>> parseMeasuredTasks(const Json& value);
bool holdsTasks(const Json& value);  // whether it is what `tasks --json` prints rather than a perplexity

Json toJson(const TaskMeasurement& measurement);

}  // namespace espalier
