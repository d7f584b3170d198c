// Merged experts, tuned factors, masks, bits, bases, constants and router rows whose numbers lie in a values file: what the model computes,
// forwards and backwards and by the device's way, what caches may serve, what exports hold.
#include "core/plan_runs.h"
#include "model/quantise.h"
#include "plan/flavors.h"
#include "plan/plan_rules.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <cmath>
#include <fstream>
#include <set>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;
using test::FormCase;
using test::HandBody;
using test::modelOf;
using test::openTiny;
using test::portableModel;
using test::StoredForms;
using test::take;

int firstMoe(const ModelShape& shape)
{
    return static_cast<int>(std::find_if(shape.layers.begin(), shape.layers.end(), [](const LayerShape& layer) { return layer.moe; }) -
                            shape.layers.begin());
}

class Seen final : public LayerObserver
{
public:
    void expert(int, int expert, const at::Tensor& tokens, const at::Tensor& x, const at::Tensor&, const at::Tensor& y,
                const at::Tensor& w) override
    {
        ASSERT_EQ(tokens.numel(), x.size(0));
        ASSERT_EQ(tokens.numel(), y.size(0));
        tokensOf[expert] = tokens.clone();
        weightsOf[expert] = w.clone();
    }
    void moe(const MoeBatch& batch) override { seen = batch; }
    std::map<int, at::Tensor> tokensOf, weightsOf;
    MoeBatch seen;
};

at::Tensor outputOf(const HandBody& body, const at::Tensor& x)
{
    const auto linear = [](const test::HandMatrix& matrix, const at::Tensor& in) {
        const at::Tensor out = at::mm(in, matrix.weight.t());
        return matrix.bias.defined() ? out + matrix.bias : out;
    };
    const at::Tensor in = x.to(at::kDouble);
    return linear(body[2], at::silu(linear(body[0], in)) * linear(body[1], in));
}

class StoredFormsRun : public ::testing::TestWithParam<const char*>
{
protected:
    StoredFormsRun()
        : folder(fs::temp_directory_path() / ("espalier-stored-" + std::to_string(::getpid()))),
          checkpoint(openTiny(GetParam())),
          layer(firstMoe(checkpoint->shape())),
          stored(*checkpoint, layer)
    {
        fs::remove_all(folder);
        fs::create_directories(folder);
        info = stored.write(folder / "values");
        sources = {take(openValuesFile(info.file, info.id))};
        cases = stored.cases(info.id);
    }
    ~StoredFormsRun() override { fs::remove_all(folder); }

    CompressionPlan planOf(const FormCase& one) const
    {
        return take(CompressionPlan::identity(checkpoint->shape()).with(checkpoint->shape(), layer, LayerPlan(one.content)));
    }
    static TokenWindows text() { return test::textOf(GetParam()); }
    // The input of the layer, which no case changes.
    at::Tensor entering(MoeModel& model) const { return test::enteringLayer(model, text(), layer); }

    const c10::InferenceMode guard;
    fs::path folder;
    std::shared_ptr<const Checkpoint> checkpoint;
    int layer;
    StoredForms stored;
    ValuesInfo info;
    FactorSources sources;
    std::vector<FormCase> cases;
};

// By hand: the router's choice, each column's own body, in fp64.
TEST_P(StoredFormsRun, OutputsAreThoseOfTheMatricesByHand)
{
    auto model = modelOf(checkpoint);
    auto portable = portableModel(checkpoint);
    model->setFactorSources(sources);
    portable->setFactorSources(sources);
    const at::Tensor hidden = entering(*model);
    for (const FormCase& one : cases) {
        SCOPED_TRACE(one.name);
        Seen host, device, dense;
        take(model->layer(layer, hidden, model->identity(), &dense));
        take(model->layer(layer, hidden, take(model->prepare(planOf(one))), &host));
        take(portable->layer(layer, hidden, take(portable->prepare(planOf(one))), &device));
        if (one.router.defined()) {
            const at::Tensor logits = at::linear(host.seen.input.to(at::kDouble), one.router.to(at::kDouble));
            EXPECT_LE((host.seen.routerLogits - logits).abs().max().item<double>(), 1e-4);
        } else {
            ASSERT_TRUE(at::equal(dense.seen.selected, host.seen.selected));
            ASSERT_TRUE(at::equal(dense.seen.weights, host.seen.weights));
        }
        at::Tensor expected = at::zeros(host.seen.input.sizes(), at::kDouble);
        bool used = one.router.defined();
        for (int e = 0; e < checkpoint->shape().layers[static_cast<std::size_t>(layer)].experts; ++e) {
            const at::Tensor weight = (host.seen.weights.to(at::kDouble) * host.seen.selected.eq(e).to(at::kDouble)).sum({1}, true);
            if (one.constants.contains(e)) {
                expected += weight * one.constants.at(e);
            } else {
                const auto body = one.bodies.find(e);
                expected += weight * outputOf(body == one.bodies.end() ? stored.own(e) : body->second, host.seen.input);
            }
            used = used || ((one.constants.contains(e) || one.bodies.contains(e)) && weight.sum().item<double>() > 0);
        }
        ASSERT_TRUE(used) << "no token comes by";
        const double most = 2e-5 * (1 + expected.abs().max().item<double>());
        EXPECT_LE((expected - host.seen.routed).abs().max().item<double>(), most);
        EXPECT_LE((expected - device.seen.routed).abs().max().item<double>(), most);
    }
}

// A token that the router sends to both columns of a merged expert gets it with the sum of their weights, computed once.
TEST_P(StoredFormsRun, BothColumnsOfAMergedExpertMeetInIt)
{
    auto model = modelOf(checkpoint);
    model->setFactorSources(sources);
    Seen seen;
    take(model->layer(layer, entering(*model), take(model->prepare(planOf(cases.front()))), &seen));
    const at::Tensor both = seen.seen.selected.eq(0).any(1) * seen.seen.selected.eq(2).any(1);
    EXPECT_TRUE(both.any().item<bool>()) << "the window does not show it";

    // Whoever looks on sees each of its rows with the tokens that chose it: what is counted of one is not that of the other.
    auto portable = portableModel(checkpoint);
    portable->setFactorSources(sources);
    Seen device;
    take(portable->layer(layer, entering(*portable), take(portable->prepare(planOf(cases.front()))), &device));
    for (Seen* one : {&seen, &device})
        for (const int expert : {0, 2}) {
            const at::Tensor chose = one->seen.selected.eq(expert);
            ASSERT_TRUE(one->tokensOf.contains(expert));
            EXPECT_TRUE(at::equal(one->tokensOf.at(expert), chose.any(1).nonzero().view({-1})));
            EXPECT_TRUE(at::equal(one->weightsOf.at(expert), one->seen.weights.masked_select(chose)));
        }
}

// Backwards: against differences of the layer along random directions, and the device's way against the processor's.
TEST_P(StoredFormsRun, GradientsEqualDifferences)
{
    auto model = modelOf(checkpoint);
    auto portable = portableModel(checkpoint);
    model->setFactorSources(sources);
    portable->setFactorSources(sources);
    const at::Tensor hidden = entering(*model);
    const at::Tensor above = test::numbers(90, hidden.sizes(), 1.0);
    for (const FormCase& one : cases) {
        SCOPED_TRACE(one.name);
        const PreparedPlan plan = take(model->prepare(planOf(one)));
        MoeGradient host, device;
        const at::Tensor gradient = take(model->layerGradient(layer, hidden, above, plan, [&](const MoeGradient& g) { host = g; }));
        const at::Tensor other = take(
            portable->layerGradient(layer, hidden, above, take(portable->prepare(planOf(one))), [&](const MoeGradient& g) { device = g; }));
        EXPECT_LE((gradient - other).norm().item<double>(), 1e-5 * gradient.norm().item<double>());
        EXPECT_LE((host.products - device.products).norm().item<double>(), 1e-5 * host.products.norm().item<double>());
        const auto run = [&](const at::Tensor& at) {
            Seen seen;
            const at::Tensor out = take(model->layer(layer, at, plan, &seen));
            return std::pair(out, seen);
        };
        test::expectGradientIsSlope(hidden, above, gradient, run, [](const Seen& a, const Seen& b) {
            return at::equal(std::get<0>(a.seen.selected.sort(1)), std::get<0>(b.seen.selected.sort(1)));
        });
    }
}

// What an evaluation of one plan left behind must not reach the number of another.
TEST_P(StoredFormsRun, CachedEqualsUncachedForEveryForm)
{
    std::vector<std::pair<std::string, CompressionPlan>> plans;
    for (const FormCase& one : cases)
        plans.emplace_back(one.name, planOf(one));
    test::expectCachedEqualsUncached(checkpoint, sources, text(), plans);
}

// Written, verified, opened again: the export has the number of source and plan to the last bit, in every flavour that holds the form, and
// the size that the plan was said to have.
TEST_P(StoredFormsRun, ExportsAreThePreviewToTheBit)
{
    for (const FormCase& one : cases) {
        const CompressionPlan plan = planOf(one);
        for (const char* flavour : {"stock", "factored", "reconstructed"}) {
            SCOPED_TRACE(one.name + ", " + flavour);
            const bool holds = std::find(one.flavours.begin(), one.flavours.end(), flavour) != one.flavours.end();
            const Status fits = checkFlavor(checkpoint->shape(), plan, *parseFlavor(flavour));
            ASSERT_EQ(fits.ok(), holds) << (fits.ok() ? "" : fits.error().describe());
            if (!holds) continue;
            ExportOptions options;
            options.flavor = flavour;
            options.out = folder / "out";
            options.profiles = sources;
            const auto reopened = test::verifiedExport(*checkpoint, plan, options);
            // One product for two, rounded once more where numbers are narrow, or a body for each of its columns.
            const bool summed = std::string(flavour) == "reconstructed";
            const double room = checkpoint->shape().dtype == "F32" ? 2e-5 : 2e-2;
            test::expectPreviewIsExport(checkpoint, sources, plan, reopened, text(), summed ? room : 0);
            if (one.size && !summed) test::expectSizeAsSaid(checkpoint->shape(), plan, reopened->shape());
        }
    }
}

// A checkpoint with merged experts is a model like any other: pruned, factored and exported again.
TEST_P(StoredFormsRun, AnExportWithMergedExpertsCanBeCompressedAgain)
{
    SilentJob job;
    ExportOptions options;
    options.flavor = "factored";
    options.out = folder / "first";
    options.profiles = sources;
    take(exportCheckpoint(*checkpoint, planOf(cases.front()), options, job));
    const auto first = take(Checkpoint::open(folder / "first"));
    const ModelShape& shape = first->shape();
    const LayerShape& merged = shape.layers[static_cast<std::size_t>(layer)];
    ASSERT_FALSE(merged.sourceBodies.empty());
    EXPECT_EQ(merged.sourceBodyOf(2), 0);
    // The first of the two columns goes; what it shared stays with the other one. Equally many of every group.
    ExpertSet kept;
    const int size = merged.experts / merged.router.groups;
    for (int e = 0; e < merged.experts; ++e)
        if (merged.router.groups > 1 ? e % size != 0 : e != 0) kept.push_back(e);
    CompressionPlan plan = take(CompressionPlan::identity(shape).withKept(shape, layer, kept));
    std::vector<RankTriple> ranks(kept.size());
    ranks.back() = {3, 0, 2};
    plan = take(plan.withRanks(shape, layer, ranks)).withFactors({"svd", ""});
    options.out = folder / "second";
    take(exportCheckpoint(*first, plan, options, job));
    VerifyOptions check;
    check.exported = folder / "second";
    check.model.threads = 1;
    const VerifyReport report = take(verifyExport(check, job));
    for (const VerifyCheck& found : report.checks)
        EXPECT_TRUE(found.holds) << found.name << ": " << found.detail;
    const auto second = take(Checkpoint::open(folder / "second"));
    EXPECT_EQ(planCost(second->shape(), CompressionPlan::identity(second->shape())).parameters, planCost(shape, plan).parameters);
}

// The values file is found by what the plan says and where such files lie; another one than the plan names is refused before anything is
// read.
TEST_P(StoredFormsRun, TheFileOfStoredNumbersIsFoundOrMissed)
{
    const CompressionPlan plan = planOf(cases.front());
    const auto save = [&](const Json& values) {
        Json json = toJson(plan);
        if (!values.is_null()) json["values"] = values;
        std::ofstream(folder / "merged.json") << json.dump();
        return take(readPlanFile(folder / "merged.json", checkpoint->shape()));
    };
    const fs::path planFile = folder / "merged.json";
    const auto found = [&](const CompressionPlan& read) {
        FactorSources given;
        const Status status = addValuesFiles(read, planFile, given);
        return status.ok() ? std::string("found") : status.error().code;
    };
    // values/ID.safetensors beside the plan
    CompressionPlan read = save({});
    EXPECT_EQ(read.hash(), plan.hash());
    EXPECT_EQ(found(read), "found");
    // PLAN.values.safetensors
    fs::rename(folder / "values" / (info.id + ".safetensors"), folder / "merged.values.safetensors");
    EXPECT_EQ(found(read), "found");
    // the name in the plan, relative to it
    fs::create_directories(folder / "elsewhere");
    fs::rename(folder / "merged.values.safetensors", folder / "elsewhere" / "numbers.safetensors");
    EXPECT_EQ(found(read), "plan.values_missing");
    read = save({{{"id", info.id}, {"file", "elsewhere/numbers.safetensors"}, {"made_by", {{"method", "by hand"}}}}});
    EXPECT_EQ(read.hash(), plan.hash()) << "where a file lies is no number";
    EXPECT_EQ(found(read), "found");
    EXPECT_EQ(planFromJson(toJson(read), checkpoint->shape())->values(), read.values());
    // one byte
    {
        std::fstream file(folder / "elsewhere" / "numbers.safetensors", std::ios::in | std::ios::out | std::ios::binary);
        file.seekp(-1, std::ios::end);
        file.put('\x11');
    }
    EXPECT_EQ(found(read), "plan.values_changed");
    auto model = modelOf(checkpoint);
    EXPECT_EQ(model->prepare(plan).error().code, "plan.values_missing");
}

// A plan that is exported alone takes its stored numbers along.
TEST_P(StoredFormsRun, APlanAloneBringsItsValuesFile)
{
    SilentJob job;
    ExportOptions options;
    options.flavor = "plan";
    options.out = folder / "alone";
    options.profiles = sources;
    take(exportCheckpoint(*checkpoint, planOf(cases.front()), options, job));
    fs::remove_all(folder / "values");
    const CompressionPlan read = take(readPlanFile(folder / "alone" / "espalier_plan.json", checkpoint->shape()));
    FactorSources given;
    ASSERT_TRUE(addValuesFiles(read, folder / "alone" / "espalier_plan.json", given).ok());
    auto model = modelOf(checkpoint);
    model->setFactorSources(given);
    EXPECT_TRUE(model->prepare(read).ok());
}

// What a values file says and the plan does not ask for in that way is an error that names the tensor.
TEST_P(StoredFormsRun, NumbersThatDoNotFitAreRefusedByName)
{
    auto model = modelOf(checkpoint);
    model->setFactorSources(sources);
    const at::Tensor hidden = entering(*model);
    const auto codeOf = [&](LayerPlan::Content content) {
        const auto plan = CompressionPlan::identity(checkpoint->shape()).with(checkpoint->shape(), layer, LayerPlan(std::move(content)));
        if (!plan.ok()) return plan.error().code;
        const auto prepared = model->prepare(*plan);
        if (!prepared.ok()) return prepared.error().code;
        const auto ran = model->layer(layer, hidden, *prepared);
        return ran.ok() ? std::string("ran") : ran.error().code;
    };
    const LayerPlan::Content whole = LayerPlan::allOf(checkpoint->shape().layers[static_cast<std::size_t>(layer)].experts).content();
    LayerPlan::Content content = whole;
    auto& first = std::get<ExpertBody>(content.bodies[1]);
    first.matrices[0] = {LowRank{.bands = {{2, 0}}, .bias = false}, {}, info.id};  // stored with rank 3
    EXPECT_EQ(codeOf(content), "plan.values_damaged");
    first.matrices[0] = {Dense{}, {}, info.id};  // expert 1 has factors only
    EXPECT_EQ(codeOf(content), "plan.values_damaged");
    first.matrices[0] = {Masked{{.keptMillionths = 400'000}}, {}, info.id};
    EXPECT_EQ(codeOf(content), "plan.values_damaged");
    content = whole;
    std::get<ExpertBody>(content.bodies[0]).matrices[2] = {Masked{{.keptMillionths = 499'000}}, {}, info.id};  // its mask keeps half
    EXPECT_EQ(codeOf(content), "plan.values_damaged");
    content = whole;
    std::get<ExpertBody>(content.bodies[0]).sources = {0, 2};  // merged, and no numbers for it
    EXPECT_EQ(codeOf(content), "plan.form_not_run");
    content = cases.front().content;
    std::get<ExpertBody>(content.bodies[1]).sources = {0, 1};
    std::get<ExpertBody>(content.bodies[1]).matrices[0].values = info.id;
    EXPECT_EQ(codeOf(content), "plan.invalid") << "two bodies of one name";
}

INSTANTIATE_TEST_SUITE_P(All, StoredFormsRun,
                         ::testing::Values("mixtral-tiny", "qwen2moe-tiny", "qwen3moe-tiny", "olmoe-tiny", "deepseekv2-lite-tiny",
                                           "deepseekv3-tiny", "qwen3moe-tiny-fused-v5", "mixtral-bf16-sharded"));

// By hand: steps of 0.5, so that 0.75 lies between two and goes to the even one; a zero point; the mean of one bit.
TEST(Quantise, NumbersByHand)
{
    const at::Tensor row = at::tensor({3.5F, -3.5F, 0.75F, 0.2F}, at::kFloat).unsqueeze(0);
    const auto of = [&](int bits, int group, QuantScheme scheme) {
        const at::Tensor out = onGrid(row, {.bits = bits, .group = group, .scheme = scheme});
        return std::vector<float>(out.const_data_ptr<float>(), out.const_data_ptr<float>() + 4);
    };
    EXPECT_EQ(of(4, 0, QuantScheme::Symmetric), (std::vector<float>{3.5F, -3.5F, 1.0F, 0.0F}));
    // lo -3.5, hi 3.5, 3 steps of 7/3, in fp16 2.333984375; zero at round(1.4996) = 1.
    const float step = 2.333984375F;
    EXPECT_EQ(of(2, 0, QuantScheme::Asymmetric), (std::vector<float>{step, -step, 0.0F, 0.0F}));
    // The mean magnitude 1.9875 in fp16.
    EXPECT_EQ(of(1, 0, QuantScheme::Symmetric), (std::vector<float>{1.98730469F, -1.98730469F, 1.98730469F, 1.98730469F}));
    // Groups of 3: the last one alone, 7 steps of 0.2 / 7, in fp16 1872 / 65536.
    EXPECT_EQ(of(4, 3, QuantScheme::Symmetric)[3], 7 * 1872.0F / 65536);
    EXPECT_EQ(of(0, 0, QuantScheme::None)[2], 0.75F);
}

}  // namespace

}  // namespace espalier
