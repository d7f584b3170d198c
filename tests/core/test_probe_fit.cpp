#include "score/probe_fit.h"

#include "base/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace espalier
{

namespace
{

// A model whose loss follows the form, or nearly, with layers of very different weight.
struct Planted {
    std::vector<double> weight = {3.0, 0.11, 0.06, 0.3, 0.9};
    double power = 1.0;
    double across = 1.0;
    double scatter = 0;  // of the logarithm, beside the form
    double noise = 0;    // of a measurement
    Random random{7};

    std::size_t layers() const { return weight.size(); }
    double normal()
    {
        const double u = std::max(random.uniform(), 1e-12);
        return std::sqrt(-2 * std::log(u)) * std::cos(2 * M_PI * random.uniform());
    }
    double truth(const std::vector<LayerEffect>& effects) const
    {
        double sum = 0;
        for (std::size_t l = 0; l < layers(); ++l) {
            const LayerEffect& effect = effects[l];
            const double size = std::sqrt(effect.removed * effect.curvature);
            sum += std::pow(weight[l] * std::pow(size, power) + 1.6 * weight[l] * effect.ranks, across);
        }
        return std::pow(sum, 1 / across);
    }
    // `share` of the experts gone: their output's error, and the curvature, which says other things about other sets.
    LayerEffect without(double share)
    {
        LayerEffect effect;
        effect.removed = share * (0.5 + random.uniform());
        effect.curvature = effect.removed * 0.1 * (0.5 + random.uniform());
        effect.slope = 0.001 * normal();
        return effect;
    }
    ProbePoint measured(std::vector<LayerEffect> effects)
    {
        ProbePoint point;
        const double change = truth(effects) * std::exp(scatter * normal());
        point.error = noise + 0.02 * change;
        point.change = change + point.error * normal();
        point.layers = std::move(effects);
        return point;
    }
    std::vector<ProbePoint> probes()
    {
        std::vector<ProbePoint> points;
        for (std::size_t l = 0; l < layers(); ++l)
            for (const int kind : {0, 1, 2}) {
                std::vector<LayerEffect> effects(layers());
                if (kind < 2)
                    effects[l] = without(kind == 0 ? 0.1 : 0.5);
                else
                    effects[l].ranks = 0.02 + 0.1 * random.uniform();
                points.push_back(measured(std::move(effects)));
            }
        for (const double share : {0.1, 0.25, 0.4})
            points.push_back(measured(everywhere(share, 0)));
        points.push_back(measured(everywhere(0, 0.1)));
        points.push_back(measured(everywhere(0.2, 0.05)));
        return points;
    }
    std::vector<LayerEffect> everywhere(double share, double ranks)
    {
        std::vector<LayerEffect> effects;
        for (std::size_t l = 0; l < layers(); ++l) {
            effects.push_back(share > 0 ? without(share * (0.4 + 1.2 * random.uniform())) : LayerEffect{});
            effects.back().ranks = ranks * (0.5 + random.uniform());
        }
        return effects;
    }
};

TEST(ProbeFit, RecoversWhatWasPlanted)
{
    Planted planted;
    planted.scatter = 0.03;
    const auto fit = ProbeFit::fit(planted.probes());
    ASSERT_TRUE(fit);
    EXPECT_EQ(fit->probes(), 20);
    EXPECT_LT(fit->residual(), 0.4);
    EXPECT_GT(fit->rankCorrelation(), 0.95);
    for (int i = 0; i < 50; ++i) {
        const auto effects = planted.everywhere(0.05 + 0.4 * planted.random.uniform(), i % 2 ? 0.1 * planted.random.uniform() : 0);
        EXPECT_NEAR(std::log(fit->estimate(effects).change / planted.truth(effects)), 0, 0.25);
    }
}

TEST(ProbeFit, IntervalsHoldNineOfTen)
{
    int inside = 0, all = 0;
    double width = 0;
    for (int model = 0; model < 12; ++model) {
        Planted planted;
        planted.random = Random(100 + static_cast<std::uint64_t>(model));
        planted.scatter = 0.2;
        planted.noise = 0.002;
        planted.power = 0.9 + 0.03 * model;
        planted.across = model % 2 ? 1.15 : 1.0;
        const auto fit = ProbeFit::fit(planted.probes());
        ASSERT_TRUE(fit);
        for (int i = 0; i < 40; ++i) {
            const auto effects = planted.everywhere(0.05 + 0.4 * planted.random.uniform(), i % 2 ? 0.1 * planted.random.uniform() : 0);
            const double exact = planted.measured(effects).change;
            const NllInterval interval = fit->estimate(effects);
            inside += interval.low <= exact && exact <= interval.high ? 1 : 0;
            width += std::log(interval.high / interval.change);
            ++all;
        }
    }
    EXPECT_GE(inside, 0.9 * all);
    EXPECT_LT(std::exp(width / all), 2.2);  // and not because they hold everything
}

TEST(ProbeFit, NothingChangedIsZeroAndMoreIsNotLess)
{
    Planted planted;
    planted.scatter = 0.1;
    const auto fit = ProbeFit::fit(planted.probes());
    ASSERT_TRUE(fit);
    const NllInterval none = fit->estimate(std::vector<LayerEffect>(planted.layers()));
    EXPECT_EQ(none.change, 0);
    EXPECT_EQ(none.low, 0);
    EXPECT_EQ(none.high, 0);
    for (int i = 0; i < 20; ++i) {
        auto effects = planted.everywhere(0.2, 0.05);
        const double before = fit->estimate(effects).change;
        LayerEffect& layer = effects[static_cast<std::size_t>(i) % effects.size()];
        (i % 3 == 0 ? layer.removed : i % 3 == 1 ? layer.curvature : layer.ranks) *= 1.3;
        EXPECT_GT(fit->estimate(effects).change, before);
    }
}

TEST(ProbeFit, WiderWhereNothingWasMeasured)
{
    Planted planted;
    planted.scatter = 0.1;
    const auto fit = ProbeFit::fit(planted.probes());
    ASSERT_TRUE(fit);
    std::vector<LayerEffect> near = planted.everywhere(0.25, 0.05), far = near;
    for (LayerEffect& effect : far) {
        effect.removed *= 30;
        effect.curvature *= 30;
    }
    EXPECT_GT(fit->estimate(far).spread, 1.3 * fit->estimate(near).spread);
}

TEST(ProbeFit, SameProbesSameFit)
{
    Planted planted;
    planted.scatter = 0.2;
    const auto points = planted.probes();
    const auto a = ProbeFit::fit(points), b = ProbeFit::fit(points);
    ASSERT_TRUE(a && b);
    const auto effects = planted.everywhere(0.3, 0.05);
    EXPECT_EQ(a->estimate(effects).change, b->estimate(effects).change);
    EXPECT_EQ(a->estimate(effects).high, b->estimate(effects).high);
}

TEST(ProbeFit, NoFitWithoutUsableProbes)
{
    Planted planted;
    auto points = planted.probes();
    EXPECT_FALSE(ProbeFit::fit({}));
    EXPECT_FALSE(ProbeFit::fit(std::span(points).first(3)));
    for (ProbePoint& point : points)
        point.change = -point.change;
    EXPECT_FALSE(ProbeFit::fit(points));
    for (ProbePoint& point : points)
        point.change = std::nan("");
    EXPECT_FALSE(ProbeFit::fit(points));
}

// A layer whose experts nobody misses, and measurements that are noise about zero.
TEST(ProbeFit, MeasurementsBelowTheNoise)
{
    Planted planted;
    planted.weight = {2.0, 1e-7, 0.1};
    planted.noise = 0.003;
    const auto fit = ProbeFit::fit(planted.probes());
    ASSERT_TRUE(fit);
    std::vector<LayerEffect> effects(3);
    effects[1] = planted.without(0.5);
    const NllInterval idle = fit->estimate(effects);
    EXPECT_LT(idle.change, 0.02);
    EXPECT_LE(idle.low, 0.003);
    effects[0] = planted.without(0.5);
    const NllInterval both = fit->estimate(effects);
    EXPECT_GT(both.low, 0);
    EXPECT_LE(both.low, planted.truth(effects));
    EXPECT_GE(both.high, planted.truth(effects));
}

TEST(Refined, FollowsPairsAndForgetsNothing)
{
    const NllInterval fresh = {.change = 0.4, .low = 0.25, .high = 0.64, .spread = 0.28};
    EXPECT_EQ(refined(fresh, {}).change, 0.4);
    // One pair counts half, many nearly whole.
    const std::vector<MeasuredEstimate> one = {{0.2, 0.3}};
    EXPECT_NEAR(refined(fresh, one).change, 0.4 * std::sqrt(1.5), 1e-12);
    const std::vector<MeasuredEstimate> many(20, MeasuredEstimate{0.2, 0.3});
    const NllInterval later = refined(fresh, many);
    EXPECT_NEAR(later.change, 0.6, 0.02);
    EXPECT_LT(later.high - later.low, 0.7 * (fresh.high - fresh.low));
    // Pairs that contradict one another widen it.
    std::vector<MeasuredEstimate> torn;
    for (int i = 0; i < 10; ++i)
        torn.push_back({0.2, i % 2 ? 0.1 : 0.4});
    EXPECT_GT(refined(fresh, torn).spread, 2 * fresh.spread);
    // Nothing can be said with a logarithm of these.
    const std::vector<MeasuredEstimate> useless = {{0.0, 0.3}, {0.2, -0.1}, {std::nan(""), 0.2}};
    EXPECT_EQ(refined(fresh, useless).change, 0.4);
}

}  // namespace

}  // namespace espalier
