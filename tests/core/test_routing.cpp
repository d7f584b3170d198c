#include "base/random.h"
#include "plan/routing.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

using namespace espalier;

namespace
{
RouterShape router(RoutingRule rule, int topK)
{
    RouterShape shape;
    shape.rule = rule;
    shape.topK = topK;
    return shape;
}
std::vector<float> logits(Random& random, int n)
{
    std::vector<float> z;
    for (int i = 0; i < n; ++i)
        z.push_back(static_cast<float>(4 * random.uniform() - 2));
    return z;
}
}  // namespace

TEST(Routing, MaskedEqualsSlicedRouter)
{
    Random random(5);
    for (const RoutingRule rule : {RoutingRule::SoftmaxRenormalised, RoutingRule::Softmax}) {
        for (int trial = 0; trial < 100; ++trial) {
            const std::vector<float> z = logits(random, 12);
            std::vector<int> kept;
            for (int e = 0; e < 12; ++e)
                if (random.below(3) != 0) kept.push_back(e);
            if (kept.size() < 4) continue;
            std::vector<float> sliced;
            for (const int e : kept)
                sliced.push_back(z[static_cast<std::size_t>(e)]);
            const Routing masked = route(router(rule, 4), z, kept);
            const Routing small = route(router(rule, 4), sliced);
            for (std::size_t i = 0; i < 4; ++i) {
                EXPECT_EQ(masked.experts[i], kept[static_cast<std::size_t>(small.experts[i])]);
                EXPECT_EQ(masked.weights[i], small.weights[i]);
            }
        }
    }
}

TEST(Routing, RemovingAnUnselectedExpertChangesRuleBOnly)
{
    const std::vector<float> z = {3, 2, 1, 0};
    const std::vector<int> kept = {0, 1, 2};
    const Routing renormalised = route(router(RoutingRule::SoftmaxRenormalised, 2), z);
    EXPECT_NEAR(route(router(RoutingRule::SoftmaxRenormalised, 2), z, kept).weights[0], renormalised.weights[0], 1e-15);
    EXPECT_NEAR(renormalised.weights[0] + renormalised.weights[1], 1.0, 1e-15);
    const Routing plain = route(router(RoutingRule::Softmax, 2), z);
    const Routing without = route(router(RoutingRule::Softmax, 2), z, kept);
    EXPECT_GT(without.weights[0], plain.weights[0]);  // the denominator loses p_3
    const double p3 = std::exp(0.0) / (std::exp(3.0) + std::exp(2.0) + std::exp(1.0) + std::exp(0.0));
    EXPECT_NEAR(without.weights[0], plain.weights[0] / (1 - p3), 1e-12);
}

TEST(Routing, TiesGoToTheLowerId)
{
    const std::vector<float> z = {1, 2, 2, 1, 2};
    EXPECT_EQ(route(router(RoutingRule::Softmax, 4), z).experts, (std::vector<int>{1, 2, 4, 0}));
}

TEST(Routing, GroupLimitedNeverPicksFromADroppedGroup)
{
    RouterShape shape = router(RoutingRule::GroupLimitedSoftmax, 3);
    shape.groups = 4;
    shape.topGroups = 2;
    shape.scaling = 4;
    // Group maxima 5, 4.9, 4.8, 4.7: experts 0-1 and 2-3 only.
    const std::vector<float> z = {5, 1, 4.9f, 2, 4.8f, 4.75f, 4.7f, 4.6f};
    const Routing routing = route(shape, z);
    EXPECT_EQ(routing.experts, (std::vector<int>{0, 2, 3}));
    double sum = 0;
    for (const float x : z)
        sum += std::exp(static_cast<double>(x));
    EXPECT_NEAR(routing.weights[0], 4 * std::exp(5.0) / sum, 1e-12);
}

TEST(Routing, SigmoidSelectsWithBiasAndWeighsWithout)
{
    RouterShape shape = router(RoutingRule::SigmoidBias, 2);
    shape.normalise = true;
    shape.scaling = 2.5;
    const std::vector<float> z = {0, 1, 2, 3};
    const std::vector<float> bias = {10, 0, 0, 0};
    const Routing routing = route(shape, z, {}, bias);
    EXPECT_EQ(routing.experts, (std::vector<int>{0, 3}));
    const double s0 = 0.5;
    const double s3 = 1 / (1 + std::exp(-3.0));
    EXPECT_NEAR(routing.weights[0], 2.5 * s0 / (s0 + s3), 1e-12);
}
