#include "base/window_spread.h"
#include "core/compression_fixture.h"
#include "evaluate/evaluator.h"
#include "evaluate/loss_file.h"
#include "tokenizer/tokenizer.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <numeric>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;
using test::method;
using test::modelOf;
using test::openTiny;
using test::planOf;
using test::stream;
using test::take;

// Records what a job is told, and asks for a stop after so many layer steps.
class RecordingJob final : public JobContext
{
public:
    bool stopRequested() const noexcept override { return stopAfter >= 0 && steps >= stopAfter; }
    void progress(std::int64_t done, std::int64_t total, std::string_view) override
    {
        EXPECT_GE(done, steps);
        EXPECT_LE(done, total);
        steps = done;
    }
    void partial(const Json& result) override { partials.push_back(result); }

    std::int64_t steps = 0;
    std::int64_t stopAfter = -1;
    std::vector<Json> partials;
};

std::vector<WindowLoss> losses(Evaluator& evaluator, const CompressionPlan& plan, std::vector<int> windows = {})
{
    SilentJob job;
    if (windows.empty()) windows = firstWindows(evaluator.windowCount());
    return take(evaluator.run(plan, windows, {}, job));
}

void expectSameBits(const std::vector<WindowLoss>& a, const std::vector<WindowLoss>& b)
{
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
        EXPECT_EQ(a[i].window, b[i].window);
        EXPECT_EQ(a[i].nll, b[i].nll) << "window " << a[i].window;
        EXPECT_EQ(a[i].tokens, b[i].tokens);
    }
}

CompressionPlan without(const CompressionPlan& plan, const ModelShape& shape, int layer, int expert)
{
    ExpertSet kept = plan.layer(layer).kept();
    kept.erase(std::remove(kept.begin(), kept.end(), expert), kept.end());
    return take(plan.withKept(shape, layer, kept));
}

struct Reference {
    const char* model;
    const char* plan;
};

class ReferencePerplexity : public ::testing::TestWithParam<Reference>
{
};

TEST_P(ReferencePerplexity, IsReached)
{
    const auto [name, key] = GetParam();
    const Json reference = method(name);
    auto model = modelOf(openTiny(name));
    const CompressionPlan plan =
        std::string(key) == "dense" ? CompressionPlan::identity(model->shape()) : planOf(reference, key, model->shape());
    const std::pair<int, const char*> protocols[] = {{64, "w64"}, {128, "w128"}};
    for (std::size_t i = 0; i < 2; ++i) {
        Evaluator evaluator(*model, stream(name, protocols[i].first), 1 << 30);
        const double expected = reference["ppl"][key][protocols[i].second];
        EXPECT_GE(reference["ppl"][key]["smallest_selection_margins"][i].get<double>(), 4e-5);
        const double ppl = perplexity(losses(evaluator, plan)).ppl;
        EXPECT_NEAR(ppl / expected, 1.0, 2e-5) << protocols[i].second;
    }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, ReferencePerplexity,
                         ::testing::Values(Reference{"mixtral-tiny", "dense"}, Reference{"mixtral-tiny", "pruned_chain"},
                                           Reference{"mixtral-tiny", "pruned_irregular"},
                                           Reference{"mixtral-tiny", "pruned_chain_plain_rank"},
                                           Reference{"mixtral-tiny", "irregular_plain_rank"}, Reference{"qwen2moe-tiny", "dense"},
                                           Reference{"qwen2moe-tiny", "pruned_chain"}, Reference{"qwen2moe-tiny", "pruned_irregular"},
                                           Reference{"qwen2moe-tiny", "pruned_chain_plain_rank"}),
                         [](const auto& info) {
                             std::string text = std::string(info.param.model) + "_" + info.param.plan;
                             std::replace(text.begin(), text.end(), '-', '_');
                             return text;
                         });

TEST(WindowGroups, DependOnIndexAndLengthOnly)
{
    const auto rows = [](std::initializer_list<std::pair<int, std::size_t>> runs) {
        std::vector<std::vector<int>> result;
        for (const auto& [count, length] : runs)
            result.insert(result.end(), static_cast<std::size_t>(count), std::vector<int>(length, 1));
        return result;
    };
    using Groups = std::vector<std::pair<int, int>>;
    EXPECT_EQ(windowGroups(rows({{20, 256}})), (Groups{{0, 8}, {8, 16}, {16, 20}}));
    EXPECT_EQ(windowGroups(rows({{3, 2048}})), (Groups{{0, 1}, {1, 2}, {2, 3}}));
    EXPECT_EQ(windowGroups(rows({{2, 9000}})), (Groups{{0, 1}, {1, 2}}));
    EXPECT_EQ(windowGroups(rows({{3, 64}, {1, 20}, {2, 64}})), (Groups{{0, 3}, {3, 4}, {4, 6}}));
    EXPECT_TRUE(windowGroups({}).empty());
}

TEST(EvaluationGroups, WindowsSpreadOverABlockRunTogether)
{
    const auto rows = [](int count, std::size_t length) {
        return std::vector<std::vector<int>>(static_cast<std::size_t>(count), std::vector<int>(length, 1));
    };
    for (const auto& [count, length] : {std::pair{128, 256}, {100, 256}, {314, 256}, {40, 400}, {17, 64}, {16, 64}, {5, 64}, {33, 4096}}) {
        SCOPED_TRACE(fmt::format("{} windows of {}", count, length));
        const auto groups = evaluationGroups(rows(count, static_cast<std::size_t>(length)));
        std::vector<int> seen;
        for (const std::vector<int>& group : groups) {
            EXPECT_LE(group.size(), 8u);
            EXPECT_TRUE(group.size() == 1 || group.size() * static_cast<std::size_t>(length) <= 2048);
            seen.insert(seen.end(), group.begin(), group.end());
        }
        std::vector<int> sorted = seen;
        std::sort(sorted.begin(), sorted.end());
        EXPECT_EQ(sorted, firstWindows(count));
        // What stands for the first block comes first and shares its groups with nothing else.
        std::vector<int> leading;
        for (std::size_t g = 0; g < groups.size() && leading.size() < static_cast<std::size_t>(std::min(count, kSpreadWindows)); ++g)
            leading.insert(leading.end(), groups[g].begin(), groups[g].end());
        std::sort(leading.begin(), leading.end());
        EXPECT_EQ(leading, spreadWindows(std::min(count, 128), kSpreadWindows));
    }
    // Of a longer text the first block is cut as if it were alone.
    const auto whole = evaluationGroups(rows(314, 256)), alone = evaluationGroups(rows(128, 256));
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), whole.begin()));
    EXPECT_EQ(alone[0], (std::vector<int>{4, 20, 36, 52, 68, 84, 100, 116}));
    EXPECT_EQ(alone[1], (std::vector<int>{12, 28, 44, 60, 76, 92, 108, 124}));
    EXPECT_EQ(alone[2], (std::vector<int>{0, 1, 2, 3, 5, 6, 7, 8}));
}

TEST(Evaluator, SpreadWindowsAloneGiveTheSameBits)
{
    auto model = modelOf(openTiny("qwen2moe-tiny"));
    const CompressionPlan dense = CompressionPlan::identity(model->shape());
    const TokenWindows windows = stream("qwen2moe-tiny", 64);
    Evaluator whole(*model, windows, 0);
    const std::vector<int> spread = spreadWindows(whole.windowCount(), kSpreadWindows);
    ASSERT_LT(spread.size(), windows.rows.size());
    const auto quick = losses(whole, dense, spread);
    EXPECT_EQ(whole.measured(dense.hash()).size(), spread.size());  // and no other window was run
    TokenWindows few = windows;
    few.rows.clear();
    for (const int w : spread)
        few.rows.push_back(windows.rows[static_cast<std::size_t>(w)]);
    Evaluator alone(*model, few, 0);
    const auto same = losses(alone, dense);
    for (std::size_t i = 0; i < spread.size(); ++i)
        EXPECT_EQ(quick[i].nll, same[i].nll) << i;
}

TEST(Evaluator, CachedEqualsUncachedBitForBit)
{
    auto model = modelOf(openTiny("qwen2moe-tiny"));
    const ModelShape& shape = model->shape();
    const CompressionPlan dense = CompressionPlan::identity(shape);
    const CompressionPlan late = without(dense, shape, 3, 5);
    const CompressionPlan middle = without(without(dense, shape, 1, 0), shape, 3, 5);
    const CompressionPlan early = without(middle, shape, 0, 7);
    const CompressionPlan ranked = take(dense.withRanks(shape, 2, std::vector<RankTriple>(12, RankTriple{7, 0, 9})));
    const TokenWindows windows = stream("qwen2moe-tiny", 64);

    // Room for 12 of the 16 states of 8 x 64 tokens that a plan leaves: every third layer is kept, and entries are dropped all the time.
    const std::int64_t small = 12ll * 8 * 64 * shape.hiddenSize * 4;
    Evaluator roomy(*model, windows, 1 << 30), tight(*model, windows, small), none(*model, windows, 0);
    for (const CompressionPlan& plan : {dense, late, middle, early, ranked, late, dense, middle}) {
        const auto expected = losses(none, plan);
        {
            SCOPED_TRACE("room for everything");
            expectSameBits(losses(roomy, plan), expected);
        }
        {
            SCOPED_TRACE("room for little");
            expectSameBits(losses(tight, plan), expected);
        }
        EXPECT_LE(tight.usage().cacheBytes, small);
        EXPECT_EQ(none.usage().boundaries, 0);
    }
    EXPECT_GT(roomy.usage().layersSkipped, tight.usage().layersSkipped);
    EXPECT_GT(tight.usage().layersSkipped, 0);
}

TEST(Evaluator, StreamedWeightsGiveTheSameBits)
{
    auto resident = modelOf(openTiny("mixtral-tiny")), streamed = modelOf(openTiny("mixtral-tiny"), Residency::Stream);
    const CompressionPlan plan = planOf(method("mixtral-tiny"), "pruned_irregular", resident->shape());
    Evaluator a(*resident, stream("mixtral-tiny", 64), 1 << 28), b(*streamed, stream("mixtral-tiny", 64), 1 << 28);
    expectSameBits(losses(a, plan), losses(b, plan));
}

TEST(Evaluator, RunsOnlyTheLayersFromTheFirstChange)
{
    auto model = modelOf(openTiny("mixtral-tiny"));
    const ModelShape& shape = model->shape();
    Evaluator evaluator(*model, stream("mixtral-tiny", 64), 1 << 30);
    const auto groups = static_cast<std::int64_t>(evaluator.groups().size());
    const CompressionPlan dense = CompressionPlan::identity(shape);
    losses(evaluator, dense);
    EXPECT_EQ(evaluator.usage().layersRun, 4 * groups);
    losses(evaluator, without(dense, shape, 2, 1));
    EXPECT_EQ(evaluator.usage().layersRun, 6 * groups);  // layers 2 and 3
    losses(evaluator, without(dense, shape, 3, 1));
    EXPECT_EQ(evaluator.usage().layersRun, 7 * groups);
    losses(evaluator, dense);  // measured already
    EXPECT_EQ(evaluator.usage().layersRun, 7 * groups);
    losses(evaluator, without(dense, shape, 0, 1));
    EXPECT_EQ(evaluator.usage().layersRun, 11 * groups);
    evaluator.clearCache();
    EXPECT_EQ(evaluator.usage().cacheBytes, 0);
    losses(evaluator, dense);  // losses outlive the cache
    EXPECT_EQ(evaluator.usage().layersRun, 11 * groups);
}

TEST(Evaluator, ALossDoesNotDependOnWhatElseWasAskedFor)
{
    auto model = modelOf(openTiny("qwen2moe-tiny"));
    const CompressionPlan plan = planOf(method("qwen2moe-tiny"), "pruned_chain", model->shape());
    const TokenWindows windows = stream("qwen2moe-tiny", 64);
    Evaluator whole(*model, windows, 0), single(*model, windows, 0);
    const auto all = losses(whole, plan);
    for (const int w : {13, 3, 30}) {
        const auto one = losses(single, plan, {w});
        ASSERT_EQ(one.size(), 1u);
        expectSameBits(one, {all[static_cast<std::size_t>(w)]});
    }
    // What ran beside the window is not lost.
    EXPECT_EQ(single.measured(plan.hash()).size(), 24u);
    expectSameBits(losses(single, plan), all);
}

TEST(Evaluator, HandsOutEveryWindowAsItIsDone)
{
    auto model = modelOf(openTiny("mixtral-tiny"));
    Evaluator evaluator(*model, stream("mixtral-tiny", 128), 1 << 28);
    RecordingJob job;
    const CompressionPlan dense = CompressionPlan::identity(model->shape());
    const std::vector<int> asked = {9, 2};
    const WindowLoss known{2, 123.5, 127};
    const auto result = take(evaluator.run(dense, asked, {known}, job));
    ASSERT_EQ(job.partials.size(), 2u);
    EXPECT_EQ(job.partials[0], (Json{{"window", 2}, {"nll", 123.5}, {"tokens", 127}}));
    EXPECT_EQ(job.partials[1]["window"], 9);
    EXPECT_EQ(job.partials[1]["nll"], result[0].nll);
    EXPECT_EQ(result[0].window, 9);
    EXPECT_EQ(result[0].tokens, 127);
    EXPECT_EQ(result[1].nll, 123.5);            // known losses are taken as they are
    EXPECT_EQ(evaluator.usage().layersRun, 4);  // one group

    const std::vector<int> outside = {16};
    const auto refused = evaluator.run(dense, outside, {}, job);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, "evaluate.window_out_of_range");
}

TEST(Evaluator, StopsBetweenLayersAndGoesOnLater)
{
    auto model = modelOf(openTiny("mixtral-tiny"));
    const TokenWindows windows = stream("mixtral-tiny", 64);
    Evaluator evaluator(*model, windows, 1 << 28), undisturbed(*model, windows, 0);
    const CompressionPlan plan = planOf(method("mixtral-tiny"), "pruned_chain", model->shape());
    RecordingJob job;
    job.stopAfter = 6;  // in the middle of the second group
    const auto all = firstWindows(evaluator.windowCount());
    const auto stopped = evaluator.run(plan, all, {}, job);
    ASSERT_FALSE(stopped.ok());
    EXPECT_EQ(stopped.error().kind, ErrorKind::Cancelled);
    EXPECT_EQ(job.steps, 6);
    EXPECT_EQ(job.partials.size(), 8u);
    EXPECT_EQ(evaluator.measured(plan.hash()).size(), 8u);
    EXPECT_NE(stopped.error().kept.find("8 of 32"), std::string::npos) << stopped.error().kept;

    RecordingJob again;
    const auto resumed = take(evaluator.run(plan, all, {}, again));
    expectSameBits(resumed, losses(undisturbed, plan));
    EXPECT_EQ(again.partials.size(), 32u);
    EXPECT_EQ(evaluator.usage().layersRun, 16);  // no layer twice: the second group went on from its boundary
}

TEST(Evaluator, ScoresAllButTheFirstTokenOfAWindow)
{
    auto model = modelOf(openTiny("mixtral-tiny"));
    Evaluator evaluator(*model, stream("mixtral-tiny", 128), 0);
    const auto result = losses(evaluator, CompressionPlan::identity(model->shape()));
    EXPECT_EQ(perplexity(result).tokens, 16 * 127);
    const PairedDifference same = pairedDifference(result, result);
    EXPECT_EQ(same.nll, 0.0);
    EXPECT_EQ(same.se, 0.0);
}

// The numbers that came with the demo model, and its protocol: windows of 256 tokens, no BOS.
class Demo : public ::testing::Test
{
protected:
    Demo()
    {
        const fs::path folder = fs::path(ESPALIER_RESOURCES) / "demo";
        checkpoint = take(Checkpoint::open(folder / "espalier-demo-moe"));
        model = modelOf(checkpoint);
        reference = take(readJsonFile(folder / "EVAL.json", "fixture"));
    }
    TokenWindows windows(const char* file, int count) const
    {
        const fs::path folder = fs::path(ESPALIER_RESOURCES) / "demo";
        const Tokenizer tokenizer = take(Tokenizer::load(folder / "espalier-demo-moe"));
        WindowOptions options;
        options.windowLength = 256;
        options.maxWindows = count;
        options.bos = Bos::No;
        const fs::path path = folder / file;
        return take(windowsFromText(tokenizer, {&path, 1}, options));
    }
    std::shared_ptr<const Checkpoint> checkpoint;
    std::unique_ptr<MoeModel> model;
    Json reference;
};

// Minutes on a busy machine: run by ctest as test_evaluate_demo, label slow.
TEST_F(Demo, PerplexityOfWholeTexts)
{
    for (const char* part : {"validation", "test"}) {
        Evaluator evaluator(*model, windows((std::string(part) + ".txt").c_str(), 0), 0);
        ASSERT_EQ(evaluator.windowCount(), reference[part]["windows"]);
        const PerplexityEstimate estimate = perplexity(losses(evaluator, CompressionPlan::identity(model->shape())));
        EXPECT_NEAR(estimate.ppl, reference[part]["perplexity"].get<double>(), 1e-3);
        EXPECT_EQ(estimate.tokens, reference[part]["predicted_tokens"]);
    }
}

TEST_F(Demo, PerplexityWithoutTheLeastFrequentExperts)
{
    const ModelShape& shape = model->shape();
    Evaluator evaluator(*model, windows("validation.txt", 64), 1 << 28);
    const CompressionPlan dense = CompressionPlan::identity(shape);
    EXPECT_NEAR(perplexity(losses(evaluator, dense)).ppl, reference["ablation"]["unchanged"].get<double>(), 1e-3);
    constexpr int kDropped = 4;
    const Json& expected = reference["ablation"]["remove_4_least_frequent_per_layer"];
    CompressionPlan plan = dense;
    for (const Json& layer : reference["routing"]["layers"]) {
        const auto share = layer["share"].get<std::vector<double>>();
        std::vector<int> order(share.size());
        std::iota(order.begin(), order.end(), 0);
        std::sort(order.begin(), order.end(),
                  [&](int a, int b) { return share[static_cast<std::size_t>(a)] > share[static_cast<std::size_t>(b)]; });
        ExpertSet kept(order.begin(), order.end() - kDropped);
        std::sort(kept.begin(), kept.end());
        plan = take(plan.withKept(shape, layer["layer"], kept));
    }
    EXPECT_NEAR(perplexity(losses(evaluator, plan)).ppl / expected.get<double>(), 1.0, 1e-4);
}

class LossFileTest : public ::testing::Test
{
protected:
    LossFileTest() : folder(fs::temp_directory_path() / ("espalier-losses-" + std::to_string(::getpid())))
    {
        fs::remove_all(folder);
        fs::create_directories(folder);
    }
    ~LossFileTest() override { fs::remove_all(folder); }
    fs::path folder;
    LossKey key{"f1", "t1", "fp32", 256, {}};
};

TEST_F(LossFileTest, KeepsEveryBit)
{
    const fs::path path = folder / "a" / "losses.jsonl";
    const double nll = 847.3333333333333712289;
    {
        LossFile file = take(LossFile::open(path, key, true));
        ASSERT_TRUE(file.append("p1", {3, nll, 255}).ok());
        ASSERT_TRUE(file.append("p2", {3, 1.0, 255}).ok());
        ASSERT_TRUE(file.append("p1", {1, 0.1, 255}).ok());
        EXPECT_EQ(file.known("p1").size(), 2u);
        const auto second = LossFile::open(path, key, true);
        ASSERT_FALSE(second.ok());
        EXPECT_EQ(second.error().code, "evaluate.losses_in_use");
    }
    LossFile again = take(LossFile::open(path, key, true));
    const auto known = again.known("p1");
    ASSERT_EQ(known.size(), 2u);
    EXPECT_EQ(known[0].window, 1);
    EXPECT_EQ(known[1].nll, nll);
    EXPECT_TRUE(again.known("p3").empty());
}

TEST_F(LossFileTest, DropsATornLineAndGoesOn)
{
    const fs::path path = folder / "losses.jsonl";
    {
        ASSERT_TRUE(take(LossFile::open(path, key, true)).append("p", {0, 1.5, 10}).ok());
    }
    std::ofstream(path, std::ios::app) << R"({"nll":2.5,"plan":"p","tok)";
    {
        LossFile file = take(LossFile::open(path, key, true));
        EXPECT_EQ(file.known("p").size(), 1u);
        ASSERT_TRUE(file.append("p", {1, 2.5, 10}).ok());
    }
    EXPECT_EQ(take(LossFile::open(path, key, true)).known("p").size(), 2u);
    // Without resuming the file starts afresh.
    EXPECT_TRUE(take(LossFile::open(path, key, false)).known("p").empty());
}

TEST_F(LossFileTest, NeverMixesModelsTextsOrModes)
{
    const fs::path path = folder / "losses.jsonl";
    {
        take(LossFile::open(path, key, true));
    }
    for (const LossKey& other : {LossKey{"f2", "t1", "fp32", 256, {}}, LossKey{"f1", "t2", "fp32", 256, {}},
                                 LossKey{"f1", "t1", "bf16", 256, {}}, LossKey{"f1", "t1", "fp32", 128, {}}}) {
        const auto refused = LossFile::open(path, other, true);
        ASSERT_FALSE(refused.ok());
        EXPECT_EQ(refused.error().code, "evaluate.other_run");
        EXPECT_NE(other.hash(), key.hash());
    }
    std::ofstream(folder / "notes.txt") << "something else\n";
    const auto refused = LossFile::open(folder / "notes.txt", key, true);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, "evaluate.invalid_losses");
    ::setenv("XDG_CACHE_HOME", "/somewhere", 1);
    EXPECT_EQ(LossFile::defaultPath(key), fs::path("/somewhere/espalier/evaluations") / (key.hash() + ".jsonl"));
    ::unsetenv("XDG_CACHE_HOME");
}

}  // namespace

}  // namespace espalier
