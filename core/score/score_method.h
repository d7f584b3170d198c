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

class ExpertWeights;

struct ScoreMethod {
    MethodInfo info;
    Better better = Better::Higher;
    std::function<std::string(const Params&)> unit;
    // One value per expert of a MoE layer. What info.needs names is there, params are checked and complete. A score reads the statistics
    // (row), or the weights where it needs "weights" (fromWeights): one of the two is set.
    std::function<std::vector<double>(const LayerProfile&, const RouterShape&, const Params&)> row;
    std::function<Result<std::vector<double>>(const LayerShape&, const ExpertWeights&, const Params&)> fromWeights;
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

// sum / count per expert, 0 for an expert that was never routed.
std::vector<double> meanPerToken(const std::vector<double>& sum, const std::vector<std::int64_t>& count);

// The parameter "weights" of the scores that multiply with the routing weight, and the sum it chooses.
ParamSpec weightsParameter(const char* fallback);
const std::vector<double>& chosenWeights(const Params& params, const std::vector<double>& raw, const std::vector<double>& renormalised,
                                         const std::vector<double>& applied);

}  // namespace espalier
