// The options that say how a plan is made, common to `plan` and `compress`, and the plan file they lead to.
#pragma once

#include "options.h"
#include "pipeline/make_plan.h"

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
    bool uniform = false;
    std::string dropped;
    std::vector<int> dropLayers;
    int dropSimilar = 0;
};
void addPlanMethodOptions(CLI::App* verb, PlanMethodOptions& options);

// Everything but the target. Errors: usage.arguments.
Result<PlanRecipe> recipeOf(const PlanMethodOptions& options, const Invocation& invocation);
// One of --prune, --keep and --size; all experts where layers are left out and none is given. Error: usage.arguments.
Status readTarget(const PlanMethodOptions& options, const ModelShape& shape, PlanRecipe& recipe);
Result<CompressionPlan> withLocksAndProtection(CompressionPlan plan, const ModelShape& shape, const PlanMethodOptions& options);

// espalier_plan.json with budget, methods and seed (core/plan/README.md), canonical.
std::string planFileText(const CompressionPlan& plan, const PlanRecipe& recipe, const std::string& profileSha256);

}  // namespace espalier
