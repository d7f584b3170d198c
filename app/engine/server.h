// The engine as the window sees it: JSON-RPC requests in, answers and notifications out. No descriptors here: serve.cpp feeds it from
// standard input, tests of the protocol drive the real program.
//
// handle() is called by the reader thread. What needs no computing (initialize, ping, list_folder, cancel) is answered there; everything
// else becomes a job of the queue, and models, evaluators and tokenizers belong to the queue's compute thread.
#pragma once

#include "options.h"
#include "requests.h"
#include "rpc/job_queue.h"
#include "rpc/messages.h"
#include "server_models.h"

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>

namespace espalier
{

class Server
{
public:
    // `send` takes the body of one message; called from both threads, one at a time.
    Server(const CommonOptions& options, std::function<void(std::string_view)> send);
    // Cancels what runs, waits for its layer step and answers everything that is open.
    ~Server();

    // One message body. False once the other side asked to exit.
    bool handle(std::string_view body);

private:
    void request(const Request& request);

    std::function<void(std::string_view)> m_send;
    std::mutex m_sendMutex;
    std::map<std::string_view, RequestHandler> m_handlers;
    std::shared_ptr<OpenModels> m_models;
    std::unique_ptr<JobQueue> m_queue;  // last: its jobs use everything above
};

}  // namespace espalier
