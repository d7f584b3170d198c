// The stage that wins quality back once a plan's shapes are settled: core/recover under a recipe. On the model's compute thread.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/statistics.h"
#include "base/work_share.h"
#include "evaluate/evaluator.h"
#include "pipeline/make_plan.h"
#include "recover/recover.h"
#include "rpc/protocol_plan.h"

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

// Recoveries by a recipe's method on the inputs' windows, of which every eighth is kept apart and judges. What is measured on those of a
// plan is kept, so that several plans, and the dense model, are measured once.
class RecoverStage
{
public:
    // `inputs`, `recipe` and `share` stay with the caller.
    RecoverStage(const PlanInputs& inputs, const PlanRecipe& recipe, WorkShare& share) : m_inputs(inputs), m_recipe(recipe), m_share(share)
    {
    }
    RecoverStage(const RecoverStage&) = delete;
    RecoverStage& operator=(const RecoverStage&) = delete;

    // Empty: a plan can be recovered; else why not, for people.
    std::string hindrance() const;
    int learnedWindows() const;  // that are not kept apart

    // What is finished lies in `folder`, and is gone on with where it is this plan's; a values file lies in the folder "values" there.
    // Errors: those of recoverPlan.
    Result<RecoverResult> run(const CompressionPlan& plan, const std::filesystem::path& folder, JobContext& job);
    // Losses on the windows that judge. Errors: those of Evaluator::run.
    Result<std::vector<WindowLoss>> judge(const CompressionPlan& plan, JobContext& job);
    Result<std::vector<WindowLoss>> judgeDense(JobContext& job);

private:
    Result<std::vector<WindowLoss>> measure(MoeModel& model, const TokenWindows& gate, const CompressionPlan& plan, JobContext& job);

    const PlanInputs& m_inputs;
    const PlanRecipe& m_recipe;
    WorkShare& m_share;
    std::optional<Evaluator> m_evaluator;                       // of the windows that judge
    std::map<std::string, std::vector<WindowLoss>> m_measured;  // on them, by plan hash
};

// The plan without the numbers that a recovery put there, outside of locked layers: a new plan begins with the checkpoint's own.
Result<CompressionPlan> withoutRecovered(const ModelShape& shape, const CompressionPlan& plan);

// {"method","accepted","changed","delta","ppl_dense","ppl_before","ppl_after","ppl_control","gate",..}: for people and reports.
RecoverSummary recoverSummary(const RecoverResult& result, const std::string& method);
Json recoverDetail(const RecoverResult& result, const std::string& method);

}  // namespace espalier
