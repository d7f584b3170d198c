// A recipe as JSON: in plan files, and in the request `plan`. Pure functions, any thread.
//
// A plan file says how it was made in two of its fields; numbers that are no integers are text there, so that equal plans are equal bytes:
//   "budget"           {"experts": n} or {"bytes": n}
//   "method_settings"  {"score": {"method", "parameters"}, "allocate": {.., "uniform", "floor", "cap", "multiple_of"}, "select": {..},
//                      "rank": {.., "average", "share"}, "receptive_field": {"sets", "block_size"}, "dropped", "drop_layers",
//                      "drop_similar_layers", "recover": {..}, "skip": {..}}
// with stages that were off left out. A request has "target" and "params" instead, numbers as numbers, and stages that are off null or
// absent.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "rpc/plan_recipe.h"
#include "rpc/request_params.h"

namespace espalier
{

// The settings, with the budget beside them.
Json toJson(const PlanRecipe& recipe);
// Back from what toJson wrote. Error: recipe.invalid (a field that is not known, or of the wrong type).
Result<PlanRecipe> recipeFromJson(const Json& settings);

// The object "recipe" of a request; what is wrong with it is remembered in `recipe`.
PlanRecipe recipeFromRequest(RequestParams recipe);
Json requestJson(const PlanRecipe& recipe);

}  // namespace espalier
