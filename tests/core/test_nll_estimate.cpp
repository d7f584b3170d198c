#include "score/nll_estimate.h"

#include "core/profile_fixture.h"
#include "plan/routing.h"

#include <gtest/gtest.h>

#include <cmath>
#include <optional>

namespace espalier
{

namespace
{

using test::MadeLayer;

// A profile of made layers with random gradients, and the gradients themselves.
struct Made {
    ProfileData data;
    std::vector<MadeLayer> layers;
    std::vector<std::vector<std::vector<double>>> gradients;  // [layer][token][width]

    Made(std::vector<RouterShape> routers, int experts, int tokens, int length, int windows, bool drawn = false)
    {
        Random random(99);
        data.shape.hiddenSize = 7;
        data.tokens = tokens;
        data.windows = windows;
        data.windowLength = tokens / windows;
        for (std::size_t l = 0; l < routers.size(); ++l) {
            MadeLayer made = test::madeLayer(routers[l].rule == RoutingRule::GroupLimitedSoftmax ? RoutingRule::Softmax : routers[l].rule,
                                             experts, routers[l].topK, tokens, length, 5 + l, routers[l].scaling);
            made.router = routers[l];
            made.profile.layer = static_cast<int>(l);
            gradients.emplace_back();
            GradientStore& store = made.profile.gradients;
            store.tokens = tokens;
            for (int t = 0; t < tokens; ++t) {
                store.window.push_back(t / data.windowLength);
                std::vector<double> g;
                for (int c = 0; c < made.width; ++c) {
                    g.push_back(0.2 * random.uniform() - 0.1);
                    store.squared += g.back() * g.back();
                }
                for (int i = 0; i < made.profile.gram.listLength; ++i) {
                    const std::size_t e =
                        made.profile.gram.list[static_cast<std::size_t>(t) * static_cast<std::size_t>(made.profile.gram.listLength) +
                                               static_cast<std::size_t>(i)];
                    const auto& y = made.outputs[static_cast<std::size_t>(t * experts) + e];
                    store.products.push_back(static_cast<float>(std::inner_product(g.begin(), g.end(), y.begin(), 0.0)));
                    if (drawn) store.drawnProducts.push_back(static_cast<float>(random.uniform() - 0.5));
                }
                gradients.back().push_back(std::move(g));
            }
            store.drawnSquared = drawn ? 3.0 : 0.0;
            LayerShape shape;
            shape.index = static_cast<int>(l);
            shape.moe = true;
            shape.experts = experts;
            shape.router = routers[l];
            shape.expertWidth = 40;
            data.shape.layers.push_back(shape);
            layers.push_back(std::move(made));
        }
        refresh();
    }
    void refresh()
    {
        data.layers.clear();
        for (const MadeLayer& made : layers)
            data.layers.push_back(made.profile);
    }
    // g . delta of a token with vectors; nothing where the list does not hold what is selected.
    std::optional<double> direct(std::size_t layer, std::size_t token, const std::vector<int>& kept) const
    {
        const MadeLayer& made = layers[layer];
        const auto n = static_cast<std::size_t>(made.profile.experts);
        const auto length = static_cast<std::size_t>(made.profile.gram.listLength);
        const std::uint16_t* list = made.profile.gram.list.data() + token * length;
        std::vector<double> delta(static_cast<std::size_t>(made.width), 0.0);
        const auto add = [&](const Routing& routing, double sign) {
            for (std::size_t i = 0; i < routing.experts.size(); ++i) {
                if (std::find(list, list + length, routing.experts[i]) == list + length) return false;
                for (std::size_t c = 0; c < delta.size(); ++c)
                    delta[c] += sign * routing.weights[i] * made.outputs[token * n + static_cast<std::size_t>(routing.experts[i])][c];
            }
            return true;
        };
        const std::span<const float> logits(made.profile.gram.logits.data() + token * n, n);
        if (!add(route(made.router, logits, kept), 1) || !add(route(made.router, logits), -1)) return std::nullopt;
        return std::inner_product(delta.begin(), delta.end(), gradients[layer][token].begin(), 0.0);
    }
    // What the whole routed output is worth.
    double whole(std::size_t layer, std::size_t token) const
    {
        const MadeLayer& made = layers[layer];
        const auto n = static_cast<std::size_t>(made.profile.experts);
        const Routing routing = route(made.router, {made.profile.gram.logits.data() + token * n, n});
        double sum = 0;
        for (std::size_t i = 0; i < routing.experts.size(); ++i) {
            const auto& y = made.outputs[token * n + static_cast<std::size_t>(routing.experts[i])];
            sum += routing.weights[i] * std::inner_product(y.begin(), y.end(), gradients[layer][token].begin(), 0.0);
        }
        return sum;
    }
};

std::unique_ptr<NllEstimator> estimatorOf(const ProfileData& data)
{
    auto estimator = NllEstimator::create(data);
    if (!estimator.ok()) throw std::runtime_error(estimator.error().describe());
    return std::move(estimator).value();
}

NllEstimate estimated(NllEstimator& estimator, const CompressionPlan& plan)
{
    auto estimate = estimator.estimate(plan);
    if (!estimate.ok()) throw std::runtime_error(estimate.error().describe());
    return std::move(estimate).value();
}

CompressionPlan keeping(const ModelShape& shape, const CompressionPlan& plan, int layer, const std::vector<int>& kept)
{
    auto changed = plan.withKept(shape, layer, kept);
    if (!changed.ok()) throw std::runtime_error(changed.error().describe());
    return *changed;
}

const RouterShape kRenormalised{.rule = RoutingRule::SoftmaxRenormalised, .topK = 3};
const RouterShape kSoftmax{.rule = RoutingRule::Softmax, .topK = 3};
const RouterShape kScaled{.rule = RoutingRule::Softmax, .topK = 2, .scaling = 2.5};
const RouterShape kGrouped{.rule = RoutingRule::GroupLimitedSoftmax, .topK = 2, .groups = 4, .topGroups = 2, .scaling = 2.0};

// Two logits o = w1 (1,0) + w2 (0,1), label 0, w = (.6, .4), by hand.
TEST(NllEstimate, WorkedExample)
{
    ProfileData data;
    data.shape.hiddenSize = 2;
    LayerShape shape;
    shape.moe = true;
    shape.experts = 2;
    shape.router = {.rule = RoutingRule::SoftmaxRenormalised, .topK = 2};
    shape.expertWidth = 2;
    data.shape.layers = {shape};
    data.tokens = 2;
    data.windows = 1;
    LayerProfile layer;
    layer.experts = 2;
    layer.count = {2, 2};
    layer.gram.listLength = 2;
    // The second position is the last of its window: nothing is scored there, its gradient is zero.
    layer.gram.tokens = {0, 1};
    layer.gram.list = {0, 1, 0, 1};
    layer.gram.logits = {std::log(0.6f), std::log(0.4f), std::log(0.6f), std::log(0.4f)};
    layer.gram.products.assign(6, 1.0);
    const double p0 = 1 / (1 + std::exp(0.4 - 0.6));
    EXPECT_NEAR(p0, .549834, 1e-6);
    layer.gradients.products = {static_cast<float>(p0 - 1), static_cast<float>(1 - p0), 0, 0};
    layer.gradients.window = {0, 0};
    layer.gradients.squared = 0.4;
    layer.gradients.tokens = 2;
    data.layers = {layer};
    const auto estimator = estimatorOf(data);
    const auto plan = [&](int keep) {
        auto made = planFromJson({{"version", 1}, {"layers", {{{"layer", 0}, {"kept", {keep}}, {"top_k", 1}}}}}, data.shape);
        if (!made.ok()) throw std::runtime_error(made.error().describe());
        return *made;
    };
    const auto exact = [&](double w0, double w1) { return std::log(1 + std::exp(w1 - w0)) - std::log(1 + std::exp(0.4 - 0.6)); };

    const NllEstimate second = estimated(*estimator, plan(0));
    EXPECT_NEAR(second.e1, -.360133, 1e-6);
    EXPECT_NEAR(second.e1 + second.e2, -.295285, 1e-6);
    EXPECT_NEAR(exact(1, 0), -.284877, 1e-6);
    const NllEstimate first = estimated(*estimator, plan(1));
    EXPECT_NEAR(first.e1, .540199, 1e-6);
    EXPECT_NEAR(first.e1 + first.e2, .686107, 1e-6);
    EXPECT_NEAR(exact(0, 1), .715123, 1e-6);

    // Half the step divides the error of the slope by about four.
    const auto error = [&](double step) { return std::abs(step * second.e1 - exact(0.6 + 0.4 * step, 0.4 - 0.4 * step)); };
    for (const double step : {1.0, 0.5, 0.25})
        EXPECT_NEAR(error(step) / error(step / 2), 4, 0.3) << step;
}

TEST(NllEstimate, ProductsGiveTheSameAsVectors)
{
    const Made made({kRenormalised, kSoftmax, kScaled, kGrouped}, 12, 600, 12, 20);
    const ModelShape& shape = made.data.shape;
    const auto estimator = estimatorOf(made.data);
    Random random(3);
    for (int trial = 0; trial < 20; ++trial) {
        CompressionPlan plan = CompressionPlan::identity(shape);
        double e1 = 0, e2 = 0;
        std::vector<double> byWindow(20, 0.0);
        for (int l = 0; l < 4; ++l) {
            std::vector<int> kept;
            if (l == 3) {  // equally many of each group of three
                for (int group = 0; group < 4; ++group) {
                    const int out = static_cast<int>(random.below(3));
                    for (int e = 0; e < 3; ++e)
                        if (e != out) kept.push_back(3 * group + e);
                }
            } else {
                const int keep = 3 + static_cast<int>(random.below(9));
                for (int e = 0; e < 12; ++e)
                    if (static_cast<int>(random.below(static_cast<std::uint64_t>(12 - e))) < keep - static_cast<int>(kept.size()))
                        kept.push_back(e);
            }
            plan = keeping(shape, plan, l, kept);
            for (std::size_t t = 0; t < 600; ++t) {
                const double u = made.direct(static_cast<std::size_t>(l), t, kept).value();
                e1 += u;
                e2 += u * u / 2;
                byWindow[t / 30] += u;
            }
        }
        const double scored = 600 - 20;
        const NllEstimate estimate = estimated(*estimator, plan);
        EXPECT_NEAR(estimate.e1, e1 / scored, 1e-6);
        EXPECT_NEAR(estimate.e2, e2 / scored, 1e-6 * (1 + e2 / scored));
        EXPECT_EQ(estimate.uncoveredFraction, 0);
        double spread = 0;
        for (const double u : byWindow)
            spread += (u - e1 / 20) * (u - e1 / 20);
        EXPECT_NEAR(estimate.e1Error, std::sqrt(20.0 / 19.0 * spread) / scored, 1e-6);
        double sum1 = 0, sum2 = 0;
        for (const NllEstimate::Layer& layer : estimate.layers) {
            sum1 += layer.e1;
            sum2 += layer.e2;
        }
        EXPECT_NEAR(sum1, estimate.e1, 1e-12);
        EXPECT_NEAR(sum2, estimate.e2, 1e-12);
    }
}

TEST(NllEstimate, NothingRemovedIsZero)
{
    const Made made({kRenormalised, kSoftmax, kGrouped}, 12, 64, 6, 4);
    const auto estimator = estimatorOf(made.data);
    const NllEstimate estimate = estimated(*estimator, CompressionPlan::identity(made.data.shape));
    EXPECT_EQ(estimate.e1, 0);
    EXPECT_EQ(estimate.e2, 0);
    EXPECT_EQ(estimate.e1Error, 0);
    EXPECT_EQ(estimate.uncoveredFraction, 0);
    EXPECT_EQ(estimate.layers.size(), 3u);
}

// An expert that no token selects costs nothing where weights are renormalised; elsewhere it leaves every denominator.
TEST(NllEstimate, UnusedExperts)
{
    Made made({kRenormalised, kSoftmax}, 6, 80, 6, 4);
    for (MadeLayer& layer : made.layers)
        for (std::size_t t = 0; t < 80; ++t) {
            layer.profile.gram.logits[t * 6 + 5] = -9;
            std::uint16_t* list = layer.profile.gram.list.data() + t * 6;
            std::rotate(std::find(list, list + 6, 5), std::find(list, list + 6, 5) + 1, list + 6);
        }
    made.refresh();
    const auto estimator = estimatorOf(made.data);
    const CompressionPlan identity = CompressionPlan::identity(made.data.shape);
    EXPECT_NEAR(estimated(*estimator, keeping(made.data.shape, identity, 0, {0, 1, 2, 3, 4})).e1, 0, 1e-8);
    EXPECT_NE(estimated(*estimator, keeping(made.data.shape, identity, 1, {0, 1, 2, 3, 4})).e1, 0);
}

TEST(NllEstimate, UncoveredTokensAreChargedAndCounted)
{
    // Lists of four, three of which are used: removing two or more uncovers tokens.
    for (const RouterShape& router : {kRenormalised, kSoftmax, kScaled}) {
        const Made made({router}, 8, 400, router.topK + 1, 10);
        const auto estimator = estimatorOf(made.data);
        const std::vector<int> kept{0, 2, 5, 6};
        double e1 = 0, e2 = 0;
        int uncovered = 0;
        for (std::size_t t = 0; t < 400; ++t) {
            const auto direct = made.direct(0, t, kept);
            uncovered += direct ? 0 : 1;
            const double u = direct ? *direct : -made.whole(0, t);
            e1 += u;
            e2 += u * u / 2;
        }
        EXPECT_GT(uncovered, 20);
        const NllEstimate estimate = estimated(*estimator, keeping(made.data.shape, CompressionPlan::identity(made.data.shape), 0, kept));
        EXPECT_NEAR(estimate.e1, e1 / 390, 1e-6);
        EXPECT_NEAR(estimate.e2, e2 / 390, 1e-6);
        EXPECT_DOUBLE_EQ(estimate.uncoveredFraction, uncovered / 400.0);
        EXPECT_DOUBLE_EQ(estimate.layers[0].uncoveredFraction, uncovered / 400.0);
    }
}

TEST(NllEstimate, SampledTokensStandForAll)
{
    Made made({kRenormalised}, 8, 120, 8, 4);
    const CompressionPlan plan = keeping(made.data.shape, CompressionPlan::identity(made.data.shape), 0, {0, 1, 2, 4, 6, 7});
    const NllEstimate all = estimated(*estimatorOf(made.data), plan);
    // The same tokens, said to be a quarter of the text.
    made.data.tokens = 480;
    made.data.windows = 16;
    const NllEstimate quarter = estimated(*estimatorOf(made.data), plan);
    EXPECT_NEAR(quarter.e1, all.e1 * 4 * 116 / 464, 1e-12);
    EXPECT_NEAR(quarter.e2, all.e2 * 4 * 116 / 464, 1e-12);
}

TEST(NllEstimate, DrawnLabelsGiveTheCurvature)
{
    const Made plain({kRenormalised, kSoftmax}, 8, 200, 8, 4);
    Made drawn({kRenormalised, kSoftmax}, 8, 200, 8, 4, true);
    CompressionPlan plan = keeping(plain.data.shape, CompressionPlan::identity(plain.data.shape), 0, {0, 1, 2, 4, 6, 7});
    plan = keeping(plain.data.shape, plan, 1, {1, 2, 3, 4, 6});
    // The drawn products in place of the others: their curvature, and the slope of the text.
    for (MadeLayer& layer : drawn.layers)
        layer.profile.gradients.products = layer.profile.gradients.drawnProducts;
    Made both = plain;
    for (std::size_t l = 0; l < 2; ++l)
        both.layers[l].profile.gradients.drawnProducts = drawn.layers[l].profile.gradients.products;
    both.refresh();
    for (MadeLayer& layer : drawn.layers)
        layer.profile.gradients.drawnProducts.clear();
    drawn.refresh();
    EXPECT_EQ(estimated(*estimatorOf(both.data), plan).e2, estimated(*estimatorOf(drawn.data), plan).e2);
}

TEST(NllEstimate, RanksAddTheErrorOfTheirCurves)
{
    Made made({kRenormalised, kSoftmax}, 8, 100, 8, 4);
    LayerProfile& layer = made.layers[1].profile;
    layer.spectrumLength = 7;
    for (int i = 0; i < 8 * 3 * 7; ++i) {
        const int group = i / 21;
        layer.spectra.push_back(static_cast<float>(10 - i % 7) / static_cast<float>(1 + group));
    }
    layer.weightSquared.assign(8, 12.0);
    layer.gateGain.assign(8, 3.0);
    layer.upGain.assign(8, 2.0);
    layer.gainTokens.assign(8, 4);
    made.refresh();
    const ModelShape& shape = made.data.shape;
    const auto estimator = estimatorOf(made.data);
    std::vector<RankTriple> ranks(8, RankTriple{0, 0, 0});
    ranks[2] = {3, 0, 5};
    ranks[6] = {0, 2, 0};
    const auto plan = CompressionPlan::identity(shape).withRanks(shape, 1, ranks);
    ASSERT_TRUE(plan.ok()) << plan.error().describe();
    double error = 0;
    for (const auto& [expert, matrix, rank] : {std::tuple{2, 0, 3}, {2, 2, 5}, {6, 1, 2}})
        error += layer.errorCurve(expert, matrix)[static_cast<std::size_t>(rank)] * layer.outputGain(expert, matrix);
    EXPECT_GT(error, 0);
    const double expected = 0.5 * error * layer.gradients.squared / 100 / 7 / 96;
    const NllEstimate estimate = estimated(*estimator, *plan);
    EXPECT_EQ(estimate.e1, 0);
    EXPECT_NEAR(estimate.e2, expected, 1e-12 * expected);
    EXPECT_EQ(estimate.e2, estimate.ranks);
    EXPECT_EQ(estimate.layers[1].e2, estimate.e2);
    // Ranks and removed experts add up.
    const auto both = plan->withKept(shape, 0, {0, 1, 2, 4, 6, 7});
    ASSERT_TRUE(both.ok());
    const NllEstimate pruned = estimated(*estimator, keeping(shape, CompressionPlan::identity(shape), 0, {0, 1, 2, 4, 6, 7}));
    EXPECT_NEAR(estimated(*estimator, *both).e2, pruned.e2 + expected, 1e-12);

    const auto without = CompressionPlan::identity(shape).withRanks(shape, 0, ranks);
    ASSERT_TRUE(without.ok());
    EXPECT_EQ(estimator->estimate(*without).error().code, "profile.missing_statistics");
}

TEST(NllEstimate, EditsEqualAFreshStart)
{
    const Made made({kRenormalised, kSoftmax, kScaled}, 10, 300, 10, 10);
    const ModelShape& shape = made.data.shape;
    const auto estimator = estimatorOf(made.data);
    Random random(8);
    CompressionPlan plan = CompressionPlan::identity(shape);
    for (int edit = 0; edit < 40; ++edit) {
        const int layer = static_cast<int>(random.below(3));
        const int expert = static_cast<int>(random.below(10));
        std::vector<int> kept = plan.layer(layer).kept();
        const auto at = std::find(kept.begin(), kept.end(), expert);
        if (at == kept.end())
            kept.insert(std::lower_bound(kept.begin(), kept.end(), expert), expert);
        else if (kept.size() > 3)
            kept.erase(at);
        plan = keeping(shape, plan, layer, kept);
        const NllEstimate now = estimated(*estimator, plan);
        const NllEstimate fresh = estimated(*estimatorOf(made.data), plan);
        EXPECT_EQ(now.e1, fresh.e1);
        EXPECT_EQ(now.e2, fresh.e2);
        EXPECT_EQ(now.e1Error, fresh.e1Error);
    }
}

TEST(NllEstimate, NeedsGradients)
{
    Made made({kRenormalised}, 8, 40, 8, 2);
    const auto estimator = estimatorOf(made.data);
    EXPECT_EQ(estimator->estimate(CompressionPlan()).error().code, "plan.unknown_layer");
    made.layers[0].profile.gradients = {};
    made.refresh();
    const auto without = NllEstimator::create(made.data);
    ASSERT_FALSE(without.ok());
    EXPECT_EQ(without.error().code, "profile.missing_statistics");
}

TEST(EstimateCalibration, FindsTheFactors)
{
    std::vector<EstimatePair> pairs;
    EXPECT_EQ(calibrateEstimates(pairs).change(0.3, 0.2), 0.5);
    Random random(4);
    for (int i = 0; i < 400; ++i) {
        const double e1 = random.uniform() - 0.3, e2 = 0.5 * random.uniform();
        pairs.push_back({e1, e2, 0.7 * e1 + 1.8 * e2});
    }
    const EstimateCalibration fit = calibrateEstimates(pairs);
    EXPECT_NEAR(fit.beta1, 0.7, 0.01);
    EXPECT_NEAR(fit.beta2, 1.8, 0.02);
    EXPECT_LT(fit.residual, 0.01);
    EXPECT_GT(fit.rankCorrelation, 0.99);
    EXPECT_EQ(fit.pairs, 400);
    EXPECT_TRUE(fit.calibrated());
    EXPECT_STREQ(fit.label(), "estimate");
    // Noise of a known size is the band.
    for (EstimatePair& pair : pairs)
        pair.exact += 0.1 * (2 * random.uniform() - 1);
    EXPECT_NEAR(calibrateEstimates(pairs).residual, 0.1 / std::sqrt(3.0), 0.005);
}

TEST(EstimateCalibration, FewPairsStayNearOne)
{
    const EstimatePair one[] = {{0.1, 0.2, 0.9}};
    const EstimateCalibration fit = calibrateEstimates(one);
    // One pair weighs as much as the ridge: beta (e1, e2) moves along both, half-way at most.
    EXPECT_GT(fit.beta1, 1);
    EXPECT_GT(fit.beta2, 1);
    EXPECT_GT(fit.change(0.1, 0.2), 0.3);
    EXPECT_LT(fit.change(0.1, 0.2), 0.9);
    EXPECT_TRUE(std::isnan(fit.residual));
    EXPECT_TRUE(std::isnan(fit.rankCorrelation));
    EXPECT_STREQ(fit.label(), "estimate, uncalibrated");
    std::vector<EstimatePair> seven(7, one[0]);
    EXPECT_FALSE(calibrateEstimates(seven).calibrated());
    seven.push_back(one[0]);
    EXPECT_TRUE(calibrateEstimates(seven).calibrated());
    // Plans that change nothing say nothing.
    const std::vector<EstimatePair> nothing(3, EstimatePair{});
    EXPECT_EQ(calibrateEstimates(nothing).beta1, 1);
    EXPECT_EQ(calibrateEstimates(nothing).beta2, 1);
}

TEST(EstimateCalibration, FactorsAreNotNegative)
{
    std::vector<EstimatePair> pairs;
    Random random(4);
    for (int i = 0; i < 100; ++i) {
        const double e1 = random.uniform() - 0.5, e2 = random.uniform();
        pairs.push_back({e1, e2, -2 * e1 + e2});
    }
    const EstimateCalibration fit = calibrateEstimates(pairs);
    EXPECT_EQ(fit.beta1, 0);
    EXPECT_NEAR(fit.beta2, 1, 0.1);
    for (EstimatePair& pair : pairs)
        pair.exact = -pair.e2;
    const EstimateCalibration falling = calibrateEstimates(pairs);
    EXPECT_EQ(falling.beta2, 0);
    EXPECT_GE(falling.beta1, 0);
}

TEST(RankCorrelation, TiesAndExtremes)
{
    const std::vector<double> a{1, 2, 3, 4}, b{10, 20, 20, 50}, c{4, 3, 2, 1}, flat(4, 1.0);
    EXPECT_DOUBLE_EQ(rankCorrelation(a, c), -1);
    EXPECT_DOUBLE_EQ(rankCorrelation(a, a), 1);
    EXPECT_NEAR(rankCorrelation(a, b), 4.5 / std::sqrt(5 * 4.5), 1e-12);
    EXPECT_TRUE(std::isnan(rankCorrelation(a, flat)));
    EXPECT_TRUE(std::isnan(rankCorrelation(std::vector<double>{1, 2}, std::vector<double>{1, 2})));
}

}  // namespace

}  // namespace espalier
