// The reverse sweep of the profile pass, and the estimate made of it, on tiny models.
#include "core/session_samples.h"
#include "core/tiny_profile_fixture.h"
#include "model/moe_model_torch.h"
#include "score/nll_estimate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <optional>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;
using test::calibration;
using test::Folder;
using test::profileOf;
using test::readBytes;
using test::tinyModel;

at::Tensor idsOf(const TokenWindows& windows)
{
    at::Tensor ids = at::empty({static_cast<std::int64_t>(windows.rows.size()), 64}, at::kLong);
    auto* to = ids.mutable_data_ptr<std::int64_t>();
    for (const auto& row : windows.rows)
        to = std::copy(row.begin(), row.end(), to);
    return ids;
}

// Selections and weights of one layer, and the outputs of all its experts for all tokens.
struct Seen final : LayerObserver {
    MoeModel& model;
    int layer;
    MoeBatch batch;
    at::Tensor outputs;  // [N,n,H]
    Seen(MoeModel& m, int l) : model(m), layer(l) {}
    void moe(const MoeBatch& seen) override
    {
        if (seen.layer != layer) return;
        batch = seen;
        std::vector<at::Tensor> all;
        for (int e = 0; e < static_cast<int>(seen.routerLogits.size(1)); ++e)
            all.push_back(*model.expertOutput(layer, e, seen.input));
        outputs = at::stack(all, 1);
    }
};

// Which experts a pass selects, layer by layer.
struct Selections final : LayerObserver {
    std::vector<at::Tensor> selected;
    void moe(const MoeBatch& batch) override { selected.push_back(std::get<0>(batch.selected.sort(1))); }
    bool operator==(const Selections& other) const
    {
        bool same = selected.size() == other.selected.size();
        for (std::size_t i = 0; same && i < selected.size(); ++i)
            same = at::equal(selected[i], other.selected[i]);
        return same;
    }
};

// NLL per window from the output of a layer on.
at::Tensor lossBehind(MoeModel& model, int layer, at::Tensor hidden, const at::Tensor& ids, LayerObserver* observer = nullptr)
{
    for (int l = layer + 1; l < model.layerCount(); ++l)
        hidden = *model.layer(l, hidden, model.identity(), observer);
    return model.tokenNll(hidden, ids)->sum({1});
}

class GradientSweep : public testing::TestWithParam<const char*>
{
};

// c_te is the slope of the NLL along the output of expert e at token t.
TEST_P(GradientSweep, ProductsAreSlopes)
{
    const c10::InferenceMode guard;
    const auto model = tinyModel(GetParam(), Residency::Stream);
    const TokenWindows windows = calibration(GetParam());
    const ProfileData data = profileOf(*model, windows, {.collect = {"gram", "gradients"}});
    EXPECT_EQ(data.collected, (std::vector<std::string>{"counts", "gram", "gradients"}));
    const at::Tensor ids = idsOf(windows);
    for (const int l : {0, 2, 3}) {
        const LayerProfile& layer = data.layers[static_cast<std::size_t>(l)];
        const auto length = static_cast<std::size_t>(layer.gram.listLength);
        ASSERT_EQ(layer.gradients.products.size(), 1024 * length);
        EXPECT_EQ(layer.gradients.tokens, 1024);
        EXPECT_EQ(layer.gradients.window[64], 1);
        EXPECT_EQ(layer.gradients.window.back(), 15);
        Seen seen(*model, l);
        at::Tensor hidden = *model->embed(ids);
        for (int i = 0; i <= l; ++i)
            hidden = *model->layer(i, hidden, model->identity(), i == l ? &seen : nullptr);
        Selections reference;
        (void)lossBehind(*model, l, hidden, ids, &reference);
        // Of each window one place of a token's list, chosen experts and others; another token where the step changes a selection.
        int measured = 0;
        for (std::size_t w = 0; w < 16; ++w) {
            const std::size_t place = w % length;
            for (std::size_t trial = 0; trial < 8; ++trial) {
                const std::size_t t = 64 * w + (7 * w + 11 * trial + 3) % 60;
                const auto row = static_cast<std::int64_t>(t);
                const std::int64_t expert = layer.gram.list[t * length + place];
                const at::Tensor y = seen.outputs.select(0, row).select(0, expert);
                const double step = 2e-3 * hidden.view({1024, -1}).select(0, row).norm().item<double>() / y.norm().item<double>();
                const auto moved = [&](double s, Selections& selections) {
                    const at::Tensor changed = hidden.clone();
                    changed.view({1024, -1}).select(0, row).add_(y * s);
                    return lossBehind(*model, l, changed, ids, &selections).select(0, static_cast<std::int64_t>(w)).item<double>();
                };
                Selections up, down;
                const double expected = (moved(step, up) - moved(-step, down)) / (2 * step);
                if (!(up == reference) || !(down == reference)) continue;
                ++measured;
                EXPECT_NEAR(layer.gradients.products[t * length + place], expected, 0.01 * std::abs(expected) + 1e-3)
                    << "layer " << l << ", token " << t << ", place " << place;
                break;
            }
        }
        EXPECT_EQ(measured, 16) << "layer " << l;
        // Nothing is scored behind the last token of a window.
        for (std::size_t w = 0; w < 16; ++w)
            for (std::size_t i = 0; i < length; ++i)
                EXPECT_EQ(layer.gradients.products[(64 * w + 63) * length + i], 0);
    }
}

// u from the store and the change of the routed output, as vectors; half the step divides the error of the slope by about four.
TEST_P(GradientSweep, EstimateIsTheSlopeOfThePlan)
{
    const c10::InferenceMode guard;
    const auto model = tinyModel(GetParam(), Residency::Stream);
    const TokenWindows windows = calibration(GetParam());
    const ProfileData data = profileOf(*model, windows, {.collect = {"gram", "gradients"}, .gramExtra = 100});
    const at::Tensor ids = idsOf(windows);
    const auto estimator = NllEstimator::create(data);
    ASSERT_TRUE(estimator.ok()) << estimator.error().describe();
    const int l = 3;  // the last layer: no router behind it changes its mind
    const int n = data.layers[3].experts;
    for (const int removed : {0, n / 2, n - 1}) {
        std::vector<int> kept;
        for (int e = 0; e < n; ++e)
            if (e != removed) kept.push_back(e);
        const CompressionPlan plan = *CompressionPlan::identity(model->shape()).withKept(model->shape(), l, kept);
        at::Tensor in = *model->embed(ids);
        for (int i = 0; i < l; ++i)
            in = *model->layer(i, in, model->identity());
        const at::Tensor full = *model->layer(l, in, model->identity());
        const at::Tensor delta = *model->layer(l, in, *model->prepare(plan)) - full;
        const at::Tensor gradient = *model->headGradient(full, ids.narrow(1, 1, 63));
        const NllEstimate estimate = *(*estimator)->estimate(plan);
        const double scored = 16 * 63;
        const at::Tensor u = (gradient.to(at::kDouble) * delta.to(at::kDouble)).sum({2});
        EXPECT_NEAR(estimate.e1, u.sum().item<double>() / scored, 1e-5 * std::abs(estimate.e1) + 1e-6);
        EXPECT_NEAR(estimate.e2, u.square().sum().item<double>() / 2 / scored, 1e-4 * estimate.e2);
        EXPECT_EQ(estimate.uncoveredFraction, 0);
        const double before = lossBehind(*model, l, full, ids).sum().item<double>();
        const auto error = [&](double step) {
            return std::abs(step * estimate.e1 - (lossBehind(*model, l, full + delta * step, ids).sum().item<double>() - before) / scored);
        };
        EXPECT_NEAR(error(0.5) / error(0.25), 4, 0.8) << removed;
        EXPECT_NEAR(error(0.25) / error(0.125), 4, 0.5) << removed;
    }
}

// With labels from the model's own distribution the slope is noise around zero, and the squared slope the curvature.
TEST_P(GradientSweep, DrawnLabelsHaveNoSlope)
{
    const auto model = tinyModel(GetParam(), Residency::Stream);
    const ProfileData data = profileOf(*model, calibration(GetParam()), {.collect = {"gram", "curvature"}, .gramExtra = 100});
    EXPECT_EQ(data.collected, (std::vector<std::string>{"counts", "gram", "gradients", "curvature"}));
    ProfileData drawn = data;
    for (LayerProfile& layer : drawn.layers) {
        EXPECT_EQ(layer.gradients.drawnProducts.size(), layer.gradients.products.size());
        EXPECT_GT(layer.gradients.drawnSquared, 0);
        layer.gradients.products = layer.gradients.drawnProducts;
    }
    const auto estimator = NllEstimator::create(drawn);
    ASSERT_TRUE(estimator.ok());
    const int n = data.layers[0].experts;
    for (int removed = 0; removed < n; ++removed) {
        std::vector<int> kept;
        for (int e = 0; e < n; ++e)
            if (e != removed) kept.push_back(e);
        for (const int l : {0, 1, 2, 3}) {
            const NllEstimate estimate =
                *(*estimator)->estimate(*CompressionPlan::identity(model->shape()).withKept(model->shape(), l, kept));
            EXPECT_LE(std::abs(estimate.e1), 3 * estimate.e1Error) << "layer " << l << " without " << removed;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Tiny, GradientSweep, testing::Values("mixtral-tiny", "qwen2moe-tiny"),
                         [](const auto& info) { return std::string(info.param, std::string(info.param).find('-')); });

TEST(GradientSweepFile, RoomForStatesChangesNothing)
{
    const Folder folder;
    const auto model = tinyModel("qwen2moe-tiny", Residency::Stream);
    const TokenWindows windows = calibration("qwen2moe-tiny");
    const ProfileOptions all{.out = folder / "all.h5", .collect = {"gram", "curvature"}};
    (void)profileOf(*model, windows, all);
    // One batch of windows at a time, its states computed again.
    ProfileOptions tight = all;
    tight.out = folder / "tight.h5";
    tight.boundaryBudget = 1;
    (void)profileOf(*model, windows, tight);
    EXPECT_EQ(readBytes(folder / "all.h5"), readBytes(folder / "tight.h5"));
    // On a pruned model too.
    const CompressionPlan plan = *CompressionPlan::identity(model->shape()).withKept(model->shape(), 1, {0, 1, 2, 4, 5, 7, 8, 9});
    ProfileOptions pruned = all;
    pruned.out = folder / "pruned.h5";
    pruned.plan = plan;
    const ProfileData data = profileOf(*model, windows, pruned);
    const LayerProfile& layer = data.layers[1];
    for (std::size_t i = 0; i < layer.gram.list.size(); ++i)
        if (!plan.keeps(1, layer.gram.list[i])) {
            EXPECT_EQ(layer.gradients.products[i], 0);
        }
    // What was already missing costs nothing more.
    const auto estimator = NllEstimator::create(data);
    ASSERT_TRUE(estimator.ok());
    EXPECT_NEAR((*estimator)->estimate(plan)->e1, 0, 1e-7);
    EXPECT_EQ((*estimator)->estimate(plan)->uncoveredFraction, 0);
}

TEST(GradientSweepFile, SamplesAndShardsAreThoseOfTheWholePass)
{
    const Folder folder;
    const auto model = tinyModel("mixtral-tiny", Residency::Stream);
    const TokenWindows windows = calibration("mixtral-tiny");
    const ProfileData whole = profileOf(*model, windows, {.out = folder / "whole.h5", .collect = {"gram", "curvature"}});
    const ProfileData some = profileOf(*model, windows, {.out = folder / "some.h5", .collect = {"gram", "curvature"}, .gramTokens = 100});
    for (std::size_t l = 0; l < whole.layers.size(); ++l) {
        const LayerProfile& all = whole.layers[l];
        const LayerProfile& part = some.layers[l];
        const auto length = static_cast<std::size_t>(part.gram.listLength);
        ASSERT_EQ(part.gram.tokenCount(), 100u);
        EXPECT_EQ(part.gradients.squared, all.gradients.squared);
        EXPECT_EQ(part.gradients.tokens, 1024);
        for (std::size_t i = 0; i < 100; ++i) {
            const auto t = static_cast<std::size_t>(part.gram.tokens[i]);
            EXPECT_EQ(part.gradients.window[i], part.gram.tokens[i] / 64);
            for (std::size_t k = 0; k < length; ++k) {
                const float expected = all.gradients.products[t * length + k];
                EXPECT_NEAR(part.gradients.products[i * length + k], expected, 1e-5f * (1 + std::abs(expected)));
            }
        }
    }
    std::vector<fs::path> parts;
    for (int shard = 0; shard < 3; ++shard) {
        parts.push_back(folder / ("part" + std::to_string(shard) + ".h5"));
        (void)profileOf(*model, windows, {.out = parts.back(), .collect = {"gram", "curvature"}, .shard = shard, .shards = 3});
    }
    const auto sum = mergeProfiles({parts[1], parts[2], parts[0]}, folder / "sum.h5");
    ASSERT_TRUE(sum.ok()) << sum.error().describe();
    EXPECT_EQ(sum->collected, whole.collected);
    for (std::size_t l = 0; l < whole.layers.size(); ++l) {
        EXPECT_EQ(sum->layers[l].gradients.products, whole.layers[l].gradients.products);
        EXPECT_EQ(sum->layers[l].gradients.drawnProducts, whole.layers[l].gradients.drawnProducts);
        EXPECT_EQ(sum->layers[l].gradients.window, whole.layers[l].gradients.window);
        EXPECT_NEAR(sum->layers[l].gradients.squared, whole.layers[l].gradients.squared, 1e-12 * whole.layers[l].gradients.squared);
        EXPECT_EQ(sum->layers[l].gradients.tokens, 1024);
    }
}

// Stops once so much of the work is done.
struct StoppingJob final : JobContext {
    double stopAt = 2;
    double reached = 0;
    bool stopRequested() const noexcept override { return reached >= stopAt; }
    void progress(std::int64_t done, std::int64_t total, std::string_view) override
    {
        const double now = static_cast<double>(done) / static_cast<double>(total);
        EXPECT_GE(now, reached);
        reached = now;
    }
    void partial(const Json&) override {}
};

TEST(GradientSweepFile, StoppedSweepResumes)
{
    const Folder folder;
    const auto model = tinyModel("qwen2moe-tiny", Residency::Stream);
    const TokenWindows windows = calibration("qwen2moe-tiny");
    ProfileOptions options{.out = folder / "whole.h5"};
    StoppingJob job;
    const auto whole = runProfile(*model, windows, options, job);
    ASSERT_TRUE(whole.ok()) << whole.error().describe();
    EXPECT_TRUE(whole->has("gradients")) << "a small model: on by itself";
    EXPECT_FALSE(whole->has("curvature"));
    EXPECT_DOUBLE_EQ(job.reached, 1);
    options.out = folder / "stopped.h5";
    // In the pass, in the sweep.
    for (const double at : {0.2, 0.7, 0.95}) {
        StoppingJob stopping;
        stopping.stopAt = at;
        const auto stopped = runProfile(*model, windows, options, stopping);
        ASSERT_FALSE(stopped.ok());
        EXPECT_EQ(stopped.error().kind, ErrorKind::Cancelled);
        EXPECT_FALSE(fs::exists(options.out));
        options.resume = true;
    }
    StoppingJob rest;
    ASSERT_TRUE(runProfile(*model, windows, options, rest).ok());
    EXPECT_DOUBLE_EQ(rest.reached, 1);
    EXPECT_EQ(readBytes(folder / "whole.h5"), readBytes(folder / "stopped.h5"));
}

TEST(GradientSweepFile, OptionsThatDoNotFit)
{
    const auto model = tinyModel("mixtral-tiny", Residency::Stream);
    const TokenWindows windows = calibration("mixtral-tiny");
    SilentJob job;
    EXPECT_EQ(runProfile(*model, windows, {.collect = {"gradients"}}, job).error().code, "profile.bad_option");
    EXPECT_EQ(runProfile(*model, windows, {.collect = {"+gradients"}, .gramTokens = 0}, job).error().code, "profile.bad_option");
    // Nothing is written: not by itself.
    EXPECT_FALSE(profileOf(*model, windows, {}).has("gradients"));
}

}  // namespace

}  // namespace espalier
