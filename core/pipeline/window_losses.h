// Losses of windows on the model: once, or shared between processes. Each process runs whole groups of windows, everyone gets all losses.
// Bit for bit those of one process, since windows run in the same groups. On the model's compute thread.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/statistics.h"
#include "base/work_share.h"
#include "evaluate/divergence.h"
#include "evaluate/evaluator.h"
#include "plan/compression_plan.h"

#include <cstdint>
#include <span>
#include <vector>

namespace espalier
{

// Memory for residual streams between edits: half of what the budget leaves beside the weights, at most 1 GiB and not out of proportion
// to the model.
std::int64_t evaluatorCacheBytes(const MoeModel& model);

// Losses of all windows of a text that is measured once. Error: those of Evaluator::run.
Result<std::vector<WindowLoss>> measureOnce(MoeModel& model, const TokenWindows& windows, const CompressionPlan& plan, JobContext& job);

// All windows of the evaluator's text, ascending. `known`: losses that this process has from an earlier run; what one process knows, no
// other runs again. Errors: those of Evaluator::run, and of another process.
Result<std::vector<WindowLoss>> runShared(Evaluator& evaluator, const CompressionPlan& plan, const std::vector<WindowLoss>& known,
                                          JobContext& job, WorkShare& processes);
// Only these windows, in their order.
Result<std::vector<WindowLoss>> runShared(Evaluator& evaluator, const CompressionPlan& plan, std::span<const int> windows,
                                          const std::vector<WindowLoss>& known, JobContext& job, WorkShare& processes);
// All windows, ascending. Errors: those of measureDivergence, and of another process.
Result<std::vector<WindowDivergence>> divergenceShared(MoeModel& model, const TokenWindows& windows, const CompressionPlan& plan,
                                                       const CompressionPlan& reference, JobContext& job, WorkShare& processes);

}  // namespace espalier
