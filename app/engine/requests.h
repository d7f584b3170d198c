// Requests of the protocol: what a handler gets, and the tables of handlers by subject. A new request is one function in the file of its
// subject and one line in that file's table.
#pragma once

#include "rpc/job_queue.h"
#include "rpc/messages.h"
#include "rpc/request_params.h"
#include "server_models.h"

#include <functional>
#include <memory>
#include <string_view>
#include <vector>

namespace espalier
{

// One request: its fields, what is open, and the ways to answer it. A handler runs on the reader thread and answers once, by result() or
// fail() what needs no computing, by submit() everything else.
class RequestCall
{
public:
    using Work = std::function<Result<Json>(JobContext&)>;

    RequestCall(const Request& request, std::shared_ptr<OpenModels> models, JobQueue& queue, ReplyOnce reply)
        : params(request.params), m_request(request), m_models(std::move(models)), m_queue(queue), m_reply(std::move(reply))
    {
    }

    RequestParams params;

    // True, and answered, when a field that was read is missing or wrong.
    bool refused();
    void result(Json value) { m_reply.result(std::move(value)); }
    void fail(const Error& error) { m_reply.fail(rpcErrorFrom(error)); }
    void answer(const Result<Json>& outcome) { outcome.ok() ? result(*outcome) : fail(outcome.error()); }
    // Becomes a job of the queue. "tag" and "lane" of the request hold, the latter over `lane`.
    void submit(Lane lane, GiveWay giveWay, Work work);

    const std::shared_ptr<OpenModels>& models() const { return m_models; }  // jobs hold a copy
    JobQueue& queue() { return m_queue; }

private:
    const Request& m_request;
    std::shared_ptr<OpenModels> m_models;
    JobQueue& m_queue;
    ReplyOnce m_reply;
};

struct RequestHandler {
    std::string_view method;
    void (*handle)(RequestCall&);
};

std::vector<RequestHandler> engineRequests();      // initialize, ping, shutdown, list_folder
std::vector<RequestHandler> modelRequests();       // open_model, export
std::vector<RequestHandler> evaluationRequests();  // evaluate, estimate
std::vector<RequestHandler> planRequests();        // plan
std::vector<RequestHandler> profileRequests();     // profile, load_profile, score, rank_curves

}  // namespace espalier
