#include "server.h"

#include "base/text.h"
#include "estimates.h"
#include "evaluate/evaluator.h"
#include "export/exporter.h"
#include "export/verify.h"
#include "profile/profile_pass.h"
#include "score/scorer.h"
#include "session/profile_file.h"
#include "session/profile_parts.h"
#include "work.h"

#include <fmt/format.h>

#include <sys/sysinfo.h>
#include <unistd.h>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <set>

namespace espalier
{

namespace
{

constexpr std::size_t kModelsHeld = 2;
constexpr std::size_t kEvaluatorsHeld = 4;
constexpr std::size_t kProfilesHeld = 4;

std::int64_t machineMemoryBytes()
{
    struct sysinfo info = {};
    if (sysinfo(&info) != 0) return 0;
    return static_cast<std::int64_t>(info.totalram) * static_cast<std::int64_t>(info.mem_unit);
}

Json listFolder(const std::filesystem::path& path)
{
    std::vector<std::pair<std::string, std::filesystem::directory_entry>> found;
    std::error_code failure;
    for (std::filesystem::directory_iterator it(path, failure), end; !failure && it != end; it.increment(failure))
        found.emplace_back(it->path().filename().string(), *it);
    std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    Json entries = Json::array();
    for (const auto& [name, entry] : found) {
        std::error_code ignored;
        const bool folder = entry.is_directory(ignored);
        const auto bytes = folder ? 0 : entry.file_size(ignored);
        entries.push_back({{"name", name}, {"folder", folder}, {"bytes", ignored ? Json() : Json(bytes)}});
    }
    return {{"path", path.string()}, {"entries", std::move(entries)}};
}

}  // namespace

// Reads the fields of a request's params; the first that is missing or of the wrong type is remembered.
struct Server::Params {
    const Json& json;
    std::string problem;

    const Json* find(const char* key, bool required)
    {
        const auto it = json.find(key);
        if (it != json.end() && !it->is_null()) return &*it;
        if (required) fail(key, "is missing");
        return nullptr;
    }
    void fail(const char* key, const char* what)
    {
        if (problem.empty()) problem = fmt::format("\"{}\" {}.", key, what);
    }
    std::string text(const char* key, bool required)
    {
        const Json* value = find(key, required);
        if (value && !value->is_string()) fail(key, "must be a string");
        return value && value->is_string() ? value->get<std::string>() : std::string();
    }
    std::int64_t integer(const char* key, std::int64_t fallback, std::int64_t low)
    {
        const Json* value = find(key, false);
        if (!value) return fallback;
        if (!value->is_number_integer() || value->get<std::int64_t>() < low || value->get<std::int64_t>() > (std::int64_t{1} << 50)) {
            fail(key, "is not a number in range");
            return fallback;
        }
        return value->get<std::int64_t>();
    }
    int count(const char* key, int fallback, int low)
    {
        return static_cast<int>(std::min<std::int64_t>(integer(key, fallback, low), 1 << 30));
    }
    bool flag(const char* key, bool fallback)
    {
        const Json* value = find(key, false);
        if (value && !value->is_boolean()) fail(key, "must be true or false");
        return value && value->is_boolean() ? value->get<bool>() : fallback;
    }
    std::vector<std::filesystem::path> paths(const char* key)
    {
        std::vector<std::filesystem::path> result;
        const Json* value = find(key, false);
        if (!value) return result;
        if (value->is_string()) return {value->get<std::string>()};
        if (!value->is_array()) fail(key, "must be a list of paths");
        for (const Json& item : *value) {
            if (!item.is_string())
                fail(key, "must be a list of paths");
            else
                result.emplace_back(item.get<std::string>());
        }
        return result;
    }
    TextOptions textOptions()
    {
        TextOptions options;
        options.text = paths("text");
        options.ids = text("ids", false);
        options.windowLength = count("window_length", 0, 2);
        if (const Json* bos = find("bos", false)) {
            if (bos->is_boolean())
                options.bos = bos->get<bool>() ? "yes" : "no";
            else
                options.bos = text("bos", false);
        }
        return options;
    }
};

// What is open, by path. Belongs to the compute thread, the estimators excepted.
class Server::Models
{
public:
    explicit Models(CommonOptions options) : m_options(std::move(options)) {}

    struct Open {
        std::shared_ptr<const Checkpoint> checkpoint;
        std::unique_ptr<MoeModel> model;  // created when first needed
        std::map<std::string, TokenWindows> texts;
        std::vector<std::pair<std::string, std::unique_ptr<Evaluator>>> evaluators;  // most recently used last
    };

    // Reads the headers again; a model whose files are the same stays as it is, with all that was computed for it.
    Result<Open*> reopen(const std::string& path)
    {
        ESPALIER_TRY(auto checkpoint, Checkpoint::open(path));
        const auto it = find(path);
        if (it != m_open.end() && (*it).second->checkpoint->fingerprint() == checkpoint->fingerprint()) return touch(it);
        if (it != m_open.end()) m_open.erase(it);
        while (m_open.size() >= kModelsHeld)
            m_open.erase(m_open.begin());
        m_open.emplace_back(path, std::make_unique<Open>());
        m_open.back().second->checkpoint = std::move(checkpoint);
        return m_open.back().second.get();
    }

    Result<Open*> open(const std::string& path)
    {
        if (const auto it = find(path); it != m_open.end()) return touch(it);
        return reopen(path);
    }

    Result<MoeModel*> model(Open& open, std::int64_t memoryBudget)
    {
        if (open.model && (memoryBudget == 0 || open.model->options().memoryBudget == memoryBudget)) return open.model.get();
        ESPALIER_TRY(ModelOptions options, modelOptions(m_options));
        options.compute = computeTypeFor(m_options.dtype, *open.checkpoint);
        if (memoryBudget > 0) options.memoryBudget = memoryBudget;
        open.evaluators.clear();
        ESPALIER_TRY(open.model, MoeModel::create(open.checkpoint, options));
        return open.model.get();
    }

    // One evaluator per text, so that residual streams and losses live on between edits.
    Result<Evaluator*> evaluator(Open& open, const TextOptions& text)
    {
        std::string key = fmt::format("{}|{}|{}|{}", text.windowLength, text.windows, text.bos, text.ids);
        for (const auto& path : text.text)
            key += "|" + fileStamp(path);
        auto& held = open.evaluators;
        const auto it = std::find_if(held.begin(), held.end(), [&](const auto& item) { return item.first == key; });
        if (it != held.end()) {
            std::rotate(it, it + 1, held.end());
            return held.back().second.get();
        }
        ESPALIER_TRY(TokenWindows windows, openText(text, *open.checkpoint));
        ESPALIER_TRY(MoeModel * model, this->model(open, 0));
        if (held.size() >= kEvaluatorsHeld) held.erase(held.begin());
        held.emplace_back(key, std::make_unique<Evaluator>(*model, std::move(windows),
                                                           evaluatorCacheBytes() / static_cast<std::int64_t>(kEvaluatorsHeld)));
        return held.back().second.get();
    }

    // The profile that a plan's factors may come from, or nothing for an empty path. Held open while its content stays the same.
    Result<FactorSources> profile(const std::string& path)
    {
        if (path.empty()) return FactorSources();
        ESPALIER_TRY(const std::string sha256, profileSha256(path));
        const auto it = std::find_if(m_profiles.begin(), m_profiles.end(),
                                     [&](const auto& held) { return held->path() == path && held->profileSha256() == sha256; });
        if (it != m_profiles.end()) return FactorSources{*it};
        ESPALIER_TRY(auto parts, ProfileParts::open(path));
        if (m_profiles.size() >= kProfilesHeld) m_profiles.erase(m_profiles.begin());
        m_profiles.push_back(parts);
        return FactorSources{std::move(parts)};
    }

    const CommonOptions& options() const { return m_options; }
    // Used by the reader thread too.
    EstimatorCache& estimators() { return m_estimators; }

private:
    using List = std::vector<std::pair<std::string, std::unique_ptr<Open>>>;
    List::iterator find(const std::string& path)
    {
        return std::find_if(m_open.begin(), m_open.end(), [&](const auto& item) { return item.first == path; });
    }
    Open* touch(List::iterator it)
    {
        std::rotate(it, it + 1, m_open.end());
        return m_open.back().second.get();
    }

    CommonOptions m_options;
    List m_open;  // most recently used last
    std::vector<std::shared_ptr<const ProfileParts>> m_profiles;
    EstimatorCache m_estimators;
};

namespace
{

Json profileJson(const std::string& path, const ProfileData& data)
{
    return {{"profile", path},
            {"tokens", data.tokens},
            {"windows", data.windows},
            {"window_length", data.windowLength},
            {"text_sha256", data.textSha256},
            {"fingerprint", data.fingerprint},
            {"layers_done", data.layers.size()},
            {"collected", data.collected},
            {"uncovered_fraction", numberJson(uncoveredFraction(data))},
            {"scores", allScoresJson(data)},
            {"warnings", profileWarnings(data)}};
}

}  // namespace

Server::Server(const CommonOptions& options, std::function<void(std::string_view)> send)
    : m_options(options), m_send(std::move(send)), m_models(std::make_shared<Models>(options))
{
    m_queue = std::make_unique<JobQueue>([this](const Notification& notification) {
        const std::scoped_lock lock(m_sendMutex);
        m_send(serialise(notification));
    });
}

Server::~Server() { m_queue.reset(); }

Json Server::initialize() const
{
    Json methods = Json::array();
    for (const MethodInfo& method : allMethods())
        methods.push_back(toJson(method));
    return {{"name", "espalier-engine"},
            {"version", ESPALIER_VERSION},
            {"protocol", kProtocolVersion},
            {"pid", getpid()},
            {"threads", resolvedThreads(m_options.threads)},
            {"device", "cpu"},
            {"memory_bytes", machineMemoryBytes()},
            {"supported_architectures", {"mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2"}},
            {"methods", std::move(methods)}};
}

bool Server::handle(std::string_view body)
{
    const auto parsed = parseMessage(body);
    if (const auto* bad = std::get_if<BadMessage>(&parsed)) {
        const std::scoped_lock lock(m_sendMutex);
        m_send(serialise(*bad));
        return true;
    }
    const Message& message = std::get<Message>(parsed);
    if (const auto* notification = std::get_if<Notification>(&message)) {
        if (notification->method == "exit") return false;
        if (notification->method == "$/cancelRequest" && notification->params.is_object())
            if (const auto id = requestIdFromJson(notification->params.value("id", Json()))) m_queue->cancel(*id);
        return true;
    }
    if (const auto* asked = std::get_if<Request>(&message)) request(*asked);
    return true;  // an answer to nothing is ignored
}

void Server::submit(const Request& request, Lane lane, GiveWay giveWay, std::function<Result<Json>(JobContext&)> work, ReplyOnce reply)
{
    JobRequest job;
    job.lane = lane;
    job.giveWay = giveWay;
    job.name = request.method;
    job.work = std::move(work);
    if (const auto tag = request.params.find("tag"); tag != request.params.end() && tag->is_string()) job.tag = tag->get<std::string>();
    if (const auto name = request.params.find("lane"); name != request.params.end() && name->is_string()) {
        if (*name == "interactive")
            job.lane = Lane::Interactive;
        else if (*name == "full")
            job.lane = Lane::Full;
        else if (*name == "export")
            job.lane = Lane::Export;
    }
    m_queue->submit(std::move(job), std::move(reply));
}

void Server::request(const Request& request)
{
    ReplyOnce reply(request.id, [this](const Response& response) {
        const std::scoped_lock lock(m_sendMutex);
        m_send(serialise(response));
    });
    if (!request.params.is_object()) return reply.fail({rpc::kInvalidParams, "\"params\" must be an object.", nullptr});
    Params params{request.params, {}};
    const auto invalid = [&] {
        if (params.problem.empty()) return false;
        reply.fail({rpc::kInvalidParams, fmt::format("{}: {}", request.method, params.problem), nullptr});
        return true;
    };
    const std::shared_ptr<Models> models = m_models;
    const std::string& method = request.method;

    if (method == "initialize") {
        const std::int64_t protocol = params.integer("protocol", kProtocolVersion, 0);
        if (invalid()) return;
        if (protocol != kProtocolVersion)
            return reply.fail(rpcErrorFrom(unsupported(
                "rpc.protocol", fmt::format("protocol {}", protocol),
                fmt::format("The window speaks protocol {}, this engine ({}) protocol {}.", protocol, ESPALIER_VERSION, kProtocolVersion),
                "Install the same version of both.")));
        return reply.result(initialize());
    }
    if (method == "ping") {
        const auto job = m_queue->running();
        Json answer = {{"busy", job.has_value()}};
        if (job) answer["job"] = *job;
        return reply.result(std::move(answer));
    }
    if (method == "shutdown") {
        m_queue->close();
        return reply.result(nullptr);
    }
    if (method == "list_folder") {
        const std::filesystem::path path = params.text("path", true);
        if (invalid()) return;
        std::error_code failure;
        if (!std::filesystem::is_directory(path, failure))
            return reply.fail(rpcErrorFrom(badInput("folder.missing", path.string(), fmt::format("{} is not a folder.", path.string()))));
        return reply.result(listFolder(path));
    }
    if (method == "open_model") {
        const std::string path = params.text("path", true);
        if (invalid()) return;
        const auto work = [models, path](JobContext&) -> Result<Json> {
            const Result<Models::Open*> open = models->reopen(path);
            if (!open.ok() && open.error().kind == ErrorKind::Unsupported) {
                // Known and not run here: what the headers say can still be shown.
                ESPALIER_TRY(const Inspection inspection, inspect(path));
                return Json{{"path", path},
                            {"fingerprint", inspection.fingerprint},
                            {"config_sha256", inspection.configSha256},
                            {"weights_sha256", inspection.weightsSha256},
                            {"shape", nullptr},
                            {"inspection", toJson(inspection)},
                            {"warnings", inspection.warnings},
                            {"tokenizer", nullptr},
                            {"forward_supported", false}};
            }
            if (!open.ok()) return open.error();
            const Checkpoint& checkpoint = *(*open)->checkpoint;
            std::vector<std::string> warnings = checkpoint.warnings();
            Json tokenizerJson = nullptr;
            if (const Result<Tokenizer> tokenizer = Tokenizer::load(path, checkpoint.shape().vocabularySize); tokenizer.ok())
                tokenizerJson = {
                    {"sha256", tokenizer->sha256()}, {"vocabulary", tokenizer->vocabularySize()}, {"adds_bos", tokenizer->addsBos()}};
            else if (tokenizer.error().code != "tokenizer.missing")
                warnings.push_back(tokenizer.error().describe());
            return Json{{"path", path},
                        {"fingerprint", checkpoint.fingerprint()},
                        {"config_sha256", checkpoint.configSha256()},
                        {"weights_sha256", checkpoint.weightsSha256()},
                        {"shape", toJson(checkpoint.shape())},
                        {"inspection", toJson(inspect(checkpoint))},
                        {"warnings", warnings},
                        {"tokenizer", std::move(tokenizerJson)},
                        {"forward_supported", checkpoint.forwardSupported()}};
        };
        return submit(request, Lane::Interactive, GiveWay::Never, work, std::move(reply));
    }
    if (method == "profile") {
        const std::string path = params.text("path", true);
        TextOptions text = params.textOptions();
        text.windows = params.count("windows", 0, 0);
        ProfileOptions options;
        options.out = params.text("out", true);
        options.gramTokens = params.count("gram_tokens", -1, -1);
        if (const Json* collect = params.find("collect", false)) {
            const bool names =
                collect->is_array() && std::all_of(collect->begin(), collect->end(), [](const Json& name) { return name.is_string(); });
            if (names)
                options.collect = collect->get<std::vector<std::string>>();
            else
                params.fail("collect", "is not a list of statistics");
        }
        options.resume = params.flag("resume", false);
        options.force = params.flag("force", true);
        const std::int64_t budget = params.integer("memory_budget", 0, 0);
        if (text.text.empty() && text.ids.empty()) params.fail("text", "is missing");
        if (invalid()) return;
        const auto work = [models, path, text, options, budget](JobContext& job) -> Result<Json> {
            ESPALIER_TRY(Models::Open * open, models->open(path));
            ESPALIER_TRY(const TokenWindows windows, openText(text, *open->checkpoint));
            ESPALIER_TRY(MoeModel * model, models->model(*open, budget));
            const auto started = std::chrono::steady_clock::now();
            ESPALIER_TRY(const ProfileData data, runProfile(*model, windows, options, job));
            const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
            models->estimators().remember(options.out, data);
            Json result = profileJson(options.out.string(), data);
            result["tokens_per_second"] = numberJson(static_cast<double>(data.tokens) / seconds);
            result["seconds"] = seconds;
            result["dtype"] = model->numericMode();
            return result;
        };
        // An interactive evaluation runs between two steps of the pass; the pass itself goes on where it was.
        return submit(request, Lane::Full, GiveWay::Pause, work, std::move(reply));
    }
    if (method == "load_profile") {
        const std::string path = params.text("profile", true);
        if (invalid()) return;
        const auto work = [models, path](JobContext&) -> Result<Json> {
            ESPALIER_TRY(const ProfileData data, readProfile(path));
            models->estimators().remember(path, data);
            return profileJson(path, data);
        };
        return submit(request, Lane::Interactive, GiveWay::Never, work, std::move(reply));
    }
    if (method == "score") {
        const std::string path = params.text("profile", true);
        const std::string id = params.text("method", true);
        espalier::Params methodParams;
        if (const Json* given = params.find("params", false)) {
            if (!given->is_object())
                params.fail("params", "must be an object");
            else
                for (const auto& [key, value] : given->items())
                    methodParams[key] = value;
        }
        if (invalid()) return;
        const auto work = [path, id, methodParams](JobContext&) -> Result<Json> {
            ESPALIER_TRY(const ProfileData data, readProfile(path));
            ESPALIER_TRY(const ExpertScores scores, score(data, id, methodParams));
            return scoresJson(scores);
        };
        return submit(request, Lane::Interactive, GiveWay::Never, work, std::move(reply));
    }
    if (method == "estimate") {
        const std::string profilePath = params.text("profile", true);
        const Json* plan = params.find("plan", false);
        const Json planJson = plan ? *plan : Json();
        const Json* denseNll = params.find("dense_nll", false);
        if (denseNll && !denseNll->is_number()) params.fail("dense_nll", "must be a number");
        const Json* pairsJson = params.find("pairs", false);
        Result<std::vector<EstimatePair>> pairs = pairsFromJson(pairsJson ? *pairsJson : Json::array());
        if (!pairs.ok()) params.fail("pairs", "is not a list of estimates beside exact changes");
        if (invalid()) return;
        const auto answer = [planJson, pairs = std::move(pairs).value(),
                             dense = denseNll ? *denseNll : Json()](HeldEstimator& estimator) -> Result<Json> {
            ESPALIER_TRY(const auto estimate, estimator.estimate(planJson));
            Json result = estimateJson(estimate.first, pairs);
            result["plan_hash"] = estimate.second;
            // On the text that the dense NLL was measured on.
            const Json& delta = result["delta_nll"];
            result["ppl"] =
                dense.is_number() && delta.is_number() ? numberJson(std::exp(dense.get<double>() + delta.get<double>())) : Json();
            return result;
        };
        // Fractions of a millisecond to a few: here, whatever the compute thread is busy with. Only reading the profile is a job.
        if (const auto held = models->estimators().find(profilePath)) {
            const Result<Json> result = answer(*held);
            return result.ok() ? reply.result(*result) : reply.fail(rpcErrorFrom(result.error()));
        }
        const auto work = [models, profilePath, answer](JobContext&) -> Result<Json> {
            ESPALIER_TRY(const auto held, models->estimators().load(profilePath));
            return answer(*held);
        };
        return submit(request, Lane::Interactive, GiveWay::Never, work, std::move(reply));
    }
    if (method == "evaluate") {
        const std::string path = params.text("path", true);
        TextOptions text = params.textOptions();
        text.windows = params.count("max_windows", 0, 0);
        if (text.text.empty() && text.ids.empty()) params.fail("text", "is missing");
        const Json* plan = params.find("plan", false);
        const Json planJson = plan ? *plan : Json();
        const std::string profilePath = params.text("profile", false);
        const std::string tier = params.text("tier", false);
        int first = params.count("first", 0, 0);
        std::vector<int> indices;
        if (const Json* windows = params.find("windows", false)) {
            if (windows->is_array() && std::all_of(windows->begin(), windows->end(), [](const Json& w) {
                    return w.is_number_unsigned() && w.get<std::uint64_t>() < (1u << 30);
                }))
                indices = windows->get<std::vector<int>>();
            else if (windows->is_object() && windows->value("first", Json()).is_number_unsigned())
                first = windows->at("first").get<int>();
            else if (windows->is_number_unsigned())
                first = windows->get<int>();
            else if (!(windows->is_object() && windows->contains("all")))
                params.fail("windows", "is neither a list of windows nor {\"first\": n} nor {\"all\": true}");
        }
        const bool listed = params.find("windows", false) && params.find("windows", false)->is_array();
        if (invalid()) return;
        const auto work = [models, path, text, planJson, profilePath, first, indices, listed](JobContext& job) -> Result<Json> {
            const auto started = std::chrono::steady_clock::now();
            ESPALIER_TRY(Models::Open * open, models->open(path));
            CompressionPlan compression = CompressionPlan::identity(open->checkpoint->shape());
            if (!planJson.is_null()) {
                ESPALIER_TRY(compression, planFromJson(planJson, open->checkpoint->shape()));
                ESPALIER_CHECK_OK(checkPlanModel(compression, *open->checkpoint, false));
            }
            // A profile that is gone matters to plans that need it only.
            FactorSources profiles;
            if (compression.hasRanks() && compression.factors().method == "whitened-svd") {
                ESPALIER_TRY(profiles, models->profile(profilePath));
            }
            compression = withGivenProfile(compression, profiles);
            ESPALIER_TRY(Evaluator * evaluator, models->evaluator(*open, text));
            open->model->setFactorSources(profiles);
            std::vector<int> wanted = indices;
            if (!listed) wanted = firstWindows(first > 0 ? std::min(first, evaluator->windowCount()) : evaluator->windowCount());
            ESPALIER_TRY(const std::vector<WindowLoss> losses, evaluator->run(compression, wanted, {}, job));
            const PerplexityEstimate estimate = perplexity(losses);
            return Json{{"plan_hash", compression.hash()},
                        {"windows", windowsJson(losses, true)},
                        {"ppl", numberJson(estimate.ppl)},
                        {"nll", numberJson(estimate.nll)},
                        {"nll_error", numberJson(estimate.nllError)},
                        {"scored_tokens", estimate.tokens},
                        {"window_count_total", evaluator->windowCount()},
                        {"window_length", evaluator->windows().windowLength},
                        {"text_sha256", evaluator->windows().textSha256},
                        {"tokenizer_sha256", evaluator->windows().tokenizerSha256},
                        {"dtype", open->model->numericMode()},
                        {"seconds", std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count()}};
        };
        // A full evaluation gives way to an interactive one and starts again: the evaluator keeps every window that it measured.
        const bool full = tier == "full";
        return submit(request, full ? Lane::Full : Lane::Interactive, full ? GiveWay::Restart : GiveWay::Never, work, std::move(reply));
    }
    if (method == "export") {
        const std::string path = params.text("path", true);
        const Json* plan = params.find("plan", true);
        const Json planJson = plan ? *plan : Json();
        ExportOptions options;
        options.out = params.text("out", true);
        options.flavor = params.text("flavor", false);
        options.force = params.flag("force", false);
        options.resume = params.flag("resume", false);
        options.dryRun = params.flag("dry_run", false);
        options.unfuse = params.flag("unfuse", false);
        options.shardSize = params.integer("shard_size", options.shardSize, 1);
        if (const Json* evaluation = params.find("evaluation", false)) options.evaluation = *evaluation;
        const std::string profilePath = params.text("profile", false);
        const bool verify = params.flag("verify", true);
        TextOptions text = params.textOptions();
        text.windows = params.count("windows", 2, 1);
        if (invalid()) return;
        const auto work = [models, path, planJson, profilePath, options = std::move(options), verify,
                           text](JobContext& job) mutable -> Result<Json> {
            ESPALIER_TRY(Models::Open * open, models->open(path));
            const std::shared_ptr<const Checkpoint> checkpoint = open->checkpoint;
            ESPALIER_TRY(CompressionPlan compression, planFromJson(planJson, checkpoint->shape()));
            ESPALIER_CHECK_OK(checkPlanModel(compression, *checkpoint, false));
            if (compression.hasRanks() && compression.factors().method == "whitened-svd") {
                ESPALIER_TRY(options.profiles, models->profile(profilePath));
            }
            compression = withGivenProfile(compression, options.profiles);
            ESPALIER_TRY(const ExportReport report, exportCheckpoint(*checkpoint, compression, options, job));
            Json result = toJson(report);
            result["verify"] = nullptr;
            if (!verify || options.dryRun) return result;
            VerifyOptions check;
            check.exported = options.out;
            check.source = path;
            check.profiles = options.profiles;
            ESPALIER_TRY(check.model, modelOptions(models->options()));
            if (!text.text.empty() || !text.ids.empty()) {
                ESPALIER_TRY(check.windows, openText(text, *checkpoint));
            }
            ESPALIER_TRY(const VerifyReport verified, verifyExport(check, job));
            result["verify"] = toJson(verified);
            return result;
        };
        return submit(request, Lane::Export, GiveWay::Pause, work, std::move(reply));
    }
    reply.fail({rpc::kMethodNotFound, fmt::format("Unknown method \"{}\".", method.substr(0, 64)), nullptr});
}

}  // namespace espalier
