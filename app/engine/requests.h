// Requests of the protocol: what a handler gets, and the tables of handlers by subject. A new request is one function in the file of its
// subject and one line in that file's table.
#pragma once

#include "rpc/job_queue.h"
#include "rpc/messages.h"
#include "rpc/protocol.h"
#include "server_models.h"

#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

namespace espalier
{

// One request: its fields, what is open, and the ways to answer it. A handler runs on the reader thread and answers once, by result() or
// fail() what needs no computing, by submit() everything else.
class RequestCall
{
public:
    RequestCall(const Request& request, std::shared_ptr<OpenModels> models, JobQueue& queue, ReplyOnce reply)
        : m_request(request), m_models(std::move(models)), m_queue(queue), m_reply(std::move(reply))
    {
    }

    const Json& params() const { return m_request.params; }  // as they came
    // The request; nothing, and answered, when a field is missing, wrong or not known.
    template <typename T>
    std::optional<T> read()
    {
        Json fields = m_request.params;
        Result<JobTag> tag = takeJobTag(fields);
        if (!tag.ok()) return refuse(tag.error()), std::nullopt;
        m_tag = std::move(tag).value();
        Result<T> request = fromJson<T>(fields);
        if (!request.ok()) return refuse(request.error()), std::nullopt;
        return std::move(request).value();
    }
    void fail(const Error& error) { m_reply.fail(rpcErrorFrom(error)); }
    template <typename Answer>
    void answer(const Answer& value)
    {
        m_reply.result(toJson(value));
    }
    template <typename Answer>
    void answer(const Result<Answer>& outcome)
    {
        outcome.ok() ? answer(*outcome) : fail(outcome.error());
    }
    // Becomes a job of the queue. "tag" and "lane" of the request that was read hold, the latter over `lane`. `work` gives
    // Result<Answer>(JobContext&).
    template <typename Work>
    void submit(Lane lane, GiveWay giveWay, Work work)
    {
        submitJob(lane, giveWay, [work = std::move(work)](JobContext& job) mutable -> Result<Json> {
            auto outcome = work(job);
            if (!outcome.ok()) return std::move(outcome).error();
            return toJson(*outcome);
        });
    }

    const std::shared_ptr<OpenModels>& models() const { return m_models; }  // jobs hold a copy
    JobQueue& queue() { return m_queue; }

private:
    void refuse(const Error& problem);
    void submitJob(Lane lane, GiveWay giveWay, std::function<Result<Json>(JobContext&)> work);

    const Request& m_request;
    JobTag m_tag;
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
std::vector<RequestHandler> generateRequests();    // generate, speed
std::vector<RequestHandler> planRequests();        // plan
std::vector<RequestHandler> profileRequests();     // profile, load_profile, score, rank_curves
std::vector<RequestHandler> taskRequests();        // tasks

}  // namespace espalier
