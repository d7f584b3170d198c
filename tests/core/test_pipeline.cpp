// What a plan is made by and needs no model: sizes by arithmetic, the journal of a search.
#include "pipeline/rank_stage.h"
#include "pipeline/search_journal.h"
#include "pipeline/size_fit.h"

#include "allocate/allocator.h"
#include "base/atomic_file.h"
#include "base/text.h"
#include "core/profile_fixture.h"
#include "plan/cost_model.h"
#include "score/scorer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

namespace espalier
{
namespace
{

// Counts the plans that a fit makes.
struct Fit {
    ModelShape shape;
    CompressionPlan base;
    SizeProblem problem;
    int made = 0;

    explicit Fit(ModelShape given, std::int64_t bytes)
        : shape(std::move(given)), base(CompressionPlan::identity(shape)), problem{.shape = shape, .base = base, .bytes = bytes}
    {
        problem.scores.values.rows.resize(shape.layers.size());
        for (const LayerShape& layer : shape.layers)
            for (int e = 0; e < layer.experts; ++e)
                problem.scores.values.rows[static_cast<std::size_t>(layer.index)].push_back(e);
        problem.most = static_cast<int>(shape.totalExperts());
        problem.counts = [this](int total) {
            AllocationRequest request;
            request.plan = base;
            request.keepTotal = total;
            return allocate("uniform", shape, request, {});
        };
        problem.finish = [this](const CompressionPlan& plan) -> Result<CompressionPlan> {
            ++made;
            return plan;
        };
        problem.lowered = [](const CompressionPlan&, const CompressionPlan&) -> Result<std::optional<CompressionPlan>> {
            return std::optional<CompressionPlan>();
        };
    }
};

std::int64_t bytesOf(const ModelShape& shape, const CompressionPlan& plan) { return planCost(shape, plan).bytes; }

TEST(SizeFit, FindsTheMostExpertsByBisection)
{
    const ModelShape shape = test::evenShape(24, 60, 4);
    const std::int64_t whole = bytesOf(shape, CompressionPlan::identity(shape));
    SilentJob job;
    for (const double share : {0.31, 0.5, 0.77, 1.0}) {
        Fit fit(shape, static_cast<std::int64_t>(share * static_cast<double>(whole)));
        const auto sized = mostExperts(fit.problem, job);
        ASSERT_TRUE(sized.ok()) << sized.error().describe();
        EXPECT_LE(bytesOf(shape, sized->plan), fit.problem.bytes);
        EXPECT_EQ(sized->plan.keptExperts(), sized->experts);
        if (share == 1.0) {
            EXPECT_EQ(sized->experts, 24 * 60);
        } else {
            const auto& layer = shape.layers[0];
            EXPECT_GT(bytesOf(shape, sized->plan) + layer.bytesPerExpert + layer.routerBytesPerExpert, fit.problem.bytes);
        }
        EXPECT_LE(fit.made, 11);  // log2 of 1440 experts
    }
    Fit small(shape, whole / 20);
    EXPECT_EQ(mostExperts(small.problem, job).error().code, "plan.size_infeasible");
    job.stop = true;
    EXPECT_EQ(mostExperts(Fit(shape, whole).problem, job).error().code, "job.cancelled");
}

// Experts of even number cost what they cost; those of odd number have ranks and are cheaper. Scores prefer the odd ones, a search the
// even ones: its plan is too large.
struct OddFit : Fit {
    CompressionPlan chosen;
    SizedCounts counts;
    bool allDense = false;

    explicit OddFit(std::int64_t bytes) : Fit(test::evenShape(4, 16, 2, 256, 128), bytes)
    {
        for (auto& row : problem.scores.values.rows)
            for (std::size_t e = 0; e < row.size(); ++e)
                row[e] = static_cast<double>(e % 2 * 100 + e);
        problem.finish = [this](const CompressionPlan& plan) -> Result<CompressionPlan> {
            ++made;
            CompressionPlan next = plan.withFactors({"svd", {}});
            for (const LayerShape& layer : shape.layers) {
                std::vector<RankTriple> ranks;
                for (int e = 0; e < layer.experts; ++e)
                    if (plan.keeps(layer.index, e)) ranks.push_back(e % 2 ? RankTriple{40, 40, 40} : RankTriple{});
                auto with = next.withRanks(shape, layer.index, ranks);
                if (!with.ok()) return with;
                next = std::move(with).value();
            }
            return next;
        };
        SilentJob job;
        counts = *mostExperts(problem, job);
        ExpertScores even = problem.scores;
        for (auto& row : even.values.rows)
            for (std::size_t e = 0; e < row.size(); ++e)
                row[e] = static_cast<double>(e % 2 == 0 ? 100 + e : e);
        chosen = *selectByRanking(shape, base, counts.keep, even);
    }
};

TEST(SizeFit, AChosenPlanThatIsTooLargeGivesBackRankBeforeExperts)
{
    const ModelShape shape = test::evenShape(4, 16, 2, 256, 128);
    OddFit fit(bytesOf(shape, CompressionPlan::identity(shape)) * 6 / 10);
    SilentJob job;
    ASSERT_GT(bytesOf(shape, *fit.problem.finish(fit.chosen)), fit.problem.bytes);
    fit.problem.lowered = [&](const CompressionPlan& plan, const CompressionPlan& finished) -> Result<std::optional<CompressionPlan>> {
        EXPECT_EQ(plan.hash(), fit.chosen.hash());
        EXPECT_GT(bytesOf(shape, finished), fit.problem.bytes);
        CompressionPlan low = plan.withFactors({"svd", {}});
        for (const LayerShape& layer : shape.layers)
            low =
                *low.withRanks(shape, layer.index, std::vector<RankTriple>(plan.layer(layer.index).kept().size(), RankTriple{30, 30, 30}));
        return std::optional(low);
    };
    const auto fitted = withinSize(fit.problem, fit.counts, fit.chosen, job);
    ASSERT_TRUE(fitted.ok());
    EXPECT_LE(bytesOf(shape, *fitted), fit.problem.bytes);
    for (const LayerShape& layer : shape.layers)
        EXPECT_EQ(fitted->layer(layer.index).kept(), fit.chosen.layer(layer.index).kept()) << "no expert leaves";
}

TEST(SizeFit, WithoutRanksToGiveBackTheAnswerStillFits)
{
    const ModelShape shape = test::evenShape(4, 16, 2, 256, 128);
    const std::int64_t whole = bytesOf(shape, CompressionPlan::identity(shape));
    SilentJob job;
    for (int tenths = 4; tenths <= 8; ++tenths) {
        OddFit fit(whole * tenths / 10);
        const auto fitted = withinSize(fit.problem, fit.counts, fit.chosen, job);
        ASSERT_TRUE(fitted.ok());
        EXPECT_LE(bytesOf(shape, *fitted), fit.problem.bytes);
        EXPECT_GE(fitted->keptExperts() + 1, fit.counts.experts) << "one expert at most, or those by score";
    }
    // What fits is left as it is.
    OddFit loose(whole);
    const auto same = withinSize(loose.problem, loose.counts, loose.counts.plan, job);
    EXPECT_EQ(same->hash(), loose.problem.finish(loose.counts.plan)->hash());
}

class JournalTest : public testing::Test
{
protected:
    JournalTest() { std::filesystem::remove(m_path); }
    ~JournalTest() override { std::filesystem::remove(m_path); }
    std::string text() const { return *readTextFile(m_path, "test", 1 << 20); }
    SearchJournal open(bool resume, const std::string& key = "key")
    {
        auto journal = SearchJournal::open(m_path, key, resume);
        if (!journal.ok()) throw std::runtime_error(journal.error().describe());
        return std::move(journal).value();
    }

    static Selection selectionOf(int layer, ExpertSet kept)
    {
        Selection selection;
        selection.layer = layer;
        selection.best = {{std::move(kept), 0.125 * layer, 0}};
        selection.trace = {1, 0.5};
        selection.evaluated = 10;
        return selection;
    }
    static FieldBlock blockOf(int first)
    {
        FieldBlock block;
        block.moeLayers = {first, first + 1};
        block.firstLayer = first;
        block.lastLayer = first + 1;
        block.trials = {{{0, 0}, 0.25}, {{0, 1}, 0.5}};
        block.best = block.trials.front();
        return block;
    }

    std::filesystem::path m_path = std::filesystem::path(testing::TempDir()) / "journal_test.search";
};

TEST_F(JournalTest, GoesOnWithWhatWasFinished)
{
    {
        SearchJournal journal = open(true);
        EXPECT_FALSE(journal.startedAfresh());
        ASSERT_TRUE(journal.add("select", selectionOf(1, {0, 2, 3})).ok());
        ASSERT_TRUE(journal.add("select-again", selectionOf(1, {0, 1, 3})).ok());
        ASSERT_TRUE(journal.add("inputs", blockOf(0)).ok());
        ASSERT_TRUE(journal.add("plan", std::vector<WindowLoss>{{0, 1.5, 10}}).ok());
        ASSERT_TRUE(journal.add("plan", std::vector<WindowLoss>{{3, 2.5, 11}}).ok());
        EXPECT_EQ(journal.losses("plan").size(), 2u) << "what is added is there at once";
        EXPECT_EQ(journal.finished(), 5u);
    }
    SearchJournal journal = open(true);
    EXPECT_EQ(journal.recovered(), 5u);
    EXPECT_EQ(journal.selections("select", {0, 3}).at(1), selectionOf(1, {0, 2, 3}));
    EXPECT_EQ(journal.selections("select-again", {0, 3}).at(1), selectionOf(1, {0, 1, 3}));
    EXPECT_TRUE(journal.selections("select", {0, 2}).empty()) << "of another count";
    EXPECT_EQ(journal.blocks("inputs"), std::vector<FieldBlock>{blockOf(0)});
    EXPECT_TRUE(journal.blocks("others").empty());
    EXPECT_EQ(journal.losses("plan").back().nll, 2.5);
    journal.remove();
    EXPECT_FALSE(std::filesystem::exists(m_path));
}

// Wherever a kill tears the file, whole lines are there, and what is added afterwards is too.
TEST_F(JournalTest, SurvivesBeingTornAnywhere)
{
    {
        SearchJournal journal = open(false);
        for (int layer = 0; layer < 3; ++layer)
            ASSERT_TRUE(journal.add("select", selectionOf(layer, {0, layer + 1})).ok());
    }
    const std::string whole = text();
    for (std::size_t length = 0; length <= whole.size(); ++length) {
        // Inside of lines some places, at their ends all.
        const bool atEnd = whole[length == 0 ? 0 : length - 1] == '\n' || (length < whole.size() && whole[length] == '\n');
        if (!atEnd && length % 23 != 0) continue;
        ASSERT_TRUE(writeFileAtomically(m_path, whole.substr(0, length)).ok());
        const auto lines = static_cast<std::size_t>(std::count(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length), '\n'));
        {
            SearchJournal journal = open(true);
            ASSERT_EQ(journal.recovered(), lines == 0 ? 0 : lines - 1) << length;
            ASSERT_EQ(journal.startedAfresh(), lines == 0);
            ASSERT_TRUE(journal.add("select", selectionOf(7, {0, 9})).ok());
        }
        SearchJournal journal = open(true);
        ASSERT_EQ(journal.recovered(), lines == 0 ? 1 : lines) << length;
        ASSERT_EQ(journal.selections("select", std::vector<int>(8, 2)).at(7), selectionOf(7, {0, 9}));
    }
}

TEST_F(JournalTest, OfAnotherSearchBeginsAgain)
{
    {
        SearchJournal journal = open(false);
        ASSERT_TRUE(journal.add("select", selectionOf(0, {0, 1})).ok());
    }
    {
        SearchJournal journal = open(true, "another key");
        EXPECT_TRUE(journal.startedAfresh());
        EXPECT_EQ(journal.recovered(), 0u);
    }
    EXPECT_TRUE(open(true, "key").startedAfresh()) << "the file was taken over";
    {
        SearchJournal journal = open(false, "key");
        EXPECT_FALSE(journal.startedAfresh());
    }
    ASSERT_TRUE(writeFileAtomically(m_path, "no journal at all\n").ok());
    EXPECT_TRUE(open(true).startedAfresh());
    EXPECT_EQ(SearchJournal::open("/no such folder/x.search", "key", false).error().code, "output.unwritable");
}

struct FailingJournal final : PlanJournal {
    std::map<int, Selection> selections(const std::string&, const std::vector<int>&) const override { return {}; }
    std::vector<FieldBlock> blocks(const std::string&) const override { return {}; }
    std::vector<WindowLoss> losses(const std::string&) const override { return {}; }
    Status add(const std::string&, const Selection&) override { return fail(); }
    Status add(const std::string&, const FieldBlock&) override { return fail(); }
    Status add(const std::string&, const std::vector<WindowLoss>&) override { return fail(); }
    Status fail()
    {
        ++failed;
        return resourceError("output.disk_full", "x.search", "The disk is full.");
    }
    int failed = 0;
};

TEST(JournalKeeper, AJournalThatFailsCostsAWarningAndIsLeftAlone)
{
    FailingJournal journal;
    JournalKeeper keeper(&journal);
    EXPECT_EQ(keeper.takeWarning(), "");
    keeper.add("select", Selection{});
    keeper.add("select", Selection{});
    EXPECT_EQ(journal.failed, 1);
    EXPECT_NE(keeper.takeWarning().find("The disk is full."), std::string::npos);
    EXPECT_EQ(keeper.takeWarning(), "");
    JournalKeeper none(nullptr);
    none.add("select", Selection{});
    EXPECT_TRUE(none.losses("plan").empty());
}

}  // namespace
}  // namespace espalier
