#include "checkpoint/checkpoint.h"
#include "model/moe_model_torch.h"
#include "parity/golden.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <random>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

const fs::path kOwn = fs::path(ESPALIER_TEST_FIXTURES) / "model";

std::unique_ptr<MoeModel> openModel(const fs::path& folder, ComputeType compute = ComputeType::Fp32)
{
    auto checkpoint = Checkpoint::open(folder);
    if (!checkpoint) throw std::runtime_error(checkpoint.error().describe());
    ModelOptions options;
    options.compute = compute;
    options.residency = Residency::Stream;
    options.threads = 1;
    auto model = MoeModel::create(*checkpoint, options);
    if (!model) throw std::runtime_error(model.error().describe());
    return std::move(model).value();
}

// Which experts a pass selects.
struct Selections final : LayerObserver {
    std::vector<at::Tensor> selected;
    void moe(const MoeBatch& batch) override { selected.push_back(std::get<0>(batch.selected.sort(1))); }
    bool equals(const Selections& other) const
    {
        bool same = selected.size() == other.selected.size();
        for (std::size_t i = 0; same && i < selected.size(); ++i)
            same = at::equal(selected[i], other.selected[i]);
        return same;
    }
};

struct Loss {
    double nll = 0;
    Selections selections;
};

// NLL of all windows from the input of `layer` on.
Loss lossFrom(MoeModel& model, int layer, at::Tensor hidden, const at::Tensor& ids, const PreparedPlan& plan)
{
    Loss loss;
    for (int l = layer; l < model.layerCount(); ++l)
        hidden = *model.layer(l, hidden, plan, &loss.selections);
    loss.nll = model.tokenNll(hidden, ids)->sum().item<double>();
    return loss;
}

// The gradient at every layer boundary against central differences of the whole rest of the model.
void expectGradients(MoeModel& model, const at::Tensor& ids, const PreparedPlan& plan)
{
    const c10::InferenceMode guard;
    std::vector<at::Tensor> boundary{*model.embed(ids)};
    for (int l = 0; l < model.layerCount(); ++l)
        boundary.push_back(*model.layer(l, boundary.back(), plan));
    auto head = model.headGradient(boundary.back(), ids.narrow(1, 1, ids.size(1) - 1));
    ASSERT_TRUE(head.ok()) << head.error().describe();
    std::vector<at::Tensor> gradients(boundary.size());
    gradients.back() = *head;
    for (int l = model.layerCount() - 1; l >= 0; --l) {
        auto below = model.layerGradient(l, boundary[static_cast<std::size_t>(l)], gradients[static_cast<std::size_t>(l) + 1], plan);
        ASSERT_TRUE(below.ok()) << below.error().describe();
        gradients[static_cast<std::size_t>(l)] = *below;
    }

    std::mt19937 random(7);
    std::uniform_real_distribution<float> uniform(-0.5f, 1.5f);
    for (int l = 0; l <= model.layerCount(); ++l) {
        const at::Tensor h = boundary[static_cast<std::size_t>(l)];
        const at::Tensor g = gradients[static_cast<std::size_t>(l)];
        // Nothing is scored behind the last position.
        EXPECT_EQ(g.select(1, g.size(1) - 1).abs().max().item<double>(), 0) << "layer " << l;
        const Selections reference = lossFrom(model, l, h, ids, plan).selections;
        int measured = 0;
        for (int trial = 0; trial < 40 && measured < 4; ++trial) {
            // Four neighbouring positions of one window. Steps that change a selection jump, so another direction is tried.
            const std::int64_t row = trial % g.size(0);
            const std::int64_t first = (trial * 17) % (g.size(1) - 5);
            at::Tensor direction = at::zeros(g.sizes(), at::kFloat);
            at::Tensor part = direction.select(0, row).narrow(0, first, 4);
            at::Tensor factor = at::empty(part.sizes(), at::kFloat);
            for (std::int64_t i = 0; i < factor.numel(); ++i)
                factor.mutable_data_ptr<float>()[i] = uniform(random);
            part.copy_(factor * g.select(0, row).narrow(0, first, 4));
            const double step = 1e-3 * h.select(0, row).narrow(0, first, 4).norm().item<double>() / direction.norm().item<double>();
            const Loss up = lossFrom(model, l, h + direction * step, ids, plan);
            const Loss down = lossFrom(model, l, h - direction * step, ids, plan);
            if (!up.selections.equals(reference) || !down.selections.equals(reference)) continue;
            ++measured;
            const double expected = (up.nll - down.nll) / (2 * step);
            const double actual = (g.to(at::kDouble) * direction.to(at::kDouble)).sum().item<double>();
            EXPECT_NEAR(actual, expected, 1e-2 * std::abs(expected)) << "layer " << l << ", trial " << trial;
        }
        EXPECT_EQ(measured, 4) << "layer " << l;
    }
}

class LayerGradient : public testing::TestWithParam<const char*>
{
};

TEST_P(LayerGradient, EqualsDifferences)
{
    const std::string name = GetParam();
    const auto model = openModel(kOwn / "checkpoints" / name);
    const at::Tensor ids = test::Golden::read(kOwn / "goldens" / name).tensor("input_ids").to(at::kLong);
    expectGradients(*model, ids, model->identity());
}

INSTANTIATE_TEST_SUITE_P(Architectures, LayerGradient,
                         testing::Values("mixtral-tiny", "mixtral-sliding", "qwen2moe-tiny", "qwen2moe-mlponly", "qwen2moe-sliding",
                                         "qwen3moe-tiny", "qwen3moe-tied", "olmoe-tiny", "olmoe-clip", "deepseekv2-lite-tiny",
                                         "deepseekv2-full-tiny", "deepseekv3-tiny"),
                         [](const auto& info) {
                             std::string name = info.param;
                             std::erase(name, '-');
                             return name;
                         });

TEST(LayerGradientPlan, PrunedAndFactored)
{
    const auto model = openModel(kOwn / "checkpoints" / "qwen2moe-tiny");
    const at::Tensor ids = test::Golden::read(kOwn / "goldens" / "qwen2moe-tiny").tensor("input_ids").to(at::kLong);
    const ModelShape& shape = model->shape();
    CompressionPlan plan = *CompressionPlan::identity(shape).withKept(shape, 1, {0, 2, 3, 5, 7, 8, 11});
    plan = *plan.withRanks(shape, 1, std::vector<RankTriple>(7, {5, 0, 6}));
    plan = plan.withFactors({.method = "svd", .profileSha256 = ""});
    const auto prepared = model->prepare(plan);
    ASSERT_TRUE(prepared.ok()) << prepared.error().describe();
    expectGradients(*model, ids, *prepared);
}

// What the observer of the reverse pass sees is what the forward pass computed.
TEST(LayerGradientObserver, ProductsAreThoseOfVectors)
{
    const c10::InferenceMode guard;
    const auto model = openModel(kOwn / "checkpoints" / "mixtral-tiny");
    const at::Tensor ids = test::Golden::read(kOwn / "goldens" / "mixtral-tiny").tensor("input_ids").to(at::kLong);
    const PreparedPlan plan = model->identity();
    struct Forward final : LayerObserver {
        MoeBatch seen;
        at::Tensor outputs;  // [N,n,H]
        void expert(int, int expert, const at::Tensor& tokens, const at::Tensor&, const at::Tensor&, const at::Tensor& y,
                    const at::Tensor&) override
        {
            if (!outputs.defined()) outputs = at::zeros({96, 8, y.size(1)});
            outputs.select(1, expert).index_copy_(0, tokens, y);
        }
        void moe(const MoeBatch& batch) override { seen = batch; }
    } forward;
    const at::Tensor in = *model->layer(0, *model->embed(ids), plan);
    const at::Tensor out = *model->layer(1, in, plan, &forward);
    const at::Tensor gradient = at::randn(out.sizes());
    MoeGradient seen;
    int calls = 0;
    ASSERT_TRUE(model
                    ->layerGradient(1, in, gradient, plan,
                                    [&](const MoeGradient& batch) {
                                        seen = batch;
                                        ++calls;
                                    })
                    .ok());
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(seen.layer, 1);
    EXPECT_TRUE(at::equal(seen.input, forward.seen.input));
    EXPECT_TRUE(at::equal(seen.selected, forward.seen.selected));
    EXPECT_TRUE(at::equal(seen.weights, forward.seen.weights));
    // Decoder layers add the module's output to the residual stream: its gradient is that of the layer's output.
    EXPECT_TRUE(at::equal(seen.gradient.view(out.sizes()), gradient));
    const at::Tensor y = forward.outputs.gather(1, seen.selected.unsqueeze(2).expand({96, 2, out.size(2)})).to(at::kDouble);
    const at::Tensor expected = (y * seen.gradient.to(at::kDouble).unsqueeze(1)).sum({2});
    EXPECT_LE(test::maxDifference(seen.products, expected), 1e-5 * expected.abs().max().item<double>());
}

TEST(LayerGradientPrecision, Bf16IsNearFp32)
{
    const c10::InferenceMode guard;
    const at::Tensor ids = test::Golden::read(kOwn / "goldens" / "qwen2moe-tiny").tensor("input_ids").to(at::kLong);
    std::vector<at::Tensor> gradients;
    // The boundary states of the fp32 pass for both.
    const auto reference = openModel(kOwn / "checkpoints" / "qwen2moe-tiny");
    const at::Tensor in = *reference->layer(0, *reference->embed(ids), reference->identity());
    for (const ComputeType compute : {ComputeType::Fp32, ComputeType::Bf16}) {
        const auto model = openModel(kOwn / "checkpoints" / "qwen2moe-tiny", compute);
        const at::Tensor hidden = in.to(compute == ComputeType::Bf16 ? at::kBFloat16 : at::kFloat);
        const at::Tensor top = *model->headGradient(hidden, ids.narrow(1, 1, 47));
        EXPECT_EQ(top.scalar_type(), at::kFloat);
        const auto below = model->layerGradient(0, hidden, top, model->identity());
        ASSERT_TRUE(below.ok()) << below.error().describe();
        EXPECT_EQ(below->scalar_type(), at::kFloat);
        gradients.push_back(*below);
    }
    EXPECT_LE((gradients[1] - gradients[0]).norm().item<double>(), 0.1 * gradients[0].norm().item<double>());
}

TEST(DrawTokens, FollowsTheDistribution)
{
    const c10::InferenceMode guard;
    const auto model = openModel(kOwn / "checkpoints" / "mixtral-tiny");
    const at::Tensor ids = test::Golden::read(kOwn / "goldens" / "mixtral-tiny").tensor("input_ids").to(at::kLong);
    const at::Tensor hidden = *model->hiddenStates(ids, model->identity());
    const at::Tensor logits = *model->logits(*model->finalNorm(hidden.narrow(1, 0, 47).reshape({94, -1})));
    const at::Tensor reached = at::softmax(logits.to(at::kDouble), 1).cumsum(1);
    for (const double u : {0.0, 0.37, 0.9999999999999999}) {
        const auto drawn = model->drawTokens(hidden, at::full({2, 47}, u, at::kDouble));
        ASSERT_TRUE(drawn.ok()) << drawn.error().describe();
        const at::Tensor flat = drawn->reshape({94, 1});
        EXPECT_TRUE((flat >= 0).all().item<bool>());
        EXPECT_TRUE((flat < logits.size(1)).all().item<bool>());
        // The first token whose cumulative probability lies above u.
        EXPECT_TRUE(((reached.gather(1, flat) > u - 1e-9) | (flat == logits.size(1) - 1)).all().item<bool>());
        EXPECT_TRUE(((reached.gather(1, (flat - 1).clamp_min(0)) <= u + 1e-9) | (flat == 0)).all().item<bool>());
    }
}

}  // namespace

}  // namespace espalier
