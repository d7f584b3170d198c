// What the scripted engine says of its model: shape, methods, profiles, scores, spectra.
#include "allocate/allocator.h"
#include "allocate/rank_rule.h"
#include "plan/rank_edit.h"
#include "session/profile_file.h"
#include "widgets/fake_engine.h"

#include <algorithm>
#include <cmath>
#include <fstream>

namespace espalier
{

namespace
{

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

}  // namespace

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

// Of the real registry; "annealing" is known to no window.
std::vector<MethodInfo> registry()
{
    std::vector<MethodInfo> methods;
    for (const auto& [id, need] : {std::pair("expert_frequency", "counts"), std::pair("ean_mean", "ean"), std::pair("reap", "reap"),
                                   std::pair("leave-one-out", "gram")})
        methods.push_back(describe(id, id, Slot::Score, {need}));
    methods.push_back(describe("aimer", "AIMER", Slot::Score, {"weights"}));
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
    methods.push_back(describe("least-squares", "Mend by least squares", Slot::Recover, {}));
    methods.back().runsModel = true;
    methods.push_back(describe("svd", "Truncated SVD", Slot::Factors, {}));
    methods.push_back(describe("whitened-svd", "Whitened SVD", Slot::Factors, {"factors"}));
    return methods;
}

void FakeEngine::openModel(const Request& request)
{
    const auto asked = read<OpenModelRequest>(request);
    if (!asked) return;
    const std::string& path = asked->path;
    if (m_script.has("--bad-model")) {
        Error error =
            badInput("checkpoint.shard_missing", path, "model-00002-of-00003.safetensors is named in the index but is not in the folder.",
                     "Copy the missing file.");
        error.kept = "Nothing was loaded.";
        fail(request.id, error);
        return;
    }
    OpenModelAnswer answer{.path = path,
                           .fingerprint = std::string(64, 'f'),
                           .configSha256 = std::string(64, 'c'),
                           .weightsSha256 = std::string(64, 'a'),
                           .shape = m_shape,
                           .inspection = Json::object(),
                           .warnings = {},
                           .tokenizer = TokenizerFacts{std::string(64, 'b'), 1000, false},
                           .forwardSupported = true};
    if (m_script.has("--unsupported-model")) {
        answer.shape.reset();
        answer.warnings = {"config.json says model_type \"novel_moe\", which is not known."};
        answer.tokenizer.reset();
        answer.forwardSupported = false;
    }
    reply(request.id, answer);
}

void FakeEngine::loadProfile(const Request& request)
{
    const auto asked = read<LoadProfileRequest>(request);
    if (!asked) return;
    if (const auto data = readProfile(asked->profile); data.ok())
        reply(request.id, profileFacts(asked->profile, data->collected));
    else
        fail(request.id, badInput("profile.unreadable", asked->profile, "The profile file cannot be read.", "Measure the profile again."));
}

LoadProfileAnswer FakeEngine::profileFacts(const std::filesystem::path& file, const std::vector<std::string>& collected) const
{
    LoadProfileAnswer facts{.profile = file,
                            .tokens = 96 * 256,
                            .windows = 96,
                            .windowLength = 256,
                            .textSha256 = {},
                            .fingerprint = std::string(64, 'f'),
                            .layersDone = m_layers,
                            .collected = collected,
                            .uncoveredFraction = 0,
                            .gram = {},
                            .scores = {},
                            .warnings = textWarnings()};
    for (const std::string& method : methodIds()) {
        ExpertScores& scores = facts.scores[method];
        scores.method = scores.title = method;
        for (int layer = 0; layer < m_layers; ++layer) {
            scores.values.rows.emplace_back();
            for (int e = 0; e < m_experts; ++e)
                scores.values.rows.back().push_back(scoreOf(method, layer, e, m_experts));
            if (method == "leave-one-out") scores.layerImportance.push_back(0.4 - 0.3 * layer / m_layers);
        }
    }
    return facts;
}

void FakeEngine::profile(const Request& request, bool held, bool deep)
{
    const auto asked = read<ProfileRequest>(request);
    if (!asked) return;
    for (int layer = 0; layer < m_layers; ++layer) {
        LayerScored scored{.layer = layer, .scores = {}};
        for (const std::string& method : methodIds())
            for (int e = 0; e < m_experts; ++e)
                scored.scores[method].push_back(scoreOf(method, layer, e, m_experts));
        partial(request.id, scored);
        progress(request.id, layer + 1, m_layers, "layers");
        if (held && layer == 1) return;
    }
    const std::filesystem::path& out = asked->out;
    if (deep || m_script.has("--outputs")) {
        ProfileData data;
        data.shape = m_shape;
        data.fingerprint = std::string(64, 'f');
        data.collected = asked->collect;
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
    reply(request.id, ProfileAnswer{.facts = profileFacts(out, {"counts", "ean", "reap", "gram"}),
                                    .textWarnings = textWarnings(),
                                    .windowsAsked = {},
                                    .tokensPerSecond = 1000,
                                    .seconds = 1,
                                    .dtype = "fp32"});
}

std::vector<std::string> FakeEngine::textWarnings() const
{
    if (!m_script.has("--warn-text")) return {};
    return {"The text has 9 windows of 256 tokens; 128 were asked for.",
            "Windows of 4096 tokens are longer than the model's 2048 positions."};
}

// Of the weights: other numbers than those of any profile.
void FakeEngine::scoreOfWeights(const Request& request)
{
    const auto asked = read<ScoreRequest>(request);
    if (!asked) return;
    ExpertScores scores;
    scores.method = asked->method;
    scores.title = "AIMER";
    scores.unit = "rms over mean of the weights";
    for (int layer = 0; layer < m_layers; ++layer) {
        scores.values.rows.emplace_back();
        for (int e = 0; e < m_experts; ++e)
            scores.values.rows.back().push_back(1.2 + 0.01 * ((e * 3 + layer) % m_experts));
    }
    reply(request.id, scores);
}

void FakeEngine::rankCurves(const Request& request)
{
    const auto asked = read<RankCurvesRequest>(request);
    if (!asked) return;
    const auto [profile, layer, expert] = *asked;
    if (layer >= m_layers || expert >= m_experts) {
        fail(request.id, badInput("profile.missing_statistics", "rank_curves", "There are no curves of this expert."));
        return;
    }
    const int full = fullRankOf(m_shape, layer);
    RankCurvesAnswer answer{.layer = layer, .expert = expert, .whitened = true, .gate = {}, .up = {}, .down = {}};
    for (int m = 0; m < 3; ++m) {
        // A steep head and a long tail, a little other for every matrix and cell.
        std::vector<double> singular;
        for (int i = 0; i < full; ++i)
            singular.push_back((10 + m + 0.1 * (expert % 7)) *
                               (0.75 * std::exp(-(40.0 - 4 * m) * i / full) + 0.25 * std::exp(-(2.6 + 0.4 * ((m + 1) % 3)) * i / full)));
        std::vector<double> left(static_cast<std::size_t>(full) + 1, 0.0);
        for (int i = full; i-- > 0;)
            left[static_cast<std::size_t>(i)] =
                left[static_cast<std::size_t>(i) + 1] + singular[static_cast<std::size_t>(i)] * singular[static_cast<std::size_t>(i)];
        const bool down = m == 2;
        SpectrumPoints& points = m == 0 ? answer.gate : m == 1 ? answer.up : answer.down;
        points.rows = static_cast<int>(down ? m_shape.hiddenSize : m_shape.layers[0].expertWidth);
        points.columns = static_cast<int>(down ? m_shape.layers[0].expertWidth : m_shape.hiddenSize);
        points.fullRank = full;
        points.breakEven = breakEvenOf(m_shape, layer);
        const int step = std::max(1, full / 128);
        for (int i = 0; i < full; i += step) {
            points.error.emplace_back(i, left[static_cast<std::size_t>(i)] / left[0]);
            points.singular.emplace_back(i + 1, singular[static_cast<std::size_t>(i)]);
        }
        points.error.emplace_back(full, 0.0);
    }
    reply(request.id, answer);
}

}  // namespace espalier
