// The stage that wins quality back once a plan's shapes are settled: core/recover under a recipe. On the model's compute thread.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/work_share.h"
#include "pipeline/make_plan.h"
#include "recover/recover.h"
#include "rpc/protocol_plan.h"

#include <optional>
#include <string>

namespace espalier
{

// Recovers `plan` by the recipe's method on the inputs' windows; every eighth of them is kept apart and judges. nullopt: nothing could be
// done, and `warning` says why. What is finished lies in inputs.recoverFolder, and is gone on with where it is this plan's. Errors: those
// of recoverPlan.
Result<std::optional<RecoverResult>> recoverStage(const PlanInputs& inputs, const PlanRecipe& recipe, const CompressionPlan& plan,
                                                  WorkShare& share, JobContext& job, std::string& warning);

// The plan without the numbers that a recovery put there, outside of locked layers: a new plan begins with the checkpoint's own.
Result<CompressionPlan> withoutRecovered(const ModelShape& shape, const CompressionPlan& plan);

// {"method","accepted","changed","delta","ppl_dense","ppl_before","ppl_after","ppl_control","gate",..}: for people and reports.
RecoverSummary recoverSummary(const RecoverResult& result, const std::string& method);
Json recoverDetail(const RecoverResult& result, const std::string& method);

}  // namespace espalier
