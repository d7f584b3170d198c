#include "pipeline/recipe_json.h"

#include <fmt/format.h>

namespace espalier
{

std::string planFileText(const CompressionPlan& plan, const PlanRecipe& recipe, const std::string& profileSha256)
{
    Json settings = toJson(recipe);
    Json file = toJson(plan);
    file["budget"] = settings["budget"];
    settings.erase("budget");
    settings["profile_sha256"] = profileSha256;
    file["method_settings"] = std::move(settings);
    file["seed"] = recipe.seed;
    return canonicalJson(file);
}

Result<PlanRecipe> recipeOfPlanFile(const std::filesystem::path& path)
{
    ESPALIER_TRY(const Json file, readJsonFile(path, "plan"));
    const auto settings = file.is_object() ? file.find("method_settings") : file.end();
    if (!file.is_object() || settings == file.end() || !settings->is_object())
        return badInput("recipe.missing", path.string(), {"{path} does not say how the plan was made.", {{"path", path.string()}}},
                        "Give a plan that `plan` or `compress` has written.");
    Json recipe = *settings;
    recipe.erase("profile_sha256");
    if (file.contains("budget")) recipe["budget"] = file["budget"];
    ESPALIER_TRY(PlanRecipe read, recipeFromJson(recipe));
    if (const Json seed = file.value("seed", Json()); seed.is_number_unsigned()) read.seed = seed.get<std::uint64_t>();
    const Json factors = file.value("factors", Json());
    if (read.ranks && factors.is_object() && factors.value("method", Json()).is_string()) read.factors = factors["method"];
    return read;
}

}  // namespace espalier
