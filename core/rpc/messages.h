// JSON-RPC 2.0 messages as values, shared by both programs. Parsing is strict about what decides meaning and ignores unknown fields.
#pragma once

#include "base/error.h"
#include "base/json.h"

#include <optional>
#include <string>
#include <string_view>
#include <variant>

namespace espalier
{

constexpr int kProtocolVersion = 2;

// A request id is an integer or a string; anything else is refused.
using RequestId = std::variant<std::int64_t, std::string>;
Json toJson(const RequestId& id);
std::optional<RequestId> requestIdFromJson(const Json& value);

namespace rpc
{
constexpr int kParseError = -32700;
constexpr int kInvalidRequest = -32600;
constexpr int kMethodNotFound = -32601;
constexpr int kInvalidParams = -32602;
constexpr int kInternalError = -32603;
constexpr int kCancelled = -32800;
constexpr int kSuperseded = -32802;
constexpr int kFailed = -32803;  // data is an Error
}  // namespace rpc

struct RpcError {
    int code = rpc::kFailed;
    std::string message;
    Json data;
};

// kFailed with the whole Error as data; a cancelled Error becomes kCancelled.
RpcError rpcErrorFrom(const Error& error);
// The Error in the data, or one made from code and message.
Error errorFrom(const RpcError& error);

struct Request {
    RequestId id;
    std::string method;
    Json params = Json::object();
};
struct Notification {
    std::string method;
    Json params = Json::object();
};
struct Response {
    RequestId id;
    std::variant<Json, RpcError> outcome;
    bool ok() const noexcept { return outcome.index() == 0; }
};
using Message = std::variant<Request, Notification, Response>;

// Refused text: what to answer, and to whom (no id: answer with null).
struct BadMessage {
    std::optional<RequestId> id;
    RpcError error;
};
std::variant<Message, BadMessage> parseMessage(std::string_view body);

// Compact JSON of one message, without framing. Bytes that are not UTF-8 are replaced, never thrown on.
std::string serialise(const Request& request);
std::string serialise(const Notification& notification);
std::string serialise(const Response& response);
std::string serialise(const BadMessage& refusal);

}  // namespace espalier
