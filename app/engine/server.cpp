#include "server.h"

#include <fmt/format.h>

namespace espalier
{

bool RequestCall::refused()
{
    if (params.problem().empty()) return false;
    m_reply.fail({rpc::kInvalidParams, fmt::format("{}: {}", m_request.method, params.problem()), nullptr});
    return true;
}

void RequestCall::submit(Lane lane, GiveWay giveWay, Work work)
{
    JobRequest job;
    job.lane = lane;
    job.giveWay = giveWay;
    job.name = m_request.method;
    job.work = std::move(work);
    const Json& params = m_request.params;
    if (const auto tag = params.find("tag"); tag != params.end() && tag->is_string()) job.tag = tag->get<std::string>();
    if (const auto name = params.find("lane"); name != params.end() && name->is_string()) {
        if (*name == "interactive")
            job.lane = Lane::Interactive;
        else if (*name == "full")
            job.lane = Lane::Full;
        else if (*name == "export")
            job.lane = Lane::Export;
    }
    m_queue.submit(std::move(job), std::move(m_reply));
}

Server::Server(const CommonOptions& options, std::function<void(std::string_view)> send)
    : m_send(std::move(send)), m_models(std::make_shared<OpenModels>(options))
{
    for (const auto& table : {engineRequests(), modelRequests(), evaluationRequests(), planRequests(), profileRequests()})
        for (const RequestHandler& handler : table)
            m_handlers.emplace(handler.method, handler);
    m_queue = std::make_unique<JobQueue>([this](const Notification& notification) {
        const std::scoped_lock lock(m_sendMutex);
        m_send(serialise(notification));
    });
}

Server::~Server() { m_queue.reset(); }

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

void Server::request(const Request& request)
{
    ReplyOnce reply(request.id, [this](const Response& response) {
        const std::scoped_lock lock(m_sendMutex);
        m_send(serialise(response));
    });
    if (!request.params.is_object()) return reply.fail({rpc::kInvalidParams, "\"params\" must be an object.", nullptr});
    const auto handler = m_handlers.find(request.method);
    if (handler == m_handlers.end())
        return reply.fail({rpc::kMethodNotFound, fmt::format("Unknown method \"{}\".", request.method.substr(0, 64)), nullptr});
    RequestCall call(request, m_models, *m_queue, std::move(reply));
    handler->second.handle(call);
}

}  // namespace espalier
