#include "plan/plan_history.h"

#include "plan/values_search.h"

#include <algorithm>
#include <functional>

namespace espalier
{

PlanHistory::PlanHistory(CompressionPlan root, std::string text, std::int64_t time)
{
    m_entries.push_back({.id = 0, .parent = -1, .text = std::move(text), .plan = std::move(root), .time = time});
    m_lastChild.push_back(-1);
    m_current = 0;
}

int PlanHistory::commit(CompressionPlan plan, std::string text, std::int64_t time)
{
    if (plan == current().plan) return m_current;
    const int id = static_cast<int>(m_entries.size());
    m_entries.push_back({.id = id, .parent = m_current, .text = std::move(text), .plan = std::move(plan), .time = time});
    m_lastChild.push_back(-1);
    m_lastChild[static_cast<std::size_t>(m_current)] = id;
    m_current = id;
    return id;
}

int PlanHistory::readableAbove(int id) const
{
    int entry = id < 0 ? -1 : m_entries[static_cast<std::size_t>(id)].parent;
    while (entry >= 0 && !m_entries[static_cast<std::size_t>(entry)].readable())
        entry = m_entries[static_cast<std::size_t>(entry)].parent;
    return entry;
}

int PlanHistory::readableBehind(int id) const
{
    int entry = id < 0 ? -1 : m_lastChild[static_cast<std::size_t>(id)];
    while (entry >= 0 && !m_entries[static_cast<std::size_t>(entry)].readable())
        entry = m_lastChild[static_cast<std::size_t>(entry)];
    return entry;
}

bool PlanHistory::canUndo() const { return readableAbove(m_current) >= 0; }
bool PlanHistory::canRedo() const { return readableBehind(m_current) >= 0; }

void PlanHistory::undo()
{
    const int target = readableAbove(m_current);
    if (target < 0) return;
    for (int entry = m_current; entry != target; entry = m_entries[static_cast<std::size_t>(entry)].parent)
        m_lastChild[static_cast<std::size_t>(m_entries[static_cast<std::size_t>(entry)].parent)] = entry;
    m_current = target;
}

void PlanHistory::redo()
{
    if (const int target = readableBehind(m_current); target >= 0) m_current = target;
}

void PlanHistory::jumpTo(int id)
{
    if (id < 0 || id >= static_cast<int>(m_entries.size()) || !m_entries[static_cast<std::size_t>(id)].readable()) return;
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

void PlanHistory::placeValues(const std::map<ValuesId, std::string>& files)
{
    for (HistoryEntry& entry : m_entries)
        if (entry.readable()) entry.plan = withValuesAt(entry.plan, files);
}

PlanHistory PlanHistory::restore(std::vector<HistoryEntry> entries, int current)
{
    PlanHistory history;
    history.m_entries = std::move(entries);
    history.m_lastChild.assign(history.m_entries.size(), -1);
    for (const HistoryEntry& entry : history.m_entries)
        if (entry.parent >= 0) history.m_lastChild[static_cast<std::size_t>(entry.parent)] = entry.id;
    if (history.m_entries.empty()) return history;
    int start = std::clamp(current, 0, static_cast<int>(history.m_entries.size()) - 1);
    if (!history.m_entries[static_cast<std::size_t>(start)].readable()) start = history.readableAbove(start);
    if (start < 0)
        start = static_cast<int>(
            std::find_if(history.m_entries.begin(), history.m_entries.end(), [](const HistoryEntry& e) { return e.readable(); }) -
            history.m_entries.begin());
    history.jumpTo(start);
    return history;
}

}  // namespace espalier
