// Requests about the engine itself and the folders it sees. All of them are answered on the reader thread.
#include "requests.h"

#include "base/text.h"
#include "engine_main.h"
#include "pipeline/method_catalog.h"

#include <fmt/format.h>

#include <sys/sysinfo.h>
#include <unistd.h>
#include <algorithm>

namespace espalier
{

namespace
{

std::int64_t machineMemoryBytes()
{
    struct sysinfo info = {};
    if (sysinfo(&info) != 0) return 0;
    return static_cast<std::int64_t>(info.totalram) * static_cast<std::int64_t>(info.mem_unit);
}

void initialize(RequestCall& call)
{
    const std::int64_t protocol = call.params.integer("protocol", kProtocolVersion, 0);
    if (call.refused()) return;
    if (protocol != kProtocolVersion)
        return call.fail(unsupported(
            "rpc.protocol", fmt::format("protocol {}", protocol),
            fmt::format("The window speaks protocol {}, this engine ({}) protocol {}.", protocol, ESPALIER_VERSION, kProtocolVersion),
            "Install the same version of both."));
    Json methods = Json::array();
    for (const MethodInfo& method : allMethods())
        methods.push_back(toJson(method));
    call.result({{"name", "espalier-engine"},
                 {"version", ESPALIER_VERSION},
                 {"protocol", kProtocolVersion},
                 {"pid", getpid()},
                 {"threads", resolvedThreads(call.models()->options().threads)},
                 {"device", call.models()->options().device},
                 {"memory_bytes", machineMemoryBytes()},
                 {"supported_architectures", supportedModelTypes()},
                 {"methods", std::move(methods)}});
}

void ping(RequestCall& call)
{
    const auto job = call.queue().running();
    Json answer = {{"busy", job.has_value()}};
    if (job) answer["job"] = *job;
    call.result(std::move(answer));
}

void shutdown(RequestCall& call)
{
    call.queue().close();
    call.result(nullptr);
}

void listFolder(RequestCall& call)
{
    const std::filesystem::path path = call.params.text("path", true);
    if (call.refused()) return;
    std::error_code failure;
    if (!std::filesystem::is_directory(path, failure))
        return call.fail(badInput("folder.missing", path.string(), fmt::format("{} is not a folder.", path.string())));
    std::vector<std::pair<std::string, std::filesystem::directory_entry>> found;
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
    call.result({{"path", path.string()}, {"entries", std::move(entries)}});
}

}  // namespace

std::vector<RequestHandler> engineRequests()
{
    return {{"initialize", initialize}, {"ping", ping}, {"shutdown", shutdown}, {"list_folder", listFolder}};
}

}  // namespace espalier
