// What a plan can say beyond kept experts and ranks, how it is told apart, what it costs, and which exports can hold it.
#include "base/sha256.h"
#include "core/shapes.h"
#include "plan/compression_plan.h"
#include "plan/cost_model.h"
#include "plan/flavors.h"
#include "plan/plan_edit.h"
#include "plan/plan_rules.h"

#include <gtest/gtest.h>

#include <set>

namespace espalier
{

namespace
{

using test::evenShape;
using Half = CompressionPlan::Half;

CompressionPlan read(const std::string& text, const ModelShape& shape)
{
    Result<CompressionPlan> plan = planFromJson(Json::parse(text), shape);
    EXPECT_TRUE(plan.ok()) << text << ": " << plan.error().describe();
    return plan.ok() ? *plan : CompressionPlan();
}

// Plans that each say one thing that version 1 cannot.
std::vector<std::pair<std::string, CompressionPlan>> kindsOfActions(const ModelShape& shape)
{
    const std::string rest = R"(,[1,1],[2,2],[3,3]],"bodies":[)";
    const std::string others = R"(,{"sources":[1]},{"sources":[2]},{"sources":[3]}])";
    const auto bodies = [&](const std::string& first) {
        return R"({"version":2,"layers":[{"layer":1,"columns":[[0,0])" + rest + first + others + "}]}";
    };
    const auto layer = [](const std::string& what) { return R"({"version":2,"layers":[{"layer":1,)" + what + "}]}"; };
    const std::string whole =
        R"("columns":[[0,0],[1,1],[2,2],[3,3]],"bodies":[{"sources":[0]},{"sources":[1]},{"sources":[2]},{"sources":[3]}])";
    std::vector<std::pair<std::string, std::string>> texts = {
        {"constant", bodies(R"({"constant":"mean"})")},
        {"weighted constant", bodies(R"({"constant":"weighted"})")},
        {"stored constant", bodies(R"({"constant":"mean","values":"abc"})")},
        {"merged",
         R"({"version":2,"layers":[{"layer":1,"columns":[[0,0],[1,0],[2,1],[3,2]],"bodies":[{"sources":[0,1]},{"sources":[2]},{"sources":[3]}]}]})"},
        {"channels", bodies(R"({"sources":[0],"channels":[0,2,5]})")},
        {"bands", bodies(R"({"sources":[0],"up":{"form":"low-rank","bands":[[8,8],[16,3]]}})")},
        {"bias", bodies(R"({"sources":[0],"up":{"form":"low-rank","bands":[[8,0]],"bias":true}})")},
        {"base and delta", bodies(R"({"sources":[0],"down":{"form":"base-delta","base":"down","bands":[[8,2]]}})")},
        {"2 of 4", bodies(R"({"sources":[0],"gate":{"form":"masked","kept":2,"of":4}})")},
        {"half of the weights", bodies(R"({"sources":[0],"gate":{"form":"masked","kept_millionths":500000}})")},
        {"4 bits", bodies(R"({"sources":[0],"gate":{"bits":4,"group":128,"scheme":"symmetric"}})")},
        {"stored values", bodies(R"({"sources":[0],"gate":{"values":"abc"}})")},
        {"skipped", layer(R"("run":"skipped")")},
        {"attention only", layer(R"("run":"attention_only")")},
        {"experts only", layer(R"("run":"experts_only",)" + whole)},
        {"attention at 4 bits", layer(R"("linears":{"self_attn.q_proj":{"bits":4}},)" + whole)},
        {"shared expert at 4 bits", layer(R"("linears":{"mlp.shared_expert.up_proj":{"bits":4}},)" + whole)},
        {"merged layer", layer(R"("merged_from":{"layer":0,"alpha_millionths":500000,"alignment":"none"},)" + whole)},
        {"skip rule", layer(R"("skip":{"rule":"ratio","threshold_millionths":400000},)" + whole)},
        {"router rows", layer(R"("router":"abc",)" + whole)},
    };
    std::vector<std::pair<std::string, CompressionPlan>> plans;
    for (const auto& [name, text] : texts)
        plans.emplace_back(name, read(text, shape));
    return plans;
}

TEST(PlanForms, EveryActionSurvivesTheFileAndIsToldApart)
{
    const ModelShape shape = evenShape(3, 4, 2, 64, 32);
    const CompressionPlan dense = CompressionPlan::identity(shape);
    std::set<std::string> hashes = {dense.hash()};
    for (const auto& [name, plan] : kindsOfActions(shape)) {
        SCOPED_TRACE(name);
        EXPECT_FALSE(plan.isPlain());
        EXPECT_FALSE(plan.isIdentity(shape));
        EXPECT_TRUE(hashes.insert(plan.hash()).second) << "two different plans have one hash";
        EXPECT_EQ(toJson(plan)["version"], 2);
        const CompressionPlan again = *planFromJson(toJson(plan), shape);
        EXPECT_EQ(again, plan);
        EXPECT_EQ(again.hash(), plan.hash());
        EXPECT_EQ(canonicalJson(toJson(again)), canonicalJson(toJson(plan)));
        EXPECT_EQ(plan.firstDifference(dense), 1);
        // What reaches the layer is untouched; what leaves it is not the dense model's.
        EXPECT_EQ(plan.entryDigest(1, Half::Attention), dense.entryDigest(1, Half::Attention));
        EXPECT_NE(plan.entryDigest(2, Half::Attention), dense.entryDigest(2, Half::Attention));
    }
}

// A residual stream behind the attention of a layer that was kept for one plan must not serve another one that changed this attention.
TEST(PlanForms, AnActionOnAttentionReachesTheExpertsOfItsLayer)
{
    const ModelShape shape = evenShape(3, 4, 2, 64, 32);
    const CompressionPlan dense = CompressionPlan::identity(shape);
    const std::set<std::string> onAttention = {"skipped", "experts only", "attention at 4 bits", "merged layer"};
    for (const auto& [name, plan] : kindsOfActions(shape)) {
        SCOPED_TRACE(name);
        EXPECT_EQ(plan.entryDigest(1, Half::Experts) != dense.entryDigest(1, Half::Experts), onAttention.contains(name));
    }
}

TEST(PlanForms, WhatVersionOneCanSayHasItsFormAndItsHash)
{
    const ModelShape shape = evenShape(2, 4, 2, 64, 32);
    const std::string text =
        R"({"factors":{"method":"whitened-svd","profile_sha256":"77"},"layers":[{"kept":[0,1],"layer":0,"ranks":[[3,0,4],[1,1,1]],"top_k":1}],"version":1})";
    const CompressionPlan plan = read(text, shape);
    EXPECT_TRUE(plan.isPlain());
    EXPECT_EQ(plan.hash(), sha256Hex(text));
    EXPECT_EQ(canonicalJson(toJson(plan)), text);
    EXPECT_EQ(plan.withLocked(1, true).hash(), plan.hash()) << "a lock decides no number";
    const std::string dense = R"({"layers":[],"version":1})";
    EXPECT_EQ(CompressionPlan::identity(shape).hash(), sha256Hex(dense));
    // The same content in the words of version 2 is the same plan.
    const CompressionPlan other = read(
        R"({"version":2,"factors":{"method":"whitened-svd","profile_sha256":"77"},"layers":[{"layer":0,"top_k":1,"columns":[[0,0],[1,1]],"bodies":[
            {"sources":[0],"gate":{"form":"low-rank","bands":[[3,0]]},"down":{"form":"low-rank","bands":[[4,0]]}},
            {"sources":[1],"gate":{"form":"low-rank","bands":[[1,0]]},"up":{"form":"low-rank","bands":[[1,0]]},"down":{"form":"low-rank","bands":[[1,0]]}}]}]})",
        shape);
    EXPECT_EQ(other.hash(), plan.hash());
    EXPECT_EQ(canonicalJson(toJson(other)), text);
}

TEST(PlanForms, UnknownContentIsRefusedByNameNeverDropped)
{
    const ModelShape shape = evenShape(2, 4, 2, 64, 32);
    const std::pair<const char*, const char*> cases[] = {
        {R"({"version":1,"layers":[],"constants":[[0,1]]})", "constants"},
        {R"({"version":1,"layers":[],"merged":{}})", "merged"},
        {R"({"version":1,"layers":[],"skip_layers":[1]})", "skip_layers"},
        {R"({"version":1,"layers":[],"recovery":"lora"})", "recovery"},
        {R"({"version":1,"layers":[{"layer":0,"kept":[0,1],"bits":4}]})", "bits"},
        {R"({"version":1,"layers":[{"layer":0,"kept":[0,1],"run":"skipped"}]})", "run"},
        {R"({"version":1,"layers":[],"factors":{"method":"svd","bias":true}})", "bias"},
        {R"({"version":1,"layers":[],"model":{"model_type":"x","adapter":"y"}})", "adapter"},
        {R"({"version":1,"layers":[],"protected":[{"layer":0,"experts":[1],"weight":2}]})", "weight"},
        {R"({"version":2,"layers":[{"layer":0,"run":"twice"}]})", "twice"},
        {R"({"version":2,"layers":[{"layer":0,"columns":[[0,0],[1,1]],"bodies":[{"sources":[0],"lora":1},{"sources":[1]}]}]})", "lora"},
        {R"({"version":2,"layers":[{"layer":0,"columns":[[0,0],[1,1]],"bodies":[{"constant":"median"},{"sources":[1]}]}]})", "median"},
        {R"({"version":2,"layers":[{"layer":0,"columns":[[0,0],[1,1]],"bodies":[{"sources":[0],"up":{"form":"tucker"}},{"sources":[1]}]}]})",
         "tucker"},
        {R"({"version":2,"layers":[{"layer":0,"columns":[[0,0],[1,1]],"bodies":[{"sources":[0],"up":{"form":"low-rank","bands":[[1,0]],"core":2}},{"sources":[1]}]}]})",
         "core"},
        {R"({"version":2,"layers":[{"layer":0,"skip":{"rule":"random","threshold_millionths":1},"columns":[[0,0],[1,1]],"bodies":[{"sources":[0]},{"sources":[1]}]}]})",
         "random"},
    };
    for (const auto& [text, name] : cases) {
        const Result<CompressionPlan> plan = planFromJson(Json::parse(text), shape);
        ASSERT_FALSE(plan.ok()) << text;
        EXPECT_EQ(plan.error().code, "plan.unknown_content") << text;
        EXPECT_EQ(plan.error().subject, name) << text;
        EXPECT_FALSE(plan.error().action.empty());
    }
}

TEST(PlanForms, ConstantsKeepTheRouterAndOneExpert)
{
    const ModelShape shape = evenShape(2, 4, 3, 64, 32);
    const CompressionPlan dense = CompressionPlan::identity(shape);
    // Top-k is no floor: the router goes on choosing among all four.
    const CompressionPlan plan = *withKeptAnd(shape, dense, 0, {2}, ConstantKind::Mean);
    EXPECT_EQ(plan.layer(0).kept(), (ExpertSet{2}));
    EXPECT_EQ(plan.layer(0).columns(), (ExpertSet{0, 1, 2, 3}));
    EXPECT_EQ(plan.layer(0).constants(), (ExpertSet{0, 1, 3}));
    EXPECT_EQ(withKeptAnd(shape, dense, 0, {}, ConstantKind::Mean).error().code, "plan.invalid");
    EXPECT_EQ(withKeptAnd(shape, dense, 0, {2}, std::nullopt).error().code, "plan.kept_below_top_k");
    // Sizes: three experts go, three vectors come.
    const LayerShape& layer = shape.layers[0];
    EXPECT_EQ(planCost(shape, dense).bytes - planCost(shape, plan).bytes, 3 * (layer.bytesPerExpert - 2 * shape.hiddenSize));
    // A kept set chosen by hand leaves the other constants, and an expert that returns computes again.
    const CompressionPlan back = *plan.withKept(shape, 0, {1, 2});
    EXPECT_EQ(back.layer(0).constants(), (ExpertSet{0, 3}));
    EXPECT_EQ((*withDroppedAs(shape, back, ConstantKind::Mean)).hash(), back.hash()) << "nothing was dropped";
    EXPECT_EQ(withDroppedAs(shape, back, std::nullopt).error().code, "plan.kept_below_top_k");
}

TEST(PlanForms, ALayerThatIsLeftOutCostsNothingAndCannotBeShaped)
{
    const ModelShape shape = evenShape(3, 4, 2, 64, 32);
    const CompressionPlan dense = CompressionPlan::identity(shape);
    const CompressionPlan plan = *withRun(shape, dense, 1, LayerRun::Skipped);
    const std::int64_t layer = layerBytes(shape.layers[1], shape.hiddenSize, dense.layer(1));
    EXPECT_EQ(planCost(shape, dense).bytes - planCost(shape, plan).bytes, layer);
    EXPECT_TRUE(plan.isFixed(1));
    EXPECT_FALSE(plan.isLocked(1));
    EXPECT_EQ(plan.runningLayers(), 2);
    EXPECT_EQ(plan.withKept(shape, 1, {0, 1}).error().code, "plan.invalid");
    EXPECT_EQ((*withRun(shape, plan, 1, LayerRun::Whole)).hash(), dense.hash());
    // Halves: what does not run is not paid for, and together they are the layer.
    const auto sizeOf = [&](LayerRun run) {
        return layerBytes(shape.layers[1], shape.hiddenSize, withRun(shape, dense, 1, run)->layer(1));
    };
    EXPECT_EQ(sizeOf(LayerRun::AttentionOnly) + sizeOf(LayerRun::ExpertsOnly), layer);
}

// A checkpoint that is a factored export itself: experts 0 and 1 at rank 10, 2 and 3 whole.
ModelShape factoredShape()
{
    ModelShape shape = evenShape(1, 4, 2, 64, 32);
    LayerShape& layer = shape.layers[0];
    layer.sourceRanks = {{10, 10, 10}, {10, 10, 10}, {0, 0, 0}, {0, 0, 0}};
    const std::int64_t all = 2 * (3 * 10 * (64 + 32)) + 2 * (3 * 64 * 32);
    layer.expertParameters = all / 4;
    layer.bytesPerExpert = 2 * layer.expertParameters;
    return shape;
}

TEST(PlanForms, SizesOfAFactoredSourceAreThoseOfItsFactors)
{
    const ModelShape shape = factoredShape();
    const CompressionPlan dense = CompressionPlan::identity(shape);
    EXPECT_EQ(planCost(shape, dense).bytes, shape.bytes());
    EXPECT_EQ(planCost(shape, dense).parameters, shape.parameters());
    const std::int64_t small = 3 * 10 * (64 + 32);
    const std::int64_t whole = 3 * 64 * 32;
    EXPECT_EQ(planCost(shape, *dense.withKept(shape, 0, {0, 1})).expertParameters, 2 * small);
    EXPECT_EQ(planCost(shape, *dense.withKept(shape, 0, {2, 3})).expertParameters, 2 * whole);
    // Rank 5 where the source has 10 takes half of it; in a whole matrix it takes what rank 5 takes.
    const CompressionPlan ranked = *dense.withRanks(shape, 0, std::vector<RankTriple>(4, RankTriple{5, 5, 5}));
    EXPECT_EQ(planCost(shape, ranked).expertParameters, 4 * small / 2);
    // The shape crosses to the window and into sessions.
    EXPECT_EQ(modelShapeFromJson(toJson(shape))->layers[0].sourceRanks, shape.layers[0].sourceRanks);
}

TEST(PlanForms, AFactoredSourceIsOfferedWhatCanBeWritten)
{
    const ModelShape shape = factoredShape();
    const CompressionPlan dense = CompressionPlan::identity(shape);
    const auto allowed = [&](const CompressionPlan& plan) {
        std::vector<std::string> ids;
        for (const FlavourChoice& choice : flavoursFor(shape, plan)) {
            EXPECT_EQ(choice.allowed, checkFlavor(shape, plan, *parseFlavor(choice.id)).ok()) << "view and exporter disagree";
            if (choice.allowed) ids.push_back(choice.id);
        }
        return ids;
    };
    EXPECT_EQ(allowed(dense), (std::vector<std::string>{"factored", "reconstructed", "plan"}));
    // Only whole experts left: nothing is factored any more.
    EXPECT_EQ(allowed(*dense.withKept(shape, 0, {2, 3})), (std::vector<std::string>{"stock", "factored", "plan"}));
}

// 3 layers of 4 experts of 3 * 64 * 32 numbers.
TEST(PlanForms, MergedExpertsStayMergedAndCountOnce)
{
    const ModelShape shape = evenShape(3, 4, 2, 64, 32);
    const CompressionPlan dense = CompressionPlan::identity(shape);
    const CompressionPlan plan = read(
        R"({"version":2,"layers":[{"layer":1,"columns":[[0,0],[1,1],[2,0],[3,2]],"bodies":[
            {"sources":[0,2],"gate":{"values":"abc"},"up":{"values":"abc"},"down":{"values":"abc"}},{"sources":[1]},{"sources":[3]}]}]})",
        shape);
    EXPECT_EQ(plan.layer(1).kept(), (ExpertSet{0, 1, 2, 3})) << "all rows lead to weights";
    const std::int64_t expert = std::int64_t{3} * 64 * 32;
    const PlanCost before = planCost(shape, dense), after = planCost(shape, plan);
    EXPECT_EQ(after.expertParameters, before.expertParameters - expert);
    EXPECT_EQ(after.bytes, before.bytes - shape.layers[1].bytesPerExpert);
    EXPECT_EQ(after.activeParameters, before.activeParameters) << "a token meets as many experts as before";

    for (const CompressionPlan& edited : {*plan.withKept(shape, 1, {0, 1, 2}), *withDropped(shape, plan, 1, {3})}) {
        EXPECT_EQ(edited.layer(1).bodyOf(0), edited.layer(1).bodyOf(2));
        EXPECT_EQ(edited.layer(1).content().bodies.size(), std::size_t(2));
    }
    const CompressionPlan back = *plan.withKept(shape, 1, {1, 2});
    EXPECT_EQ(std::get<ExpertBody>(*back.layer(1).bodyOf(2)).sources, (ExpertSet{0, 2})) << "a row may go without the body";
    EXPECT_EQ(plan.withRanks(shape, 1, std::vector<RankTriple>(4))->layer(1), plan.layer(1)) << "no rank was asked for";

    // The base of a layer counts once: 64 * 32 numbers, beside 8 (64 + 32) of each delta.
    const std::string delta = R"("up":{"form":"base-delta","base":"b","bands":[[8,0]],"values":"abc"}})";
    const CompressionPlan based =
        read(R"({"version":2,"layers":[{"layer":1,"columns":[[0,0],[1,1],[2,2],[3,3]],"bodies":[{"sources":[0],)" + delta +
                 R"(,{"sources":[1],)" + delta + R"(,{"sources":[2]},{"sources":[3]}]}]})",
             shape);
    EXPECT_EQ(planCost(shape, based).expertParameters, before.expertParameters - 64 * 32 + 2 * 8 * (64 + 32));
    EXPECT_EQ(planFromJson(Json::parse(R"({"version":2,"layers":[{"layer":1,"columns":[[0,0],[1,0],[2,1],[3,2]],"bodies":[
            {"constant":"mean"},{"sources":[2]},{"sources":[3]}]}]})"),
                           shape)
                  .error()
                  .code,
              "plan.invalid")
        << "a constant of two experts";
}

TEST(PlanForms, ExportsThatCannotHoldAFormAreNotOffered)
{
    const ModelShape shape = evenShape(3, 4, 2, 64, 32);
    const auto allowed = [&](const CompressionPlan& plan, ExportFlavor flavor) { return checkFlavor(shape, plan, flavor).ok(); };
    const std::set<std::string> stock = {"skipped", "2 of 4", "half of the weights", "stored values", "router rows"};
    // Merged experts, a bias and a base have no numbers here: those cannot be derived.
    const std::set<std::string> factored = {"constant", "weighted constant",   "stored constant",         "bands",
                                            "4 bits",   "attention at 4 bits", "shared expert at 4 bits", "channels",
                                            "skip rule"};
    for (const auto& [name, plan] : kindsOfActions(shape)) {
        SCOPED_TRACE(name);
        EXPECT_TRUE(allowed(plan, ExportFlavor::Plan));
        EXPECT_EQ(allowed(plan, ExportFlavor::Stock), stock.contains(name));
        EXPECT_EQ(allowed(plan, ExportFlavor::Factored), stock.contains(name) || factored.contains(name));
    }
}

}  // namespace

}  // namespace espalier
