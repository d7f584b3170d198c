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
//   --log FILE         appends one line per request: method, tier, plan hash, recipe, "profile" where an evaluation names one
//
// A profile that collects factors counts as the method "deep-profile". It writes a real profile file, though an empty one.
#include "allocate/allocator.h"
#include "allocate/rank_rule.h"
#include "base/sha256.h"
#include "base/statistics.h"
#include "base/window_spread.h"
#include "plan/compression_plan.h"
#include "plan/cost_model.h"
#include "plan/rank_edit.h"
#include "rpc/framing.h"
#include "rpc/messages.h"
#include "session/profile_file.h"

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <unistd.h>

using namespace espalier;

namespace
{

constexpr int kTotalWindows = 128;  // that one of the three texts takes at most
constexpr int kShortText = 9;

struct Script {
    std::set<std::string> switches;
    std::string dieOn;
    std::string hold;
    std::string once;
    std::string log;
    std::string fail;
    bool has(const char* name) const { return switches.contains(name); }
};

void put(const std::string& bytes)
{
    std::fwrite(bytes.data(), 1, bytes.size(), stdout);
    std::fflush(stdout);
}

ModelShape shapeOfModel(bool large)
{
    const int hidden = large ? 2048 : 64;
    const int width = large ? 1408 : 32;
    ModelShape shape;
    shape.modelType = "qwen2_moe";
    shape.architecture = "Qwen2MoeForCausalLM";
    shape.dtype = "BF16";
    shape.hiddenSize = hidden;
    shape.vocabularySize = 1000;
    shape.maxPositions = 1024;
    shape.embeddingParameters = 128064;
    shape.embeddingBytes = 256128;
    for (int i = 0; i < (large ? 24 : 4); ++i) {
        LayerShape layer;
        layer.index = i;
        layer.moe = true;
        layer.experts = large ? 60 : 8;
        layer.router.rule = RoutingRule::SoftmaxRenormalised;
        layer.router.topK = large ? 4 : 2;
        layer.expertWidth = width;
        layer.expertParameters = std::int64_t{3} * hidden * width;
        layer.routerParametersPerExpert = hidden;
        layer.otherParameters = std::int64_t{4} * hidden * hidden;
        layer.bytesPerExpert = 2 * layer.expertParameters;
        layer.routerBytesPerExpert = 2 * layer.routerParametersPerExpert;
        layer.otherBytes = 2 * layer.otherParameters;
        shape.layers.push_back(layer);
    }
    return shape;
}

// Distinct in a layer and the same in every run.
double scoreOf(const std::string& method, int layer, int expert, int experts)
{
    const double place = static_cast<double>((expert * (experts > 8 ? 17 : 5) + layer * (experts > 8 ? 7 : 3)) % experts + 1);
    return method == "expert_frequency" ? 100.0 * place : method == "leave-one-out" ? 0.01 * place : 0.5 * place;
}

const std::vector<std::string>& methodIds()
{
    static const std::vector<std::string> ids = {"expert_frequency", "ean_mean", "reap", "leave-one-out"};
    return ids;
}

MethodInfo describe(const char* id, const char* title, Slot slot, std::vector<std::string> needs, std::vector<ParamSpec> params = {})
{
    MethodInfo method;
    method.id = id;
    method.title = title;
    method.slot = slot;
    method.help = std::string(title) + ", as the scripted engine has it.";
    method.needs = std::move(needs);
    method.params = std::move(params);
    return method;
}

ParamSpec number(const char* key, ParamType type, Json value, double low, double high)
{
    ParamSpec spec;
    spec.key = key;
    spec.type = type;
    spec.defaultValue = std::move(value);
    spec.low = low;
    spec.high = high;
    return spec;
}

// The real registry's form; "annealing" is known to no window.
Json registry()
{
    std::vector<MethodInfo> methods;
    for (const auto& [id, need] : {std::pair("expert_frequency", "counts"), std::pair("ean_mean", "ean"), std::pair("reap", "reap"),
                                   std::pair("leave-one-out", "gram")})
        methods.push_back(describe(id, id, Slot::Score, {need}));
    methods.insert(methods.end(), allocators().begin(), allocators().end());
    methods.push_back(
        describe("verified", "Verified exchange", Slot::Allocate, {"gram"}, {number("minutes", ParamType::Number, 0, 0, 10000)}));
    methods.back().runsModel = methods.back().needsCurves = methods.back().searches = true;
    methods.push_back(describe("ranking", "Ranking", Slot::Select, {}));
    methods.push_back(
        describe("genetic", "Genetic search", Slot::Select, {"gram"},
                 {number("population", ParamType::Integer, 100, 4, 5000), number("generations", ParamType::Integer, 50, 0, 5000),
                  number("mutation", ParamType::Number, 0.3, 0, 1), number("swap", ParamType::Switch, true, 0, 0)}));
    methods.back().stochastic = methods.back().searches = true;
    ParamSpec schedule = number("schedule", ParamType::Choice, "slow", 0, 0);
    schedule.choices = {"slow", "fast"};
    methods.push_back(
        describe("annealing", "Annealing", Slot::Select, {"gram"}, {number("cooling_steps", ParamType::Integer, 200, 1, 9000), schedule}));
    methods.back().searches = true;
    methods.insert(methods.end(), rankRules().begin(), rankRules().end());
    methods.push_back(describe("svd", "Truncated SVD", Slot::Factors, {}));
    methods.push_back(describe("whitened-svd", "Whitened SVD", Slot::Factors, {"factors"}));
    Json list = Json::array();
    for (const MethodInfo& method : methods)
        list.push_back(toJson(method));
    return list;
}

class Engine
{
public:
    explicit Engine(Script script) : m_script(std::move(script)), m_shape(shapeOfModel(m_script.has("--large"))) {}

    int run()
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

private:
    void reply(const RequestId& id, Json result) { put(frameMessage(serialise(Response{id, std::move(result)}))); }
    void fail(const RequestId& id, const Error& error) { put(frameMessage(serialise(Response{id, rpcErrorFrom(error)}))); }
    void partial(const RequestId& id, Json value)
    {
        put(frameMessage(serialise(Notification{"$/partial", {{"id", toJson(id)}, {"value", std::move(value)}}})));
    }
    void progress(const RequestId& id, int done, int total, const char* phase)
    {
        put(frameMessage(serialise(Notification{
            "$/progress", {{"id", toJson(id)}, {"done", done}, {"total", total}, {"phase", phase}, {"eta_seconds", nullptr}}})));
    }

    // Whether the script's accident for this method happens now.
    bool strikes(const std::string& wanted, const std::string& method) const
    {
        if (wanted != method) return false;
        if (m_script.once.empty()) return true;
        if (std::filesystem::exists(m_script.once)) return false;
        std::ofstream(m_script.once) << "done\n";
        return true;
    }

    void log(const std::string& line) const
    {
        if (!m_script.log.empty()) std::ofstream(m_script.log, std::ios::app) << line << '\n';
    }

    bool handle(const std::string& body)
    {
        const std::variant<Message, BadMessage> parsed = parseMessage(body);
        if (const BadMessage* bad = std::get_if<BadMessage>(&parsed)) {
            put(frameMessage(serialise(*bad)));
            return false;
        }
        const Message& message = std::get<Message>(parsed);
        if (const Notification* note = std::get_if<Notification>(&message)) {
            if (note->method == "exit") return true;
            if (note->method == "$/cancelRequest" && m_held) {
                const auto id = requestIdFromJson(note->params.value("id", Json()));
                if (id && *id == *m_held) {
                    fail(*m_held, cancelledError());
                    m_held.reset();
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
        const bool quick =
            request->method == "ping" || request->method == "shutdown" || request->params.value("tag", Json()) == Json("text");
        if (m_held && !quick) {
            m_waiting.push_back(body);
            return false;
        }
        answer(*request);
        return false;
    }

    void answer(const Request& request)
    {
        const Json& params = request.params;
        const Json collect = params.value("collect", Json::array());
        const bool deep = request.method == "profile" && std::find(collect.begin(), collect.end(), "factors") != collect.end();
        const std::string method = deep ? "deep-profile" : request.method;
        std::string line = method;
        if (params.contains("tier")) line += " " + params["tier"].get<std::string>();
        if (params.value("tag", Json()) == Json("locked")) line += " locked";
        if (params.contains("plan"))
            if (const Result<CompressionPlan> plan = planFromJson(params["plan"], m_shape); plan.ok()) line += " " + plan->hash();
        if (params.contains("recipe")) line += " " + params["recipe"].dump();
        if (request.method == "evaluate" && params.contains("profile")) line += " profile " + params["profile"].get<std::string>();
        if (request.method == "export" && params.contains("measured")) line += " " + params["measured"].dump();
        log(line);
        if (method == "plan" && params.contains("state"))
            log((params.value("resume", false) ? "search goes on in " : "search begins in ") + params["state"].get<std::string>());
        if (strikes(m_script.dieOn, method)) {
            std::fputs("fake engine: dies as told\n", stderr);
            std::raise(SIGKILL);
        }
        const bool held = strikes(m_script.hold, method);
        if (held) m_held = request.id;
        if (method == m_script.fail) {
            fail(request.id, resourceError("memory.exhausted", "engine", "There is not enough memory for this.", "Use fewer windows."));
            return;
        }
        if (method == "initialize") {
            reply(request.id, {{"name", "espalier-engine"},
                               {"version", ESPALIER_VERSION},
                               {"protocol", m_script.has("--old") ? 0 : kProtocolVersion},
                               {"pid", ::getpid()},
                               {"threads", 2},
                               {"device", "cpu"},
                               {"memory_bytes", 1 << 30},
                               {"supported_architectures", {"qwen2_moe"}},
                               {"methods", registry()}});
        } else if (method == "ping") {
            reply(request.id, {{"busy", m_held.has_value()}});
        } else if (method == "open_model") {
            if (!held) openModel(request);
        } else if (method == "profile" || method == "deep-profile") {
            profile(request, held, deep);
        } else if (method == "rank_curves") {
            rankCurves(request);
        } else if (method == "estimate") {
            if (!held) estimate(request);
        } else if (method == "load_profile") {
            if (const auto data = readProfile(params.value("profile", std::string())); data.ok())
                reply(request.id, profileReply(params["profile"].get<std::string>(), data->collected));
            else
                fail(request.id, badInput("profile.unreadable", params.value("profile", std::string()), "The profile file cannot be read.",
                                          "Measure the profile again."));
        } else if (method == "evaluate") {
            evaluate(request, held);
        } else if (method == "plan") {
            plan(request, held);
        } else if (method == "export") {
            if (!held) exportModel(request);
        } else if (method == "shutdown") {
            reply(request.id, nullptr);
        } else {
            put(frameMessage(serialise(Response{request.id, RpcError{rpc::kMethodNotFound, "unknown method " + method, {}}})));
        }
    }

    void openModel(const Request& request)
    {
        const std::string path = request.params.value("path", std::string());
        if (m_script.has("--bad-model")) {
            Error error =
                badInput("checkpoint.shard_missing", path,
                         "model-00002-of-00003.safetensors is named in the index but is not in the folder.", "Copy the missing file.");
            error.kept = "Nothing was loaded.";
            fail(request.id, error);
            return;
        }
        if (m_script.has("--unsupported-model")) {
            reply(request.id, {{"path", path},
                               {"fingerprint", std::string(64, 'f')},
                               {"shape", nullptr},
                               {"warnings", {"config.json says model_type \"novel_moe\", which is not known."}},
                               {"forward_supported", false}});
            return;
        }
        reply(request.id, {{"path", path},
                           {"fingerprint", std::string(64, 'f')},
                           {"config_sha256", std::string(64, 'c')},
                           {"weights_sha256", std::string(64, 'a')},
                           {"shape", toJson(m_shape)},
                           {"inspection", Json::object()},
                           {"warnings", Json::array()},
                           {"tokenizer", {{"sha256", std::string(64, 'b')}, {"vocabulary", 1000}, {"adds_bos", false}}},
                           {"forward_supported", true}});
    }

    void rankCurves(const Request& request)
    {
        const int layer = request.params.value("layer", -1);
        const int expert = request.params.value("expert", -1);
        if (layer < 0 || layer >= m_layers || expert < 0 || expert >= m_experts) {
            fail(request.id, badInput("profile.missing_statistics", "rank_curves", "There are no curves of this expert."));
            return;
        }
        const int full = fullRankOf(m_shape, layer);
        Json matrices = Json::object();
        const char* const names[] = {"gate", "up", "down"};
        for (int m = 0; m < 3; ++m) {
            // A steep head and a long tail, a little other for every matrix and cell.
            std::vector<double> singular;
            for (int i = 0; i < full; ++i)
                singular.push_back((10 + m + 0.1 * (expert % 7)) * (0.75 * std::exp(-(40.0 - 4 * m) * i / full) +
                                                                    0.25 * std::exp(-(2.6 + 0.4 * ((m + 1) % 3)) * i / full)));
            std::vector<double> left(static_cast<std::size_t>(full) + 1, 0.0);
            for (int i = full; i-- > 0;)
                left[static_cast<std::size_t>(i)] =
                    left[static_cast<std::size_t>(i) + 1] + singular[static_cast<std::size_t>(i)] * singular[static_cast<std::size_t>(i)];
            Json errors = Json::array();
            Json values = Json::array();
            const int step = std::max(1, full / 128);
            for (int i = 0; i < full; i += step) {
                errors.push_back({i, left[static_cast<std::size_t>(i)] / left[0]});
                values.push_back({i + 1, singular[static_cast<std::size_t>(i)]});
            }
            errors.push_back({full, 0.0});
            const bool down = m == 2;
            matrices[names[m]] = {{"rows", down ? m_shape.hiddenSize : m_shape.layers[0].expertWidth},
                                  {"columns", down ? m_shape.layers[0].expertWidth : m_shape.hiddenSize},
                                  {"full_rank", full},
                                  {"break_even", breakEvenOf(m_shape, layer)},
                                  {"error", errors},
                                  {"singular", values}};
        }
        reply(request.id, {{"layer", layer}, {"expert", expert}, {"whitened", true}, {"matrices", matrices}});
    }

    void estimate(const Request& request)
    {
        Result<CompressionPlan> plan = planFromJson(request.params.value("plan", Json()), m_shape);
        if (!plan.ok()) {
            fail(request.id, plan.error());
            return;
        }
        const double dropped = 1.0 - static_cast<double>(plan->keptExperts()) / (m_layers * m_experts);
        const double e1 = 0.4 * dropped + 0.25 * lostByRank(*plan);
        const double e2 = 0.05 * dropped;
        const std::size_t pairs = request.params.value("pairs", Json::array()).size();
        const int probes = m_script.has("--no-probes") ? 0 : 24;
        Json answer = {{"plan_hash", m_script.has("--foreign-estimate") ? std::string(64, '0') : plan->hash()},
                       {"delta_nll", e1 + e2},
                       {"e1", e1},
                       {"e2", e2},
                       {"band", pairs >= 3 ? Json(0.01) : Json()},
                       {"label", pairs >= 8 ? "estimate" : "estimate, uncalibrated"},
                       {"calibration", {{"probes", probes}, {"pairs", pairs}, {"beta", {1.0, 1.0}}, {"rank_correlation", nullptr}}}};
        if (probes > 0) answer.update({{"low", 0.8 * (e1 + e2)}, {"high", 1.25 * (e1 + e2)}, {"spread", 0.14}, {"label", "estimate"}});
        reply(request.id, answer);
    }

    void profile(const Request& request, bool held, bool deep)
    {
        for (int layer = 0; layer < m_layers; ++layer) {
            Json scores = Json::object();
            for (const std::string& method : methodIds())
                for (int e = 0; e < m_experts; ++e)
                    scores[method].push_back(scoreOf(method, layer, e, m_experts));
            partial(request.id, {{"layer", layer}, {"scores", scores}});
            progress(request.id, layer + 1, m_layers, "layers");
            if (held && layer == 1) return;
        }
        const std::filesystem::path out = request.params.value("out", std::string());
        if (deep || m_script.has("--outputs")) {
            ProfileData data;
            data.shape = m_shape;
            data.fingerprint = std::string(64, 'f');
            data.collected = request.params["collect"].get<std::vector<std::string>>();
            data.layers.resize(m_shape.layers.size());
            for (const LayerShape& layer : m_shape.layers) {
                LayerProfile& filled = data.layers[static_cast<std::size_t>(layer.index)];
                filled.layer = layer.index;
                filled.experts = layer.experts;
                filled.count.assign(static_cast<std::size_t>(layer.experts), 1);
                if (m_script.has("--outputs")) filled.outputs = OutputMoments::zeros(layer.experts, m_shape.hiddenSize);
            }
            if (const Status written = writeProfile(out, data); !written.ok()) {
                fail(request.id, written.error());
                return;
            }
        } else if (!out.empty()) {
            std::ofstream(out) << "not a profile\n";
        }
        reply(request.id, profileReply(out.string(), {"counts", "ean", "reap", "gram"}));
    }

    Json textWarnings() const
    {
        if (!m_script.has("--warn-text")) return Json::array();
        return {"The text has 9 windows of 256 tokens; 128 were asked for.",
                "Windows of 4096 tokens are longer than the model's 2048 positions."};
    }

    Json profileReply(const std::string& file, const std::vector<std::string>& collected) const
    {
        Json scores = Json::object();
        for (const std::string& method : methodIds()) {
            Json values = Json::array();
            for (int layer = 0; layer < m_layers; ++layer) {
                values.push_back(Json::array());
                for (int e = 0; e < m_experts; ++e)
                    values.back().push_back(scoreOf(method, layer, e, m_experts));
            }
            scores[method] = {{"title", method}, {"unit", ""}, {"better", "higher"}, {"values", values}};
            if (method == "leave-one-out")
                for (int layer = 0; layer < m_layers; ++layer)
                    scores[method]["layer_importance"].push_back(0.4 - 0.3 * layer / m_layers);
        }
        return {{"profile", file},           {"tokens", 96 * 256},     {"tokens_per_second", 1000.0},     {"layers_done", m_layers},
                {"uncovered_fraction", 0.0}, {"collected", collected}, {"text_warnings", textWarnings()}, {"scores", scores}};
    }

    // Mean over the experts of how far their ranks lie below break-even.
    double lostByRank(const CompressionPlan& plan) const
    {
        double lost = 0;
        for (int layer = 0; layer < m_layers; ++layer)
            for (const int expert : plan.layer(layer).kept()) {
                const double level = levelOf(m_shape, plan, layer, expert);
                lost += 1 - level / denseLevel(m_shape, layer);
            }
        return lost / (m_layers * m_experts);
    }

    double lossOf(const CompressionPlan& plan, int window, int tokens) const
    {
        const double dropped = 1.0 - static_cast<double>(plan.keptExperts()) / (m_layers * m_experts);
        const unsigned seed = static_cast<unsigned>(std::stoul(plan.hash().substr(0, 7), nullptr, 16));
        const double ofPlan = static_cast<double>(seed % 997) / 997.0;
        const double ofWindow = static_cast<double>((static_cast<unsigned>(window) * 2654435761u >> 8) % 1000) / 1000.0;
        return tokens * (2.0 + 0.5 * dropped + 0.3 * lostByRank(plan) + 0.01 * ofPlan + 0.3 * ofWindow);
    }

    void evaluate(const Request& request, bool held)
    {
        const Result<CompressionPlan> plan = planFromJson(request.params.value("plan", Json()), m_shape);
        if (!plan.ok()) {
            fail(request.id, plan.error());
            return;
        }
        for (const Json& path : request.params.value("text", Json::array()))
            if (std::ifstream file(path.get<std::string>()); std::string(std::istreambuf_iterator<char>(file), {}).starts_with("refuse")) {
                fail(request.id,
                     badInput("text.not_utf8", path.get<std::string>(), "The text is not valid UTF-8.", "Convert the file to UTF-8."));
                return;
            }
        // The text is cut as the real engine cuts it: windows before the first are left out, and there are at most so many.
        const int first = request.params.value("first_window", 0);
        const int total = m_script.has("--short-text") ? kShortText : kTotalWindows + kTotalWindows + kTotalWindows;
        const int most = request.params.value("max_windows", 0);
        const int there = most > 0 ? std::min(most, total - first) : total - first;
        std::vector<int> windows;
        if (const Json wanted = request.params.value("windows", Json()); wanted.is_array())
            windows = wanted.get<std::vector<int>>();
        else
            windows = spreadWindows(there, wanted.is_object() ? wanted.value("spread", there) : there);
        if (std::any_of(windows.begin(), windows.end(), [there](int w) { return w < 0 || w >= there; })) {
            fail(request.id, badInput("evaluate.window_out_of_range", "window", "The text has fewer windows."));
            return;
        }
        const int tokens = request.params.value("window_length", 256) - 1;
        Json measured = Json::array();
        std::vector<WindowLoss> losses;
        for (const int window : windows) {
            const WindowLoss loss{window, lossOf(*plan, first + window, tokens), tokens};
            losses.push_back(loss);
            measured.push_back({{"window", window}, {"nll", loss.nll}, {"tokens", tokens}});
            partial(request.id, measured.back());
            progress(request.id, static_cast<int>(losses.size()), static_cast<int>(windows.size()), "windows");
            if (held && losses.size() == 3) return;
        }
        const PerplexityEstimate estimate = perplexity(losses);
        reply(request.id, {{"plan_hash", plan->hash()},
                           {"windows", measured},
                           {"ppl", estimate.ppl},
                           {"nll", estimate.nll},
                           {"scored_tokens", estimate.tokens},
                           {"window_count_total", there},
                           {"text_sha256", sha256Hex(request.params.value("text", Json()).dump() + std::to_string(first))},
                           {"tokenizer_sha256", std::string(64, 'b')},
                           {"warnings", textWarnings()},
                           {"dtype", "fp32"},
                           {"seconds", 0.01}});
    }

    // Keeps the same share everywhere, then exchanges one kept for one dropped expert per layer. Held: after the first layer that was
    // searched, with the second one running.
    void plan(const Request& request, bool held)
    {
        const Json& params = request.params;
        const Json recipe = params.value("recipe", Json::object());
        const Result<CompressionPlan> base = planFromJson(params.value("plan", Json()), m_shape);
        if (!base.ok()) return fail(request.id, base.error());
        if (m_script.has("--refuse-plan")) {
            Error error = badInput("allocate.infeasible", "target", "The locked layers alone keep more experts than the target.",
                                   "Unlock a layer, or raise the target to 24 experts.");
            return fail(request.id, error);
        }
        const auto stage = [&](const char* name, Json value) {
            value["stage"] = name;
            partial(request.id, std::move(value));
        };
        AllocationRequest wanted;
        wanted.plan = *base;
        const Json target = recipe.value("target", Json::object());
        const LayerShape& layer0 = m_shape.layers.front();
        const std::int64_t dense = planCost(m_shape, CompressionPlan::identity(m_shape)).bytes;
        wanted.keepTotal = target.value("experts", 0);
        if (target.contains("bytes"))
            wanted.keepTotal =
                m_layers * m_experts - static_cast<int>((dense - target["bytes"].get<std::int64_t>() + layer0.bytesPerExpert - 1) /
                                                        (layer0.bytesPerExpert + layer0.routerBytesPerExpert));
        const Result<std::vector<int>> keep = allocate("uniform", m_shape, wanted, {});
        if (!keep.ok()) return fail(request.id, keep.error());
        ExpertScores scores;
        scores.method = recipe["score"]["method"].get<std::string>();
        for (int layer = 0; layer < m_layers; ++layer) {
            scores.values.rows.emplace_back();
            for (int e = 0; e < m_experts; ++e)
                scores.values.rows.back().push_back(scoreOf(scores.method, layer, e, m_experts));
        }
        Result<CompressionPlan> found = selectByRanking(m_shape, *base, *keep, scores);
        if (!found.ok()) return fail(request.id, found.error());
        if (recipe["allocate"]["method"] == "verified") {
            for (int layer = 0; layer < m_layers; ++layer) {
                stage("allocate", {{"layer", layer}, {"alone", 0.04 * (m_layers - layer)}});
                progress(request.id, 10 * (layer + 1), 1000, "search");
            }
            const auto measured = [&](const char* name, double nll, double change, double error, double passes, int windows,
                                      bool accepted) {
                Json step = {{"name", name},       {"plan_hash", found->hash()}, {"nll", nll},       {"change", change},
                             {"error", error},     {"estimate", change},         {"passes", passes}, {"windows", windows},
                             {"rise", nll - 2.25}, {"accepted", accepted}};
                if (accepted) step["plan"] = toJson(*found);
                stage("allocate", std::move(step));
                progress(request.id, static_cast<int>(25 * passes), 1000, "search");
            };
            measured("uniform", 2.45, 0, 0, 4.5, 96, true);
            measured("experts 0 -> 2", 2.46, 0.01, 0.002, 5.25, 16, false);
            measured("experts 3 -> 1", 2.41, -0.04, 0.004, 7.0, 96, true);
        }
        const auto layersSearched = [&](int count) {
            if (recipe["allocate"]["method"] == "verified")
                progress(request.id, 800 + 200 * count / m_layers, 1000, "search");
            else
                progress(request.id, count, m_layers, "layer");
        };
        stage("select", {{"plan", toJson(*found)}, {"keep", *keep}});
        int searched = 0;
        for (int layer = 0; layer < m_layers; ++layer) {
            const LayerPlan& now = found->layer(layer);
            const ExpertSet& pinned = found->protectedExperts(layer);
            if (found->isLocked(layer)) continue;
            std::vector<double> trace;
            for (int generation = 0; generation < 4; ++generation) {
                trace.push_back(12.0 - layer - 0.7 * generation);
                stage("select", {{"layer", layer}, {"generation", generation}, {"best_loss", trace.back()}, {"trace", trace}});
            }
            layersSearched(searched);
            if (held && searched == 1) return;
            ExpertSet kept = now.kept();
            for (int e = 0; e < m_experts && static_cast<int>(kept.size()) < m_experts; ++e)
                if (!found->keeps(layer, e)) {
                    for (int& old : kept)
                        if (!std::binary_search(pinned.begin(), pinned.end(), old)) {
                            old = e;
                            break;
                        }
                    std::sort(kept.begin(), kept.end());
                    break;
                }
            stage("select", {{"layer", layer},
                             {"finished", true},
                             {"kept", kept},
                             {"best_loss", trace.back()},
                             {"reference_loss", 13.0 - layer},
                             {"output_norm", 100.0},
                             {"evaluated", 400},
                             {"trace", trace}});
            if (Result<CompressionPlan> better = found->withKept(m_shape, layer, kept); better.ok()) found = std::move(better);
            layersSearched(++searched);
        }
        if (const Json field = recipe.value("receptive_field", Json()); field.is_object())
            for (int first = 0, size = field["block_size"].get<int>(); first < m_layers; first += size) {
                Json layers = Json::array();
                for (int layer = first; layer < std::min(m_layers, first + size); ++layer)
                    layers.push_back(layer);
                const Json choice = Json::array({0, 1, 0});
                stage("receptive-field", {{"moe_layers", layers},
                                          {"trials", {{{"choice", {0, 0, 0}}, {"loss", 5.0}}, {{"choice", choice}, {"loss", 4.6}}}},
                                          {"best", {{"choice", choice}, {"loss", 4.6}}},
                                          {"plan", toJson(*found)}});
            }
        if (recipe.value("rank", Json()).is_object()) stage("rank", {{"plan", toJson(*found)}});
        const CompressionPlan& answer = m_script.has("--same-plan") ? *base : *found;
        reply(request.id, {{"plan", toJson(answer)},
                           {"plan_hash", answer.hash()},
                           {"keep", *keep},
                           {"stages", Json::array()},
                           {"warnings", m_script.has("--note-plan") ? Json{"The first remark.", "The second remark."} : Json::array()},
                           {"exchange", nullptr},
                           {"seconds", 0.1}});
    }

    void exportModel(const Request& request)
    {
        const Result<CompressionPlan> plan = planFromJson(request.params.value("plan", Json()), m_shape);
        if (!plan.ok()) {
            fail(request.id, plan.error());
            return;
        }
        // As strict as the real one: a count, not a list of windows.
        if (const Json windows = request.params.value("windows", Json(1)); !windows.is_number_integer() || windows.get<int>() < 1) {
            put(frameMessage(
                serialise(Response{request.id, RpcError{rpc::kInvalidParams, "export: \"windows\" is not a number in range", {}}})));
            return;
        }
        Json result = {{"files", {"config.json", "espalier_plan.json", "model.safetensors"}},
                       {"bytes", planCost(m_shape, *plan).bytes},
                       {"flavor", request.params.value("flavor", std::string())}};
        if (!request.params.value("dry_run", false)) {
            progress(request.id, 1, 2, "write");
            progress(request.id, 2, 2, "verify");
            const int tokens = request.params.value("window_length", 256) - 1;
            std::vector<WindowLoss> losses;
            // As in the window: so many of the first ones, spread.
            const int most = request.params.value("windows", 1);
            for (const int w : spreadWindows(most, request.params.value("spread", most)))
                losses.push_back(
                    {w, lossOf(*plan, request.params.value("first_window", 0) + w, tokens) * (m_script.has("--wrong-export") ? 1.01 : 1.0),
                     tokens});
            result["verify"] = {{"holds", true},
                                {"checks", {{{"name", "tensors"}, {"holds", true}, {"detail", "all equal"}}}},
                                {"ppl_preview", perplexity(losses).ppl},
                                {"ppl_export", perplexity(losses).ppl},
                                {"max_abs_logit_difference", 0.0}};
        }
        reply(request.id, std::move(result));
    }

    Script m_script;
    ModelShape m_shape;
    int m_layers = static_cast<int>(m_shape.layers.size());
    int m_experts = m_shape.maxExperts();
    std::optional<RequestId> m_held;
    std::vector<std::string> m_waiting;  // bodies behind the held job
};

}  // namespace

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
    return Engine(std::move(script)).run();
}
