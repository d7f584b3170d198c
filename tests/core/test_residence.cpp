// Models that do not fit the memory budget: what is held, and that results do not depend on it.
#include "checkpoint/checkpoint.h"
#include "model/layer_gradient.h"
#include "model/moe_model_torch.h"
#include "model/residence.h"
#include "model/row_operations.h"
#include "parity/golden.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

const fs::path kFixtures = fs::path(ESPALIER_TEST_FIXTURES) / "model";
constexpr std::int64_t kGiB = std::int64_t{1} << 30;

std::unique_ptr<MoeModel> openModel(const std::string& name, std::int64_t budget, ComputeType compute = ComputeType::Fp32)
{
    auto checkpoint = Checkpoint::open(kFixtures / "checkpoints" / name);
    if (!checkpoint) throw std::runtime_error(checkpoint.error().describe());
    ModelOptions options;
    options.compute = compute;
    options.threads = 2;
    options.memoryBudget = budget;
    auto model = MoeModel::create(*checkpoint, options);
    if (!model) throw std::runtime_error(model.error().describe());
    return std::move(model).value();
}

// Qwen1.5-MoE-A2.7B's layer, four times.
ModelShape largeShape()
{
    ModelShape shape;
    shape.hiddenSize = 2048;
    shape.vocabularySize = 151936;
    shape.embeddingParameters = 2 * 151936LL * 2048;
    for (int l = 0; l < 4; ++l) {
        LayerShape layer;
        layer.index = l;
        layer.moe = true;
        layer.experts = 60;
        layer.expertWidth = 1408;
        layer.expertParameters = 3LL * 2048 * 1408;
        layer.routerParametersPerExpert = 2048;
        layer.otherParameters = 4LL * 2048 * 2048 + 3LL * 2048 * 5632;
        shape.layers.push_back(layer);
    }
    return shape;
}

// What is held at once: the head or a block of it, layers, experts being read.
std::int64_t heldBytes(const ModelShape& shape, const WeightStore::Holding& holding, std::int64_t valueBytes)
{
    const LayerShape& layer = shape.layers.front();
    const std::int64_t head =
        holding.headInBlocks ? headBlockRows(shape.vocabularySize, shape.hiddenSize) * shape.hiddenSize : shape.embeddingParameters / 2;
    const std::int64_t rest = layer.otherParameters + layer.experts * layer.routerParametersPerExpert;
    const int layers = std::min<int>(holding.layers + (holding.readAhead ? 2 : 1), static_cast<int>(shape.layers.size()));
    const std::int64_t matrix = std::int64_t{2048} * 1408;
    if (holding.experts >= 0)
        return valueBytes * (head + rest + holding.experts * layer.expertParameters + holding.mostRead * (layer.expertParameters + matrix));
    return valueBytes * (head + layers * (rest + layer.experts * layer.expertParameters));
}

TEST(Residence, StaysWithinTheBudget)
{
    const ModelShape shape = largeShape();
    ModelOptions options;
    for (const int threads : {2, 64})
        for (const std::int64_t valueBytes : {2, 4})
            for (const std::int64_t mebibytes : {700, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 16384}) {
                options.threads = threads;
                options.memoryBudget = mebibytes << 20;
                const Residence residence = residenceOf(shape, valueBytes, options, true);
                EXPECT_LE(heldBytes(shape, residence.holding, valueBytes) + residence.spare, options.memoryBudget)
                    << mebibytes << " MiB, " << valueBytes << " bytes, " << threads << " threads";
                EXPECT_GE(residence.spare, std::min(options.memoryBudget / 8, kGiB / 2));
                // Something is said exactly where layers do not fit.
                EXPECT_EQ(residence.warnings.size(), residence.holding.experts >= 0 ? 1u : 0u);
            }
}

TEST(Residence, GivesUpOneThingAfterTheOther)
{
    const ModelShape shape = largeShape();
    ModelOptions options;
    options.threads = 2;
    const auto holding = [&](double gibibytes) {
        options.memoryBudget = static_cast<std::int64_t>(gibibytes * static_cast<double>(kGiB));
        return residenceOf(shape, 4, options, true).holding;
    };
    EXPECT_EQ(holding(16).layers, 4);
    EXPECT_EQ(holding(7).layers, 0);
    EXPECT_TRUE(holding(7).readAhead);
    EXPECT_FALSE(holding(5).readAhead);
    EXPECT_FALSE(holding(5).headInBlocks);
    EXPECT_TRUE(holding(3).headInBlocks);
    EXPECT_EQ(holding(3).experts, -1);
    EXPECT_GT(holding(2).experts, 10);
    EXPECT_LT(holding(2).experts, 60);
    EXPECT_LT(holding(1).experts, holding(2).experts);
}

TEST(Residence, SaysWhereNotEvenAnExpertFits)
{
    ModelOptions options;
    options.threads = 8;
    options.memoryBudget = 200 << 20;
    const Residence residence = residenceOf(largeShape(), 4, options, true);
    EXPECT_EQ(residence.holding.experts, 0);
    EXPECT_EQ(residence.holding.mostRead, 1);
    ASSERT_EQ(residence.warnings.size(), 1u);
    EXPECT_NE(residence.warnings[0].find("too small"), std::string::npos) << residence.warnings[0];
}

class WithoutRoom : public testing::TestWithParam<ComputeType>
{
};

// Budgets below a layer: some of its experts, none of them.
TEST_P(WithoutRoom, GivesTheSameBits)
{
    const c10::InferenceMode guard;
    for (const char* name : {"qwen2moe-tiny", "mixtral-tiny"}) {
        const at::Tensor ids = test::Golden::read(kFixtures / "goldens" / name).tensor("input_ids").to(at::kLong);
        const at::Tensor targets = ids.narrow(1, 1, ids.size(1) - 1);
        const auto whole = openModel(name, kGiB, GetParam());
        ASSERT_TRUE(whole->warnings().empty());
        const std::int64_t valueBytes = GetParam() == ComputeType::Fp32 ? 4 : 2;
        const LayerShape& layer = whole->shape().layers[0];
        const std::int64_t expert = layer.expertParameters * valueBytes;
        const std::int64_t rest = (whole->shape().embeddingParameters / 2 + layer.otherParameters) * valueBytes + 4 * expert;
        for (const std::int64_t budget : {std::int64_t{1}, (rest + 3 * expert) * 16 / 13}) {
            const auto some = openModel(name, budget, GetParam());
            ASSERT_EQ(some->warnings().size(), 1u);
            auto plan = CompressionPlan::identity(whole->shape()).withKept(whole->shape(), 1, {0, 2, 3, 5, 7});
            ASSERT_TRUE(plan);
            for (const CompressionPlan& asked : {CompressionPlan::identity(whole->shape()), *plan}) {
                const auto a = whole->hiddenStates(ids, *whole->prepare(asked));
                const auto b = some->hiddenStates(ids, *some->prepare(asked));
                ASSERT_TRUE(a.ok() && b.ok());
                EXPECT_TRUE(at::equal(*a, *b)) << name;
                EXPECT_TRUE(at::equal(*whole->tokenNll(*a, ids), *some->tokenNll(*b, ids)));
                const at::Tensor above = *whole->headGradient(*a, targets);
                EXPECT_TRUE(at::equal(above, *some->headGradient(*b, targets)));
                const at::Tensor in = *whole->embed(ids);
                EXPECT_TRUE(at::equal(*whole->layerGradient(0, in, above, *whole->prepare(asked)),
                                      *some->layerGradient(0, in, above, *some->prepare(asked))));
            }
            const at::Tensor x = whole->embed(ids)->view({-1, whole->shape().hiddenSize});
            for (int e = 0; e < layer.experts; ++e)
                EXPECT_TRUE(at::equal(*whole->expertOutput(1, e, x), *some->expertOutput(1, e, x))) << e;
            EXPECT_LT(some->residentBytes(), whole->residentBytes() / 2);
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Types, WithoutRoom, testing::Values(ComputeType::Fp32, ComputeType::Bf16),
                         [](const auto& info) { return info.param == ComputeType::Fp32 ? "fp32" : "bf16"; });

TEST(WithoutRoom, NamesWhatIsNotFinite)
{
    const fs::path bad = fs::path(ESPALIER_TEST_FIXTURES) / "bad" / "nan-weights";
    auto checkpoint = Checkpoint::open(bad);
    ASSERT_TRUE(checkpoint);
    ModelOptions options;
    options.memoryBudget = 1;
    auto model = MoeModel::create(*checkpoint, options);
    ASSERT_TRUE(model);
    const c10::InferenceMode guard;
    const auto hidden = (*model)->hiddenStates(at::arange(32, at::kLong).view({1, 32}), (*model)->identity());
    ASSERT_FALSE(hidden);
    EXPECT_EQ(hidden.error().code, "model.not_finite");
    EXPECT_EQ(hidden.error().subject, "model.layers.0.block_sparse_moe.experts.2.w2.weight");
}

// A vocabulary of several blocks: the head as a whole and converted when it is wanted, against log-softmax in fp64.
TEST(HeadInBlocks, IsTheWholeHead)
{
    const c10::InferenceMode guard;
    constexpr std::int64_t kVocabulary = 40000;
    constexpr std::int64_t kWidth = 640;
    const std::int64_t block = headBlockRows(kVocabulary, kWidth);
    ASSERT_LT(block, kVocabulary);
    GlobalWeights whole, blocks;
    whole.head = at::randn({kVocabulary, kWidth}) * 0.05;
    whole.vocabulary = blocks.vocabulary = kVocabulary;
    blocks.readHead = [&](std::int64_t first, std::int64_t count) { return whole.head.narrow(0, first, count).clone(); };
    const at::Tensor rows = at::randn({70, kWidth});
    const at::Tensor targets = at::randint(kVocabulary, {70}, at::kLong);
    const at::Tensor logits = headProduct(rows, whole);
    EXPECT_TRUE(at::equal(headProduct(rows, blocks), logits));
    const at::Tensor gradient = headGradient(rows, targets, whole, 32);
    EXPECT_TRUE(at::equal(headGradient(rows, targets, blocks, 32), gradient));

    const at::Tensor probability = at::softmax(logits.to(at::kDouble), 1);
    const at::Tensor expected =
        at::mm(probability - at::zeros_like(probability).scatter(1, targets.unsqueeze(1), 1.0), whole.head.to(at::kDouble));
    EXPECT_LE(((gradient.to(at::kDouble) - expected).norm() / expected.norm()).item<double>(), 1e-5);
    const at::Tensor nll = at::log_softmax(logits.to(at::kDouble), 1).gather(1, targets.unsqueeze(1)).neg().squeeze(1);
    BlockedNll sums({targets.const_data_ptr<std::int64_t>(), 70});
    for (std::int64_t first = 0; first < kVocabulary; first += block)
        for (const std::int64_t row : {0, 40}) {
            const std::int64_t count = row == 0 ? 40 : 30;
            sums.add(logits.narrow(0, row, count).narrow(1, first, std::min(block, kVocabulary - first)).contiguous(), row, first);
        }
    at::Tensor blocked = at::empty({70}, at::kDouble);
    sums.finish(blocked.mutable_data_ptr<double>());
    EXPECT_LE((blocked - nll).abs().max().item<double>(), 2e-6);
}

}  // namespace

}  // namespace espalier
