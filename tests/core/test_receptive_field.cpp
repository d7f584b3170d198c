// The block-wise choice and the searches below it against the brute-force goldens: experts and router rows really removed, the
// reference implementation run on every set and every combination.
#include "search/receptive_field.h"

#include "base/random.h"
#include "checkpoint/checkpoint.h"
#include "core/shared_work.h"
#include "model/moe_model_torch.h"
#include "profile/profile_pass.h"
#include "score/gram_loss.h"
#include "search/selector.h"
#include "search/set_loss.h"
#include "tokenizer/windows.h"

#include <gmock/gmock.h>

#include <cmath>
#include <functional>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

struct Tiny {
    std::unique_ptr<MoeModel> model;
    TokenWindows windows;
    Json golden;
};

template <typename T>
T must(Result<T> result)
{
    if (!result.ok()) throw std::runtime_error(result.error().describe());
    return std::move(result).value();
}

Tiny openTiny(const std::string& name)
{
    const fs::path own = fs::path(ESPALIER_TEST_FIXTURES);
    ModelOptions options;
    options.residency = Residency::Stream;
    options.threads = 1;
    Tiny tiny;
    const auto checkpoint = must(Checkpoint::open(own / "model" / "checkpoints" / name));
    tiny.model = must(MoeModel::create(checkpoint, options));
    tiny.windows = must(windowsFromIds((own / "profile" / (name + ".json")).string(), {.windowLength = 64}, 100000));
    tiny.golden = must(readJsonFile(own / "model" / "method" / (name + ".json"), "golden"));
    return tiny;
}

struct Recorder final : JobContext {
    std::int64_t done = 0;
    std::int64_t total = 0;
    std::int64_t stopAt = -1;
    std::vector<Json> partials;
    bool stopRequested() const noexcept override { return stopAt >= 0 && done >= stopAt; }
    void progress(std::int64_t d, std::int64_t t, std::string_view) override
    {
        EXPECT_GE(d, done);
        done = d;
        total = t;
    }
    void partial(const Json& value) override { partials.push_back(value); }
};

// The candidates of the goldens: the three best sets of every layer on dense inputs.
std::vector<Selection> bestSets(const Json& golden, int layers)
{
    std::vector<Selection> selections(static_cast<std::size_t>(layers));
    for (int l = 0; l < layers; ++l)
        selections[static_cast<std::size_t>(l)].layer = l;
    for (const auto& [key, sets] : golden.at("chain").at("best_sets").items())
        for (const Json& set : sets)
            selections[static_cast<std::size_t>(std::stoi(key))].best.push_back({set.at("kept"), set.at("loss"), 0});
    return selections;
}

ReceptiveField choose(Tiny& tiny, const std::vector<Selection>& selections, const ReceptiveFieldOptions& options, JobContext& job)
{
    return must(chooseByBlocks(*tiny.model, tiny.windows, selections, CompressionPlan::identity(tiny.model->shape()), options, job));
}

// Groups have windows of one length: so there are several.
void cutIntoGroups(TokenWindows& windows)
{
    for (std::size_t i = 0; i < windows.rows.size(); ++i)
        windows.rows[i].resize(40 + 4 * (i / 4));
}

class SearchParity : public testing::TestWithParam<const char*>
{
};

TEST_P(SearchParity, BestSetsAreThoseOfTheBruteForceSearch)
{
    Tiny tiny = openTiny(GetParam());
    SilentJob job;
    const ProfileData profile = must(runProfile(*tiny.model, tiny.windows, {.out = {}, .collect = {}, .gramExtra = 100}, job));
    const CompressionPlan base = CompressionPlan::identity(profile.shape);
    const auto norm = [&](int layer) { return tiny.golden.at("layers").at(std::to_string(layer)).at("norm_moe_output").get<double>(); };
    const auto expectLoss = [&](double actual, const Json& expected, int layer) {
        EXPECT_NEAR(actual, expected.get<double>(), 1e-5 * expected.get<double>() + 1e-6 * norm(layer));
    };
    std::vector<int> keep(profile.layers.size(), 0);
    for (const auto& [key, sets] : tiny.golden.at("chain").at("best_sets").items())
        keep[static_cast<std::size_t>(std::stoi(key))] = static_cast<int>(sets[0].at("kept").size());
    for (const std::string method : {"exhaustive", "genetic"}) {
        const auto selections = must(selectLayers(profile, method, {}, keep, base, {}, job));
        for (const auto& [key, sets] : tiny.golden.at("chain").at("best_sets").items()) {
            const Selection& selection = selections[static_cast<std::size_t>(std::stoi(key))];
            ASSERT_EQ(selection.best.size(), 3u);
            for (std::size_t i = 0; i < 3; ++i) {
                EXPECT_EQ(selection.best[i].kept, sets[i].at("kept").get<ExpertSet>());
                expectLoss(selection.best[i].loss, sets[i].at("loss"), selection.layer);
            }
        }
    }
    // Every set of one layer, and what other selectors make of it.
    for (const Json& golden : tiny.golden.at("exhaustive")) {
        const int l = golden.at("layer");
        std::vector<int> counts = keep;
        counts[static_cast<std::size_t>(l)] = golden.at("keep");
        const auto all = must(selectLayers(profile, "exhaustive", {}, counts, base, {.bestSets = 1000}, job))[static_cast<std::size_t>(l)];
        ASSERT_EQ(static_cast<int>(all.best.size()), golden.at("sets").get<int>());
        EXPECT_EQ(all.evaluated, golden.at("sets").get<int>());
        EXPECT_EQ(all.best[0].kept, golden.at("best").get<ExpertSet>());
        EXPECT_EQ(all.best[1].kept, golden.at("second").get<ExpertSet>());
        expectLoss(all.best[0].loss, golden.at("best_loss"), l);
        expectLoss(all.best[1].loss, golden.at("second_loss"), l);
        expectLoss(all.best.back().loss, golden.at("worst_loss"), l);
        double mean = 0;
        for (const KeptSet& set : all.best)
            mean += set.loss / static_cast<double>(all.best.size());
        expectLoss(mean, golden.at("mean_loss"), l);
        const auto swapped = must(selectLayers(profile, "greedy", {{"swap", true}}, counts, base, {}, job))[static_cast<std::size_t>(l)];
        EXPECT_GE(swapped.best[0].loss, all.best[0].loss);
        EXPECT_LE(swapped.best[0].loss, mean);
    }
    // Random kept sets, in full and by difference from a neighbour.
    for (const Json& item : tiny.golden.at("moe_layers")) {
        const int l = item;
        const GramEvaluator evaluator(profile.layers[static_cast<std::size_t>(l)],
                                      profile.shape.layers[static_cast<std::size_t>(l)].router);
        SetLoss loss(evaluator);
        const Json& sets = tiny.golden.at("layers").at(std::to_string(l)).at("kept_sets");
        EXPECT_EQ(sets.size(), 40u);
        for (const Json& set : sets) {
            const ExpertBits kept = ExpertBits::of(set.at("kept").get<ExpertSet>());
            expectLoss(loss.evaluate(kept).loss(), set.at("loss"), l);
            for (int e = 0; e < evaluator.experts(); ++e)
                if (!kept.contains(e)) {
                    expectLoss(std::sqrt(LossState(loss, kept.with(e)).squaredWithout(e)), set.at("loss"), l);
                    break;
                }
        }
    }
}

TEST_P(SearchParity, AllTrialsEqualTheReference)
{
    Tiny tiny = openTiny(GetParam());
    Recorder job;
    const ReceptiveField field = choose(tiny, bestSets(tiny.golden, tiny.model->layerCount()), {}, job);
    EXPECT_EQ(job.done, job.total);
    const Json& blocks = tiny.golden.at("kt").at("blocks");
    ASSERT_EQ(field.blocks.size(), blocks.size());
    for (std::size_t b = 0; b < blocks.size(); ++b) {
        const FieldBlock& block = field.blocks[b];
        EXPECT_EQ(Json(block.moeLayers), blocks[b].at("moe_layers"));
        EXPECT_EQ(Json({block.firstLayer, block.lastLayer}), blocks[b].at("decoder_layers"));
        const double norm = blocks[b].at("norm_reference_output");
        EXPECT_NEAR(block.referenceNorm, norm, 1e-5 * norm);
        ASSERT_EQ(block.trials.size(), blocks[b].at("trials").size());
        for (std::size_t i = 0; i < block.trials.size(); ++i) {
            const Json& trial = blocks[b].at("trials")[i];
            EXPECT_EQ(Json(block.trials[i].choice), trial.at("choice"));
            const double loss = trial.at("loss");
            EXPECT_NEAR(block.trials[i].loss, loss, 1e-5 * loss + 1e-6 * norm) << trial.dump();
        }
        EXPECT_EQ(Json(block.best.choice), blocks[b].at("best").at("choice"));
        EXPECT_LE(block.best.loss, block.trials.front().loss);  // never worse than the best set of each layer
        EXPECT_EQ(*fieldBlockFromJson(job.partials[b]), block);
    }
    for (const auto& [key, kept] : tiny.golden.at("chain").at("kept").items())
        EXPECT_EQ(field.plan.layer(std::stoi(key)).kept(), kept.get<ExpertSet>());
    // 3 + 9 + 27 runs for three layers of three sets, not 81.
    EXPECT_EQ(field.blocks[0].trialRuns, 39);
    EXPECT_EQ(field.blocks[0].referenceRuns, field.blocks[0].lastLayer - field.blocks[0].firstLayer + 1);
}

INSTANTIATE_TEST_SUITE_P(Tiny, SearchParity, testing::Values("mixtral-tiny", "qwen2moe-tiny", "deepseekv2-lite-tiny"),
                         [](const auto& info) { return std::string(info.param, std::string(info.param).find('-')); });

// One combination after the other, each from the block's input: the tree must give the same bits.
TEST(ReceptiveField, PrefixTreeEqualsNaiveTrials)
{
    const c10::InferenceMode inference;
    Tiny tiny = openTiny("qwen2moe-tiny");
    tiny.windows.rows.resize(3);
    const std::vector<Selection> selections = bestSets(tiny.golden, 4);
    const CompressionPlan identity = CompressionPlan::identity(tiny.model->shape());
    SilentJob job;
    const ReceptiveField field = choose(tiny, selections, {}, job);

    at::Tensor ids = at::empty({3, 64}, at::kLong);
    for (int w = 0; w < 3; ++w)
        std::copy(tiny.windows.rows[static_cast<std::size_t>(w)].begin(), tiny.windows.rows[static_cast<std::size_t>(w)].end(),
                  ids.mutable_data_ptr<std::int64_t>() + 64 * w);
    const at::Tensor x = must(tiny.model->embed(ids));
    const auto through = [&](const CompressionPlan& plan) {
        const PreparedPlan prepared = must(tiny.model->prepare(plan));
        at::Tensor hidden = x;
        for (int l = 0; l < 3; ++l)
            hidden = must(tiny.model->layer(l, hidden, prepared));
        return hidden.to(at::kDouble);
    };
    const at::Tensor reference = through(identity);
    for (const BlockTrial& trial : field.blocks[0].trials) {
        CompressionPlan plan = identity;
        for (std::size_t l = 0; l < 3; ++l)
            plan = must(plan.withKept(tiny.model->shape(), static_cast<int>(l),
                                      selections[l].best[static_cast<std::size_t>(trial.choice[l])].kept));
        EXPECT_EQ(trial.loss, std::sqrt((through(plan) - reference).square().sum().item<double>()));
    }
    EXPECT_EQ(field.blocks[0].trials.size(), 27u);
}

TEST(ReceptiveField, NothingRemovedHasNoLoss)
{
    Tiny tiny = openTiny("mixtral-tiny");
    std::vector<Selection> selections(4);
    for (int l = 0; l < 4; ++l) {
        selections[static_cast<std::size_t>(l)].layer = l;
        selections[static_cast<std::size_t>(l)].best = {{{0, 1, 2, 3, 4, 5, 6, 7}, 0, 0}};
    }
    SilentJob job;
    const ReceptiveField field = choose(tiny, selections, {.windows = 4}, job);
    for (const FieldBlock& block : field.blocks) {
        ASSERT_EQ(block.trials.size(), 1u);
        EXPECT_EQ(block.best.loss, 0.0);
    }
    EXPECT_TRUE(field.plan.isIdentity(tiny.model->shape()));
}

TEST(ReceptiveField, WavesOfWindowsChangeNothing)
{
    Tiny tiny = openTiny("qwen2moe-tiny");
    cutIntoGroups(tiny.windows);
    const std::vector<Selection> selections = bestSets(tiny.golden, 4);
    Recorder whole;
    Recorder narrow;
    const ReceptiveField a = choose(tiny, selections, {.blockSize = 2}, whole);
    const ReceptiveField b = choose(tiny, selections, {.blockSize = 2, .streamBytes = 1}, narrow);
    ASSERT_EQ(a.blocks.size(), 2u);
    for (std::size_t i = 0; i < 2; ++i) {
        EXPECT_EQ(a.blocks[i].trialRuns, 3 + 9);
        for (std::size_t t = 0; t < a.blocks[i].trials.size(); ++t)
            EXPECT_NEAR(a.blocks[i].trials[t].loss, b.blocks[i].trials[t].loss, 1e-12 * a.blocks[i].trials[t].loss);
    }
    EXPECT_EQ(a.plan.hash(), b.plan.hash());
    EXPECT_EQ(whole.done, whole.total);
    EXPECT_EQ(narrow.done, narrow.total);
    EXPECT_EQ(narrow.total - whole.total, 4 * 2);  // the chosen path once more for the next block
}

// Under mpirun each process runs a part of the windows. The field may not depend on it, nor on how far each had come before a kill.
TEST(ReceptiveField, SharedWindowsChangeNothing)
{
    Tiny tiny = openTiny("qwen2moe-tiny");
    cutIntoGroups(tiny.windows);
    const std::vector<Selection> selections = bestSets(tiny.golden, 4);
    SilentJob quiet;
    const ReceptiveField alone = choose(tiny, selections, {.blockSize = 2}, quiet);
    ASSERT_EQ(alone.blocks.size(), 2u);
    // As many as there are groups and one more, which has none.
    for (const int size : {2, 5}) {
        SCOPED_TRACE(size);
        std::vector<Tiny> own;
        for (int rank = 0; rank < size; ++rank) {
            own.push_back(openTiny("qwen2moe-tiny"));
            own.back().windows = tiny.windows;
        }
        std::vector<ReceptiveField> fields(static_cast<std::size_t>(size));
        std::vector<Recorder> jobs(static_cast<std::size_t>(size));
        test::SharedWork work(size);
        work.run([&](WorkShare& share) {
            const auto r = static_cast<std::size_t>(share.rank());
            ReceptiveFieldOptions options{.blockSize = 2};
            // The first one was further than the others when the earlier run was killed.
            if (share.first()) options.finished = {alone.blocks[0]};
            options.share = &share;
            fields[r] = choose(own[r], selections, options, jobs[r]);
        });
        for (std::size_t r = 0; r < fields.size(); ++r) {
            EXPECT_EQ(fields[r].blocks, alone.blocks) << "process " << r;
            EXPECT_EQ(fields[r].plan.hash(), alone.plan.hash());
            EXPECT_EQ(jobs[r].done, jobs[r].total);
        }
    }
}

TEST(ReceptiveField, StoppedAndResumed)
{
    Tiny tiny = openTiny("mixtral-tiny");
    tiny.windows.rows.resize(6);
    const std::vector<Selection> selections = bestSets(tiny.golden, 4);
    ReceptiveFieldOptions options{.sets = 2, .blockSize = 2};
    SilentJob quiet;
    const ReceptiveField whole = choose(tiny, selections, options, quiet);

    Recorder job;
    job.stopAt = 10;  // inside the second block
    const CompressionPlan base = CompressionPlan::identity(tiny.model->shape());
    const auto stopped = chooseByBlocks(*tiny.model, tiny.windows, selections, base, options, job);
    ASSERT_FALSE(stopped.ok());
    EXPECT_EQ(stopped.error().kind, ErrorKind::Cancelled);
    EXPECT_EQ(job.done, 10);
    ASSERT_EQ(job.partials.size(), 1u);
    options.finished = {*fieldBlockFromJson(job.partials[0])};
    Recorder again;
    const ReceptiveField resumed = choose(tiny, selections, options, again);
    EXPECT_EQ(resumed.blocks, whole.blocks);
    EXPECT_EQ(resumed.plan.hash(), whole.plan.hash());
    EXPECT_EQ(again.done, again.total);
    options.finished[0].best.choice = {7, 0};
    EXPECT_EQ(chooseByBlocks(*tiny.model, tiny.windows, selections, base, options, job).error().code, "search.shape");
}

TEST(ReceptiveField, LockedLayersHaveNoChoice)
{
    Tiny tiny = openTiny("mixtral-tiny");
    tiny.windows.rows.resize(4);
    const std::vector<Selection> selections = bestSets(tiny.golden, 4);
    const CompressionPlan base =
        must(CompressionPlan::identity(tiny.model->shape()).withKept(tiny.model->shape(), 1, {0, 1, 2})).withLocked(1, true);
    SilentJob job;
    const ReceptiveField field = must(chooseByBlocks(*tiny.model, tiny.windows, selections, base, {}, job));
    EXPECT_EQ(field.blocks[0].trials.size(), 9u);
    EXPECT_EQ(field.blocks[0].trialRuns, 3 + 3 + 9);
    EXPECT_EQ(field.plan.layer(1).kept(), (ExpertSet{0, 1, 2}));
}

TEST(ReceptiveField, Errors)
{
    Tiny tiny = openTiny("mixtral-tiny");
    const CompressionPlan base = CompressionPlan::identity(tiny.model->shape());
    SilentJob job;
    const auto selections = bestSets(tiny.golden, 4);
    EXPECT_EQ(chooseByBlocks(*tiny.model, tiny.windows, {}, base, {}, job).error().code, "search.shape");
    EXPECT_EQ(chooseByBlocks(*tiny.model, tiny.windows, selections, base, {.sets = 0}, job).error().code, "search.bad_option");
    EXPECT_EQ(chooseByBlocks(*tiny.model, {}, selections, base, {}, job).error().code, "text.too_short");
}

}  // namespace

}  // namespace espalier
