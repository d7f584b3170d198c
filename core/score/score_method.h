// What one scorer consists of. Each file of this folder that implements one declares its function below and has its line in
// scorer.cpp.
#pragma once

#include "base/error.h"
#include "base/method_registry.h"
#include "plan/expert_grid.h"
#include "statistics/profile_data.h"

#include <functional>
#include <string>
#include <vector>

namespace espalier
{

class ExpertMatrices;

// What a score of one layer is computed from. `profile` and `weights` are there where info.needs names statistics or "weights".
struct ScoreInput {
    const LayerShape& shape;
    const Params& params;
    const LayerProfile* profile = nullptr;
    const ExpertMatrices* weights = nullptr;
};

struct ScoreMethod {
    MethodInfo info;
    Better better = Better::Higher;
    std::function<std::string(const Params&)> unit;
    // Of a MoE layer; what info.needs names is there, params are checked and complete. One of the three is set: `row`, one value per
    // expert from the statistics alone, which is shown while the pass still runs; `experts`, one per expert from weights or both;
    // `channels`, one per expert and channel of its intermediate width, whose sum is the expert's score.
    std::function<std::vector<double>(const LayerProfile&, const RouterShape&, const Params&)> row;
    std::function<Result<std::vector<double>>(const ScoreInput&)> experts;
    std::function<Result<std::vector<std::vector<double>>>(const ScoreInput&)> channels;
    bool sumIsLayerImportance = false;
};

ScoreMethod leaveOneOutMethod();
ScoreMethod expertFrequencyMethod();
ScoreMethod softCountMethod();
ScoreMethod routedSoftCountMethod();
ScoreMethod eanSumMethod();
ScoreMethod eanMeanMethod();
ScoreMethod msanMethod();
ScoreMethod weightedEanSumMethod();
ScoreMethod reapMethod();
ScoreMethod maxActivationMethod();
ScoreMethod moneMethod();
ScoreMethod aimerMethod();
ScoreMethod cameraMethod();

// sum / count per expert, 0 for an expert that was never routed.
std::vector<double> meanPerToken(const std::vector<double>& sum, const std::vector<std::int64_t>& count);

// The parameter "weights" of the scores that multiply with the routing weight, and the sum it chooses.
ParamSpec weightsParameter(const char* fallback);
const std::vector<double>& chosenWeights(const Params& params, const std::vector<double>& raw, const std::vector<double>& renormalised,
                                         const std::vector<double>& applied);

}  // namespace espalier
