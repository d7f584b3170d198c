#include "server.h"

#include <fmt/format.h>

namespace espalier
{

void RequestCall::refuse(const Error& problem)
{
    m_reply.fail({rpc::kInvalidParams, fmt::format("{}: {}", m_request.method, problem.message), nullptr});
}

void RequestCall::submitJob(Lane lane, GiveWay giveWay, std::function<Result<Json>(JobContext&)> work)
{
    JobRequest job;
    job.lane = m_tag.lane.value_or(lane);
    job.giveWay = giveWay;
    job.name = m_request.method;
    job.tag = m_tag.tag;
    job.work = std::move(work);
    m_queue.submit(std::move(job), std::move(m_reply));
}

Server::Server(const CommonOptions& options, std::function<void(std::string_view)> send)
    : m_send(std::move(send)), m_models(std::make_shared<OpenModels>(options))
{
    for (const auto& table :
         {engineRequests(), modelRequests(), evaluationRequests(), generateRequests(), planRequests(), profileRequests(), taskRequests()})
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
        if (notification->method == kExitMethod) return false;
        if (notification->method == CancelNote::kMethod)
            if (const auto note = fromJson<CancelNote>(notification->params); note.ok()) m_queue->cancel(note->id);
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
