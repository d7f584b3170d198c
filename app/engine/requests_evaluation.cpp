// What a plan costs the model: measured on a text, or estimated from a profile.
#include "requests.h"

#include "base/window_spread.h"
#include "evaluate/evaluator.h"
#include "pipeline/model_match.h"
#include "pipeline/plan_estimates.h"
#include "pipeline/result_json.h"
#include "plan/factor_methods.h"
#include "text_options.h"
#include "tokenizer/text_windows.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace espalier
{

namespace
{

struct EvaluateRequest {
    std::string path;
    TextOptions text;
    Json plan;
    std::vector<std::filesystem::path> profiles;
    std::vector<int> indices;
    bool listed = false;  // `indices` is meant
    int first = 0;        // otherwise so many windows; 0 = all
    int spread = 0;       // or so many, spread evenly
};

// "windows": [indices], {"first": n}, {"spread": n}, {"all": true} or n.
void readWindows(RequestParams& params, EvaluateRequest& request)
{
    request.first = params.count("first", 0, 0);
    const Json* windows = params.find("windows");
    if (!windows) return;
    request.listed = windows->is_array();
    if (windows->is_array() && std::all_of(windows->begin(), windows->end(),
                                           [](const Json& w) { return w.is_number_unsigned() && w.get<std::uint64_t>() < (1u << 30); }))
        request.indices = windows->get<std::vector<int>>();
    else if (windows->is_object() && windows->value("first", Json()).is_number_unsigned())
        request.first = windows->at("first").get<int>();
    else if (windows->is_object() && windows->value("spread", Json()).is_number_unsigned())
        request.spread = windows->at("spread").get<int>();
    else if (windows->is_number_unsigned())
        request.first = windows->get<int>();
    else if (!(windows->is_object() && windows->contains("all")))
        params.fail("windows", "is neither a list of windows nor {\"first\": n}, {\"spread\": n} or {\"all\": true}");
}

Result<Json> runEvaluation(OpenModels& models, const EvaluateRequest& request, JobContext& job)
{
    const auto started = std::chrono::steady_clock::now();
    ESPALIER_TRY(const auto open, models.open(request.path));
    CompressionPlan compression = CompressionPlan::identity(open->checkpoint->shape());
    if (!request.plan.is_null()) {
        ESPALIER_TRY(compression, planFromJson(request.plan, open->checkpoint->shape()));
        ESPALIER_CHECK_OK(checkPlanModel(compression, *open->checkpoint, false));
    }
    ESPALIER_TRY(const FactorSources profiles, models.factorSourcesOf(compression, request.profiles));
    compression = withGivenProfile(compression, profiles);
    ESPALIER_TRY(const auto evaluator, models.evaluator(*open, request.text));
    const std::shared_ptr<MoeModel> model = open->model;
    model->setFactorSources(profiles);
    std::vector<int> wanted = request.indices;
    std::vector<std::string> warnings = OpenModels::textWarnings(*open, request.text);
    if (std::string fewer = fewerWindows(request.first, evaluator->windows()); !fewer.empty()) warnings.push_back(std::move(fewer));
    if (request.spread > 0)
        wanted = spreadWindows(evaluator->windowCount(), request.spread);
    else if (!request.listed)
        wanted = firstWindows(request.first > 0 ? std::min(request.first, evaluator->windowCount()) : evaluator->windowCount());
    ESPALIER_TRY(const std::vector<WindowLoss> losses, evaluator->run(compression, wanted, {}, job));
    const PerplexityEstimate estimate = perplexity(losses);
    const int asked = std::max(request.first, request.text.windows);
    return Json{{"plan_hash", compression.hash()},
                {"windows", windowsJson(losses, true)},
                {"ppl", numberJson(estimate.ppl)},
                {"nll", numberJson(estimate.nll)},
                {"nll_error", numberJson(estimate.nllError)},
                {"scored_tokens", estimate.tokens},
                {"window_count_total", evaluator->windowCount()},
                {"windows_asked", asked > 0 ? Json(asked) : Json()},
                {"warnings", warnings},
                {"window_length", evaluator->windows().windowLength},
                {"text", evaluator->windows().source},
                {"text_sha256", evaluator->windows().textSha256},
                {"tokenizer_sha256", evaluator->windows().tokenizerSha256},
                {"dtype", model->numericMode()},
                {"seconds", std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count()}};
}

void evaluate(RequestCall& call)
{
    RequestParams& params = call.params;
    EvaluateRequest request;
    request.path = params.text("path", true);
    request.text = textOptionsOf(params);
    request.text.windows = params.count("max_windows", 0, 0);
    if (request.text.text.empty() && request.text.ids.empty()) params.fail("text", "is missing");
    request.plan = params.value("plan", false);
    request.profiles = params.paths("profile");
    const bool full = params.text("tier", false) == "full";
    readWindows(params, request);
    if (call.refused()) return;
    // A full evaluation gives way to an interactive one and starts again: the evaluator keeps every window that it measured.
    call.submit(full ? Lane::Full : Lane::Interactive, full ? GiveWay::Restart : GiveWay::Never,
                [models = call.models(), request = std::move(request)](JobContext& job) { return runEvaluation(*models, request, job); });
}

void estimate(RequestCall& call)
{
    RequestParams& params = call.params;
    const std::string profilePath = params.text("profile", true);
    const Json planJson = params.value("plan", false);
    const Json denseNll = params.value("dense_nll", false);
    if (!denseNll.is_null() && !denseNll.is_number()) params.fail("dense_nll", "must be a number");
    const Json* pairsJson = params.find("pairs");
    Result<EstimateRecord> record = recordFromJson(pairsJson ? *pairsJson : Json::array());
    if (!record.ok()) params.fail("pairs", "is not a list of estimates beside exact changes");
    if (call.refused()) return;
    const auto answer = [planJson, denseNll, record = std::move(record).value()](HeldEstimator& estimator) -> Result<Json> {
        ESPALIER_TRY(const auto estimate, estimator.estimate(planJson));
        Json result = estimateJson(estimate.first, estimator.basis(), record);
        result["plan_hash"] = estimate.second;
        // On the text that the dense NLL was measured on.
        const Json& delta = result["delta_nll"];
        result["ppl"] =
            denseNll.is_number() && delta.is_number() ? numberJson(std::exp(denseNll.get<double>() + delta.get<double>())) : Json();
        return result;
    };
    // Fractions of a millisecond to a few: here, whatever the compute thread is busy with. Only reading the profile is a job.
    if (const auto held = call.models()->estimators().find(profilePath)) return call.answer(answer(*held));
    call.submit(Lane::Interactive, GiveWay::Never, [models = call.models(), profilePath, answer](JobContext&) -> Result<Json> {
        ESPALIER_TRY(const auto held, models->estimators().load(profilePath));
        return answer(*held);
    });
}

}  // namespace

std::vector<RequestHandler> evaluationRequests() { return {{"evaluate", evaluate}, {"estimate", estimate}}; }

}  // namespace espalier
