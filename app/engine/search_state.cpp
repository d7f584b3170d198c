#include "search_state.h"

#include "base/atomic_file.h"
#include "base/sha256.h"
#include "base/text.h"
#include "output.h"
#include "work.h"

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

Json keyLine(const std::string& key) { return {{"espalier_search", 1}, {"key", key}}; }

}  // namespace

std::string searchKey(const PlanInputs& inputs, const PlanRecipe& recipe, const std::string& computeType)
{
    Json key = {{"model", inputs.checkpoint->fingerprint()},
                {"profile", inputs.profileSha256},
                {"recipe", toJson(recipe)},
                {"factors", recipe.factors},
                {"seed", recipe.seed},
                {"base", toJson(inputs.base)},
                {"compute", computeType},
                {"version", ESPALIER_VERSION}};
    if (inputs.windows) key["text"] = {{"sha256", inputs.windows->textSha256}, {"window_length", inputs.windows->windowLength}};
    return sha256Hex(canonicalJson(key));
}

SearchState::SearchState(SearchState&& other) noexcept
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

SearchState::~SearchState()
{
    if (m_descriptor >= 0) ::close(m_descriptor);
}

Result<SearchState> SearchState::open(const std::filesystem::path& path, const std::string& key, bool resume)
{
    SearchState state(path);
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
            if (begin > 0) state.take(*line);
            begin = end + 1;
        }
        state.m_startedAfresh = begin == 0;
        if (text.ok()) good = text->substr(0, begin);
    }
    if (good.empty()) good = keyLine(key).dump() + "\n";
    ESPALIER_CHECK_OK(writeFileAtomically(path, good));
    state.m_descriptor = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
    if (state.m_descriptor < 0) return writeError(path, errno);
    return state;
}

void SearchState::take(const Json& line)
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

std::map<int, Selection> SearchState::selections(const std::string& stage, const std::vector<int>& keep) const
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

std::vector<FieldBlock> SearchState::blocks(const std::string& inputs) const
{
    std::vector<FieldBlock> found;
    for (const auto& [name, block] : m_blocks)
        if (name == inputs) found.push_back(block);
    return found;
}

std::vector<WindowLoss> SearchState::losses(const std::string& planHash) const
{
    const auto it = m_losses.find(planHash);
    return it == m_losses.end() ? std::vector<WindowLoss>() : it->second;
}

Status SearchState::add(const std::string& stage, const Selection& selection)
{
    return append({{"stage", stage}, {"selection", toJson(selection)}});
}

Status SearchState::add(const std::string& inputs, const FieldBlock& block)
{
    return append({{"inputs", inputs}, {"block", toJson(block)}});
}

Status SearchState::add(const std::string& planHash, const std::vector<WindowLoss>& losses)
{
    Json list = Json::array();
    for (const WindowLoss& loss : losses)
        list.push_back({loss.window, loss.nll, loss.tokens});
    std::vector<WindowLoss>& all = m_losses[planHash];
    all.insert(all.end(), losses.begin(), losses.end());
    return append({{"plan", planHash}, {"losses", std::move(list)}});
}

Status SearchState::append(const Json& line)
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

void SearchState::remove()
{
    std::error_code ignored;
    std::filesystem::remove(m_path, ignored);
}

Result<SearchState> openSearchState(const std::filesystem::path& path, bool resume, const PlanInputs& inputs, const PlanRecipe& recipe,
                                    Invocation& invocation)
{
    const bool bf16 = computeTypeFor(invocation.options.dtype, *inputs.checkpoint) == ComputeType::Bf16;
    ESPALIER_TRY(SearchState state, SearchState::open(path, searchKey(inputs, recipe, bf16 ? "bf16" : "fp32"), resume));
    if (state.startedAfresh())
        invocation.warnings.push_back(
            "The earlier search had another model, profile, text or other settings: it cannot be gone on with and begins again.");
    return state;
}

Error withSearchKept(Error error, const SearchState& state)
{
    if (error.kind != ErrorKind::Cancelled || state.finished() == 0) return error;
    error.kept = fmt::format("What the search finished is kept in {}.", state.path().string());
    error.action = "Go on with --resume.";
    return error;
}

}  // namespace espalier
