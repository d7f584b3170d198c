// The engine's jobs: four lanes on one compute thread, latest wins by tag, exactly one terminal event for every accepted job.
//
// A job's answer is its terminal event. It is given once, by a ReplyOnce that the queue owns until the end; whatever happens to the
// job (taken out of the queue, superseded, the queue destroyed, an exception) the destructor answers if nobody did.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "rpc/messages.h"
#include "rpc/protocol.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace espalier
{

// How a running job gives way, at one of its stop checks, when an interactive one waits, or an attended one and it is neither.
enum class GiveWay {
    Never,
    Pause,    // the other job runs inside the stop check, then this one goes on
    Restart,  // this one is stopped, put back at the head of its lane and started again (its finished windows are kept)
};

// Answers a request exactly once. Move-only; any thread.
class ReplyOnce
{
public:
    using Send = std::function<void(const Response&)>;
    ReplyOnce(RequestId id, Send send) : m_id(std::move(id)), m_send(std::move(send)) {}
    ReplyOnce(ReplyOnce&& other) noexcept : m_id(std::move(other.m_id)), m_send(std::exchange(other.m_send, nullptr)) {}
    ReplyOnce& operator=(ReplyOnce&&) = delete;
    ~ReplyOnce();

    const RequestId& id() const { return m_id; }
    void result(Json value);
    void fail(RpcError error);

private:
    void answer(std::variant<Json, RpcError> outcome);
    RequestId m_id;
    Send m_send;  // empty once answered
};

struct JobRequest {
    Lane lane = Lane::Full;
    std::string tag;  // a newer job with the same tag supersedes the older; empty: none
    GiveWay giveWay = GiveWay::Never;
    std::string name;  // for ping: "profile", "evaluate"
    // Runs on the compute thread. May run again after GiveWay::Restart.
    std::function<Result<Json>(JobContext&)> work;
};

class JobQueue
{
public:
    using Notify = std::function<void(const Notification&)>;
    // `notify` sends $/progress and $/partial; called on the compute thread. `now` is milliseconds of a steady clock (injected for tests).
    explicit JobQueue(Notify notify, std::function<std::int64_t()> now = {});
    // Cancels everything, waits for the running job's next stop check, joins.
    ~JobQueue();

    void submit(JobRequest request, ReplyOnce reply);  // any thread
    // Takes a waiting job out, or asks the running one to stop. False when no such job is known (it may have just ended). Any thread.
    bool cancel(const RequestId& id);
    // Name of the running job, if any. Any thread.
    std::optional<std::string> running() const;
    // No more jobs; the running one is stopped at its next check, waiting ones are cancelled. Any thread.
    void close();
    // Blocks until nothing runs and nothing waits, or the deadline passes (tests).
    bool blockUntilIdle(std::chrono::milliseconds deadline);

private:
    struct Job;
    class Context;
    void loop();
    void run(const std::shared_ptr<Job>& job);
    // Whether a job of one lane interrupts a running one of another.
    static bool interrupts(Lane waiting, Lane running);
    std::shared_ptr<Job> takeNext(std::optional<Lane> interrupting);

    Notify m_notify;
    std::function<std::int64_t()> m_now;
    mutable std::mutex m_mutex;
    std::condition_variable m_changed;
    std::deque<std::shared_ptr<Job>> m_waiting;
    std::vector<std::shared_ptr<Job>> m_running;  // more than one while a job is paused for an interactive one
    int m_answering = 0;                          // finished jobs whose answer is on its way
    bool m_closed = false;
    std::thread m_thread;
};

}  // namespace espalier
