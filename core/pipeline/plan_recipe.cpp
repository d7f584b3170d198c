#include "pipeline/plan_recipe.h"

#include "pipeline/drop_layers.h"
#include "pipeline/method_catalog.h"
#include "search/field_block.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace espalier
{

namespace
{

Error unknownMethod(const std::string& id, std::string_view slot)
{
    Error error = usageError({"There is no {slot} method \"{id}\".", {{"slot", slot}, {"id", id}}},
                             {"See `espalier-engine methods --slot {slot}`.", {{"slot", slot}}});
    error.code = "method.unknown";
    error.subject = id;
    return error;
}

// Empty: the default of a slot that may stay empty.
struct Chosen {
    Slot slot;
    std::string id;
    std::string setting;  // as parameters name it
};

// The chosen methods, in the order in which they run.
std::vector<Chosen> chosenOf(const PlanRecipe& recipe)
{
    std::vector<Chosen> chosen = {
        {Slot::Score, recipe.score, "score"}, {Slot::Allocate, recipe.allocate, "allocate"}, {Slot::Select, recipe.select, "select"}};
    if (recipe.ranks) chosen.push_back({Slot::RankRule, recipe.rankRule, "rank"});
    if (!recipe.factors.empty()) chosen.push_back({Slot::Factors, recipe.factors, "factors"});
    if (recipe.dropSimilar > 0) chosen.push_back({Slot::Layers, layerMethods().front().id, "layers"});
    if (!recipe.recover.empty()) chosen.push_back({Slot::Recover, recipe.recover, "recover"});
    if (!recipe.skip.empty()) chosen.push_back({Slot::Skip, recipe.skip, "skip"});
    return chosen;
}

const MethodInfo* allocatorOf(const PlanRecipe& recipe) { return findMethod(Slot::Allocate, recipe.allocate); }

}  // namespace

bool runsModel(const PlanRecipe& recipe)
{
    if (recipe.receptiveField) return true;
    for (const Chosen& choice : chosenOf(recipe))
        if (const MethodInfo* method = findMethod(choice.slot, choice.id); method && method->runsModel) return true;
    return false;
}

bool needsCurves(const PlanRecipe& recipe)
{
    const MethodInfo* allocator = allocatorOf(recipe);
    return allocator && allocator->needsCurves;
}

bool choosesRanks(const PlanRecipe& recipe)
{
    const MethodInfo* allocator = allocatorOf(recipe);
    return allocator && allocator->answersFor(Answer::Ranks);
}

bool measuresRanks(const PlanRecipe& recipe)
{
    const MethodInfo* allocator = allocatorOf(recipe);
    return allocator && allocator->runsModel && allocator->answersFor(Answer::Ranks);
}

bool solvesJointly(const PlanRecipe& recipe)
{
    const MethodInfo* allocator = allocatorOf(recipe);
    return allocator && recipe.ranks &&
           std::find(allocator->solvesWith.begin(), allocator->solvesWith.end(), recipe.rankRule) != allocator->solvesWith.end();
}

Status checkRecipe(const PlanRecipe& recipe)
{
    for (const Chosen& choice : chosenOf(recipe)) {
        const MethodInfo* method = findMethod(choice.slot, choice.id);
        if (!method) return unknownMethod(choice.id, slotName(choice.slot));
        ESPALIER_TRY([[maybe_unused]] const Params checked, checkParams(*method, recipe.paramsOf(choice.setting)));
    }
    if (recipe.averageRank && recipe.decomposeShare) {
        Error error = usageError("An average rank and a share to remove were both given.", "Give one of them.");
        error.code = "rank.bad_target";
        error.subject = "rank";
        return error;
    }
    if (recipe.receptiveField) {
        ReceptiveFieldOptions options;
        options.sets = recipe.receptiveField->sets;
        options.blockSize = recipe.receptiveField->blockSize;
        ESPALIER_CHECK_OK(checkFieldOptions(options));
    }
    if (recipe.bounds.multipleOf < 1)
        return usageError({"Counts cannot be multiples of {multiple_of}.", {{"multiple_of", recipe.bounds.multipleOf}}},
                          "Choose at least 1.");
    if (recipe.dropped && recipe.bytes && (solvesJointly(recipe) || choosesRanks(recipe)))
        return usageError("Constants cannot take part in a search for counts and ranks at one size.",
                          "Give a number of experts (--keep, --prune), or choose counts by another method.");
    if (!recipe.keepTotal && !recipe.bytes) return usageError("A target is needed: a number of experts or a size.");
    return {};
}

Status checkRecipeNeeds(const PlanRecipe& recipe, const ProfileData& profile)
{
    const auto missing = [](const std::string& need, const std::string& setting, const std::string& id) {
        return badInput("profile.missing_statistics", need,
                        {"The profile was taken without \"{need}\", which the {setting} method \"{id}\" needs.",
                         {{"need", need}, {"setting", setting}, {"id", id}}},
                        {"Take the profile with --collect +{need}.", {{"need", need}}});
    };
    for (const Chosen& choice : chosenOf(recipe)) {
        // Without ranks no factors are made.
        if (choice.slot == Slot::Factors && !recipe.ranks) continue;
        const MethodInfo* method = findMethod(choice.slot, choice.id);
        if (!method) return unknownMethod(choice.id, slotName(choice.slot));
        for (const std::string& need : method->needs)
            // The model is at hand: its weights are no statistic.
            if (need != "weights" && !profile.has(need)) return missing(need, choice.setting, method->id);
    }
    if (recipe.dropped && !profile.has("outputs")) return missing("outputs", "dropped", "constant");
    return {};
}

}  // namespace espalier
