#include "core/shapes.h"

#include "base/random.h"
#include "plan/compression_plan.h"

#include <gtest/gtest.h>

#include <set>

using namespace espalier;
using espalier::test::evenShape;

namespace
{

CompressionPlan randomPlan(const ModelShape& shape, Random& random)
{
    CompressionPlan plan = CompressionPlan::identity(shape);
    for (const LayerShape& layer : shape.layers) {
        ExpertSet kept;
        for (int e = 0; e < layer.experts; ++e)
            if (random.below(4) != 0) kept.push_back(e);
        if (static_cast<int>(kept.size()) < layer.router.topK) continue;
        std::vector<RankTriple> ranks(kept.size());
        if (random.below(2) == 0)
            for (RankTriple& triple : ranks)
                for (int& rank : triple)
                    rank = static_cast<int>(random.below(800));
        plan = *plan.withKept(shape, layer.index, kept);
        plan = *plan.withRanks(shape, layer.index, ranks);
        if (random.below(3) == 0) plan = plan.withLocked(layer.index, true);
        if (random.below(3) == 0) plan = plan.withProtected(layer.index, kept.front(), true);
    }
    return plan.withFactors({"svd", ""});
}

}  // namespace

TEST(Plan, JsonRoundTripKeepsHashLocksAndProtection)
{
    const ModelShape shape = evenShape(6, 16, 4);
    Random random(11);
    for (int trial = 0; trial < 50; ++trial) {
        const CompressionPlan plan = randomPlan(shape, random).withModel({"qwen2_moe", "aa", "bb"});
        const auto back = planFromJson(Json::parse(canonicalJson(toJson(plan))), shape);
        ASSERT_TRUE(back.ok()) << back.error().message;
        EXPECT_EQ(back->hash(), plan.hash());
        EXPECT_TRUE(*back == plan);
        EXPECT_EQ(canonicalJson(toJson(*back)), canonicalJson(toJson(plan)));
    }
}

TEST(Plan, HashSaysWhatDecidesTheNumbersAndNothingElse)
{
    const ModelShape shape = evenShape(3, 8, 2);
    const CompressionPlan dense = CompressionPlan::identity(shape);
    EXPECT_EQ(dense.hash(), planFromJson(Json::parse(R"({"version":1,"layers":[]})"), shape)->hash());
    EXPECT_EQ(dense.hash(), planFromJson(Json::parse(R"({"version":1,"layers":[{"layer":1,"kept":[0,1,2,3,4,5,6,7]}]})"), shape)->hash());
    EXPECT_EQ(dense.withLocked(1, true).hash(), dense.hash());
    EXPECT_EQ(dense.withProtected(1, 3, true).hash(), dense.hash());
    EXPECT_FALSE(dense.withLocked(1, true) == dense);
    const CompressionPlan pruned = *dense.withKept(shape, 1, {0, 1, 2, 3});
    EXPECT_NE(pruned.hash(), dense.hash());
    EXPECT_EQ(pruned.withFactors({"svd", ""}).hash(), pruned.hash());  // no ranks: the method decides nothing
    EXPECT_EQ(pruned.withKept(shape, 1, dense.layer(1).kept())->hash(), dense.hash());
}

TEST(Plan, RanksWithoutANamedMethodArePlainSvd)
{
    const ModelShape shape = evenShape(2, 4, 1);
    const CompressionPlan plan = *CompressionPlan::identity(shape).withRanks(shape, 0, std::vector<RankTriple>(4, RankTriple{8, 8, 8}));
    EXPECT_EQ(plan.hash(), planFromJson(toJson(plan), shape)->hash());
    EXPECT_EQ(plan.hash(), plan.withFactors({"svd", ""}).hash());
}

TEST(Plan, WhatReachesALayerDependsOnLayersBelowOnly)
{
    const ModelShape shape = evenShape(4, 8, 2);
    const CompressionPlan dense = CompressionPlan::identity(shape);
    const CompressionPlan pruned = *dense.withKept(shape, 2, {1, 2, 3, 4});
    using Half = CompressionPlan::Half;
    for (int layer = 0; layer <= 2; ++layer)
        for (const Half half : {Half::Attention, Half::Experts})
            EXPECT_EQ(pruned.entryDigest(layer, half), dense.entryDigest(layer, half));
    EXPECT_NE(pruned.entryDigest(3, Half::Attention), dense.entryDigest(3, Half::Attention));
    EXPECT_NE(pruned.entryDigest(3, Half::Experts), dense.entryDigest(3, Half::Experts));
    EXPECT_NE(pruned.entryDigest(4, Half::Attention), dense.entryDigest(4, Half::Attention));
    EXPECT_EQ(pruned.firstDifference(dense), 2);
    EXPECT_EQ(dense.firstDifference(dense), 4);
}

TEST(Plan, RefusesWhatNoModelCouldRun)
{
    const ModelShape shape = evenShape(2, 8, 2);
    const auto code = [&](const char* text) { return planFromJson(Json::parse(text), shape).error().code; };
    EXPECT_EQ(code(R"({"version":1,"layers":[{"layer":0,"kept":[3]}]})"), "plan.kept_below_top_k");
    // The way out that is not obvious: the plan may lower what the router picks.
    const Error below = planFromJson(Json::parse(R"({"version":1,"layers":[{"layer":0,"kept":[3]}]})"), shape).error();
    EXPECT_NE(below.action.find(R"("top_k": 1)"), std::string::npos) << below.action;
    EXPECT_TRUE(planFromJson(Json::parse(R"({"version":1,"layers":[{"layer":0,"kept":[3],"top_k":1}]})"), shape).ok());
    EXPECT_EQ(code(R"({"version":1,"layers":[{"layer":0,"kept":[1,8]}]})"), "plan.unknown_expert");
    EXPECT_EQ(code(R"({"version":1,"layers":[{"layer":0,"kept":[2,1]}]})"), "plan.invalid");
    EXPECT_EQ(code(R"({"version":1,"layers":[{"layer":0,"kept":[1,1]}]})"), "plan.invalid");
    EXPECT_EQ(code(R"({"version":1,"layers":[{"layer":2,"kept":[0,1]}]})"), "plan.unknown_layer");
    EXPECT_EQ(code(R"({"version":1,"layers":[{"layer":0,"kept":[0,1]},{"layer":0,"kept":[0,1]}]})"), "plan.invalid");
    EXPECT_EQ(code(R"({"version":1,"layers":[{"layer":0,"kept":[0,1],"ranks":[[835,0,0],[0,0,0]]}]})"), "plan.rank_beyond_break_even");
    EXPECT_EQ(code(R"({"version":1,"layers":[{"layer":0,"kept":[0,1],"ranks":[[1,0,0]]}]})"), "plan.invalid");
    EXPECT_EQ(code(R"({"version":1,"layers":[{"layer":0,"kept":[0,1],"ranks":[[1,0],[1,0]]}]})"), "plan.invalid");
    EXPECT_EQ(code(R"({"version":1,"layers":[{"layer":0,"kept":"all"}]})"), "plan.invalid");
    EXPECT_EQ(code(R"({"version":3,"layers":[]})"), "plan.version");
    EXPECT_EQ(code(R"({"layers":[]})"), "plan.version");
    EXPECT_EQ(code(R"({"version":1})"), "plan.invalid");
    EXPECT_EQ(code(R"([])"), "plan.invalid");
    EXPECT_EQ(code(R"({"version":1,"layers":[],"locks":[9]})"), "plan.unknown_layer");
}

TEST(Plan, RanksStayWithTheirExpert)
{
    const ModelShape shape = evenShape(1, 4, 1);
    CompressionPlan plan = CompressionPlan::identity(shape);
    plan = *plan.withRanks(shape, 0, {{1, 1, 1}, {2, 2, 2}, {3, 3, 3}, {4, 4, 4}});
    plan = *plan.withKept(shape, 0, {1, 3});
    EXPECT_EQ(plan.layer(0).ranks(), (std::vector<RankTriple>{{2, 2, 2}, {4, 4, 4}}));
    plan = *plan.withKept(shape, 0, {0, 1, 3});
    EXPECT_EQ(plan.layer(0).ranks(), (std::vector<RankTriple>{{0, 0, 0}, {2, 2, 2}, {4, 4, 4}}));
}
