#include "core/shapes.h"

#include "allocate/exact_solver.h"
#include "allocate/rank_rule.h"
#include "allocate/rank_split.h"
#include "base/json.h"
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
constexpr double kGib = 1024.0 * 1024 * 1024;

// E(r) of a random falling spectrum of `size` values.
MatrixCurve randomCurve(Random& random, int size, double decay)
{
    std::vector<double> square;
    for (int i = 0; i < size; ++i)
        square.push_back(random.uniform() * std::exp(-decay * i));
    std::sort(square.rbegin(), square.rend());
    MatrixCurve curve;
    curve.error.assign(static_cast<std::size_t>(size) + 1, 0.0);
    for (int r = size - 1; r >= 0; --r)
        curve.error[static_cast<std::size_t>(r)] = curve.error[static_cast<std::size_t>(r) + 1] + square[static_cast<std::size_t>(r)];
    curve.weight = 0.5 + random.uniform();
    return curve;
}

std::shared_ptr<RankCurves> randomCurves(const ModelShape& shape, std::uint64_t seed)
{
    Random random(seed);
    auto curves = std::make_shared<RankCurves>();
    for (const LayerShape& layer : shape.layers) {
        curves->layers.emplace_back();
        for (int e = 0; e < layer.experts; ++e) {
            ExpertCurves expert;
            for (MatrixCurve& curve : expert)
                curve = randomCurve(random, std::min(shape.hiddenSize, layer.expertWidth), 0.1 * random.uniform());
            curves->layers.back().push_back(expert);
        }
    }
    return curves;
}

double lossOf(const CompressionPlan& plan, const RankCurves& curves)
{
    double loss = 0;
    for (int l = 0; l < plan.layerCount(); ++l) {
        const LayerPlan& layer = plan.layer(l);
        for (std::size_t i = 0; i < layer.ranks().size(); ++i)
            for (std::size_t k = 0; k < 3; ++k)
                if (const int rank = layer.ranks()[i][k]; rank > 0) {
                    const MatrixCurve& curve = curves.layers[static_cast<std::size_t>(l)][static_cast<std::size_t>(layer.kept()[i])][k];
                    loss += curve.weight * curve.error[static_cast<std::size_t>(rank)];
                }
    }
    return loss;
}

CompressionPlan pruned(const ModelShape& shape, int kept)
{
    ExpertSet set(static_cast<std::size_t>(kept));
    std::iota(set.begin(), set.end(), 0);
    CompressionPlan plan = CompressionPlan::identity(shape);
    for (const LayerShape& layer : shape.layers)
        if (layer.moe) plan = *plan.withKept(shape, layer.index, set);
    return plan;
}

ExpertScores importanceOf(const ModelShape& shape, double value = 1.0)
{
    ExpertScores scores;
    for (const LayerShape& layer : shape.layers)
        scores.values.rows.emplace_back(static_cast<std::size_t>(layer.experts), value);
    return scores;
}

// 15.706 B parameters: a dense layer, then 26 with 64 experts and two shared ones; multi-head latent attention.
ModelShape deepseekV2Lite()
{
    ModelShape shape = evenShape(27, 64, 6, 2048, 1408);
    const std::int64_t attention = 2048LL * 3072 + 2048 * 576 + 512 + 512 * 4096 + 2048 * 2048 + 2 * 2048;
    for (LayerShape& layer : shape.layers)
        layer.otherParameters = attention + 3LL * 2048 * 2816;
    LayerShape dense;
    dense.denseWidth = 10944;
    dense.otherParameters = attention + 3LL * 2048 * 10944;
    shape.layers[0] = dense;
    for (LayerShape& layer : shape.layers)
        layer.otherBytes = 2 * layer.otherParameters;
    shape.embeddingParameters = 2LL * 102400 * 2048 + 2048;
    shape.embeddingBytes = 2 * shape.embeddingParameters;
    return shape;
}

ModelShape mixtral()
{
    ModelShape shape = evenShape(32, 8, 2, 4096, 14336);
    for (LayerShape& layer : shape.layers) {
        layer.otherParameters = 2LL * 4096 * 4096 + 2LL * 4096 * 1024 + 2 * 4096;
        layer.otherBytes = 2 * layer.otherParameters;
    }
    shape.embeddingParameters = 2LL * 32000 * 4096 + 4096;
    shape.embeddingBytes = 2 * shape.embeddingParameters;
    return shape;
}
}  // namespace

// The rank rule of MoE-I2 (arXiv 2411.01016, eq. 5).
TEST(MoeI2, WorkedExamples)
{
    EXPECT_EQ(moeI2Ranks(std::vector<double>{1, 10, 100, 1000}, 512, 2048, 1408), (std::vector<int>{283, 400, 565, 798}));
    const std::vector<int> ranks = moeI2Ranks(std::vector<double>{1, 10, 100, 10000}, 512, 2048, 1408);
    EXPECT_EQ(ranks, (std::vector<int>{275, 389, 549, 0}));
    EXPECT_EQ((275 + 389 + 549) * (2048 + 1408) + 2048 * 1408, 7075712);
}

TEST(MoeI2, EqualImportanceGivesTheAverageExactly)
{
    for (const int average : {1, 7, 512, 834})
        EXPECT_EQ(moeI2Ranks(std::vector<double>(48, 0.37), average, 2048, 1408), std::vector<int>(48, average));
    EXPECT_EQ(moeI2Ranks(std::vector<double>(6, 0.0), 3, 64, 40), std::vector<int>(6, 3)) << "experts that were never routed";
    EXPECT_EQ(moeI2Ranks(std::vector<double>(6, 1.0), 40, 64, 40), std::vector<int>(6, 0)) << "all beyond break-even";
}

TEST(MoeI2, BudgetAndCapHoldForAnyInput)
{
    Random random(3);
    for (int trial = 0; trial < 1000; ++trial) {
        const auto m = 1 + random.below(12);
        std::vector<double> importance;
        for (std::uint64_t i = 0; i < m; ++i)
            importance.push_back(std::pow(10.0, 6 * random.uniform() - 3));
        const double average = 2 + random.uniform() * 23;
        const std::vector<int> ranks = moeI2Ranks(importance, average, 64, 40, 1.5 * random.uniform());
        std::int64_t parameters = 0;
        for (const int rank : ranks) {
            EXPECT_LE(rank, 24);
            parameters += rank == 0 ? 64 * 40 : std::max(0, rank - 1) * (64 + 40);  // ranks of 1 may be shares below 1
        }
        EXPECT_LE(static_cast<double>(parameters), average * static_cast<double>(m) * (64 + 40) + 1e-6);
    }
}

TEST(MoeI2, RanksOfTheReference)
{
    for (const char* name : {"mixtral-tiny", "qwen2moe-tiny", "deepseekv2-lite-tiny"}) {
        const Json golden = *readJsonFile(std::string(ESPALIER_TEST_FIXTURES) + "/allocate/" + name + ".json", "fixture");
        const std::vector<int> layers = golden["layers"];
        const std::vector<int> experts = golden["experts"];
        const int a = golden["ranks"]["a"];
        const int b = golden["ranks"]["b"];
        ModelShape shape = evenShape(layers.back() + 1, experts[0], golden["top_k"], a, b);
        ExpertScores scores;
        scores.values.rows.resize(shape.layers.size());
        for (LayerShape& layer : shape.layers) {
            const auto it = std::find(layers.begin(), layers.end(), layer.index);
            if (it == layers.end()) {
                layer.moe = false;
                layer.experts = 0;
            } else {
                scores.values.rows[static_cast<std::size_t>(layer.index)] =
                    golden["importance"][static_cast<std::size_t>(it - layers.begin())].get<std::vector<double>>();
            }
        }
        for (const auto& [average, perLayer] : golden["ranks"]["by_average_rank"].items()) {
            CompressionPlan plan = CompressionPlan::identity(shape);
            for (const auto& [layer, expected] : perLayer.items()) {
                const auto l = static_cast<std::size_t>(std::stoi(layer));
                const ExpertSet kept = expected["kept"];
                std::vector<double> importance;
                for (const int expert : kept)
                    importance.push_back(scores.values.rows[l][static_cast<std::size_t>(expert)]);
                const std::vector<int> ranks = moeI2Ranks(importance, std::stod(average), a, b, golden["ranks"]["alpha"]);
                EXPECT_EQ(ranks, expected["ranks"].get<std::vector<int>>()) << name << " " << average << " " << layer;
                int parameters = 0;
                for (const int rank : ranks)
                    parameters += rank == 0 ? a * b : rank * (a + b);
                EXPECT_EQ(parameters, expected["parameters_per_matrix_kind"].get<int>());
                plan = *plan.withKept(shape, static_cast<int>(l), kept);
            }
            RankRequest request;
            request.averageRank = std::stod(average);
            request.importance = scores;
            const CompressionPlan ranked = *assignRanks(shape, plan, "moe-i2", request, {});
            for (const auto& [layer, expected] : perLayer.items()) {
                const LayerPlan& layerPlan = ranked.layer(std::stoi(layer));
                const std::vector<int> ranks = expected["ranks"];
                for (std::size_t i = 0; i < ranks.size(); ++i) {
                    // A rank that is exactly break-even costs what the dense matrix costs: the plan says dense.
                    const int rank = ranks[i] > breakEvenRank(a, b) ? 0 : ranks[i];
                    const RankTriple triple = layerPlan.ranks().empty() ? RankTriple{} : layerPlan.ranks()[i];
                    EXPECT_EQ(triple, (RankTriple{rank, rank, rank})) << name << " " << average << " " << layer;
                }
            }
        }
    }
}

TEST(AverageRank, ShareAndAutomaticRank)
{
    EXPECT_NEAR(shareForAverageRank(2048, 1408, 512), 0.3864, 5e-5);
    EXPECT_NEAR(shareForAverageRank(4096, 14336, 2048), 0.3571, 5e-5);
    EXPECT_NEAR(averageRankForShare(2048, 1408, 0.37), 525.65, 0.01);
    for (const double share : {0.0, 0.1, 0.37, 0.9})
        EXPECT_NEAR(shareForAverageRank(2048, 768, averageRankForShare(2048, 768, share)), share, 1e-12);
    EXPECT_EQ(autoAverageRank(2048, 1408), 512);
    EXPECT_EQ(autoAverageRank(4096, 14336), 2048);
    EXPECT_EQ(autoAverageRank(2048, 768), 384);
    EXPECT_EQ(autoAverageRank(64, 40), 16);
    EXPECT_EQ(autoAverageRank(2, 2), 1);
}

// From shapes alone.
TEST(RankRules, TotalsOfThePaper)
{
    const ModelShape deepseek = deepseekV2Lite();
    EXPECT_EQ(deepseek.parameters(), 15706484224);
    EXPECT_NEAR(static_cast<double>(deepseek.bytes()) / kGib, 29.26, 0.005);
    for (const char* rule : {"moe-i2", "uniform"}) {
        RankRequest request;  // auto: 512
        request.importance = importanceOf(deepseek);
        const CompressionPlan plan = *assignRanks(deepseek, pruned(deepseek, 48), rule, request, {});
        EXPECT_EQ(plan.layer(3).ranks().front(), (RankTriple{512, 512, 512}));
        EXPECT_NEAR(planCost(deepseek, plan).expertParametersRemoved(), 0.539773, 5e-7);
        EXPECT_NEAR(static_cast<double>(planCost(deepseek, plan).bytes) / kGib, 14.78, 0.01);
    }
    const ModelShape mix = mixtral();
    EXPECT_EQ(mix.parameters(), 1605636096 + 45097156608);
    EXPECT_NEAR(static_cast<double>(mix.bytes()) / kGib, 86.99, 0.005);
    EXPECT_NEAR(static_cast<double>(planCost(mix, pruned(mix, 6)).bytes) / kGib, 65.99, 0.005);
    RankRequest request;
    request.importance = importanceOf(mix);
    const CompressionPlan plan = *assignRanks(mix, pruned(mix, 6), "moe-i2", request, {});
    EXPECT_NEAR(planCost(mix, plan).expertParametersRemoved(), 0.517857, 5e-7);
    EXPECT_NEAR(static_cast<double>(planCost(mix, plan).bytes) / kGib, 43.49, 0.005);
    EXPECT_NEAR(static_cast<double>(planCost(mix, plan).parameters) / 1e9, 23.349, 0.001);
}

TEST(RankRules, LockedLayersAndFactorsOfThePlan)
{
    const ModelShape shape = evenShape(3, 4, 2, 64, 40);
    CompressionPlan plan = pruned(shape, 3);
    plan = *plan.withRanks(shape, 1, std::vector<RankTriple>(3, RankTriple{5, 6, 7}));
    plan = plan.withLocked(1, true);
    RankRequest request;
    request.averageRank = 10;
    request.importance = importanceOf(shape);
    request.factors = {"whitened-svd", "abc"};
    const CompressionPlan ranked = *assignRanks(shape, plan, "moe-i2", request, {});
    EXPECT_EQ(ranked.layer(0).ranks().front(), (RankTriple{10, 10, 10}));
    EXPECT_EQ(ranked.layer(1).ranks().front(), (RankTriple{5, 6, 7}));
    EXPECT_TRUE(ranked.isLocked(1));
    EXPECT_EQ(ranked.factors().method, "whitened-svd");
    request.averageRank = 25;
    EXPECT_TRUE(assignRanks(shape, plan, "uniform", request, {})->layer(0).ranks().empty()) << "beyond break-even: dense";
}

TEST(RankRules, RefuseWhatMakesNoSense)
{
    const ModelShape shape = evenShape(2, 4, 2, 64, 40);
    const CompressionPlan plan = CompressionPlan::identity(shape);
    RankRequest request;
    EXPECT_EQ(assignRanks(shape, plan, "moe-i2", request, {}).error().code, "allocate.no_importance");
    EXPECT_EQ(assignRanks(shape, plan, "exact", request, {}).error().code, "allocate.no_curves");
    EXPECT_EQ(assignRanks(shape, plan, "best", request, {}).error().code, "method.unknown");
    EXPECT_EQ(assignRanks(shape, plan, "uniform", request, {{"alpha", 1}}).error().code, "method.bad_parameter");
    request.decomposeShare = 1.0;
    EXPECT_EQ(assignRanks(shape, plan, "uniform", request, {}).error().code, "rank.bad_target");
    request.decomposeShare = 0.5;
    request.averageRank = 3;
    EXPECT_EQ(assignRanks(shape, plan, "uniform", request, {}).error().code, "rank.bad_target");
    request.decomposeShare.reset();
    request.averageRank = std::nan("");
    EXPECT_EQ(assignRanks(shape, plan, "uniform", request, {}).error().code, "rank.bad_target");
    for (const MethodInfo& rule : rankRules())
        EXPECT_EQ(rule.slot, Slot::RankRule);
}

TEST(RankRules, SizeIsMetFromBelow)
{
    const ModelShape shape = evenShape(3, 6, 2, 64, 40);
    const CompressionPlan plan = pruned(shape, 5);
    RankRequest request;
    request.importance = importanceOf(shape);
    request.importance.values.rows[1] = {1, 10, 100, 1000, 3, 1};
    request.curves = randomCurves(shape, 4);
    const std::int64_t dense = planCost(shape, plan).bytes;
    for (const MethodInfo& rule : rankRules()) {
        double before = std::numeric_limits<double>::infinity();
        for (const double share : {0.3, 0.5, 0.8, 0.99}) {
            const auto experts = static_cast<std::int64_t>(15 * shape.layers[0].bytesPerExpert);
            request.bytes = dense - static_cast<std::int64_t>((1 - share) * static_cast<double>(experts));
            const CompressionPlan ranked = *assignRanks(shape, plan, rule.id, request, {});
            const std::int64_t bytes = planCost(shape, ranked).bytes;
            EXPECT_LE(bytes, *request.bytes) << rule.id;
            EXPECT_GE(bytes, *request.bytes - experts / 12) << rule.id;
            const double loss = lossOf(ranked, *request.curves);
            EXPECT_LE(loss, before) << rule.id;
            before = loss;
        }
        request.bytes = dense;
        EXPECT_FALSE(assignRanks(shape, plan, rule.id, request, {})->hasRanks());
        request.bytes = dense / 1000;
        const Error error = assignRanks(shape, plan, rule.id, request, {}).error();
        EXPECT_EQ(error.code, "allocate.infeasible");
        EXPECT_NE(error.message.find(std::to_string(dense)), std::string::npos) << error.message;
    }
}

// Without the dense form the best split takes singular values in descending weighted square.
TEST(RankSplit, TakesTheLargestValuesFirst)
{
    Random random(19);
    for (int trial = 0; trial < 50; ++trial) {
        std::vector<MatrixCurve> curves;
        for (int i = 0; i < 6; ++i)
            curves.push_back(randomCurve(random, 30, 0.2));
        std::vector<SplitMatrix> matrices;
        std::vector<double> gains;
        for (const MatrixCurve& curve : curves) {
            matrices.push_back({curve.error, curve.weight, 70, 1 << 20, 20});
            for (std::size_t r = 1; r < 20; ++r)
                gains.push_back(curve.weight * (curve.error[r] - curve.error[r + 1]));
        }
        std::sort(gains.rbegin(), gains.rend());
        const int extra = static_cast<int>(random.below(100));
        double loss = 0;
        for (const MatrixCurve& curve : curves)
            loss += curve.weight * curve.error[1];
        for (int i = 0; i < extra; ++i)
            loss -= gains[static_cast<std::size_t>(i)];
        const RankSplit split = *splitRanks(matrices, 70 * (6 + extra));
        EXPECT_NEAR(split.loss, loss, 1e-9);
        EXPECT_EQ(split.cost, 70 * (6 + extra));
    }
}

TEST(RankSplit, EqualsTheSolverWithDenseForms)
{
    Random random(23);
    for (int trial = 0; trial < 100; ++trial) {
        std::vector<MatrixCurve> curves;
        for (int i = 0; i < 5; ++i)
            curves.push_back(randomCurve(random, 12, 0.4 * random.uniform()));
        std::vector<SplitMatrix> matrices;
        for (const MatrixCurve& curve : curves)
            matrices.push_back({curve.error, curve.weight, 32, 200, 6});
        const int step = 1 + static_cast<int>(random.below(3));
        const std::int64_t budget = 5 * 32 * step + static_cast<std::int64_t>(random.below(600));
        double best = std::numeric_limits<double>::infinity();
        std::vector<int> options = {0};
        for (int r = step; r <= 6; r += step)
            options.push_back(r);
        const auto n = options.size();
        for (std::size_t code = 0; code < n * n * n * n * n; ++code) {
            std::size_t rest = code;
            std::int64_t cost = 0;
            double loss = 0;
            for (const SplitMatrix& matrix : matrices) {
                const int rank = options[rest % n];
                rest /= n;
                cost += matrix.cost(rank);
                loss += matrix.loss(rank);
            }
            if (cost <= budget) best = std::min(best, loss);
        }
        const RankSplit split = *splitRanks(matrices, budget, step);
        EXPECT_NEAR(split.loss, best, 1e-9);
        EXPECT_LE(split.cost, budget);
        EXPECT_LE(split.dualBound, best + 1e-9);
        for (const int rank : split.ranks)
            EXPECT_EQ(rank % step, 0);
    }
    EXPECT_EQ(splitRanks({SplitMatrix{std::vector<double>{1, 0}, 1, 32, 200, 1}}, 31).error().code, "allocate.infeasible");
}

TEST(ExactRanks, BeatTheOtherRulesAtEqualBudget)
{
    const ModelShape shape = evenShape(4, 8, 2, 64, 40);
    const CompressionPlan plan = pruned(shape, 6);
    RankRequest request;
    request.importance = importanceOf(shape);
    request.curves = randomCurves(shape, 8);
    for (const double average : {4.0, 10.0, 16.0, 22.0}) {
        request.averageRank = average;
        const CompressionPlan exact = *assignRanks(shape, plan, "exact", request, {});
        const CompressionPlan layered = *assignRanks(shape, plan, "exact", request, {{"scope", "layer"}});
        const CompressionPlan uniform = *assignRanks(shape, plan, "uniform", request, {});
        const std::int64_t parameters = planCost(shape, uniform).expertParameters;
        EXPECT_LE(planCost(shape, exact).expertParameters, parameters);
        EXPECT_LE(planCost(shape, layered).expertParameters, parameters);
        EXPECT_LE(lossOf(exact, *request.curves), lossOf(layered, *request.curves) + 1e-9);
        EXPECT_LT(lossOf(layered, *request.curves), lossOf(uniform, *request.curves));
        for (const LayerShape& layer : shape.layers)
            EXPECT_LE(layerParameters(layer, shape.hiddenSize, layered.layer(layer.index)),
                      layerParameters(layer, shape.hiddenSize, uniform.layer(layer.index)));
    }
    request.averageRank = 12;
    const CompressionPlan eights = *assignRanks(shape, plan, "exact", request, {{"multiple_of", 8}});
    for (int l = 0; l < 4; ++l)
        for (const RankTriple& triple : eights.layer(l).ranks())
            for (const int rank : triple)
                EXPECT_EQ(rank % 8, 0);
}
