// What the methods that a recipe names can, and whether it can be carried out.
#pragma once

#include "base/error.h"
#include "rpc/plan_recipe.h"
#include "statistics/profile_data.h"

namespace espalier
{

// What the chosen methods can. False for methods that are not known: checkRecipe says which.
bool runsModel(const PlanRecipe& recipe);    // needs the model and the calibration text
bool needsCurves(const PlanRecipe& recipe);  // of what each layer loses at every count
bool choosesRanks(
    const PlanRecipe& recipe);  // the allocator decides ranks along with counts where a size is the target and no rule is asked for
// The allocator measures plans with ranks of its own: the model needs the profile's factors.
bool measuresRanks(const PlanRecipe& recipe);
// Allocator and rank rule take one decision over counts and ranks, for a size.
bool solvesJointly(const PlanRecipe& recipe);

// Before anything long begins: methods, their parameters, the target, K and T. Errors (usage), each naming what is wrong: method.unknown,
// method.bad_parameter, rank.bad_target, search.bad_option, usage.arguments.
Status checkRecipe(const PlanRecipe& recipe);
// Whether the profile has what the methods need. Error: profile.missing_statistics, with what to collect.
Status checkRecipeNeeds(const PlanRecipe& recipe, const ProfileData& profile);

}  // namespace espalier
