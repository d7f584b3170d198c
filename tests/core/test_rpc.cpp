// Framing, messages and the job queue: what would hang the window or lose one of its requests.
#include "rpc/framing.h"
#include "rpc/job_queue.h"
#include "rpc/messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <map>
#include <random>
#include <thread>

namespace espalier
{
namespace
{

using namespace std::chrono_literals;

std::vector<std::string> decodeAll(FrameDecoder& decoder)
{
    std::vector<std::string> bodies;
    for (;;) {
        const auto body = decoder.next();
        if (!body.ok()) {
            bodies.push_back("error " + body.error().code);
            return bodies;
        }
        if (!body->has_value()) return bodies;
        bodies.push_back(**body);
    }
}

TEST(Framing, isTheSameHoweverTheStreamIsTorn)
{
    const std::string stream = frameMessage("{\"a\":1}") + frameMessage("") + "content-length: 3\r\nContent-Type: x\r\n\r\nüa" +
                               frameMessage(std::string(5000, 'x'));
    const std::vector<std::string> expected = {"{\"a\":1}", "", "üa", std::string(5000, 'x')};
    for (std::size_t cut = 0; cut <= 120; ++cut) {
        FrameDecoder decoder;
        std::vector<std::string> bodies;
        decoder.feed(std::string_view(stream).substr(0, cut));
        for (auto& body : decodeAll(decoder))
            bodies.push_back(body);
        decoder.feed(std::string_view(stream).substr(cut));
        for (auto& body : decodeAll(decoder))
            bodies.push_back(body);
        EXPECT_EQ(bodies, expected) << "torn at " << cut;
        EXPECT_EQ(decoder.pendingBytes(), 0u);
    }
    FrameDecoder bytewise;
    std::vector<std::string> bodies;
    for (const char c : stream) {
        bytewise.feed({&c, 1});
        for (auto& body : decodeAll(bytewise))
            bodies.push_back(body);
    }
    EXPECT_EQ(bodies, expected);
}

TEST(Framing, refusesWhatCannotBeAMessage)
{
    const std::map<std::string, std::string> cases = {
        {"Content-Length: 9999999999999999\r\n\r\n", "rpc.body_too_long"},
        {"Content-Length: 99999999999999999999999999\r\n\r\n", "rpc.body_too_long"},
        {"Content-Length: 67108865\r\n\r\n", "rpc.body_too_long"},
        {"Content-Length: -1\r\n\r\n", "rpc.bad_header"},
        {"Content-Length: 1x\r\n\r\n", "rpc.bad_header"},
        {"Content-Length: \r\n\r\n", "rpc.bad_header"},
        {"Content-Length: 2\r\nContent-Length: 3\r\n\r\n", "rpc.bad_header"},
        {"X: y\r\n\r\n", "rpc.bad_header"},
        {"Welcome to gpubox\nLast login: yesterday\n", "rpc.bad_header"},
        {"X: " + std::string(5000, 'y'), "rpc.header_too_long"},
        {std::string(5000, 'y'), "rpc.bad_header"},
    };
    for (const auto& [stream, code] : cases) {
        FrameDecoder decoder;
        decoder.feed(stream);
        EXPECT_THAT(decodeAll(decoder), testing::ElementsAre("error " + code)) << stream.substr(0, 60);
    }
    FrameDecoder agreeing;
    agreeing.feed("Content-Length: 2\r\nContent-Length: 2\r\n\r\nok");
    EXPECT_THAT(decodeAll(agreeing), testing::ElementsAre("ok"));
}

TEST(Framing, survivesRandomBytes)
{
    std::mt19937 random(7);
    for (int round = 0; round < 2000; ++round) {
        std::string stream = frameMessage("{}") + frameMessage("{\"id\":1}");
        for (int i = 0; i < 3; ++i)
            stream[random() % stream.size()] = static_cast<char>(random());
        FrameDecoder decoder;
        decoder.feed(stream);
        for (const std::string& body : decodeAll(decoder))
            (void)parseMessage(body);
    }
}

TEST(Messages, roundTrip)
{
    const auto request = parseMessage(serialise(Request{RequestId(7), "evaluate", {{"path", "/m"}}}));
    const auto& asked = std::get<Request>(std::get<Message>(request));
    EXPECT_EQ(asked.id, RequestId(7));
    EXPECT_EQ(asked.method, "evaluate");
    EXPECT_EQ(asked.params["path"], "/m");
    const auto note = parseMessage(serialise(Notification{"$/progress", {{"done", 1}}}));
    EXPECT_EQ(std::get<Notification>(std::get<Message>(note)).method, "$/progress");
    const Error error = badInput("plan.invalid", "x", "The plan is not valid.", "Repair it.");
    const auto failed = parseMessage(serialise(Response{RequestId("s"), rpcErrorFrom(error)}));
    const auto& response = std::get<Response>(std::get<Message>(failed));
    ASSERT_FALSE(response.ok());
    EXPECT_EQ(errorFrom(std::get<RpcError>(response.outcome)).code, "plan.invalid");
    EXPECT_EQ(std::get<RpcError>(response.outcome).code, rpc::kFailed);
}

TEST(Messages, refusesWhatIsNotOne)
{
    const std::map<std::string, int> cases = {
        {"", rpc::kParseError},
        {"{", rpc::kParseError},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"method\":\"x\"}", rpc::kParseError},
        {"{\"jsonrpc\":\"2.0\",\"method\":\"\xFF\"}", rpc::kParseError},
        {std::string(200, '['), rpc::kParseError},
        {"[]", rpc::kInvalidRequest},
        {"3", rpc::kInvalidRequest},
        {"{}", rpc::kInvalidRequest},
        {"{\"id\":1,\"method\":\"x\"}", rpc::kInvalidRequest},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":5}", rpc::kInvalidRequest},
        {"{\"jsonrpc\":\"2.0\",\"id\":[],\"method\":\"x\"}", rpc::kInvalidRequest},
        {"{\"jsonrpc\":\"2.0\",\"id\":1}", rpc::kInvalidRequest},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{}}", rpc::kInvalidRequest},
    };
    for (const auto& [text, code] : cases) {
        const auto parsed = parseMessage(text);
        ASSERT_TRUE(std::holds_alternative<BadMessage>(parsed)) << text;
        EXPECT_EQ(std::get<BadMessage>(parsed).error.code, code) << text;
    }
}

// Collects answers and lets tests wait for them.
class Client
{
public:
    ReplyOnce reply(std::int64_t id)
    {
        return ReplyOnce(RequestId(id), [this](const Response& response) {
            const std::scoped_lock lock(m_mutex);
            m_answers[std::get<std::int64_t>(response.id)].push_back(response);
        });
    }
    std::vector<Response> answers(std::int64_t id)
    {
        const std::scoped_lock lock(m_mutex);
        return m_answers[id];
    }
    int code(std::int64_t id)
    {
        const auto all = answers(id);
        if (all.size() != 1) return -static_cast<int>(all.size()) - 1;
        return all[0].ok() ? 0 : std::get<RpcError>(all[0].outcome).code;
    }

private:
    std::mutex m_mutex;
    std::map<std::int64_t, std::vector<Response>> m_answers;
};

JobRequest jobOf(Lane lane, std::function<Result<Json>(JobContext&)> work, std::string tag = {}, GiveWay giveWay = GiveWay::Never)
{
    JobRequest request;
    request.lane = lane;
    request.tag = std::move(tag);
    request.giveWay = giveWay;
    request.name = "test";
    request.work = std::move(work);
    return request;
}

Result<Json> untilStopped(JobContext& job)
{
    while (!job.stopRequested())
        std::this_thread::yield();
    return cancelledError();
}

TEST(ReplyOnce, answersExactlyOnce)
{
    Client client;
    {
        ReplyOnce twice = client.reply(1);
        twice.result(1);
        twice.fail({});
        ReplyOnce never = client.reply(2);
        ReplyOnce moved = std::move(never);
    }
    EXPECT_EQ(client.code(1), 0);
    EXPECT_EQ(client.code(2), rpc::kInternalError);
}

TEST(JobQueue, latestWinsByTag)
{
    Client client;
    JobQueue queue([](const Notification&) {});
    std::promise<void> started;
    queue.submit(jobOf(
                     Lane::Interactive,
                     [&](JobContext& job) {
                         started.set_value();
                         return untilStopped(job);
                     },
                     "quick"),
                 client.reply(1));
    started.get_future().wait();
    for (std::int64_t id = 2; id <= 5; ++id)
        queue.submit(jobOf(
                         Lane::Interactive, [](JobContext&) -> Result<Json> { return Json("done"); }, "quick"),
                     client.reply(id));
    ASSERT_TRUE(queue.blockUntilIdle(10s));
    EXPECT_EQ(client.code(1), rpc::kSuperseded);
    EXPECT_EQ(client.code(5), 0);
    for (std::int64_t id = 2; id <= 4; ++id)
        EXPECT_THAT(client.code(id), testing::AnyOf(rpc::kSuperseded, 0));
}

TEST(JobQueue, cancelKeepsItsReasonAndFailuresAreErrors)
{
    Client client;
    JobQueue queue([](const Notification&) {});
    std::promise<void> started;
    queue.submit(jobOf(Lane::Full,
                       [&](JobContext& job) {
                           started.set_value();
                           return untilStopped(job);
                       }),
                 client.reply(1));
    queue.submit(jobOf(Lane::Full, [](JobContext&) -> Result<Json> { return Json(); }), client.reply(2));
    queue.submit(jobOf(Lane::Full, [](JobContext&) -> Result<Json> { throw std::bad_alloc(); }), client.reply(3));
    queue.submit(jobOf(Lane::Full, [](JobContext&) -> Result<Json> { return badInput("a.b", "s", "Bad."); }), client.reply(4));
    started.get_future().wait();
    EXPECT_EQ(queue.running(), "test");
    EXPECT_TRUE(queue.cancel(RequestId(2)));
    EXPECT_EQ(client.code(2), rpc::kCancelled);
    EXPECT_TRUE(queue.cancel(RequestId(1)));
    ASSERT_TRUE(queue.blockUntilIdle(10s));
    EXPECT_EQ(client.code(1), rpc::kCancelled);
    EXPECT_EQ(errorFrom(std::get<RpcError>(client.answers(3).at(0).outcome)).code, "engine.out_of_memory");
    EXPECT_EQ(errorFrom(std::get<RpcError>(client.answers(4).at(0).outcome)).code, "a.b");
    EXPECT_FALSE(queue.cancel(RequestId(1)));
}

// A full evaluation is put back and started again; a pass that can wait is paused. Neither loses its answer.
TEST(JobQueue, interactiveGoesFirst)
{
    for (const GiveWay giveWay : {GiveWay::Restart, GiveWay::Pause}) {
        Client client;
        JobQueue queue([](const Notification&) {});
        std::atomic<bool> interactiveDone = false;
        std::atomic<int> runs = 0;
        std::promise<void> started;
        queue.submit(jobOf(
                         Lane::Full,
                         [&](JobContext& job) -> Result<Json> {
                             if (++runs == 1) started.set_value();
                             while (!interactiveDone)
                                 if (job.stopRequested()) return cancelledError();
                             return Json(runs.load());
                         },
                         "full", giveWay),
                     client.reply(1));
        started.get_future().wait();
        queue.submit(jobOf(Lane::Interactive,
                           [&](JobContext&) -> Result<Json> {
                               interactiveDone = true;
                               return Json();
                           }),
                     client.reply(2));
        ASSERT_TRUE(queue.blockUntilIdle(10s));
        EXPECT_EQ(client.code(1), 0);
        EXPECT_EQ(client.code(2), 0);
        EXPECT_EQ(runs, giveWay == GiveWay::Restart ? 2 : 1);
    }
}

// What somebody watches interrupts a long evaluation, and is itself interrupted by an edit; it does not interrupt its like.
TEST(JobQueue, attendedGoesBetween)
{
    Client client;
    JobQueue queue([](const Notification&) {});
    std::vector<std::string> order;  // of the compute thread
    std::atomic<bool> editDone = false, attendedDone = false;
    std::promise<void> fullStarted, attendedStarted;
    queue.submit(jobOf(
                     Lane::Full,
                     [&](JobContext& job) -> Result<Json> {
                         fullStarted.set_value();
                         while (!attendedDone)
                             if (job.stopRequested()) return cancelledError();
                         order.push_back("full");
                         return Json();
                     },
                     "", GiveWay::Pause),
                 client.reply(1));
    fullStarted.get_future().wait();
    queue.submit(jobOf(
                     Lane::Attended,
                     [&](JobContext& job) -> Result<Json> {
                         attendedStarted.set_value();
                         while (!editDone)
                             if (job.stopRequested()) return cancelledError();
                         order.push_back("attended");
                         return Json();
                     },
                     "", GiveWay::Pause),
                 client.reply(2));
    attendedStarted.get_future().wait();
    queue.submit(jobOf(Lane::Attended,
                       [&](JobContext&) -> Result<Json> {
                           order.push_back("second attended");
                           attendedDone = true;
                           return Json();
                       }),
                 client.reply(3));
    queue.submit(jobOf(Lane::Interactive,
                       [&](JobContext&) -> Result<Json> {
                           order.push_back("edit");
                           editDone = true;
                           return Json();
                       }),
                 client.reply(4));
    ASSERT_TRUE(queue.blockUntilIdle(10s));
    for (std::int64_t id = 1; id <= 4; ++id)
        EXPECT_EQ(client.code(id), 0) << id;
    EXPECT_EQ(order, (std::vector<std::string>{"edit", "attended", "second attended", "full"}));
}

TEST(JobQueue, progressIsThrottledAndEndsAtTheEnd)
{
    Client client;
    std::int64_t now = 0;
    std::vector<Json> sent;
    {
        JobQueue queue([&](const Notification& note) { sent.push_back(note.params); }, [&] { return now; });
        queue.submit(jobOf(Lane::Full,
                           [&](JobContext& job) -> Result<Json> {
                               for (int i = 1; i <= 1000; ++i) {
                                   ++now;  // 1,000 steps in a second
                                   job.progress(i, 1000, "layer");
                               }
                               return Json();
                           }),
                     client.reply(1));
        ASSERT_TRUE(queue.blockUntilIdle(10s));
    }
    EXPECT_LE(sent.size(), 31u);
    EXPECT_GE(sent.size(), 20u);
    EXPECT_EQ(sent.back()["done"], 1000);
    EXPECT_TRUE(sent.front()["eta_seconds"].is_null());
    EXPECT_EQ(sent.back()["id"], 1);
}

TEST(JobQueue, everyAcceptedJobEndsOnceUnderRandomUseAndClose)
{
    for (unsigned seed = 0; seed < 40; ++seed) {
        Client client;
        std::mt19937 random(seed);
        constexpr std::int64_t kJobs = 60;
        {
            JobQueue queue([](const Notification&) {});
            for (std::int64_t id = 1; id <= kJobs; ++id) {
                const auto lane = static_cast<Lane>(random() % 4);
                const auto giveWay = lane == Lane::Full || lane == Lane::Attended ? static_cast<GiveWay>(random() % 3) : GiveWay::Never;
                const unsigned steps = random() % 200;
                const bool fails = random() % 5 == 0;
                const std::string tag = random() % 2 ? std::string(1, static_cast<char>('a' + random() % 3)) : std::string();
                queue.submit(jobOf(
                                 lane,
                                 [steps, fails](JobContext& job) -> Result<Json> {
                                     for (unsigned i = 0; i < steps; ++i) {
                                         if (job.stopRequested()) return cancelledError();
                                         job.progress(i + 1, steps, "step");
                                     }
                                     if (fails) return internalError("x");
                                     return Json(steps);
                                 },
                                 tag, giveWay),
                             client.reply(id));
                if (random() % 3 == 0) queue.cancel(RequestId(static_cast<std::int64_t>(random() % static_cast<unsigned>(id) + 1)));
            }
            if (seed % 2) {
                ASSERT_TRUE(queue.blockUntilIdle(20s));
            }
        }
        for (std::int64_t id = 1; id <= kJobs; ++id)
            ASSERT_EQ(client.answers(id).size(), 1u) << "seed " << seed << " job " << id;
    }
}

}  // namespace
}  // namespace espalier
