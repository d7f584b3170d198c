// What a profile says about factors of every rank: for the rank rules, and for people. No ATen here.
#pragma once

#include "allocate/rank_rule.h"
#include "base/error.h"
#include "rpc/protocol_profile.h"
#include "search/rank_budget.h"
#include "statistics/profile_data.h"

#include <memory>

namespace espalier
{

// Squared errors of all ranks of a profile with curves, weighted to the layer's output, as the rank rules take them. Null without curves.
std::shared_ptr<const RankCurves> rankCurvesOf(const ProfileData& profile);

// What each unit of rank saves by these curves; empty where there are none.
RankValue rankValueOf(std::shared_ptr<const RankCurves> curves);

// Error and singular values of one expert's matrices, whitened by its calibration tokens, at no more than 256 ranks each.
// An expert without tokens has empty lists.
// Errors: plan.unknown_layer, plan.unknown_expert, profile.missing_statistics.
Result<RankCurvesAnswer> rankCurves(const ProfileData& profile, int layer, int expert);

}  // namespace espalier
