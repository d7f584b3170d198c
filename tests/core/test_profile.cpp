#include "profile/profile_pass.h"

#include "checkpoint/checkpoint.h"
#include "core/profile_pass_fixture.h"
#include "core/shared_work.h"
#include "lowrank/whitened_svd.h"
#include "model/layer_weights.h"
#include "model/moe_model_torch.h"
#include "parity/golden.h"
#include "profile/factor_builder.h"
#include "profile/profile_windows.h"
#include "score/gram_loss.h"
#include "score/scorer.h"
#include "session/profile_file.h"
#include "session/profile_parts.h"
#include "tokenizer/windows.h"

#include <gmock/gmock.h>

#include <unistd.h>
#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <map>
#include <numeric>

namespace espalier
{

namespace
{

// Tolerances of tests/fixtures/model/README.md: 1e-5 relative + 1e-6 of the layer's output norm.
void expectNear(const std::vector<double>& actual, const Json& expected, double norm, const std::string& what)
{
    ASSERT_EQ(actual.size(), expected.size()) << what;
    for (std::size_t e = 0; e < actual.size(); ++e) {
        const double value = expected[e].get<double>();
        EXPECT_NEAR(actual[e], value, 1e-5 * std::abs(value) + 1e-6 * norm) << what << " of expert " << e;
    }
}

void compareWithGolden(const ProfileData& data, const Json& golden)
{
    const auto values = [&](const char* method, int layer, const Params& params = {}) {
        return score(data, method, params)->values.rows[static_cast<std::size_t>(layer)];
    };
    for (const Json& item : golden.at("moe_layers")) {
        const int l = item;
        SCOPED_TRACE("layer " + std::to_string(l));
        const Json& expected = golden.at("layers").at(std::to_string(l));
        const LayerProfile& layer = data.layers[static_cast<std::size_t>(l)];
        const RouterShape& router = data.shape.layers[static_cast<std::size_t>(l)].router;
        const double norm = expected.at("norm_moe_output");
        EXPECT_NEAR(std::sqrt(layer.outputEnergy), norm, 1e-5 * norm);
        EXPECT_NEAR(std::sqrt(layer.routedEnergy), expected.at("norm_routed_output").get<double>(), 1e-5 * norm);
        EXPECT_EQ(Json(layer.count), expected.at("count"));
        expectNear(layer.softMass, expected.at("soft_mass"), norm, "soft mass");
        expectNear(layer.routedMassRaw, expected.at("routed_mass_raw"), norm, "raw mass");
        expectNear(layer.routedMassRenormalised, expected.at("routed_mass_renormalised"), norm, "renormalised mass");
        expectNear(layer.routedMassApplied, expected.at("routed_mass_applied"), norm, "applied mass");
        expectNear(values("expert_frequency", l), expected.at("frequency"), 0, "frequency");
        expectNear(values("ean_sum", l), expected.at("ean"), norm, "EAN");
        expectNear(values("ean_mean", l), expected.at("man"), norm, "MAN");
        expectNear(values("msan", l), expected.at("msan"), norm, "MSAN");
        expectNear(values("reap", l, {{"weights", "raw"}}), expected.at("reap_raw"), norm, "REAP raw");
        expectNear(values("reap", l), expected.at("reap_renormalised"), norm, "REAP renormalised");
        expectNear(values("reap", l, {{"weights", "applied"}}), expected.at("reap_applied"), norm, "REAP applied");
        expectNear(values("leave-one-out", l, {{"normalise", "raw"}}), expected.at("importance"), norm, "importance");
        expectNear(values("leave-one-out", l), expected.at("importance_relative"), 1, "relative importance");
        const GramEvaluator evaluator(layer, router);
        for (const Json& set : expected.at("kept_sets")) {
            const GramLoss loss = evaluator.evaluate(set.at("kept").get<std::vector<int>>());
            EXPECT_EQ(loss.uncovered, 0);
            const double value = set.at("loss");
            EXPECT_NEAR(loss.loss(), value, 1e-5 * value + 1e-6 * norm) << set.at("kept").dump();
        }
    }
}

// What a stage that runs the model is given when the text is not at hand.
TEST(ProfileWindows, AreThoseOfTheTextOrSayWhatIsMissing)
{
    const auto model = tinyModel("mixtral-tiny");
    const TokenWindows windows = calibration("mixtral-tiny");
    const auto count = static_cast<int>(windows.rows.size());
    const std::int64_t vocabulary = model->shape().vocabularySize;
    const ProfileOptions bare{.out = {}, .collect = {"counts"}};
    const ProfileData whole = take(*model, windows, bare);
    const auto own = *profileWindows(whole, 0, vocabulary);
    ASSERT_TRUE(own.has_value());
    EXPECT_EQ(own->windows.rows, windows.rows);
    EXPECT_EQ(own->windows.textSha256, windows.textSha256);
    EXPECT_EQ(own->windows.windowLength, windows.windowLength);
    EXPECT_EQ(own->missing, "");
    EXPECT_EQ((*profileWindows(whole, 2, vocabulary))->windows.rows.size(), 2u);
    EXPECT_EQ(profileWindows(whole, 0, 3).error().code, "ids.out_of_range");

    std::vector<ProfileData> shards;
    for (int shard = 0; shard < 3; ++shard)
        shards.push_back(take(*model, windows, {.out = {}, .collect = {"counts"}, .shard = shard, .shards = 3}));
    const auto merged = *profileWindows(*mergeProfiles({shards[2], shards[0], shards[1]}), 0, vocabulary);
    EXPECT_EQ(merged->windows.rows, windows.rows);
    EXPECT_EQ(merged->windows.textSha256, windows.textSha256);
    EXPECT_EQ(merged->missing, "");
    const int first = shards[1].ranges[0].firstWindow;
    const int last = shards[2].ranges[0].firstWindow;
    const auto missing = [&](const ProfileData& profile) { return (*profileWindows(profile, 0, vocabulary))->missing; };
    EXPECT_EQ(missing(*mergeProfiles({shards[0], shards[2]})), std::to_string(first) + " to " + std::to_string(last - 1));
    EXPECT_EQ(missing(*mergeProfiles({shards[0], shards[1]})), std::to_string(last) + " and later");
    EXPECT_EQ(missing(shards[2]), "0 to " + std::to_string(last - 1));
    EXPECT_EQ((*profileWindows(shards[2], 0, vocabulary))->windows.rows.size(), static_cast<std::size_t>(count - last));

    // The middle comes to what was merged before it.
    const ProfileData ends = *mergeProfiles({shards[0], shards[2]});
    EXPECT_EQ((*profileWindows(*mergeProfiles({ends, shards[1]}), 0, vocabulary))->windows.rows, windows.rows);
    EXPECT_EQ(missing(*mergeProfiles({ends, shards[1]})), "");

    ProfileData other = whole;
    other.windowIds.ids[5] ^= 1;
    EXPECT_EQ(profileWindows(other, 0, vocabulary).error().code, "profile.invalid");
    other.windowIds = {};
    EXPECT_FALSE(profileWindows(other, 0, vocabulary)->has_value());
}

class ProfileParity : public testing::TestWithParam<const char*>
{
};

TEST_P(ProfileParity, EqualsBruteForce)
{
    const std::string name = GetParam();
    const auto model = tinyModel(name);
    const auto golden = readJsonFile(kFixtures / "model" / "method" / (name + ".json"), "golden");
    ASSERT_TRUE(golden.ok());
    // The dense store: every kept set is exact.
    const ProfileData data = take(*model, calibration(name), {.out = {}, .collect = {}, .gramExtra = 100});
    EXPECT_EQ(data.tokens, 1024);
    compareWithGolden(data, *golden);
}

TEST_P(ProfileParity, ShortListsGiveTheSameImportance)
{
    const std::string name = GetParam();
    const auto model = tinyModel(name);
    const TokenWindows windows = calibration(name);
    const ProfileData dense = take(*model, windows, {.out = {}, .collect = {}, .gramExtra = 100});
    const ProfileData lists = take(*model, windows, {.out = {}, .collect = {}, .gramExtra = 1});
    const auto a = score(dense, "leave-one-out");
    const auto b = score(lists, "leave-one-out");
    for (std::size_t l = 0; l < a->values.rows.size(); ++l)
        for (std::size_t e = 0; e < a->values.rows[l].size(); ++e)
            EXPECT_NEAR(a->values.rows[l][e], b->values.rows[l][e], 1e-9);
    EXPECT_GT(uncoveredFraction(lists), 0);
    EXPECT_EQ(uncoveredFraction(dense), 0);
    // A prefix of the dense triangle (router order), up to the rounding of another batch of the same expert.
    const GramStore& full = dense.layers.back().gram;
    const GramStore& part = lists.layers.back().gram;
    for (std::size_t t = 0; t < part.tokenCount(); ++t)
        for (std::size_t i = 0; i < part.triangle(); ++i)
            EXPECT_NEAR(part.products[t * part.triangle() + i], full.products[t * full.triangle() + i],
                        1e-5 * (1 + std::abs(full.products[t * full.triangle() + i])));
}

TEST_P(ProfileParity, BestSetsOfAnExhaustiveSearch)
{
    const std::string name = GetParam();
    const auto golden = readJsonFile(kFixtures / "model" / "method" / (name + ".json"), "golden");
    const auto model = tinyModel(name);
    const ProfileData data = take(*model, calibration(name), {.out = {}, .collect = {}, .gramExtra = 100});
    const Json& chain = golden->at("chain");
    for (const auto& [key, sets] : chain.at("best_sets").items()) {
        const int l = std::stoi(key);
        const GramEvaluator evaluator(data.layers[static_cast<std::size_t>(l)], data.shape.layers[static_cast<std::size_t>(l)].router);
        const std::vector<int> expected = sets[0].at("kept");
        const int n = evaluator.experts();
        const int keep = static_cast<int>(expected.size());
        std::vector<bool> mask(static_cast<std::size_t>(n), false);
        std::fill(mask.begin(), mask.begin() + keep, true);
        std::vector<int> best;
        double bestLoss = std::numeric_limits<double>::infinity();
        do {
            std::vector<int> kept;
            for (int e = 0; e < n; ++e)
                if (mask[static_cast<std::size_t>(e)]) kept.push_back(e);
            const double loss = evaluator.evaluate(kept).squared;
            if (loss < bestLoss) {
                bestLoss = loss;
                best = kept;
            }
        } while (std::prev_permutation(mask.begin(), mask.end()));
        EXPECT_EQ(best, expected) << "layer " << l;
    }
}

INSTANTIATE_TEST_SUITE_P(Tiny, ProfileParity, testing::Values("mixtral-tiny", "qwen2moe-tiny"),
                         [](const auto& info) { return std::string(info.param, std::string(info.param).find('-')); });

TEST(ProfileGolden, DeepSeek)
{
    const std::string name = "deepseekv2-lite-tiny";
    const fs::path method = kFixtures / "model" / "method";
    const auto model = tinyModel(name);
    const auto windows = windowsFromIds((method / (name + ".safetensors:calibration_ids")).string(), {.windowLength = 64}, 100000);
    ASSERT_TRUE(windows.ok()) << windows.error().describe();
    const auto golden = readJsonFile(method / (name + ".json"), "golden");
    compareWithGolden(take(*model, *windows, {.out = {}, .collect = {}, .gramExtra = 100}), *golden);
}

TEST(ProfileGram, EqualsTheReference)
{
    for (const std::string name : {"mixtral-tiny", "qwen2moe-tiny"}) {
        const test::Golden golden = test::Golden::read(kFixtures / "model" / "method" / name);
        const auto model = tinyModel(name);
        const ProfileData data = take(*model, calibration(name), {.out = {}, .collect = {}, .gramExtra = 100});
        for (const LayerProfile& layer : data.layers) {
            const at::Tensor gram = golden.tensor("layer" + std::to_string(layer.layer) + ".gram").to(at::kDouble).contiguous();
            const at::Tensor tokens = golden.tensor("layer" + std::to_string(layer.layer) + ".gram_tokens").to(at::kLong).contiguous();
            const auto n = static_cast<std::size_t>(layer.experts);
            for (std::int64_t i = 0; i < tokens.numel(); ++i) {
                const auto t = static_cast<std::size_t>(tokens.const_data_ptr<std::int64_t>()[i]);
                ASSERT_EQ(layer.gram.tokens[t], static_cast<std::int64_t>(t));
                const std::uint16_t* list = layer.gram.list.data() + t * n;
                const double* triangle = layer.gram.products.data() + t * layer.gram.triangle();
                const double* expected = gram.const_data_ptr<double>() + static_cast<std::size_t>(i) * n * n;
                double scale = 0;
                for (std::size_t e = 0; e < n; ++e)
                    scale = std::max(scale, expected[e * n + e]);
                for (std::size_t a = 0; a < n; ++a)
                    for (std::size_t b = 0; b <= a; ++b)
                        EXPECT_NEAR(triangle[a * (a + 1) / 2 + b], expected[list[a] * n + list[b]], 1e-5 * scale);
            }
        }
    }
}

TEST(ProfilePass, ShardsMergeToTheSinglePass)
{
    const Folder folder;
    const std::string name = "qwen2moe-tiny";
    const auto model = tinyModel(name);
    const TokenWindows windows = calibration(name);
    for (const int gramTokens : {-1, 100}) {
        const ProfileData single = take(*model, windows, {.out = {}, .collect = {}, .gramTokens = gramTokens});
        std::vector<fs::path> parts;
        for (int shard = 0; shard < 3; ++shard) {
            parts.push_back(folder / ("part" + std::to_string(gramTokens) + std::to_string(shard) + ".h5"));
            (void)take(*model, windows, {.out = parts.back(), .collect = {}, .gramTokens = gramTokens, .shard = shard, .shards = 3});
        }
        const fs::path out = folder / ("sum" + std::to_string(gramTokens) + ".h5");
        const auto sum = mergeProfiles({parts[2], parts[0], parts[1]}, out);
        ASSERT_TRUE(sum.ok()) << sum.error().describe();
        EXPECT_EQ(sum->tokens, single.tokens);
        EXPECT_EQ(sum->textSha256, single.textSha256);
        for (std::size_t l = 0; l < single.layers.size(); ++l) {
            const LayerProfile& a = single.layers[l];
            const LayerProfile& b = sum->layers[l];
            EXPECT_EQ(a.count, b.count);
            const auto near = [&](const std::vector<double>& x, const std::vector<double>& y) {
                for (std::size_t e = 0; e < x.size(); ++e)
                    EXPECT_NEAR(x[e], y[e], 1e-12 * std::abs(x[e])) << l << " " << e;
            };
            near(a.softMass, b.softMass);
            near(a.norm, b.norm);
            near(a.weightedNormApplied, b.weightedNormApplied);
            EXPECT_EQ(a.gram.tokens, b.gram.tokens);
            EXPECT_EQ(a.gram.list, b.gram.list);
            EXPECT_EQ(a.gram.products, b.gram.products);
            EXPECT_EQ(a.maxActivation, b.maxActivation);
            for (const OutputWeight weight : kOutputWeights) {
                near(a.outputs.of(weight).mass, b.outputs.of(weight).mass);
                near(a.outputs.of(weight).scatter, b.outputs.of(weight).scatter);
                for (int e = 0; e < a.experts; ++e) {
                    const std::vector<double> one = a.outputs.mean(e, weight);
                    const std::vector<double> other = b.outputs.mean(e, weight);
                    const double size = std::sqrt(std::inner_product(one.begin(), one.end(), one.begin(), 0.0));
                    for (std::size_t c = 0; c < one.size(); ++c)
                        EXPECT_NEAR(one[c], other[c], 1e-12 * size);
                }
            }
            EXPECT_EQ(a.similarity.tokens, b.similarity.tokens);
            near({a.similarity.cosine}, {b.similarity.cosine});
            near({a.outputEnergy, a.routedEnergy, a.gram.outputEnergy}, {b.outputEnergy, b.routedEnergy, b.gram.outputEnergy});
        }
        EXPECT_EQ(mergeProfiles({parts[0], parts[0]}, folder / "twice.h5").error().code, "profile.overlap");
        EXPECT_EQ(mergeProfiles({parts[0], parts[1]}, out).error().code, "output.exists");
    }
}

TEST(ProfilePass, StoppedAndResumedIsTheSameFile)
{
    const Folder folder;
    const std::string name = "qwen2moe-tiny";
    const auto model = tinyModel(name);
    const TokenWindows windows = calibration(name);
    (void)take(*model, windows, {.out = folder / "whole.h5", .collect = {}});
    EXPECT_FALSE(fs::exists(folder / "whole.h5.state"));

    for (const int stopAfter : {1, 3}) {
        const fs::path out = folder / ("stopped" + std::to_string(stopAfter) + ".h5");
        RecordingJob job;
        job.stopAfter = stopAfter;
        const auto stopped = runProfile(*model, windows, {.out = out, .collect = {}}, job);
        ASSERT_FALSE(stopped.ok());
        EXPECT_EQ(stopped.error().kind, ErrorKind::Cancelled);
        EXPECT_FALSE(fs::exists(out));
        EXPECT_EQ(static_cast<int>(job.partials.size()), stopAfter);

        // Another run may not take this state over.
        SilentJob silent;
        EXPECT_EQ(runProfile(*model, windows, {.out = out, .collect = {}, .gramTokens = 10, .resume = true}, silent).error().code,
                  "profile.other_run");

        const auto other = tinyModel(name);
        RecordingJob rest;
        const auto resumed = runProfile(*other, windows, {.out = out, .collect = {}, .resume = true}, rest);
        ASSERT_TRUE(resumed.ok()) << resumed.error().describe();
        EXPECT_EQ(rest.partials.size(), 4u);
        EXPECT_EQ(rest.done, rest.total);
        EXPECT_EQ(readBytes(out), readBytes(folder / "whole.h5"));
        EXPECT_FALSE(fs::exists(out.string() + ".state"));
    }
}

TEST(ProfilePass, PartialsAreTheFinalRows)
{
    const std::string name = "mixtral-tiny";
    const auto model = tinyModel(name);
    RecordingJob job;
    const auto data = runProfile(*model, calibration(name), {}, job);
    ASSERT_TRUE(data.ok());
    ASSERT_EQ(job.partials.size(), 4u);
    for (const char* method : {"expert_frequency", "ean_mean", "reap", "leave-one-out"}) {
        const auto scores = score(*data, method);
        for (const Json& partial : job.partials)
            EXPECT_EQ(partial.at("scores").at(method).get<std::vector<double>>(),
                      scores->values.rows[partial.at("layer").get<std::size_t>()]);
    }
}

TEST(ProfilePass, SomeLayersAlone)
{
    const Folder folder;
    const std::string name = "mixtral-tiny";
    const auto model = tinyModel(name);
    const TokenWindows windows = calibration(name);
    const ProfileData whole = take(*model, windows);
    ProfileOptions options;
    options.layers = {0, 2};
    std::vector<LayerProfile> handed;
    options.onLayer = [&](LayerProfile& layer) -> Status {
        handed.push_back(std::move(layer));
        return {};
    };
    const ProfileData ran = take(*model, windows, options);
    ASSERT_EQ(handed.size(), 3u) << "the pass ends behind the last layer asked for";
    EXPECT_EQ(handed[0], whole.layers[0]);
    LayerProfile nothing;
    nothing.layer = 1;
    EXPECT_EQ(handed[1], nothing) << "nothing is measured in between";
    EXPECT_EQ(handed[2], whole.layers[2]);
    EXPECT_TRUE(ran.layers[2].gram.tokens.empty()) << "what was taken out is held twice";

    SilentJob job;
    options.out = folder / "a.h5";
    EXPECT_EQ(runProfile(*model, windows, options, job).error().code, "profile.bad_option");
    EXPECT_FALSE(fs::exists(folder / "a.h5"));
    options.out.clear();
    options.layers = {4};
    EXPECT_EQ(runProfile(*model, windows, options, job).error().code, "profile.bad_option");
    options.layers = {0};
    options.onLayer = [](LayerProfile&) -> Status { return cancelledError(); };
    EXPECT_EQ(runProfile(*model, windows, options, job).error().code, cancelledError().code);
}

TEST(ProfilePass, Options)
{
    const Folder folder;
    const std::string name = "mixtral-tiny";
    const auto model = tinyModel(name);
    const TokenWindows windows = calibration(name);
    const ProfileData counts = take(*model, windows, {.out = folder / "a.h5", .collect = {"counts"}});
    EXPECT_EQ(counts.collected, std::vector<std::string>{"counts"});
    EXPECT_TRUE(score(counts, "expert_frequency").ok());
    EXPECT_EQ(score(counts, "reap").error().code, "profile.missing_statistics");
    const auto back = readProfile(folder / "a.h5");
    ASSERT_TRUE(back.ok()) << back.error().describe();
    EXPECT_EQ(back->layers, counts.layers);

    SilentJob job;
    const auto code = [&](const ProfileOptions& options) { return runProfile(*model, windows, options, job).error().code; };
    EXPECT_EQ(code({.out = folder / "a.h5", .collect = {}}), "output.exists");
    EXPECT_EQ(code({.out = {}, .collect = {"everything"}}), "profile.bad_option");
    EXPECT_EQ(code({.out = {}, .collect = {}, .shard = 3, .shards = 3}), "profile.bad_option");
    EXPECT_EQ(code({.out = {}, .collect = {}, .shard = 0, .shards = 1000}), "text.too_short");
    EXPECT_TRUE(runProfile(*model, windows, {.out = folder / "a.h5", .collect = {}, .force = true}, job).ok());

    const ProfileData sampled = take(*model, windows, {.out = {}, .collect = {}, .gramTokens = 50});
    EXPECT_EQ(sampled.layers[0].gram.tokenCount(), 50u);
    EXPECT_EQ(sampled.layers[0].tokens, 1024);
}

}  // namespace

}  // namespace espalier
