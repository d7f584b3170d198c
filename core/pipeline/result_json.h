// What the answers of the command line and of `serve` say of a profile and of measurements (values of base and plan: rpc/values_json.h).
// Pure functions, any thread.
#pragma once

#include "base/json.h"
#include "base/statistics.h"
#include "plan/compression_plan.h"
#include "plan/expert_grid.h"
#include "rpc/values_json.h"
#include "statistics/profile_data.h"

#include <map>
#include <string>
#include <vector>

namespace espalier
{

// By method, of every scorer that the collected statistics allow.
std::map<std::string, ExpertScores> allScores(const ProfileData& profile);
Json windowsJson(const std::vector<WindowLoss>& losses);
// Exact layer losses of the plan's kept sets from the Gram store: one entry per MoE layer.
Json gramLossesJson(const ProfileData& profile, const CompressionPlan& plan);

}  // namespace espalier
