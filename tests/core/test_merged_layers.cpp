// Layers whose weights are a mean of their own and another layer's: what the model computes, what caches may serve, what exports hold.
#include "core/linear_forms.h"
#include "evaluate/evaluator.h"
#include "export/exporter.h"
#include "export/verify.h"
#include "plan/cost_model.h"
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
using test::stream;
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
    static TokenWindows text()
    {
        const std::string name = GetParam();
        return stream(name.substr(0, name.find("-fused")), 64);
    }
    at::Tensor entering(MoeModel& model) const
    {
        const TokenWindows windows = text();
        at::Tensor ids = at::empty({1, 64}, at::kLong);
        std::copy(windows.rows[0].begin(), windows.rows[0].end(), ids.mutable_data_ptr<std::int64_t>());
        at::Tensor hidden = take(model.embed(ids));
        for (int l = 0; l < layer; ++l)
            hidden = take(model.layer(l, hidden, model.identity()));
        return hidden;
    }
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
    ModelOptions options;
    options.residency = Residency::Resident;
    options.threads = 1;
    options.device = "portable";
    auto portable = take(MoeModel::create(checkpoint, options));
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
    auto model = modelOf(checkpoint);
    Evaluator warm(*model, text(), std::int64_t{64} << 20);
    SilentJob job;
    const std::vector<int> some = {0, 1};
    std::set<double> numbers;
    for (int round = 0; round < 2; ++round)
        for (const int alpha : {300'000, 700'000, 1'000'000}) {
            auto alone = modelOf(checkpoint);
            Evaluator fresh(*alone, text(), 0);
            const auto cached = take(warm.run(planOf(alpha), some, {}, job)), uncached = take(fresh.run(planOf(alpha), some, {}, job));
            for (std::size_t i = 0; i < cached.size(); ++i)
                EXPECT_EQ(cached[i].nll, uncached[i].nll);
            numbers.insert(cached[0].nll);
        }
    EXPECT_EQ(numbers.size(), std::size_t(3));
}

TEST_P(MergedLayers, TheStockExportIsThePreviewToTheBit)
{
    SilentJob job;
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
        take(exportCheckpoint(*checkpoint, plan, options, job));
        VerifyOptions check;
        check.exported = options.out;
        check.model.threads = 1;
        const VerifyReport report = take(verifyExport(check, job));
        for (const VerifyCheck& found : report.checks)
            EXPECT_TRUE(found.holds) << found.name << ": " << found.detail;
        EXPECT_TRUE(report.holds);
        const auto written = take(Checkpoint::open(options.out));
        EXPECT_EQ(static_cast<int>(written->shape().layers.size()), above);
        auto before = modelOf(checkpoint);
        auto after = modelOf(written);
        Evaluator preview(*before, text(), 0), exported(*after, text(), 0);
        const std::vector<int> some = {0, 1};
        const auto a = take(preview.run(plan, some, {}, job));
        const auto b = take(exported.run(CompressionPlan::identity(written->shape()), some, {}, job));
        for (std::size_t i = 0; i < a.size(); ++i)
            EXPECT_EQ(a[i].nll, b[i].nll);
        // A selection bias counts with the rest of a layer, whatever goes of its rows.
        if (shape.router.rule != RoutingRule::SigmoidBias) {
            EXPECT_EQ(planCost(written->shape(), CompressionPlan::identity(written->shape())).bytes,
                      planCost(checkpoint->shape(), plan).bytes);
        }
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
