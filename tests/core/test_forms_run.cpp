// Constants in place of experts and layers that do not run whole: what the model computes, what caches may serve, what exports hold.
#include "core/plan_runs.h"
#include "evaluate/evaluator.h"
#include "export/exporter.h"
#include "export/verify.h"
#include "model/moe_model_torch.h"
#include "plan/cost_model.h"
#include "plan/plan_edit.h"
#include "plan/plan_rules.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <cmath>
#include <fstream>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;
using test::modelOf;
using test::openTiny;
using test::stream;
using test::take;

// Gives a constant for every expert, as a profile of the model would; kinds differ.
class Constants final : public FactorSource
{
public:
    explicit Constants(const Checkpoint& checkpoint) : m_fingerprint(checkpoint.fingerprint()), m_width(checkpoint.shape().hiddenSize) {}
    const std::string& profileSha256() const override { return m_sha256; }
    const std::string& fingerprint() const override { return m_fingerprint; }
    Json calibration() const override { return Json::object(); }
    FactorRule rule(int, int, int, int) const override { return FactorRule::Own; }
    Result<FactorBasis> basis(int, int, int, int) const override { return internalError("no factors here"); }
    Result<std::vector<float>> constant(int layer, int expert, ConstantKind kind) const override
    {
        std::vector<float> values;
        for (int i = 0; i < m_width; ++i)
            values.push_back(0.5F * std::sin(static_cast<float>(i + 7 * expert + 31 * layer)) + (kind == ConstantKind::Mean ? 0.0F : 0.1F));
        return values;
    }

private:
    const std::string m_sha256 = "the-profile";
    std::string m_fingerprint;
    int m_width;
};

FactorSources constantsOf(const Checkpoint& checkpoint) { return {std::make_shared<const Constants>(checkpoint)}; }

CompressionPlan constantsFor(const ModelShape& shape, const CompressionPlan& plan, int layer, const ExpertSet& kept, ConstantKind kind)
{
    return take(withKeptAnd(shape, plan, layer, kept, kind)).withConstantsProfile("the-profile");
}

int firstMoe(const ModelShape& shape)
{
    return static_cast<int>(std::find_if(shape.layers.begin(), shape.layers.end(), [](const LayerShape& layer) { return layer.moe; }) -
                            shape.layers.begin());
}

// Every second expert, of equal count in every router group.
ExpertSet everySecond(const LayerShape& layer)
{
    ExpertSet kept;
    for (int e = 0; e < layer.experts; e += 2)
        kept.push_back(e);
    return kept;
}

class Seen final : public LayerObserver
{
public:
    void moe(const MoeBatch& batch) override
    {
        selected = batch.selected.clone();
        weights = batch.weights.clone();
        routed = batch.routed.to(at::kDouble);
        input = batch.input.clone();
    }
    at::Tensor selected, weights, routed, input;
};

class EveryModel : public ::testing::TestWithParam<const char*>
{
};

// By hand: the router's choice of the dense model, each chosen expert's own output, or the vector that stands for it.
TEST_P(EveryModel, AConstantIsAddedWithTheWeightOfItsExpert)
{
    const auto checkpoint = openTiny(GetParam());
    auto model = modelOf(checkpoint);
    const FactorSources sources = constantsOf(*checkpoint);
    model->setFactorSources(sources);
    const ModelShape& shape = model->shape();
    const int layer = firstMoe(shape);
    const LayerShape& layerShape = shape.layers[static_cast<std::size_t>(layer)];
    const ExpertSet kept = everySecond(layerShape);
    const CompressionPlan plan = constantsFor(shape, CompressionPlan::identity(shape), layer, kept, ConstantKind::Weighted);
    const PreparedPlan prepared = take(model->prepare(plan));

    const TokenWindows windows = stream(GetParam(), 64);
    at::Tensor ids = at::empty({1, 64}, at::kLong);
    std::copy(windows.rows[0].begin(), windows.rows[0].end(), ids.mutable_data_ptr<std::int64_t>());
    at::Tensor hidden = take(model->embed(ids));
    for (int l = 0; l < layer; ++l)
        hidden = take(model->layer(l, hidden, prepared));
    Seen dense, seen;
    take(model->layer(layer, hidden, model->identity(), &dense));
    take(model->layer(layer, hidden, prepared, &seen));
    ASSERT_TRUE(at::equal(dense.selected, seen.selected)) << "constants must not change whom the router chooses";
    ASSERT_TRUE(at::equal(dense.weights, seen.weights));

    at::Tensor expected = at::zeros_like(seen.routed);
    const at::Tensor x = seen.input;
    for (int e = 0; e < layerShape.experts; ++e) {
        at::Tensor out;
        if (std::binary_search(kept.begin(), kept.end(), e)) {
            out = take(model->expertOutput(layer, e, x)).to(at::kDouble);
        } else {
            const auto values = take(sources.front()->constant(layer, e, ConstantKind::Weighted));
            const at::Tensor row = at::tensor(values, at::kFloat);
            // As an export stores it.
            const bool narrow = shape.dtype == "BF16";
            out = (narrow ? row.to(at::kBFloat16) : row).to(at::kDouble).expand({x.size(0), row.size(0)});
        }
        const at::Tensor weight = (seen.weights.to(at::kDouble) * seen.selected.eq(e).to(at::kDouble)).sum({1}, true);
        expected += weight * out;
    }
    EXPECT_LE((expected - seen.routed).abs().max().item<double>(), 1e-5 * (1 + expected.abs().max().item<double>()));
}

// What an evaluation of one plan left behind must not reach the number of another.
TEST_P(EveryModel, CachedEqualsUncachedForEveryKindOfAction)
{
    const auto checkpoint = openTiny(GetParam());
    const ModelShape shape = checkpoint->shape();
    const CompressionPlan dense = CompressionPlan::identity(shape);
    const int last = static_cast<int>(shape.layers.size()) - 1;
    const LayerShape& layer = shape.layers[static_cast<std::size_t>(last)];
    const ExpertSet kept = everySecond(layer);
    std::vector<std::pair<std::string, CompressionPlan>> plans = {{"dense", dense}};
    const bool reaches = fewestExperts(layer, dense.layer(last)) <= static_cast<int>(kept.size());
    if (reaches) plans.emplace_back("kept", take(dense.withKept(shape, last, kept)));
    plans.emplace_back("ranks",
                       take(dense.withRanks(shape, last, std::vector<RankTriple>(static_cast<std::size_t>(layer.experts), {2, 3, 2})))
                           .withFactors({"svd", ""}));
    plans.emplace_back("constants", constantsFor(shape, dense, last, kept, ConstantKind::Mean));
    plans.emplace_back("weighted constants", constantsFor(shape, dense, last, kept, ConstantKind::Weighted));
    for (const int where : {0, last})
        for (const LayerRun run : {LayerRun::Skipped, LayerRun::AttentionOnly, LayerRun::ExpertsOnly})
            plans.emplace_back("run " + std::to_string(static_cast<int>(run)) + " of layer " + std::to_string(where),
                               take(withRun(shape, dense, where, run)));
    test::expectCachedEqualsUncached(checkpoint, constantsOf(*checkpoint), stream(GetParam(), 64), plans);
}

class FormsExport : public EveryModel
{
protected:
    FormsExport() : folder(fs::temp_directory_path() / ("espalier-forms-" + std::to_string(::getpid())))
    {
        fs::remove_all(folder);
        fs::create_directories(folder);
    }
    ~FormsExport() override { fs::remove_all(folder); }

    // Written, verified, opened again: the reopened export has the number of source and plan to the last bit.
    void expectTheSame(const std::shared_ptr<const Checkpoint>& source, const CompressionPlan& plan, const std::string& flavor)
    {
        const FactorSources sources = constantsOf(*source);
        ExportOptions options;
        options.flavor = flavor;
        options.out = folder / flavor;
        options.profiles = sources;
        SilentJob job;
        take(exportCheckpoint(*source, plan, options, job));
        VerifyOptions check;
        check.exported = folder / flavor;
        check.profiles = sources;
        check.model.threads = 1;
        const VerifyReport report = take(verifyExport(check, job));
        for (const VerifyCheck& one : report.checks)
            EXPECT_TRUE(one.holds) << one.name << ": " << one.detail;

        auto before = modelOf(source);
        before->setFactorSources(sources);
        const auto reopened = take(Checkpoint::open(folder / flavor));
        auto after = modelOf(reopened);
        Evaluator preview(*before, stream(GetParam(), 64), 0), exported(*after, stream(GetParam(), 64), 0);
        const std::vector<int> some = {0, 1};
        const auto a = take(preview.run(plan, some, {}, job));
        const auto b = take(exported.run(CompressionPlan::identity(after->shape()), some, {}, job));
        for (std::size_t i = 0; i < a.size(); ++i)
            EXPECT_EQ(a[i].nll, b[i].nll);
        EXPECT_EQ(planCost(reopened->shape(), CompressionPlan::identity(reopened->shape())).bytes, planCost(source->shape(), plan).bytes)
            << "the size that was shown is the size that was written";
    }

    fs::path folder;
};

TEST_P(FormsExport, ConstantsAreWrittenReadAndVerified)
{
    const auto source = openTiny(GetParam());
    const ModelShape& shape = source->shape();
    CompressionPlan plan = CompressionPlan::identity(shape);
    for (const LayerShape& layer : shape.layers)
        if (layer.moe) plan = constantsFor(shape, plan, layer.index, everySecond(layer), ConstantKind::Mean);
    expectTheSame(source, plan, "factored");
}

TEST_P(FormsExport, AnExportWithConstantsCanBeCompressedAgain)
{
    const auto source = openTiny(GetParam());
    const ModelShape& shape = source->shape();
    const int layer = firstMoe(shape);
    const CompressionPlan plan = constantsFor(shape, CompressionPlan::identity(shape), layer,
                                              everySecond(shape.layers[static_cast<std::size_t>(layer)]), ConstantKind::Mean);
    expectTheSame(source, plan, "factored");
    const auto again = take(Checkpoint::open(folder / "factored"));
    const ModelShape& exported = again->shape();
    EXPECT_EQ(exported.layers[static_cast<std::size_t>(layer)].sourceConstants, plan.layer(layer).constants());
    fs::rename(folder / "factored", folder / "first");
    const auto first = take(Checkpoint::open(folder / "first"));
    // Ranks where there are matrices; a constant has none.
    std::vector<RankTriple> ranks(static_cast<std::size_t>(exported.layers[static_cast<std::size_t>(layer)].experts), RankTriple{2, 2, 2});
    EXPECT_EQ(CompressionPlan::identity(exported).withRanks(exported, layer, ranks).error().code, "plan.invalid");
    for (const int constant : plan.layer(layer).constants())
        ranks[static_cast<std::size_t>(constant)] = {};
    const CompressionPlan second = take(CompressionPlan::identity(exported).withRanks(exported, layer, ranks)).withFactors({"svd", ""});
    expectTheSame(first, second, "factored");
}

TEST_P(FormsExport, LayersThatAreLeftOutAreGone)
{
    const auto source = openTiny(GetParam());
    const ModelShape& shape = source->shape();
    const int last = static_cast<int>(shape.layers.size()) - 1;
    const CompressionPlan plan = take(withRun(shape, CompressionPlan::identity(shape), last - 1, LayerRun::Skipped));
    expectTheSame(source, plan, "stock");
    const auto reopened = take(Checkpoint::open(folder / "stock"));
    EXPECT_EQ(reopened->shape().layers.size(), shape.layers.size() - 1);
    expectTheSame(source, plan, "factored");
}

INSTANTIATE_TEST_SUITE_P(All, EveryModel,
                         ::testing::Values("mixtral-tiny", "qwen2moe-tiny", "qwen3moe-tiny", "olmoe-tiny", "deepseekv2-lite-tiny",
                                           "deepseekv3-tiny"));
INSTANTIATE_TEST_SUITE_P(All, FormsExport,
                         ::testing::Values("mixtral-tiny", "qwen2moe-tiny", "qwen3moe-tiny", "olmoe-tiny", "deepseekv2-lite-tiny",
                                           "deepseekv3-tiny"));

}  // namespace

}  // namespace espalier
