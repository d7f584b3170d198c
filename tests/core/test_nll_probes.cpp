// Probes of a profile: what they measure is what a pass with their plan measures, however it is cut up.
#include "profile/nll_probes.h"

#include "core/session_samples.h"
#include "core/tiny_profile_fixture.h"
#include "model/moe_model_torch.h"
#include "score/nll_estimate.h"
#include "score/scorer.h"
#include "session/profile_file.h"
#include "session/profile_parts.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace espalier
{

namespace
{

using test::calibration;
using test::Folder;
using test::profileOf;
using test::tinyModel;

CompressionPlan planOf(const NllProbe& probe, const ModelShape& shape, const FactorSettings& factors)
{
    CompressionPlan plan = CompressionPlan::identity(shape);
    for (const NllProbe::Layer& layer : probe.layers) {
        plan = *plan.withKept(shape, layer.layer, layer.kept);
        if (!layer.ranks.empty()) plan = plan.withRanks(shape, layer.layer, layer.ranks)->withFactors(factors);
    }
    return plan;
}

class NllProbes : public testing::TestWithParam<const char*>
{
};

TEST_P(NllProbes, AreWhatAPassMeasures)
{
    const Folder folder;
    const auto model = tinyModel(GetParam());
    const TokenWindows windows = calibration(GetParam());
    const ProfileData data = profileOf(*model, windows, {.out = folder / "p.h5", .collect = {"gram", "gradients", "factors"}});
    const ModelShape& shape = model->shape();
    ASSERT_EQ(data.probes.size(), 1u);
    const NllProbeSet& set = data.probes.front();
    ASSERT_EQ(set.windows.size(), 8u) << "half of a short text";
    EXPECT_EQ(set.factors, "whitened-svd");
    const auto moe = static_cast<std::size_t>(
        std::count_if(shape.layers.begin(), shape.layers.end(), [](const LayerShape& layer) { return layer.moe; }));
    EXPECT_GE(set.probes.size(), 3 * moe + 4);

    const auto parts = ProfileParts::open(folder / "p.h5");
    ASSERT_TRUE(parts.ok());
    model->setFactorSources({*parts});
    const FactorSettings factors = {.method = "whitened-svd", .profileSha256 = (*parts)->profileSha256()};
    const c10::InferenceMode inference;
    at::Tensor ids = at::empty({16, 64}, at::kLong);
    for (int w = 0; w < 16; ++w)
        std::copy(windows.rows[static_cast<std::size_t>(w)].begin(), windows.rows[static_cast<std::size_t>(w)].end(),
                  ids.mutable_data_ptr<std::int64_t>() + 64 * w);
    const at::Tensor dense = model->tokenNll(*model->hiddenStates(ids, model->identity()), ids)->sum({1});
    bool alone = false, ranked = false;
    for (const NllProbe& probe : set.probes) {
        alone = alone || probe.layers.size() == 1;
        ranked = ranked || !probe.layers.front().ranks.empty();
        const auto prepared = model->prepare(planOf(probe, shape, factors));
        ASSERT_TRUE(prepared.ok()) << prepared.error().describe();
        const at::Tensor change = model->tokenNll(*model->hiddenStates(ids, *prepared), ids)->sum({1}) - dense;
        for (std::size_t w = 0; w < 8; ++w)
            EXPECT_NEAR(probe.change[w], change[set.windows[w]].item<double>(), 2e-3);
    }
    EXPECT_TRUE(alone && ranked);
}

INSTANTIATE_TEST_SUITE_P(Models, NllProbes, testing::Values("mixtral-tiny", "qwen2moe-tiny"));

TEST(NllProbesRun, HoweverTheyAreCutUp)
{
    const auto model = tinyModel("mixtral-tiny");
    const TokenWindows windows = calibration("mixtral-tiny");
    const ProfileData data = profileOf(*model, windows, {.collect = {"gram"}});
    const ExpertScores scores = *score(data, "leave-one-out");
    std::int64_t steps = 0;
    ProbeRun run{.rows = windows.rows,
                 .importance = scores.values.rows,
                 .source = nullptr,
                 .memory = std::int64_t{1} << 30,
                 .stopRequested = [] { return false; },
                 .step = [&](std::int64_t tokens) { steps += tokens; }};
    const auto together = runProbes(*model, run);
    ASSERT_TRUE(together.ok()) << together.error().describe();
    EXPECT_GT(steps, 0);
    EXPECT_LE(steps, probeWork(model->shape(), windows.rows, false));
    for (const NllProbe& probe : together->probes)
        for (const NllProbe::Layer& layer : probe.layers)
            EXPECT_TRUE(layer.ranks.empty()) << "there are no factors";
    run.memory = 0;  // one plan after the other
    const auto alone = runProbes(*model, run);
    ASSERT_TRUE(alone.ok());
    EXPECT_EQ(*together, *alone);
    const auto streaming = tinyModel("mixtral-tiny", Residency::Stream);
    const auto streamed = runProbes(*streaming, run);
    ASSERT_TRUE(streamed.ok());
    EXPECT_EQ(*together, *streamed);
    run.stopRequested = [calls = 0]() mutable { return ++calls > 20; };
    const auto stopped = runProbes(*model, run);
    ASSERT_FALSE(stopped.ok());
    EXPECT_EQ(stopped.error().kind, ErrorKind::Cancelled);
}

TEST(NllProbesRun, FewWindowsOfALongText)
{
    const auto model = tinyModel("mixtral-tiny");
    const ModelShape& shape = model->shape();
    std::vector<std::vector<int>> rows(5000, std::vector<int>(256, 1));
    const auto chosen = probeWindows(shape, rows, true);
    EXPECT_TRUE(std::is_sorted(chosen.begin(), chosen.end()));
    EXPECT_LE(static_cast<std::int64_t>(chosen.size()) * 256, kMostProbeTokens + 256);
    EXPECT_LT(chosen.front(), 100);
    EXPECT_GT(chosen.back(), 4900) << "spread over the text";
    EXPECT_LE(static_cast<double>(probeWork(shape, rows, true)), kProbeCost * 5000 * 256 * static_cast<double>(shape.layers.size()));
    rows.resize(100);
    EXPECT_EQ(static_cast<std::int64_t>(probeWindows(shape, rows, true).size()) * 256, kLeastProbeTokens);
    rows.assign(3, {5});  // nothing is predicted in a window of one token
    EXPECT_TRUE(probeWindows(shape, rows, true).empty());
}

// Routers that choose among groups need as many experts in each.
TEST(NllProbesRun, PlansAreThoseTheRouterAllows)
{
    ModelShape shape;
    shape.hiddenSize = 32;
    for (int l = 0; l < 3; ++l) {
        LayerShape layer;
        layer.index = l;
        layer.moe = l > 0;
        if (layer.moe) {
            layer.experts = 16;
            layer.expertWidth = 24;
            layer.router.rule = RoutingRule::GroupLimitedSoftmax;
            layer.router.topK = 4;
            layer.router.groups = 4;
            layer.router.topGroups = 2;
        }
        shape.layers.push_back(layer);
    }
    std::vector<std::vector<double>> importance(3);
    for (int l = 1; l < 3; ++l) {
        importance[static_cast<std::size_t>(l)].resize(16);
        std::iota(importance[static_cast<std::size_t>(l)].begin(), importance[static_cast<std::size_t>(l)].end(), 0.0);
    }
    const auto plans = probePlans(shape, importance, {.method = "whitened-svd", .profileSha256 = "p"});
    EXPECT_GE(plans.size(), 8u);
    bool fewer = false;
    for (const CompressionPlan& plan : plans) {
        EXPECT_FALSE(plan.isIdentity(shape));
        for (int l = 1; l < 3; ++l) {
            int inGroup[4] = {};
            for (const int e : plan.layer(l).kept())
                ++inGroup[e / 4];
            for (const int count : inGroup)
                EXPECT_EQ(count, inGroup[0]);
            fewer = fewer || inGroup[0] < 4;
        }
    }
    EXPECT_TRUE(fewer);
    EXPECT_EQ(plans.front().layer(1).kept().front(), 1) << "the least important expert goes first";
}

}  // namespace

}  // namespace espalier
