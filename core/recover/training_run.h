// The steps of a gradient method, from a plan and a text to stored numbers: batches in a seeded order, gradients added up over
// micro-batches, clipping, AdamW, looks at the live text, the best so far. What was done lies in a file of the run's folder, written
// atomically: a run that was stopped goes on from there and ends with the same bits as one that was not.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "recover/recover_run.h"
#include "recover/trainables.h"
#include "recover/training_pass.h"
#include "recover/training_settings.h"

#include <functional>
#include <memory>
#include <optional>

namespace espalier
{

class TeacherCache;

struct TrainingTask {
    TrainingTargets targets;
    StepSettings steps;
    std::shared_ptr<const TeacherCache> teacher;  // null: the text itself teaches
    double temperature = 1;
    double entropyWeight = 0;
    std::function<std::optional<int>(int step)> topK;  // as PassSettings::topK; empty: as the plan says
};

// Errors: recover.nothing_to_train, recover.settings, recover.other_run, recover.diverged, model.*, output.*; cancelled where not even the
// first look was taken.
Result<Recovered> train(RecoverRun& run, const TrainingTask& task, ModelParts& model, JobContext& job);

// Windows of step 1 .. by their numbers: each epoch goes through all of them in an order of its own.
std::vector<int> windowsOfStep(const StepSettings& settings, int windows, int step);

// The settings that methods share, from their parameters.
StepSettings stepSettings(const Params& params, std::uint64_t seed);
// Names the layers whose routers learn nothing of a loss at the output: one expert, whose weight is 1 whatever they say.
void warnOfSingleExperts(const RecoverRun& run);
// A plan is tuned by one process. Error: usage.
Status checkAlone(const RecoverRun& run);

}  // namespace espalier
