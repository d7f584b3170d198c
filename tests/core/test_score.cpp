#include "core/profile_fixture.h"
#include "score/gram_loss.h"
#include "score/scorer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

using namespace espalier;
using namespace espalier::test;
using testing::DoubleEq;
using testing::DoubleNear;
using testing::ElementsAre;

namespace
{

std::vector<int> without(int experts, std::initializer_list<int> removed)
{
    std::vector<int> kept;
    for (int e = 0; e < experts; ++e)
        if (std::find(removed.begin(), removed.end(), e) == removed.end()) kept.push_back(e);
    return kept;
}

// The three tokens of methods.md 5.3 and 5.10: k = 2, four experts, the last one never routed.
LayerProfile threeTokens()
{
    LayerProfile layer;
    layer.experts = 4;
    layer.tokens = 3;
    layer.count = {3, 2, 1, 0};
    layer.softMass = {.5 + .4 + .33, .3 + .1 + .35, .15 + .45 + .27, .15};
    layer.routedMassRaw = {1.23, .3 + .35, .45, 0};
    layer.routedMassRenormalised = {.5 / .8 + .4 / .85 + .33 / .68, .3 / .8 + .35 / .68, .45 / .85, 0};
    layer.routedMassApplied = layer.routedMassRenormalised;
    layer.norm = {6, 4, 4, 0};
    layer.normSquared = {4 + 1 + 9, 1 + 9, 16, 0};
    layer.weightedNormRaw = {.5 * 2 + .4 + .33 * 3, .3 + .35 * 3, .45 * 4, 0};
    layer.weightedNormRenormalised = {.5 / .8 * 2 + .4 / .85 + .33 / .68 * 3, .3 / .8 + .35 / .68 * 3, .45 / .85 * 4, 0};
    layer.weightedNormApplied = layer.weightedNormRenormalised;
    layer.maxActivation = {2, 2.5, 3, 0};
    return layer;
}

ProfileData profileOf(LayerProfile layer)
{
    ProfileData data;
    data.shape = evenShape(1, layer.experts, 2, 16, 8, RoutingRule::SoftmaxRenormalised);
    data.collected = {"counts", "ean", "reap"};
    data.layers.push_back(std::move(layer));
    return data;
}

std::vector<double> valuesOf(const ProfileData& data, const std::string& method, const Params& params = {})
{
    const auto scores = score(data, method, params);
    EXPECT_TRUE(scores.ok()) << (scores.ok() ? "" : scores.error().describe());
    return scores.ok() ? scores->values.rows.at(0) : std::vector<double>();
}

}  // namespace

TEST(Scores, ThreeTokensOfTheMethods)
{
    const ProfileData data = profileOf(threeTokens());
    EXPECT_THAT(valuesOf(data, "expert_frequency"), ElementsAre(1.0, DoubleEq(2.0 / 3), DoubleEq(1.0 / 3), 0.0));
    EXPECT_THAT(valuesOf(data, "soft_count"),
                ElementsAre(DoubleNear(1.23, 1e-12), DoubleNear(.75, 1e-12), DoubleNear(.87, 1e-12), DoubleNear(.15, 1e-12)));
    EXPECT_THAT(valuesOf(data, "routed_soft_count"), ElementsAre(1.23, DoubleNear(.65, 1e-12), .45, 0.0));
    EXPECT_THAT(valuesOf(data, "ean_sum"), ElementsAre(6, 4, 4, 0));
    EXPECT_THAT(valuesOf(data, "ean_mean"), ElementsAre(2, 2, 4, 0));
    EXPECT_THAT(valuesOf(data, "msan"), ElementsAre(DoubleNear(4.666667, 1e-6), 5, 16, 0));
    EXPECT_THAT(valuesOf(data, "reap", {{"weights", "raw"}}),
                ElementsAre(DoubleNear(.796667, 1e-6), DoubleNear(.675, 1e-6), DoubleNear(1.8, 1e-6), 0));
    EXPECT_THAT(valuesOf(data, "reap"), ElementsAre(DoubleNear(1.058824, 1e-6), DoubleNear(.959559, 1e-6), DoubleNear(2.117647, 1e-6), 0));
    EXPECT_THAT(valuesOf(data, "max_activation"), ElementsAre(2, 2.5, 3, 0));
}

TEST(Scores, EveryListedMethodHasAnIdATitleAndASource)
{
    std::vector<std::string> ids;
    for (const MethodInfo& info : scorers()) {
        EXPECT_EQ(info.slot, Slot::Score);
        EXPECT_FALSE(info.title.empty());
        EXPECT_FALSE(info.help.empty());
        EXPECT_FALSE(info.source.empty());
        EXPECT_FALSE(info.needs.empty());
        ids.push_back(info.id);
    }
    for (const char* id : {"leave-one-out", "expert_frequency", "soft_count", "ean_sum", "ean_mean", "reap", "max_activation"})
        EXPECT_THAT(ids, testing::Contains(id));
}

TEST(Scores, ErrorsHaveCodes)
{
    const ProfileData data = profileOf(threeTokens());
    EXPECT_EQ(score(data, "nonsense").error().code, "method.unknown");
    EXPECT_EQ(score(data, "reap", {{"weights", "none"}}).error().code, "method.bad_parameter");
    EXPECT_EQ(score(data, "reap", {{"colour", "red"}}).error().code, "method.bad_parameter");
    EXPECT_EQ(score(data, "leave-one-out").error().code, "profile.missing_statistics");
    LayerProfile bare = threeTokens();
    bare.norm.clear();
    bare.normSquared.clear();
    bare.maxActivation.clear();
    EXPECT_EQ(score(profileOf(bare), "ean_mean").error().code, "profile.missing_statistics");
}

TEST(Scores, DenseLayersAreEmptyRows)
{
    ProfileData data = madeProfile(3, 6, 2, 2, 0, 1);
    data.shape.layers[0].moe = false;
    data.shape.layers[0].experts = 0;
    data.layers[0] = LayerProfile();
    for (const MethodInfo& info : scorers()) {
        const auto scores = score(data, info.id);
        ASSERT_TRUE(scores.ok()) << info.id;
        ASSERT_EQ(scores->values.rows.size(), 3u);
        EXPECT_TRUE(scores->values.rows[0].empty());
        EXPECT_EQ(scores->values.rows[2].size(), 6u);
    }
    const auto importance = score(data, "leave-one-out");
    ASSERT_EQ(importance->layerImportance.size(), 3u);
    EXPECT_TRUE(std::isnan(importance->layerImportance[0]));
    double sum = 0;
    for (const double value : importance->values.rows[1])
        sum += value;
    EXPECT_DOUBLE_EQ(importance->layerImportance[1], sum);
}

TEST(Scores, WarnsOfExpertsThatWereNeverRouted)
{
    const std::vector<std::string> warnings = profileWarnings(profileOf(threeTokens()));
    ASSERT_EQ(warnings.size(), 1u);
    EXPECT_THAT(warnings[0], testing::HasSubstr("3"));
}

TEST(GramLoss, EqualsAddingUpTheOutputsThemselves)
{
    for (const RoutingRule rule : {RoutingRule::SoftmaxRenormalised, RoutingRule::Softmax}) {
        const MadeLayer made = madeLayer(rule, 9, 3, 40, 0, 11, 1.5);
        const GramEvaluator evaluator(made.profile, made.router);
        for (const std::vector<int>& kept :
             {without(9, {}), without(9, {4}), without(9, {0, 8}), without(9, {1, 2, 3, 5}), without(9, {0, 1, 2, 3, 4, 5})}) {
            const GramLoss loss = evaluator.evaluate(kept);
            EXPECT_NEAR(loss.squared, made.direct(kept), 1e-9 * (1 + loss.squared));
            EXPECT_EQ(loss.uncovered, 0);
            EXPECT_EQ(loss.tokens, 40);
        }
        EXPECT_EQ(evaluator.evaluate(without(9, {})).squared, 0.0);
    }
}

TEST(GramLoss, LeaveOneOutEqualsEvaluatingEachSet)
{
    for (const RoutingRule rule : {RoutingRule::SoftmaxRenormalised, RoutingRule::Softmax}) {
        for (const int length : {3, 4, 6, 0}) {
            const MadeLayer made = madeLayer(rule, 9, 3, 40, length, 12, 2.0);
            const GramEvaluator evaluator(made.profile, made.router);
            const std::vector<GramLoss> losses = evaluator.leaveOneOut();
            ASSERT_EQ(losses.size(), 9u);
            for (int e = 0; e < 9; ++e) {
                const GramLoss one = evaluator.evaluate(without(9, {e}));
                const GramLoss& fast = losses[static_cast<std::size_t>(e)];
                EXPECT_NEAR(fast.squared, one.squared, 1e-10 * (1 + one.squared)) << length << " " << e;
                EXPECT_NEAR(fast.chargedSquared, one.chargedSquared, 1e-10 * (1 + one.chargedSquared));
                EXPECT_EQ(fast.uncovered, one.uncovered);
                EXPECT_EQ(fast.tokens, one.tokens);
            }
        }
    }
}

TEST(GramLoss, AShorterListIsAPrefixAndEqualWhereItReaches)
{
    const MadeLayer dense = madeLayer(RoutingRule::Softmax, 9, 3, 60, 0, 13);
    const MadeLayer listed = madeLayer(RoutingRule::Softmax, 9, 3, 60, 5, 13);
    const GramEvaluator all(dense.profile, dense.router);
    const GramEvaluator some(listed.profile, listed.router);
    const std::vector<int> two = without(9, {2, 7});  // K >= k + 2: exact for every set
    EXPECT_EQ(some.evaluate(two).uncovered, 0);
    EXPECT_NEAR(some.evaluate(two).squared, all.evaluate(two).squared, 1e-10);
}

TEST(GramLoss, ChargesUncoveredTokensTheirWholeRoutedOutput)
{
    const MadeLayer made = madeLayer(RoutingRule::SoftmaxRenormalised, 9, 3, 60, 3, 14);
    const GramEvaluator evaluator(made.profile, made.router);
    const GramLoss loss = evaluator.evaluate(without(9, {0, 1, 2, 3}));
    EXPECT_GT(loss.uncovered, 0);
    EXPECT_DOUBLE_EQ(loss.squared, loss.chargedSquared);  // without a spare expert every change is a charge
    EXPECT_LE(loss.squared, made.profile.gram.outputEnergy * (1 + 1e-12));
    EXPECT_DOUBLE_EQ(loss.uncoveredShare(), static_cast<double>(loss.uncovered) / 60);
}

TEST(GramLoss, AnUnusedExpertCostsNothingWhereWeightsAreRenormalised)
{
    for (const RoutingRule rule : {RoutingRule::SoftmaxRenormalised, RoutingRule::Softmax}) {
        MadeLayer made = madeLayer(rule, 6, 2, 30, 0, 15);
        for (std::size_t t = 0; t < 30; ++t) {
            // Expert 5 last everywhere, by swapping logits with whoever is last; lists follow.
            float* logits = made.profile.gram.logits.data() + t * 6;
            std::uint16_t* list = made.profile.gram.list.data() + t * 6;
            const std::uint16_t last = list[5];
            for (std::size_t i = 0; i < 6; ++i)
                if (list[i] == 5) list[i] = last;
            list[5] = 5;
            std::swap(logits[5], logits[last]);
        }
        const GramEvaluator evaluator(made.profile, made.router);
        const double squared = evaluator.evaluate(without(6, {5})).squared;
        if (rule == RoutingRule::SoftmaxRenormalised)
            EXPECT_EQ(squared, 0.0);
        else
            EXPECT_GT(squared, 0.0);
    }
}

TEST(GramLoss, WithoutAStoreNothingIsCounted)
{
    LayerProfile empty;
    empty.experts = 4;
    empty.gram.listLength = 4;
    const GramEvaluator evaluator(empty, evenShape(1, 4, 2).layers[0].router);
    EXPECT_EQ(evaluator.evaluate(without(4, {0})).tokens, 0);
    EXPECT_EQ(evaluator.evaluate(without(4, {0})).squared, 0.0);
    EXPECT_EQ(evaluator.leaveOneOut().size(), 4u);
}

TEST(GramLoss, UncoveredFractionFallsWithTheListLength)
{
    double before = 1.0;
    for (const int length : {3, 4, 6, 0}) {
        const MadeLayer made = madeLayer(RoutingRule::Softmax, 12, 3, 100, length, 16);
        ProfileData data;
        data.shape = evenShape(1, 12, 3);
        data.layers.push_back(made.profile);
        const double fraction = uncoveredFraction(data);
        EXPECT_LE(fraction, before);
        before = fraction;
    }
    EXPECT_EQ(before, 0.0);
}
