// What the scripted engine measures: perplexities, estimates, tasks, completions, speed, exports. The numbers are functions of the plan.
#include "base/sha256.h"
#include "base/statistics.h"
#include "base/window_spread.h"
#include "plan/cost_model.h"
#include "plan/rank_edit.h"
#include "widgets/fake_engine.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>

namespace espalier
{

void FakeEngine::estimate(const Request& request)
{
    const auto asked = read<EstimateRequest>(request);
    if (!asked) return;
    Result<CompressionPlan> plan = planFromJson(asked->plan, m_shape);
    if (!plan.ok()) {
        fail(request.id, plan.error());
        return;
    }
    const double dropped = 1.0 - static_cast<double>(plan->keptExperts()) / (m_layers * m_experts);
    const double e1 = 0.4 * dropped + 0.25 * lostByRank(*plan);
    const double e2 = 0.05 * dropped;
    const int pairs = static_cast<int>(asked->pairs.size());
    const int probes = m_script.has("--no-probes") ? 0 : 24;
    EstimateAnswer answer;
    answer.planHash = m_script.has("--foreign-estimate") ? std::string(64, '0') : plan->hash();
    Estimate& estimate = answer.estimate;
    estimate.deltaNll = e1 + e2;
    estimate.pplRatio = std::exp(e1 + e2);
    estimate.e1 = e1;
    estimate.e2 = e2;
    if (pairs >= 3) estimate.band = 0.01;
    estimate.label = pairs >= 8 || probes > 0 ? "estimate" : "estimate, uncalibrated";
    Estimate::Calibration& calibration = estimate.calibration.emplace();
    calibration.probes = probes;
    calibration.pairs = pairs;
    calibration.beta = {1.0, 1.0};
    if (probes > 0) {
        estimate.low = 0.8 * (e1 + e2);
        estimate.high = 1.25 * (e1 + e2);
        estimate.spread = 0.14;
    }
    reply(request.id, answer);
}

// Mean over the experts of how far their ranks lie below break-even.
double FakeEngine::lostByRank(const CompressionPlan& plan) const
{
    double lost = 0;
    for (int layer = 0; layer < m_layers; ++layer)
        for (const int expert : plan.layer(layer).kept()) {
            const double level = levelOf(m_shape, plan, layer, expert);
            lost += 1 - level / denseLevel(m_shape, layer);
        }
    return lost / (m_layers * m_experts);
}

double FakeEngine::lossOf(const CompressionPlan& plan, int window, int tokens) const
{
    const double dropped = 1.0 - static_cast<double>(plan.keptExperts()) / (m_layers * m_experts);
    const unsigned seed = static_cast<unsigned>(std::stoul(plan.hash().substr(0, 7), nullptr, 16));
    const double ofPlan = static_cast<double>(seed % 997) / 997.0;
    const double ofWindow = static_cast<double>((static_cast<unsigned>(window) * 2654435761u >> 8) % 1000) / 1000.0;
    return tokens * (2.0 + 0.5 * dropped + 0.3 * lostByRank(plan) + 0.01 * ofPlan + 0.3 * ofWindow);
}

void FakeEngine::evaluate(const Request& request, bool held)
{
    const auto asked = read<EvaluateRequest>(request);
    if (!asked) return;
    const Result<CompressionPlan> plan = planFromJson(asked->plan, m_shape);
    if (!plan.ok()) {
        fail(request.id, plan.error());
        return;
    }
    for (const std::filesystem::path& path : asked->text.text)
        if (std::ifstream file(path); std::string(std::istreambuf_iterator<char>(file), {}).starts_with("refuse")) {
            fail(request.id, badInput("text.not_utf8", path.string(), "The text is not valid UTF-8.", "Convert the file to UTF-8."));
            return;
        }
    // The text is cut as the real engine cuts it: windows before the first are left out, and there are at most so many.
    const int first = asked->text.firstWindow;
    const int total = m_script.has("--short-text") ? kShortText : kTotalWindows + kTotalWindows + kTotalWindows;
    const int most = asked->maxWindows;
    const int there = most > 0 ? std::min(most, total - first) : total - first;
    std::vector<int> windows;
    if (asked->windows.kind == WindowChoice::Kind::Listed)
        windows = asked->windows.indices;
    else
        windows = spreadWindows(there, asked->windows.kind == WindowChoice::Kind::Spread ? asked->windows.count : there);
    if (std::any_of(windows.begin(), windows.end(), [there](int w) { return w < 0 || w >= there; })) {
        fail(request.id, badInput("evaluate.window_out_of_range", "window", "The text has fewer windows."));
        return;
    }
    const int tokens = lengthOf(asked->text) - 1;
    std::vector<WindowLoss> losses;
    for (const int window : windows) {
        const WindowLoss loss{window, lossOf(*plan, first + window, tokens), tokens};
        losses.push_back(loss);
        partial(request.id, loss);
        progress(request.id, static_cast<int>(losses.size()), static_cast<int>(windows.size()), "windows");
        if (held && losses.size() == 3) return;
    }
    const PerplexityEstimate estimate = perplexity(losses);
    std::string text = std::to_string(first);
    for (const std::filesystem::path& path : asked->text.text)
        text = path.string() + "\n" + text;
    reply(request.id, EvaluateAnswer{.planHash = plan->hash(),
                                     .windows = losses,
                                     .ppl = estimate.ppl,
                                     .nll = estimate.nll,
                                     .nllError = estimate.nllError,
                                     .scoredTokens = estimate.tokens,
                                     .windowCountTotal = there,
                                     .windowsAsked = {},
                                     .warnings = textWarnings(),
                                     .windowLength = tokens + 1,
                                     .text = asked->text.text.empty() ? std::string() : asked->text.text.front().string(),
                                     .textSha256 = sha256Hex(text),
                                     .tokenizerSha256 = std::string(64, 'b'),
                                     .dtype = "fp32",
                                     .seconds = 0.01});
}

// The fewer experts, the fewer right answers; of one question always the same. Held: with half of the second task answered.
TaskMarks FakeEngine::marksOf(const CompressionPlan& plan, const std::string& name, const std::string& rules, int questions) const
{
    const double dropped = 1.0 - static_cast<double>(plan.keptExperts()) / (m_layers * m_experts);
    TaskMarks marks{.name = name, .rules = rules, .sha256 = sha256Hex(name), .hidden = 0, .acc = {}, .norm = {}};
    const bool normalised = rules != "boolq" && rules != "rte" && rules != "winogrande";
    for (int q = 0; q < questions; ++q) {
        const double place = static_cast<double>(static_cast<unsigned>(q + 7 * static_cast<int>(name.size())) * 2654435761u % 1000) / 1000;
        marks.acc += place < 0.6 - 0.5 * dropped ? TaskMarks::kRight : TaskMarks::kWrong;
        if (normalised) marks.norm += place < 0.7 - 0.5 * dropped ? TaskMarks::kRight : TaskMarks::kWrong;
    }
    return marks;
}

void FakeEngine::tasks(const Request& request, bool held)
{
    const auto asked = read<TasksRequest>(request);
    if (!asked) return;
    const Result<CompressionPlan> plan = planFromJson(asked->plan, m_shape);
    if (!plan.ok()) return fail(request.id, plan.error());
    if (asked->data.filename() == "empty")
        return fail(request.id, badInput("task.none", asked->data.string(), asked->data.string() + " holds no task files.",
                                         "Put files as hellaswag.jsonl there, or list others in tasks.json."));
    std::vector<std::pair<std::string, std::string>> names = {{"endings", "hellaswag"}, {"cloze", "openbookqa"}};
    if (m_script.has("--eight")) {
        names.clear();
        for (const char* name : {"arc_challenge", "arc_easy", "boolq", "hellaswag", "openbookqa", "rte", "winogrande", "piqa"})
            names.emplace_back(name, name);
    }
    TasksAnswer answer{.planHash = plan->hash(), .tasks = {}, .dtype = "fp32", .recovered = 0, .warnings = {}, .seconds = 0.1};
    for (const auto& [name, rules] : names) {
        const int there = name == "cloze" ? 20 : 40;
        TaskMarks marks = marksOf(*plan, name, rules, asked->limit > 0 ? std::min(asked->limit, there) : there);
        const auto half = marks.acc.size() / 2;
        TaskMarks some = marks;
        for (std::string* of : {&some.acc, &some.norm})
            for (std::size_t i = half; i < of->size(); ++i)
                (*of)[i] = TaskMarks::kOpen;
        partial(request.id, some);
        if (held && !answer.tasks.empty()) return;
        partial(request.id, marks);
        answer.tasks.push_back(std::move(marks));
        progress(request.id, static_cast<int>(answer.tasks.size()), static_cast<int>(names.size()), "token");
    }
    reply(request.id, answer);
}

// Words by number; from the sixth on those of a plan that drops experts are others. Held: with three tokens there.
void FakeEngine::generate(const Request& request, bool held)
{
    const auto asked = read<GenerateRequest>(request);
    if (!asked) return;
    const Result<CompressionPlan> plan = planFromJson(asked->plan, m_shape);
    if (!plan.ok()) return fail(request.id, plan.error());
    const bool dense = plan->keptExperts() == m_layers * m_experts;
    GenerateAnswer answer;
    answer.planHash = plan->hash();
    answer.promptIds = {1, 2};
    answer.finish = "length";
    answer.prefillSeconds = 0.1;
    answer.decodeSeconds = 0.5;
    answer.dtype = "fp32";
    for (int i = 0; i < asked->tokens; ++i) {
        GeneratedTokenEvent token;
        token.index = i;
        token.id = 100 + i + (dense || i < 5 ? 0 : 1000);
        token.text = " word" + std::to_string(token.id);
        token.logprob = std::log(dense ? 0.5 : 0.25);
        token.alternatives = {{token.id, token.text, token.logprob}, {7, " other", std::log(0.125)}};
        partial(request.id, token);
        progress(request.id, i + 1, asked->tokens, "token");
        if (held && i == 2) return;
        answer.ids.push_back(token.id);
        answer.logprobs.push_back(token.logprob);
        answer.text += token.text;
    }
    reply(request.id, answer);
}

void FakeEngine::speed(const Request& request)
{
    const auto asked = read<SpeedRequest>(request);
    if (!asked) return;
    const Result<CompressionPlan> plan = planFromJson(asked->plan, m_shape);
    if (!plan.ok()) return fail(request.id, plan.error());
    SpeedAnswer answer;
    answer.planHash = plan->hash();
    answer.dense.prefillTokensPerSecond = 1000;
    answer.dense.decodeTokensPerSecond = 40;
    answer.plan = answer.dense;
    answer.plan->prefillTokensPerSecond = 1310;
    answer.ratio = SpeedRatio{.prefill = 1.31, .decode = 1, .low = 1.25, .high = 1.35, .decodeLow = 0.9, .decodeHigh = 1.1};
    answer.prefill = asked->prefill;
    answer.decode = asked->decode;
    answer.rounds = asked->rounds;
    answer.dtype = "fp32";
    answer.threads = 2;
    reply(request.id, answer);
}

void FakeEngine::exportModel(const Request& request)
{
    const auto asked = read<ExportRequest>(request);
    if (!asked) return;
    const Result<CompressionPlan> plan = planFromJson(asked->plan, m_shape);
    if (!plan.ok()) {
        fail(request.id, plan.error());
        return;
    }
    ExportAnswer answer;
    answer.report.files = {{"config.json", 1}, {"espalier_plan.json", 1}, {"model.safetensors", planCost(m_shape, *plan).bytes}};
    answer.report.bytes = planCost(m_shape, *plan).bytes;
    answer.report.flavor = asked->flavor;
    answer.report.out = asked->out;
    answer.report.planHash = plan->hash();
    answer.report.dryRun = asked->dryRun;
    if (!asked->dryRun) {
        progress(request.id, 1, 2, "write");
        progress(request.id, 2, 2, "verify");
        const int tokens = lengthOf(asked->text) - 1;
        std::vector<WindowLoss> losses;
        // As in the window: so many of the first ones, spread.
        const int most = asked->windows.value_or(1);
        for (const int w : spreadWindows(most, asked->spread > 0 ? asked->spread : most))
            losses.push_back(
                {w, lossOf(*plan, asked->text.firstWindow + w, tokens) * (m_script.has("--wrong-export") ? 1.01 : 1.0), tokens});
        answer.verify = VerifyReport{.holds = true,
                                     .flavor = asked->flavor,
                                     .planHash = plan->hash(),
                                     .checks = {{"tensors", true, "all equal"}},
                                     .maxAbsLogitDifference = 0.0,
                                     .pplPreview = perplexity(losses).ppl,
                                     .pplExport = perplexity(losses).ppl,
                                     .windows = static_cast<int>(losses.size()),
                                     .warnings = {}};
    }
    reply(request.id, answer);
}

}  // namespace espalier
