#include "session/session_values.h"

#include "plan/values.h"
#include "session/session_content.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

// Another window may have made a file whose plan it has not kept yet.
constexpr std::chrono::hours kYoung{24};

template <typename Do>
void eachPlan(const SessionData& data, Do&& act)
{
    for (const HistoryEntry& entry : data.history.entries())
        act(entry.plan, entry.unread);
    for (const SessionSnapshot& snapshot : data.snapshots)
        act(snapshot.plan, snapshot.unread);
}

std::set<ValuesId> namedBy(const SessionData& data)
{
    std::set<ValuesId> ids;
    eachPlan(data, [&](const CompressionPlan& plan, const std::shared_ptr<const UnreadPlan>& unread) {
        if (unread) return;
        for (ValuesId& id : valuesOf(plan))
            ids.insert(std::move(id));
    });
    return ids;
}

bool isSession(const fs::path& file) { return file.extension() != ".json"; }

}  // namespace

std::vector<ValuesInfo> lostValues(const SessionData& data)
{
    std::map<ValuesId, ValuesInfo> lost;
    eachPlan(data, [&](const CompressionPlan& plan, const std::shared_ptr<const UnreadPlan>& unread) {
        if (unread) return;
        for (ValuesInfo& info : lostValues(plan))
            lost.try_emplace(info.id, info);
    });
    std::vector<ValuesInfo> all;
    all.reserve(lost.size());
    for (auto& [id, info] : lost)
        all.push_back(std::move(info));
    return all;
}

void findLostValues(SessionData& data, ValuesSearch& search)
{
    std::map<ValuesId, std::string> found;
    for (const ValuesInfo& info : lostValues(data))
        if (const auto file = search.find(info)) found[info.id] = file->string();
    if (found.empty()) return;
    data.history.placeValues(found);
    for (SessionSnapshot& snapshot : data.snapshots)
        if (!snapshot.unread) snapshot.plan = withValuesAt(snapshot.plan, found);
}

bool namesValues(const SessionData& data, const ValuesId& id)
{
    if (namedBy(data).contains(id)) return true;
    bool named = false;
    eachPlan(data, [&](const CompressionPlan&, const std::shared_ptr<const UnreadPlan>& unread) {
        named = named || (unread && unread->content.dump(-1, ' ', false, Json::error_handler_t::replace).find(id) != std::string::npos);
    });
    return named;
}

void noteSessionValues(const fs::path& folder, const SessionData& data, const fs::path& session)
{
    for (const ValuesId& id : namedBy(data))
        noteValuesUser(keptValuesFile(folder, id), session);
}

std::vector<fs::path> cleanValuesFolder(const fs::path& folder, const fs::path& recoveryFolder, const SessionData& open)
{
    std::error_code failure;
    if (!fs::is_directory(folder, failure)) return {};
    std::vector<SessionData> copies;
    bool allRead = true;
    for (const fs::path& file : recoveryCopies(recoveryFolder)) {
        auto copy = readSessionContainer(file, nullptr);
        allRead = allRead && copy.ok();
        if (copy.ok()) copies.push_back(std::move(*copy));
    }
    if (!allRead) return {};
    std::map<fs::path, Result<SessionData>> sessions;
    const auto inUse = [&](const ValuesId& id) {
        return namesValues(open, id) ||
               std::any_of(copies.begin(), copies.end(), [&](const SessionData& copy) { return namesValues(copy, id); });
    };
    const auto names = [&](const fs::path& user, const ValuesId& id) {
        if (isSession(user)) {
            auto known = sessions.find(user);
            if (known == sessions.end()) known = sessions.emplace(user, readSession(user)).first;
            return !known->second.ok() || namesValues(*known->second, id);
        }
        std::ifstream in(user, std::ios::binary);
        if (!in) return true;
        const std::string text{std::istreambuf_iterator<char>(in), {}};
        return in.bad() || text.empty() || text.find(id) != std::string::npos;
    };
    return removeUnusedValues(folder, fs::file_time_type::clock::now() - kYoung, inUse, names);
}

}  // namespace espalier
