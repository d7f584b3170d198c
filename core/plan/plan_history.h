// History of plans as a tree: going back never destroys the way forward. Not thread-safe; owned by the window.
//
// An entry whose plan cannot be read here keeps its place and its content, and is never the current one: undo, redo and jumps pass over it.
#pragma once

#include "plan/compression_plan.h"

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace espalier
{

// What a newer version, or a fault, has left of a plan: its JSON, to be written as it was read, and why it is no plan here.
struct UnreadPlan {
    Json content;
    Error reason;
};

struct HistoryEntry {
    int id = 0;  // index in entries(), never reused
    int parent = -1;
    std::string text;  // "Layer 12: keep 39 → 33 of 60"
    CompressionPlan plan;
    std::int64_t time = 0;                          // seconds since 1970
    std::shared_ptr<const UnreadPlan> unread = {};  // then `plan` is empty

    bool readable() const noexcept { return !unread; }
};

class PlanHistory
{
public:
    PlanHistory() = default;
    PlanHistory(CompressionPlan root, std::string text, std::int64_t time);

    bool empty() const noexcept { return m_entries.empty(); }
    const std::vector<HistoryEntry>& entries() const noexcept { return m_entries; }
    const HistoryEntry& current() const { return m_entries[static_cast<std::size_t>(m_current)]; }
    int currentId() const noexcept { return m_current; }

    // Appends a child of the current entry and moves to it. A plan equal to the current one adds nothing (returns currentId()).
    int commit(CompressionPlan plan, std::string text, std::int64_t time);
    bool canUndo() const;
    bool canRedo() const;
    void undo();          // to the parent, or the nearest of its ancestors that is readable
    void redo();          // to the child that was current last, or the nearest readable one behind it
    void jumpTo(int id);  // nothing where the entry is not readable
    bool onCurrentPath(int id) const;
    // Where values files lie now, by id; what the plans are does not change by that.
    void placeValues(const std::map<ValuesId, std::string>& files);
    // Entries for the list, newest branch first: current path and branches, depth gives the rail's indent.
    struct Row {
        int id;
        int depth;
        bool onPath;
    };
    std::vector<Row> rows() const;

    // At least one entry is readable. Where `current` is not, its nearest readable ancestor is; without one the first readable entry.
    static PlanHistory restore(std::vector<HistoryEntry> entries, int current);

private:
    int readableAbove(int id) const;   // of the ancestors; -1 = none
    int readableBehind(int id) const;  // along m_lastChild; -1 = none

    std::vector<HistoryEntry> m_entries;
    std::vector<int> m_lastChild;  // per entry: the child redo goes to, -1 = none
    int m_current = -1;
};

}  // namespace espalier
