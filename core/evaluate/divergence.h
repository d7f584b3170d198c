// How far the next-token distribution under a plan is from the one under another plan, usually the dense model's (README.md here).
// Over the whole vocabulary, from the logits of both: exact where an estimate from cached top candidates would be a bound.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/work_share.h"
#include "plan/compression_plan.h"
#include "tokenizer/windows.h"

#include <span>
#include <vector>

namespace espalier
{

class MoeModel;

// Sums over the scored positions of one window (all but the last one, as the losses).
struct WindowDivergence {
    int window = 0;
    double kl = 0;         // KL(reference || plan) in nats
    double esap = 0;       // sum of min(p, q): the expected share of drafted tokens that speculative sampling would accept
    double agreement = 0;  // positions where the most probable token is the same
    int tokens = 0;
};

struct DivergenceEstimate {
    double kl = 0;  // per token; errors: one standard error over windows, as the perplexity's
    double klError = 0;
    double esap = 0;  // in [0, 1]
    double esapError = 0;
    double agreement = 0;  // in [0, 1]
    double agreementError = 0;
    long tokens = 0;
    int windows = 0;
};
DivergenceEstimate divergence(std::span<const WindowDivergence> windows);

// Runs both plans; layers below the first difference once. Progress counts (layer, group) steps, each finished window goes to
// job.partial as {"window","kl","esap","agreement","tokens"}, a stop is honoured between layers. On the model's compute thread.
// Errors: model.*, cancelled.
//
// Several processes can share a text: this one runs the groups of windows (windowGroups) that are its own, and exchanges nothing.
Result<std::vector<WindowDivergence>> measureDivergence(MoeModel& model, const TokenWindows& windows, const CompressionPlan& plan,
                                                        const CompressionPlan& reference, JobContext& job,
                                                        const WorkShare& share = WorkShare::none());

}  // namespace espalier
