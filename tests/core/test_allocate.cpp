#include "core/shapes.h"

#include "allocate/allocator.h"
#include "base/random.h"

#include <gtest/gtest.h>

#include <numeric>

using namespace espalier;
using espalier::test::evenShape;

namespace
{
BudgetLimits limits(int n, int low, int high)
{
    return {std::vector<int>(static_cast<std::size_t>(n), low), std::vector<int>(static_cast<std::size_t>(n), high)};
}
AllocationRequest request(const ModelShape& shape, int keep, std::vector<double> importance = {})
{
    AllocationRequest r;
    r.keepTotal = keep;
    r.plan = CompressionPlan::identity(shape);
    r.layerImportance = std::move(importance);
    return r;
}
}  // namespace

TEST(Budget, ProportionalExampleOfTheContract)
{
    const std::vector<double> weights = {1, 2, 4, 8};
    EXPECT_EQ(*fillBudget(weights, limits(4, 2, 8), 24), (std::vector<int>{3, 5, 8, 8}));
}

TEST(Budget, LargestRemainderExample)
{
    const std::vector<double> weights = {6, 6, 2};
    EXPECT_EQ(*fillBudget(weights, limits(3, 0, 100), 10), (std::vector<int>{4, 4, 2}));
    EXPECT_EQ(*fillBudget(weights, limits(3, 0, 100), 11), (std::vector<int>{5, 5, 1}));
}

TEST(Budget, SumIsExactAndWithinLimitsForAnyInput)
{
    Random random(9);
    for (int trial = 0; trial < 2000; ++trial) {
        const int n = 1 + static_cast<int>(random.below(12));
        std::vector<double> utility;
        BudgetLimits l;
        int least = 0, most = 0;
        for (int i = 0; i < n; ++i) {
            utility.push_back(random.below(5) == 0 ? 0.0 : std::pow(10.0, 8 * random.uniform() - 4));
            l.low.push_back(static_cast<int>(random.below(5)));
            l.high.push_back(l.low.back() + static_cast<int>(random.below(20)));
            least += l.low.back();
            most += l.high.back();
        }
        const int total = least + static_cast<int>(random.below(static_cast<std::uint64_t>(most - least + 1)));
        for (const Rounding rounding : {Rounding::LargestRemainder, Rounding::HighestAverages}) {
            const auto counts = fillBudget(utility, l, total, trial % 2 ? WaterFill::Additive : WaterFill::Proportional, rounding);
            ASSERT_TRUE(counts.ok());
            EXPECT_EQ(std::accumulate(counts->begin(), counts->end(), 0), total);
            for (int i = 0; i < n; ++i) {
                EXPECT_GE((*counts)[i], l.low[i]);
                EXPECT_LE((*counts)[i], l.high[i]);
            }
        }
    }
}

TEST(Budget, HighestAveragesIsMonotone)
{
    Random random(4);
    std::vector<double> utility;
    for (int i = 0; i < 8; ++i)
        utility.push_back(random.uniform());
    std::vector<int> before(8, 0);
    for (int total = 0; total <= 8 * 16; ++total) {
        const auto counts = *fillBudget(utility, limits(8, 0, 16), total, WaterFill::Proportional, Rounding::HighestAverages);
        for (int i = 0; i < 8; ++i)
            EXPECT_GE(counts[i], before[i]);
        before = counts;
    }
}

TEST(Budget, InfeasibleTargetNamesTheRange)
{
    const auto result = fillBudget(std::vector<double>{1, 1}, limits(2, 3, 8), 5);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, "allocate.infeasible");
    EXPECT_NE(result.error().message.find("6 to 16"), std::string::npos) << result.error().message;
}

// The worked example of methods.md 3.2: n = 8, k = 2, I = (1, 2, 4, 8), prune 25 %.
TEST(Allocate, WorkedExampleOfBothForms)
{
    const ModelShape shape = evenShape(4, 8, 2);
    const std::vector<double> importance = {1, 2, 4, 8};
    EXPECT_EQ(*allocate("importance", shape, request(shape, 24, importance), {}), (std::vector<int>{5, 6, 6, 7}));
    EXPECT_EQ(*allocate("inverse", shape, request(shape, 24, importance), {}), (std::vector<int>{4, 6, 7, 7}));
    EXPECT_EQ(*allocate("uniform", shape, request(shape, 24), {}), (std::vector<int>{6, 6, 6, 6}));
    EXPECT_EQ(*allocate("importance", shape, request(shape, 24, importance), {{"alpha", 0.0}}), (std::vector<int>{6, 6, 6, 6}));
}

TEST(Allocate, LocksAndProtectedExpertsHold)
{
    const ModelShape shape = evenShape(4, 8, 2);
    AllocationRequest r = request(shape, 20, {1, 2, 4, 8});
    r.plan = r.plan.withLocked(0, true);
    for (int e = 0; e < 6; ++e)
        r.plan = r.plan.withProtected(1, e, true);
    const auto keep = *allocate("importance", shape, r, {});
    EXPECT_EQ(keep[0], 8);
    EXPECT_GE(keep[1], 6);
    EXPECT_EQ(std::accumulate(keep.begin(), keep.end(), 0), 20);
    r.keepTotal = 17;  // 8 locked + 6 protected + 2 * top-k 2 = 18 at least
    EXPECT_EQ(allocate("importance", shape, r, {}).error().code, "allocate.infeasible");
}

TEST(Allocate, EqualCountsForStockExport)
{
    const ModelShape shape = evenShape(4, 8, 2);
    AllocationRequest r = request(shape, 26);
    r.uniformCount = true;
    EXPECT_EQ(*allocate("uniform", shape, r, {}), (std::vector<int>{6, 6, 6, 6}));
}

TEST(Allocate, DenseLayersAreLeftAlone)
{
    ModelShape shape = evenShape(3, 8, 2);
    shape.layers[0].moe = false;
    shape.layers[0].experts = 0;
    shape.layers[0].router.topK = 0;
    EXPECT_EQ(*allocate("uniform", shape, request(shape, 10), {}), (std::vector<int>{0, 5, 5}));
}

TEST(Ranking, KeepsTheBestTiesToTheLowerIdProtectedFirst)
{
    const ModelShape shape = evenShape(2, 6, 2);
    ExpertScores scores;
    scores.better = Better::Higher;
    scores.values.rows = {{5, 1, 3, 3, 0, 9}, {5, 1, 3, 3, 0, 9}};
    CompressionPlan plan = CompressionPlan::identity(shape).withProtected(0, 4, true).withLocked(1, true);
    plan = *selectByRanking(shape, plan, {4, 3}, scores);
    EXPECT_EQ(plan.layer(0).kept, (ExpertSet{0, 2, 4, 5}));
    EXPECT_EQ(plan.layer(1).kept.size(), 6u) << "a locked layer is not touched";
    scores.better = Better::Lower;
    EXPECT_EQ(selectByRanking(shape, CompressionPlan::identity(shape), {2, 2}, scores)->layer(0).kept, (ExpertSet{1, 4}));
}

TEST(Ranking, ParsesWhatPeopleType)
{
    EXPECT_EQ(*parseKeep("75%", 96), 72);
    EXPECT_EQ(*parseKeep(" 0.75 ", 96), 72);
    EXPECT_EQ(*parseKeep("96/128", 96), 72);
    EXPECT_EQ(*parseKeep("72", 96), 72);
    EXPECT_EQ(*parseKeep("1.0", 96), 96);
    for (const char* bad : {"", "%", "many", "120%", "-3", "97", "1/0", "nan", "75%%"})
        EXPECT_FALSE(parseKeep(bad, 96).ok()) << bad;
}
