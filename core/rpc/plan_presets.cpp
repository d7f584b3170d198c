#include "rpc/plan_presets.h"

#include "rpc/fields.h"
#include "rpc/recipe_json.h"

#include <fmt/format.h>

namespace espalier
{

template <typename Fields, Is<PlanPreset> Message>
void fields(Fields& f, Message& m)
{
    f.required("id", m.id);
    f.required("help", m.help);
    f.required("keep_share", m.keepShare);
    // As in a request, without the target, which is not the preset's.
    Json recipe = Fields::kReads ? Json() : requestJson(m.recipe);
    if (recipe.is_object()) recipe.erase("target");
    f.required("recipe", recipe);
    if constexpr (Fields::kReads) {
        if (recipe.is_object()) recipe["target"] = {{"experts", 0}};
        const Json request = {{"recipe", std::move(recipe)}};
        FieldReader reader(request);
        m.recipe = recipeFromRequest(reader.object("recipe", true));
        m.recipe.keepTotal.reset();
        if (const Status status = reader.status(); !status.ok()) f.failWith("", status.error());
    }
}
ESPALIER_PROTOCOL_JSON(PlanPreset);

const std::vector<PlanPreset>& planPresets()
{
    static const std::vector<PlanPreset> presets = [] {
        PlanRecipe moeI2;
        moeI2.allocate = "importance";
        moeI2.select = "genetic";
        moeI2.receptiveField = ReceptiveFieldChoice{3, 3};
        moeI2.ranks = true;
        moeI2.recover = "least-squares";
        PlanRecipe verified;
        verified.allocate = "verified";
        verified.select = "genetic";
        verified.recover = "least-squares";
        return std::vector<PlanPreset>{{"moe-i2", "both stages, mended by least squares, the default", moeI2, 0.75},
                                       {"verified", "plans measured on the model, mended by least squares; ranks with --size", verified, 0.75}};
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
    return usageError({"There is no preset \"{id}\".", {{"id", id}}}, {"Presets: {known}.", {{"known", known}}});
}

}  // namespace espalier
