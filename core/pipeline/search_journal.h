// What a search has finished, on disk beside its output: searched layers, blocks of the receptive field, measured plans. A killed search
// goes on from here and loses at most what was in work. No ATen here.
//
// JSON lines. The first names everything the results depend on; then one line for each, flushed to the disk before the search goes on.
// A line torn by a kill is dropped on opening.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "base/statistics.h"
#include "search/field_block.h"
#include "search/selector.h"

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace espalier
{

class SearchJournal
{
public:
    // With `resume` false, and where the file belongs to another search, it starts afresh (startedAfresh() in the latter case).
    // Errors: output.unwritable, output.disk_full.
    static Result<SearchJournal> open(const std::filesystem::path& path, const std::string& key, bool resume);
    SearchJournal(SearchJournal&& other) noexcept;
    SearchJournal& operator=(SearchJournal&&) = delete;
    ~SearchJournal();

    bool startedAfresh() const { return m_startedAfresh; }
    std::size_t recovered() const { return m_recovered; }  // results found

    // Layers that `stage` finished at these counts. Stages are kept apart.
    std::map<int, Selection> selections(const std::string& stage, const std::vector<int>& keep) const;
    // Leading blocks that were chosen from these inputs (any text that stands for them).
    std::vector<FieldBlock> blocks(const std::string& inputs) const;
    std::vector<WindowLoss> losses(const std::string& planHash) const;

    Status add(const std::string& stage, const Selection& selection);
    Status add(const std::string& inputs, const FieldBlock& block);
    Status add(const std::string& planHash, const std::vector<WindowLoss>& losses);

    std::size_t finished() const { return m_recovered + m_added; }
    const std::filesystem::path& path() const { return m_path; }
    // After the output was written.
    void remove();

private:
    explicit SearchJournal(std::filesystem::path path) : m_path(std::move(path)) {}
    void take(const Json& line);
    Status append(const Json& line);

    std::filesystem::path m_path;
    int m_descriptor = -1;
    bool m_startedAfresh = false;
    std::size_t m_recovered = 0;
    std::size_t m_added = 0;
    std::vector<std::pair<std::string, Selection>> m_selections;
    std::vector<std::pair<std::string, FieldBlock>> m_blocks;
    std::map<std::string, std::vector<WindowLoss>> m_losses;
};

}  // namespace espalier
