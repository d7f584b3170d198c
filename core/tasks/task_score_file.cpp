#include "tasks/task_score_file.h"

#include "base/atomic_file.h"
#include "base/cache_folder.h"
#include "base/sha256.h"

#include <utility>

namespace espalier
{

namespace
{

constexpr std::size_t kMostBytes = std::size_t{1} << 30;

Json keyJson(const TaskScoreKey& key)
{
    return {{"espalier_task_scores", 1}, {"fingerprint", key.fingerprint}, {"tokenizer_sha256", key.tokenizerSha256},
            {"mode", key.mode},          {"examples", key.examples},       {"version", ESPALIER_VERSION}};
}

std::pair<std::string, int> placeOf(const std::string& planHash, const std::string& task, int item)
{
    return {planHash + " " + task, item};
}

std::optional<std::pair<std::pair<std::string, int>, ItemScore>> scoreFrom(const Json& line)
{
    try {
        ItemScore score;
        score.logLikelihoods = line.at("loglikelihoods").get<std::vector<double>>();
        score.greedy = line.at("greedy").get<std::vector<bool>>();
        score.tokens = line.at("tokens").get<std::vector<int>>();
        const bool whole = score.greedy.size() == score.logLikelihoods.size() && score.tokens.size() == score.greedy.size();
        if (!whole || score.greedy.empty()) return std::nullopt;
        return std::pair{placeOf(line.at("plan").get<std::string>(), line.at("task").get<std::string>(), line.at("item").get<int>()),
                         std::move(score)};
    } catch (const Json::exception&) {
        return std::nullopt;
    }
}

}  // namespace

std::filesystem::path TaskScoreFile::defaultPath(const TaskScoreKey& key)
{
    return cacheFolder() / "tasks" / (sha256Hex(canonicalJson(keyJson(key))) + ".jsonl");
}

Result<TaskScoreFile> TaskScoreFile::open(const std::filesystem::path& path, const TaskScoreKey& key, bool resume)
{
    const Json header = keyJson(key);
    if (path.has_parent_path()) ESPALIER_CHECK_OK(makeFolder(path.parent_path()));
    std::map<std::pair<std::string, int>, ItemScore> scores;
    JournalOptions options;
    options.resume = resume;
    options.area = "tasks";
    options.maxBytes = kMostBytes;
    ESPALIER_TRY(JournalFile file, JournalFile::open(path, header, options, [&](const JournalLine& line) -> Result<bool> {
                     if (!line.json.ok()) return false;
                     if (line.first) return *line.json == header;
                     const auto list = line.json->is_object() ? line.json->value("scores", Json()) : Json();
                     if (!list.is_array()) return false;
                     for (const Json& entry : list) {
                         auto score = scoreFrom(entry);
                         if (!score) return false;
                         scores.insert_or_assign(score->first, std::move(score->second));
                     }
                     return true;
                 }));
    TaskScoreFile result(std::move(file));
    result.m_scores = std::move(scores);
    return result;
}

const ItemScore* TaskScoreFile::find(const std::string& planHash, const std::string& task, int item) const
{
    const auto found = m_scores.find(placeOf(planHash, task, item));
    return found == m_scores.end() ? nullptr : &found->second;
}

Status TaskScoreFile::append(const std::string& planHash, const std::string& task, int item, const ItemScore& score)
{
    m_waiting.push_back({{"plan", planHash},
                         {"task", task},
                         {"item", item},
                         {"loglikelihoods", score.logLikelihoods},
                         {"greedy", score.greedy},
                         {"tokens", score.tokens}});
    m_scores.insert_or_assign(placeOf(planHash, task, item), score);
    return std::chrono::steady_clock::now() - m_flushed < std::chrono::seconds(1) ? Status() : flush();
}

Status TaskScoreFile::flush()
{
    if (!m_waiting.empty()) ESPALIER_CHECK_OK(m_file.append({{"scores", std::exchange(m_waiting, Json::array())}}));
    m_flushed = std::chrono::steady_clock::now();
    return {};
}

}  // namespace espalier
