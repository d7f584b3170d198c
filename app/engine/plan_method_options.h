// The options that say how a plan is made, common to `plan` and `compress`.
#pragma once

#include "options.h"
#include "pipeline/plan_recipe.h"
#include "plan/compression_plan.h"

#include <filesystem>
#include <string>
#include <vector>

namespace espalier
{

// As given; empty = not given.
struct PlanMethodOptions {
    std::string prune;
    std::string keep;
    std::string size;
    std::string allocate;
    std::string score;
    std::string select;
    std::string receptiveField;
    std::string rankAverage;
    std::string decompose;
    std::string rankRule;
    std::string factors;
    std::vector<int> lock;
    std::vector<std::string> protect;
    std::vector<std::string> params;
    std::vector<std::string> floors;
    std::vector<std::string> caps;
    int multipleOf = 0;
    std::vector<std::string> topK;
    std::filesystem::path recipe;  // a plan file
    bool uniform = false;
    std::string dropped;
    std::vector<int> dropLayers;
    int dropSimilar = 0;
    std::string recover;  // method id, or "none"
    std::string skip;
};
void addPlanMethodOptions(CLI::App* verb, PlanMethodOptions& options);

// Everything but the target, on top of `start`: a preset's recipe, or the defaults. Errors: usage.arguments, those of recipeOfPlanFile.
Result<PlanRecipe> recipeOf(const PlanMethodOptions& options, const Invocation& invocation, PlanRecipe start);
// One of --prune, --keep and --size; none where the recipe has a target; all experts where layers are left out or fewer are picked and none
// is given. Error: usage.arguments.
Status readTarget(const PlanMethodOptions& options, const ModelShape& shape, PlanRecipe& recipe);
// What the start of a plan says beyond its own: experts that routers pick, locks, protection.
Result<CompressionPlan> withLocksAndProtection(CompressionPlan plan, const ModelShape& shape, const PlanMethodOptions& options);

}  // namespace espalier
