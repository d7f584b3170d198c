// Log-likelihoods of continuations under a plan: what multiple-choice tasks are judged by.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/work_share.h"
#include "plan/compression_plan.h"
#include "tasks/choice_request.h"

#include <cstddef>
#include <functional>
#include <span>

namespace espalier
{

class MoeModel;

struct ChoiceScore {
    double logLikelihood = 0;  // nats, summed over the tokens that are scored
    bool greedy = false;       // each of them is the most likely one at its place
};

// Requests that begin alike are computed together: what they have in common goes through the model once, and equal requests are one, so
// that a tie stays a tie. Rows of some hundred tokens are laid of all requests, which decides the bits: with `wanted` the rows that hold
// none of those are left out, and of several processes each runs its share of the others. Where weights are streamed each layer is read
// once for many rows. `done` hears of every request of a row as soon as it is known, in an order of its own; an error it returns ends the
// run. Calls of progress count tokens. On the compute thread. Errors: those of MoeModel; job.cancelled.
Status scoreChoices(MoeModel& model, const CompressionPlan& plan, std::span<const ChoiceRequest> requests, JobContext& job,
                    const std::function<Status(std::size_t request, const ChoiceScore& score)>& done,
                    const WorkShare& processes = WorkShare::none(), const std::function<bool(std::size_t request)>& wanted = {});

}  // namespace espalier
