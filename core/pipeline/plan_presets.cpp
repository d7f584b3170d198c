#include "pipeline/plan_presets.h"

#include <fmt/format.h>

namespace espalier
{

const std::vector<PlanPreset>& planPresets()
{
    static const std::vector<PlanPreset> presets = [] {
        PlanRecipe moeI2;
        moeI2.allocate = "importance";
        moeI2.select = "genetic";
        moeI2.receptiveField = ReceptiveFieldChoice{3, 3};
        moeI2.ranks = true;
        PlanRecipe verified;
        verified.allocate = "verified";
        verified.select = "genetic";
        return std::vector<PlanPreset>{{"moe-i2", "both stages, the default", moeI2, 0.75},
                                       {"verified", "plans measured on the model; ranks with --size", verified, 0.75}};
    }();
    return presets;
}

Result<PlanPreset> planPreset(const std::string& id)
{
    std::string known;
    for (const PlanPreset& preset : planPresets()) {
        if (preset.id == id) return preset;
        known += (known.empty() ? "" : ", ") + preset.id;
    }
    return usageError(fmt::format("There is no preset \"{}\".", id), fmt::format("Presets: {}.", known));
}

}  // namespace espalier
