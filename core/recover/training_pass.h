// Loss and gradients of a batch, layer after layer within the memory budget. Forwards the residual stream is kept at layer boundaries, or,
// for as many of the upper layers as the budget has room for, everything that their reverse pass needs; what was not kept is computed again
// on the way back. Both give the same gradients. Compute thread.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "model/model_parts.h"
#include "recover/trainables.h"
#include "recover/training_loss.h"
#include "recover/training_matrix.h"

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace espalier
{

// Windows of one length; shorter ones are filled up with any ids behind what they are, which no token of theirs sees.
struct TrainingBatch {
    std::vector<std::vector<int>> rows;
    std::vector<int> lengths = {};          // tokens of each that are its own; empty: all
    std::vector<std::vector<bool>> scored;  // per token, whether its prediction counts; empty: all but the first of a window
    std::optional<TeacherRows> teacher;     // of the scored rows, window after window; else the next token is the target
};

// Puts a window behind the others, filled up to their length, or fills up the others.
void addWindow(TrainingBatch& batch, const std::vector<int>& row, const std::vector<bool>& scored);

// How many tokens of a window count: what is scored stands behind something.
std::int64_t scoredTokens(const std::vector<int>& row, const std::vector<bool>& scored);

struct PassSettings {
    double weight = 1;            // of the loss of each scored row: 1 / rows of the whole step
    double temperature = 1;       // of a teacher
    double entropyWeight = 0;     // lambda; the mean entropy of the routers, over layers and tokens of the whole step
    std::int64_t stepTokens = 1;  // of the whole step, for that mean
    std::uint64_t dropoutSeed = 0;
    std::optional<int> topK = {};  // at most so many experts of a token; no fewer than the plan says, no more than the model
};

struct PassLoss {
    double sum = 0;      // of the task, over scored rows, unweighted
    double entropy = 0;  // mean over layers and tokens of the step, nats; where it is weighted
    // Which experts the tokens went to, as one number: losses of the same batch with the same selection are points of one smooth function,
    // and at any other selection there is a jump between them.
    std::uint64_t selection = 0;
};

// The reverse pass is stopped between layers: error cancelled.
class TrainingPass
{
public:
    // `trainables` may be null: losses and teachers only. Both outlive the pass.
    TrainingPass(ModelParts& model, const PreparedPlan& plan, Trainables* trainables);

    // Adds to the gradients. Errors: model.not_finite, model.token_out_of_range, checkpoint.*, cancelled.
    Result<PassLoss> gradients(const TrainingBatch& batch, const PassSettings& settings, const JobContext& job);
    // The loss alone, without dropout.
    Result<PassLoss> loss(const TrainingBatch& batch, const PassSettings& settings, const JobContext& job);
    // What this model says as a teacher about the scored rows of a window.
    Result<TeacherRows> teach(const TrainingBatch& batch, double temperature, const JobContext& job);

    // Layers whose tape is kept for so many tokens at once: within `bytes`.
    int keptLayers(std::int64_t tokens) const;
    void keepAtMost(std::int64_t bytes) { m_room = bytes; }

private:
    struct Forward;
    Result<Forward> forward(const TrainingBatch& batch, const PassSettings& settings, const JobContext& job, bool gradients);

    ModelParts& m_model;
    const PreparedPlan& m_plan;
    Trainables* m_trainables;
    std::vector<PlannedLayer> m_layers;  // with the router rows that are trained
    std::int64_t m_room;
    int m_moeLayers = 0;
};

}  // namespace espalier
