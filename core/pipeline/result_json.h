// Values as the answers of the command line, the window's messages and the stages of a plan write them. Pure functions, any thread.
#pragma once

#include "base/json.h"
#include "base/statistics.h"
#include "plan/compression_plan.h"
#include "plan/cost_model.h"
#include "plan/expert_grid.h"
#include "statistics/profile_data.h"

#include <vector>

namespace espalier
{

// NaN and infinities become null.
Json numberJson(double value);
Json scoresJson(const ExpertScores& scores);  // method, title, unit, better, values, layer_importance
// {method: scoresJson} for every scorer that the collected statistics allow.
Json allScoresJson(const ProfileData& profile);
Json costJson(const PlanCost& cost, const PlanCost& dense);
Json windowsJson(const std::vector<WindowLoss>& losses, bool index);
Json differenceJson(const PairedDifference& difference);
// Exact layer losses of the plan's kept sets from the Gram store: one entry per MoE layer.
Json gramLossesJson(const ProfileData& profile, const CompressionPlan& plan);

}  // namespace espalier
