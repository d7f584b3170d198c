// What a plan costs the model: measured on a text, or estimated from a profile.
#include "requests.h"

#include "base/window_spread.h"
#include "evaluate/evaluator.h"
#include "pipeline/model_match.h"
#include "pipeline/plan_estimates.h"
#include "plan/factor_methods.h"
#include "rpc/protocol_evaluation.h"
#include "text_options.h"
#include "tokenizer/text_windows.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace espalier
{

namespace
{

Result<EvaluateAnswer> runEvaluation(OpenModels& models, const EvaluateRequest& request, JobContext& job)
{
    const auto started = std::chrono::steady_clock::now();
    ESPALIER_TRY(const auto open, models.open(request.path));
    TextOptions text = textOptionsOf(request.text);
    text.windows = request.maxWindows;
    CompressionPlan compression = CompressionPlan::identity(open->checkpoint->shape());
    if (!request.plan.is_null()) {
        ESPALIER_TRY(compression, planFromJson(request.plan, open->checkpoint->shape()));
        ESPALIER_CHECK_OK(checkPlanModel(compression, *open->checkpoint, false));
    }
    ESPALIER_TRY(const FactorSources profiles, models.factorSourcesOf(compression, request.profiles));
    compression = withGivenProfile(compression, profiles);
    ESPALIER_TRY(const auto evaluator, models.evaluator(*open, text));
    const std::shared_ptr<MoeModel> model = open->model;
    model->setFactorSources(profiles);
    const int first = request.windows.kind == WindowChoice::Kind::First ? request.windows.count : 0;
    std::vector<std::string> warnings = OpenModels::textWarnings(*open, text);
    if (std::string fewer = fewerWindows(first, evaluator->windows()); !fewer.empty()) warnings.push_back(std::move(fewer));
    std::vector<int> wanted = request.windows.indices;
    if (request.windows.kind == WindowChoice::Kind::Spread && request.windows.count > 0)
        wanted = spreadWindows(evaluator->windowCount(), request.windows.count);
    else if (request.windows.kind != WindowChoice::Kind::Listed)
        wanted = firstWindows(first > 0 ? std::min(first, evaluator->windowCount()) : evaluator->windowCount());
    ESPALIER_TRY(const std::vector<WindowLoss> losses, evaluator->run(compression, wanted, {}, job));
    const PerplexityEstimate estimate = perplexity(losses);
    const int asked = std::max(first, text.windows);
    return EvaluateAnswer{.planHash = compression.hash(),
                          .windows = losses,
                          .ppl = estimate.ppl,
                          .nll = estimate.nll,
                          .nllError = estimate.nllError,
                          .scoredTokens = estimate.tokens,
                          .windowCountTotal = evaluator->windowCount(),
                          .windowsAsked = asked > 0 ? std::optional(asked) : std::nullopt,
                          .warnings = warnings,
                          .windowLength = evaluator->windows().windowLength,
                          .text = evaluator->windows().source,
                          .textSha256 = evaluator->windows().textSha256,
                          .tokenizerSha256 = evaluator->windows().tokenizerSha256,
                          .dtype = model->numericMode(),
                          .seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count()};
}

void evaluate(RequestCall& call)
{
    auto request = call.read<EvaluateRequest>();
    if (!request) return;
    const bool full = request->tier == "full";
    // A full evaluation gives way to an interactive one and starts again: the evaluator keeps every window that it measured.
    call.submit(full ? Lane::Full : Lane::Interactive, full ? GiveWay::Restart : GiveWay::Never,
                [models = call.models(), request = std::move(*request)](JobContext& job) { return runEvaluation(*models, request, job); });
}

void estimate(RequestCall& call)
{
    const auto request = call.read<EstimateRequest>();
    if (!request) return;
    const std::string profilePath = request->profile;
    const auto answer = [request = *request, record = recordOf(request->pairs)](HeldEstimator& estimator) -> Result<EstimateAnswer> {
        ESPALIER_TRY(const auto estimate, estimator.estimate(request.plan));
        EstimateAnswer result{.estimate = estimateOf(estimate.first, estimator.basis(), record), .planHash = estimate.second};
        // On the text that the dense NLL was measured on.
        if (request.denseNll) result.ppl = std::exp(*request.denseNll + result.estimate.deltaNll);
        return result;
    };
    // Fractions of a millisecond to a few: here, whatever the compute thread is busy with. Only reading the profile is a job.
    if (const auto held = call.models()->estimators().find(profilePath)) return call.answer(answer(*held));
    call.submit(Lane::Interactive, GiveWay::Never, [models = call.models(), profilePath, answer](JobContext&) -> Result<EstimateAnswer> {
        ESPALIER_TRY(const auto held, models->estimators().load(profilePath));
        return answer(*held);
    });
}

}  // namespace

std::vector<RequestHandler> evaluationRequests() { return {{EvaluateRequest::kMethod, evaluate}, {EstimateRequest::kMethod, estimate}}; }

}  // namespace espalier
