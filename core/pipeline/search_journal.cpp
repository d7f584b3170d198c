#include "pipeline/search_journal.h"

#include <utility>

namespace espalier
{

namespace
{

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 30;

Json keyLine(const std::string& key) { return {{"espalier_search", 1}, {"key", key}}; }

}  // namespace

Result<SearchJournal> SearchJournal::open(const std::filesystem::path& path, const std::string& key, bool resume)
{
    SearchJournal journal;
    std::error_code ignored;
    const bool there = resume && std::filesystem::exists(path, ignored);
    const JournalOptions options{.resume = resume, .area = "search", .maxBytes = kMaxFileBytes, .locked = {}};
    bool own = false;
    const auto read = [&](const JournalLine& line) -> Result<bool> {
        if (!line.json.ok() || (line.first && *line.json != keyLine(key))) return false;
        own = true;
        if (!line.first) journal.take(*line.json);
        return true;
    };
    Result<JournalFile> file = JournalFile::open(path, keyLine(key), options, read);
    // What cannot be read as a journal is none of this search's.
    if (!file.ok() && resume && file.error().kind == ErrorKind::BadInput)
        file = JournalFile::open(path, keyLine(key), {.resume = false, .area = options.area, .maxBytes = 0, .locked = {}}, read);
    if (!file.ok()) return std::move(file).error();
    journal.m_file.emplace(std::move(file).value());
    journal.m_startedAfresh = there && !own;
    return journal;
}

void SearchJournal::take(const Json& line)
{
    if (const auto it = line.find("selection"); it != line.end()) {
        if (Result<Selection> selection = selectionFromJson(*it); selection.ok())
            m_selections.emplace_back(line.value("stage", ""), std::move(selection).value());
    } else if (const auto at = line.find("block"); at != line.end()) {
        if (Result<FieldBlock> block = fieldBlockFromJson(*at); block.ok())
            m_blocks.emplace_back(line.value("inputs", ""), std::move(block).value());
    } else if (const auto found = line.find("losses"); found != line.end() && found->is_array()) {
        // A race measures a plan on a few windows at a time.
        std::vector<WindowLoss> losses = this->losses(line.value("plan", ""));
        for (const Json& item : *found) {
            if (!item.is_array() || item.size() != 3 || !item[0].is_number_integer() || !item[1].is_number() ||
                !item[2].is_number_integer())
                return;
            losses.push_back({item[0].get<int>(), item[1].get<double>(), item[2].get<int>()});
        }
        m_losses[line.value("plan", "")] = std::move(losses);
    } else {
        return;
    }
    ++m_recovered;
}

std::map<int, Selection> SearchJournal::selections(const std::string& stage, const std::vector<int>& keep) const
{
    std::map<int, Selection> found;
    for (const auto& [name, selection] : m_selections) {
        const auto l = static_cast<std::size_t>(selection.layer);
        if (name == stage && l < keep.size() && !selection.best.empty() &&
            selection.best.front().kept.size() == static_cast<std::size_t>(keep[l]))
            found[selection.layer] = selection;
    }
    return found;
}

std::vector<FieldBlock> SearchJournal::blocks(const std::string& inputs) const
{
    std::vector<FieldBlock> found;
    for (const auto& [name, block] : m_blocks)
        if (name == inputs) found.push_back(block);
    return found;
}

std::vector<WindowLoss> SearchJournal::losses(const std::string& planHash) const
{
    const auto it = m_losses.find(planHash);
    return it == m_losses.end() ? std::vector<WindowLoss>() : it->second;
}

Status SearchJournal::add(const std::string& stage, const Selection& selection)
{
    return append({{"stage", stage}, {"selection", toJson(selection)}});
}

Status SearchJournal::add(const std::string& inputs, const FieldBlock& block)
{
    return append({{"inputs", inputs}, {"block", toJson(block)}});
}

Status SearchJournal::add(const std::string& planHash, const std::vector<WindowLoss>& losses)
{
    Json list = Json::array();
    for (const WindowLoss& loss : losses)
        list.push_back({loss.window, loss.nll, loss.tokens});
    std::vector<WindowLoss>& all = m_losses[planHash];
    all.insert(all.end(), losses.begin(), losses.end());
    return append({{"plan", planHash}, {"losses", std::move(list)}});
}

Status SearchJournal::append(const Json& line)
{
    Status written = m_file->append(line);
    if (written.ok()) {
        ++m_added;
        return written;
    }
    Error error = std::move(written).error();
    error.action = "The search goes on, but what is finished from now on is lost if it is interrupted.";
    return error;
}

void SearchJournal::remove()
{
    std::error_code ignored;
    std::filesystem::remove(path(), ignored);
}

}  // namespace espalier
