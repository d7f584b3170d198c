// Layers whose weights are a mean of their own and another layer's: what the model computes, what caches may serve, what exports hold.
#include "core/linear_forms.h"
#include "core/plan_runs.h"
#include "plan/flavors.h"
#include "plan/plan_edit.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <set>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;
using test::modelOf;
using test::openTiny;
using test::take;

class MergedLayers : public ::testing::TestWithParam<const char*>
{
protected:
    MergedLayers() : folder(fs::temp_directory_path() / ("espalier-merged-" + std::to_string(::getpid()))), checkpoint(openTiny(GetParam()))
    {
        fs::remove_all(folder);
        fs::create_directories(folder);
        above = static_cast<int>(checkpoint->shape().layers.size()) - 1;
        layer = above - 1;
    }
    ~MergedLayers() override { fs::remove_all(folder); }

    // The upper of two layers goes into the lower one.
    CompressionPlan planOf(int alphaMillionths) const
    {
        const ModelShape& shape = checkpoint->shape();
        const CompressionPlan merged =
            take(withMergedLayer(shape, CompressionPlan::identity(shape), layer,
                                 LayerMerge{.layer = above, .alphaMillionths = alphaMillionths, .alignment = ""}));
        return take(withRun(shape, merged, above, LayerRun::Skipped));
    }
    static TokenWindows text() { return test::textOf(GetParam()); }
    at::Tensor entering(MoeModel& model) const { return test::enteringLayer(model, text(), layer); }
    // A checkpoint that holds the means, worked out in fp64.
    std::shared_ptr<const Checkpoint> byHand(double alpha) const
    {
        std::map<std::string, at::Tensor> numbers;
        const std::string own = "layers." + std::to_string(layer) + ".", other = "layers." + std::to_string(above) + ".";
        for (const StoredTensor& stored : checkpoint->tensorsInOrder()) {
            if (stored.role.layer != layer) continue;
            std::string name = stored.view.name;
            name.replace(name.find(own), own.size(), other);
            numbers[stored.view.name] = take(loadVector(stored.view)).to(at::kDouble) * alpha +
                                        take(loadVector(take(checkpoint->tensor(name)))).to(at::kDouble) * (1 - alpha);
        }
        return test::withNumbers(checkpoint->folder(), folder / "by-hand", numbers);
    }

    const c10::InferenceMode guard;
    fs::path folder;
    std::shared_ptr<const Checkpoint> checkpoint;
    int layer = 0, above = 0;
};

TEST_P(MergedLayers, ComputesWithTheMeansByHand)
{
    auto model = modelOf(checkpoint);
    auto streamed = modelOf(checkpoint, Residency::Stream);
    auto portable = test::portableModel(checkpoint);
    const auto hand = byHand(0.3);
    auto means = modelOf(hand);
    const at::Tensor hidden = entering(*model);
    const PreparedPlan plan = take(model->prepare(planOf(300'000)));
    const at::Tensor out = take(model->layer(layer, hidden, plan)), expected = take(means->layer(layer, hidden, means->identity()));
    const auto apart = [](const at::Tensor& a, const at::Tensor& b) {
        return (a.to(at::kDouble) - b.to(at::kDouble)).norm().item<double>() / b.to(at::kDouble).norm().item<double>();
    };
    const double room = checkpoint->shape().dtype == "F32" ? 1e-5 : 5e-3;
    EXPECT_GT(apart(take(model->layer(layer, hidden, model->identity())), out), 1e-3) << "the mean changes nothing";
    EXPECT_LE(apart(out, expected), room);
    EXPECT_LE(apart(take(portable->layer(layer, hidden, take(portable->prepare(planOf(300'000))))), out), 1e-5);
    EXPECT_TRUE(at::equal(take(streamed->layer(layer, hidden, take(streamed->prepare(planOf(300'000))))), out));
    const at::Tensor gradient = test::numbers(91, hidden.sizes(), 1.0);
    EXPECT_LE(apart(take(model->layerGradient(layer, hidden, gradient, plan)),
                    take(means->layerGradient(layer, hidden, gradient, means->identity()))),
              10 * room);
    // All of its own is the layer, to the bit.
    EXPECT_TRUE(at::equal(take(model->layer(layer, hidden, take(model->prepare(planOf(1'000'000))))),
                          take(model->layer(layer, hidden, model->identity()))));
}

TEST_P(MergedLayers, CachedEqualsUncached)
{
    std::vector<std::pair<std::string, CompressionPlan>> plans;
    for (const int alpha : {300'000, 700'000, 1'000'000})
        plans.emplace_back(std::to_string(alpha), planOf(alpha));
    test::expectCachedEqualsUncached(checkpoint, {}, text(), plans);
}

TEST_P(MergedLayers, TheStockExportIsThePreviewToTheBit)
{
    // With fewer experts in the merged layer too: chosen rows are mixed.
    const LayerShape& shape = checkpoint->shape().layers[static_cast<std::size_t>(layer)];
    CompressionPlan plan = planOf(650'000);
    ExpertSet kept;
    const int size = shape.experts / std::max(shape.router.groups, 1);
    for (int e = 0; e < shape.experts; ++e)
        if (e % size != 0) kept.push_back(e);
    for (const LayerShape& other : checkpoint->shape().layers)
        if (other.moe && other.index != above) plan = take(plan.withKept(checkpoint->shape(), other.index, kept));
    for (const char* flavour : {"stock", "factored"}) {
        SCOPED_TRACE(flavour);
        ExportOptions options;
        options.flavor = flavour;
        options.out = folder / flavour;
        options.shardSize = 40'000;
        const auto written = test::verifiedExport(*checkpoint, plan, options);
        EXPECT_EQ(static_cast<int>(written->shape().layers.size()), above);
        test::expectPreviewIsExport(checkpoint, {}, plan, written, text(), 0);
        test::expectSizeAsSaid(checkpoint->shape(), plan, written->shape());
    }
}

TEST_P(MergedLayers, WhatIsNotOneIsRefusedByName)
{
    const ModelShape& shape = checkpoint->shape();
    const CompressionPlan dense = CompressionPlan::identity(shape);
    const auto codeOf = [&](const LayerMerge& merge) {
        const auto plan = withMergedLayer(shape, dense, layer, merge);
        return plan.ok() ? std::string("ok") : plan.error().code;
    };
    EXPECT_EQ(codeOf({.layer = layer, .alphaMillionths = 1, .alignment = ""}), "plan.unknown_layer");
    EXPECT_EQ(codeOf({.layer = 99, .alphaMillionths = 1, .alignment = ""}), "plan.unknown_layer");
    EXPECT_EQ(codeOf({.layer = above, .alphaMillionths = 1'000'001, .alignment = ""}), "plan.invalid");
    if (!shape.layers[0].moe) {
        EXPECT_EQ(codeOf({.layer = 0, .alphaMillionths = 1, .alignment = ""}), "plan.invalid");
    }
    auto model = modelOf(checkpoint);
    const CompressionPlan aligned =
        take(withMergedLayer(shape, dense, layer, LayerMerge{.layer = above, .alphaMillionths = 500'000, .alignment = "hungarian"}));
    EXPECT_EQ(model->prepare(aligned).error().code, "plan.form_not_run");
    EXPECT_FALSE(checkFlavor(shape, aligned, ExportFlavor::Stock).ok());
    const CompressionPlan both = take(withLinearForm(shape, planOf(500'000), layer, "self_attn.o_proj", MatrixForm::lowRank(4)));
    EXPECT_EQ(model->prepare(both).error().code, "plan.form_not_run");
}

INSTANTIATE_TEST_SUITE_P(All, MergedLayers,
                         ::testing::Values("mixtral-tiny", "qwen2moe-tiny", "olmoe-tiny", "deepseekv2-lite-tiny", "deepseekv3-tiny",
                                           "qwen3moe-tiny-fused-v5", "mixtral-bf16-sharded"));

}  // namespace

}  // namespace espalier
