// What the pipeline asks the engine for: which method fills each stage, and for how much. A value, and a part of the session's view state.
// Stages that are switched off keep their settings: the recipe of the request `plan` is what of it is on.
#pragma once

#include "base/json.h"
#include "base/method_registry.h"
#include "plan/model_shape.h"
#include "rpc/plan_recipe.h"

#include <QString>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

struct MethodChoice {
    std::string method;
    Params params;  // those that differ from the method's defaults may be missing
    bool operator==(const MethodChoice&) const = default;
};

struct PipelineRecipe {
    enum class Target { Experts, Bytes };
    enum class RankBudget { Automatic, Average, Share };

    Target target = Target::Experts;
    int experts = 0;         // routed experts kept over all layers
    std::int64_t bytes = 0;  // of the whole model
    bool uniformCount = false;
    MethodChoice score = {"leave-one-out", {}};
    MethodChoice allocate = {"importance", {}};
    MethodChoice select = {"genetic", {}};
    bool field = true;  // the receptive field
    int sets = 3;       // K: best sets of a layer that are tried
    int blockSize = 3;  // T: layers per block
    bool ranks = true;
    MethodChoice rule = {"moe-i2", {}};
    RankBudget rankBudget = RankBudget::Automatic;
    double averageRank = 64;
    double share = 0.25;  // of the expert parameters to decompose away, in [0, 1)
    std::string factors;  // method id; empty: the best that the profile allows
    bool recovers = true;
    MethodChoice recover = {"least-squares", {}};
    std::int64_t seed = 0;
    double minutes = 0;  // that "Find a plan for this size" may take; 0 = until nothing helps

    bool operator==(const PipelineRecipe&) const = default;
};

// As the engine takes it, without the stages that are off.
PlanRecipe planRecipe(const PipelineRecipe& recipe);
// Everything, for the session; what cannot be read stays as in `fallback`.
Json viewJson(const PipelineRecipe& recipe);
PipelineRecipe recipeFromViewJson(const Json& view, PipelineRecipe fallback);

enum class PipelinePreset { MoeI2, UniformReap, Verified };
// Methods and switches of the preset; target, seed and the settings of stages that are off stay.
PipelineRecipe withPreset(PipelineRecipe recipe, PipelinePreset preset);
std::optional<PipelinePreset> presetOf(const PipelineRecipe& recipe);

// What "Find a plan for this size" runs: the verified search with this recipe's target, switches of the target, seed and minutes. Ranks
// belong to its answer, so no rule is asked for.
PipelineRecipe findRecipe(const PipelineRecipe& recipe);

// "75.0 %" or "10.8 MiB".
QString targetText(const PipelineRecipe& recipe, const ModelShape& shape);
// Name of the history entry: "Genetic search, blocks of 3 layers", "Verified plan for 10.8 MiB".
QString recipeTitle(const PipelineRecipe& recipe, const std::vector<MethodInfo>& methods, const ModelShape& shape);
// What runs, in short: "Genetic search".
QString recipeName(const PipelineRecipe& recipe, const std::vector<MethodInfo>& methods);

const MethodInfo* findMethod(const std::vector<MethodInfo>& methods, Slot slot, const std::string& id);
// Of a parameter: as chosen, else the method's default; null without either.
Json paramOf(const MethodInfo* method, const MethodChoice& choice, const std::string& key);

}  // namespace espalier
