#include "session/session_file.h"

#include "base/sha256.h"
#include "session/hdf5.h"
#include "session/session_content.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <span>
#include <type_traits>

namespace espalier
{

namespace
{

constexpr h5::Format kFormat = {"session", "session", kSessionMajor, kSessionMinor};
constexpr const char* kKnownLinks[] = {"session", "plans", "history", "snapshots", "runs", "scores", "usage", kRecoveryLink};
constexpr const char* kKnownFields[] = {
    "model", "shape", "texts", "openings", "tasks", "speeds", "plan_names", "view", "profile", "profile_fingerprint", "writer"};

std::string numbered(std::size_t i) { return fmt::format("{:06}", i); }

// Every distinct plan once, by content (locks and protection included); entries refer to it by index.
class PlanTable
{
public:
    // A plan that could not be read goes back as it was.
    int add(const CompressionPlan& plan, const std::shared_ptr<const UnreadPlan>& unread)
    {
        Json json = unread ? unread->content : toJson(plan);
        const std::string key = canonicalJson(json);
        const auto [it, isNew] = m_index.emplace(key, static_cast<int>(m_plans.size()));
        if (isNew) m_plans.push_back(std::move(json));
        return it->second;
    }
    const Json& json() const { return m_plans; }

private:
    std::map<std::string, int> m_index;
    Json m_plans = Json::array();
};

Json toJson(const SessionOpening& opening)
{
    return {{"plan_hash", opening.planHash}, {"plan_name", opening.planName},
            {"text", opening.text.string()}, {"text_sha256", opening.textSha256},
            {"windows", opening.windows},    {"window_length", opening.windowLength},
            {"time", opening.time},          {"ppl", opening.ppl},
            {"ppl_error", opening.pplError}, {"dense_ppl", opening.densePpl},
            {"delta_nll", opening.deltaNll}, {"delta_nll_error", opening.deltaNllError}};
}

SessionOpening openingFromJson(const Json& json)
{
    return {.planHash = json.at("plan_hash"),
            .planName = json.at("plan_name"),
            .text = json.at("text").get<std::string>(),
            .textSha256 = json.at("text_sha256"),
            .windows = json.at("windows"),
            .windowLength = json.at("window_length"),
            .time = json.at("time"),
            .ppl = json.at("ppl"),
            .pplError = json.at("ppl_error"),
            .densePpl = json.at("dense_ppl"),
            .deltaNll = json.at("delta_nll"),
            .deltaNllError = json.at("delta_nll_error")};
}

Json toJson(const SessionSpeed& speed)
{
    return {{"plan_hash", speed.planHash}, {"computer", speed.computer}, {"measured", speed.measured}, {"time", speed.time}};
}

SessionSpeed speedFromJson(const Json& json)
{
    SessionSpeed speed{
        .planHash = json.at("plan_hash"), .computer = json.at("computer"), .measured = json.at("measured"), .time = json.at("time")};
    if (!speed.measured.is_object()) throw h5::Failure("a speed is none");
    return speed;
}

Json toJson(const SessionTask& task)
{
    return {{"plan_hash", task.planHash},
            {"plan_name", task.planName},
            {"folder", task.folder.string()},
            {"name", task.name},
            {"rules", task.rules},
            {"sha256", task.fileSha256},
            {"hidden", task.hidden},
            {"acc", task.acc},
            {"norm", task.norm},
            {"first", task.first},
            {"dtype", task.dtype},
            {"time", task.time}};
}

SessionTask taskFromJson(const Json& json)
{
    SessionTask task{.planHash = json.at("plan_hash"),
                     .planName = json.at("plan_name"),
                     .folder = json.at("folder").get<std::string>(),
                     .name = json.at("name"),
                     .rules = json.at("rules"),
                     .fileSha256 = json.at("sha256"),
                     .hidden = json.at("hidden"),
                     .acc = json.at("acc"),
                     .norm = json.at("norm"),
                     .first = json.at("first"),
                     .dtype = json.at("dtype"),
                     .time = json.at("time")};
    for (const std::string* marks : {&task.acc, &task.norm})
        if (marks->find_first_not_of("01-") != std::string::npos) throw h5::Failure("the answers to a task are no marks");
    if (!task.norm.empty() && task.norm.size() != task.acc.size()) throw h5::Failure("the answers to a task do not fit together");
    return task;
}

Json sessionJson(const SessionData& data)
{
    Json json = data.unknownFields.is_object() ? data.unknownFields : Json::object();
    Json texts = Json::array();
    for (const SessionText& text : data.texts)
        texts.push_back({{"role", text.role},
                         {"path", text.path.string()},
                         {"first_window", text.firstWindow},
                         {"windows", text.windows},
                         {"part", text.part},
                         {"text_sha256", text.textSha256}});
    Json openings = Json::array();
    for (const SessionOpening& opening : data.openings)
        openings.push_back(toJson(opening));
    json["model"] = {{"path", data.model.path.string()},
                     {"fingerprint", data.model.fingerprint},
                     {"config_sha256", data.model.configSha256},
                     {"weights_sha256", data.model.weightsSha256}};
    json["shape"] = toJson(data.shape);
    json["texts"] = texts;
    json["openings"] = openings;
    json["tasks"] = Json::array();
    for (const SessionTask& task : data.tasks)
        json["tasks"].push_back(toJson(task));
    json["speeds"] = Json::array();
    for (const SessionSpeed& speed : data.speeds)
        json["speeds"].push_back(toJson(speed));
    json["plan_names"] = data.planNames;
    json["view"] = data.view;
    json["profile"] = data.profile.string();
    json["profile_fingerprint"] = data.profileFingerprint;
    json["writer"] = ESPALIER_VERSION;
    return json;
}

Json historyJson(const SessionData& data, PlanTable& plans)
{
    Json entries = Json::array();
    for (const HistoryEntry& entry : data.history.entries())
        entries.push_back({{"id", entry.id},
                           {"parent", entry.parent},
                           {"text", entry.text},
                           {"time", entry.time},
                           {"plan", plans.add(entry.plan, entry.unread)}});
    return {{"current", data.history.currentId()}, {"entries", entries}};
}

Json snapshotsJson(const SessionData& data, PlanTable& plans)
{
    Json snapshots = Json::array();
    for (const SessionSnapshot& snapshot : data.snapshots)
        snapshots.push_back({{"name", snapshot.name},
                             {"note", snapshot.note},
                             {"colour", snapshot.colour},
                             {"time", snapshot.time},
                             {"plan", plans.add(snapshot.plan, snapshot.unread)}});
    return snapshots;
}

Json runJson(const SessionRun& run)
{
    return {{"plan_hash", run.planHash},
            {"tier", run.tier},
            {"text_sha256", run.textSha256},
            {"tokenizer_sha256", run.tokenizerSha256},
            {"window_length", run.windowLength},
            {"bos", run.bos},
            {"dtype", run.dtype},
            {"settings", run.settings},
            {"time", run.time}};
}

Json scoreJson(const ExpertScores& scores)
{
    return {{"method", scores.method},
            {"title", scores.title},
            {"unit", scores.unit},
            {"better", scores.better == Better::Higher ? "higher" : "lower"}};
}

// [layer][expert], padded with NaN to the widest row; the true lengths beside it.
void writeGrid(const h5::Group& group, const ExpertGrid& grid)
{
    std::size_t width = 0;
    std::vector<std::int32_t> lengths;
    for (const auto& row : grid.rows) {
        width = std::max(width, row.size());
        lengths.push_back(static_cast<std::int32_t>(row.size()));
    }
    std::vector<double> values(grid.rows.size() * width, std::numeric_limits<double>::quiet_NaN());
    for (std::size_t i = 0; i < grid.rows.size(); ++i)
        std::copy(grid.rows[i].begin(), grid.rows[i].end(), values.begin() + static_cast<std::ptrdiff_t>(i * width));
    group.write("row_lengths", lengths);
    group.write<double>("values", values, {grid.rows.size(), width});
}

ExpertGrid readGrid(const h5::Group& group)
{
    const auto lengths = group.read<std::int32_t>("row_lengths");
    h5::Shape shape(2);
    const auto values = group.read<double>("values", &shape);
    if (shape[0] != lengths.size()) throw h5::Failure("a score matrix does not fit its row lengths");
    ExpertGrid grid;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
        if (lengths[i] < 0 || static_cast<std::uint64_t>(lengths[i]) > shape[1])
            throw h5::Failure("a score matrix does not fit its row lengths");
        const auto begin = values.begin() + static_cast<std::ptrdiff_t>(i * shape[1]);
        grid.rows.emplace_back(begin, begin + lengths[i]);
    }
    return grid;
}

void writeContent(const h5::Group& root, const SessionData& data)
{
    PlanTable plans;
    root.writeJson("session", sessionJson(data));
    root.writeJson("history", historyJson(data, plans));
    root.writeJson("snapshots", snapshotsJson(data, plans));
    root.writeJson("plans", plans.json());

    const h5::Group runs = root.create("runs");
    for (std::size_t i = 0; i < data.runs.size(); ++i) {
        const h5::Group group = runs.create(numbered(i));
        group.writeJson("run", runJson(data.runs[i]));
        std::vector<std::int32_t> windows;
        std::vector<std::int32_t> tokens;
        std::vector<double> nll;
        for (const WindowLoss& loss : data.runs[i].losses) {
            windows.push_back(loss.window);
            tokens.push_back(loss.tokens);
            nll.push_back(loss.nll);
        }
        group.write("windows", windows);
        group.write("tokens", tokens);
        group.write("nll", nll);
    }

    const h5::Group scores = root.create("scores");
    for (std::size_t i = 0; i < data.scores.size(); ++i) {
        const h5::Group group = scores.create(numbered(i));
        group.writeJson("method", scoreJson(data.scores[i]));
        writeGrid(group, data.scores[i].values);
        group.write("layer_importance", data.scores[i].layerImportance);
    }
    if (!data.usage.empty()) writeGrid(root.create("usage"), data.usage);
    if (data.unknown) h5::copyIn(root, *data.unknown);
}

void readRuns(const h5::Group& runs, SessionData& data)
{
    for (const std::string& name : runs.links()) {
        const h5::Group group = runs.open(name);
        const Json json = group.readJson("run");
        SessionRun run;
        run.planHash = json.at("plan_hash");
        run.tier = json.at("tier");
        run.textSha256 = json.at("text_sha256");
        run.tokenizerSha256 = json.at("tokenizer_sha256");
        run.windowLength = json.at("window_length");
        run.bos = json.at("bos");
        run.dtype = json.at("dtype");
        run.settings = json.at("settings");
        run.time = json.at("time");
        const auto windows = group.read<std::int32_t>("windows");
        const auto tokens = group.read<std::int32_t>("tokens");
        const auto nll = group.read<double>("nll");
        if (tokens.size() != windows.size() || nll.size() != windows.size()) throw h5::Failure("the losses of a run do not fit together");
        for (std::size_t i = 0; i < windows.size(); ++i)
            run.losses.push_back({.window = windows[i], .nll = nll[i], .tokens = tokens[i]});
        data.runs.push_back(std::move(run));
    }
}

void readScores(const h5::Group& scores, SessionData& data)
{
    for (const std::string& name : scores.links()) {
        const h5::Group group = scores.open(name);
        const Json json = group.readJson("method");
        ExpertScores item;
        item.method = json.at("method");
        item.title = json.at("title");
        item.unit = json.at("unit");
        item.better = json.at("better") == "lower" ? Better::Lower : Better::Higher;
        item.values = readGrid(group);
        item.layerImportance = group.read<double>("layer_importance");
        if (item.values.rows.size() != data.shape.layers.size()) throw h5::Failure("a score matrix has not one row per layer");
        data.scores.push_back(std::move(item));
    }
}

// One element of "plans": what it says, or what it is.
struct StoredPlan {
    CompressionPlan plan;
    std::shared_ptr<const UnreadPlan> unread;
};

StoredPlan readPlan(const Json& json, const ModelShape& shape)
{
    Result<CompressionPlan> plan = planFromJson(json, shape);
    if (plan.ok()) return {.plan = std::move(plan).value(), .unread = nullptr};
    return {.plan = {}, .unread = std::make_shared<const UnreadPlan>(UnreadPlan{.content = json, .reason = std::move(plan).error()})};
}

void readHistory(const Json& json, const std::vector<StoredPlan>& plans, SessionData& data)
{
    std::vector<HistoryEntry> entries;
    for (const Json& item : json.at("entries")) {
        HistoryEntry entry;
        entry.id = item.at("id");
        entry.parent = item.at("parent");
        entry.text = item.at("text");
        entry.time = item.at("time");
        const StoredPlan& stored = plans.at(item.at("plan").get<std::size_t>());
        entry.plan = stored.plan;
        entry.unread = stored.unread;
        // Ids are positions, and a parent comes before its children: a file that says otherwise would send the tree in circles.
        if (entry.id != static_cast<int>(entries.size()) || entry.parent >= entry.id || entry.parent < -1)
            throw h5::Failure("the history is not a tree");
        entries.push_back(std::move(entry));
    }
    if (entries.empty()) return;
    const int current = json.at("current");
    if (std::none_of(entries.begin(), entries.end(), [](const HistoryEntry& entry) { return entry.readable(); }))
        entries.push_back({.id = static_cast<int>(entries.size()),
                           .parent = 0,
                           .text = "All experts",
                           .plan = CompressionPlan::identity(data.shape),
                           .time = entries.back().time});
    data.currentUnread = current >= 0 && current < std::ssize(entries) && !entries[static_cast<std::size_t>(current)].readable();
    data.history = PlanHistory::restore(std::move(entries), current);
}

Result<SessionData> readContent(const h5::Group& root)
{
    SessionData data;
    const Json json = root.readJson("session");
    const Json& model = json.at("model");
    data.model = {.path = model.at("path").get<std::string>(),
                  .fingerprint = model.at("fingerprint"),
                  .configSha256 = model.at("config_sha256"),
                  .weightsSha256 = model.at("weights_sha256")};
    ESPALIER_TRY(data.shape, modelShapeFromJson(json.at("shape")));
    for (const Json& item : json.at("texts"))
        data.texts.push_back({.role = item.at("role"),
                              .path = item.at("path").get<std::string>(),
                              .firstWindow = item.value("first_window", 0),
                              .windows = item.value("windows", 0),
                              .part = item.value("part", false),
                              .textSha256 = item.value("text_sha256", std::string())});
    for (const Json& item : json.value("openings", Json::array()))
        data.openings.push_back(openingFromJson(item));
    for (const Json& item : json.value("tasks", Json::array()))
        data.tasks.push_back(taskFromJson(item));
    for (const Json& item : json.value("speeds", Json::array()))
        data.speeds.push_back(speedFromJson(item));
    data.planNames = json.value("plan_names", std::map<std::string, std::string>());
    data.view = json.at("view");
    data.profile = json.at("profile").get<std::string>();
    data.profileFingerprint = json.at("profile_fingerprint");
    for (const auto& [key, value] : json.items())
        if (std::none_of(std::begin(kKnownFields), std::end(kKnownFields), [&name = key](const char* known) { return name == known; }))
            data.unknownFields[key] = value;

    std::vector<StoredPlan> plans;
    for (const Json& item : root.readJson("plans"))
        plans.push_back(readPlan(item, data.shape));
    readHistory(root.readJson("history"), plans, data);
    for (const Json& item : root.readJson("snapshots")) {
        const StoredPlan& stored = plans.at(item.at("plan").get<std::size_t>());
        data.snapshots.push_back({.name = item.at("name"),
                                  .note = item.at("note"),
                                  .colour = item.at("colour"),
                                  .plan = stored.plan,
                                  .time = item.at("time"),
                                  .unread = stored.unread});
    }
    readRuns(root.open("runs"), data);
    readScores(root.open("scores"), data);
    if (root.has("usage")) data.usage = readGrid(root.open("usage"));

    std::vector<std::string> unknown;
    for (const std::string& name : root.links())
        if (std::none_of(std::begin(kKnownLinks), std::end(kKnownLinks), [&](const char* known) { return name == known; }))
            unknown.push_back(name);
    if (!unknown.empty()) data.unknown = std::make_shared<const std::vector<std::byte>>(h5::copyOut(root, unknown));
    return data;
}

std::int64_t estimateBytes(const SessionData& data)
{
    std::int64_t bytes = 1 << 16;
    for (const ExpertScores& scores : data.scores)
        for (const auto& row : scores.values.rows)
            bytes += static_cast<std::int64_t>(row.size() * sizeof(double));
    for (const SessionRun& run : data.runs)
        bytes += 4096 + static_cast<std::int64_t>(run.losses.size() * 16);
    for (const SessionTask& task : data.tasks)
        bytes += 1024 + static_cast<std::int64_t>(task.acc.size() + task.norm.size());
    if (data.unknown) bytes += static_cast<std::int64_t>(data.unknown->size());
    return bytes;
}

// Bytes of values one after the other, each list behind its length. A plan enters by its own hash, which it keeps, so that a history of
// thousands of plans costs microseconds each instead of their JSON: this runs on the GUI thread after every edit.
class ContentHash
{
public:
    template <class T>
    requires std::is_arithmetic_v<T>
    void add(T value)
    {
        const auto bytes = std::as_bytes(std::span(&value, 1));
        m_bytes.insert(m_bytes.end(), bytes.begin(), bytes.end());
        if (m_bytes.size() >= kFlush) flush();
    }
    void add(std::string_view text)
    {
        add(text.size());
        const auto bytes = std::as_bytes(std::span(text));
        m_bytes.insert(m_bytes.end(), bytes.begin(), bytes.end());
    }
    void add(const std::string& text) { add(std::string_view(text)); }
    template <class T>
    void add(const std::vector<T>& values)
    {
        add(values.size());
        const auto bytes = std::as_bytes(std::span(values));
        m_bytes.insert(m_bytes.end(), bytes.begin(), bytes.end());
        if (m_bytes.size() >= kFlush) flush();
    }
    void add(const ExpertGrid& grid)
    {
        add(grid.rows.size());
        for (const auto& row : grid.rows)
            add(row);
    }
    // The plan's own hash covers what decides numbers; locks, protection and the model beside it. One that cannot be read is what it is.
    void add(const CompressionPlan& plan, const std::shared_ptr<const UnreadPlan>& unread)
    {
        if (unread) return add(canonicalJson(unread->content));
        add(plan.hash());
        add(plan.factors().method);
        add(plan.factors().profileSha256);
        add(plan.model().modelType);
        add(plan.model().configSha256);
        add(plan.model().weightsSha256);
        add(plan.constantsProfile());
        add(plan.marks().locked);
        for (const auto& [layer, experts] : plan.marks().protectedExperts) {
            add(layer);
            add(experts);
        }
    }
    std::string finish()
    {
        flush();
        return m_hash.finish();
    }

private:
    static constexpr std::size_t kFlush = std::size_t{1} << 16;
    void flush()
    {
        m_hash.update(m_bytes);
        m_bytes.clear();
    }

    Sha256 m_hash;
    std::vector<std::byte> m_bytes;
};

}  // namespace

Status writeSessionContainer(const std::filesystem::path& path, const SessionData& data, const Json* recovery)
{
    return h5::writeContainer(path, kFormat, estimateBytes(data), [&](const h5::Group& root) {
        writeContent(root, data);
        if (recovery) root.writeJson(kRecoveryLink, *recovery);
    });
}

Result<SessionData> readSessionContainer(const std::filesystem::path& path, Json* recovery)
{
    const auto lock = h5::exclusive();
    ESPALIER_TRY(const h5::OpenedContainer container, h5::openContainer(path, kFormat));
    const bool newerMajor = container.major > kSessionMajor;
    std::string reason;
    try {
        if (recovery && container.root.has(kRecoveryLink)) *recovery = container.root.readJson(kRecoveryLink);
        auto data = readContent(container.root);
        if (data.ok()) {
            data->readOnly = newerMajor;
            data->newerMinor = container.major == kSessionMajor && container.minor > kSessionMinor;
            return data;
        }
        reason = data.error().message;
    } catch (const std::exception& failure) {
        reason = failure.what();
    }
    if (newerMajor) {
        Error error = unsupported("session.newer_version", path.string(),
                                  {"{path} was written by a newer Espalier (session format {major}.{minor}) and cannot be shown here.",
                                   {{"path", path.string()}, {"major", container.major}, {"minor", container.minor}}},
                                  "Open it with that version.");
        error.kept = "The file was not changed.";
        return error;
    }
    Error error =
        badInput("session.invalid", path.string(),
                 {"{path} is not a usable session: {reason}.", {{"path", path.string()}, {"reason", reason}}}, "Open an older copy.");
    error.kept = "Nothing was loaded and the file was not changed.";
    return error;
}

Result<Json> readRecoveryJson(const std::filesystem::path& path)
{
    const auto lock = h5::exclusive();
    ESPALIER_TRY(const h5::OpenedContainer container, h5::openContainer(path, kFormat));
    try {
        return container.root.readJson(kRecoveryLink);
    } catch (const std::exception& failure) {
        return badInput("session.invalid", path.string(), failure.what());
    }
}

Status writeSession(const std::filesystem::path& path, const SessionData& data)
{
    if (data.readOnly) {
        Error error = badInput("session.read_only", path.string(),
                               {"{path} was written by a newer Espalier; saving it here would lose what this version does not know.",
                                {{"path", path.string()}}},
                               "Save under another name with that version.");
        error.kept = "The file was not changed.";
        return error;
    }
    return writeSessionContainer(path, data, nullptr);
}

Result<SessionData> readSession(const std::filesystem::path& path) { return readSessionContainer(path, nullptr); }

std::string sessionContentHash(const SessionData& data)
{
    ContentHash hash;
    Json json = sessionJson(data);
    json.erase("view");
    json.erase("tasks");
    hash.add(canonicalJson(json));
    for (const SessionTask& task : data.tasks) {
        // Marks are long.
        Json rest = toJson(task);
        rest.erase("acc");
        rest.erase("norm");
        hash.add(canonicalJson(rest));
        hash.add(task.acc);
        hash.add(task.norm);
    }
    hash.add(data.history.currentId());
    for (const HistoryEntry& entry : data.history.entries()) {
        hash.add(entry.id);
        hash.add(entry.parent);
        hash.add(entry.text);
        hash.add(entry.time);
        hash.add(entry.plan, entry.unread);
    }
    for (const SessionSnapshot& snapshot : data.snapshots) {
        hash.add(canonicalJson({snapshot.name, snapshot.note, snapshot.colour}));
        hash.add(snapshot.time);
        hash.add(snapshot.plan, snapshot.unread);
    }
    for (const SessionRun& run : data.runs) {
        hash.add(canonicalJson(runJson(run)));
        for (const WindowLoss& loss : run.losses) {
            hash.add(loss.window);
            hash.add(loss.tokens);
            hash.add(loss.nll);
        }
    }
    for (const ExpertScores& scores : data.scores) {
        hash.add(canonicalJson(scoreJson(scores)));
        hash.add(scores.values);
        hash.add(scores.layerImportance);
    }
    hash.add(data.usage);
    if (data.unknown) hash.add(*data.unknown);
    return hash.finish();
}

}  // namespace espalier
