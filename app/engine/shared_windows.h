// Windows shared between the processes of a group: each runs whole groups of windows, everyone gets all losses. Bit for bit those of one
// process, since windows run in the same groups.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/statistics.h"
#include "evaluate/divergence.h"
#include "evaluate/evaluator.h"
#include "plan/compression_plan.h"
#include "process_group.h"

#include <span>
#include <vector>

namespace espalier
{

// All windows of the evaluator's text, ascending. `known`: losses that this process has from an earlier run; what one process knows, no
// other runs again. Errors: those of Evaluator::run, and of another process.
Result<std::vector<WindowLoss>> runShared(Evaluator& evaluator, const CompressionPlan& plan, const std::vector<WindowLoss>& known,
                                          JobContext& job, ProcessGroup& processes);
// Only these windows, in their order.
Result<std::vector<WindowLoss>> runShared(Evaluator& evaluator, const CompressionPlan& plan, std::span<const int> windows,
                                          const std::vector<WindowLoss>& known, JobContext& job, ProcessGroup& processes);
// All windows, ascending. Errors: those of measureDivergence, and of another process.
Result<std::vector<WindowDivergence>> divergenceShared(MoeModel& model, const TokenWindows& windows, const CompressionPlan& plan,
                                                       const CompressionPlan& reference, JobContext& job, ProcessGroup& processes);

}  // namespace espalier
