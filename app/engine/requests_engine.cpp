// Requests about the engine itself and the folders it sees. All of them are answered on the reader thread.
#include "requests.h"

#include "base/text.h"
#include "engine_main.h"
#include "pipeline/method_catalog.h"
#include "rpc/protocol_engine.h"

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
    // Of another protocol the other fields may be any.
    if (const Result<std::int64_t> protocol = protocolOf(call.params()); protocol.ok() && *protocol != kProtocolVersion)
        return call.fail(unsupported("rpc.protocol", fmt::format("protocol {}", *protocol),
                                     {"The window speaks protocol {asked}, this engine ({engine_version}) protocol {spoken}.",
                                      {{"asked", *protocol}, {"engine_version", ESPALIER_VERSION}, {"spoken", kProtocolVersion}}},
                                     "Install the same version of both."));
    if (!call.read<InitializeRequest>()) return;
    call.answer(InitializeAnswer{.name = "espalier-engine",
                                 .version = ESPALIER_VERSION,
                                 .protocol = kProtocolVersion,
                                 .pid = getpid(),
                                 .threads = resolvedThreads(call.models()->options().threads),
                                 .device = call.models()->options().device,
                                 .memoryBytes = machineMemoryBytes(),
                                 .supportedArchitectures = supportedModelTypes(),
                                 .methods = allMethods()});
}

void ping(RequestCall& call)
{
    if (!call.read<PingRequest>()) return;
    const auto job = call.queue().running();
    call.answer(PingAnswer{.busy = job.has_value(), .job = job});
}

void shutdown(RequestCall& call)
{
    if (!call.read<ShutdownRequest>()) return;
    call.queue().close();
    call.answer(ShutdownAnswer{});
}

void listFolder(RequestCall& call)
{
    const auto request = call.read<ListFolderRequest>();
    if (!request) return;
    const std::filesystem::path path = request->path;
    std::error_code failure;
    if (!std::filesystem::is_directory(path, failure))
        return call.fail(badInput("folder.missing", path.string(), {"{named} is not a folder.", {{"named", path.string()}}}));
    std::vector<std::pair<std::string, std::filesystem::directory_entry>> found;
    for (std::filesystem::directory_iterator it(path, failure), end; !failure && it != end; it.increment(failure))
        found.emplace_back(it->path().filename().string(), *it);
    std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    ListFolderAnswer answer{.path = path.string(), .entries = {}};
    for (const auto& [name, entry] : found) {
        std::error_code ignored;
        const bool folder = entry.is_directory(ignored);
        const auto bytes = folder ? 0 : entry.file_size(ignored);
        answer.entries.push_back({name, folder, ignored ? std::nullopt : std::optional(static_cast<std::int64_t>(bytes))});
    }
    call.answer(answer);
}

}  // namespace

std::vector<RequestHandler> engineRequests()
{
    return {{InitializeRequest::kMethod, initialize},
            {PingRequest::kMethod, ping},
            {ShutdownRequest::kMethod, shutdown},
            {ListFolderRequest::kMethod, listFolder}};
}

}  // namespace espalier
