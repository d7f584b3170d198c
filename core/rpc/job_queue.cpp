#include "rpc/job_queue.h"

#include "base/exception.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>

namespace espalier
{

namespace
{
constexpr std::int64_t kProgressIntervalMsec = 34;  // at most 30 per second and job
}

ReplyOnce::~ReplyOnce()
{
    if (m_send) fail({rpc::kInternalError, "The engine ended this request without an answer.", nullptr});
}

void ReplyOnce::result(Json value) { answer(std::move(value)); }
void ReplyOnce::fail(RpcError error) { answer(std::move(error)); }

void ReplyOnce::answer(std::variant<Json, RpcError> outcome)
{
    if (const Send send = std::exchange(m_send, nullptr)) send(Response{m_id, std::move(outcome)});
}

struct JobQueue::Job {
    enum class Stop { None, Cancelled, Superseded, GiveWay };

    JobRequest request;
    ReplyOnce reply;
    std::atomic<Stop> stop = Stop::None;

    Job(JobRequest r, ReplyOnce o) : request(std::move(r)), reply(std::move(o)) {}
};

class JobQueue::Context final : public JobContext
{
public:
    Context(JobQueue& queue, std::shared_ptr<Job> job) : m_queue(queue), m_job(std::move(job)), m_started(queue.m_now()) {}

    bool stopRequested() const noexcept override
    {
        if (m_job->stop != Job::Stop::None) return true;
        if (m_job->request.giveWay == GiveWay::Never || m_job->request.lane == Lane::Interactive) return false;
        if (m_job->request.giveWay == GiveWay::Restart) {
            const std::scoped_lock lock(m_queue.m_mutex);
            const bool waiting = std::any_of(m_queue.m_waiting.begin(), m_queue.m_waiting.end(),
                                             [this](const auto& job) { return interrupts(job->request.lane, m_job->request.lane); });
            auto none = Job::Stop::None;
            return waiting ? m_job->stop.compare_exchange_strong(none, Job::Stop::GiveWay) || m_job->stop != Job::Stop::None
                           : m_job->stop != Job::Stop::None;
        }
        while (const std::shared_ptr<Job> next = m_queue.takeNext(m_job->request.lane))
            m_queue.run(next);
        return m_job->stop != Job::Stop::None;
    }

    void progress(std::int64_t done, std::int64_t total, std::string_view phase) override
    {
        const std::int64_t now = m_queue.m_now();
        if (done < total && m_lastSent && now - *m_lastSent < kProgressIntervalMsec) return;
        m_lastSent = now;
        // Hidden until two steps are done: the first one carries the cost of starting.
        std::optional<double> eta;
        if (done >= 2 && total > done)
            eta = static_cast<double>(now - m_started) / 1000.0 / static_cast<double>(done) * static_cast<double>(total - done);
        ProgressNote note{.id = m_job->reply.id(), .done = done, .total = total, .phase = std::string(phase), .etaSeconds = eta};
        m_queue.m_notify({ProgressNote::kMethod, toJson(note)});
    }

    void partial(const Json& result) override { m_queue.m_notify({PartialNote::kMethod, toJson(PartialNote{m_job->reply.id(), result})}); }

private:
    JobQueue& m_queue;
    std::shared_ptr<Job> m_job;
    std::int64_t m_started;
    std::optional<std::int64_t> m_lastSent;
};

JobQueue::JobQueue(Notify notify, std::function<std::int64_t()> now) : m_notify(std::move(notify)), m_now(std::move(now))
{
    if (!m_now)
        m_now = [] {
            return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
        };
    m_thread = std::thread([this] { loop(); });
}

JobQueue::~JobQueue()
{
    close();
    m_thread.join();
}

void JobQueue::submit(JobRequest request, ReplyOnce reply)
{
    std::vector<std::shared_ptr<Job>> superseded;
    {
        const std::scoped_lock lock(m_mutex);
        if (m_closed) {
            reply.fail({rpc::kFailed, "The engine is shutting down.", toJson(cancelledError())});
            return;
        }
        if (!request.tag.empty()) {
            const auto sameTag = [&](const auto& job) { return job->request.tag == request.tag; };
            for (const auto& job : m_waiting)
                if (sameTag(job)) superseded.push_back(job);
            std::erase_if(m_waiting, sameTag);
            for (const auto& job : m_running)
                if (sameTag(job)) {
                    // A cancel by the user keeps its reason.
                    for (auto seen : {Job::Stop::None, Job::Stop::GiveWay})
                        if (job->stop.compare_exchange_strong(seen, Job::Stop::Superseded)) break;
                }
        }
        m_waiting.push_back(std::make_shared<Job>(std::move(request), std::move(reply)));
    }
    m_changed.notify_all();
    for (const auto& job : superseded)
        job->reply.fail({rpc::kSuperseded, "Superseded.", {{"reason", "superseded"}}});
}

bool JobQueue::cancel(const RequestId& id)
{
    std::shared_ptr<Job> removed;
    {
        const std::scoped_lock lock(m_mutex);
        const auto matches = [&](const auto& job) { return job->reply.id() == id; };
        if (const auto it = std::find_if(m_waiting.begin(), m_waiting.end(), matches); it != m_waiting.end()) {
            removed = *it;
            m_waiting.erase(it);
        } else if (const auto at = std::find_if(m_running.begin(), m_running.end(), matches); at != m_running.end()) {
            (*at)->stop = Job::Stop::Cancelled;
            return true;
        } else {
            return false;
        }
    }
    removed->reply.fail(rpcErrorFrom(cancelledError()));
    m_changed.notify_all();
    return true;
}

std::optional<std::string> JobQueue::running() const
{
    const std::scoped_lock lock(m_mutex);
    if (m_running.empty()) return std::nullopt;
    return m_running.back()->request.name;
}

void JobQueue::close()
{
    std::deque<std::shared_ptr<Job>> waiting;
    {
        const std::scoped_lock lock(m_mutex);
        m_closed = true;
        waiting.swap(m_waiting);
        for (const auto& job : m_running)
            job->stop = Job::Stop::Cancelled;
    }
    m_changed.notify_all();
    for (const auto& job : waiting)
        job->reply.fail(rpcErrorFrom(cancelledError()));
}

bool JobQueue::blockUntilIdle(std::chrono::milliseconds deadline)
{
    std::unique_lock lock(m_mutex);
    return m_changed.wait_for(lock, deadline, [this] { return m_waiting.empty() && m_running.empty() && m_answering == 0; });
}

bool JobQueue::interrupts(Lane waiting, Lane running) { return waiting < running && waiting <= Lane::Attended; }

// The first of the highest lane; where a job is to be interrupted, one that does.
std::shared_ptr<JobQueue::Job> JobQueue::takeNext(std::optional<Lane> interrupting)
{
    const std::scoped_lock lock(m_mutex);
    auto best = m_waiting.end();
    for (auto it = m_waiting.begin(); it != m_waiting.end(); ++it)
        if (best == m_waiting.end() || (*it)->request.lane < (*best)->request.lane) best = it;
    if (best == m_waiting.end() || (interrupting && !interrupts((*best)->request.lane, *interrupting))) return nullptr;
    std::shared_ptr<Job> job = *best;
    m_waiting.erase(best);
    job->stop = m_closed ? Job::Stop::Cancelled : Job::Stop::None;
    m_running.push_back(job);
    return job;
}

void JobQueue::run(const std::shared_ptr<Job>& job)
{
    Result<Json> outcome = internalError("The job did not run.");
    try {
        Context context(*this, job);
        outcome = job->request.work(context);
    } catch (const std::exception& failure) {
        outcome = errorOf(failure,
                          resourceError("engine.out_of_memory", job->request.name, "The engine ran out of memory.",
                                        "Lower the memory budget, or use fewer or shorter windows."),
                          job->request.name);
    }
    bool again = false;
    Job::Stop reason = Job::Stop::None;
    {
        // The reason is read under the lock that cancel() takes: a cancel is either seen here or answers that it came too late.
        const std::scoped_lock lock(m_mutex);
        reason = job->stop;
        std::erase(m_running, job);
        again = reason == Job::Stop::GiveWay && !outcome.ok() && outcome.error().kind == ErrorKind::Cancelled && !m_closed;
        if (again)
            m_waiting.push_front(job);
        else
            ++m_answering;
    }
    if (!again) {
        const bool stopped = !outcome.ok() && outcome.error().kind == ErrorKind::Cancelled;
        if (outcome.ok())
            job->reply.result(std::move(outcome).value());
        else if (stopped && reason == Job::Stop::Superseded)
            job->reply.fail({rpc::kSuperseded, "Superseded.", {{"reason", "superseded"}}});
        else
            job->reply.fail(rpcErrorFrom(outcome.error()));
        const std::scoped_lock lock(m_mutex);
        --m_answering;
    }
    m_changed.notify_all();
}

void JobQueue::loop()
{
    for (;;) {
        {
            std::unique_lock lock(m_mutex);
            m_changed.wait(lock, [this] { return m_closed || !m_waiting.empty(); });
            if (m_closed && m_waiting.empty()) return;
        }
        if (const std::shared_ptr<Job> job = takeNext({})) run(job);
    }
}

}  // namespace espalier
