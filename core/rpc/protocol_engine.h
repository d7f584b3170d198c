// Messages about the engine itself and the folders it sees.
#pragma once

#include "base/method_registry.h"
#include "rpc/protocol.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

struct InitializeAnswer {
    std::string name;
    std::string version;
    std::int64_t protocol = kProtocolVersion;
    std::int64_t pid = 0;
    int threads = 0;
    std::string device;
    std::int64_t memoryBytes = 0;  // of the machine
    std::vector<std::string> supportedArchitectures;
    std::vector<MethodInfo> methods;
};
ESPALIER_PROTOCOL_TYPE(InitializeAnswer);

struct InitializeRequest {
    static constexpr const char* kMethod = "initialize";
    using Answer = InitializeAnswer;
    std::string clientVersion;
    std::int64_t protocol = kProtocolVersion;
};
ESPALIER_PROTOCOL_TYPE(InitializeRequest);

// Which protocol the other side speaks, of a request or an answer of `initialize`, whatever else it says. Error: rpc.field.
Result<std::int64_t> protocolOf(const Json& message);

struct PingAnswer {
    bool busy = false;
    std::optional<std::string> job;  // what runs
};
ESPALIER_PROTOCOL_TYPE(PingAnswer);

struct PingRequest {
    static constexpr const char* kMethod = "ping";
    using Answer = PingAnswer;
};
ESPALIER_PROTOCOL_TYPE(PingRequest);

struct ShutdownAnswer {
};  // null
ESPALIER_PROTOCOL_TYPE(ShutdownAnswer);

struct ShutdownRequest {
    static constexpr const char* kMethod = "shutdown";
    using Answer = ShutdownAnswer;
};
ESPALIER_PROTOCOL_TYPE(ShutdownRequest);

struct FolderEntry {
    std::string name;
    bool folder = false;
    std::optional<std::int64_t> bytes;  // nothing where it cannot be told
};
ESPALIER_PROTOCOL_TYPE(FolderEntry);

struct ListFolderAnswer {
    std::string path;
    std::vector<FolderEntry> entries;  // by name
};
ESPALIER_PROTOCOL_TYPE(ListFolderAnswer);

struct ListFolderRequest {
    static constexpr const char* kMethod = "list_folder";
    using Answer = ListFolderAnswer;
    std::string path;
};
ESPALIER_PROTOCOL_TYPE(ListFolderRequest);

}  // namespace espalier
