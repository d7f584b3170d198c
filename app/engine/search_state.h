// What a search has finished, on disk beside its output: searched layers, blocks of the receptive field, measured plans. A killed search
// goes on from here and loses at most what was in work. No ATen here.
//
// JSON lines. The first names everything the results depend on; then one line for each, flushed to the disk before the search goes on.
// A line torn by a kill is dropped on opening.
#pragma once

#include "base/error.h"
#include "base/statistics.h"
#include "options.h"
#include "planner.h"
#include "search/receptive_field.h"
#include "search/selector.h"

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace espalier
{

// Hash of model, profile, recipe, start plan, text, compute type and version.
std::string searchKey(const PlanInputs& inputs, const PlanRecipe& recipe, const std::string& computeType);

class SearchState
{
public:
    // With `resume` false, and where the file belongs to another search, it starts afresh (startedAfresh() in the latter case).
    // Errors: output.unwritable, output.disk_full.
    static Result<SearchState> open(const std::filesystem::path& path, const std::string& key, bool resume);
    SearchState(SearchState&& other) noexcept;
    SearchState& operator=(SearchState&&) = delete;
    ~SearchState();

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
    explicit SearchState(std::filesystem::path path) : m_path(std::move(path)) {}
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

// For a verb: opens, and warns where there was nothing to go on with.
Result<SearchState> openSearchState(const std::filesystem::path& path, bool resume, const PlanInputs& inputs, const PlanRecipe& recipe,
                                    Invocation& invocation);
// The error of an interrupted search, saying what was kept.
Error withSearchKept(Error error, const SearchState& state);

}  // namespace espalier
