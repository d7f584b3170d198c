#include "pipeline/plan_recipe.h"

#include "allocate/allocator.h"
#include "allocate/rank_rule.h"
#include "score/scorer.h"
#include "search/field_block.h"
#include "search/plan_search.h"
#include "search/selector.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace espalier
{

namespace
{

Error unknownMethod(const std::string& id, std::string_view slot)
{
    Error error =
        usageError(fmt::format("There is no {} method \"{}\".", slot, id), fmt::format("See `espalier-engine methods --slot {}`.", slot));
    error.code = "method.unknown";
    error.subject = id;
    return error;
}

Json settingsJson(const PlanRecipe& recipe, const std::string& slot)
{
    Json json = Json::object();
    for (const auto& [key, value] : recipe.paramsOf(slot))
        json[key] = value.is_number_float() ? Json(value.dump()) : value;
    return json;
}

// The chosen methods, in the order in which they run.
Result<std::vector<std::pair<MethodInfo, std::string>>> methodsOf(const PlanRecipe& recipe)
{
    std::vector<MethodInfo> allocate = allocators();
    allocate.push_back(verifiedInfo());
    struct Chosen {
        const std::vector<MethodInfo>& known;
        const std::string& id;
        std::string slot;     // as `methods` lists it
        std::string setting;  // as parameters name it
    };
    std::vector<Chosen> chosen = {{scorers(), recipe.score, "score", "score"},
                                  {allocate, recipe.allocate, "allocate", "allocate"},
                                  {selectorMethods(), recipe.select, "select", "select"}};
    if (recipe.ranks) chosen.push_back({rankRules(), recipe.rankRule, "rank-rule", "rank"});
    std::vector<std::pair<MethodInfo, std::string>> methods;
    for (const Chosen& choice : chosen) {
        const auto it =
            std::find_if(choice.known.begin(), choice.known.end(), [&](const MethodInfo& method) { return method.id == choice.id; });
        if (it == choice.known.end()) return unknownMethod(choice.id, choice.slot);
        methods.emplace_back(*it, choice.setting);
    }
    return methods;
}

}  // namespace

Params PlanRecipe::paramsOf(const std::string& slot) const
{
    const auto it = params.find(slot);
    return it == params.end() ? Params() : it->second;
}

Json toJson(const PlanRecipe& recipe)
{
    Json json = {
        {"allocate", {{"method", recipe.allocate}, {"parameters", settingsJson(recipe, "allocate")}, {"uniform", recipe.uniformCount}}},
        {"score", {{"method", recipe.score}, {"parameters", settingsJson(recipe, "score")}}},
        {"select", {{"method", recipe.select}, {"parameters", settingsJson(recipe, "select")}}}};
    json["budget"] = recipe.bytes ? Json{{"bytes", *recipe.bytes}} : Json{{"experts", recipe.keepTotal.value_or(0)}};
    if (recipe.receptiveField)
        json["receptive_field"] = {{"sets", recipe.receptiveField->sets}, {"block_size", recipe.receptiveField->blockSize}};
    if (recipe.dropped) json["dropped"] = *recipe.dropped == ConstantKind::Mean ? "constant" : "weighted-constant";
    if (!recipe.dropLayers.empty()) json["drop_layers"] = recipe.dropLayers;
    if (recipe.dropSimilar > 0) json["drop_similar_layers"] = recipe.dropSimilar;
    if (recipe.ranks) {
        Json rank = {{"method", recipe.rankRule}, {"parameters", settingsJson(recipe, "rank")}};
        rank["average"] = recipe.averageRank ? Json(fmt::format("{}", *recipe.averageRank)) : Json("auto");
        if (recipe.decomposeShare) {
            rank["average"] = nullptr;
            rank["share"] = fmt::format("{}", *recipe.decomposeShare);
        }
        json["rank"] = std::move(rank);
    }
    return json;
}

Status checkRecipe(const PlanRecipe& recipe)
{
    ESPALIER_TRY(const auto methods, methodsOf(recipe));
    for (const auto& [method, setting] : methods) {
        ESPALIER_TRY([[maybe_unused]] const Params checked, checkParams(method, recipe.paramsOf(setting)));
    }
    if (!recipe.factors.empty() && recipe.factors != "svd" && recipe.factors != "whitened-svd")
        return unknownMethod(recipe.factors, "factors");
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
    const bool joint = recipe.allocate == "exact" && recipe.ranks && recipe.rankRule == "exact";
    if (recipe.dropped && recipe.bytes && (joint || recipe.allocate == "verified"))
        return usageError("Constants cannot take part in a search for counts and ranks at one size.",
                          "Give a number of experts (--keep, --prune), or choose counts by another method.");
    if (!recipe.keepTotal && !recipe.bytes) return usageError("A target is needed: a number of experts or a size.");
    return {};
}

Status checkRecipeNeeds(const PlanRecipe& recipe, const ProfileData& profile)
{
    ESPALIER_TRY(auto methods, methodsOf(recipe));
    if (recipe.ranks && recipe.factors == "whitened-svd") {
        MethodInfo whitened;
        whitened.id = recipe.factors;
        whitened.needs = {"factors"};
        methods.emplace_back(std::move(whitened), "factors");
    }
    if (recipe.dropped) {
        MethodInfo constants;
        constants.id = "constant";
        constants.needs = {"outputs"};
        methods.emplace_back(std::move(constants), "dropped");
    }
    for (const auto& [method, setting] : methods)
        for (const std::string& need : method.needs)
            if (need != "weights" && !profile.has(need))  // the model is at hand
                return badInput(
                    "profile.missing_statistics", need,
                    fmt::format("The profile was taken without \"{}\", which the {} method \"{}\" needs.", need, setting, method.id),
                    fmt::format("Take the profile with --collect +{}.", need));
    return {};
}

}  // namespace espalier
