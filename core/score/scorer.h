// Slot S: how much does each routed expert matter? Scores are computed from a profile, or from the weights (core/score/README.md).
// A new scorer is one file in this folder and one line in scorer.cpp.
#pragma once

#include "base/error.h"
#include "base/method_registry.h"
#include "plan/expert_grid.h"
#include "statistics/profile_data.h"

#include <string>
#include <vector>

namespace espalier
{

class ExpertMatrices;

// In the order in which choosers show them.
const std::vector<MethodInfo>& scorers();

// Values for all layers; rows of dense layers are empty. An expert that was never routed scores 0 where the score is a mean over its
// tokens (see profileWarnings). layerImportance is filled by leave-one-out only: sum over the experts (MoE-I2, eq. 2).
// `weights`: of the same model, for methods that need "weights"; may be null.
// Errors: method.unknown, method.bad_parameter (Usage), profile.missing_statistics (the profile was taken without them),
// score.no_weights (Usage), those of reading weights.
Result<ExpertScores> score(const ProfileData& profile, const std::string& method, const Params& params = {},
                           const ExpertMatrices* weights = nullptr);

// Values of single channels [layer][expert][channel of its intermediate width], rows of dense layers empty; higher is better. score() has
// their sums. Errors: as score(); score.no_channels (Usage) for methods that value whole experts.
using ChannelScores = std::vector<std::vector<std::vector<double>>>;
Result<ChannelScores> channelScores(const ProfileData& profile, const std::string& method, const Params& params = {},
                                    const ExpertMatrices* weights = nullptr);

// Of a method that reads the weights alone: no profile is needed. Rows of layers without experts are empty.
// Errors: method.unknown, method.bad_parameter, score.reads_profile (Usage), those of reading weights.
Result<ExpertScores> scoreWeights(const ModelShape& shape, const std::string& method, const Params& params, const ExpertMatrices& weights);

// The same for one layer, for rows that are shown while the pass still runs.
Result<std::vector<double>> scoreLayer(const LayerProfile& layer, const RouterShape& router, const std::string& method,
                                       const Params& params = {});

// For people: experts never routed, by layer; tokens whose leave-one-out loss is a charge.
std::vector<std::string> profileWarnings(const ProfileData& profile);

// The part of the sampled tokens that has fewer than top-k experts left in its list when in every layer the quarter of the experts
// with the lowest leave-one-out importance is removed: how far the store reaches for an ordinary plan. 0 without a store.
double uncoveredFraction(const ProfileData& profile);

}  // namespace espalier
