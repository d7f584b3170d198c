#include "core/shapes.h"

#include "plan/cost_model.h"

#include <gtest/gtest.h>

#include <algorithm>

using namespace espalier;
using espalier::test::evenShape;

TEST(CostModel, BreakEvenRanksOfThePublishedShapes)
{
    EXPECT_EQ(breakEvenRank(4096, 14336), 3185);
    EXPECT_EQ(breakEvenRank(2048, 1408), 834);
    EXPECT_EQ(breakEvenRank(2048, 1024), 682);
    EXPECT_EQ(breakEvenRank(2048, 768), 558);
    EXPECT_EQ(breakEvenRank(2, 2), 0);  // rank 1 of 2 x 2 has four parameters: saves nothing
}

// By arithmetic on the published shapes: 25 % of the experts and average rank 512 remove 53.98 % of DeepSeek-V2-Lite's expert parameters.
TEST(CostModel, PapersShareOfRemovedExpertParameters)
{
    const ModelShape shape = evenShape(26, 64, 6, 2048, 1408);
    CompressionPlan plan = CompressionPlan::identity(shape);
    for (const LayerShape& layer : shape.layers) {
        ExpertSet kept;
        for (int e = 0; e < 48; ++e)
            kept.push_back(e);
        plan = *plan.withKept(shape, layer.index, kept);
        plan = *plan.withRanks(shape, layer.index, std::vector<RankTriple>(48, RankTriple{512, 512, 512}));
    }
    EXPECT_NEAR(planCost(shape, plan).expertParametersRemoved(), 0.539773, 1e-6);
}

TEST(CostModel, MixtralMemoryOfThePaper)
{
    ModelShape shape = evenShape(32, 8, 2, 4096, 14336);
    std::int64_t rest = 1605636096;
    for (LayerShape& layer : shape.layers) {
        layer.otherParameters = 0;
        layer.otherBytes = 0;
        rest -= layer.experts * layer.routerParametersPerExpert;
    }
    shape.embeddingParameters = rest;
    shape.embeddingBytes = 2 * rest;
    const double gib = 1024.0 * 1024 * 1024;
    CompressionPlan plan = CompressionPlan::identity(shape);
    EXPECT_EQ(planCost(shape, plan).parameters, 46702792704);
    EXPECT_NEAR(static_cast<double>(planCost(shape, plan).bytes) / gib, 86.99, 0.005);
    for (const LayerShape& layer : shape.layers)
        plan = *plan.withKept(shape, layer.index, {0, 1, 2, 3, 4, 5});
    EXPECT_NEAR(static_cast<double>(planCost(shape, plan).bytes) / gib, 65.99, 0.005);
    for (const LayerShape& layer : shape.layers)
        plan = *plan.withRanks(shape, layer.index, std::vector<RankTriple>(6, RankTriple{2048, 2048, 2048}));
    EXPECT_NEAR(planCost(shape, plan).expertParametersRemoved(), 0.517857, 1e-6);
    EXPECT_NEAR(static_cast<double>(planCost(shape, plan).bytes) / gib, 43.49, 0.005);
}

TEST(CostModel, PruningSavesMemoryButNotActiveParameters)
{
    const ModelShape shape = evenShape(4, 16, 4);
    CompressionPlan plan = CompressionPlan::identity(shape);
    const PlanCost dense = planCost(shape, plan);
    EXPECT_EQ(dense.bytes, shape.bytes());
    EXPECT_EQ(dense.parameters, shape.parameters());
    EXPECT_EQ(dense.activeParameters, shape.activeParameters());
    plan = *plan.withKept(shape, 1, {0, 1, 2, 3, 4, 5});
    const PlanCost pruned = planCost(shape, plan);
    EXPECT_EQ(dense.bytes - pruned.bytes, 10 * (shape.layers[1].bytesPerExpert + shape.layers[1].routerBytesPerExpert));
    EXPECT_EQ(dense.activeParameters - pruned.activeParameters, 10 * shape.layers[1].routerParametersPerExpert);
}

TEST(CostModel, OnlyFactoredPlansOfEqualCountsAreOfferedAsReconstructed)
{
    const ModelShape shape = evenShape(2, 8, 2);
    const auto reconstructed = [&](const CompressionPlan& plan) {
        const std::vector<FlavourChoice> choices = flavoursFor(shape, plan);
        return *std::find_if(choices.begin(), choices.end(), [](const FlavourChoice& choice) { return choice.id == "reconstructed"; });
    };
    CompressionPlan plan = CompressionPlan::identity(shape);
    EXPECT_FALSE(reconstructed(plan).allowed);
    EXPECT_FALSE(reconstructed(plan).reason.empty());
    plan = *plan.withRanks(shape, 0, std::vector<RankTriple>(8, RankTriple{10, 10, 10}));
    EXPECT_TRUE(reconstructed(plan).allowed);
    plan = *plan.withKept(shape, 1, {0, 1, 2, 3});
    EXPECT_FALSE(reconstructed(plan).allowed);
    EXPECT_NE(reconstructed(plan).reason.find("layer 1 (4 experts)"), std::string::npos) << reconstructed(plan).reason;
}

TEST(CostModel, OnlyEqualCountsAreOfferedAsStock)
{
    const ModelShape shape = evenShape(3, 8, 2);
    CompressionPlan plan = CompressionPlan::identity(shape);
    EXPECT_TRUE(flavoursFor(shape, plan)[0].allowed);
    plan = *plan.withKept(shape, 1, {0, 1, 2, 3});
    const std::vector<FlavourChoice> choices = flavoursFor(shape, plan);
    EXPECT_EQ(choices[0].id, "stock");
    EXPECT_FALSE(choices[0].allowed);
    EXPECT_NE(choices[0].reason.find("layer 1 (4 experts)"), std::string::npos) << choices[0].reason;
    EXPECT_TRUE(choices[1].allowed);
    for (const int layer : {0, 2})
        plan = *plan.withKept(shape, layer, {4, 5, 6, 7});
    EXPECT_TRUE(flavoursFor(shape, plan)[0].allowed);
    plan = *plan.withRanks(shape, 0, std::vector<RankTriple>(4, RankTriple{10, 10, 10}));
    EXPECT_FALSE(flavoursFor(shape, plan)[0].allowed);
}
