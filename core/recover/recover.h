// Recovery of a plan: runs a method of the slot, judges it on text that it did not see, and writes the numbers. What `recover`, the stage
// of the pipeline and the window's button share. No ATen. On the model's compute thread.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/statistics.h"
#include "recover/recover_methods.h"
#include "recover/recover_run.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

enum class RecoverResume {
    No,      // begin, whatever an earlier run left
    Yes,     // go on, or fail
    IfSame,  // go on where the folder's run is this one, else begin
};

struct RecoverRequest {
    MoeModel* model = nullptr;
    CompressionPlan plan;
    FactorSources sources;  // profiles and values files that the plan reads
    std::string method;
    Params params;
    TuningText text;
    std::optional<TokenWindows> gate = {};  // live text; none: every eighth window of the text is kept apart and judges
    const ProfileData* profile = nullptr;
    std::uint64_t seed = 0;
    bool control = false;          // also tune the dense model by the same method, and measure it
    std::filesystem::path folder;  // for what is finished; made here, removed by removeRun
    RecoverResume resume = RecoverResume::No;
    bool bestSoFar = false;  // a stop is answered with what a method that goes layer by layer has by then, rather than with an error
    std::filesystem::path valuesFolder;  // where the values file is written
    WorkShare* processes = nullptr;      // null: one
    // Losses of a plan on all windows of the gate; the model is ready for its sources. Empty: measured here.
    std::function<Result<std::vector<WindowLoss>>(const TokenWindows& gate, const CompressionPlan&, JobContext&)> measure = {};
};

struct RecoverResult {
    CompressionPlan plan;              // the tuned one where it was accepted, else the one that was given
    std::optional<ValuesInfo> values;  // of an accepted plan
    std::vector<RecoverStep> steps;
    std::vector<WindowLoss> dense, before, after;  // on the gate's windows
    std::vector<WindowLoss> control;               // of the tuned dense model; that of the dense model where the method leaves it as it is
    bool accepted = false;
    bool changed = false;  // the method changed any number
    bool cancelled = false;
    std::string gateText;      // for people
    bool gateHeldOut = false;  // the gate's windows were taken out of the text
    std::vector<std::string> warnings;
    Json madeBy;  // what the values file says: settings, text, and what they did on the gate's windows
    double seconds = 0;
};

// Progress counts what the method counts. Partial results: a RecoverJudged for everything measured on the gate's windows, a RecoverStep for
// each point of the trace.
// Errors: method.unknown, method.bad_parameter, recover.no_tokens (a text of nothing to learn from), recover.gate_needed (too few windows
// to keep some apart), recover.other_run (the folder is another run's), recover.nothing_to_resume, those of the method, of preparing the
// plan, of measuring and writing.
Result<RecoverResult> recoverPlan(const RecoverRequest& request, JobContext& job);

// What is learned from and what judges where no other text does: every eighth window is kept apart, of fewer the last. Errors:
// recover.no_tokens, recover.gate_needed.
struct SplitText {
    TuningText tuning;
    TokenWindows gate;
};
Result<SplitText> splitText(const TuningText& text);

// What a run leaves in its folder, once the answer is written.
void removeRun(const std::filesystem::path& folder);

}  // namespace espalier
