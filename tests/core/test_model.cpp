#include "checkpoint/checkpoint.h"
#include "model/attention.h"
#include "model/kernels.h"
#include "model/moe_model_torch.h"
#include "model/norm.h"
#include "model/router.h"
#include "parity/golden.h"
#include "plan/routing.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <random>

#include <unistd.h>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

const fs::path kFixtures = fs::path(ESPALIER_TEST_FIXTURES) / "model";

std::shared_ptr<const Checkpoint> openCheckpoint(const fs::path& folder)
{
    auto checkpoint = Checkpoint::open(folder);
    if (!checkpoint) throw std::runtime_error(checkpoint.error().describe());
    return *checkpoint;
}

std::unique_ptr<MoeModel> openModel(const fs::path& folder, Residency residency = Residency::Resident, int threads = 2,
                                    std::int64_t budget = 0)
{
    ModelOptions options;
    options.residency = residency;
    options.threads = threads;
    options.memoryBudget = budget;
    auto model = MoeModel::create(openCheckpoint(folder), options);
    if (!model) throw std::runtime_error(model.error().describe());
    return std::move(model).value();
}

fs::path tiny(const std::string& name) { return kFixtures / "checkpoints" / name; }

at::Tensor inputIds(const std::string& name) { return test::Golden::read(kFixtures / "goldens" / name).tensor("input_ids"); }

CompressionPlan keep(const MoeModel& model, int layer, const std::vector<int>& kept)
{
    auto plan = CompressionPlan::identity(model.shape()).withKept(model.shape(), layer, kept);
    if (!plan) throw std::runtime_error(plan.error().describe());
    return *plan;
}

at::Tensor run(MoeModel& model, const at::Tensor& ids, const CompressionPlan& plan, LayerObserver* observer = nullptr)
{
    auto prepared = model.prepare(plan);
    if (!prepared) throw std::runtime_error(prepared.error().describe());
    auto hidden = model.hiddenStates(ids, *prepared, observer);
    if (!hidden) throw std::runtime_error(hidden.error().describe());
    return *hidden;
}

TEST(Router, IsTheTwinOfThePlanFolders)
{
    const c10::InferenceMode guard;
    std::mt19937 random(11);
    std::normal_distribution<float> normal(0, 2);
    RouterShape a{.rule = RoutingRule::SoftmaxRenormalised, .topK = 2};
    RouterShape b{.rule = RoutingRule::Softmax, .topK = 4, .scaling = 1.0};
    RouterShape scaled{.rule = RoutingRule::Softmax, .topK = 3, .scaling = 16.0};
    RouterShape d{.rule = RoutingRule::GroupLimitedSoftmax, .topK = 4, .groups = 4, .topGroups = 2, .scaling = 4.0};
    RouterShape c{.rule = RoutingRule::SigmoidBias, .topK = 3, .groups = 4, .topGroups = 2, .scaling = 2.5, .normalise = true};
    RouterShape plainSigmoid{.rule = RoutingRule::SigmoidBias, .topK = 4, .scaling = 1.5};
    for (const RouterShape& router : {a, b, scaled, d, c, plainSigmoid}) {
        constexpr int kExperts = 12;
        constexpr int kTokens = 300;
        const bool biased = router.rule == RoutingRule::SigmoidBias;
        const at::Tensor bias = biased ? at::linspace(-1.2, 0.4, kExperts, at::kFloat) : at::Tensor();  // score + bias below zero, too
        const std::span<const float> biases(biased ? bias.const_data_ptr<float>() : nullptr, biased ? kExperts : 0);
        at::Tensor logits = at::empty({kTokens, kExperts}, at::kFloat);
        auto* z = logits.mutable_data_ptr<float>();
        // Every third token has exact ties.
        for (int i = 0; i < kTokens * kExperts; ++i)
            z[i] = (i / kExperts) % 3 == 0 ? std::round(normal(random)) : normal(random);
        for (const std::vector<int>& kept :
             {std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, std::vector<int>{1, 2, 3, 5, 6, 8, 9, 11}}) {
            const at::Tensor columns = at::tensor(std::vector<std::int64_t>(kept.begin(), kept.end()));
            const RoutedTokens routed = routeTokens(router, logits.index_select(1, columns).contiguous(),
                                                    biased ? bias.index_select(0, columns) : bias, at::kFloat);
            for (int t = 0; t < kTokens; ++t) {
                const Routing expected = route(router, std::span<const float>(z + t * kExperts, kExperts), kept, biases);
                for (int slot = 0; slot < router.topK; ++slot) {
                    const auto column = static_cast<std::size_t>(routed.selected[t][slot].item<std::int64_t>());
                    ASSERT_EQ(kept[column], expected.experts[static_cast<std::size_t>(slot)]) << t;
                    ASSERT_NEAR(routed.weights[t][slot].item<double>(), expected.weights[static_cast<std::size_t>(slot)], 1e-6);
                }
            }
        }
    }
}

TEST(Router, GroupsTokensByExpert)
{
    const at::Tensor selected = at::tensor(std::vector<std::int64_t>{2, 0, 1, 2, 2, 1}).view({3, 2});
    const TokenGroups groups = groupTokens(selected, 4);
    EXPECT_EQ(groups.offsets, (std::vector<std::int64_t>{0, 1, 3, 6, 6}));
    const auto* order = groups.order.const_data_ptr<std::int64_t>();
    EXPECT_EQ(std::vector<std::int64_t>(order, order + 6), (std::vector<std::int64_t>{0, 1, 2, 0, 1, 2}));
    EXPECT_EQ(groups.slots, (std::vector<std::int64_t>{1, 2, 5, 0, 3, 4}));
}

TEST(Kernels, AgreeWithAten)
{
    const c10::InferenceMode guard;
    at::Tensor gate = at::randn({37, 45});
    const at::Tensor up = at::randn({37, 45});
    const at::Tensor product = at::silu(gate) * up;
    kernels::siluMul(gate.mutable_data_ptr<float>(), up.const_data_ptr<float>(), gate.numel());
    EXPECT_LE(test::maxDifference(gate, product), 2e-6);
    at::Tensor extreme = at::tensor(std::vector<float>{-200, -90, -87.5f, -20, 0, 20, 90, 200});
    const at::Tensor expectedSilu = at::silu(extreme);
    const at::Tensor ones = at::ones_like(extreme);
    kernels::siluMul(extreme.mutable_data_ptr<float>(), ones.const_data_ptr<float>(), extreme.numel());
    EXPECT_LE(test::maxDifference(extreme, expectedSilu), 1e-6);

    const at::Tensor logits = at::randn({9, 1031}) * 12;
    const at::Tensor target = at::randint(0, 1031, {9}, at::kLong);
    at::Tensor nll = at::empty({9}, at::kDouble);
    kernels::negativeLogLikelihood(logits.const_data_ptr<float>(), target.const_data_ptr<std::int64_t>(), nll.mutable_data_ptr<double>(), 9,
                                   1031);
    const at::Tensor expected = at::log_softmax(logits.to(at::kDouble), 1).gather(1, target.unsqueeze(1)).neg().squeeze(1);
    EXPECT_LE(test::maxDifference(nll, expected), 2e-6);
    at::Tensor broken = logits.clone();
    broken.mutable_data_ptr<float>()[1031 * 4 + 77] = std::numeric_limits<float>::quiet_NaN();
    kernels::negativeLogLikelihood(broken.const_data_ptr<float>(), target.const_data_ptr<std::int64_t>(), nll.mutable_data_ptr<double>(), 9,
                                   1031);
    EXPECT_TRUE(std::isnan(nll[4].item<double>()));

    const at::Tensor weight = at::randn({50});
    const at::Tensor wide = at::randn({4, 6, 120});
    const at::Tensor part = wide.narrow(2, 30, 50);
    const at::Tensor reference = weight * (part * at::rsqrt(part.square().mean({-1}, true) + 1e-3));
    EXPECT_LE(test::maxDifference(rmsNorm(part, weight, 1e-3), reference), 2e-6);

    // Conversions from bytes at an odd address, special values included.
    const at::Tensor halves =
        at::cat({at::randn({500}), at::tensor(std::vector<float>{0.0f, -0.0f, 6e-8f, 65504.0f, 1e-5f})}).to(at::kHalf);
    std::vector<std::byte> bytes(static_cast<std::size_t>(halves.nbytes()) + 1);
    std::memcpy(bytes.data() + 1, halves.const_data_ptr(), halves.nbytes());
    at::Tensor converted = at::empty({halves.numel()});
    EXPECT_TRUE(kernels::floatFromHalf(bytes.data() + 1, converted.mutable_data_ptr<float>(), halves.numel()));
    EXPECT_TRUE(at::equal(converted, halves.to(at::kFloat)));
    const at::Tensor brains = at::randn({500}).to(at::kBFloat16);
    std::memcpy(bytes.data() + 1, brains.const_data_ptr(), brains.nbytes());
    at::Tensor fromBf16 = at::empty({500});
    EXPECT_TRUE(kernels::floatFromBf16(bytes.data() + 1, fromBf16.mutable_data_ptr<float>(), 500));
    EXPECT_TRUE(at::equal(fromBf16, brains.to(at::kFloat)));
    const at::Tensor floats = at::randn({500});
    at::Tensor rounded = at::empty({500}, at::kBFloat16);
    kernels::bf16FromFloat(floats.const_data_ptr<float>(), reinterpret_cast<std::uint16_t*>(rounded.mutable_data_ptr<at::BFloat16>()), 500);
    EXPECT_TRUE(at::equal(rounded, floats.to(at::kBFloat16)));
}

TEST(Rotary, YarnHasTheFrequenciesOfTheReference)
{
    // DeepSeek-V2-Lite: d 64, theta 1e4; corr(n) = d ln(4096 / (2 pi n)) / (2 ln theta) gives low 10, high 23.
    RopeScaling yarn;
    yarn.type = RopeScaling::Type::Yarn;
    yarn.factor = 40;
    yarn.originalPositions = 4096;
    yarn.mscale = 0.707;
    yarn.mscaleAllDim = 0.707;
    const RotarySetup setup = rotarySetup(64, 1e4, yarn, true);
    for (const auto& [j, value] : std::map<std::size_t, double>{{0, 1.0},
                                                                {9, 0.0749894209},
                                                                {10, 0.0562341325},
                                                                {11, 0.0390069266},
                                                                {16, 0.0055},
                                                                {22, 1.77827942e-4},
                                                                {23, 3.33380358e-5},
                                                                {31, 3.33380358e-6}})
        EXPECT_NEAR(setup.inverseFrequencies[j] / value, 1.0, 1e-6) << j;
    EXPECT_DOUBLE_EQ(setup.cosSinScale, 1.0);
    EXPECT_NEAR(setup.softmaxFactor * std::pow(192.0, -0.5), 0.114721387, 1e-9);
}

TEST(Model, StreamedAndResidentGiveTheSameBits)
{
    const c10::InferenceMode guard;
    for (const char* name : {"qwen2moe-tiny", "mixtral-tiny"}) {
        const at::Tensor ids = inputIds(name);
        const auto resident = openModel(tiny(name));
        const auto streamed = openModel(tiny(name), Residency::Stream);
        const CompressionPlan dense = CompressionPlan::identity(resident->shape());
        const CompressionPlan pruned = keep(*resident, 1, {0, 2, 3, 5, 7});
        for (int pass = 0; pass < 3; ++pass) {
            EXPECT_TRUE(at::equal(run(*resident, ids, dense), run(*streamed, ids, dense))) << name;
            EXPECT_TRUE(at::equal(run(*resident, ids, pruned), run(*streamed, ids, pruned))) << name;
        }
        EXPECT_LT(streamed->residentBytes(), resident->residentBytes());
        const std::int64_t held = resident->residentBytes();
        resident->releaseWeights();
        EXPECT_LT(resident->residentBytes(), held);
        EXPECT_TRUE(at::equal(run(*resident, ids, dense), run(*streamed, ids, dense))) << name;
    }
}

TEST(Model, AutoKeepsWhatFitsTheBudget)
{
    const c10::InferenceMode guard;
    const at::Tensor ids = inputIds("qwen2moe-tiny");
    const auto all = openModel(tiny("qwen2moe-tiny"), Residency::Auto);
    const at::Tensor reference = run(*all, ids, CompressionPlan::identity(all->shape()));
    const std::int64_t everything = all->residentBytes();
    const auto some = openModel(tiny("qwen2moe-tiny"), Residency::Auto, 2, everything * 3 / 4);
    EXPECT_TRUE(at::equal(run(*some, ids, CompressionPlan::identity(some->shape())), reference));
    EXPECT_LE(some->residentBytes(), everything * 3 / 4);
}

TEST(Model, ALayerIsAPureFunctionOfItsInput)
{
    const c10::InferenceMode guard;
    const at::Tensor ids = inputIds("qwen2moe-tiny");
    const auto model = openModel(tiny("qwen2moe-tiny"), Residency::Stream);
    const PreparedPlan dense = model->identity();
    std::vector<at::Tensor> states{*model->embed(ids)};
    for (int l = 0; l < model->layerCount(); ++l)
        states.push_back(*model->layer(l, states.back(), dense));
    // From a cached boundary, under a plan that differs below it only.
    const auto other = model->prepare(keep(*model, 0, {1, 2, 3, 4}));
    for (int l = model->layerCount() - 1; l >= 1; --l)
        EXPECT_TRUE(
            at::equal(*model->layer(l, states[static_cast<std::size_t>(l)].clone(), *other), states[static_cast<std::size_t>(l) + 1]));
    EXPECT_FALSE(at::equal(*model->layer(0, states[0], *other), states[1]));
}

TEST(Model, ThreadsChangeNothingThatMatters)
{
    const c10::InferenceMode guard;
    const at::Tensor ids = inputIds("mixtral-tiny");
    const auto one = openModel(tiny("mixtral-tiny"), Residency::Resident, 1);
    const at::Tensor a = run(*one, ids, CompressionPlan::identity(one->shape()));
    const auto two = openModel(tiny("mixtral-tiny"), Residency::Resident, 2);
    const at::Tensor b = run(*two, ids, CompressionPlan::identity(two->shape()));
    EXPECT_LE(test::vectorExcess(a, b), 1.0);
    EXPECT_EQ(one->options().threads, 1);
    EXPECT_GT(one->options().memoryBudget, 0);
    EXPECT_EQ(one->numericMode(), "fp32");
}

struct Capture final : LayerObserver {
    std::map<int, MoeBatch> batches;
    std::map<std::pair<int, int>, std::array<at::Tensor, 4>> experts;  // tokens, x, y, w
    std::map<std::pair<int, int>, at::Tensor> hidden;
    std::function<void(const MoeBatch&)> inside;
    void expert(int layer, int expert, const at::Tensor& tokens, const at::Tensor& x, const at::Tensor& h, const at::Tensor& y,
                const at::Tensor& w) override
    {
        experts[{layer, expert}] = {tokens, x, y, w};
        hidden[{layer, expert}] = h;
    }
    void moe(const MoeBatch& batch) override
    {
        batches[batch.layer] = batch;
        if (inside) inside(batch);
    }
};

TEST(Model, PrunedRouterEqualsMaskedRouter)
{
    const c10::InferenceMode guard;
    for (const char* name : {"qwen2moe-tiny", "mixtral-tiny"}) {
        const at::Tensor ids = inputIds(name);
        const auto model = openModel(tiny(name));
        const std::vector<int> kept{1, 2, 4, 6, 7};
        Capture dense, pruned;
        const at::Tensor start = *model->embed(ids);
        ASSERT_TRUE(model->layer(0, start, model->identity(), &dense));
        ASSERT_TRUE(model->layer(0, start, *model->prepare(keep(*model, 0, kept)), &pruned));
        const MoeBatch& full = dense.batches.at(0);
        const MoeBatch& part = pruned.batches.at(0);
        EXPECT_TRUE(at::equal(part.input, full.input));
        EXPECT_LE(test::maxDifference(part.routerLogits, full.routerLogits.index_select(1, part.kept)), 1e-5);
        for (std::int64_t t = 0; t < part.selected.size(0); ++t) {
            const Routing expected =
                route(model->shape().layers[0].router,
                      {full.routerLogits[t].const_data_ptr<float>(), static_cast<std::size_t>(full.routerLogits.size(1))}, kept);
            for (std::int64_t slot = 0; slot < part.selected.size(1); ++slot) {
                EXPECT_EQ(part.selected[t][slot].item<std::int64_t>(), expected.experts[static_cast<std::size_t>(slot)]);
                EXPECT_NEAR(part.weights[t][slot].item<double>(), expected.weights[static_cast<std::size_t>(slot)], 2e-5);
            }
        }
        for (const auto& [key, unused] : pruned.experts)
            EXPECT_TRUE(std::binary_search(kept.begin(), kept.end(), key.second));
    }
}

TEST(Model, ObserversSeeWhatTheModuleDid)
{
    const c10::InferenceMode guard;
    const at::Tensor ids = inputIds("mixtral-tiny");  // no shared expert: the output is the weighted sum
    const auto model = openModel(tiny("mixtral-tiny"), Residency::Stream);
    Capture capture;
    int compared = 0;
    capture.inside = [&](const MoeBatch& batch) {
        at::Tensor sum = at::zeros_like(batch.output);
        for (int e = 0; e < 8; ++e) {
            const auto found = capture.experts.find({batch.layer, e});
            if (found == capture.experts.end()) continue;
            const auto& [tokens, x, y, w] = found->second;
            EXPECT_TRUE(at::equal(x, batch.input.index_select(0, tokens)));
            sum.index_add_(0, tokens, y * w.unsqueeze(1));
            // Any expert can be asked for, and gives the same bits for the same rows.
            const auto again = model->expertOutput(batch.layer, e, x);
            ASSERT_TRUE(again);
            EXPECT_TRUE(at::equal(*again, y));
            EXPECT_EQ(capture.hidden.at({batch.layer, e}).size(1), model->shape().layers[0].expertWidth);
            ++compared;
        }
        EXPECT_LE(test::vectorExcess(sum, batch.output), 1.0);
        const auto all = model->expertOutput(batch.layer, 3, batch.input);
        ASSERT_TRUE(all);
        EXPECT_EQ(all->sizes(), batch.input.sizes());
    };
    const at::Tensor observed = run(*model, ids, CompressionPlan::identity(model->shape()), &capture);
    EXPECT_GT(compared, 20);
    EXPECT_TRUE(at::equal(observed, run(*model, ids, CompressionPlan::identity(model->shape()))));
}

TEST(Model, RanksApproachTheDenseModel)
{
    const c10::InferenceMode guard;
    const at::Tensor ids = inputIds("qwen2moe-tiny");
    const auto model = openModel(tiny("qwen2moe-tiny"));
    const ModelShape& shape = model->shape();
    const at::Tensor dense = run(*model, ids, CompressionPlan::identity(shape));
    const int limit = breakEvenRank(shape.layers[1].expertWidth, shape.hiddenSize);
    double last = std::numeric_limits<double>::infinity();
    for (const int rank : {2, 8, limit - 1}) {
        const auto plan = CompressionPlan::identity(shape).withRanks(shape, 1, std::vector<RankTriple>(12, RankTriple{rank, rank, rank}));
        ASSERT_TRUE(plan) << plan.error().describe();
        const at::Tensor value = run(*model, ids, plan->withFactors({"svd", {}}));
        const double distance = (value - dense).square().sum().sqrt().item<double>();
        EXPECT_LT(distance, last) << rank;
        EXPECT_GT(distance, 0.0);
        last = distance;
        EXPECT_TRUE(at::equal(value, run(*model, ids, plan->withFactors({"svd", {}}))));
    }
    // One factored matrix of one expert leaves the tokens of the others alone.
    std::vector<RankTriple> ranks(12, RankTriple{0, 0, 0});
    ranks[5] = {0, 7, 0};
    const auto plan = CompressionPlan::identity(shape).withRanks(shape, 0, ranks);
    ASSERT_TRUE(plan);
    Capture capture;
    const at::Tensor start = *model->embed(ids);
    const at::Tensor before = *model->layer(0, start, model->identity(), &capture);
    const at::Tensor after = *model->layer(0, start, *model->prepare(plan->withFactors({"svd", {}})));
    const at::Tensor changed = (before != after).any(2).view({-1}).nonzero().view({-1});
    EXPECT_GT(changed.numel(), 0);
    for (std::int64_t i = 0; i < changed.numel(); ++i)
        EXPECT_TRUE((capture.batches.at(0).selected[changed[i].item<std::int64_t>()] == 5).any().item<bool>());
}

TEST(Model, RefusesWhatItCannotRun)
{
    const auto model = openModel(tiny("qwen2moe-tiny"));
    const ModelShape& shape = model->shape();
    const auto ranked = CompressionPlan::identity(shape).withRanks(shape, 0, std::vector<RankTriple>(12, RankTriple{4, 4, 4}));
    ASSERT_TRUE(ranked);
    const auto whitened = model->prepare(ranked->withFactors({"whitened-svd", "00"}));
    ASSERT_FALSE(whitened);
    EXPECT_EQ(whitened.error().code, "plan.profile_needed");
    EXPECT_EQ(whitened.error().exitCode(), 3);
    const auto other = openModel(tiny("mixtral-tiny"));
    EXPECT_FALSE(model->prepare(CompressionPlan()));
    const auto foreign = other->prepare(CompressionPlan::identity(shape));  // keeps experts 8 .. 11 of 8
    ASSERT_FALSE(foreign);
    EXPECT_EQ(foreign.error().code, "plan.unknown_expert");
    const auto embedded = model->embed(at::full({1, 4}, shape.vocabularySize, at::kLong));
    ASSERT_FALSE(embedded);
    EXPECT_EQ(embedded.error().code, "model.token_out_of_range");
}

// A copy of a fixture in which one value of a tensor is overwritten.
class BrokenCopy
{
public:
    BrokenCopy(const std::string& name, const std::string& tensor, float value)
        : m_folder(fs::temp_directory_path() / ("espalier-model-" + std::to_string(getpid()) + "-" + tensor))
    {
        fs::remove_all(m_folder);
        fs::copy(tiny(name), m_folder);
        fs::permissions(m_folder / "model.safetensors", fs::perms::owner_write, fs::perm_options::add);
        const auto file = SafetensorsFile::open(m_folder / "model.safetensors");
        const TensorInfo* info = file ? file->find(tensor) : nullptr;
        if (!info) throw std::runtime_error("no tensor " + tensor);
        std::fstream stream(m_folder / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
        stream.seekp(static_cast<std::streamoff>(file->dataOffset() + info->begin + info->byteCount() / 2 / 4 * 4));
        stream.write(reinterpret_cast<const char*>(&value), sizeof value);
    }
    ~BrokenCopy() { fs::remove_all(m_folder); }
    const fs::path& folder() const { return m_folder; }

private:
    fs::path m_folder;
};

TEST(Model, NamesTheTensorThatIsNotFinite)
{
    const c10::InferenceMode guard;
    const at::Tensor ids = inputIds("qwen2moe-tiny");
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const float infinity = std::numeric_limits<float>::infinity();
    for (const auto& [tensor, value] : std::map<std::string, float>{{"model.layers.2.mlp.experts.7.up_proj.weight", nan},
                                                                    {"model.layers.1.self_attn.k_proj.bias", infinity},
                                                                    {"model.layers.3.mlp.gate.weight", nan},
                                                                    {"model.embed_tokens.weight", infinity},
                                                                    {"lm_head.weight", nan},
                                                                    {"model.norm.weight", nan}}) {
        const BrokenCopy copy("qwen2moe-tiny", tensor, value);
        const auto model = openModel(copy.folder());
        const auto hidden = model->hiddenStates(ids, model->identity());
        const Error error = hidden ? model->tokenNll(*hidden, ids).error() : hidden.error();
        EXPECT_EQ(error.code, "model.not_finite");
        EXPECT_EQ(error.subject, tensor);
        EXPECT_NE(error.message.find(tensor), std::string::npos);
        EXPECT_EQ(error.exitCode(), 3);
        if (tensor.find("experts.7") == std::string::npos) continue;
        // A plan that prunes the expert is not concerned.
        EXPECT_TRUE(model->hiddenStates(ids, *model->prepare(keep(*model, 2, {0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11}))));
    }
}

TEST(Model, BadFoldersOfTheFixtures)
{
    const fs::path bad = fs::path(ESPALIER_TEST_FIXTURES) / "bad";
    const c10::InferenceMode guard;
    for (const auto& [folder, tensor] : std::map<std::string, std::string>{
             {"nan-weights", "model.layers.0.block_sparse_moe.experts.2.w2.weight"}, {"inf-weights", "model.embed_tokens.weight"}}) {
        const auto model = openModel(bad / folder);
        const auto hidden = model->hiddenStates(at::arange(32, at::kLong).view({1, 32}), model->identity());
        ASSERT_FALSE(hidden) << folder;
        EXPECT_EQ(hidden.error().code, "model.not_finite");
        EXPECT_EQ(hidden.error().subject, tensor);
    }
}

TEST(Model, RunsInBf16)
{
    const c10::InferenceMode guard;
    ModelOptions options;
    options.compute = ComputeType::Bf16;
    options.threads = 2;
    const auto model = MoeModel::create(openCheckpoint(tiny("qwen2moe-tiny")), options);
    ASSERT_TRUE(model);
    EXPECT_EQ((*model)->numericMode(), "bf16");
    const at::Tensor ids = inputIds("qwen2moe-tiny");
    const auto hidden = (*model)->hiddenStates(ids, (*model)->identity());
    ASSERT_TRUE(hidden) << hidden.error().describe();
    EXPECT_EQ(hidden->scalar_type(), at::kBFloat16);
    const auto nll = (*model)->tokenNll(*hidden, ids);
    ASSERT_TRUE(nll);
    const at::Tensor reference = test::Golden::read(kFixtures / "goldens/qwen2moe-tiny").tensor("nll");
    EXPECT_LE((*nll - reference).abs().mean().item<double>(), 0.1);
}

}  // namespace

}  // namespace espalier
