#include "evaluate/loss_file.h"

#include "base/atomic_file.h"
#include "base/json.h"
#include "base/sha256.h"
#include "base/text.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

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

Status writeAll(int descriptor, std::string_view bytes, const std::filesystem::path& path)
{
    while (!bytes.empty()) {
        const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
        if (written < 0 && errno == EINTR) continue;
        if (written == 0) errno = ENOSPC;
        if (written <= 0) return writeError(path, errno);
        bytes.remove_prefix(static_cast<std::size_t>(written));
    }
    if (::fdatasync(descriptor) != 0 && errno != EINVAL && errno != EROFS) return writeError(path, errno);
    return {};
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

std::filesystem::path LossFile::defaultPath(const LossKey& key)
{
    std::filesystem::path base;
    if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache && *cache == '/')
        base = cache;
    else if (const char* home = std::getenv("HOME"); home && *home)
        base = std::filesystem::path(home) / ".cache";
    else
        base = std::filesystem::temp_directory_path();
    return base / "espalier" / "evaluations" / (key.hash() + ".jsonl");
}

Result<LossFile> LossFile::open(const std::filesystem::path& path, const LossKey& key, bool resume)
{
    const std::string header = canonicalJson(keyJson(key));
    std::error_code ignored;
    if (path.has_parent_path()) ESPALIER_CHECK_OK(makeFolder(path.parent_path()));

    LossFile file;
    file.m_path = path;
    file.m_descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (file.m_descriptor < 0) return writeError(path, errno);
    if (::flock(file.m_descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return resourceError("evaluate.losses_in_use", path.string(),
                             fmt::format("Another evaluation of the same model and text is writing {}.", path.string()),
                             "Wait for it to finish.");

    std::string content;
    if (resume) {
        if (std::filesystem::file_size(path, ignored) > kMaxFileBytes)
            return badInput("evaluate.invalid_losses", path.string(), fmt::format("{} is too large to be a loss file.", path.string()));
        // What cannot be read is not taken for missing: the file is cut to what was understood.
        ESPALIER_TRY(content, readTextFile(path, "evaluate", kMaxFileBytes));
    }
    std::size_t valid = 0;  // bytes of complete, readable lines
    bool first = true;
    for (std::size_t begin = 0; begin < content.size();) {
        const std::size_t end = content.find('\n', begin);
        if (end == std::string::npos) break;  // torn by a kill
        const std::string_view line(content.data() + begin, end - begin);
        const Result<Json> json = parseJson(line, path.string(), "evaluate");
        const bool last = end + 1 == content.size();
        if (first) {
            if (!json.ok() || !json->is_object() || !json->contains("espalier_losses"))
                return badInput("evaluate.invalid_losses", path.string(),
                                fmt::format("{} does not hold window losses of an evaluation.", path.string()),
                                "Choose another file, or evaluate without resuming.");
            if (canonicalJson(*json) != header)
                return badInput("evaluate.other_run", path.string(),
                                fmt::format("The losses in {} belong to another model, text, number type or version.", path.string()),
                                "Evaluate without resuming, or into another file.");
            first = false;
        } else {
            std::string planHash;
            const auto loss = json.ok() && json->is_object() ? lossFromLine(*json, planHash) : std::nullopt;
            if (!loss) {
                if (last) break;
                return badInput("evaluate.invalid_losses", path.string(),
                                fmt::format("Byte {} of {} is not a window loss.", begin, path.string()), "Evaluate without resuming.");
            }
            file.m_losses.emplace_back(std::move(planHash), *loss);
        }
        begin = valid = end + 1;
    }
    if (::ftruncate(file.m_descriptor, static_cast<off_t>(valid)) != 0 || ::lseek(file.m_descriptor, 0, SEEK_END) < 0)
        return writeError(path, errno);
    if (valid == 0) ESPALIER_CHECK_OK(writeAll(file.m_descriptor, header + "\n", path));
    return file;
}

LossFile::LossFile(LossFile&& other) noexcept
    : m_path(std::move(other.m_path)), m_descriptor(std::exchange(other.m_descriptor, -1)), m_losses(std::move(other.m_losses))
{
}

LossFile& LossFile::operator=(LossFile&& other) noexcept
{
    if (this != &other) {
        if (m_descriptor >= 0) ::close(m_descriptor);
        m_path = std::move(other.m_path);
        m_descriptor = std::exchange(other.m_descriptor, -1);
        m_losses = std::move(other.m_losses);
    }
    return *this;
}

LossFile::~LossFile()
{
    if (m_descriptor >= 0) ::close(m_descriptor);
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
    const Json line = {{"plan", planHash}, {"window", loss.window}, {"nll", loss.nll}, {"tokens", loss.tokens}};
    const off_t whole = ::lseek(m_descriptor, 0, SEEK_CUR);
    if (Status written = writeAll(m_descriptor, canonicalJson(line) + "\n", m_path); !written.ok()) {
        // No half line stays in the way of the next one. Where not even this works, what is there counts as torn by a kill.
        if (whole >= 0 && ::ftruncate(m_descriptor, whole) == 0) ::lseek(m_descriptor, whole, SEEK_SET);
        return written;
    }
    m_losses.emplace_back(planHash, loss);
    return {};
}

}  // namespace espalier
