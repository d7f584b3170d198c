// Recovery of plans on the tiny models: what mending does layer by layer, the gate, resuming, sharing, exports.
#include "core/compression_fixture.h"
#include "core/shared_work.h"
#include "evaluate/evaluator.h"
#include "export/exporter.h"
#include "export/verify.h"
#include "plan/plan_edit.h"
#include "plan/values.h"
#include "recover/recover.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <atomic>
#include <fstream>
#include <map>
#include <set>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;
using test::modelOf;
using test::openTiny;
using test::stream;
using test::take;

// The first half of the experts, of equal count in every router group.
CompressionPlan halved(const ModelShape& shape)
{
    CompressionPlan plan = CompressionPlan::identity(shape);
    for (const LayerShape& layer : shape.layers) {
        if (!layer.moe) continue;
        ExpertSet kept;
        const int group = layer.experts / layer.router.groups;
        const int most = std::max((layer.router.topK + layer.router.topGroups - 1) / layer.router.topGroups, (group + 1) / 2);
        for (int e = 0; e < layer.experts; ++e)
            if (e % group < most) kept.push_back(e);
        plan = take(plan.withKept(shape, layer.index, kept));
    }
    return plan;
}

CompressionPlan withRank(CompressionPlan plan, const ModelShape& shape, int rank)
{
    for (const LayerShape& layer : shape.layers)
        if (layer.moe)
            plan = take(
                plan.withRanks(shape, layer.index, std::vector<RankTriple>(plan.layer(layer.index).kept().size(), RankTriple{0, 0, rank})));
    return plan.withFactors({"svd", {}});
}

TokenWindows part(const TokenWindows& windows, std::size_t first, std::size_t count)
{
    TokenWindows some = windows;
    some.rows.assign(windows.rows.begin() + static_cast<std::ptrdiff_t>(first),
                     windows.rows.begin() + static_cast<std::ptrdiff_t>(first + count));
    some.textSha256 = hashOfRows(some.rows);
    return some;
}

// Asks for a stop at the n-th look.
class StopsAt final : public JobContext
{
public:
    explicit StopsAt(int looks) : m_left(looks) {}
    bool stopRequested() const noexcept override { return --m_left <= 0; }
    void progress(std::int64_t, std::int64_t, std::string_view) override {}
    void partial(const Json&) override {}

private:
    mutable int m_left;
};

class Recovering : public ::testing::TestWithParam<const char*>
{
protected:
    Recovering()
    {
        folder = fs::temp_directory_path() / ("espalier-recover-" + std::to_string(::getpid()));
        fs::remove_all(folder);
        fs::create_directories(folder);
    }
    ~Recovering() override { fs::remove_all(folder); }

    RecoverRequest request(MoeModel& model, const CompressionPlan& plan, const std::string& name)
    {
        const TokenWindows windows = stream(GetParam(), 32);
        const std::size_t half = windows.rows.size() / 2;
        RecoverRequest made{.model = &model,
                            .plan = plan,
                            .sources = {},
                            .method = "least-squares",
                            .params = {},
                            .text = {part(windows, 0, half)},
                            .folder = folder / (name + ".run"),
                            .valuesFolder = folder / name};
        // What is learned from: that it gets better there is no matter of luck.
        made.gate = made.text.windows;
        return made;
    }

    fs::path folder;
};

double nllOf(const std::vector<WindowLoss>& losses) { return perplexity(losses).nll; }

TEST_P(Recovering, TheLossOfNoLayerRises)
{
    auto model = modelOf(openTiny(GetParam()));
    for (const CompressionPlan& plan : {halved(model->shape()), withRank(halved(model->shape()), model->shape(), 3)}) {
        SilentJob job;
        RecoverRequest asked = request(*model, plan, plan.hash().substr(0, 6));
        asked.params = {{"attention", false}};
        const RecoverResult result = take(recoverPlan(asked, job));
        ASSERT_TRUE(result.changed);
        std::map<int, std::vector<double>> byLayer;
        for (const RecoverStep& step : result.steps)
            byLayer[*step.layer].push_back(step.loss);
        ASSERT_FALSE(byLayer.empty());
        for (const auto& [layer, losses] : byLayer) {
            ASSERT_EQ(losses.size(), 4U) << layer;  // before, and after each of three sweeps
            for (std::size_t i = 1; i < losses.size(); ++i)
                EXPECT_LE(losses[i], losses[i - 1] * (1 + 1e-12)) << layer;
            EXPECT_LT(losses[1], losses[0]) << layer;
        }
        for (int l = 0; l < plan.layerCount(); ++l) {
            EXPECT_EQ(result.plan.layer(l).columns(), plan.layer(l).columns());
            EXPECT_EQ(result.plan.layer(l).kept(), plan.layer(l).kept());
        }
    }
}

// Of attention's half and of the experts'.
TEST_P(Recovering, AttentionAndSharedExpertsAreRefittedWhereThatIsAskedFor)
{
    const auto source = openTiny(GetParam());
    auto model = modelOf(source);
    const CompressionPlan plan = halved(model->shape());
    std::vector<double> after;
    for (const bool all : {false, true}) {
        SilentJob job;
        RecoverRequest asked = request(*model, plan, all ? "all" : "experts");
        asked.params = {{"attention", all}, {"shared", all}};
        const RecoverResult result = take(recoverPlan(asked, job));
        ASSERT_TRUE(result.changed);
        after.push_back(result.steps.back().loss);
        std::set<std::string> linears;
        for (int l = 0; result.accepted && l < plan.layerCount(); ++l)
            for (const auto& [name, form] : result.plan.layer(l).content().linears)
                linears.insert(name);
        const bool hasShared = std::any_of(model->shape().layers.begin(), model->shape().layers.end(),
                                           [](const LayerShape& layer) { return layer.moe && layer.sharedWidth > 0; });
        if (result.accepted) {
            EXPECT_EQ(linears.size(), all ? (hasShared ? 2U : 1U) : 0U);
        }
    }
    // More to refit: less is missing at the end.
    EXPECT_LT(after[1], after[0]);
}

TEST_P(Recovering, WhatLostNothingStaysAsItIs)
{
    auto model = modelOf(openTiny(GetParam()));
    const CompressionPlan plan = CompressionPlan::identity(model->shape());
    SilentJob job;
    const RecoverResult result = take(recoverPlan(request(*model, plan, "identity"), job));
    EXPECT_FALSE(result.changed);
    EXPECT_FALSE(result.accepted);
    EXPECT_EQ(result.plan.hash(), plan.hash());
    EXPECT_FALSE(result.values.has_value());
}

TEST_P(Recovering, LockedLayersAndLayersBelowTheFirstLossStay)
{
    auto model = modelOf(openTiny(GetParam()));
    const ModelShape& shape = model->shape();
    std::vector<int> moe;
    for (const LayerShape& layer : shape.layers)
        if (layer.moe) moe.push_back(layer.index);
    ASSERT_GE(moe.size(), 2U);
    CompressionPlan plan = halved(shape);
    plan = take(plan.with(shape, moe[0], LayerPlan::allOf(shape.layers[static_cast<std::size_t>(moe[0])].experts)));
    SilentJob job;
    RecoverRequest asked = request(*model, plan, "below");
    asked.gate.reset();
    const auto unchanged = [](const CompressionPlan& a, const CompressionPlan& b, int layer) { return a.layer(layer) == b.layer(layer); };
    // Judged by windows that were kept apart it may be refused: the trace says what was fitted.
    const RecoverResult result = take(recoverPlan(asked, job));
    EXPECT_TRUE(result.gateHeldOut);
    for (const RecoverStep& step : result.steps)
        EXPECT_NE(*step.layer, moe[0]);
    asked = request(*model, halved(shape).withLocked(moe[1], true), "locked");
    const RecoverResult locked = take(recoverPlan(asked, job));
    for (const RecoverStep& step : locked.steps)
        EXPECT_NE(*step.layer, moe[1]);
    EXPECT_TRUE(unchanged(locked.plan, asked.plan, moe[1]));
}

// The answer is what the exporter writes, and what comes back from it.
TEST_P(Recovering, TheExportHasTheNumberOfThePreview)
{
    const auto source = openTiny(GetParam());
    auto model = modelOf(source);
    SilentJob job;
    RecoverResult result = take(recoverPlan(request(*model, halved(model->shape()), "stock"), job));
    if (!result.accepted) GTEST_SKIP() << "nothing is offered here";
    EXPECT_LT(nllOf(result.after), nllOf(result.before));
    FactorSources sources;
    ASSERT_TRUE(addValuesFiles(result.plan, {}, sources).ok());
    ExportOptions options;
    options.flavor = "stock";
    options.out = folder / "export";
    options.profiles = sources;
    take(exportCheckpoint(*source, result.plan, options, job));
    VerifyOptions check;
    check.exported = options.out;
    check.profiles = sources;
    check.model.threads = 1;
    const VerifyReport report = take(verifyExport(check, job));
    for (const VerifyCheck& one : report.checks)
        EXPECT_TRUE(one.holds) << one.name << ": " << one.detail;
    auto reopened = modelOf(take(Checkpoint::open(options.out)));
    Evaluator exported(*reopened, *request(*model, result.plan, "x").gate, std::int64_t{0});
    const auto losses = take(exported.run(CompressionPlan::identity(reopened->shape()), firstWindows(exported.windowCount()), {}, job));
    ASSERT_EQ(losses.size(), result.after.size());
    for (std::size_t i = 0; i < losses.size(); ++i)
        EXPECT_EQ(losses[i].nll, result.after[i].nll);
}

TEST_P(Recovering, AnInterruptedRunGoesOnToTheSameBytes)
{
    auto model = modelOf(openTiny(GetParam()));
    const CompressionPlan plan = withRank(halved(model->shape()), model->shape(), 3);
    SilentJob job;
    const RecoverResult whole = take(recoverPlan(request(*model, plan, "whole"), job));
    ASSERT_TRUE(whole.accepted);
    bool interrupted = false;
    for (int looks = 1; looks < 400; looks = looks * 2 + 1) {
        RecoverRequest asked = request(*model, plan, "part");
        StopsAt stop(looks);
        const auto first = recoverPlan(asked, stop);
        if (first.ok()) break;
        ASSERT_EQ(first.error().code, "job.cancelled") << first.error().describe();
        interrupted = true;
        asked.resume = RecoverResume::Yes;
        const RecoverResult resumed = take(recoverPlan(asked, job));
        ASSERT_TRUE(resumed.values.has_value());
        EXPECT_EQ(resumed.values->id, whole.values->id) << looks;
        EXPECT_EQ(resumed.plan.hash(), whole.plan.hash());
        EXPECT_EQ(resumed.steps.size(), whole.steps.size());
    }
    EXPECT_TRUE(interrupted);
}

// Where the best so far is asked for, a stop is answered with the layers until there, judged as a whole run is.
TEST_P(Recovering, AStopCanBeAnsweredWithWhatThereIs)
{
    auto model = modelOf(openTiny(GetParam()));
    const CompressionPlan plan = halved(model->shape());
    SilentJob job;
    const RecoverResult whole = take(recoverPlan(request(*model, plan, "whole"), job));
    int partly = 0;
    for (int looks = 1; looks < 400; looks += looks / 4 + 1) {
        RecoverRequest asked = request(*model, plan, "part");
        asked.bestSoFar = true;
        StopsAt stop(looks);
        const auto result = recoverPlan(asked, stop);
        if (!result.ok()) {
            EXPECT_EQ(result.error().code, "job.cancelled");
            continue;
        }
        if (!result->cancelled) {
            EXPECT_EQ(result->plan.hash(), whole.plan.hash());
            break;
        }
        ++partly;
        EXPECT_TRUE(result->changed);
        EXPECT_LT(result->steps.size(), whole.steps.size());
        EXPECT_EQ(result->accepted, nllOf(result->after) < nllOf(result->before));
        EXPECT_EQ(result->values.has_value(), result->accepted);
        EXPECT_NE(result->plan.hash(), whole.plan.hash());
    }
    EXPECT_GT(partly, 0);
}

TEST_P(Recovering, ProcessesShareTheWorkToTheSameBytes)
{
    const auto source = openTiny(GetParam());
    const CompressionPlan plan = halved(source->shape());
    auto model = modelOf(source);
    SilentJob job;
    const RecoverResult alone = take(recoverPlan(request(*model, plan, "alone"), job));
    test::SharedWork work(3);
    std::atomic<int> equal = 0;
    work.run([&](WorkShare& share) {
        auto own = modelOf(source);
        RecoverRequest asked = request(*own, plan, "shared");
        asked.processes = &share;
        const auto result = recoverPlan(asked, job);
        ASSERT_TRUE(result.ok()) << result.error().describe();
        if (result->plan.hash() == alone.plan.hash()) ++equal;
    });
    EXPECT_EQ(equal, 3);
}

INSTANTIATE_TEST_SUITE_P(Tiny, Recovering,
                         ::testing::Values("mixtral-tiny", "qwen3moe-tiny", "qwen2moe-tiny", "olmoe-tiny", "deepseekv2-lite-tiny",
                                           "deepseekv3-tiny", "mixtral-bf16-sharded"),
                         [](const auto& info) {
                             std::string name = info.param;
                             std::replace(name.begin(), name.end(), '-', '_');
                             return name;
                         });

class RecoverErrors : public Recovering
{
protected:
    std::string codeOf(const RecoverRequest& asked)
    {
        SilentJob job;
        const auto result = recoverPlan(asked, job);
        return result.ok() ? "" : result.error().code;
    }
};

TEST_P(RecoverErrors, AreNamed)
{
    auto model = modelOf(openTiny(GetParam()));
    const CompressionPlan plan = halved(model->shape());
    RecoverRequest asked = request(*model, plan, "run");
    asked.method = "wishing";
    EXPECT_EQ(codeOf(asked), "method.unknown");
    asked = request(*model, plan, "run");
    asked.params = {{"sweeps", 0}};
    EXPECT_EQ(codeOf(asked), "method.bad_parameter");
    asked = request(*model, plan, "run");
    asked.text.windows.rows.clear();
    EXPECT_EQ(codeOf(asked), "recover.no_tokens");
    asked.text.windows.rows = {{5}, {7}};
    EXPECT_EQ(codeOf(asked), "recover.no_tokens");
    asked = request(*model, plan, "run");
    asked.gate.reset();
    asked.text.windows.rows.resize(1);
    EXPECT_EQ(codeOf(asked), "recover.gate_needed");
    asked = request(*model, plan, "run");
    asked.resume = RecoverResume::Yes;
    EXPECT_EQ(codeOf(asked), "recover.nothing_to_resume");
    EXPECT_FALSE(fs::exists(asked.valuesFolder));

    // A run with other settings is not gone on with, and stays.
    asked = request(*model, plan, "run");
    StopsAt stop(3);
    ASSERT_FALSE(recoverPlan(asked, stop).ok());
    asked.resume = RecoverResume::Yes;
    asked.params = {{"ridge", 0.5}};
    EXPECT_EQ(codeOf(asked), "recover.other_run");
    asked.params = {};
    EXPECT_EQ(codeOf(asked), "");
}

// A plan that reads numbers which are not there says so before anything is measured.
TEST_P(RecoverErrors, MissingValuesOfThePlan)
{
    auto model = modelOf(openTiny(GetParam()));
    const ModelShape& shape = model->shape();
    CompressionPlan plan = halved(shape);
    LayerPlan::Content content = plan.layer(shape.layers.back().index).content();
    std::get<ExpertBody>(content.bodies[0]).matrices[2].values = std::string(64, 'a');
    plan = take(plan.with(shape, shape.layers.back().index, LayerPlan(content)));
    EXPECT_EQ(codeOf(request(*model, plan, "run")), "plan.values_missing");
}

INSTANTIATE_TEST_SUITE_P(Tiny, RecoverErrors, ::testing::Values("mixtral-tiny"));

}  // namespace

}  // namespace espalier
