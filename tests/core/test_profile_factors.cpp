// What a profile holds for factors: second moments, curves, mean gains, and the files they lie in.
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

std::shared_ptr<const ProfileParts> partsOf(const fs::path& path)
{
    auto parts = ProfileParts::open(path);
    if (!parts.ok()) throw std::runtime_error(parts.error().describe());
    return *parts;
}

at::Tensor unpackedMoment(const ProfileParts& parts, int layer, int expert, bool hidden)
{
    const auto packed = parts.moment(layer, expert, hidden);
    if (!packed.ok()) throw std::runtime_error(packed.error().describe());
    const auto side = std::llround((std::sqrt(8.0 * static_cast<double>(packed->size()) + 1) - 1) / 2);
    at::Tensor full = at::zeros({side, side}, at::kDouble);
    for (std::int64_t a = 0; a < side; ++a)
        for (std::int64_t b = 0; b <= a; ++b)
            full.mutable_data_ptr<double>()[a * side + b] = full.mutable_data_ptr<double>()[b * side + a] =
                (*packed)[static_cast<std::size_t>(a * (a + 1) / 2 + b)];
    return full;
}

at::Tensor tensorOf(const FactorBasis& basis)
{
    return at::from_blob(const_cast<float*>(basis.values.data()), {basis.rows, basis.columns}, at::kFloat).to(at::kDouble);
}

CompressionPlan planKeeping(const ModelShape& shape, const Json& kept)
{
    CompressionPlan plan = CompressionPlan::identity(shape);
    for (const auto& [layer, experts] : kept.items()) {
        auto next = plan.withKept(shape, std::stoi(layer), experts.get<ExpertSet>());
        if (!next.ok()) throw std::runtime_error(next.error().describe());
        plan = *next;
    }
    return plan;
}

at::Tensor weightOf(const MoeModel& model, int layer, int expert, int matrix)
{
    auto stored = loadExpertMatrix(model.checkpoint(), layer, expert, matrix);
    if (!stored.ok()) throw std::runtime_error(stored.error().describe());
    return stored->weight.to(at::kDouble);
}

constexpr const char* kMatrices[] = {"gate", "up", "down"};

class ProfileFactors : public testing::TestWithParam<const char*>
{
};

// Second moments of the expert whose moments the fixtures hold, by brute force on the same tokens.
TEST_P(ProfileFactors, MomentsAreThoseOfTheReference)
{
    const c10::InferenceMode guard;
    const Folder folder;
    const std::string name = GetParam();
    const auto model = tinyModel(name);
    const test::Golden golden = test::Golden::read(kFixtures / "lowrank" / name);
    const int layer = golden.json.at("layer");
    const int expert = golden.json.at("expert");
    const ProfileData data = take(*model, calibration(name), {.out = folder / "p.h5", .collect = {"curves", "moments"}});
    EXPECT_EQ(data.collected, (std::vector<std::string>{"counts", "curves", "moments"}));
    const auto parts = partsOf(folder / "p.h5");
    EXPECT_TRUE(parts->hasMoments());
    EXPECT_FALSE(parts->hasFactors());
    EXPECT_EQ(parts->tokens(layer, expert), golden.json.at("tokens").get<std::int64_t>());
    for (const bool hidden : {false, true}) {
        const at::Tensor expected = golden.tensor(hidden ? "moment_h" : "moment_x");
        const at::Tensor moment = unpackedMoment(*parts, layer, expert, hidden);
        EXPECT_LE(test::maxDifference(moment, expected), 1e-6 * expected.diagonal().max().item<double>());
    }
    for (int matrix = 0; matrix < 3; ++matrix) {
        const std::vector<double> curve = data.layers[static_cast<std::size_t>(layer)].errorCurve(expert, matrix);
        const double norm = golden.json.at(kMatrices[matrix]).at("output_norm");
        EXPECT_NEAR(std::sqrt(curve[0]), norm, 1e-6 * norm);
        EXPECT_EQ(curve.back(), 0);
        for (const Json& row : golden.json.at(kMatrices[matrix]).at("by_rank")) {
            const double error = row.at("whitened_output_error");
            EXPECT_NEAR(std::sqrt(curve[row.at("rank").get<std::size_t>()]), error, 1e-6 * error + 1e-6 * norm) << kMatrices[matrix];
        }
    }
}

// The pass on the pruned model: importance, routed tokens and output errors of the factors made from its moments.
TEST_P(ProfileFactors, PassOnThePrunedModel)
{
    const c10::InferenceMode guard;
    const Folder folder;
    const std::string name = GetParam();
    const auto model = tinyModel(name);
    const Json golden = *readJsonFile(kFixtures / "model" / "method" / (name + ".json"), "golden");
    const Json& entry = golden.at("ppl").at("pruned_chain_whitened_rank");
    CompressionPlan plan = planKeeping(model->shape(), golden.at("ppl").at("pruned_chain").at("plan"));
    const ProfileData data = take(*model, calibration(name), {.out = folder / "p.h5", .collect = {"+moments"}, .plan = plan});
    const auto importance = score(data, "leave-one-out", {{"normalise", "raw"}});
    ASSERT_TRUE(importance.ok()) << importance.error().describe();
    const auto parts = partsOf(folder / "p.h5");
    for (const auto& [key, experts] : entry.at("experts").items()) {
        const int l = std::stoi(key);
        const LayerProfile& layer = data.layers[static_cast<std::size_t>(l)];
        EXPECT_EQ(data.kept[static_cast<std::size_t>(l)], plan.layer(l).kept());
        const double norm = std::sqrt(layer.outputEnergy);
        for (std::size_t i = 0; i < experts.size(); ++i) {
            const int expert = experts[i].at("expert");
            const int rank = experts[i].at("rank");
            EXPECT_EQ(layer.count[static_cast<std::size_t>(expert)], experts[i].at("tokens").get<std::int64_t>());
            const double expected = golden.at("importance_on_pruned_chain").at(key)[i];
            EXPECT_NEAR(importance->values.rows[static_cast<std::size_t>(l)][static_cast<std::size_t>(expert)], expected,
                        1e-5 * expected + 1e-6 * norm);
            for (int matrix = 0; matrix < 3; ++matrix) {
                const double error = experts[i].at(std::string("output_error_") + kMatrices[matrix]);
                const std::vector<double> curve = layer.errorCurve(expert, matrix);
                EXPECT_NEAR(std::sqrt(curve[static_cast<std::size_t>(rank)]), error, 1e-6 * error + 1e-6 * std::sqrt(curve[0]));
                // The basis in the file has that error too.
                const auto basis = parts->basis(l, expert, matrix, rank);
                ASSERT_TRUE(basis.ok()) << basis.error().describe();
                const at::Tensor w = weightOf(*model, l, expert, matrix);
                const at::Tensor q = tensorOf(*basis).narrow(1, 0, rank);
                const at::Tensor lost = w - at::mm(q, at::mm(q.t(), w));
                const at::Tensor moment = unpackedMoment(*parts, l, expert, matrix == 2);
                EXPECT_NEAR(std::sqrt(at::mm(at::mm(lost, moment), lost.t()).trace().item<double>()), error,
                            1e-6 * error + 1e-6 * std::sqrt(curve[0]));
                const double weightError = experts[i].at(std::string("weight_error_") + kMatrices[matrix]);
                EXPECT_NEAR(lost.square().sum().sqrt().item<double>(), weightError, 1e-5 * w.square().sum().sqrt().item<double>());
            }
        }
        for (int e = 0; e < layer.experts; ++e)
            if (!plan.keeps(l, e)) {
                EXPECT_EQ(layer.count[static_cast<std::size_t>(e)], 0);
                EXPECT_EQ(layer.softMass[static_cast<std::size_t>(e)], 0);
                EXPECT_EQ(parts->basis(l, e, 0, 1).error().code, "plan.profile_without_factors");
            }
    }
    const auto back = readProfile(folder / "p.h5");
    ASSERT_TRUE(back.ok()) << back.error().describe();
    EXPECT_EQ(back->layers, data.layers);
    EXPECT_EQ(back->kept, data.kept);
    // Ranks of the plan do not change what is measured.
    plan = *plan.withRanks(model->shape(), 3, std::vector<RankTriple>(plan.layer(3).kept().size(), {4, 4, 4}));
    EXPECT_EQ(take(*model, calibration(name), {.collect = {"counts", "ean"}, .plan = plan}).layers[3].norm, data.layers[3].norm);
}

INSTANTIATE_TEST_SUITE_P(Tiny, ProfileFactors, testing::Values("mixtral-tiny", "qwen2moe-tiny"),
                         [](const auto& info) { return std::string(info.param, std::string(info.param).find('-')); });

TEST(ProfileFactorFile, ShardsOfMomentsMergeToTheSinglePass)
{
    const c10::InferenceMode guard;
    const Folder folder;
    const std::string name = "qwen2moe-tiny";
    const auto model = tinyModel(name);
    const TokenWindows windows = calibration(name);
    const ProfileData single = take(*model, windows, {.out = folder / "single.h5", .collect = {"+moments"}});
    std::vector<fs::path> parts;
    for (int shard = 0; shard < 3; ++shard) {
        parts.push_back(folder / ("part" + std::to_string(shard) + ".h5"));
        const ProfileData part = take(*model, windows, {.out = parts.back(), .shard = shard, .shards = 3});
        EXPECT_TRUE(part.has("moments"));
        EXPECT_FALSE(part.has("curves"));
    }
    SilentJob job;
    const auto sum = mergeProfiles({parts[2], parts[0], parts[1]}, folder / "sum.h5", false, &model->checkpoint(), job);
    ASSERT_TRUE(sum.ok()) << sum.error().describe();
    EXPECT_EQ(sum->collected, single.collected);
    const auto again = mergeProfiles(parts, folder / "again.h5", false, &model->checkpoint(), job);
    EXPECT_EQ(readBytes(folder / "sum.h5"), readBytes(folder / "again.h5"));
    EXPECT_FALSE(fs::exists((folder / "sum.h5").string() + ".state"));
    // Two processes that share the layers write the same, and both know it.
    std::vector<LayerProfile> shared[2];
    test::SharedWork work(2);
    work.run([&](WorkShare& share) {
        SilentJob own;
        if (auto merged = mergeProfiles(parts, folder / "shared.h5", false, &model->checkpoint(), own, share); merged.ok())
            shared[share.rank()] = merged->layers;
    });
    EXPECT_EQ(readBytes(folder / "sum.h5"), readBytes(folder / "shared.h5"));
    EXPECT_EQ(shared[0], sum->layers);
    EXPECT_EQ(shared[1], sum->layers);
    EXPECT_FALSE(fs::exists((folder / "shared.h5").string() + ".state"));
    // Sums first and the rest later: the same.
    const auto sums = mergeProfiles(parts, folder / "sums.h5");
    ASSERT_TRUE(sums.ok());
    EXPECT_FALSE(sums->has("curves"));
    const auto derived = mergeProfiles({folder / "sums.h5"}, folder / "derived.h5", false, &model->checkpoint(), job);
    ASSERT_TRUE(derived.ok()) << derived.error().describe();
    EXPECT_EQ(derived->layers, sum->layers);

    const auto a = partsOf(folder / "single.h5");
    const auto b = partsOf(folder / "sum.h5");
    for (const LayerProfile& layer : single.layers)
        for (int e = 0; e < layer.experts; ++e)
            for (const bool hidden : {false, true}) {
                const at::Tensor x = unpackedMoment(*a, layer.layer, e, hidden);
                EXPECT_LE(test::maxDifference(x, unpackedMoment(*b, layer.layer, e, hidden)), 1e-12 * x.abs().max().item<double>());
                const LayerProfile& other = sum->layers[static_cast<std::size_t>(layer.layer)];
                for (const int matrix : hidden ? std::vector<int>{2} : std::vector<int>{0, 1}) {
                    const auto curve = layer.errorCurve(e, matrix);
                    const auto mine = other.errorCurve(e, matrix);
                    for (std::size_t r = 0; r < curve.size(); ++r)
                        EXPECT_NEAR(curve[r], mine[r], 1e-6 * curve[0]);
                    EXPECT_NEAR(layer.outputGain(e, matrix), other.outputGain(e, matrix), 1e-12 * layer.outputGain(e, matrix));
                    const auto p = a->basis(layer.layer, e, matrix, 6), q = b->basis(layer.layer, e, matrix, 6);
                    ASSERT_TRUE(p.ok() && q.ok());
                    const at::Tensor u = tensorOf(*p).narrow(1, 0, 6), v = tensorOf(*q).narrow(1, 0, 6);
                    EXPECT_LE(test::maxDifference(at::mm(u, u.t()), at::mm(v, v.t())), 1e-4);
                }
            }

    EXPECT_EQ(mergeProfiles({parts[0], folder / "single.h5"}, folder / "x.h5", false, nullptr, job).error().code, "profile.overlap");
    const auto other = tinyModel("mixtral-tiny");
    EXPECT_EQ(mergeProfiles(parts, folder / "x.h5", false, &other->checkpoint(), job).error().code, "profile.other_model");
    (void)take(*model, windows, {.out = folder / "plain.h5", .collect = {"counts", "factors"}});
    EXPECT_EQ(mergeProfiles({folder / "plain.h5"}, folder / "x.h5", false, &model->checkpoint(), job).error().code,
              "profile.missing_statistics");
    const auto dropped = mergeProfiles({folder / "plain.h5"}, folder / "x.h5");
    ASSERT_TRUE(dropped.ok());
    EXPECT_EQ(dropped->collected, std::vector<std::string>{"counts"});
    EXPECT_TRUE(readProfile(folder / "x.h5").ok());
}

// Wider than one panel of columns, more rows than one fp32 sum.
TEST(ProfileFactorFile, ProductsAddUp)
{
    const c10::InferenceMode guard;
    for (const std::int64_t side : {1, 255, 256, 257, 700}) {
        at::Tensor rows = at::empty({1100, side}, at::kFloat);
        for (std::int64_t i = 0; i < rows.numel(); ++i)
            rows.mutable_data_ptr<float>()[i] = static_cast<float>((i * 7919 + side) % 1013) / 1013.0f - 0.5f;
        std::vector<double> packed;
        addProducts(packed, rows);
        addProducts(packed, rows.narrow(0, 0, 3));
        const at::Tensor all = at::cat({rows, rows.narrow(0, 0, 3)}).to(at::kDouble);
        const at::Tensor expected = at::mm(all.t(), all).contiguous();
        ASSERT_EQ(packed.size(), static_cast<std::size_t>(side * (side + 1) / 2));
        double worst = 0;
        for (std::int64_t a = 0; a < side; ++a)
            for (std::int64_t b = 0; b <= a; ++b)
                worst = std::max(worst, std::abs(packed[static_cast<std::size_t>(a * (a + 1) / 2 + b)] -
                                                 expected.const_data_ptr<double>()[a * side + b]));
        EXPECT_LE(worst, 1e-6 * expected.diagonal().max().item<double>()) << side;
    }
}

TEST(ProfileFactorFile, SmallBudgetChangesNothing)
{
    const Folder folder;
    const std::string name = "mixtral-tiny";
    const auto model = tinyModel(name);
    const TokenWindows windows = calibration(name);
    (void)take(*model, windows, {.out = folder / "whole.h5", .collect = {"+moments"}});
    // Room for the moments of one expert at a time, and for three.
    for (const std::int64_t budget : {1, 3 * (64 * 65 / 2 + 40 * 41 / 2) * 8}) {
        const ProfileData data =
            take(*model, windows, {.out = folder / "parts.h5", .collect = {"+moments"}, .momentBudget = budget, .force = true});
        EXPECT_EQ(readBytes(folder / "parts.h5"), readBytes(folder / "whole.h5")) << budget;
    }
}

// Eight tokens: some experts see few, some none: ridges and moments as core/plan/factor_source.h says.
TEST(ProfileFactorFile, ThinExperts)
{
    const c10::InferenceMode guard;
    const Folder folder;
    const std::string name = "qwen2moe-tiny";
    const auto model = tinyModel(name);
    TokenWindows windows = calibration(name);
    windows.rows.resize(1);
    windows.rows[0].resize(8);
    const ProfileData data = take(*model, windows, {.out = folder / "p.h5", .collect = {"+moments"}});
    const auto parts = partsOf(folder / "p.h5");
    const int most = breakEvenRank(model->shape().hiddenSize, model->shape().layers[0].expertWidth);
    int unused = 0, thin = 0;
    for (const LayerProfile& layer : data.layers) {
        at::Tensor pooled;
        for (int e = 0; e < layer.experts; ++e) {
            const at::Tensor moment = unpackedMoment(*parts, layer.layer, e, false);
            pooled = pooled.defined() ? pooled + moment : moment;
        }
        for (int e = 0; e < layer.experts; ++e) {
            const std::int64_t tokens = layer.count[static_cast<std::size_t>(e)];
            for (int matrix = 0; matrix < 3; ++matrix) {
                for (int rank = 1; rank <= most; ++rank) {
                    const auto basis = parts->basis(layer.layer, e, matrix, rank);
                    ASSERT_TRUE(basis.ok()) << basis.error().describe();
                    EXPECT_GE(basis->columns, rank);
                    const at::Tensor q = tensorOf(*basis);
                    EXPECT_LE(test::maxDifference(at::mm(q.t(), q), at::eye(basis->columns, q.options())), 1e-5);
                    EXPECT_EQ(parts->rule(layer.layer, e, rank, matrix), factorRule(tokens, rank, matrix));
                }
                const auto curve = layer.errorCurve(e, matrix);
                ASSERT_FALSE(curve.empty());
                // As many directions as tokens carry everything.
                EXPECT_LE(curve[static_cast<std::size_t>(std::min<std::int64_t>(tokens, static_cast<std::int64_t>(curve.size()) - 1))],
                          1e-3 * curve[0]);
                if (tokens == 0) {
                    ++unused;
                    EXPECT_EQ(curve[0], 0);
                    const at::Tensor w = weightOf(*model, layer.layer, e, matrix);
                    const at::Tensor metric = matrix == 2 ? at::eye(w.size(1), w.options()) : pooled;
                    const auto expected = WhitenedSvd::of(w, metric);
                    ASSERT_TRUE(expected.ok());
                    const at::Tensor q = tensorOf(*parts->basis(layer.layer, e, matrix, 3)).narrow(1, 0, 3);
                    const at::Tensor p = expected->basis(3);
                    EXPECT_LE(test::maxDifference(at::mm(q, q.t()), at::mm(p, p.t())), 1e-4);
                } else if (tokens < 2 * most) {
                    ++thin;
                    EXPECT_EQ(parts->basis(layer.layer, e, matrix, most)->columns, most);
                    if (tokens >= 2) {
                        EXPECT_EQ(parts->basis(layer.layer, e, matrix, 1)->columns, tokens / 2);
                    }
                }
            }
        }
    }
    EXPECT_GT(unused, 0);
    EXPECT_GT(thin, 0);
}

// 4.8: the squared error in the layer's output that the curves estimate, against the real one for small changes of one matrix.
TEST(ProfileFactorFile, OutputGainIsTheSizeOfTheError)
{
    const c10::InferenceMode guard;
    const Folder folder;
    const std::string name = "mixtral-tiny";
    const auto model = tinyModel(name);
    const TokenWindows windows = calibration(name);
    const ProfileData data = take(*model, windows, {.out = folder / "p.h5", .collect = {"counts", "factors"}});
    const auto parts = partsOf(folder / "p.h5");

    struct Errors final : LayerObserver {
        const MoeModel& model;
        const ProfileParts& parts;
        int rank = 0;
        std::map<std::pair<int, int>, double> squared;  // (expert, matrix)
        Errors(const MoeModel& m, const ProfileParts& p) : model(m), parts(p) {}
        void expert(int layer, int expert, const at::Tensor&, const at::Tensor& x, const at::Tensor& h, const at::Tensor&,
                    const at::Tensor& w) override
        {
            if (layer != 1) return;
            const at::Tensor down = weightOf(model, layer, expert, 2);
            for (int matrix = 0; matrix < 3; ++matrix) {
                const at::Tensor weight = weightOf(model, layer, expert, matrix);
                const at::Tensor q = tensorOf(*parts.basis(layer, expert, matrix, rank)).narrow(1, 0, rank);
                const at::Tensor approximate = at::mm(q, at::mm(q.t(), weight));
                at::Tensor change;
                const at::Tensor in = x.to(at::kDouble);
                if (matrix == 2) {
                    change = at::mm(h.to(at::kDouble), (weight - approximate).t());
                } else {
                    const at::Tensor gate = at::mm(in, (matrix == 0 ? approximate : weightOf(model, layer, expert, 0)).t());
                    const at::Tensor up = at::mm(in, (matrix == 1 ? approximate : weightOf(model, layer, expert, 1)).t());
                    change = at::mm(at::silu(gate) * up - h.to(at::kDouble), down.t());
                }
                squared[{expert, matrix}] += (change * w.to(at::kDouble).unsqueeze(1)).square().sum().item<double>();
            }
        }
    };
    Errors errors(*model, *parts);
    errors.rank = 20;
    at::Tensor ids = at::empty({static_cast<std::int64_t>(windows.rows.size()), 64}, at::kLong);
    auto* to = ids.mutable_data_ptr<std::int64_t>();
    for (const auto& row : windows.rows)
        to = std::copy(row.begin(), row.end(), to);
    ASSERT_TRUE(model->hiddenStates(ids, model->identity(), &errors).ok());
    const LayerProfile& layer = data.layers[1];
    for (const auto& [which, squared] : errors.squared) {
        const auto [expert, matrix] = which;
        const double estimate = layer.errorCurve(expert, matrix)[20] * layer.outputGain(expert, matrix);
        // Mean weight and mean gain stand for those of every token and channel.
        EXPECT_GT(estimate, 0.4 * squared) << expert << " " << kMatrices[matrix];
        EXPECT_LT(estimate, 2.5 * squared) << expert << " " << kMatrices[matrix];
    }
    EXPECT_EQ(errors.squared.size(), 24u);
}

TEST(ProfileFactorFile, DefaultsAndErrors)
{
    const Folder folder;
    const auto model = tinyModel("mixtral-tiny");
    const TokenWindows windows = calibration("mixtral-tiny");
    const ModelShape& shape = model->shape();
    EXPECT_EQ(factorBytes(shape), 4 * 8 * 24 * (2 * 40 + 64) * 4);
    EXPECT_EQ(momentBytes(shape), 4 * 8 * (64 * 65 / 2 + 40 * 41 / 2) * 8);
    EXPECT_EQ(defaultFactors(shape, {.out = "p.h5"}), (std::vector<std::string>{"curves", "factors"}));
    EXPECT_EQ(defaultFactors(shape, {.out = "p.h5", .shards = 2}), std::vector<std::string>{"moments"});
    EXPECT_TRUE(defaultFactors(shape, {}).empty());
    ModelShape large = shape;
    large.hiddenSize = 4096;
    for (LayerShape& layer : large.layers)
        layer.expertWidth = 14336;
    EXPECT_TRUE(defaultFactors(large, {.out = "p.h5"}).empty());
    EXPECT_TRUE(defaultFactors(large, {.out = "p.h5", .shards = 2}).empty());

    SilentJob job;
    EXPECT_EQ(runProfile(*model, windows, {.collect = {"factors"}}, job).error().code, "profile.bad_option");
    // Curves need no file.
    EXPECT_EQ(take(*model, windows, {.collect = {"curves"}}).layers[0].spectrumLength, 40);
    (void)take(*model, windows, {.out = folder / "counts.h5", .collect = {"counts"}});
    const auto parts = partsOf(folder / "counts.h5");
    EXPECT_EQ(parts->basis(0, 0, 0, 4).error().code, "plan.profile_without_factors");
    EXPECT_EQ(parts->moment(0, 0, false).error().code, "profile.missing_statistics");
    EXPECT_EQ(parts->profileSha256(), *profileSha256(folder / "counts.h5"));
    EXPECT_EQ(parts->fingerprint(), model->checkpoint().fingerprint());
    EXPECT_EQ(ProfileParts::open(folder / "none.h5").error().code, "profile.missing");
    // Reading a profile does not read its parts; they are there all the same.
    (void)take(*model, windows, {.out = folder / "all.h5"});
    const auto back = readProfile(folder / "all.h5");
    ASSERT_TRUE(back.ok());
    EXPECT_TRUE(back->has("factors"));
    EXPECT_EQ(partsOf(folder / "all.h5")->basis(2, 5, 2, 24)->columns, 24);
    EXPECT_EQ(partsOf(folder / "all.h5")->basis(2, 5, 2, 25).error().code, "plan.profile_without_factors");
    EXPECT_EQ(partsOf(folder / "all.h5")->basis(2, 8, 2, 4).error().code, "plan.profile_without_factors");
}

// A file that version 1.0 of the format wrote: no curves, no parts.
TEST(ProfileFactorFile, OlderProfilesOpen)
{
    const fs::path path = kFixtures / "profile" / "format-1.0.h5";
    const auto data = readProfile(path);
    ASSERT_TRUE(data.ok()) << data.error().describe();
    EXPECT_EQ(data->collected, (std::vector<std::string>{"counts", "ean", "reap", "gram"}));
    EXPECT_TRUE(data->layers[0].errorCurve(0, 0).empty());
    EXPECT_EQ(data->layers[0].outputGain(0, 0), 0);
    EXPECT_TRUE(score(*data, "leave-one-out").ok());
    EXPECT_EQ(partsOf(path)->basis(0, 0, 0, 4).error().code, "plan.profile_without_factors");
}

}  // namespace

}  // namespace espalier
