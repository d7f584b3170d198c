#include "score/expert_matrices.h"
#include "score/gram_loss.h"
#include "score/scorer.h"

#include "base/random.h"
#include "plan/routing.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace espalier
{

namespace
{

// Random expert outputs and logits of one layer, and the profile a pass would take of them with lists of length K.
struct RandomLayer {
    int n;
    int tokens;
    int width = 5;
    RouterShape router;
    std::vector<float> logits;
    std::vector<double> y;  // [t][e][width]
    LayerProfile profile;

    RandomLayer(int experts, int tokenCount, RouterShape shape, int listLength, std::uint64_t seed)
        : n(experts), tokens(tokenCount), router(shape)
    {
        Random random(seed);
        for (int i = 0; i < tokens * n; ++i)
            logits.push_back(static_cast<float>(6 * random.uniform() - 3));
        for (int i = 0; i < tokens * n * width; ++i)
            y.push_back(2 * random.uniform() - 1);
        profile.experts = n;
        profile.tokens = tokens;
        GramStore& gram = profile.gram;
        gram.listLength = listLength;
        gram.logits = logits;
        for (int t = 0; t < tokens; ++t) {
            gram.tokens.push_back(t);
            std::vector<int> order(static_cast<std::size_t>(n));
            std::iota(order.begin(), order.end(), 0);
            const float* z = logits.data() + t * n;
            const std::vector<int> chosen = route(router, {z, static_cast<std::size_t>(n)}).experts;
            const auto rank = [&](int e) { return std::find(chosen.begin(), chosen.end(), e) == chosen.end(); };
            std::stable_sort(order.begin(), order.end(),
                             [&](int a, int b) { return std::pair(rank(a), -z[a]) < std::pair(rank(b), -z[b]); });
            for (int a = 0; a < listLength; ++a) {
                gram.list.push_back(static_cast<std::uint16_t>(order[static_cast<std::size_t>(a)]));
                for (int b = 0; b <= a; ++b)
                    gram.products.push_back(dot(t, order[static_cast<std::size_t>(a)], order[static_cast<std::size_t>(b)]));
            }
            gram.outputEnergy += squared(t, output(t, {}));
        }
    }
    const double* at(int t, int e) const { return y.data() + (t * n + e) * width; }
    double dot(int t, int a, int b) const { return std::inner_product(at(t, a), at(t, a) + width, at(t, b), 0.0); }
    std::vector<double> output(int t, const std::vector<int>& kept, int topK = 0) const
    {
        RouterShape shape = router;
        if (topK > 0) shape.topK = topK;
        const Routing routing = route(shape, {logits.data() + t * n, static_cast<std::size_t>(n)}, kept);
        std::vector<double> sum(static_cast<std::size_t>(width), 0.0);
        for (std::size_t i = 0; i < routing.experts.size(); ++i)
            for (int c = 0; c < width; ++c)
                sum[static_cast<std::size_t>(c)] += routing.weights[i] * at(t, routing.experts[i])[c];
        return sum;
    }
    static double squared(int, const std::vector<double>& v) { return std::inner_product(v.begin(), v.end(), v.begin(), 0.0); }
    // `topK`: of the candidate, 0 = the model's.
    double direct(const std::vector<int>& kept, int topK = 0) const
    {
        double total = 0;
        for (int t = 0; t < tokens; ++t) {
            const std::vector<double> all = output(t, {});
            const std::vector<double> some = output(t, kept, topK);
            for (std::size_t c = 0; c < all.size(); ++c)
                total += (all[c] - some[c]) * (all[c] - some[c]);
        }
        return std::sqrt(total);
    }
};

std::vector<RouterShape> rules()
{
    RouterShape a{.rule = RoutingRule::SoftmaxRenormalised, .topK = 3};
    RouterShape b{.rule = RoutingRule::Softmax, .topK = 3, .scaling = 1.5};
    RouterShape d{.rule = RoutingRule::GroupLimitedSoftmax, .topK = 3, .groups = 4, .topGroups = 2};
    RouterShape c{.rule = RoutingRule::SigmoidBias, .topK = 3, .normalise = true};
    return {a, b, c, d};
}

std::vector<int> without(int n, int e)
{
    std::vector<int> kept;
    for (int i = 0; i < n; ++i)
        if (i != e) kept.push_back(i);
    return kept;
}

TEST(GramLoss, EqualsDirectForRandomSetsUnderEveryRule)
{
    for (const RouterShape& router : rules()) {
        const RandomLayer layer(8, 60, router, 8, 7);
        const GramEvaluator evaluator(layer.profile, router);
        Random random(3);
        for (int trial = 0; trial < 40; ++trial) {
            std::vector<int> kept;
            if (router.groups > 1) {
                // Equal survivors per group: one of each pair, or both.
                for (int g = 0; g < 4; ++g)
                    kept.push_back(2 * g + static_cast<int>(random.below(2)));
            } else {
                while (static_cast<int>(kept.size()) < router.topK) {
                    kept.clear();
                    for (int e = 0; e < 8; ++e)
                        if (random.below(3) > 0) kept.push_back(e);
                }
            }
            if (router.groups > 1 && router.topK > router.topGroups) continue;
            const GramLoss loss = evaluator.evaluate(kept);
            EXPECT_EQ(loss.uncovered, 0);
            EXPECT_NEAR(loss.loss(), layer.direct(kept), 1e-9 * (1 + layer.direct(kept)));
        }
    }
}

TEST(GramLoss, LeaveOneOutEqualsEvaluationOfEach)
{
    for (const RouterShape& router : {rules()[0], rules()[1], rules()[2]}) {
        const RandomLayer layer(9, 80, router, router.topK + 1, 11);
        const GramEvaluator evaluator(layer.profile, router);
        const auto losses = evaluator.leaveOneOut();
        ASSERT_EQ(losses.size(), 9u);
        for (int e = 0; e < 9; ++e) {
            EXPECT_EQ(losses[static_cast<std::size_t>(e)].uncovered, 0);
            EXPECT_NEAR(losses[static_cast<std::size_t>(e)].loss(), evaluator.evaluate(without(9, e)).loss(), 1e-10);
            EXPECT_NEAR(losses[static_cast<std::size_t>(e)].loss(), layer.direct(without(9, e)), 1e-9);
        }
    }
}

// The reference stays the unpruned layer with the experts per token that the model was trained with.
TEST(GramLoss, FewerExpertsPerTokenAgainstTheUnprunedLayer)
{
    for (const RouterShape& router : rules()) {
        const bool grouped = router.groups > 1;
        const RandomLayer layer(8, 60, router, 8, 7);
        std::vector<int> all(8);
        std::iota(all.begin(), all.end(), 0);
        for (const int topK : {1, 2}) {
            const GramEvaluator evaluator(layer.profile, router, topK);
            EXPECT_GT(evaluator.evaluate(all).loss(), 0);  // nothing removed, and yet another output
            for (const std::vector<int>& kept : {all, {0, 3, 4, 7}, {1, 2, 5, 6}}) {
                const GramLoss loss = evaluator.evaluate(kept);
                EXPECT_EQ(loss.uncovered, 0);
                EXPECT_NEAR(loss.loss(), layer.direct(kept, topK), 1e-9 * (1 + loss.loss()));
            }
            if (grouped) continue;
            const auto losses = evaluator.leaveOneOut();
            for (int e = 0; e < 8; ++e) {
                EXPECT_EQ(losses[static_cast<std::size_t>(e)].uncovered, 0);
                EXPECT_NEAR(losses[static_cast<std::size_t>(e)].loss(), layer.direct(without(8, e), topK), 1e-9);
            }
        }
        // A list of the model's own selection reaches further where a token needs fewer of it.
        if (grouped) continue;
        const RandomLayer lists(8, 60, router, router.topK, 7);
        const GramEvaluator few(lists.profile, router, 1);
        const std::vector<int> kept = {0, 1, 2, 3, 4, 5};
        EXPECT_LT(few.evaluate(kept).uncovered, GramEvaluator(lists.profile, router).evaluate(kept).uncovered);
        const auto losses = few.leaveOneOut();
        for (int e = 0; e < 8; ++e)
            EXPECT_NEAR(losses[static_cast<std::size_t>(e)].loss(), few.evaluate(without(8, e)).loss(), 1e-10);
    }
}

// Walking the sorted order is routing again, whatever is kept and however uneven the groups are.
TEST(SelectionOrder, EqualsRoute)
{
    const std::vector<RouterShape> shapes = {
        {.rule = RoutingRule::GroupLimitedSoftmax, .topK = 4, .groups = 4, .topGroups = 2, .scaling = 16},
        {.rule = RoutingRule::GroupLimitedSoftmax, .topK = 2, .groups = 6, .topGroups = 1},
        {.rule = RoutingRule::SigmoidBias, .topK = 4, .groups = 4, .topGroups = 2, .scaling = 2.5, .normalise = true},
        {.rule = RoutingRule::SigmoidBias, .topK = 3, .groups = 6, .topGroups = 3, .scaling = 2.5},
        {.rule = RoutingRule::SigmoidBias, .topK = 3, .scaling = 2.5},
    };
    constexpr int kExperts = 24;
    constexpr int kTokens = 40;
    Random random(5);
    for (const RouterShape& shape : shapes) {
        RandomLayer layer(kExperts, kTokens, shape, 9, 3);
        GramStore& gram = layer.profile.gram;
        for (int e = 0; shape.rule == RoutingRule::SigmoidBias && e < kExperts; ++e)
            gram.selectionBias.push_back(static_cast<float>(random.uniform() - 0.5));
        for (int e = 0; e < 4; ++e)  // ties, within a group and between two
            gram.logits[5 * static_cast<std::size_t>(e)] = gram.logits[0];
        const SelectionOrder order(gram, shape, kExperts);
        int fallbacks = 0;
        for (int trial = 0; trial < 30; ++trial) {
            std::vector<int> kept;
            for (int e = 0; e < kExperts; ++e)
                if (trial % 3 == 0 ? e % 4 != trial % 4 : random.below(3) > 0) kept.push_back(e);
            const KeptGroups groups = order.groupsOf(kept);
            for (int t = 0; t < kTokens; ++t) {
                const Routing expected = route(shape, {gram.logits.data() + t * kExperts, kExperts}, kept, gram.selectionBias);
                std::vector<int> position(static_cast<std::size_t>(shape.topK));
                std::vector<double> weight(position.size());
                if (!order.select(static_cast<std::size_t>(t), groups, position.data(), weight.data())) {
                    ++fallbacks;
                    continue;
                }
                for (std::size_t i = 0; i < position.size(); ++i) {
                    const std::uint16_t* list = gram.list.data() + t * 9;
                    const auto at = static_cast<int>(std::find(list, list + 9, expected.experts[i]) - list);
                    EXPECT_EQ(position[i], at < 9 ? at : -1);
                    EXPECT_NEAR(weight[i], expected.weights[i], 1e-13 * (1 + expected.weights[i]));
                }
            }
        }
        EXPECT_LT(fallbacks, 30 * kTokens / 4);
    }
}

// Groups that leave experts out take the other path through the evaluator.
TEST(GramLoss, GroupsEqualDirect)
{
    for (const RoutingRule rule : {RoutingRule::GroupLimitedSoftmax, RoutingRule::SigmoidBias}) {
        const RouterShape router{.rule = rule, .topK = 4, .groups = 4, .topGroups = 2, .scaling = 2.5, .normalise = true};
        const RandomLayer layer(16, 60, router, 16, 7);
        const GramEvaluator evaluator(layer.profile, router);
        Random random(3);
        for (int trial = 0; trial < 20; ++trial) {
            std::vector<int> kept;
            const auto gone = static_cast<int>(random.below(4));
            for (int e = 0; e < 16; ++e)
                if (e % 4 != gone) kept.push_back(e);
            EXPECT_NEAR(evaluator.evaluate(kept).loss(), layer.direct(kept), 1e-9 * (1 + layer.direct(kept)));
        }
    }
}

TEST(GramLoss, AProbabilityNearOneDoesNotCancel)
{
    RouterShape router{.rule = RoutingRule::Softmax, .topK = 2};
    RandomLayer layer(5, 1, router, 5, 2);
    layer.profile.gram.logits = {0, 40, 1, 2, -1};
    layer.logits = layer.profile.gram.logits;
    layer.profile.gram.list = {1, 3, 2, 0, 4};
    layer.profile.gram.products.clear();
    for (int a = 0; a < 5; ++a)
        for (int b = 0; b <= a; ++b)
            layer.profile.gram.products.push_back(
                layer.dot(0, layer.profile.gram.list[static_cast<std::size_t>(a)], layer.profile.gram.list[static_cast<std::size_t>(b)]));
    const GramEvaluator evaluator(layer.profile, router);
    EXPECT_NEAR(evaluator.leaveOneOut()[1].loss(), layer.direct({0, 2, 3, 4}), 1e-9);
}

TEST(GramLoss, UncoveredTokensAreChargedTheirRoutedOutput)
{
    const RouterShape router = rules()[0];
    const RandomLayer layer(8, 50, router, router.topK, 5);
    const GramEvaluator evaluator(layer.profile, router);
    const std::vector<int> kept = {0, 1, 2, 3, 4};
    const GramLoss loss = evaluator.evaluate(kept);
    double charged = 0;
    int uncovered = 0;
    for (int t = 0; t < layer.tokens; ++t) {
        const auto chosen = route(router, {layer.logits.data() + t * 8, 8}).experts;
        if (std::all_of(chosen.begin(), chosen.end(), [](int e) { return e < 5; })) continue;
        ++uncovered;
        charged += RandomLayer::squared(t, layer.output(t, {}));
    }
    EXPECT_EQ(loss.uncovered, uncovered);
    EXPECT_NEAR(loss.squared, charged, 1e-9);
    EXPECT_NEAR(loss.chargedSquared, charged, 1e-9);
}

TEST(GramLoss, AnExpertNobodyChoosesCostsNothingUnderRuleA)
{
    RouterShape router = rules()[0];
    RandomLayer layer(6, 30, router, 6, 9);
    // Expert 5 comes last everywhere.
    for (int t = 0; t < 30; ++t)
        layer.profile.gram.logits[static_cast<std::size_t>(t) * 6 + 5] = -20;
    RandomLayer same = layer;
    same.profile.gram.list.clear();
    const GramEvaluator before(layer.profile, router);
    (void)before;
    GramStore& gram = layer.profile.gram;
    gram.list.clear();
    gram.products.clear();
    for (int t = 0; t < 30; ++t) {
        std::vector<int> order(6);
        std::iota(order.begin(), order.end(), 0);
        const float* z = gram.logits.data() + t * 6;
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return z[a] > z[b]; });
        for (int a = 0; a < 6; ++a) {
            gram.list.push_back(static_cast<std::uint16_t>(order[static_cast<std::size_t>(a)]));
            for (int b = 0; b <= a; ++b)
                gram.products.push_back(layer.dot(t, order[static_cast<std::size_t>(a)], order[static_cast<std::size_t>(b)]));
        }
    }
    EXPECT_EQ(GramEvaluator(layer.profile, router).leaveOneOut()[5].squared, 0.0);
    router.rule = RoutingRule::Softmax;
    EXPECT_GT(GramEvaluator(layer.profile, router).leaveOneOut()[5].squared, 0.0);
}

// Three tokens, two of four experts each, as sums.
ProfileData exampleProfile()
{
    ProfileData data;
    LayerShape shape;
    shape.moe = true;
    shape.experts = 4;
    shape.router = {.rule = RoutingRule::SoftmaxRenormalised, .topK = 2};
    data.shape.layers = {shape};
    LayerProfile layer;
    layer.experts = 4;
    layer.tokens = 3;
    layer.count = {3, 2, 1, 0};
    layer.softMass = {1.23, .75, .87, .15};
    layer.routedMassRaw = {1.23, .65, .45, 0};
    layer.routedMassRenormalised = {1.580882, .889706, .529412, 0};
    layer.routedMassApplied = layer.routedMassRenormalised;
    layer.norm = {6, 4, 4, 0};
    layer.normSquared = {14, 10, 16, 0};
    layer.weightedNormRaw = {.5 * 2 + .4 * 1 + .33 * 3, .3 * 1 + .35 * 3, .45 * 4, 0};
    layer.weightedNormRenormalised = {.5 / .8 * 2 + .4 / .85 * 1 + .33 / .68 * 3, .3 / .8 * 1 + .35 / .68 * 3, .45 / .85 * 4, 0};
    layer.weightedNormApplied = layer.weightedNormRenormalised;
    layer.maxActivation = {1, 2, 3, 0};
    data.layers = {layer};
    data.collected = {"counts", "ean", "reap"};
    return data;
}

TEST(Scorers, ValuesOfTheWorkedExample)
{
    const ProfileData data = exampleProfile();
    const auto row = [&](const char* method, const Params& params = {}) { return score(data, method, params)->values.rows[0]; };
    using testing::DoubleNear;
    using testing::ElementsAre;
    EXPECT_THAT(row("expert_frequency"), ElementsAre(1.0, DoubleNear(2.0 / 3, 1e-12), DoubleNear(1.0 / 3, 1e-12), 0.0));
    EXPECT_THAT(row("ean_sum"), ElementsAre(6, 4, 4, 0));
    EXPECT_THAT(row("ean_mean"), ElementsAre(2, 2, 4, 0));
    EXPECT_THAT(row("msan"), ElementsAre(DoubleNear(4.666667, 1e-6), 5, 16, 0));
    EXPECT_THAT(row("reap", {{"weights", "raw"}}),
                ElementsAre(DoubleNear(.796667, 1e-6), DoubleNear(.675, 1e-6), DoubleNear(1.8, 1e-6), 0));
    EXPECT_THAT(row("reap"), ElementsAre(DoubleNear(1.058824, 1e-6), DoubleNear(.959559, 1e-6), DoubleNear(2.117647, 1e-6), 0));
    EXPECT_THAT(row("routed_soft_count"), ElementsAre(1.23, .65, .45, 0));
}

// Expert 0 answers (1,0), (3,0), (2,3): mean (2,1), squared distances 2, 2, 4. Expert 1 answers the same twice, expert 2 once.
TEST(Scorers, MoneOfTheWorkedExample)
{
    ProfileData data = exampleProfile();
    OutputMoments& outputs = data.layers[0].outputs = OutputMoments::zeros(4, 2);
    const auto answer = [&](int expert, double a, double b) { outputs.add(expert, OutputWeight::Plain, 1, std::vector<double>{a, b}, 0); };
    answer(0, 1, 0);
    answer(0, 3, 0);
    answer(0, 2, 3);
    answer(1, -5, 0.25);
    answer(1, -5, 0.25);
    answer(2, 7, 7);
    const auto row = [&](const Params& params) { return score(data, "mone", params)->values.rows[0]; };
    using testing::DoubleNear;
    using testing::ElementsAre;
    EXPECT_THAT(row({}), ElementsAre(DoubleNear(std::sqrt(8.0 / 3) * 1.580882 / 3, 1e-12), 0, 0, 0));
    EXPECT_THAT(row({{"weights", "raw"}}), ElementsAre(DoubleNear(std::sqrt(8.0 / 3) * 1.23 / 3, 1e-12), 0, 0, 0));
}

// Four weights an expert, the same in each of its matrices.
struct MadeWeights final : ExpertMatrices {
    std::vector<std::vector<float>> experts;
    Result<std::vector<float>> matrix(int, int expert, int) const override { return experts[static_cast<std::size_t>(expert)]; }
};

TEST(Scorers, AimerOfTheWorkedExample)
{
    MadeWeights weights;
    weights.experts = {{1, 1, 1, 1}, {2, 0, 0, 0}, {-3, 3, -3, 3}, {0, 0, 0, 0}};
    const auto scores = score(exampleProfile(), "aimer", {}, &weights);
    ASSERT_TRUE(scores.ok()) << scores.error().describe();
    EXPECT_THAT(scores->values.rows[0], testing::ElementsAre(1, 2, 1, 0)) << "scale and sign do not matter; all zeros go first";
    EXPECT_EQ(score(exampleProfile(), "aimer").error().code, "score.no_weights");
}

// Column (3,4) of the down projection, w h over two tokens 1 and 2; the second channel is dead, the third has no column.
TEST(Scorers, CameraOfTheWorkedExample)
{
    ProfileData data = exampleProfile();
    ChannelSums& channels = data.layers[0].channels = ChannelSums::zeros(4, 3);
    channels.energy[0] = 1 + 4;
    channels.peak[0] = 4;
    channels.energy[2] = channels.peak[2] = 7;
    MadeWeights weights;
    weights.experts.assign(4, {3, 1, 0, 4, 1, 0});  // [2][3]
    const auto channelsAt = [&](double peak) { return channelScores(data, "camera", {{"peak", peak}}, &weights).value()[0]; };
    using testing::DoubleNear;
    using testing::ElementsAre;
    EXPECT_THAT(channelsAt(0)[0], ElementsAre(125, 0, 0));
    EXPECT_THAT(channelsAt(0.9)[0], ElementsAre(DoubleNear(102.5, 1e-12), 0, 0));
    EXPECT_THAT(channelsAt(1)[0], ElementsAre(100, 0, 0));
    EXPECT_THAT(score(data, "camera", {}, &weights)->values.rows[0], ElementsAre(DoubleNear(102.5, 1e-12), 0, 0, 0)) << "their sum";

    EXPECT_EQ(score(data, "camera").error().code, "score.no_weights");
    EXPECT_EQ(channelScores(data, "aimer", {}, &weights).error().code, "score.no_channels");
    EXPECT_EQ(channelScores(exampleProfile(), "camera", {}, &weights).error().code, "profile.missing_statistics");
    weights.experts.assign(4, {1, 2, 3, 4});
    EXPECT_EQ(score(data, "camera", {}, &weights).error().code, "profile.other_model");
}

TEST(Scorers, ErrorsAndWarnings)
{
    const ProfileData data = exampleProfile();
    const Error missing = score(data, "mone").error();
    EXPECT_EQ(missing.code, "profile.missing_statistics");
    EXPECT_THAT(missing.action, testing::HasSubstr("--collect +outputs"));
    EXPECT_EQ(score(data, "leave-one-out").error().code, "profile.missing_statistics");
    EXPECT_EQ(score(data, "nonsense").error().code, "method.unknown");
    EXPECT_EQ(score(data, "reap", {{"weights", "heavy"}}).error().code, "method.bad_parameter");
    ASSERT_EQ(profileWarnings(data).size(), 1u);
    EXPECT_THAT(profileWarnings(data)[0], testing::HasSubstr("never reaches expert 3"));
    EXPECT_EQ(uncoveredFraction(data), 0);
}

TEST(Scorers, RegistryIsConsistent)
{
    for (const MethodInfo& info : scorers()) {
        EXPECT_EQ(info.slot, Slot::Score);
        EXPECT_FALSE(info.title.empty());
        EXPECT_FALSE(info.help.empty());
        EXPECT_FALSE(info.needs.empty());
        EXPECT_TRUE(checkParams(info, {}).ok()) << info.id;
    }
}

}  // namespace

}  // namespace espalier
