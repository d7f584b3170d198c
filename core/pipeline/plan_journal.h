// What the stages of a plan have finished, kept so that an interrupted run goes on. An interface: the stages know no file.
#pragma once

#include "base/error.h"
#include "base/statistics.h"
#include "search/field_block.h"
#include "search/selector.h"

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace espalier
{

// Belongs to the thread that makes the plan.
class PlanJournal
{
public:
    virtual ~PlanJournal() = default;

    // Layers that `stage` finished at these counts. Stages are kept apart.
    virtual std::map<int, Selection> selections(const std::string& stage, const std::vector<int>& keep) const = 0;
    // Leading blocks that were chosen from these inputs (any text that stands for them).
    virtual std::vector<FieldBlock> blocks(const std::string& inputs) const = 0;
    virtual std::vector<WindowLoss> losses(const std::string& planHash) const = 0;

    virtual Status add(const std::string& stage, const Selection& selection) = 0;
    virtual Status add(const std::string& inputs, const FieldBlock& block) = 0;
    virtual Status add(const std::string& planHash, const std::vector<WindowLoss>& losses) = 0;
};

// A journal that cannot be written costs the chance to resume, not the search: the first failure becomes a warning, and from then on
// nothing is recorded. Without a journal nothing ever is.
class JournalKeeper
{
public:
    explicit JournalKeeper(PlanJournal* journal) : m_journal(journal) {}

    std::map<int, Selection> selections(const std::string& stage, const std::vector<int>& keep) const
    {
        return m_journal ? m_journal->selections(stage, keep) : std::map<int, Selection>();
    }
    std::vector<FieldBlock> blocks(const std::string& inputs) const
    {
        return m_journal ? m_journal->blocks(inputs) : std::vector<FieldBlock>();
    }
    std::vector<WindowLoss> losses(const std::string& planHash) const
    {
        return m_journal ? m_journal->losses(planHash) : std::vector<WindowLoss>();
    }
    template <typename Finished>
    void add(const std::string& of, const Finished& finished)
    {
        if (!m_journal) return;
        const Status written = m_journal->add(of, finished);
        if (written.ok()) return;
        m_warning = written.error().describe();
        m_journal = nullptr;
    }
    // What went wrong since it was last asked; empty: nothing.
    std::string takeWarning() { return std::exchange(m_warning, {}); }

private:
    PlanJournal* m_journal;  // may be null
    std::string m_warning;
};

}  // namespace espalier
