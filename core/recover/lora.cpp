// Low-rank adapters, trained on the text (README.md here).
#include "recover/recover_run.h"
#include "recover/training_run.h"

#include "model/model_parts.h"
#include "model/moe_model.h"

namespace espalier
{

Result<Recovered> runLora(RecoverRun& run, JobContext& job)
{
    ESPALIER_CHECK_OK(checkAlone(run));
    const Params& params = run.params;
    TrainingTask task;
    task.targets.adapters = {.rank = params.at("rank").get<int>(),
                             .alpha = params.at("alpha").get<double>(),
                             .dropout = params.at("dropout").get<double>(),
                             .experts = params.at("experts").get<bool>(),
                             .attention = params.at("attention").get<bool>(),
                             .shared = params.at("shared").get<bool>(),
                             .dense = params.at("dense").get<bool>()};
    ESPALIER_CHECK_OK(checkSettings(task.targets.adapters));
    task.steps = stepSettings(params, run.seed);
    ESPALIER_TRY(const auto parts, ModelParts::create(run.model.sharedCheckpoint(), run.model.options()));
    return train(run, task, *parts, job);
}

}  // namespace espalier
