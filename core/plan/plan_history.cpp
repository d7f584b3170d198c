#include "plan/plan_history.h"

#include <algorithm>
#include <functional>

namespace espalier
{

PlanHistory::PlanHistory(CompressionPlan root, std::string text, std::int64_t time)
{
    m_entries.push_back({0, -1, std::move(text), std::move(root), time});
    m_lastChild.push_back(-1);
    m_current = 0;
}

int PlanHistory::commit(CompressionPlan plan, std::string text, std::int64_t time)
{
    if (plan == current().plan) return m_current;
    const int id = static_cast<int>(m_entries.size());
    m_entries.push_back({id, m_current, std::move(text), std::move(plan), time});
    m_lastChild.push_back(-1);
    m_lastChild[static_cast<std::size_t>(m_current)] = id;
    m_current = id;
    return id;
}

bool PlanHistory::canUndo() const { return m_current >= 0 && current().parent >= 0; }
bool PlanHistory::canRedo() const { return m_current >= 0 && m_lastChild[static_cast<std::size_t>(m_current)] >= 0; }

void PlanHistory::undo()
{
    if (!canUndo()) return;
    m_lastChild[static_cast<std::size_t>(current().parent)] = m_current;
    m_current = current().parent;
}

void PlanHistory::redo()
{
    if (canRedo()) m_current = m_lastChild[static_cast<std::size_t>(m_current)];
}

void PlanHistory::jumpTo(int id)
{
    if (id < 0 || id >= static_cast<int>(m_entries.size())) return;
    m_current = id;
    for (int child = id; m_entries[static_cast<std::size_t>(child)].parent >= 0; child = m_entries[static_cast<std::size_t>(child)].parent)
        m_lastChild[static_cast<std::size_t>(m_entries[static_cast<std::size_t>(child)].parent)] = child;
}

bool PlanHistory::onCurrentPath(int id) const
{
    for (int entry = m_current; entry >= 0; entry = m_entries[static_cast<std::size_t>(entry)].parent)
        if (entry == id) return true;
    // What redo would bring back still belongs to the line the user is on.
    for (int entry = m_current; entry >= 0; entry = m_lastChild[static_cast<std::size_t>(entry)])
        if (entry == id) return true;
    return false;
}

std::vector<PlanHistory::Row> PlanHistory::rows() const
{
    std::vector<Row> rows;
    if (empty()) return rows;
    // Which entries lie on the current path, once for all rows: asking onCurrentPath() for each would walk the whole path every time.
    std::vector<bool> onPath(m_entries.size(), false);
    for (int entry = m_current; entry >= 0; entry = m_entries[static_cast<std::size_t>(entry)].parent)
        onPath[static_cast<std::size_t>(entry)] = true;
    for (int entry = m_current; entry >= 0; entry = m_lastChild[static_cast<std::size_t>(entry)])
        onPath[static_cast<std::size_t>(entry)] = true;
    std::vector<std::vector<int>> children(m_entries.size());
    for (const HistoryEntry& entry : m_entries)
        if (entry.parent >= 0) children[static_cast<std::size_t>(entry.parent)].push_back(entry.id);
    // Newest on top: the line below an entry is its parent's; side branches stand above the entry they leave, indented.
    std::vector<Row> reversed;
    struct Step {
        int id;
        int depth;
    };
    std::vector<Step> stack = {{0, 0}};
    while (!stack.empty()) {
        const Step step = stack.back();
        stack.pop_back();
        reversed.push_back({step.id, step.depth, onPath[static_cast<std::size_t>(step.id)]});
        const std::vector<int>& next = children[static_cast<std::size_t>(step.id)];
        int mainChild = m_lastChild[static_cast<std::size_t>(step.id)];
        for (const int child : next)
            if (onPath[static_cast<std::size_t>(child)]) mainChild = child;
        if (mainChild < 0 && !next.empty()) mainChild = next.back();
        if (mainChild >= 0) stack.push_back({mainChild, step.depth});
        for (auto it = next.rbegin(); it != next.rend(); ++it)
            if (*it != mainChild) stack.push_back({*it, step.depth + 1});
    }
    rows.assign(reversed.rbegin(), reversed.rend());
    return rows;
}

PlanHistory PlanHistory::restore(std::vector<HistoryEntry> entries, int current)
{
    PlanHistory history;
    history.m_entries = std::move(entries);
    history.m_lastChild.assign(history.m_entries.size(), -1);
    for (const HistoryEntry& entry : history.m_entries)
        if (entry.parent >= 0) history.m_lastChild[static_cast<std::size_t>(entry.parent)] = entry.id;
    history.m_current = history.m_entries.empty() ? -1 : std::clamp(current, 0, static_cast<int>(history.m_entries.size()) - 1);
    if (history.m_current >= 0) history.jumpTo(history.m_current);
    return history;
}

}  // namespace espalier
