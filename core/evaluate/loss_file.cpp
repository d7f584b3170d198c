#include "evaluate/loss_file.h"

#include "base/atomic_file.h"
#include "base/cache_folder.h"
#include "base/json.h"
#include "base/sha256.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

namespace espalier
{

namespace
{

constexpr std::size_t kMaxFileBytes = 256u << 20;

Json keyJson(const LossKey& key)
{
    return {{"espalier_losses", 1},
            {"fingerprint", key.fingerprint},
            {"text_sha256", key.textSha256},
            {"mode", key.mode},
            {"window_length", key.windowLength},
            {"version", key.version.empty() ? std::string(ESPALIER_VERSION) : key.version}};
}

std::optional<WindowLoss> lossFromLine(const Json& line, std::string& planHash)
{
    const auto plan = line.find("plan"), window = line.find("window"), nll = line.find("nll"), tokens = line.find("tokens");
    if (plan == line.end() || window == line.end() || nll == line.end() || tokens == line.end()) return {};
    if (!plan->is_string() || !window->is_number_integer() || !nll->is_number() || !tokens->is_number_integer()) return {};
    planHash = plan->get<std::string>();
    return WindowLoss{window->get<int>(), nll->get<double>(), tokens->get<int>()};
}

}  // namespace

std::string LossKey::hash() const { return sha256Hex(canonicalJson(keyJson(*this))); }

std::filesystem::path LossFile::defaultPath(const LossKey& key) { return cacheFolder() / "evaluations" / (key.hash() + ".jsonl"); }

Result<LossFile> LossFile::open(const std::filesystem::path& path, const LossKey& key, bool resume)
{
    const Json header = keyJson(key);
    std::error_code ignored;
    if (path.has_parent_path()) ESPALIER_CHECK_OK(makeFolder(path.parent_path()));
    JournalOptions options{.resume = resume, .area = "evaluate", .maxBytes = kMaxFileBytes, .locked = {}};
    options.locked = resourceError("evaluate.losses_in_use", path.string(),
                                   {"Another evaluation of the same model and text is writing {path}.", {{"path", path.string()}}},
                                   "Wait for it to finish.");
    if (resume && std::filesystem::file_size(path, ignored) > kMaxFileBytes && !ignored)
        return badInput("evaluate.invalid_losses", path.string(), {"{path} is too large to be a loss file.", {{"path", path.string()}}});
    std::vector<std::pair<std::string, WindowLoss>> losses;
    ESPALIER_TRY(JournalFile file, JournalFile::open(path, header, options, [&](const JournalLine& line) -> Result<bool> {
                     const bool object = line.json.ok() && line.json->is_object();
                     if (line.first) {
                         if (!object || !line.json->contains("espalier_losses"))
                             return badInput("evaluate.invalid_losses", path.string(),
                                             {"{path} does not hold window losses of an evaluation.", {{"path", path.string()}}},
                                             "Choose another file, or evaluate without resuming.");
                         if (*line.json != header)
                             return badInput(
                                 "evaluate.other_run", path.string(),
                                 {"The losses in {path} belong to another model, text, number type or version.", {{"path", path.string()}}},
                                 "Evaluate without resuming, or into another file.");
                         return true;
                     }
                     std::string planHash;
                     const auto loss = object ? lossFromLine(*line.json, planHash) : std::nullopt;
                     if (!loss) {
                         if (line.last) return false;
                         return badInput("evaluate.invalid_losses", path.string(),
                                         {"Byte {begin} of {path} is not a window loss.", {{"begin", line.begin}, {"path", path.string()}}},
                                         "Evaluate without resuming.");
                     }
                     losses.emplace_back(std::move(planHash), *loss);
                     return true;
                 }));
    return LossFile(std::move(file), std::move(losses));
}

std::vector<WindowLoss> LossFile::known(const std::string& planHash) const
{
    std::vector<WindowLoss> losses;
    for (const auto& [plan, loss] : m_losses)
        if (plan == planHash) losses.push_back(loss);
    std::stable_sort(losses.begin(), losses.end(), [](const WindowLoss& a, const WindowLoss& b) { return a.window < b.window; });
    losses.erase(std::unique(losses.begin(), losses.end(), [](const WindowLoss& a, const WindowLoss& b) { return a.window == b.window; }),
                 losses.end());
    return losses;
}

Status LossFile::append(const std::string& planHash, const WindowLoss& loss)
{
    ESPALIER_CHECK_OK(m_file.append({{"plan", planHash}, {"window", loss.window}, {"nll", loss.nll}, {"tokens", loss.tokens}}));
    m_losses.emplace_back(planHash, loss);
    return {};
}

}  // namespace espalier
