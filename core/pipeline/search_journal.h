// What a search has finished, on disk beside its output: searched layers, blocks of the receptive field, measured plans. A killed search
// goes on from here and loses at most what was in work.
// The lines of a JournalFile, of which the first names everything the results depend on.
#pragma once

#include "base/error.h"
#include "base/journal_file.h"
#include "base/json.h"
#include "base/statistics.h"
#include "pipeline/plan_journal.h"

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

class SearchJournal final : public PlanJournal
{
public:
    // With `resume` false, and where the file belongs to another search, it starts afresh (startedAfresh() in the latter case).
    // Errors: output.unwritable, output.disk_full.
    static Result<SearchJournal> open(const std::filesystem::path& path, const std::string& key, bool resume);

    bool startedAfresh() const { return m_startedAfresh; }
    std::size_t recovered() const { return m_recovered; }  // results found

    std::map<int, Selection> selections(const std::string& stage, const std::vector<int>& keep) const override;
    std::vector<FieldBlock> blocks(const std::string& inputs) const override;
    std::vector<WindowLoss> losses(const std::string& planHash) const override;

    // Errors: output.unwritable, output.disk_full.
    Status add(const std::string& stage, const Selection& selection) override;
    Status add(const std::string& inputs, const FieldBlock& block) override;
    Status add(const std::string& planHash, const std::vector<WindowLoss>& losses) override;

    std::size_t finished() const { return m_recovered + m_added; }
    const std::filesystem::path& path() const { return m_file->path(); }
    // After the output was written.
    void remove();

private:
    SearchJournal() = default;
    void take(const Json& line);
    Status append(const Json& line);

    std::optional<JournalFile> m_file;  // from open() on
    bool m_startedAfresh = false;
    std::size_t m_recovered = 0;
    std::size_t m_added = 0;
    std::vector<std::pair<std::string, Selection>> m_selections;
    std::vector<std::pair<std::string, FieldBlock>> m_blocks;
    std::map<std::string, std::vector<WindowLoss>> m_losses;
};

}  // namespace espalier
