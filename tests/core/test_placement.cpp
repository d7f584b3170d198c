// What runs on a GPU against what runs on the processor. "portable" is the same way on the processor and is tried everywhere; "cuda" needs
// a device and is skipped loudly without one.
#include "checkpoint/checkpoint.h"
#include "model/moe_model_torch.h"
#include "model/placement.h"
#include "parity/golden.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

const fs::path kFixtures = fs::path(ESPALIER_TEST_FIXTURES) / "model";

template <typename T>
T take(Result<T> result)
{
    if (!result.ok()) throw std::runtime_error(result.error().describe());
    return std::move(result).value();
}

std::unique_ptr<MoeModel> openModel(const std::string& name, const std::string& device, Residency residency = Residency::Resident,
                                    ComputeType compute = ComputeType::Fp32)
{
    ModelOptions options;
    options.residency = residency;
    options.compute = compute;
    options.threads = 2;
    options.device = device;
    return take(MoeModel::create(take(Checkpoint::open(kFixtures / "checkpoints" / name)), options));
}

// Half of the experts of the first MoE layer, some of them with ranks.
CompressionPlan compressed(const ModelShape& shape)
{
    CompressionPlan plan = CompressionPlan::identity(shape);
    for (const LayerShape& layer : shape.layers) {
        if (!layer.moe) continue;
        std::vector<int> kept;
        for (int e = 0; e < layer.experts; ++e)
            if (e % 4 != 1) kept.push_back(e);
        if (layer.router.groups > 1) kept = plan.layer(layer.index).kept();
        plan = take(plan.withKept(shape, layer.index, kept));
        std::vector<RankTriple> ranks(kept.size());
        for (std::size_t i = 0; i < ranks.size(); i += 2)
            ranks[i] = {5, 7, 6};
        plan = take(plan.withRanks(shape, layer.index, ranks));
    }
    return plan;
}

struct Capture final : LayerObserver {
    std::map<int, at::Tensor> attended;
    std::map<std::pair<int, int>, std::vector<at::Tensor>> experts;
    std::map<int, MoeBatch> batches;
    void attention(int layer, const at::Tensor& out) override { attended[layer] = out; }
    void expert(int layer, int expert, const at::Tensor& tokens, const at::Tensor& x, const at::Tensor& h, const at::Tensor& y,
                const at::Tensor& w) override
    {
        experts[{layer, expert}] = {tokens, x, h, y, w};
    }
    void moe(const MoeBatch& batch) override { batches[batch.layer] = batch; }
};

double relative(const at::Tensor& a, const at::Tensor& b)
{
    EXPECT_TRUE(a.is_cpu());
    const at::Tensor reference = b.to(at::kDouble);
    return ((a.to(at::kDouble) - reference).norm() / reference.norm().clamp_min(1e-30)).item<double>();
}

class OnDevice : public testing::TestWithParam<std::tuple<std::string, std::string>>
{
protected:
    void SetUp() override
    {
        if (device() == "portable") return;
        const Status there = checkDevice(device());
        if (!there.ok()) GTEST_SKIP() << there.error().describe();
    }
    std::string name() const { return std::get<0>(GetParam()); }
    std::string device() const { return std::get<1>(GetParam()); }
    at::Tensor ids() const { return test::Golden::read(kFixtures / "goldens" / name()).tensor("input_ids").to(at::kLong); }

    const c10::InferenceMode m_guard;
};

TEST_P(OnDevice, CompressedModelAndWhatItsObserversSee)
{
    const auto host = openModel(name(), "cpu");
    for (const Residency residency : {Residency::Resident, Residency::Stream}) {
        const auto model = openModel(name(), device(), residency);
        const CompressionPlan plan = compressed(model->shape());
        Capture expected, seen;
        const at::Tensor a = take(host->hiddenStates(ids(), take(host->prepare(plan)), &expected));
        const at::Tensor b = take(model->hiddenStates(ids(), take(model->prepare(plan)), &seen));
        EXPECT_LE(relative(b, a), 1e-5);
        EXPECT_LE(relative(take(model->tokenNll(b, ids())), take(host->tokenNll(a, ids()))), 1e-5);
        ASSERT_EQ(seen.experts.size(), expected.experts.size());
        ASSERT_EQ(seen.batches.size(), expected.batches.size());
        for (const auto& [layer, out] : expected.attended)
            EXPECT_LE(relative(seen.attended.at(layer), out), 1e-5) << layer;
        for (const auto& [key, tensors] : expected.experts) {
            const auto& own = seen.experts.at(key);
            ASSERT_TRUE(at::equal(own[0], tensors[0])) << key.first << " " << key.second;
            for (std::size_t i = 1; i < tensors.size(); ++i)
                EXPECT_LE(relative(own[i], tensors[i]), 1e-5) << key.first << " " << key.second << " " << i;
        }
        for (const auto& [layer, batch] : expected.batches) {
            const MoeBatch& own = seen.batches.at(layer);
            EXPECT_TRUE(at::equal(own.selected, batch.selected));
            EXPECT_TRUE(at::equal(own.kept, batch.kept));
            EXPECT_LE(relative(own.input, batch.input), 1e-5);
            EXPECT_LE(relative(own.weights, batch.weights), 1e-5);
            EXPECT_LE(relative(own.routerLogits, batch.routerLogits), 1e-5);
            EXPECT_LE(relative(own.routed, batch.routed), 1e-5);
            EXPECT_LE(relative(own.output, batch.output), 1e-5);
        }
        // The halves of a layer are the layer.
        const at::Tensor start = take(model->embed(ids()));
        const PreparedPlan prepared = take(model->prepare(plan));
        const at::Tensor halves = take(model->feedForward(0, take(model->attend(0, start, prepared)), prepared));
        EXPECT_TRUE(at::equal(halves, take(model->layer(0, start, prepared))));
    }
}

TEST_P(OnDevice, GradientsAndDraws)
{
    const auto host = openModel(name(), "cpu"), model = openModel(name(), device());
    const CompressionPlan plan = compressed(model->shape());
    const PreparedPlan a = take(host->prepare(plan)), b = take(model->prepare(plan));
    std::vector<at::Tensor> states{take(host->embed(ids()))};
    for (int l = 0; l < host->layerCount(); ++l)
        states.push_back(take(host->layer(l, states.back(), a)));
    const at::Tensor targets = ids().narrow(1, 1, ids().size(1) - 1);
    at::Tensor expected = take(host->headGradient(states.back(), targets));
    EXPECT_LE(relative(take(model->headGradient(states.back(), targets)), expected), 1e-5);
    for (int l = host->layerCount() - 1; l >= 0; --l) {
        std::vector<MoeGradient> one, other;
        const at::Tensor& in = states[static_cast<std::size_t>(l)];
        const at::Tensor below = take(host->layerGradient(l, in, expected, a, [&](const MoeGradient& g) { one.push_back(g); }));
        const at::Tensor own = take(model->layerGradient(l, in, expected, b, [&](const MoeGradient& g) { other.push_back(g); }));
        EXPECT_LE(relative(own, below), 1e-4) << l;
        ASSERT_EQ(other.size(), one.size());
        for (std::size_t i = 0; i < one.size(); ++i) {
            EXPECT_TRUE(at::equal(other[i].selected, one[i].selected)) << l;
            EXPECT_LE(relative(other[i].products, one[i].products), 1e-4) << l;
            EXPECT_LE(relative(other[i].gradient, one[i].gradient), 1e-6) << l;
        }
        expected = below;
    }
    const at::Tensor uniform = at::linspace(0.001, 0.999, targets.numel(), at::kDouble).view(targets.sizes());
    const at::Tensor drawn = take(model->drawTokens(states.back(), uniform));
    EXPECT_LE((drawn != take(host->drawTokens(states.back(), uniform))).sum().item<std::int64_t>(), 1);
}

TEST_P(OnDevice, ExpertsByThemselves)
{
    const auto host = openModel(name(), "cpu"), model = openModel(name(), device());
    const int layer = host->layerCount() - 1;
    const at::Tensor x = at::linspace(-1, 1, 5 * host->shape().hiddenSize, at::kFloat).view({5, host->shape().hiddenSize});
    EXPECT_LE(relative(take(model->expertOutput(layer, 2, x)), take(host->expertOutput(layer, 2, x))), 1e-5);
    EXPECT_LE(relative(take(model->expertPreActivation(layer, 2, x)), take(host->expertPreActivation(layer, 2, x))), 1e-5);
}

TEST_P(OnDevice, Bf16IsAsNearToFp32AsOnTheProcessor)
{
    const auto exact = openModel(name(), "cpu");
    const auto host = openModel(name(), "cpu", Residency::Resident, ComputeType::Bf16);
    const auto model = openModel(name(), device(), Residency::Stream, ComputeType::Bf16);
    const at::Tensor start = take(host->embed(ids()));
    // One layer: further on a rounding may send a token to another expert.
    const at::Tensor reference = take(exact->layer(0, start.to(at::kFloat), exact->identity()));
    const at::Tensor a = take(host->layer(0, start, host->identity())), b = take(model->layer(0, start, model->identity()));
    EXPECT_EQ(b.scalar_type(), at::kBFloat16);
    EXPECT_LE(relative(b, reference), 1.3 * relative(a, reference));
}

std::string caseName(const testing::TestParamInfo<std::tuple<std::string, std::string>>& info)
{
    std::string name = std::get<0>(info.param) + "_" + std::get<1>(info.param);
    std::replace(name.begin(), name.end(), '-', '_');
    return name;
}

INSTANTIATE_TEST_SUITE_P(Devices, OnDevice,
                         testing::Combine(testing::Values("mixtral-tiny", "qwen2moe-tiny", "qwen3moe-tiny", "olmoe-tiny",
                                                          "deepseekv2-lite-tiny", "deepseekv3-tiny"),
                                          testing::Values("portable", "cuda")),
                         caseName);

TEST(Placement, NamesADeviceThatIsNotThere)
{
    EXPECT_TRUE(checkDevice("cpu").ok());
    for (const char* device : {"gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1000", "portable", ""})
        EXPECT_EQ(checkDevice(device).error().exitCode(), 2) << device;
    const Status far = checkDevice("cuda:99");
    ASSERT_FALSE(far.ok());
    EXPECT_EQ(far.error().code, "device.unavailable");
    EXPECT_EQ(far.error().subject, "cuda:99");
    EXPECT_EQ(far.error().exitCode(), 4);
}

}  // namespace

}  // namespace espalier
