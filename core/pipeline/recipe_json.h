// Recipes in plan files, which say in two of their fields how they were made (rpc/recipe_json.h).
#pragma once

#include "base/error.h"
#include "pipeline/plan_recipe.h"
#include "plan/compression_plan.h"
#include "rpc/recipe_json.h"

#include <filesystem>
#include <string>

namespace espalier
{

// A plan file, canonical: the plan with budget, methods and seed.
std::string planFileText(const CompressionPlan& plan, const PlanRecipe& recipe, const std::string& profileSha256);
// What a plan file says about how it was made, seed and factors included. Errors: plan.* of a file that cannot be read, recipe.missing
// (written by hand, or exported without), recipe.invalid.
Result<PlanRecipe> recipeOfPlanFile(const std::filesystem::path& path);

}  // namespace espalier
