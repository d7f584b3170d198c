// Chosen experts that a token skips: the rule by hand, for one token and for many, what the model computes under it, what exports hold.
#include "core/plan_runs.h"
#include "model/router.h"
#include "plan/flavors.h"
#include "plan/plan_edit.h"
#include "plan/routing.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;
using test::modelOf;
using test::openTiny;
using test::stream;
using test::take;
using Kind = SkipRule::Kind;

SkipRule rule(Kind kind, double threshold) { return {.kind = kind, .thresholdMillionths = static_cast<int>(std::lround(threshold * 1e6))}; }

std::vector<char> marked(const SkipRule& skip, const std::vector<double>& scores)
{
    std::vector<char> skipped(scores.size(), 2);
    markSkipped(skip, scores, skipped);
    return skipped;
}

TEST(SkipRules, ByHand)
{
    using Marks = std::vector<char>;
    // Strictly below: a score of exactly half of the largest stays.
    EXPECT_EQ(marked(rule(Kind::Ratio, 0.5), {0.5, 0.25}), (Marks{0, 0}));
    EXPECT_EQ(marked(rule(Kind::Ratio, 0.500001), {0.5, 0.25}), (Marks{0, 1}));
    EXPECT_EQ(marked(rule(Kind::Ratio, 0), {0.5, 0.0}), (Marks{0, 0}));
    EXPECT_EQ(marked(rule(Kind::Ratio, 1), {0.4, 0.4, 0.2}), (Marks{0, 0, 1})) << "ties stay";
    // The largest need not come first: biased routers order by score and bias.
    EXPECT_EQ(marked(rule(Kind::Ratio, 0.5), {0.2, 0.6, 0.3}), (Marks{1, 0, 0}));
    EXPECT_EQ(marked(rule(Kind::Ratio, 0.5), {}), Marks());
    // 0.5 of 1 is there after the first, 0.8 after the second.
    EXPECT_EQ(marked(rule(Kind::Cumulative, 0.5), {0.5, 0.3, 0.2}), (Marks{0, 1, 1}));
    EXPECT_EQ(marked(rule(Kind::Cumulative, 0.6), {0.5, 0.3, 0.2}), (Marks{0, 0, 1}));
    EXPECT_EQ(marked(rule(Kind::Cumulative, 0.6), {0.2, 0.5, 0.3}), (Marks{1, 0, 0}));
    EXPECT_EQ(marked(rule(Kind::Cumulative, 1), {0.5, 0.5, 1e-30}), (Marks{0, 0, 0}));
    EXPECT_EQ(marked(rule(Kind::Cumulative, 0), {0.5, 0.3, 0.2}), (Marks{0, 1, 1})) << "the largest is never skipped";
}

// Gaps of logits by hand: e^-0.1, e^-0.5 .. of the first; the first of two that is left alone has the weight 1.
TEST(SkipRules, RenormalisedWeights)
{
    RouterShape router;
    router.rule = RoutingRule::SoftmaxRenormalised;
    router.topK = 2;
    router.skip = rule(Kind::Ratio, 0.367879);
    int skips = 0;
    for (const double gap : {0.1, 0.5, 1.0, 2.0, 3.0}) {
        const std::vector<float> logits = {0.0F, static_cast<float>(-gap), -9.0F, -9.0F};
        const Routing routing = route(router, logits);
        ASSERT_EQ(routing.experts, (std::vector<int>{0, 1}));
        if (routing.weights[1] == 0) {
            ++skips;
            EXPECT_EQ(routing.weights[0], 1.0);
        } else {
            EXPECT_NEAR(routing.weights[1] / routing.weights[0], std::exp(-gap), 1e-6);
        }
    }
    EXPECT_EQ(skips, 2) << "e^-1 is no smaller than the threshold";

    // Without dividing by the sum the weight of what stays is as it was.
    router.rule = RoutingRule::Softmax;
    const std::vector<float> logits = {1.0F, -2.0F, 0.5F, -1.0F};
    const Routing with = route(router, logits);
    router.skip.reset();
    EXPECT_EQ(with.weights[0], route(router, logits).weights[0]);
}

// One token in fp64 and the batch agree, under every rule of routing, kept set and bias.
TEST(SkipRules, TheBatchFollowsTheRuleOfOneToken)
{
    const c10::InferenceMode guard;
    constexpr int kExperts = 16, kTokens = 200;
    const at::Tensor logits = test::numbers(5, {kTokens, kExperts}, 2.0).contiguous();
    const at::Tensor bias = test::numbers(6, {kExperts}, 0.3).contiguous();
    int skipped = 0;
    for (const RoutingRule kind :
         {RoutingRule::SoftmaxRenormalised, RoutingRule::Softmax, RoutingRule::GroupLimitedSoftmax, RoutingRule::SigmoidBias})
        for (const SkipRule& skip : {rule(Kind::Ratio, 0.6), rule(Kind::Cumulative, 0.7)}) {
            RouterShape router;
            router.rule = kind;
            router.topK = 4;
            router.scaling = kind == RoutingRule::SoftmaxRenormalised ? 1.0 : 2.5;
            router.normalise = kind == RoutingRule::SigmoidBias;
            router.groups = kind == RoutingRule::GroupLimitedSoftmax || kind == RoutingRule::SigmoidBias ? 4 : 1;
            router.topGroups = 2;
            router.skip = skip;
            const bool biased = kind == RoutingRule::SigmoidBias;
            const RoutedTokens batch = routeTokens(router, logits, biased ? bias : at::Tensor(), at::kFloat);
            for (int t = 0; t < kTokens; ++t) {
                const Routing one =
                    route(router, {logits.const_data_ptr<float>() + t * kExperts, kExperts}, {},
                          biased ? std::span<const float>(bias.const_data_ptr<float>(), kExperts) : std::span<const float>());
                double sum = 0;
                for (int i = 0; i < 4; ++i) {
                    EXPECT_EQ(batch.selected[t][i].item<std::int64_t>(), one.experts[static_cast<std::size_t>(i)]);
                    const float weight = batch.weights[t][i].item<float>();
                    EXPECT_NEAR(weight, one.weights[static_cast<std::size_t>(i)], 1e-6);
                    EXPECT_EQ(batch.skipped[t][i].item<bool>(), weight == 0);
                    skipped += weight == 0 ? 1 : 0;
                    sum += weight;
                }
                if (kind == RoutingRule::SoftmaxRenormalised || kind == RoutingRule::SigmoidBias) {
                    EXPECT_NEAR(sum, router.scaling, 1e-5);
                }
            }
        }
    EXPECT_GT(skipped, 200);
}

class Seen final : public LayerObserver
{
public:
    void expert(int, int expert, const at::Tensor& tokens, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                const at::Tensor&) override
    {
        ran[expert] = tokens.numel();
    }
    void moe(const MoeBatch& batch) override { seen = batch; }
    std::map<int, std::int64_t> ran;
    MoeBatch seen;
};

class SkipRun : public ::testing::TestWithParam<const char*>
{
protected:
    SkipRun() : folder(fs::temp_directory_path() / ("espalier-skip-" + std::to_string(::getpid()))), checkpoint(openTiny(GetParam()))
    {
        fs::remove_all(folder);
        fs::create_directories(folder);
        const auto& layers = checkpoint->shape().layers;
        layer = static_cast<int>(std::find_if(layers.begin(), layers.end(), [](const LayerShape& l) { return l.moe; }) - layers.begin());
    }
    ~SkipRun() override { fs::remove_all(folder); }

    CompressionPlan planOf(const SkipRule& skip) const
    {
        CompressionPlan plan = CompressionPlan::identity(checkpoint->shape());
        for (const LayerShape& one : checkpoint->shape().layers)
            if (one.moe) plan = take(withSkipRule(checkpoint->shape(), plan, one.index, skip));
        return plan;
    }
    static TokenWindows text() { return stream(GetParam(), 64); }
    at::Tensor entering(MoeModel& model) const { return test::enteringLayer(model, text(), layer); }

    const c10::InferenceMode guard;
    fs::path folder;
    std::shared_ptr<const Checkpoint> checkpoint;
    int layer = 0;
};

// Each chosen expert's own output with the weight that the rule leaves it, in fp64; what is skipped does not run.
TEST_P(SkipRun, WhatIsSkippedDoesNotRun)
{
    auto model = modelOf(checkpoint);
    auto device = test::portableModel(checkpoint);
    const at::Tensor hidden = entering(*model);
    const LayerShape& shape = checkpoint->shape().layers[static_cast<std::size_t>(layer)];
    Seen dense;
    const at::Tensor before = take(model->layer(layer, hidden, model->identity(), &dense));
    for (const SkipRule& nothing : {rule(Kind::Ratio, 0), rule(Kind::Cumulative, 1)})
        EXPECT_TRUE(at::equal(take(model->layer(layer, hidden, take(model->prepare(planOf(nothing))))), before)) << "nothing is skipped";
    for (const SkipRule& skip : {rule(Kind::Ratio, 0.7), rule(Kind::Cumulative, 0.4)}) {
        Seen host, other;
        const PreparedPlan plan = take(model->prepare(planOf(skip)));
        take(model->layer(layer, hidden, plan, &host));
        take(device->layer(layer, hidden, take(device->prepare(planOf(skip))), &other));
        ASSERT_TRUE(at::equal(host.seen.selected, dense.seen.selected)) << "the choice is the router's";
        const at::Tensor skipped = host.seen.weights.eq(0);
        ASSERT_TRUE(skipped.any().item<bool>()) << "the window does not show it";
        ASSERT_FALSE(skipped.all(1).any().item<bool>());
        std::int64_t ran = 0;
        for (const auto& [expert, tokens] : host.ran)
            ran += tokens;
        EXPECT_EQ(ran, skipped.logical_not().sum().item<std::int64_t>());
        EXPECT_EQ(host.ran, other.ran);
        if (shape.router.rule == RoutingRule::SoftmaxRenormalised) {
            EXPECT_TRUE(at::allclose(host.seen.weights.sum(1), at::ones({host.seen.weights.size(0)}), 1e-5, 1e-6));
        }

        test::StoredForms own(*checkpoint, layer);
        at::Tensor expected = at::zeros(host.seen.input.sizes(), at::kDouble);
        for (int e = 0; e < shape.experts; ++e) {
            const test::HandBody body = own.own(e);
            const at::Tensor in = host.seen.input.to(at::kDouble);
            const at::Tensor f = at::mm(at::silu(at::mm(in, body[0].weight.t())) * at::mm(in, body[1].weight.t()), body[2].weight.t());
            expected += (host.seen.weights.to(at::kDouble) * host.seen.selected.eq(e).to(at::kDouble)).sum({1}, true) * f;
        }
        const double most = 2e-5 * (1 + expected.abs().max().item<double>());
        EXPECT_LE((expected - host.seen.routed).abs().max().item<double>(), most);
        EXPECT_LE((expected - other.seen.routed).abs().max().item<double>(), most);
    }
}

// Against differences along directions that turn no choice.
TEST_P(SkipRun, GradientsEqualDifferences)
{
    auto model = modelOf(checkpoint);
    auto device = test::portableModel(checkpoint);
    const at::Tensor hidden = entering(*model);
    const at::Tensor above = test::numbers(90, hidden.sizes(), 1.0);
    const CompressionPlan wanted = planOf(rule(Kind::Ratio, 0.7));
    const PreparedPlan plan = take(model->prepare(wanted));
    const at::Tensor gradient = take(model->layerGradient(layer, hidden, above, plan));
    const at::Tensor other = take(device->layerGradient(layer, hidden, above, take(device->prepare(wanted))));
    EXPECT_LE((gradient - other).norm().item<double>(), 1e-5 * gradient.norm().item<double>());
    const auto run = [&](const at::Tensor& at) {
        Seen seen;
        const at::Tensor out = take(model->layer(layer, at, plan, &seen));
        return std::pair(out, seen);
    };
    test::expectGradientIsSlope(hidden, above, gradient, run, [](const Seen& a, const Seen& b) {
        return at::equal(a.seen.selected, b.seen.selected) && at::equal(a.seen.weights.eq(0), b.seen.weights.eq(0));
    });
}

TEST_P(SkipRun, CachedEqualsUncachedAndTheExportIsThePreview)
{
    const ModelShape& shape = checkpoint->shape();
    std::vector<std::pair<std::string, CompressionPlan>> plans;
    for (const SkipRule& skip : {rule(Kind::Ratio, 0), rule(Kind::Ratio, 0.7), rule(Kind::Cumulative, 0.4)}) {
        const CompressionPlan plan = planOf(skip);
        plans.emplace_back(std::to_string(skip.threshold()), plan);
        const bool nothing = skipsNothing(skip);
        EXPECT_EQ(tokensSkip(shape, plan), !nothing);
        EXPECT_EQ(planCost(shape, plan).activeAtMost, !nothing);
        EXPECT_EQ(checkFlavor(shape, plan, ExportFlavor::Stock).ok(), nothing);
        EXPECT_FALSE(checkFlavor(shape, plan, ExportFlavor::Reconstructed).ok());
        ExportOptions options;
        options.flavor = nothing ? "stock" : "factored";
        options.out = folder / "out";
        const auto written = test::verifiedExport(*checkpoint, plan, options);
        EXPECT_EQ(written->shape().layers[static_cast<std::size_t>(layer)].router.skip.has_value(), !nothing);
        test::expectPreviewIsExport(checkpoint, {}, plan, written, text(), 0);
        const CompressionPlan whole = CompressionPlan::identity(written->shape());
        // A source that skips by itself has an upper bound too.
        EXPECT_EQ(planCost(written->shape(), whole).activeAtMost, !nothing);
        if (nothing) continue;
        // Of such a source nothing is written that would not know the rule, unless a plan takes it away.
        EXPECT_FALSE(checkFlavor(written->shape(), whole, ExportFlavor::Stock).ok());
        CompressionPlan off = whole;
        for (const LayerShape& one : written->shape().layers)
            if (one.moe) off = take(withSkipRule(written->shape(), off, one.index, rule(Kind::Ratio, 0)));
        EXPECT_TRUE(checkFlavor(written->shape(), off, ExportFlavor::Stock).ok());
        EXPECT_FALSE(planCost(written->shape(), off).activeAtMost);
    }
    test::expectCachedEqualsUncached(checkpoint, {}, text(), plans);
}

INSTANTIATE_TEST_SUITE_P(All, SkipRun,
                         ::testing::Values("mixtral-tiny", "qwen2moe-tiny", "qwen3moe-tiny", "olmoe-tiny", "deepseekv2-full-tiny",
                                           "deepseekv3-tiny"));

}  // namespace

}  // namespace espalier
