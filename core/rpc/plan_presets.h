// Recipes with a name: what `compress --preset` and the window's choosers start from.
#pragma once

#include "base/error.h"
#include "rpc/plan_recipe.h"
#include "rpc/protocol.h"

#include <string>
#include <vector>

namespace espalier
{

struct PlanPreset {
    std::string id;
    std::string help;      // a few words
    PlanRecipe recipe;     // without a target
    double keepShare = 0;  // of the experts, where no target is given
};
ESPALIER_PROTOCOL_TYPE(PlanPreset);

// moe-i2: both stages of MoE-I2 (arXiv 2411.01016). verified: plans measured on the model. Both are mended by least squares.
const std::vector<PlanPreset>& planPresets();
// Error: usage.arguments.
Result<PlanPreset> planPreset(const std::string& id);

}  // namespace espalier
