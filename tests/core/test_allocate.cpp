#include "core/shapes.h"

#include "allocate/allocator.h"
#include "base/json.h"
#include "base/random.h"
#include "plan/cost_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
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
        const int total = least + static_cast<int>(random.below(static_cast<std::uint64_t>(most - least) + 1));
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

// Worked by hand: n = 8, k = 2, I = (1, 2, 4, 8), prune 25 %.
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

TEST(Budget, ReadsTheRealsOfTheContractExample)
{
    const std::vector<double> weights = {1, 2, 4, 8};
    const BudgetFill fill = *fillBudget(weights, Budget{limits(4, 2, 8), {}, 24, "experts"});
    const std::vector<double> reals = {8.0 / 3, 16.0 / 3, 8, 8};
    for (std::size_t i = 0; i < 4; ++i)
        EXPECT_NEAR(fill.reals[i], reals[i], 1e-12);
}

TEST(Budget, PermutedLayersPermuteTheAnswer)
{
    Random random(12);
    for (int trial = 0; trial < 300; ++trial) {
        const int n = 2 + static_cast<int>(random.below(8));
        std::vector<double> utility;
        BudgetLimits l;
        int least = 0, most = 0;
        for (int i = 0; i < n; ++i) {
            utility.push_back(0.1 + random.uniform());
            l.low.push_back(static_cast<int>(random.below(3)));
            l.high.push_back(l.low.back() + 1 + static_cast<int>(random.below(12)));
            least += l.low.back();
            most += l.high.back();
        }
        const int total = least + static_cast<int>(random.below(static_cast<std::uint64_t>(most - least) + 1));
        const std::vector<int> straight = *fillBudget(utility, l, total);
        std::reverse(utility.begin(), utility.end());
        std::reverse(l.low.begin(), l.low.end());
        std::reverse(l.high.begin(), l.high.end());
        std::vector<int> back = *fillBudget(utility, l, total);
        std::reverse(back.begin(), back.end());
        EXPECT_EQ(back, straight);
    }
}

TEST(Budget, EqualUtilitiesAreUniform)
{
    for (int total = 0; total <= 40; ++total)
        for (const WaterFill fill : {WaterFill::Proportional, WaterFill::Additive}) {
            const auto counts = *fillBudget(std::vector<double>(5, 0.3), limits(5, 0, 8), total, fill);
            for (int i = 0; i < 5; ++i)
                EXPECT_EQ(counts[i], total / 5 + (i < total % 5 ? 1 : 0)) << "what does not divide goes to the lower layers";
        }
}

TEST(Budget, UnequalCostsStayBelowTheTotalAndAreMaximal)
{
    Random random(5);
    for (int trial = 0; trial < 1000; ++trial) {
        const int n = 1 + static_cast<int>(random.below(8));
        std::vector<double> utility;
        Budget budget;
        std::int64_t least = 0, most = 0;
        for (int i = 0; i < n; ++i) {
            utility.push_back(random.below(6) == 0 ? 0.0 : random.uniform());
            budget.limits.low.push_back(static_cast<int>(random.below(4)));
            budget.limits.high.push_back(budget.limits.low.back() + static_cast<int>(random.below(9)));
            budget.cost.push_back(1 + static_cast<std::int64_t>(random.below(50)));
            least += budget.cost.back() * budget.limits.low.back();
            most += budget.cost.back() * budget.limits.high.back();
        }
        budget.total = least + static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(most - least) + 1));
        for (const Rounding rounding : {Rounding::LargestRemainder, Rounding::HighestAverages}) {
            const BudgetFill fill = *fillBudget(utility, budget, WaterFill::Proportional, rounding);
            std::int64_t cost = 0;
            for (int i = 0; i < n; ++i) {
                EXPECT_GE(fill.units[i], budget.limits.low[i]);
                EXPECT_LE(fill.units[i], budget.limits.high[i]);
                cost += budget.cost[i] * fill.units[i];
            }
            EXPECT_EQ(cost + fill.unused, budget.total);
            EXPECT_GE(fill.unused, 0);
            for (int i = 0; i < n; ++i)
                EXPECT_TRUE(fill.units[i] == budget.limits.high[i] || budget.cost[i] > fill.unused) << "a further unit would fit";
        }
    }
}

// Budgets of the reference, computed by brute force importances: both rules, relative and absolute, three ratios.
TEST(Allocate, BudgetsOfTheReference)
{
    for (const char* name : {"mixtral-tiny", "qwen2moe-tiny", "deepseekv2-lite-tiny"}) {
        const Json golden = *readJsonFile(std::string(ESPALIER_TEST_FIXTURES) + "/allocate/" + name + ".json", "fixture");
        const std::vector<int> layers = golden["layers"];
        const std::vector<int> experts = golden["experts"];
        ModelShape shape = evenShape(layers.back() + 1, experts[0], golden["top_k"]);
        for (LayerShape& layer : shape.layers)
            if (std::find(layers.begin(), layers.end(), layer.index) == layers.end()) {
                layer.moe = false;
                layer.experts = 0;
            }
        ASSERT_EQ(golden["budgets"].size(), 24u);
        for (const Json& budget : golden["budgets"]) {
            const std::vector<double> values = golden["layer_importance"][budget["importance"].get<std::string>()];
            std::vector<double> importance(shape.layers.size(), std::nan(""));
            for (std::size_t i = 0; i < layers.size(); ++i)
                importance[static_cast<std::size_t>(layers[i])] = values[i];
            const int total = std::accumulate(experts.begin(), experts.end(), 0);
            const bool damped = budget["rule"] == "damped";
            const Params params = damped ? Params{{"alpha", budget["alpha"]}} : Params{};
            const AllocationRequest r = request(shape, total - budget["pruned_total"].get<int>(), importance);
            const std::vector<int> keep = *allocate(damped ? "importance" : "inverse", shape, r, params);
            std::vector<int> kept;
            for (const int layer : layers)
                kept.push_back(keep[static_cast<std::size_t>(layer)]);
            EXPECT_EQ(kept, budget["kept"].get<std::vector<int>>()) << name << " " << budget.dump();
        }
        const std::vector<int> chain = golden["chain"]["kept_counts"];
        EXPECT_EQ(chain.size(), layers.size());
    }
}

namespace
{
AllocationRequest scored(const ModelShape& shape, int keep, std::vector<std::vector<double>> rows)
{
    AllocationRequest r = request(shape, keep);
    r.scores.method = "reap";
    r.scores.unit = "weighted output norm per token";
    r.scores.values.rows = std::move(rows);
    return r;
}
ModelShape freeShape(int layers, int experts) { return evenShape(layers, experts, 1); }
}  // namespace

// Coverage.
TEST(Coverage, WorkedExample)
{
    const ModelShape shape = freeShape(2, 4);
    EXPECT_EQ(*allocate("coverage", shape, scored(shape, 5, {{8, 1, 1, 0}, {3, 3, 2, 2}}), {}), (std::vector<int>{1, 4}));
    EXPECT_EQ(*allocate("coverage", shape, scored(shape, 4, {{8, 1, 1, 0}, {3, 3, 2, 2}}), {}), (std::vector<int>{1, 3}));
    EXPECT_EQ(*allocate("coverage", shape, scored(shape, 6, {{8, 1, 1, 0}, {3, 3, 2, 2}}), {}), (std::vector<int>{2, 4}));
    EXPECT_EQ(*allocate("coverage", shape, scored(shape, 8, {{8, 1, 1, 0}, {3, 3, 2, 2}}), {}), (std::vector<int>{4, 4}));
}

TEST(Coverage, LayersWithoutScoreCountExperts)
{
    const ModelShape shape = freeShape(2, 4);
    const auto keep = *allocate("coverage", shape, scored(shape, 4, {{0, 0, 0, -5}, {1, 1, 1, 1}}), {});
    EXPECT_EQ(keep, (std::vector<int>{2, 2}));
    AllocationRequest lower = scored(shape, 4, {{1, 1, 1, 1}, {1, 1, 1, 1}});
    lower.scores.better = Better::Lower;
    EXPECT_EQ(allocate("coverage", shape, lower, {}).error().code, "allocate.score_direction");
    EXPECT_EQ(allocate("coverage", shape, request(shape, 4), {}).error().code, "allocate.no_scores");
}

TEST(GlobalSort, RemovesTheWorstOfAllLayers)
{
    const ModelShape shape = freeShape(2, 4);
    const std::vector<std::vector<double>> rows = {{8, 1, 1, 0}, {30, 30, 20, 20}};
    EXPECT_EQ(*allocate("global", shape, scored(shape, 5, rows), {{"scale", "raw"}}), (std::vector<int>{1, 4}));
    EXPECT_EQ(*allocate("global", shape, scored(shape, 3, rows), {{"scale", "raw"}}), (std::vector<int>{1, 2})) << "floors hold";
    // As shares of the layer: .8 .1 .1 0 and .3 .3 .2 .2.
    EXPECT_EQ(*allocate("global", shape, scored(shape, 5, rows), {}), (std::vector<int>{1, 4}));
    EXPECT_EQ(*allocate("global", shape, scored(shape, 6, rows), {}), (std::vector<int>{2, 4})) << "ties: the lower layer keeps";
    AllocationRequest counts = scored(shape, 4, {{10, 9, 8, 7}, {6, 5, 4, 3}});
    EXPECT_EQ(*allocate("global", shape, counts, {}), (std::vector<int>{2, 2}));
    counts.scores.unit = "tokens";
    EXPECT_EQ(*allocate("global", shape, counts, {}), (std::vector<int>{3, 1})) << "counts compare across layers";
    counts.scores.better = Better::Lower;
    EXPECT_EQ(*allocate("global", shape, counts, {}), (std::vector<int>{1, 3}));
}

// Three layers of three, loss after removing 0, 1, 2.
TEST(ExactAllocator, WorkedExample)
{
    const ModelShape shape = freeShape(3, 3);
    AllocationRequest r = request(shape, 6);
    r.lossCurves = {{NAN, 6, 1, 0}, {NAN, 5, 4, 0}, {NAN, 9, 2, 0}};
    EXPECT_EQ(*allocate("exact", shape, r, {}), (std::vector<int>{2, 1, 3}));
    const double best[] = {0, 1, 3, 6, 8, 13, 20};
    for (int removed = 0; removed <= 6; ++removed) {
        r.keepTotal = 9 - removed;
        const std::vector<int> keep = *allocate("exact", shape, r, {});
        double loss = 0;
        for (std::size_t l = 0; l < 3; ++l)
            loss += r.lossCurves[l][static_cast<std::size_t>(keep[l])];
        EXPECT_EQ(loss, best[removed]);
        EXPECT_EQ(std::accumulate(keep.begin(), keep.end(), 0), r.keepTotal);
    }
    r.keepTotal = 6;
    r.lossCurves.clear();
    EXPECT_EQ(allocate("exact", shape, r, {}).error().code, "allocate.no_curves");
}

TEST(ExactAllocator, MeetsTheCountEvenWhereFewerExpertsLoseLess)
{
    const ModelShape shape = freeShape(2, 3);
    AllocationRequest r = request(shape, 5);
    r.lossCurves = {{NAN, 0, 1, 2}, {NAN, 0, 1, 3}};
    EXPECT_EQ(*allocate("exact", shape, r, {}), (std::vector<int>{3, 2}));
}

TEST(Allocate, FloorsCapsAndMultiplesHoldForEveryAllocator)
{
    Random random(31);
    for (int trial = 0; trial < 200; ++trial) {
        const int n = 8 + 4 * static_cast<int>(random.below(3));
        const ModelShape shape = evenShape(4, n, 2);
        AllocationRequest r = request(shape, 0);
        r.scores.values.rows.assign(4, {});
        r.lossCurves.assign(4, std::vector<double>(static_cast<std::size_t>(n) + 1, 0.0));
        for (std::size_t l = 0; l < 4; ++l) {
            r.layerImportance.push_back(0.1 + random.uniform());
            for (int e = 0; e < n; ++e)
                r.scores.values.rows[l].push_back(random.uniform());
            for (int m = n - 1; m >= 0; --m)
                r.lossCurves[l][static_cast<std::size_t>(m)] = r.lossCurves[l][static_cast<std::size_t>(m) + 1] + random.uniform();
        }
        r.floor = {0, 5, 0, 3};
        r.cap = {n, n, 6, n};
        if (trial % 3 == 0) r.plan = r.plan.withLocked(3, true);
        r.multipleOf = trial % 2 ? 2 : 1;
        r.unit = trial % 5 == 0 ? BudgetUnit::Bytes : BudgetUnit::Experts;
        r.keepTotal = 26 + static_cast<int>(random.below(4));
        r.target = shape.bytes() - (4 * n - r.keepTotal) * (shape.layers[0].bytesPerExpert + shape.layers[0].routerBytesPerExpert);
        for (const MethodInfo& method : allocators()) {
            const Result<std::vector<int>> keep = allocate(method.id, shape, r, {});
            ASSERT_TRUE(keep.ok()) << method.id << keep.error().describe();
            int sum = 0;
            for (int l = 0; l < 4; ++l) {
                EXPECT_GE((*keep)[l], std::max(2, r.floor[l])) << method.id;
                EXPECT_LE((*keep)[l], r.plan.isLocked(l) ? n : r.cap[l]) << method.id;
                EXPECT_TRUE(r.plan.isLocked(l) || (*keep)[l] % r.multipleOf == 0) << method.id;
                sum += (*keep)[l];
            }
            EXPECT_LE(sum, r.keepTotal) << method.id;
            EXPECT_GT(sum, r.keepTotal - r.multipleOf) << method.id;
        }
    }
}

TEST(Allocate, UnknownOrContradictoryLimitsAreReported)
{
    const ModelShape shape = evenShape(2, 8, 2);
    AllocationRequest r = request(shape, 8);
    r.floor = {7, 0};
    r.cap = {4, 8};
    const Error error = allocate("uniform", shape, r, {}).error();
    EXPECT_EQ(error.code, "allocate.infeasible");
    EXPECT_NE(error.message.find("at least 7"), std::string::npos) << error.message;
    EXPECT_EQ(allocate("best", shape, r, {}).error().code, "method.unknown");
    EXPECT_EQ(allocate("importance", shape, request(shape, 8, {1, 2}), {{"alpha", 9}}).error().code, "method.bad_parameter");
    r = request(shape, 13);
    r.multipleOf = 8;  // only 8 of 8 or nothing
    EXPECT_EQ(allocate("uniform", shape, r, {}).error().code, "allocate.infeasible");
}

// Groups keep equal numbers; the group score of a sigmoid router sums two; top-k must fit into the best groups.
TEST(Allocate, RouterGroupsKeepEqualNumbers)
{
    ModelShape shape = evenShape(2, 16, 4, 2048, 1408, RoutingRule::GroupLimitedSoftmax);
    for (LayerShape& layer : shape.layers) {
        layer.router.groups = 4;
        layer.router.topGroups = 2;
    }
    AllocationRequest r = request(shape, 20, {1, 4});
    std::vector<int> keep = *allocate("importance", shape, r, {{"alpha", 1.0}});
    EXPECT_EQ(keep, (std::vector<int>{8, 12}));
    r.keepTotal = 16;  // 4 = 2 groups x 2: at least 2 in each of 4
    EXPECT_EQ(*allocate("importance", shape, r, {}), (std::vector<int>{8, 8}));
    r.keepTotal = 15;
    EXPECT_EQ(allocate("importance", shape, r, {}).error().code, "allocate.infeasible");
    r.keepTotal = 24;
    for (const int expert : {4, 5, 6})
        r.plan = r.plan.withProtected(0, expert, true);
    keep = *allocate("importance", shape, r, {{"alpha", 1.5}});
    EXPECT_EQ(keep, (std::vector<int>{12, 12})) << "three protected in one group need three in each";
    ExpertScores scores;
    scores.values.rows.assign(2, std::vector<double>(16, 1.0));
    EXPECT_EQ(selectByRanking(shape, r.plan, keep, scores)->layer(0).kept(), (ExpertSet{0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14}));
    for (LayerShape& layer : shape.layers) {
        layer.router.rule = RoutingRule::SigmoidBias;
        layer.router.topK = 2;
    }
    r = request(shape, 17, {1, 1});
    EXPECT_EQ(*allocate("importance", shape, r, {}), (std::vector<int>{8, 8})) << "two per group";
    r.uniformCount = true;
    r.keepTotal = 27;
    EXPECT_EQ(*allocate("importance", shape, r, {}), (std::vector<int>{12, 12}));
}

TEST(Allocate, OneCountRespectsMultiplesBytesAndLocks)
{
    const ModelShape shape = evenShape(4, 20, 2);
    AllocationRequest r = request(shape, 76);
    r.uniformCount = true;
    EXPECT_EQ(*allocate("uniform", shape, r, {}), (std::vector<int>{19, 19, 19, 19}));
    r.multipleOf = 8;
    EXPECT_EQ(*allocate("uniform", shape, r, {}), (std::vector<int>{16, 16, 16, 16}));
    r.multipleOf = 1;
    r.plan = r.plan.withLocked(2, true);
    EXPECT_EQ(allocate("uniform", shape, r, {}).error().code, "allocate.infeasible");
    r.keepTotal = 80;
    EXPECT_EQ(*allocate("uniform", shape, r, {}), (std::vector<int>{20, 20, 20, 20}));
    r.plan = CompressionPlan::identity(shape);
    r.unit = BudgetUnit::Bytes;
    r.target = shape.bytes() / 2;
    const std::vector<int> keep = *allocate("uniform", shape, r, {});
    ExpertScores scores;
    scores.values.rows.assign(4, std::vector<double>(20, 1.0));
    EXPECT_LE(planCost(shape, *selectByRanking(shape, r.plan, keep, scores)).bytes, r.target);
    const std::vector<int> more(4, keep[0] + 1);
    EXPECT_GT(planCost(shape, *selectByRanking(shape, r.plan, more, scores)).bytes, r.target);
}

TEST(Allocate, BytesAndParametersAreMetFromBelowAndMaximal)
{
    ModelShape shape = evenShape(4, 16, 2);
    for (LayerShape& layer : shape.layers) {  // layers of different width
        layer.expertWidth = 256 * (1 + layer.index);
        layer.expertParameters = 3LL * shape.hiddenSize * layer.expertWidth;
        layer.bytesPerExpert = 2 * layer.expertParameters;
    }
    ExpertScores scores;
    scores.values.rows.assign(4, std::vector<double>(16, 1.0));
    AllocationRequest r = request(shape, 0, {3, 1, 2, 4});
    r.scores = scores;
    r.plan = r.plan.withLocked(1, true);
    for (const char* method : {"uniform", "importance", "inverse", "coverage", "global"})
        for (const BudgetUnit unit : {BudgetUnit::Bytes, BudgetUnit::Parameters}) {
            r.unit = unit;
            r.target = (unit == BudgetUnit::Bytes ? shape.bytes() : shape.parameters()) * 7 / 10;
            const std::vector<int> keep = *allocate(method, shape, r, {});
            const auto size = [&](const std::vector<int>& counts) {
                const PlanCost cost = planCost(shape, *selectByRanking(shape, r.plan, counts, scores));
                return unit == BudgetUnit::Bytes ? cost.bytes : cost.parameters;
            };
            EXPECT_EQ(keep[1], 16) << method;
            EXPECT_LE(size(keep), r.target) << method;
            for (const int layer : {0, 2, 3}) {
                std::vector<int> more = keep;
                ++more[static_cast<std::size_t>(layer)];
                EXPECT_TRUE(keep[static_cast<std::size_t>(layer)] == 16 || size(more) > r.target) << method;
            }
        }
}

TEST(Ranking, KeepsTheBestTiesToTheLowerIdProtectedFirst)
{
    const ModelShape shape = evenShape(2, 6, 2);
    ExpertScores scores;
    scores.better = Better::Higher;
    scores.values.rows = {{5, 1, 3, 3, 0, 9}, {5, 1, 3, 3, 0, 9}};
    CompressionPlan plan = CompressionPlan::identity(shape).withProtected(0, 4, true).withLocked(1, true);
    plan = *selectByRanking(shape, plan, {4, 3}, scores);
    EXPECT_EQ(plan.layer(0).kept(), (ExpertSet{0, 2, 4, 5}));
    EXPECT_EQ(plan.layer(1).kept().size(), 6u) << "a locked layer is not touched";
    scores.better = Better::Lower;
    EXPECT_EQ(selectByRanking(shape, CompressionPlan::identity(shape), {2, 2}, scores)->layer(0).kept(), (ExpertSet{1, 4}));
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
