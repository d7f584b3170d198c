// Statistics of a pass against their definitions, on what an observer of the same model sees.
#include "checkpoint/checkpoint.h"
#include "model/moe_model_torch.h"
#include "profile/profile_pass.h"
#include "score/scorer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <vector>

namespace espalier
{

namespace
{

const std::filesystem::path kFixtures = ESPALIER_TEST_FIXTURES;

std::unique_ptr<MoeModel> openModel(const std::string& name, ComputeType compute, int threads)
{
    auto checkpoint = Checkpoint::open(kFixtures / "model" / "checkpoints" / name);
    if (!checkpoint.ok()) throw std::runtime_error(checkpoint.error().describe());
    ModelOptions options;
    options.compute = compute;
    options.residency = Residency::Resident;
    options.threads = threads;
    auto model = MoeModel::create(*checkpoint, options);
    if (!model.ok()) throw std::runtime_error(model.error().describe());
    return std::move(model).value();
}

TokenWindows calibration(const std::string& name)
{
    auto windows = windowsFromIds((kFixtures / "profile" / (name + ".json")).string(), {.windowLength = 64}, 100000);
    if (!windows.ok()) throw std::runtime_error(windows.error().describe());
    return std::move(windows).value();
}

ProfileData take(MoeModel& model, const TokenWindows& windows, const ProfileOptions& options)
{
    SilentJob job;
    auto data = runProfile(model, windows, options, job);
    if (!data.ok()) throw std::runtime_error(data.error().describe());
    return std::move(data).value();
}

// Every routed output with its weight, by layer and expert.
struct Answers final : LayerObserver {
    struct One {
        at::Tensor outputs;  // [M,H] fp64
        at::Tensor weights;  // [M] fp64
        at::Tensor hidden;   // [M,I] fp64
    };
    std::map<std::pair<int, int>, std::vector<One>> all;

    void expert(int layer, int expert, const at::Tensor&, const at::Tensor&, const at::Tensor& h, const at::Tensor& y,
                const at::Tensor& w) override
    {
        all[{layer, expert}].push_back({y.to(at::kDouble).clone(), w.to(at::kDouble).clone(), h.to(at::kDouble).clone()});
    }
};

class ProfileStatistics : public testing::TestWithParam<std::tuple<const char*, ComputeType>>
{
};

TEST_P(ProfileStatistics, AreThoseOfTheirDefinitions)
{
    const c10::InferenceMode guard;
    const auto& [name, compute] = GetParam();
    const auto model = openModel(name, compute, 1);
    const TokenWindows windows = calibration(name);
    const ProfileData data = take(*model, windows, {.collect = {"outputs", "similarity", "channels"}});
    EXPECT_EQ(data.collected, (std::vector<std::string>{"counts", "outputs", "similarity", "channels"}));

    // The pass puts several windows into a batch; a product of other rows rounds otherwise.
    const double rounding = compute == ComputeType::Bf16 ? 2e-2 : 1e-5;
    Answers answers;
    std::vector<double> cosine(data.layers.size(), 0.0);
    std::int64_t tokens = 0;
    for (const std::vector<int>& row : windows.rows) {
        at::Tensor ids = at::empty({1, static_cast<std::int64_t>(row.size())}, at::kLong);
        std::copy(row.begin(), row.end(), ids.mutable_data_ptr<std::int64_t>());
        at::Tensor hidden = *model->embed(ids);
        for (int l = 0; l < model->layerCount(); ++l) {
            const at::Tensor next = *model->layer(l, hidden, model->identity(), &answers);
            const at::Tensor x = hidden.to(at::kDouble).squeeze(0);
            const at::Tensor z = next.to(at::kDouble).squeeze(0);
            cosine[static_cast<std::size_t>(l)] += ((x * z).sum(1) / (x.norm(2, 1) * z.norm(2, 1))).sum().item<double>();
            hidden = next;
        }
        tokens += static_cast<std::int64_t>(row.size());
    }
    int routed = 0;
    for (const LayerProfile& layer : data.layers) {
        SCOPED_TRACE("layer " + std::to_string(layer.layer));
        EXPECT_EQ(layer.similarity.tokens, tokens);
        const double mean = cosine[static_cast<std::size_t>(layer.layer)] / static_cast<double>(tokens);
        EXPECT_NEAR(layer.similarity.mean(), mean, compute == ComputeType::Bf16 ? 1e-3 : 1e-6);
        EXPECT_LT(std::abs(layer.similarity.mean()), 1);
        EXPECT_EQ(layer.outputs.width, layer.experts > 0 ? model->shape().hiddenSize : 0);
        for (int expert = 0; expert < layer.experts; ++expert) {
            SCOPED_TRACE("expert " + std::to_string(expert));
            const auto e = static_cast<std::size_t>(expert);
            const auto found = answers.all.find({layer.layer, expert});
            const auto channelsOf = [&](const std::vector<double>& values) {
                const std::int64_t width = layer.channels.width;
                return at::from_blob(const_cast<double*>(values.data()) + expert * width, {width}, at::kDouble);
            };
            if (found == answers.all.end()) {
                EXPECT_EQ(channelsOf(layer.channels.energy).sum().item<double>(), 0);
                EXPECT_EQ(layer.outputs.variance(expert, OutputWeight::Plain), 0);
                continue;
            }
            ++routed;
            std::vector<at::Tensor> outputs;
            std::vector<at::Tensor> weights;
            std::vector<at::Tensor> hidden;
            for (const Answers::One& one : found->second) {
                outputs.push_back(one.outputs);
                weights.push_back(one.weights);
                hidden.push_back(one.hidden);
            }
            const at::Tensor y = at::cat(outputs);
            const at::Tensor w = at::cat(weights);
            const at::Tensor squares = (at::cat(hidden) * w.unsqueeze(1)).pow(2);
            const double most = squares.sum().item<double>();
            EXPECT_LE((channelsOf(layer.channels.energy) - squares.sum(0)).abs().max().item<double>(), rounding * most);
            EXPECT_LE((channelsOf(layer.channels.peak) - squares.amax(0)).abs().max().item<double>(), rounding * most);
            EXPECT_EQ(layer.outputs.of(OutputWeight::Plain).mass[e], static_cast<double>(layer.count[e]));
            EXPECT_NEAR(layer.outputs.of(OutputWeight::Routing).mass[e], layer.routedMassApplied[e], 1e-9 * layer.routedMassApplied[e]);
            for (const OutputWeight p : kOutputWeights) {
                const at::Tensor share = p == OutputWeight::Plain ? at::ones_like(w) : p == OutputWeight::Routing ? w : w * w;
                const double mass = share.sum().item<double>();
                const at::Tensor centre = (share.unsqueeze(1) * y).sum(0) / mass;
                const double variance = (share * (y - centre).pow(2).sum(1)).sum().item<double>() / mass;
                const double size = y.norm(2, 1).max().item<double>();
                const std::vector<double> measured = layer.outputs.mean(expert, p);
                const at::Tensor apart = at::from_blob(const_cast<double*>(measured.data()), {std::ssize(measured)}, at::kDouble) - centre;
                EXPECT_LE(apart.norm().item<double>(), rounding * size) << outputWeightName(p);
                EXPECT_NEAR(layer.outputs.variance(expert, p), variance, rounding * size * size) << outputWeightName(p);
            }
        }
    }
    EXPECT_GT(routed, static_cast<int>(data.layers.size()));
}

INSTANTIATE_TEST_SUITE_P(Tiny, ProfileStatistics,
                         testing::Combine(testing::Values("mixtral-tiny", "qwen2moe-tiny", "deepseekv2-lite-tiny"),
                                          testing::Values(ComputeType::Fp32, ComputeType::Bf16)),
                         [](const auto& info) {
                             std::string name = std::get<0>(info.param);
                             std::replace(name.begin(), name.end(), '-', '_');
                             return name + (std::get<1>(info.param) == ComputeType::Bf16 ? "_bf16" : "_fp32");
                         });

TEST(ProfilePassStatistics, ThreadsChangeNoBit)
{
    const TokenWindows windows = calibration("mixtral-tiny");
    const ProfileOptions options{.collect = {"outputs", "similarity", "channels"}};
    const ProfileData one = take(*openModel("mixtral-tiny", ComputeType::Fp32, 1), windows, options);
    const ProfileData two = take(*openModel("mixtral-tiny", ComputeType::Fp32, 2), windows, options);
    EXPECT_EQ(one.layers, two.layers);
}

// Written by tests/fixtures/profile/make_mone.py with transformers and numpy.
TEST(ProfilePassStatistics, MoneIsThatOfTheReference)
{
    const auto golden = readJsonFile(kFixtures / "profile" / "mone.json", "golden");
    ASSERT_TRUE(golden.ok()) << golden.error().describe();
    for (const auto& [name, layers] : golden->at("models").items()) {
        const auto model = openModel(name, ComputeType::Fp32, 1);
        const ProfileData data = take(*model, calibration(name), {.collect = {"outputs", "similarity"}});
        const auto scores = score(data, "mone");
        ASSERT_TRUE(scores.ok()) << scores.error().describe();
        for (const auto& [layer, expected] : layers.items()) {
            const auto l = static_cast<std::size_t>(std::stoi(layer));
            SCOPED_TRACE(std::string(name).append(", layer ").append(layer));
            for (std::size_t e = 0; e < expected.at("score").size(); ++e) {
                const double value = expected.at("score")[e];
                EXPECT_NEAR(scores->values.rows[l][e], value, 1e-5 * value) << e;
                for (const OutputWeight p : kOutputWeights) {
                    const Json& moments = expected.at(std::string(outputWeightName(p)));
                    const double variance = moments.at("variance")[e];
                    EXPECT_NEAR(data.layers[l].outputs.variance(static_cast<int>(e), p), variance, 1e-5 * variance) << e;
                    const double norm = moments.at("mean_norm")[e];
                    const std::vector<double> mean = data.layers[l].outputs.mean(static_cast<int>(e), p);
                    EXPECT_NEAR(std::sqrt(std::inner_product(mean.begin(), mean.end(), mean.begin(), 0.0)), norm, 1e-5 * norm) << e;
                    EXPECT_NEAR(mean[3], moments.at("mean_3")[e].get<double>(), 1e-5 * norm) << e;
                }
            }
            EXPECT_NEAR(data.layers[l].similarity.mean(), expected.at("similarity").get<double>(), 1e-6);
        }
    }
}

// An already pruned model: experts that are gone have answered nothing.
TEST(ProfilePassStatistics, OfAPrunedModel)
{
    const auto model = openModel("mixtral-tiny", ComputeType::Fp32, 1);
    ProfileOptions options{.collect = {"outputs", "similarity"}};
    options.plan = *CompressionPlan::identity(model->shape()).withKept(model->shape(), 1, {0, 2, 3, 6});
    const ProfileData data = take(*model, calibration("mixtral-tiny"), options);
    const OutputMoments& outputs = data.layers[1].outputs;
    EXPECT_EQ(outputs.of(OutputWeight::Plain).mass[1], 0);
    EXPECT_EQ(outputs.mean(1, OutputWeight::Plain), std::vector<double>(static_cast<std::size_t>(outputs.width), 0.0));
    EXPECT_GT(outputs.of(OutputWeight::Plain).mass[0], 0);
}

}  // namespace

}  // namespace espalier
