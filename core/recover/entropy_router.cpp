// The second stage of SEER-MoE: routers alone, on the text and on the entropy of what they say (README.md here).
#include "recover/recover_run.h"
#include "recover/training_run.h"

#include "model/model_parts.h"
#include "model/moe_model.h"

#include <algorithm>

namespace espalier
{

Result<Recovered> runEntropyRouter(RecoverRun& run, JobContext& job)
{
    ESPALIER_CHECK_OK(checkAlone(run));
    warnOfSingleExperts(run);
    TrainingTask task;
    task.targets.withAdapters = false;
    task.targets.routers = true;
    task.steps = stepSettings(run.params, run.seed);
    task.entropyWeight = run.params.at("lambda").get<double>();
    // Over the first half of the steps, from what the model has to the fewest that the plan wants.
    int most = 0, fewest = 0;
    for (int l = 0; l < run.plan.layerCount(); ++l) {
        const LayerShape& shape = run.model.shape().layers[static_cast<std::size_t>(l)];
        if (!shape.moe || !run.plan.layer(l).runsExperts()) continue;
        const int own = run.plan.layer(l).topK().value_or(shape.router.topK);
        most = std::max(most, shape.router.topK);
        fewest = fewest == 0 ? own : std::min(fewest, own);
    }
    if (run.params.at("anneal").get<bool>() && fewest < most) {
        const int half = task.steps.steps / 2;
        task.topK = [=](int step) -> std::optional<int> {
            if (step > half) return fewest;
            return most - static_cast<int>(static_cast<std::int64_t>(most - fewest) * (step - 1) / std::max(half, 1));
        };
    }
    ESPALIER_TRY(const auto parts, ModelParts::create(run.model.sharedCheckpoint(), run.model.options()));
    return train(run, task, *parts, job);
}

}  // namespace espalier
