#include "core/shapes.h"

#include "base/random.h"
#include "plan/plan_history.h"

#include <gtest/gtest.h>

using namespace espalier;
using espalier::test::evenShape;

namespace
{
CompressionPlan toggled(const ModelShape& shape, const CompressionPlan& plan, Random& random)
{
    const int layer = static_cast<int>(random.below(shape.layers.size()));
    const int expert = static_cast<int>(random.below(static_cast<std::uint64_t>(shape.layers[0].experts)));
    ExpertSet kept = plan.layer(layer).kept();
    const auto it = std::lower_bound(kept.begin(), kept.end(), expert);
    if (it != kept.end() && *it == expert)
        kept.erase(it);
    else
        kept.insert(it, expert);
    auto result = plan.withKept(shape, layer, kept);
    return result.ok() ? *result : plan;
}
}  // namespace

TEST(PlanHistory, AThousandEditsAndUndosGiveTheFirstPlan)
{
    const ModelShape shape = evenShape(6, 16, 4);
    PlanHistory history(CompressionPlan::identity(shape), "Open", 0);
    const std::string first = history.current().plan.hash();
    Random random(1);
    for (int i = 0; i < 1000; ++i)
        history.commit(toggled(shape, history.current().plan, random), "edit", i);
    const std::string last = history.current().plan.hash();
    while (history.canUndo())
        history.undo();
    EXPECT_EQ(history.current().plan.hash(), first);
    while (history.canRedo())
        history.redo();
    EXPECT_EQ(history.current().plan.hash(), last);
}

TEST(PlanHistory, EditingFromThePastKeepsTheOtherBranch)
{
    const ModelShape shape = evenShape(2, 8, 2);
    const CompressionPlan dense = CompressionPlan::identity(shape);
    PlanHistory history(dense, "Open", 0);
    const int a = history.commit(*dense.withKept(shape, 0, {0, 1, 2}), "a", 1);
    const int b = history.commit(*history.current().plan.withKept(shape, 1, {0, 1, 2}), "b", 2);
    history.undo();
    const int c = history.commit(*history.current().plan.withKept(shape, 1, {5, 6, 7}), "c", 3);
    EXPECT_EQ(history.entries().size(), 4u);
    EXPECT_EQ(history.entries()[static_cast<std::size_t>(c)].parent, a);
    EXPECT_TRUE(history.onCurrentPath(c));
    EXPECT_FALSE(history.onCurrentPath(b));
    history.jumpTo(b);
    EXPECT_EQ(history.current().text, "b");
    history.undo();
    history.redo();
    EXPECT_EQ(history.currentId(), b) << "redo follows the branch that was visited last";

    const auto rows = history.rows();
    ASSERT_EQ(rows.size(), 4u);
    EXPECT_EQ(rows.back().id, 0);
    for (const auto& row : rows)
        EXPECT_EQ(row.depth, row.id == c ? 1 : 0);
}

TEST(PlanHistory, AnEditThatChangesNothingIsNoEntry)
{
    const ModelShape shape = evenShape(2, 8, 2);
    PlanHistory history(CompressionPlan::identity(shape), "Open", 0);
    EXPECT_EQ(history.commit(CompressionPlan::identity(shape), "nothing", 1), 0);
    EXPECT_EQ(history.entries().size(), 1u);
    EXPECT_EQ(history.commit(CompressionPlan::identity(shape).withLocked(0, true), "lock", 1), 1);
}

// a - X - b - Y: X and Y cannot be read.
TEST(PlanHistory, UndoAndRedoPassOverWhatCannotBeRead)
{
    const ModelShape shape = evenShape(2, 8, 2);
    const CompressionPlan a = CompressionPlan::identity(shape);
    const CompressionPlan b = *a.withKept(shape, 0, {0, 1, 2});
    const auto unread = std::make_shared<const UnreadPlan>();
    std::vector<HistoryEntry> entries;
    for (int id = 0; id < 4; ++id)
        entries.push_back({.id = id, .parent = id - 1, .text = "", .plan = id == 0 ? a : id == 2 ? b : CompressionPlan(), .time = id});
    entries[1].unread = entries[3].unread = unread;
    PlanHistory history = PlanHistory::restore(entries, 2);
    EXPECT_EQ(history.currentId(), 2);
    EXPECT_FALSE(history.canRedo()) << "nothing but an unreadable one follows";
    ASSERT_TRUE(history.canUndo());
    history.undo();
    EXPECT_EQ(history.currentId(), 0);
    EXPECT_FALSE(history.canUndo());
    ASSERT_TRUE(history.canRedo());
    history.redo();
    EXPECT_EQ(history.currentId(), 2);
    history.jumpTo(3);
    EXPECT_EQ(history.currentId(), 2);
    EXPECT_EQ(PlanHistory::restore(entries, 3).currentId(), 2) << "the nearest ancestor";
    entries[0].unread = unread;
    EXPECT_EQ(PlanHistory::restore(entries, 1).currentId(), 2) << "the first that can be read";
    EXPECT_EQ(history.rows().size(), 4u);
}
