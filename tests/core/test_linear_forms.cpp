// Linear maps beside the experts (attention, shared experts, dense MLPs) in other forms: what the model computes, forwards and backwards
// and by the device's way, what caches may serve, what exports hold, what is refused.
#include "core/linear_forms.h"
#include "core/plan_runs.h"
#include "plan/flavors.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <set>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;
using test::LinearCase;
using test::LinearForms;
using test::modelOf;
using test::openTiny;
using test::portableModel;
using test::take;

// A dense layer and one with experts, as far as there are.
std::vector<int> someLayers(const ModelShape& shape)
{
    std::vector<int> layers;
    for (const bool moe : {false, true}) {
        const auto found =
            std::find_if(shape.layers.begin(), shape.layers.end(), [&](const LayerShape& layer) { return layer.moe == moe; });
        if (found != shape.layers.end()) layers.push_back(found->index);
    }
    return layers;
}

class LinearFormsRun : public ::testing::TestWithParam<const char*>
{
protected:
    LinearFormsRun()
        : folder(fs::temp_directory_path() / ("espalier-linears-" + std::to_string(::getpid()))),
          checkpoint(openTiny(GetParam())),
          forms(*checkpoint, someLayers(checkpoint->shape()))
    {
        fs::remove_all(folder);
        fs::create_directories(folder);
        info = forms.write(folder / "values");
        sources = {take(openValuesFile(info.file, info.id))};
        cases = forms.cases(info.id);
    }
    ~LinearFormsRun() override { fs::remove_all(folder); }

    CompressionPlan planOf(const LinearCase& one) const { return forms.planOf(one); }
    static TokenWindows text() { return test::textOf(GetParam()); }
    static at::Tensor ids() { return test::firstIds(text()); }

    const c10::InferenceMode guard;
    fs::path folder;
    std::shared_ptr<const Checkpoint> checkpoint;
    LinearForms forms;
    ValuesInfo info;
    FactorSources sources;
    std::vector<LinearCase> cases;
};

double apart(const at::Tensor& a, const at::Tensor& b)
{
    return (a.to(at::kDouble) - b.to(at::kDouble)).norm().item<double>() / b.to(at::kDouble).norm().item<double>();
}

// Against a checkpoint that holds the matrices worked out by hand: to the bit where each is one matrix, up to rounding where it is a
// product, forwards, backwards and by the device's way.
TEST_P(LinearFormsRun, ComputesWithTheMatricesByHand)
{
    auto model = modelOf(checkpoint);
    auto portable = portableModel(checkpoint);
    auto streamed = modelOf(checkpoint, Residency::Stream);
    for (MoeModel* one : {model.get(), portable.get(), streamed.get()})
        one->setFactorSources(sources);
    // Factors are rounded to the checkpoint's type, the products of a checkpoint once more.
    const bool narrow = checkpoint->shape().dtype != "F32";
    for (const LinearCase& one : cases) {
        SCOPED_TRACE(one.name);
        const bool ownBias = std::all_of(one.linears.begin(), one.linears.end(), [&](const test::PlannedLinear& linear) {
            return !linear.bias.defined() || checkpoint->linear(linear.layer, linear.name).biased;
        });
        if (!ownBias) continue;  // no checkpoint of the family has such a bias
        auto byHand = modelOf(forms.checkpointOf(one, folder / "by-hand"));
        const PreparedPlan plan = take(model->prepare(planOf(one)));
        const int layer = one.linears.front().layer;
        at::Tensor hidden = take(model->embed(ids()));
        for (int l = 0; l < layer; ++l)
            hidden = take(model->layer(l, hidden, model->identity()));
        const at::Tensor expected = take(byHand->layer(layer, hidden, byHand->identity()));
        const at::Tensor dense = take(model->layer(layer, hidden, model->identity()));
        ASSERT_GT(apart(dense, expected), 1e-4) << "the form changes nothing";
        const at::Tensor out = take(model->layer(layer, hidden, plan));
        const at::Tensor other = take(portable->layer(layer, hidden, take(portable->prepare(planOf(one)))));
        if (one.exact)
            EXPECT_TRUE(at::equal(out, expected)) << apart(out, expected);
        else
            EXPECT_LE(apart(out, expected), narrow ? 3e-3 : 2e-5);
        EXPECT_LE(apart(other, out), 1e-5);
        EXPECT_TRUE(at::equal(take(streamed->layer(layer, hidden, take(streamed->prepare(planOf(one))))), out));

        const at::Tensor above = test::numbers(90, hidden.sizes(), 1.0);
        const at::Tensor wanted = take(byHand->layerGradient(layer, hidden, above, byHand->identity()));
        const at::Tensor gradient = take(model->layerGradient(layer, hidden, above, plan));
        EXPECT_LE(apart(gradient, wanted), narrow ? 1e-2 : 1e-4);
        EXPECT_LE(apart(take(portable->layerGradient(layer, hidden, above, take(portable->prepare(planOf(one))))), gradient), 1e-4);
    }
}

class SeenAttention final : public LayerObserver
{
public:
    void attention(int, const at::Tensor& attnOut) override { out = attnOut.clone(); }
    at::Tensor out;
};

// A bias of the factors is added where the family has none, and takes the place of the family's.
TEST_P(LinearFormsRun, ABiasOfFactorsIsAdded)
{
    const auto biased = std::find_if(cases.begin(), cases.end(), [](const LinearCase& one) { return one.name == "a bias"; });
    LinearCase plain = *biased;
    std::get<LowRank>(plain.linears[0].form.structure).bias = false;
    auto model = modelOf(checkpoint);
    model->setFactorSources(sources);
    const int layer = biased->linears[0].layer;
    at::Tensor hidden = take(model->embed(ids()));
    SeenAttention with, without;
    take(model->layer(layer, hidden, take(model->prepare(planOf(*biased))), &with));
    take(model->layer(layer, hidden, take(model->prepare(planOf(plain))), &without));
    at::Tensor expected = biased->linears[0].bias.to(at::kFloat);
    if (const LinearView view = checkpoint->linear(layer, biased->linears[0].name); view.biased) expected -= take(loadVector(view.bias));
    EXPECT_LE((with.out - without.out - expected).abs().max().item<double>(), 1e-5);
}

// What an evaluation of one plan left behind must not reach the number of another.
TEST_P(LinearFormsRun, CachedEqualsUncachedForEveryMap)
{
    std::vector<std::pair<std::string, CompressionPlan>> plans;
    for (const LinearCase& one : cases)
        plans.emplace_back(one.name, planOf(one));
    test::expectCachedEqualsUncached(checkpoint, sources, text(), plans);
}

// Written, verified, opened again: the number of source and plan to the last bit, and the size that the plan was said to have. Cases that
// say little more than others are left out.
TEST_P(LinearFormsRun, ExportsAreThePreviewToTheBit)
{
    for (const LinearCase& one : cases) {
        if (one.name.find(" of layer ") != std::string::npos) continue;
        const CompressionPlan plan = planOf(one);
        for (const char* flavour : {"stock", "factored", "reconstructed"}) {
            SCOPED_TRACE(one.name + ", " + flavour);
            const bool holds = std::find(one.flavours.begin(), one.flavours.end(), flavour) != one.flavours.end();
            const Status fits = checkFlavor(checkpoint->shape(), plan, *parseFlavor(flavour));
            ASSERT_EQ(fits.ok(), holds) << (fits.ok() ? "" : fits.error().describe());
            // One product for two rounds otherwise, which turns a choice of the router that is nearly a tie.
            if (!holds || (one.name == "all by svd" && std::string(flavour) == "reconstructed")) continue;
            ExportOptions options;
            options.flavor = flavour;
            options.out = folder / "out";
            options.profiles = sources;
            ExportReport written;
            const auto reopened = test::verifiedExport(*checkpoint, plan, options, &written);
            const bool summed = std::string(flavour) == "reconstructed";
            const double room = checkpoint->shape().dtype == "F32" ? 2e-5 : 2e-2;
            test::expectPreviewIsExport(checkpoint, sources, plan, reopened, text(), summed ? room : 0);
            if (!one.size || summed) continue;
            test::expectSizeAsSaid(checkpoint->shape(), plan, reopened->shape());
            EXPECT_EQ(written.tensorBytes, planCost(checkpoint->shape(), plan).bytes);
        }
    }
}

// A checkpoint whose attention is stored as factors is a model like any other: it computes, is compressed and exported again.
TEST_P(LinearFormsRun, AnExportWithFactorsCanBeCompressedAgain)
{
    SilentJob job;
    const auto of = [&](const char* name) {
        return *std::find_if(cases.begin(), cases.end(), [&](const LinearCase& one) { return one.name == name; });
    };
    const LinearCase first = of("all stored factors");
    ExportOptions options;
    options.flavor = "factored";
    options.out = folder / "first";
    options.profiles = sources;
    take(exportCheckpoint(*checkpoint, planOf(first), options, job));
    const auto source = take(Checkpoint::open(folder / "first"));
    const int layer = first.linears.front().layer;
    const LinearShape* output = source->shape().layers[static_cast<std::size_t>(layer)].linear("self_attn.o_proj");
    ASSERT_NE(output, nullptr);
    EXPECT_EQ(output->sourceRank, 5);

    // One is stored anew, the others stay factors.
    const CompressionPlan plan = take(
        withLinearForm(source->shape(), CompressionPlan::identity(source->shape()), layer, "self_attn.o_proj", {Dense{}, {}, info.id}));
    EXPECT_FALSE(checkFlavor(source->shape(), plan, ExportFlavor::Stock).ok());
    for (const char* flavour : {"factored", "reconstructed"}) {
        SCOPED_TRACE(flavour);
        options.flavor = flavour;
        options.out = folder / flavour;
        take(exportCheckpoint(*source, plan, options, job));
        VerifyOptions check;
        check.exported = options.out;
        check.model.threads = 1;
        check.profiles = sources;
        const VerifyReport report = take(verifyExport(check, job));
        for (const VerifyCheck& found : report.checks)
            EXPECT_TRUE(found.holds) << found.name << ": " << found.detail;
        const auto second = take(Checkpoint::open(options.out));
        if (std::string(flavour) == "factored")
            EXPECT_EQ(planCost(second->shape(), CompressionPlan::identity(second->shape())).bytes, planCost(source->shape(), plan).bytes);
        else
            EXPECT_EQ(second->shape().parameters(), checkpoint->shape().parameters());
    }
    using Half = CompressionPlan::Half;
    const CompressionPlan whole = CompressionPlan::identity(source->shape());
    EXPECT_EQ(plan.entryDigest(layer, Half::Attention), whole.entryDigest(layer, Half::Attention));
    EXPECT_NE(plan.entryDigest(layer, Half::Experts), whole.entryDigest(layer, Half::Experts));
}

TEST_P(LinearFormsRun, WhatDoesNotFitIsRefusedByName)
{
    const ModelShape& shape = checkpoint->shape();
    const CompressionPlan dense = CompressionPlan::identity(shape);
    const int layer = cases.front().linears.front().layer;
    const auto codeOf = [&](const std::string& name, const MatrixForm& form) {
        const auto plan = withLinearForm(shape, dense, layer, name, form);
        if (!plan.ok()) return plan.error().code;
        auto model = modelOf(checkpoint);
        model->setFactorSources(sources);
        const auto prepared = model->prepare(*plan);
        if (!prepared.ok()) return prepared.error().code;
        const auto ran = model->layer(layer, take(model->embed(ids())), *prepared);
        return ran.ok() ? std::string("ran") : ran.error().code;
    };
    const MatrixForm stored{Dense{}, {}, info.id};
    EXPECT_EQ(codeOf("self_attn.o_proj", stored), "ran");
    EXPECT_EQ(codeOf("self_attn.none_proj", stored), "plan.unknown_linear");
    EXPECT_EQ(codeOf("mlp.gate", stored), "plan.unknown_linear") << "the router is none";
    EXPECT_EQ(codeOf("mlp.shared_expert_gate", stored), "plan.unknown_linear");
    EXPECT_EQ(codeOf("self_attn.o_proj", MatrixForm::lowRank(10'000)), "plan.rank_beyond_break_even");
    EXPECT_EQ(codeOf("self_attn.o_proj", {LowRank{.bands = {{2, 0}}}, {}, info.id}), "plan.values_damaged") << "stored with rank 5";
    EXPECT_EQ(codeOf("self_attn.o_proj", {LowRank{.bands = {{2, 0}}, .bias = true}, {}, {}}), "plan.form_not_run");
    EXPECT_EQ(codeOf("self_attn.o_proj", {BaseDelta{.base = "b", .bands = {{2, 0}}}, {}, info.id}), "plan.form_not_run");
    EXPECT_EQ(codeOf("self_attn.o_proj", {Dense{}, {}, std::string(64, '0')}), "plan.values_missing");
    // A half that does not run has no forms.
    const CompressionPlan with = take(withLinearForm(shape, dense, layer, "self_attn.o_proj", stored));
    LayerPlan::Content content = with.layer(layer).content();
    content.run = LayerRun::ExpertsOnly;
    EXPECT_EQ(dense.with(shape, layer, LayerPlan(content)).error().code, "plan.invalid");
    // Through the file and back, and gone again.
    EXPECT_EQ(take(planFromJson(toJson(with), shape)).hash(), with.hash());
    EXPECT_EQ(take(withLinearForm(shape, with, layer, "self_attn.o_proj", {})).hash(), dense.hash());
}

INSTANTIATE_TEST_SUITE_P(All, LinearFormsRun,
                         ::testing::Values("mixtral-tiny", "qwen2moe-tiny", "qwen3moe-tiny", "olmoe-tiny", "deepseekv2-lite-tiny",
                                           "deepseekv3-tiny", "qwen3moe-tiny-fused-v5", "mixtral-bf16-sharded"));

}  // namespace

}  // namespace espalier
