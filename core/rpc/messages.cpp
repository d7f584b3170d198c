#include "rpc/messages.h"

namespace espalier
{

namespace
{

std::string dump(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

Json errorJson(const RpcError& error)
{
    Json json = {{"code", error.code}, {"message", error.message}};
    if (!error.data.is_null()) json["data"] = error.data;
    return json;
}

BadMessage refuse(int code, std::string message, std::optional<RequestId> id = {})
{
    return {std::move(id), {code, std::move(message), nullptr}};
}

}  // namespace

Json toJson(const RequestId& id)
{
    return std::visit([](const auto& value) { return Json(value); }, id);
}

std::optional<RequestId> requestIdFromJson(const Json& value)
{
    if (value.is_number_integer()) return RequestId(value.get<std::int64_t>());
    if (value.is_string()) return RequestId(value.get<std::string>());
    return std::nullopt;
}

RpcError rpcErrorFrom(const Error& error)
{
    if (error.kind == ErrorKind::Cancelled) return {rpc::kCancelled, error.message, toJson(error)};
    return {rpc::kFailed, error.message, toJson(error)};
}

Error errorFrom(const RpcError& error)
{
    if (error.code == rpc::kCancelled) return cancelledError();
    if (error.data.is_object() && error.data.contains("code")) return errorFromJson(error.data);
    Error made = internalError(error.message);
    made.code = "rpc.refused";
    return made;
}

std::variant<Message, BadMessage> parseMessage(std::string_view body)
{
    const Result<Json> parsed = parseJson(body, "message", "rpc");
    if (!parsed.ok()) return refuse(rpc::kParseError, parsed.error().message);
    const Json& json = *parsed;
    if (!json.is_object()) return refuse(rpc::kInvalidRequest, "A message is a JSON object (batches are not used).");
    const auto idField = json.find("id");
    const std::optional<RequestId> id = idField == json.end() ? std::nullopt : requestIdFromJson(*idField);
    if (json.value("jsonrpc", Json()) != "2.0") return refuse(rpc::kInvalidRequest, "\"jsonrpc\" must be \"2.0\".", id);

    if (const auto method = json.find("method"); method != json.end()) {
        if (!method->is_string()) return refuse(rpc::kInvalidRequest, "\"method\" must be a string.", id);
        Json params = json.value("params", Json::object());
        if (params.is_null()) params = Json::object();
        if (!params.is_object()) return refuse(rpc::kInvalidParams, "\"params\" must be an object.", id);
        if (idField == json.end()) return Message(Notification{method->get<std::string>(), std::move(params)});
        if (!id) return refuse(rpc::kInvalidRequest, "\"id\" must be an integer or a string.");
        return Message(Request{*id, method->get<std::string>(), std::move(params)});
    }

    if (!id) return refuse(rpc::kInvalidRequest, "A message without a method must answer a request.");
    if (const auto result = json.find("result"); result != json.end()) return Message(Response{*id, *result});
    const auto error = json.find("error");
    if (error == json.end() || !error->is_object() || !error->value("code", Json()).is_number_integer())
        return refuse(rpc::kInvalidRequest, "An answer has neither a result nor an error.", id);
    RpcError failure;
    failure.code = (*error)["code"].get<int>();
    const Json message = error->value("message", Json(""));
    failure.message = message.is_string() ? message.get<std::string>() : "";
    failure.data = error->value("data", Json());
    return Message(Response{*id, std::move(failure)});
}

std::string serialise(const Request& request)
{
    return dump({{"jsonrpc", "2.0"}, {"id", toJson(request.id)}, {"method", request.method}, {"params", request.params}});
}

std::string serialise(const Notification& notification)
{
    return dump({{"jsonrpc", "2.0"}, {"method", notification.method}, {"params", notification.params}});
}

std::string serialise(const Response& response)
{
    Json json = {{"jsonrpc", "2.0"}, {"id", toJson(response.id)}};
    if (response.ok())
        json["result"] = std::get<0>(response.outcome);
    else
        json["error"] = errorJson(std::get<1>(response.outcome));
    return dump(json);
}

std::string serialise(const BadMessage& refusal)
{
    return dump({{"jsonrpc", "2.0"}, {"id", refusal.id ? toJson(*refusal.id) : Json()}, {"error", errorJson(refusal.error)}});
}

}  // namespace espalier
