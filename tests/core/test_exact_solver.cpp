#include "allocate/exact_solver.h"
#include "base/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

using namespace espalier;

namespace
{
// Loss after removing 0, 1, 2 of three; the cost is what stays.
std::vector<SolverLayer> example()
{
    std::vector<SolverLayer> layers;
    for (const std::array<double, 3>& loss : {std::array<double, 3>{0, 1, 6}, {0, 4, 5}, {0, 2, 9}}) {
        SolverLayer layer;
        for (int removed = 0; removed < 3; ++removed)
            layer.push_back({3 - removed, loss[static_cast<std::size_t>(removed)], removed});
        layers.push_back(layer);
    }
    return layers;
}

double bruteForce(const std::vector<SolverLayer>& layers, std::int64_t budget, bool exactly = false)
{
    double best = std::numeric_limits<double>::infinity();
    std::vector<std::size_t> at(layers.size(), 0);
    while (true) {
        std::int64_t cost = 0;
        double loss = 0;
        for (std::size_t i = 0; i < layers.size(); ++i) {
            cost += layers[i][at[i]].cost;
            loss += layers[i][at[i]].loss;
        }
        if (exactly ? cost == budget : cost <= budget) best = std::min(best, loss);
        std::size_t i = 0;
        while (i < at.size() && ++at[i] == layers[i].size())
            at[i++] = 0;
        if (i == at.size()) return best;
    }
}

std::vector<SolverLayer> randomLayers(Random& random, int count, int options, bool convex = false, std::uint64_t costs = 30)
{
    std::vector<SolverLayer> layers;
    for (int l = 0; l < count; ++l) {
        SolverLayer layer;
        std::vector<double> gain;
        for (int o = 0; o < options; ++o)
            gain.push_back(random.uniform());
        if (convex) std::sort(gain.rbegin(), gain.rend());
        double loss = 20;
        for (int o = 0; o < options; ++o) {
            if (convex)
                layer.push_back({o, loss, o});
            else
                layer.push_back({static_cast<std::int64_t>(random.below(costs)), 10 * random.uniform(), o});
            loss -= gain[static_cast<std::size_t>(o)];
        }
        layers.push_back(layer);
    }
    return layers;
}

std::int64_t least(const std::vector<SolverLayer>& layers)
{
    std::int64_t sum = 0;
    for (const SolverLayer& layer : layers)
        sum += std::min_element(layer.begin(), layer.end(), [](const auto& a, const auto& b) { return a.cost < b.cost; })->cost;
    return sum;
}
std::int64_t costOf(const std::vector<SolverLayer>& layers, const SolverAnswer& answer)
{
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < layers.size(); ++i)
        sum += layers[i][static_cast<std::size_t>(answer.choice[i])].cost;
    return sum;
}
}  // namespace

TEST(ExactSolver, WorkedExample)
{
    const std::vector<SolverLayer> layers = example();
    EXPECT_EQ(solveGreedy(layers, 6)->loss, 7);
    const SolverAnswer best = *solveExact(layers, 6);
    EXPECT_EQ(best.loss, 6);
    EXPECT_EQ(best.payload, (std::vector<int>{1, 2, 0}));
    EXPECT_TRUE(best.optimal);
    const LagrangianAnswer lagrangian = *solveLagrangian(layers, 6);
    EXPECT_EQ(lagrangian.filledUp.loss, 6) << "removal 4 of the hull, repaired from below";
    EXPECT_EQ(lagrangian.givenBack.loss, 7) << "removal 2 of the hull, given back";
    const double expected[] = {0, 1, 3, 6, 8, 13, 20};
    for (int removed = 0; removed <= 6; ++removed)
        EXPECT_EQ(solveExact(layers, 9 - removed)->loss, expected[removed]) << removed;
}

TEST(ExactSolver, EqualsBruteForceOnRandomInstances)
{
    Random random(6);
    for (int trial = 0; trial < 400; ++trial) {
        const std::vector<SolverLayer> layers = randomLayers(random, 4, 2 + static_cast<int>(random.below(7)));
        const std::int64_t budget = least(layers) + static_cast<std::int64_t>(random.below(90));
        const SolverAnswer answer = *solveExact(layers, budget);
        const double optimum = bruteForce(layers, budget);
        EXPECT_NEAR(answer.loss, optimum, 1e-12);
        EXPECT_TRUE(answer.optimal);
        EXPECT_LE(answer.cost, budget);
        EXPECT_EQ(answer.cost, costOf(layers, answer));
        EXPECT_LE(answer.dualBound, optimum + 1e-12);
        EXPECT_DOUBLE_EQ(answer.gap, answer.loss - answer.dualBound);
        const SolverAnswer greedy = *solveGreedy(layers, budget);
        const LagrangianAnswer lagrangian = *solveLagrangian(layers, budget);
        EXPECT_LE(greedy.cost, budget);
        EXPECT_LE(lagrangian.filledUp.cost, budget);
        EXPECT_LE(lagrangian.givenBack.cost, budget);
        EXPECT_GE(greedy.loss, answer.loss - 1e-12);
        EXPECT_GE(lagrangian.best().loss, answer.loss - 1e-12);
    }
}

TEST(ExactSolver, MeetsABudgetExactlyWhenAsked)
{
    Random random(8);
    SolverSettings settings;
    settings.meaning = SolverBudget::Exactly;
    int met = 0;
    for (int trial = 0; trial < 200; ++trial) {
        const std::vector<SolverLayer> layers = randomLayers(random, 4, 5);
        const std::int64_t budget = least(layers) + static_cast<std::int64_t>(random.below(60));
        const double optimum = bruteForce(layers, budget, true);
        const Result<SolverAnswer> answer = solveExact(layers, budget, settings);
        ASSERT_EQ(answer.ok(), std::isfinite(optimum));
        if (!answer.ok()) continue;
        ++met;
        EXPECT_EQ(answer->cost, budget);
        EXPECT_NEAR(answer->loss, optimum, 1e-12);
    }
    EXPECT_GT(met, 50);
}

TEST(ExactSolver, ConvexCurvesMakeGreedyOptimal)
{
    Random random(2);
    for (int trial = 0; trial < 200; ++trial) {
        const std::vector<SolverLayer> layers = randomLayers(random, 4, 8, true);
        const std::int64_t budget = static_cast<std::int64_t>(random.below(29));
        EXPECT_NEAR(solveGreedy(layers, budget)->loss, solveExact(layers, budget)->loss, 1e-12);
    }
}

TEST(ExactSolver, MoreBudgetNeverLosesMoreAndFewerOptionsNeverWin)
{
    Random random(15);
    for (int trial = 0; trial < 60; ++trial) {
        std::vector<SolverLayer> layers = randomLayers(random, 5, 6);
        double before = std::numeric_limits<double>::infinity();
        for (std::int64_t budget = least(layers); budget < least(layers) + 100; budget += 5) {
            const double loss = solveExact(layers, budget)->loss;
            EXPECT_LE(loss, before + 1e-12);
            before = loss;
        }
        const std::int64_t budget = least(layers) + 40;
        const double full = solveExact(layers, budget)->loss;
        layers[2].erase(layers[2].begin() + static_cast<int>(random.below(6)));
        const Result<SolverAnswer> reduced = solveExact(layers, budget);
        if (reduced.ok()) {
            EXPECT_GE(reduced->loss, full - 1e-12);
        }
    }
}

// 40 layers of 300 options with costs that share no divisor: the sums would be too many, the bounds leave few.
TEST(ExactSolver, BoundsKeepLargeInstancesSmall)
{
    Random random(77);
    const std::vector<SolverLayer> layers = randomLayers(random, 40, 300, false, 1u << 30);
    const std::int64_t budget = least(layers) + (std::int64_t{1} << 32);
    const SolverAnswer answer = *solveExact(layers, budget);
    EXPECT_LE(answer.cost, budget);
    EXPECT_TRUE(answer.optimal);
    EXPECT_LE(answer.gap, 0.01 * answer.loss);
    SolverSettings tight;
    tight.maxStates = 64;
    const SolverAnswer coarse = *solveExact(layers, budget, tight);
    EXPECT_LE(coarse.cost, budget);
    EXPECT_GE(coarse.loss, answer.loss - 1e-12);
    EXPECT_LE(coarse.loss, solveGreedy(layers, budget)->loss);
    EXPECT_GE(coarse.loss, coarse.dualBound);
}

TEST(ExactSolver, ReportsWhatCannotBe)
{
    std::vector<SolverLayer> layers = example();
    const Error error = solveExact(layers, 2).error();
    EXPECT_EQ(error.code, "allocate.infeasible");
    EXPECT_NE(error.message.find("3 to 9"), std::string::npos) << error.message;
    EXPECT_EQ(solveExact(layers, 100)->method, "all");
    layers[1].clear();
    EXPECT_EQ(solveExact(layers, 6).error().code, "allocate.no_options");
    layers[1] = {{1, std::nan(""), 0}};
    EXPECT_EQ(solveExact(layers, 6).error().code, "allocate.utility");
}
