// From a profile to a plan, on the tiny models: sizes, journals, processes that share the work.
#include "pipeline/make_plan.h"
#include "pipeline/plan_journal.h"
#include "pipeline/recipe_json.h"
#include "pipeline/recover_stage.h"
#include "rpc/plan_presets.h"

#include "core/compression_fixture.h"
#include "core/shared_work.h"
#include "plan/cost_model.h"
#include "profile/profile_pass.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace espalier
{
namespace
{

using test::take;

// What a run tells, and a stop after so many questions whether to.
struct Recorder final : JobContext {
    mutable int asked = 0;
    int stopAfter = -1;
    std::map<std::string, int> starts;  // of searches of sets, by stage
    std::map<std::string, int> plans;   // that were told, by stage
    std::int64_t done = 0;

    bool stopRequested() const noexcept override { return stopAfter >= 0 && asked++ >= stopAfter; }
    void progress(std::int64_t now, std::int64_t, std::string_view) override
    {
        EXPECT_GE(now, done) << "progress never goes back";
        done = now;
    }
    void partial(const Json& result) override
    {
        const std::string stage = result.value("stage", "");
        EXPECT_NE(stage, "");
        if (result.contains("plan")) ++plans[stage];
        if (result.contains("plan") && result.contains("keep")) ++starts[stage];
    }
};

struct MemoryJournal final : PlanJournal {
    std::vector<std::pair<std::string, Selection>> selected;
    std::vector<std::pair<std::string, FieldBlock>> chosen;
    std::map<std::string, std::vector<WindowLoss>> measured;

    std::map<int, Selection> selections(const std::string& stage, const std::vector<int>& keep) const override
    {
        std::map<int, Selection> found;
        for (const auto& [name, selection] : selected)
            if (name == stage && !selection.best.empty() &&
                selection.best.front().kept.size() == static_cast<std::size_t>(keep[static_cast<std::size_t>(selection.layer)]))
                found[selection.layer] = selection;
        return found;
    }
    std::vector<FieldBlock> blocks(const std::string& inputs) const override
    {
        std::vector<FieldBlock> found;
        for (const auto& [name, block] : chosen)
            if (name == inputs) found.push_back(block);
        return found;
    }
    std::vector<WindowLoss> losses(const std::string& plan) const override
    {
        const auto it = measured.find(plan);
        return it == measured.end() ? std::vector<WindowLoss>() : it->second;
    }
    Status add(const std::string& stage, const Selection& selection) override
    {
        selected.emplace_back(stage, selection);
        return {};
    }
    Status add(const std::string& inputs, const FieldBlock& block) override
    {
        chosen.emplace_back(inputs, block);
        return {};
    }
    Status add(const std::string& plan, const std::vector<WindowLoss>& losses) override
    {
        std::vector<WindowLoss>& all = measured[plan];
        all.insert(all.end(), losses.begin(), losses.end());
        return {};
    }
    std::size_t size() const { return selected.size() + chosen.size() + measured.size(); }
};

// A model with its profile. Processes that share the work each have one of their own.
struct Made {
    std::shared_ptr<const Checkpoint> checkpoint;
    std::unique_ptr<MoeModel> model;
    TokenWindows windows;
    ProfileData profile;

    explicit Made(const std::string& name) : checkpoint(test::openTiny(name)), model(test::modelOf(checkpoint))
    {
        windows = test::stream(name, 24);
        windows.rows.resize(std::min<std::size_t>(windows.rows.size(), 12));
        SilentJob job;
        profile = take(runProfile(*model, windows, {.collect = {"counts", "ean", "reap", "gram", "curves"}}, job));
    }
    const ModelShape& shape() const { return checkpoint->shape(); }
    PlanInputs inputs(PlanJournal* journal = nullptr, WorkShare* share = nullptr)
    {
        PlanInputs inputs{checkpoint, profile, "profile", CompressionPlan::identity(shape())};
        inputs.windows = windows;
        inputs.model = [this]() -> Result<MoeModel*> { return model.get(); };
        inputs.journal = journal;
        inputs.processes = share;
        return inputs;
    }
    std::int64_t bytesOf(const CompressionPlan& plan) const { return planCost(shape(), plan).bytes; }
    std::int64_t whole() const { return bytesOf(CompressionPlan::identity(shape())); }
};

PlanRecipe recipeOf(const std::string& allocate, const std::string& select)
{
    PlanRecipe recipe;
    recipe.allocate = allocate;
    recipe.select = select;
    recipe.threads = 1;
    if (select == "genetic") recipe.params["select"] = {{"population", 12}, {"generations", 4}, {"enumerate_below", 0}};
    if (allocate == "verified") recipe.params["allocate"] = {{"passes", 2}};
    return recipe;
}

PlanOutcome made(Made& tiny, const PlanRecipe& recipe, JobContext& job, PlanJournal* journal = nullptr, WorkShare* share = nullptr)
{
    return take(makePlan(tiny.inputs(journal, share), recipe, job));
}

// For every size, allocator, selector and rank rule: within the bytes, not an expert fewer than fit by arithmetic, one run of every stage.
TEST(MakePlan, FitsASizeWithOneRunOfEveryStage)
{
    Made tiny("qwen2moe-tiny");
    for (const char* allocate : {"importance", "uniform"})
        for (const bool ranks : {false, true})
            for (int percent = 60; percent <= 95; percent += 5) {
                SCOPED_TRACE(std::string(allocate) + (ranks ? ", ranks, " : ", ") + std::to_string(percent) + " %");
                PlanRecipe recipe = recipeOf(allocate, "greedy");
                recipe.ranks = ranks;
                recipe.averageRank = 6;
                if (!ranks) recipe.averageRank.reset();
                recipe.bytes = tiny.whole() * percent / 100;
                Recorder job;
                const Result<PlanOutcome> outcome = makePlan(tiny.inputs(), recipe, job);
                if (!outcome.ok()) {
                    EXPECT_EQ(outcome.error().code, "plan.size_infeasible");
                    continue;
                }
                EXPECT_LE(tiny.bytesOf(outcome->plan), *recipe.bytes);
                EXPECT_EQ(job.starts["select"], 1);
                EXPECT_LE(job.plans["rank"], 2);
                // What is known without any search: as many experts, by score, with ranks.
                PlanRecipe ranking = recipe;
                ranking.select = "ranking";
                SilentJob silent;
                const PlanOutcome byScore = made(tiny, ranking, silent);
                EXPECT_EQ(outcome->plan.keptExperts(), byScore.plan.keptExperts());
                // One expert more does not fit.
                if (byScore.plan.keptExperts() < tiny.shape().totalExperts()) {
                    PlanRecipe more = ranking;
                    more.bytes.reset();
                    more.keepTotal = byScore.plan.keptExperts() + 1;
                    EXPECT_GT(tiny.bytesOf(made(tiny, more, silent).plan), *recipe.bytes);
                }
                for (const PlanStage& stage : outcome->stages)
                    if (stage.name == "size") {
                        EXPECT_GT(stage.detail["excess"].get<std::int64_t>(), 0);
                    }
            }
}

// Layers that are locked, capped or left out cannot take what a generous size has room for.
TEST(MakePlan, ASizeBeyondWhatLayersMayKeepIsNoError)
{
    Made tiny("qwen2moe-tiny");
    int first = 0;
    while (!tiny.shape().layers[static_cast<std::size_t>(first)].moe)
        ++first;
    const int experts = tiny.shape().layers[static_cast<std::size_t>(first)].experts;
    PlanRecipe recipe = recipeOf("importance", "ranking");
    recipe.bytes = tiny.whole();
    SilentJob job;
    recipe.bounds.most = {{first, experts - 2}};
    const PlanOutcome capped = made(tiny, recipe, job);
    EXPECT_EQ(capped.plan.keptExperts(), tiny.shape().totalExperts() - 2);
    recipe.bounds = {};
    PlanInputs inputs = tiny.inputs();
    ExpertSet some;
    for (int e = 0; e + 1 < experts; ++e)
        some.push_back(e);
    inputs.base = take(inputs.base.withKept(tiny.shape(), first, some)).withLocked(first, true);
    EXPECT_EQ(take(makePlan(inputs, recipe, job)).plan.keptExperts(), tiny.shape().totalExperts() - 1);
    recipe.dropLayers = {first};
    EXPECT_EQ(made(tiny, recipe, job).plan.keptExperts(), tiny.shape().totalExperts() - experts);
}

// The allocator that measures runs once for a size too, and its parameters are its own.
TEST(MakePlan, MeasuresOnceForASizeWithARule)
{
    Made tiny("mixtral-tiny");
    PlanRecipe recipe = recipeOf("verified", "greedy");
    recipe.ranks = true;
    recipe.averageRank = 6;
    recipe.factors = "svd";
    recipe.bytes = tiny.whole() * 8 / 10;
    Recorder job;
    const PlanOutcome outcome = made(tiny, recipe, job);
    EXPECT_LE(tiny.bytesOf(outcome.plan), *recipe.bytes);
    EXPECT_TRUE(outcome.plan.hasRanks());
    int allocated = 0;
    for (const PlanStage& stage : outcome.stages)
        allocated += stage.name == "allocate";
    EXPECT_EQ(allocated, 1);
    EXPECT_EQ(job.starts["select"], 1);
}

TEST(MakePlan, KeepsToFloorsCapsAndMultiples)
{
    Made tiny("mixtral-tiny");  // 8 experts a layer
    const int total = static_cast<int>(tiny.shape().totalExperts());
    for (const char* allocate : {"importance", "exact", "verified"}) {
        SCOPED_TRACE(allocate);
        PlanRecipe recipe = recipeOf(allocate, "greedy");
        recipe.keepTotal = total * 3 / 4;
        recipe.bounds.least = {{CountBounds::kAllLayers, 4}, {1, 8}};
        recipe.bounds.most = {{0, 6}};
        recipe.bounds.multipleOf = 2;
        SilentJob job;
        const PlanOutcome outcome = made(tiny, recipe, job);
        for (const LayerShape& layer : tiny.shape().layers)
            if (layer.moe) {
                EXPECT_TRUE(recipe.bounds.allow(layer.index, static_cast<int>(outcome.plan.layer(layer.index).kept().size())));
            }
        EXPECT_EQ(outcome.plan.layer(1).kept().size(), 8u);
        EXPECT_LE(outcome.plan.layer(0).kept().size(), 6u);
    }
    PlanRecipe impossible = recipeOf("verified", "greedy");
    impossible.keepTotal = total * 3 / 4;
    impossible.bounds.least = {{2, 7}};
    impossible.bounds.most = {{2, 6}};
    SilentJob job;
    EXPECT_EQ(makePlan(tiny.inputs(), impossible, job).error().code, "allocate.infeasible");
}

TEST(MakePlan, AStoppedRunGoesOnToTheSamePlan)
{
    Made tiny("mixtral-tiny");
    PlanRecipe recipe = recipeOf("verified", "genetic");
    recipe.receptiveField = ReceptiveFieldChoice{2, 2};
    recipe.keepTotal = static_cast<int>(tiny.shape().totalExperts()) * 3 / 4;
    Recorder uninterrupted;
    uninterrupted.stopAfter = 1 << 30;  // counts only
    const PlanOutcome whole = made(tiny, recipe, uninterrupted);
    const int questions = uninterrupted.asked;
    ASSERT_GT(questions, 20);
    MemoryJournal journal;
    std::size_t known = 0;
    // Stopped later and later: every run begins with what the one before finished.
    for (int part = 1; part <= 5; ++part) {
        Recorder job;
        job.stopAfter = questions * part / 6;
        const Result<PlanOutcome> stopped = makePlan(tiny.inputs(&journal), recipe, job);
        // A search that has an answer gives it when it is stopped.
        if (!stopped.ok()) {
            EXPECT_EQ(stopped.error().code, "job.cancelled");
        }
        EXPECT_GE(journal.size(), known);
        known = journal.size();
    }
    EXPECT_GT(known, 0u);
    SilentJob job;
    const PlanOutcome resumed = made(tiny, recipe, job, &journal);
    EXPECT_EQ(resumed.plan.hash(), whole.plan.hash());
    EXPECT_EQ(resumed.keep, whole.keep);
    EXPECT_EQ(resumed.selections, whole.selections);
}

TEST(MakePlan, ProcessesThatShareTheWorkMakeTheSamePlan)
{
    constexpr int kSize = 3;
    std::vector<std::unique_ptr<Made>> own;
    for (int rank = 0; rank < kSize; ++rank)
        own.push_back(std::make_unique<Made>("mixtral-tiny"));
    for (const char* allocate : {"importance", "verified"}) {
        SCOPED_TRACE(allocate);
        PlanRecipe recipe = recipeOf(allocate, "genetic");
        recipe.receptiveField = ReceptiveFieldChoice{2, 2};
        recipe.keepTotal = static_cast<int>(own[0]->shape().totalExperts()) * 3 / 4;
        SilentJob silent;
        const PlanOutcome alone = made(*own[0], recipe, silent);
        std::vector<PlanOutcome> together(kSize);
        std::vector<MemoryJournal> journals(kSize);
        test::SharedWork work(kSize);
        work.run([&](WorkShare& share) {
            const auto r = static_cast<std::size_t>(share.rank());
            SilentJob job;
            together[r] = made(*own[r], recipe, job, &journals[r], &share);
        });
        std::size_t searched = 0;
        for (std::size_t r = 0; r < together.size(); ++r) {
            EXPECT_EQ(together[r].plan.hash(), alone.plan.hash()) << "process " << r;
            EXPECT_EQ(together[r].selections, alone.selections);
            searched += journals[r].selected.size();
        }
        EXPECT_EQ(searched, 4u) << "every layer was searched by one process";
    }
}

// The last stage changes numbers and nothing else, and a plan that is made anew from the result begins with the checkpoint's own.
TEST(MakePlan, RecoversWhenShapesAreSettled)
{
    Made tiny("qwen2moe-tiny");
    const std::filesystem::path folder = std::filesystem::temp_directory_path() / ("espalier-stage-recover-" + std::to_string(::getpid()));
    std::filesystem::remove_all(folder);
    PlanRecipe recipe = recipeOf("uniform", "ranking");
    recipe.keepTotal = static_cast<int>(tiny.shape().totalExperts() * 6 / 10);
    SilentJob job;
    const PlanOutcome without = take(makePlan(tiny.inputs(), recipe, job));
    EXPECT_FALSE(without.recovery);
    recipe.recover = "least-squares";
    PlanInputs inputs = tiny.inputs();
    inputs.recoverFolder = folder;
    const PlanOutcome with = take(makePlan(inputs, recipe, job));
    ASSERT_TRUE(with.recovery);
    EXPECT_TRUE(with.recovery->changed);
    EXPECT_EQ(with.stages.back().name, "recover");
    EXPECT_EQ(with.values.has_value(), with.recovery->accepted);
    EXPECT_EQ(take(withoutRecovered(tiny.shape(), with.plan)).hash(), without.plan.hash());
    EXPECT_EQ(tiny.bytesOf(with.plan), tiny.bytesOf(without.plan));
    inputs.base = with.plan;
    EXPECT_EQ(take(makePlan(inputs, recipe, job)).plan.hash(), with.plan.hash());

    // One window leaves none to judge by: said, and the plan is as it was.
    inputs.base = CompressionPlan::identity(tiny.shape());
    inputs.windows->rows.resize(1);
    const PlanOutcome few = take(makePlan(inputs, recipe, job));
    EXPECT_FALSE(few.recovery);
    EXPECT_EQ(few.plan.hash(), without.plan.hash());
    ASSERT_EQ(few.warnings.size(), 1U);
    std::filesystem::remove_all(folder);
}

// What a run is made with, its folder gone afterwards.
struct RecoveredRun {
    std::filesystem::path folder;
    PlanRecipe recipe = recipeOf("verified", "ranking");

    explicit RecoveredRun(const std::string& name)
        : folder(std::filesystem::temp_directory_path() / ("espalier-" + name + "-" + std::to_string(::getpid())))
    {
        std::filesystem::remove_all(folder);
        recipe.recover = "least-squares";
    }
    ~RecoveredRun() { std::filesystem::remove_all(folder); }
    RecoveredRun(const RecoveredRun&) = delete;
    RecoveredRun& operator=(const RecoveredRun&) = delete;
};

const PlanStage& stageOf(const PlanOutcome& outcome, const std::string& name)
{
    for (const PlanStage& stage : outcome.stages)
        if (stage.name == name) return stage;
    throw std::runtime_error("no stage " + name);
}

// Of those recovered the best afterwards is the answer, whatever was best before; the stage says both of each.
void expectBestOfTheFinals(const Made& tiny, const PlanOutcome& outcome)
{
    const Json plans = stageOf(outcome, "finals").detail["plans"];
    ASSERT_GE(plans.size(), 1U);
    EXPECT_GE(plans.size() + stageOf(outcome, "finals").detail["not_recovered"].size(), 2U);
    std::string best;
    double lowest = 1e300;
    for (const Json& plan : plans) {
        EXPECT_LE(plan["nll_after"], plan["nll_before"]) << "what is worse is not accepted";
        EXPECT_EQ(plan["learned"], 11);
        if (!(plan["nll_after"].get<double>() < lowest)) continue;
        lowest = plan["nll_after"];
        best = plan["plan_hash"];
    }
    EXPECT_EQ(take(withoutRecovered(tiny.shape(), outcome.plan)).hash(), best);
    EXPECT_EQ(outcome.recovery->accepted ? outcome.recovery->nllAfter : outcome.recovery->nllBefore, lowest);
}

TEST(MakePlan, ComparesTheFinalistsOfASearchAfterRecovery)
{
    Made tiny("qwen2moe-tiny");
    RecoveredRun run("finals");
    run.recipe.bytes = tiny.whole() * 7 / 10;
    MemoryJournal journal;
    PlanInputs inputs = tiny.inputs(&journal);
    inputs.recoverFolder = run.folder;
    Recorder job;
    const PlanOutcome whole = take(makePlan(inputs, run.recipe, job));
    EXPECT_GT(job.plans["finals"], 0);
    expectBestOfTheFinals(tiny, whole);
    EXPECT_LE(tiny.bytesOf(whole.plan), *run.recipe.bytes);
    Recorder silent;
    EXPECT_EQ(whole.plan.hash(), take(makePlan(inputs, run.recipe, silent)).plan.hash()) << "from the journal";

    // Stopped in the finals, and gone on with: the same plan. What was finished is not run again.
    int stopped = 0;
    for (const double share : {0.6, 0.8, 0.95}) {
        std::filesystem::remove_all(run.folder);
        MemoryJournal kept;
        inputs.journal = &kept;
        Recorder counting;
        counting.stopAfter = 1 << 30;
        take(makePlan(inputs, run.recipe, counting));
        std::filesystem::remove_all(run.folder);
        kept = {};
        Recorder stopping;
        stopping.stopAfter = static_cast<int>(share * counting.asked);
        const Result<PlanOutcome> broken = makePlan(inputs, run.recipe, stopping);
        if (!broken.ok()) {
            EXPECT_EQ(broken.error().kind, ErrorKind::Cancelled) << broken.error().describe();
            ++stopped;
        }
        const std::size_t finished = kept.size();
        Recorder going;
        const PlanOutcome again = take(makePlan(inputs, run.recipe, going));
        EXPECT_EQ(again.plan.hash(), whole.plan.hash()) << share;
        EXPECT_GE(kept.size(), finished);
    }
    EXPECT_GT(stopped, 0);
}

// No time for anything but the search: its answer is recovered, as it is.
TEST(MakePlan, FinalsKeepToTheMinutes)
{
    Made tiny("mixtral-tiny");
    RecoveredRun run("minutes");
    run.recipe.bytes = tiny.whole() * 6 / 10;
    PlanInputs inputs = tiny.inputs();
    inputs.recoverFolder = run.folder;
    SilentJob job;
    expectBestOfTheFinals(tiny, take(makePlan(inputs, run.recipe, job)));
    run.recipe.params["allocate"]["minutes"] = 1e-4;
    const PlanOutcome hurried = take(makePlan(inputs, run.recipe, job));
    EXPECT_EQ(hurried.stages.back().name, "recover");
    EXPECT_THROW(stageOf(hurried, "finals"), std::runtime_error);
    ASSERT_TRUE(hurried.recovery);
    EXPECT_LE(tiny.bytesOf(hurried.plan), *run.recipe.bytes);
}

TEST(MakePlan, NeedsTheTextWhereTheModelRuns)
{
    Made tiny("mixtral-tiny");
    PlanRecipe recipe = planPreset("verified")->recipe;
    recipe.keepTotal = 20;
    PlanInputs inputs = tiny.inputs();
    inputs.windows.reset();
    SilentJob job;
    EXPECT_EQ(makePlan(inputs, recipe, job).error().code, "plan.text_needed");
    recipe.ranks = true;
    recipe.rankRule = "exact";
    recipe.factors = "whitened-svd";
    EXPECT_EQ(makePlan(tiny.inputs(), recipe, job).error().code, "profile.missing_statistics");
}

}  // namespace
}  // namespace espalier
