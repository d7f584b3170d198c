// Recipes: as JSON, as presets, and what their methods can.
#include "pipeline/method_catalog.h"
#include "pipeline/recipe_json.h"
#include "rpc/plan_presets.h"

#include "base/atomic_file.h"
#include "core/shapes.h"
#include "plan/factor_methods.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <set>

namespace espalier
{
namespace
{

PlanRecipe everything()
{
    PlanRecipe recipe;
    recipe.bytes = 123'456'789;
    recipe.uniformCount = true;
    recipe.bounds.least = {{CountBounds::kAllLayers, 4}, {3, 8}};
    recipe.bounds.most = {{2, 12}};
    recipe.bounds.multipleOf = 2;
    recipe.score = "reap";
    recipe.allocate = "importance";
    recipe.select = "genetic";
    recipe.receptiveField = ReceptiveFieldChoice{2, 4};
    recipe.ranks = true;
    recipe.rankRule = "moe-i2";
    recipe.averageRank = 96.5;
    recipe.factors = "svd";
    recipe.dropped = ConstantKind::Weighted;
    recipe.dropLayers = {1, 5};
    recipe.dropSimilar = 2;
    recipe.params = {{"allocate", {{"alpha", 0.3}}},
                     {"score", {{"weights", "raw"}}},
                     {"select", {{"population", 40}, {"mutation", 0.1}, {"swap", true}}},
                     {"rank", {{"alpha", 1e-3}}}};
    recipe.seed = 77;
    return recipe;
}

void expectSame(const PlanRecipe& a, const PlanRecipe& b)
{
    EXPECT_EQ(requestJson(a), requestJson(b));
    EXPECT_EQ(toJson(a), toJson(b));
    EXPECT_EQ(a.params, b.params);
    EXPECT_EQ(a.bounds, b.bounds);
}

TEST(PlanRecipe, ComesBackFromWhatPlanFilesSay)
{
    PlanRecipe recipe = everything();
    auto read = recipeFromJson(toJson(recipe));
    ASSERT_TRUE(read.ok()) << read.error().describe();
    read->factors = recipe.factors;  // beside the settings in a plan file
    read->seed = recipe.seed;
    expectSame(*read, recipe);
    recipe.averageRank.reset();
    recipe.decomposeShare = 0.37;
    recipe.bytes.reset();
    recipe.keepTotal = 40;
    read = recipeFromJson(toJson(recipe));
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(read->decomposeShare, 0.37);
    EXPECT_FALSE(read->averageRank);
    EXPECT_EQ(read->keepTotal, 40);
    recipe.ranks = false;
    recipe.receptiveField.reset();
    read = recipeFromJson(toJson(recipe));
    ASSERT_TRUE(read.ok());
    EXPECT_FALSE(read->ranks);
    EXPECT_FALSE(read->receptiveField);
}

TEST(PlanRecipe, HasNoFloatingPointNumbersInPlanFiles)
{
    const std::function<void(const Json&)> look = [&](const Json& value) {
        EXPECT_FALSE(value.is_number_float()) << value;
        if (value.is_structured())
            for (const Json& item : value)
                look(item);
    };
    look(toJson(everything()));
}

TEST(PlanRecipe, WhatIsNotKnownIsRefusedByName)
{
    const Json good = toJson(everything());
    const auto codeOf = [](const Json& json) {
        const auto read = recipeFromJson(json);
        return read.ok() ? std::string() : read.error().subject;
    };
    EXPECT_EQ(codeOf(good), "");
    Json json = good;
    json["constants"] = {{"method", "mone"}};
    EXPECT_EQ(codeOf(json), "recipe.constants");
    json = good;
    json["select"]["speed"] = 3;
    EXPECT_EQ(codeOf(json), "select.speed");
    json = good;
    json["allocate"]["floor"] = {{"three", 3}};
    EXPECT_EQ(codeOf(json), "allocate.floor.three");
    json = good;
    json["rank"]["average"] = "many";
    EXPECT_EQ(codeOf(json), "rank.average");
    json = good;
    json["budget"] = {{"experts", 3}, {"bytes", 4}};
    EXPECT_EQ(codeOf(json), "budget");
    json = good;
    json["score"] = {{"parameters", Json::object()}};
    EXPECT_EQ(codeOf(json), "score.method");
    EXPECT_EQ(codeOf(Json::array()), "recipe");
}

TEST(PlanRecipe, ComesBackFromARequest)
{
    const PlanRecipe recipe = everything();
    const Json params = {{"recipe", requestJson(recipe)}};
    RequestParams request(params);
    const PlanRecipe read = recipeFromRequest(request.object("recipe", true));
    EXPECT_EQ(request.problem(), "");
    expectSame(read, recipe);
    EXPECT_EQ(read.factors, recipe.factors);
    EXPECT_EQ(read.seed, recipe.seed);
}

TEST(PlanRecipe, ARequestSaysWhatIsWrongWithIt)
{
    const auto problem = [](Json recipe) {
        const Json params = {{"recipe", std::move(recipe)}};
        RequestParams request(params);
        (void)recipeFromRequest(request.object("recipe", true));
        return request.problem();
    };
    const Json target = {{"experts", 4}};
    EXPECT_EQ(problem({{"target", target}}), "");
    EXPECT_EQ(problem(Json::object()), "\"recipe.target\" is missing.");
    EXPECT_EQ(problem({{"target", {{"experts", 4}, {"bytes", 4}}}}), "\"recipe.target\" is neither {\"experts\": n} nor {\"bytes\": n}.");
    EXPECT_EQ(problem({{"target", target}, {"rank", {{"average", 0.5}}}}), "\"recipe.rank.average\" is below 1.");
    EXPECT_EQ(problem({{"target", target}, {"floor", {{"x", 1}}}}), "\"recipe.floor\" is not an object of layers (or \"all\") and counts.");
    EXPECT_EQ(problem({{"target", target}, {"select", {{"method", 3}}}}), "\"recipe.select.method\" must be a string.");
}

TEST(PlanRecipe, IsReadFromAPlanFile)
{
    const ModelShape shape = test::evenShape(4, 16, 4);
    const PlanRecipe recipe = everything();
    const auto path = std::filesystem::path(testing::TempDir()) / "recipe_of_plan.json";
    CompressionPlan plan = CompressionPlan::identity(shape);
    plan = *plan.withFactors({"svd", {}}).withRanks(shape, 0, std::vector<RankTriple>(16, RankTriple{8, 8, 8}));
    ASSERT_TRUE(writeFileAtomically(path, planFileText(plan, recipe, "profile")).ok());
    const auto read = recipeOfPlanFile(path);
    ASSERT_TRUE(read.ok()) << read.error().describe();
    expectSame(*read, recipe);
    ASSERT_TRUE(writeFileAtomically(path, canonicalJson(toJson(plan))).ok());
    EXPECT_EQ(recipeOfPlanFile(path).error().code, "recipe.missing");
    std::filesystem::remove(path);
    EXPECT_EQ(recipeOfPlanFile(path).error().code, "plan.missing");
}

TEST(PlanRecipe, SaysWhatItsMethodsCan)
{
    PlanRecipe recipe;
    recipe.keepTotal = 10;
    EXPECT_FALSE(runsModel(recipe) || needsCurves(recipe) || choosesRanks(recipe) || measuresRanks(recipe) || solvesJointly(recipe));
    recipe.receptiveField = ReceptiveFieldChoice{};
    EXPECT_TRUE(runsModel(recipe));
    recipe.receptiveField.reset();
    recipe.allocate = "verified";
    EXPECT_TRUE(runsModel(recipe) && needsCurves(recipe) && choosesRanks(recipe) && measuresRanks(recipe));
    recipe.allocate = "exact";
    EXPECT_TRUE(needsCurves(recipe) && !runsModel(recipe) && !choosesRanks(recipe));
    recipe.rankRule = "exact";
    EXPECT_FALSE(solvesJointly(recipe)) << "no ranks are asked for";
    recipe.ranks = true;
    EXPECT_TRUE(solvesJointly(recipe));
    recipe.rankRule = "moe-i2";
    EXPECT_FALSE(solvesJointly(recipe));
}

TEST(PlanRecipe, ChecksMethodsOfEverySlot)
{
    PlanRecipe good;
    good.keepTotal = 10;
    good.ranks = true;
    EXPECT_TRUE(checkRecipe(good).ok());
    for (std::string PlanRecipe::*slot : {&PlanRecipe::score, &PlanRecipe::allocate, &PlanRecipe::select, &PlanRecipe::rankRule,
                                          &PlanRecipe::factors, &PlanRecipe::recover, &PlanRecipe::skip}) {
        PlanRecipe recipe = good;
        recipe.*slot = "no such method";
        EXPECT_EQ(checkRecipe(recipe).error().code, "method.unknown");
        EXPECT_EQ(checkRecipe(recipe).error().subject, "no such method");
    }
    PlanRecipe recipe = good;
    recipe.params["select"]["population"] = 40;  // of another selector
    EXPECT_EQ(checkRecipe(recipe).error().code, "method.bad_parameter");
    recipe = good;
    recipe.bounds.multipleOf = 0;
    EXPECT_EQ(checkRecipe(recipe).error().code, "usage.arguments");
    recipe = good;
    recipe.keepTotal.reset();
    EXPECT_FALSE(checkRecipe(recipe).ok());
}

TEST(MethodCatalog, EverySlotIsListedAndEveryEntrySurvivesJson)
{
    EXPECT_EQ(allSlots().size(), 8u);
    std::set<std::string> names;
    for (const Slot slot : allSlots())
        names.insert(std::string(slotName(slot)));
    EXPECT_EQ(names, (std::set<std::string>{"score", "allocate", "select", "factors", "rank-rule", "layers", "recover", "skip"}));
    EXPECT_EQ(methodsOf(Slot::Skip).size(), 2u);
    EXPECT_EQ(methodsOf(Slot::Recover).front().id, "least-squares");
    for (const MethodInfo& method : allMethods()) {
        EXPECT_EQ(findMethod(method.slot, method.id)->title, method.title);
        const auto read = methodFromJson(toJson(method));
        ASSERT_TRUE(read.ok());
        EXPECT_EQ(toJson(*read), toJson(method));
        EXPECT_TRUE(method.slot == Slot::Score || !method.answers.empty()) << method.id;
    }
    EXPECT_EQ(findMethod(Slot::Allocate, "reap"), nullptr);
}

TEST(FactorMethods, AreChosenByWhatTheProfileHolds)
{
    EXPECT_EQ(bestFactorMethod(true), "whitened-svd");
    EXPECT_EQ(bestFactorMethod(false), "svd");
    EXPECT_TRUE(factorsNeedProfile(FactorSettings{"whitened-svd", "x"}));
    EXPECT_FALSE(factorsNeedProfile(FactorSettings{"svd", {}}));
    EXPECT_FALSE(factorsNeedProfile(FactorSettings{}));
    EXPECT_FALSE(factorsNeedProfile(CompressionPlan::identity(test::evenShape(2, 8, 2)).withFactors({"whitened-svd", "x"})));
}

TEST(PlanPresets, AreWholeRecipes)
{
    for (const PlanPreset& preset : planPresets()) {
        PlanRecipe recipe = preset.recipe;
        EXPECT_FALSE(recipe.keepTotal || recipe.bytes) << preset.id;
        recipe.keepTotal = 10;
        EXPECT_TRUE(checkRecipe(recipe).ok()) << preset.id;
        EXPECT_EQ(preset.keepShare, 0.75);
    }
    const PlanRecipe paper = planPreset("moe-i2")->recipe;
    EXPECT_EQ(paper.allocate, "importance");
    EXPECT_EQ(paper.select, "genetic");
    EXPECT_EQ(paper.receptiveField->sets, 3);
    EXPECT_EQ(paper.receptiveField->blockSize, 3);
    EXPECT_TRUE(paper.ranks && !paper.averageRank && !paper.decomposeShare);
    EXPECT_EQ(paper.recover, "least-squares");
    EXPECT_EQ(planPreset("verified")->recipe.recover, "least-squares");
    PlanRecipe mended;
    EXPECT_FALSE(runsModel(mended));
    mended.recover = "least-squares";
    EXPECT_TRUE(runsModel(mended));
    EXPECT_TRUE(measuresRanks(planPreset("verified")->recipe));
    EXPECT_FALSE(planPreset("verified")->recipe.ranks);
    EXPECT_EQ(planPreset("none").error().action, "Presets: moe-i2, verified.");
}

TEST(CountBounds, LayersGoBeforeTheRest)
{
    CountBounds bounds;
    EXPECT_TRUE(bounds.none());
    EXPECT_TRUE(bounds.floors(test::evenShape(3, 8, 2)).empty());
    bounds.least = {{CountBounds::kAllLayers, 4}, {1, 6}};
    bounds.most = {{2, 5}};
    bounds.multipleOf = 2;
    const ModelShape shape = test::evenShape(3, 8, 2);
    EXPECT_EQ(bounds.floors(shape), (std::vector<int>{4, 6, 4}));
    EXPECT_EQ(bounds.caps(shape), (std::vector<int>{8, 8, 5}));
    EXPECT_TRUE(bounds.allow(0, 4) && !bounds.allow(0, 3) && !bounds.allow(0, 5) && !bounds.allow(1, 4) && !bounds.allow(2, 6));
}

}  // namespace
}  // namespace espalier
