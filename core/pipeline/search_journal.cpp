#include "pipeline/search_journal.h"

#include "base/atomic_file.h"
#include "base/text.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <unistd.h>
#include <cerrno>
#include <cstring>

namespace espalier
{

namespace
{

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 30;

bool writeAll(int descriptor, std::string_view bytes)
{
    while (!bytes.empty()) {
        const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
        if (written < 0 && errno == EINTR) continue;
        if (written == 0) errno = ENOSPC;
        if (written <= 0) return false;
        bytes.remove_prefix(static_cast<std::size_t>(written));
    }
    return true;
}

Json keyLine(const std::string& key) { return {{"espalier_search", 1}, {"key", key}}; }

}  // namespace

SearchJournal::SearchJournal(SearchJournal&& other) noexcept
    : m_path(std::move(other.m_path)),
      m_descriptor(std::exchange(other.m_descriptor, -1)),
      m_startedAfresh(other.m_startedAfresh),
      m_recovered(other.m_recovered),
      m_added(other.m_added),
      m_selections(std::move(other.m_selections)),
      m_blocks(std::move(other.m_blocks)),
      m_losses(std::move(other.m_losses))
{
}

SearchJournal::~SearchJournal()
{
    if (m_descriptor >= 0) ::close(m_descriptor);
}

Result<SearchJournal> SearchJournal::open(const std::filesystem::path& path, const std::string& key, bool resume)
{
    SearchJournal journal(path);
    std::error_code ignored;
    std::string good;  // whole lines of this search
    if (resume && std::filesystem::exists(path, ignored)) {
        const Result<std::string> text = readTextFile(path, "search", kMaxFileBytes);
        std::size_t begin = 0;
        while (text.ok()) {
            const std::size_t end = text->find('\n', begin);
            if (end == std::string::npos) break;
            const Result<Json> line = parseJson(std::string_view(*text).substr(begin, end - begin), path.string(), "search");
            if (!line.ok() || (begin == 0 && *line != keyLine(key))) break;
            if (begin > 0) journal.take(*line);
            begin = end + 1;
        }
        journal.m_startedAfresh = begin == 0;
        if (text.ok()) good = text->substr(0, begin);
    }
    if (good.empty()) good = keyLine(key).dump() + "\n";
    ESPALIER_CHECK_OK(writeFileAtomically(path, good));
    journal.m_descriptor = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
    if (journal.m_descriptor < 0) return writeError(path, errno);
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
    const off_t whole = ::lseek(m_descriptor, 0, SEEK_END);
    if (writeAll(m_descriptor, line.dump() + "\n") && (::fdatasync(m_descriptor) == 0 || errno == EINVAL || errno == EROFS)) {
        ++m_added;
        return {};
    }
    const int code = errno;
    // No half line stays in the way of the next one; where not even this works, what is there counts as torn by a kill.
    (void)(whole >= 0 && ::ftruncate(m_descriptor, whole) == 0);
    return resourceError(code == ENOSPC || code == EDQUOT ? "output.disk_full" : "output.unwritable", m_path.string(),
                         fmt::format("{} cannot be written: {}.", m_path.string(), std::strerror(code)),
                         "The search goes on, but what is finished from now on is lost if it is interrupted.");
}

void SearchJournal::remove()
{
    std::error_code ignored;
    std::filesystem::remove(m_path, ignored);
}

}  // namespace espalier
