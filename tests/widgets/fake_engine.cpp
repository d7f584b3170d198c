// An engine without a model: speaks the protocol on stdio with made-up but deterministic numbers, and fails in every way that a test
// asks for. One thread; a request is answered before the next is read.
//
//   --rubbish          prints "hello" before anything else
//   --half             half a message, then ends
//   --half-silent      half a message, then says nothing until its input is closed
//   --huge             announces a message of 99999999999 bytes
//   --old              answers initialize with protocol 0
//   --bad-model        open_model fails with checkpoint.shard_missing
//   --die-on METHOD    ends by SIGKILL when a request of that name arrives
//   --hold METHOD      begins the job, then never finishes it (it can be cancelled); everything behind it waits as well
//   --once FILE        --die-on and --hold only while FILE is not there; it is made when they take effect
//   --fail METHOD      answers requests of that name with an error
//   --foreign-estimate estimates are answered for another plan than the one that was asked about
//   --outputs          the first profile is a real file that holds mean outputs of experts: constants can be made of it
//   --no-probes        profiles hold no measured plans: estimates are of the expansion alone
//   --large            a model of 24 layers of 60 experts, 2048 x 1408
//   --refuse-plan      plan fails with allocate.infeasible
//   --note-plan        plan answers with two remarks
//   --same-plan        plan answers with the plan that it was given
//   --short-text       every text has nine windows
//   --warn-text        profiles and evaluations bring two warnings about the text
//   --eight            folders of tasks hold the eight tasks of papers; else two. One called "empty" holds none
//   --log FILE         appends one line per request: method, tier, plan hash, recipe, "profile" where an evaluation names one
//
// A profile that collects factors counts as the method "deep-profile". It writes a real profile file, though an empty one.
#include "widgets/fake_engine.h"

#include "rpc/recipe_json.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <fstream>

#include <unistd.h>

namespace espalier
{

void put(const std::string& bytes)
{
    std::fwrite(bytes.data(), 1, bytes.size(), stdout);
    std::fflush(stdout);
}

int FakeEngine::run()
{
    FrameDecoder decoder;
    std::vector<char> buffer(64 * 1024);
    for (;;) {
        Result<std::optional<std::string>> body = decoder.next();
        if (!body.ok()) return 70;
        if (body->has_value()) {
            if (handle(**body)) return 0;
            continue;
        }
        const ssize_t count = ::read(STDIN_FILENO, buffer.data(), buffer.size());
        if (count <= 0) return 0;
        decoder.feed(std::string_view(buffer.data(), static_cast<std::size_t>(count)));
    }
}

// Whether the script's accident for this method happens now.
bool FakeEngine::strikes(const std::string& wanted, const std::string& method) const
{
    if (wanted != method) return false;
    if (m_script.once.empty()) return true;
    if (std::filesystem::exists(m_script.once)) return false;
    std::ofstream(m_script.once) << "done\n";
    return true;
}

void FakeEngine::log(const std::string& line) const
{
    if (!m_script.log.empty()) std::ofstream(m_script.log, std::ios::app) << line << '\n';
}

std::string FakeEngine::tagOf(const Request& request)
{
    Json params = request.params;
    const Result<JobTag> tag = takeJobTag(params);
    return tag.ok() ? tag->tag : std::string();
}

bool FakeEngine::handle(const std::string& body)
{
    const std::variant<Message, BadMessage> parsed = parseMessage(body);
    if (const BadMessage* bad = std::get_if<BadMessage>(&parsed)) {
        put(frameMessage(serialise(*bad)));
        return false;
    }
    const Message& message = std::get<Message>(parsed);
    if (const Notification* note = std::get_if<Notification>(&message)) {
        if (note->method == kExitMethod) return true;
        if (note->method == CancelNote::kMethod && m_held) {
            const Result<CancelNote> cancel = fromJson<CancelNote>(note->params);
            if (cancel.ok() && cancel->id == *m_held) {
                if (m_recovering)
                    recovered(*m_held, *m_recovering, *planFromJson(m_recovering->plan, m_shape), true);
                else
                    fail(*m_held, cancelledError());
                m_held.reset();
                m_recovering.reset();
                std::vector<std::string> waiting;
                waiting.swap(m_waiting);
                for (const std::string& next : waiting)
                    (void)handle(next);
            }
        }
        return false;
    }
    const Request* request = std::get_if<Request>(&message);
    if (!request) return false;
    // As in the real engine a look at a text does not wait for the profile.
    const bool quick = request->method == PingRequest::kMethod || request->method == ShutdownRequest::kMethod || tagOf(*request) == "text";
    // Of tasks and completions the latest wins.
    const std::string tag = tagOf(*request);
    if (m_held && tag == m_heldTag && (tag == "tasks" || tag == "generate")) {
        put(frameMessage(serialise(Response{*m_held, RpcError{rpc::kSuperseded, "Superseded.", {}}})));
        m_held.reset();
        std::vector<std::string> waiting;
        waiting.swap(m_waiting);
        for (const std::string& next : waiting)
            (void)handle(next);
    }
    if (m_held && !quick) {
        m_waiting.push_back(body);
        return false;
    }
    answer(*request);
    return false;
}

void FakeEngine::answer(const Request& request)
{
    const std::string method = scriptName(request);
    note(request, method);
    if (strikes(m_script.dieOn, method)) {
        std::fputs("fake engine: dies as told\n", stderr);
        std::raise(SIGKILL);
    }
    const bool held = strikes(m_script.hold, method);
    if (held) {
        m_held = request.id;
        m_heldTag = tagOf(request);
    }
    if (method == m_script.fail) {
        fail(request.id, resourceError("memory.exhausted", "engine", "There is not enough memory for this.", "Use fewer windows."));
        return;
    }
    answerBy(request, method, held);
}

// A profile that collects factors is a method of its own.
std::string FakeEngine::scriptName(const Request& request)
{
    if (request.method != ProfileRequest::kMethod) return request.method;
    Json params = request.params;
    (void)takeJobTag(params);
    const Result<ProfileRequest> profile = fromJson<ProfileRequest>(params);
    const bool deep = profile.ok() && std::find(profile->collect.begin(), profile->collect.end(), "factors") != profile->collect.end();
    return deep ? "deep-profile" : request.method;
}

// The line of the log: what tests ask of a request.
void FakeEngine::note(const Request& request, const std::string& method)
{
    Json params = request.params;
    const Result<JobTag> tag = takeJobTag(params);
    std::string line = method;
    const auto word = [&](const std::string& next) { line.append(1, ' ').append(next); };
    const auto plan = [&](const Json& json) {
        if (const Result<CompressionPlan> read = planFromJson(json, m_shape); read.ok()) word(read->hash());
    };
    if (const Result<EvaluateRequest> evaluate = fromJson<EvaluateRequest>(params); method == EvaluateRequest::kMethod && evaluate.ok()) {
        if (!evaluate->tier.empty()) word(evaluate->tier);
        if (tag.ok() && tag->tag == "locked") word("locked");
        plan(evaluate->plan);
        if (!evaluate->profiles.empty()) word("profile " + evaluate->profiles.front().string());
    } else if (const Result<EstimateRequest> estimate = fromJson<EstimateRequest>(params);
               method == EstimateRequest::kMethod && estimate.ok()) {
        plan(estimate->plan);
    } else if (const Result<ScoreRequest> score = fromJson<ScoreRequest>(params); method == ScoreRequest::kMethod && score.ok()) {
        word(score->method + " of " + score->path);
    } else if (const Result<PlanRequest> search = fromJson<PlanRequest>(params); method == PlanRequest::kMethod && search.ok()) {
        plan(search->plan);
        word(requestJson(search->recipe).dump());
    } else if (const Result<ExportRequest> exported = fromJson<ExportRequest>(params); method == ExportRequest::kMethod && exported.ok()) {
        plan(exported->plan);
        if (!exported->measured.empty()) word(toJson(exported->measured.front()).dump());
        for (const TaskMeasurement& task : exported->measuredTasks)
            word(toJson(task).dump());
        if (exported->measuredSpeed) word(toJson(*exported->measuredSpeed).dump());
    } else if (const Result<GenerateRequest> asked = fromJson<GenerateRequest>(params); method == GenerateRequest::kMethod && asked.ok()) {
        plan(asked->plan);
        word(asked->prompt);
    } else if (const Result<TasksRequest> tasks = fromJson<TasksRequest>(params); method == TasksRequest::kMethod && tasks.ok()) {
        plan(tasks->plan);
        word(tasks->data.filename().string() + " " + std::to_string(tasks->limit));
    }
    log(line);
    if (const Result<PlanRequest> search = fromJson<PlanRequest>(params);
        method == PlanRequest::kMethod && search.ok() && !search->state.empty())
        log((search->resume ? "search goes on in " : "search begins in ") + search->state);
}

void FakeEngine::answerBy(const Request& request, const std::string& method, bool held)
{
    if (method == InitializeRequest::kMethod) {
        reply(request.id, InitializeAnswer{.name = "espalier-engine",
                                           .version = ESPALIER_VERSION,
                                           .protocol = m_script.has("--old") ? 0 : kProtocolVersion,
                                           .pid = ::getpid(),
                                           .threads = 2,
                                           .device = "cpu",
                                           .memoryBytes = 1 << 30,
                                           .supportedArchitectures = {"qwen2_moe"},
                                           .methods = registry()});
    } else if (method == PingRequest::kMethod) {
        reply(request.id, PingAnswer{m_held.has_value(), {}});
    } else if (method == OpenModelRequest::kMethod) {
        if (!held) openModel(request);
    } else if (method == ProfileRequest::kMethod || method == "deep-profile") {
        profile(request, held, method == "deep-profile");
    } else if (method == RankCurvesRequest::kMethod) {
        rankCurves(request);
    } else if (method == ScoreRequest::kMethod) {
        progress(request.id, 1, m_layers, "matrix");
        if (!held) scoreOfWeights(request);
    } else if (method == EstimateRequest::kMethod) {
        if (!held) estimate(request);
    } else if (method == LoadProfileRequest::kMethod) {
        loadProfile(request);
    } else if (method == EvaluateRequest::kMethod) {
        evaluate(request, held);
    } else if (method == TasksRequest::kMethod) {
        tasks(request, held);
    } else if (method == GenerateRequest::kMethod) {
        generate(request, held);
    } else if (method == SpeedRequest::kMethod) {
        if (!held) speed(request);
    } else if (method == PlanRequest::kMethod) {
        plan(request, held);
    } else if (method == ExportRequest::kMethod) {
        if (!held) exportModel(request);
    } else if (method == ShutdownRequest::kMethod) {
        reply(request.id, ShutdownAnswer{});
    } else {
        put(frameMessage(serialise(Response{request.id, RpcError{rpc::kMethodNotFound, "unknown method " + method, {}}})));
    }
}

}  // namespace espalier

using namespace espalier;

int main(int argc, char** argv)
{
    Script script;
    for (int i = 1; i < argc; ++i) {
        const std::string name = argv[i];
        const auto value = [&] { return i + 1 < argc ? std::string(argv[++i]) : std::string(); };
        if (name == "--die-on")
            script.dieOn = value();
        else if (name == "--hold")
            script.hold = value();
        else if (name == "--once")
            script.once = value();
        else if (name == "--fail")
            script.fail = value();
        else if (name == "--log")
            script.log = value();
        else
            script.switches.insert(name);
    }
    if (script.has("--rubbish")) put("hello\r\n\r\n");
    if (script.has("--huge")) put("Content-Length: 99999999999\r\n\r\n");
    if (script.has("--half") || script.has("--half-silent")) {
        put("Content-Length: 100\r\n\r\n{\"jsonrpc\":\"2.0\",");
        if (script.has("--half")) return 0;
        char byte = 0;
        while (::read(STDIN_FILENO, &byte, 1) > 0) {
        }
        return 0;
    }
    return FakeEngine(std::move(script)).run();
}
