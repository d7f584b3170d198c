// History of plans as a tree: going back never destroys the way forward (ux.md 8). Not thread-safe; owned by the window.
#pragma once

#include "plan/compression_plan.h"

#include <cstdint>
#include <string>
#include <vector>

namespace espalier
{

struct HistoryEntry {
    int id = 0;  // index in entries(), never reused
    int parent = -1;
    std::string text;  // "Layer 12: keep 39 → 33 of 60"
    CompressionPlan plan;
    std::int64_t time = 0;  // seconds since 1970
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
    void undo();  // to the parent
    void redo();  // to the child that was current last
    void jumpTo(int id);
    bool onCurrentPath(int id) const;
    // Entries for the list, newest branch first: current path and branches, depth gives the rail's indent.
    struct Row {
        int id;
        int depth;
        bool onPath;
    };
    std::vector<Row> rows() const;

    static PlanHistory restore(std::vector<HistoryEntry> entries, int current);

private:
    std::vector<HistoryEntry> m_entries;
    std::vector<int> m_lastChild;  // per entry: the child redo goes to, -1 = none
    int m_current = -1;
};

}  // namespace espalier
