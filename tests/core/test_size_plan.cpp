#include "core/shapes.h"

#include "allocate/exact_solver.h"
#include "allocate/size_plan.h"
#include "base/random.h"
#include "plan/cost_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

using namespace espalier;
using espalier::test::evenShape;

namespace
{
SizeRequest randomRequest(const ModelShape& shape, std::uint64_t seed, bool ranks = true, double pruning = 3)
{
    Random random(seed);
    SizeRequest request;
    request.plan = CompressionPlan::identity(shape);
    auto curves = std::make_shared<RankCurves>();
    for (const LayerShape& layer : shape.layers) {
        const auto n = static_cast<std::size_t>(layer.experts);
        request.scores.values.rows.emplace_back();
        for (std::size_t e = 0; e < n; ++e)
            request.scores.values.rows.back().push_back(random.uniform());
        std::vector<double> steps(n);
        for (double& step : steps)
            step = pruning * random.uniform();
        std::vector<double> loss(n + 1, 0.0);
        for (std::size_t m = n; m-- > 0;)
            loss[m] = loss[m + 1] + steps[m];
        request.lossCurves.push_back(loss);
        curves->layers.emplace_back();
        for (std::size_t e = 0; e < n; ++e) {
            ExpertCurves expert;
            for (MatrixCurve& curve : expert) {
                const int size = std::min(shape.hiddenSize, layer.expertWidth);
                std::vector<double> square;
                for (int i = 0; i < size; ++i)
                    square.push_back(random.uniform() * std::exp(-0.1 * i));
                std::sort(square.rbegin(), square.rend());
                curve.error.assign(static_cast<std::size_t>(size) + 1, 0.0);
                for (std::size_t r = static_cast<std::size_t>(size); r-- > 0;)
                    curve.error[r] = curve.error[r + 1] + square[r];
            }
            curves->layers.back().push_back(expert);
        }
    }
    if (ranks) request.curves = curves;
    return request;
}

double lossOf(const CompressionPlan& plan, const SizeRequest& request)
{
    double loss = 0;
    for (int l = 0; l < plan.layerCount(); ++l) {
        const LayerPlan& layer = plan.layer(l);
        if (plan.isLocked(l)) continue;
        loss += request.lossCurves[static_cast<std::size_t>(l)][layer.kept().size()];
        for (std::size_t i = 0; i < layer.ranks().size(); ++i)
            for (std::size_t k = 0; k < 3; ++k)
                if (const int rank = layer.ranks()[i][k]; rank > 0)
                    loss += request.curves->layers[static_cast<std::size_t>(l)][static_cast<std::size_t>(layer.kept()[i])][k]
                                .error[static_cast<std::size_t>(rank)];
    }
    return loss;
}

// Every option of one layer: counts 1 and 2 of two experts, ranks 1 and dense for every matrix.
SolverLayer allOptions(const ModelShape& shape, const SizeRequest& request, int l)
{
    SolverLayer options;
    const LayerShape& layer = shape.layers[static_cast<std::size_t>(l)];
    const int most = breakEvenRank(shape.hiddenSize, layer.expertWidth);
    for (int kept = 1; kept <= layer.experts; ++kept) {
        const ExpertSet set = *rankedExperts(layer, request.plan.protectedExperts(l), kept, request.scores);
        std::vector<int> digits(static_cast<std::size_t>(3 * kept), 0);
        while (true) {
            std::vector<RankTriple> ranks;
            double loss = request.lossCurves[static_cast<std::size_t>(l)][static_cast<std::size_t>(kept)];
            for (int i = 0; i < kept; ++i) {
                RankTriple triple{};
                for (std::size_t k = 0; k < 3; ++k) {
                    triple[k] = digits[3 * static_cast<std::size_t>(i) + k];
                    if (triple[k] > 0)
                        loss += request.curves
                                    ->layers[static_cast<std::size_t>(l)][static_cast<std::size_t>(set[static_cast<std::size_t>(i)])][k]
                                    .error[static_cast<std::size_t>(triple[k])];
                }
                ranks.push_back(triple);
            }
            options.push_back({layerBytes(layer, shape.hiddenSize, LayerPlan(set, ranks)), loss, 0});
            std::size_t d = 0;
            while (d < digits.size() && ++digits[d] > most)
                digits[d++] = 0;
            if (d == digits.size()) break;
        }
    }
    return options;
}
}  // namespace

TEST(SizePlan, LiesBetweenTheDualBoundAndTheGapOfTheTrueOptimum)
{
    ModelShape shape = evenShape(3, 3, 1, 6, 5);  // break-even 2
    for (LayerShape& layer : shape.layers) {
        layer.otherBytes = 100;
        layer.otherParameters = 50;
    }
    shape.embeddingBytes = 100;
    int optimal = 0;
    int trials = 0;
    for (std::uint64_t seed = 1; seed <= 4; ++seed) {
        SizeRequest request = randomRequest(shape, seed);
        std::vector<SolverLayer> layers;
        for (int l = 0; l < 3; ++l)
            layers.push_back(allOptions(shape, request, l));
        for (const double share : {0.3, 0.45, 0.6, 0.8}) {
            request.bytes = static_cast<std::int64_t>(share * static_cast<double>(shape.bytes()));
            const SizedPlan sized = *planForBytes(shape, request);
            const SolverAnswer best = *solveExact(layers, request.bytes - shape.embeddingBytes);
            ASSERT_TRUE(best.optimal);
            EXPECT_LE(sized.bytes, request.bytes);
            EXPECT_EQ(sized.bytes, planCost(shape, sized.plan).bytes);
            EXPECT_NEAR(sized.loss, lossOf(sized.plan, request), 1e-9);
            EXPECT_LE(sized.dualBound, best.loss + 1e-9);
            EXPECT_NEAR(sized.dualBound, best.dualBound, 1e-6) << "the bound of all options, not of the profiles";
            EXPECT_GE(sized.loss, best.loss - 1e-9);
            EXPECT_LE(sized.loss, best.loss + sized.gap + 1e-9);
            ++trials;
            optimal += sized.loss <= best.loss + 1e-9;
        }
    }
    EXPECT_GE(2 * optimal, trials) << "even on instances this coarse";
}

TEST(SizePlan, GapClosesOnLargerModelsAndSizeIsMonotone)
{
    const ModelShape shape = evenShape(6, 16, 2, 64, 40);
    // Experts are dear to lose, so ranks decide: those are fine enough to close the gap, even where the count curves are rugged.
    SizeRequest request = randomRequest(shape, 40, true, 60);
    double before = std::numeric_limits<double>::infinity();
    std::int64_t others = shape.embeddingBytes;
    for (const LayerShape& layer : shape.layers)
        others += layer.otherBytes;
    for (const double share : {0.2, 0.35, 0.5, 0.75, 0.9, 1.0}) {
        request.bytes = others + static_cast<std::int64_t>(share * static_cast<double>(shape.bytes() - others));
        const SizedPlan sized = *planForBytes(shape, request);
        EXPECT_LE(sized.bytes, request.bytes);
        EXPECT_GE(sized.gap, 0);
        EXPECT_LE(sized.gap, 1e-3 * sized.loss + 1e-9) << share;
        EXPECT_LE(sized.loss, before);
        EXPECT_NEAR(sized.loss, lossOf(sized.plan, request), 1e-9);
        before = sized.loss;
    }
    EXPECT_TRUE(planForBytes(shape, request)->plan.isIdentity(shape)) << "everything fits";
    EXPECT_EQ(before, 0);
}

TEST(SizePlan, CountsAndRanksTogetherAreNeverWorseThanCountsAlone)
{
    const ModelShape shape = evenShape(4, 8, 2, 64, 40);
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
        SizeRequest both = randomRequest(shape, seed);
        SizeRequest alone = randomRequest(shape, seed, false);
        both.bytes = alone.bytes = shape.bytes() - 12 * shape.layers[0].bytesPerExpert;
        const SizedPlan counts = *planForBytes(shape, alone);
        EXPECT_FALSE(counts.plan.hasRanks());
        EXPECT_LE(planForBytes(shape, both)->loss, counts.loss + 1e-12);
        // Counts alone are the exact allocator.
        AllocationRequest allocation;
        allocation.plan = alone.plan;
        allocation.lossCurves = alone.lossCurves;
        allocation.unit = BudgetUnit::Bytes;
        allocation.target = alone.bytes;
        const std::vector<int> keep = *allocate("exact", shape, allocation, {});
        double loss = 0;
        for (std::size_t l = 0; l < keep.size(); ++l)
            loss += alone.lossCurves[l][static_cast<std::size_t>(keep[l])];
        EXPECT_NEAR(counts.loss, loss, 1e-12);
    }
}

TEST(SizePlan, LocksProtectionMultiplesAndOneCount)
{
    const ModelShape shape = evenShape(4, 8, 2, 64, 40);
    SizeRequest request = randomRequest(shape, 11);
    request.plan = *request.plan.withKept(shape, 1, {0, 2, 4, 6});
    request.plan = *request.plan.withRanks(shape, 1, std::vector<RankTriple>(4, RankTriple{3, 0, 5}));
    request.plan = request.plan.withLocked(1, true).withProtected(2, 7, true).withProtected(2, 3, true);
    request.bytes = shape.bytes() - 18 * shape.layers[0].bytesPerExpert;
    request.rankMultipleOf = 4;
    request.floor = {5, 0, 0, 0};
    request.cap = {8, 8, 8, 3};
    const SizedPlan sized = *planForBytes(shape, request);
    EXPECT_LE(sized.bytes, request.bytes);
    EXPECT_EQ(sized.plan.layer(1), request.plan.layer(1));
    EXPECT_TRUE(sized.plan.keeps(2, 7));
    EXPECT_TRUE(sized.plan.keeps(2, 3));
    EXPECT_GE(sized.plan.layer(0).kept().size(), 5u);
    EXPECT_LE(sized.plan.layer(3).kept().size(), 3u);
    for (const int l : {0, 2, 3})
        for (const RankTriple& triple : sized.plan.layer(l).ranks())
            for (const int rank : triple)
                EXPECT_EQ(rank % 4, 0);
    request.floor.clear();
    request.cap.clear();
    request.uniformCount = true;
    const SizedPlan equal = *planForBytes(shape, request);
    for (const int l : {0, 1, 2, 3})
        EXPECT_EQ(equal.plan.layer(l).kept().size(), 4u) << "the locked layer decides";
    EXPECT_GE(equal.loss, equal.dualBound);
    request.bytes = shape.bytes() / 1000;
    const Error error = planForBytes(shape, request).error();
    EXPECT_EQ(error.code, "allocate.infeasible");
    EXPECT_NE(error.message.find("feasible range"), std::string::npos) << error.message;
}

TEST(SizePlan, KeptSetsOfASearchAreTaken)
{
    const ModelShape shape = evenShape(2, 4, 1, 64, 40);
    SizeRequest request = randomRequest(shape, 5, false);
    request.lossCurves = {{NAN, NAN, 1, 1, 0}, {NAN, 9, 8, 4, 0}};
    request.keptSets = {{{}, {}, {1, 3}, {}, {}}, {}};
    request.bytes = shape.bytes() - 2 * (shape.layers[0].bytesPerExpert + shape.layers[0].routerBytesPerExpert);
    const SizedPlan sized = *planForBytes(shape, request);
    EXPECT_EQ(sized.plan.layer(0).kept(), (ExpertSet{1, 3}));
    EXPECT_EQ(sized.plan.layer(1).kept().size(), 4u);
    EXPECT_EQ(sized.loss, 1);
    request.layerWeight = {10, 0.5};
    EXPECT_EQ(planForBytes(shape, request)->plan.layer(1).kept().size(), 2u) << "a layer that matters more keeps more";
    request.lossCurves[0].assign(5, NAN);
    EXPECT_EQ(planForBytes(shape, request).error().code, "allocate.no_curves");
}
