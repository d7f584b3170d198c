// What a plan is made by: which method fills each slot, and for how much. Read from options, from requests, and written into plan files.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "base/method_registry.h"
#include "plan/layer_plan.h"
#include "statistics/profile_data.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace espalier
{

struct ReceptiveFieldChoice {
    int sets = 3;       // K
    int blockSize = 3;  // T
};

// Everything a plan depends on besides model, profile and text.
struct PlanRecipe {
    std::optional<int> keepTotal;       // routed experts kept; or
    std::optional<std::int64_t> bytes;  // the largest plan that is not larger than this
    bool uniformCount = false;
    std::string score = "leave-one-out";
    std::string allocate = "importance";
    std::string select = "ranking";
    std::optional<ReceptiveFieldChoice> receptiveField;
    bool ranks = false;
    std::string rankRule = "moe-i2";
    std::optional<double> averageRank;     // ranks without either: autoAverageRank of the layer's shape
    std::optional<double> decomposeShare;  // in [0, 1)
    std::string factors;                   // "whitened-svd", "svd"; empty: whitened where the profile has bases
    std::optional<ConstantKind> dropped;   // dropped experts become constants of this kind; otherwise they go
    std::vector<int> dropLayers;           // decoder layers that are left out, and
    int dropSimilar = 0;                   // so many of those that change the hidden state least
    std::map<std::string, Params> params;  // by slot: score, allocate, select, rank
    std::uint64_t seed = 0;
    int threads = 0;

    Params paramsOf(const std::string& slot) const;
};

// Methods, parameters and target as they go into the plan file: no floating point numbers, so that equal plans are equal bytes.
Json toJson(const PlanRecipe& recipe);

// Before anything long begins: methods, their parameters, the target, K and T. Errors (usage), each naming what is wrong: method.unknown,
// method.bad_parameter, rank.bad_target, search.bad_option, usage.arguments.
Status checkRecipe(const PlanRecipe& recipe);
// Whether the profile has what the methods need. Error: profile.missing_statistics, with what to collect.
Status checkRecipeNeeds(const PlanRecipe& recipe, const ProfileData& profile);

}  // namespace espalier
