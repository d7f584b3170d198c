// What a model says under a plan, and how fast.
#include "requests.h"

#include "generate/end_tokens.h"
#include "generate/generator.h"
#include "generate/speed.h"
#include "pipeline/model_match.h"
#include "plan/factor_methods.h"
#include "rpc/protocol_generate.h"

namespace espalier
{

namespace
{

// A model that is made ready to run a plan.
struct Ready {
    std::shared_ptr<OpenModel> open;
    std::shared_ptr<MoeModel> model;
    CompressionPlan plan;
};

Result<Ready> ready(OpenModels& models, const std::string& path, const Json& plan, const std::vector<std::filesystem::path>& profiles)
{
    Ready ready;
    ESPALIER_TRY(ready.open, models.open(path));
    const Checkpoint& checkpoint = *ready.open->checkpoint;
    ready.plan = CompressionPlan::identity(checkpoint.shape());
    if (!plan.is_null()) {
        ESPALIER_TRY(ready.plan, planFromJson(plan, checkpoint.shape()));
        ESPALIER_CHECK_OK(checkPlanModel(ready.plan, checkpoint, false));
    }
    ESPALIER_TRY(const FactorSources sources, models.factorSourcesOf(ready.plan, profiles));
    ready.plan = withGivenProfile(ready.plan, sources);
    ESPALIER_TRY(ready.model, models.model(*ready.open));
    ready.model->setFactorSources(sources);
    return ready;
}

GeneratedTokenEvent eventOf(const GeneratedToken& token)
{
    GeneratedTokenEvent event{
        .index = token.index, .id = token.choice.chosen.id, .text = token.text, .logprob = token.choice.chosen.logprob, .alternatives = {}};
    for (std::size_t i = 0; i < token.choice.alternatives.size(); ++i)
        event.alternatives.push_back({token.choice.alternatives[i].id, token.alternatives[i], token.choice.alternatives[i].logprob});
    return event;
}

Result<GenerateAnswer> runGenerate(OpenModels& models, const GenerateRequest& request, JobContext& job)
{
    ESPALIER_TRY(const Ready run, ready(models, request.path, request.plan, request.profiles));
    GenerateAnswer answer;
    std::vector<int> prompt = request.promptIds;
    std::shared_ptr<const Tokenizer> tokenizer;
    Result<std::shared_ptr<const Tokenizer>> loaded = OpenModels::tokenizer(*run.open);
    if (loaded.ok())
        tokenizer = *loaded;
    else if (prompt.empty())
        return loaded.error();
    else if (loaded.error().code != "tokenizer.missing")
        answer.warnings.push_back(loaded.error().describe());
    if (prompt.empty()) {
        ESPALIER_TRY(prompt, promptIds(*tokenizer, request.prompt));
    }
    GenerateOptions options;
    options.tokens = request.tokens;
    options.sampling = {request.temperature, request.topP, request.seed};
    if (!request.ignoreEnd) {
        ESPALIER_TRY(options.endIds, endTokens(run.open->checkpoint->folder(), tokenizer ? tokenizer->eosId() : std::nullopt));
    }
    options.stop = request.stop;
    options.alternatives = request.alternatives;
    ESPALIER_TRY(const Generated generated, generate(*run.model, run.plan, prompt, options, tokenizer.get(), job,
                                                     [&job](const GeneratedToken& token) { job.partial(toJson(eventOf(token))); }));
    answer.planHash = run.plan.hash();
    answer.promptIds = prompt;
    answer.ids = generated.ids;
    answer.text = generated.text;
    answer.logprobs = generated.logprobs;
    answer.finish = finishName(generated.finish);
    answer.prefillSeconds = generated.prefillSeconds;
    answer.decodeSeconds = generated.decodeSeconds;
    answer.dtype = run.model->numericMode();
    if (std::string slow = slowPlanWarning(*run.model, run.plan); !slow.empty()) answer.warnings.push_back(std::move(slow));
    return answer;
}

void generateTokens(RequestCall& call)
{
    auto request = call.read<GenerateRequest>();
    if (!request) return;
    call.submit(Lane::Attended, GiveWay::Pause,
                [models = call.models(), request = std::move(*request)](JobContext& job) { return runGenerate(*models, request, job); });
}

SpeedSide sideOf(const SpeedOf& speed)
{
    return {.prefillTokensPerSecond = speed.prefill.median,
            .decodeTokensPerSecond = speed.decode.median,
            .prefillLow = speed.prefill.low,
            .prefillHigh = speed.prefill.high,
            .decodeLow = speed.decode.low,
            .decodeHigh = speed.decode.high,
            .bytesReadPerToken = speed.bytesReadPerToken,
            .fileBytesReadPerToken = speed.fileBytesReadPerToken,
            .peakRssBytes = speed.peakRssBytes,
            .weightBytes = speed.weightBytes,
            .flopsPerToken = speed.flopsPerToken,
            .activeParameters = speed.activeParameters,
            .atMost = speed.atMost};
}

Result<SpeedAnswer> runSpeed(OpenModels& models, const SpeedRequest& request, JobContext& job)
{
    ESPALIER_TRY(const Ready run, ready(models, request.path, request.plan, request.profiles));
    const SpeedOptions options{
        .prefill = request.prefill, .decode = request.decode, .rounds = request.rounds, .seed = request.seed, .prompt = {}};
    ESPALIER_TRY(
        const SpeedResult result,
        measureSpeed(*run.model, request.plan.is_null() ? nullptr : &run.plan, options, job, [&job](const RoundSpeed& round) {
            job.partial(toJson(SpeedRound{round.round, round.densePrefill, round.denseDecode, round.planPrefill, round.planDecode}));
        }));
    SpeedAnswer answer;
    answer.planHash = run.plan.hash();
    answer.dense = sideOf(result.dense);
    if (result.plan) answer.plan = sideOf(*result.plan);
    if (result.ratio)
        answer.ratio = SpeedRatio{result.ratio->prefill.median, result.ratio->decode.median, result.ratio->prefill.low,
                                  result.ratio->prefill.high,   result.ratio->decode.low,    result.ratio->decode.high};
    answer.prefill = request.prefill;
    answer.decode = request.decode;
    answer.rounds = request.rounds;
    answer.dtype = run.model->numericMode();
    answer.threads = run.model->options().threads;
    answer.warnings = run.model->warnings();
    if (std::string slow = slowPlanWarning(*run.model, run.plan); !slow.empty()) answer.warnings.push_back(std::move(slow));
    if (std::string again = madeAgainWarning(result, *run.model); !again.empty()) answer.warnings.push_back(std::move(again));
    return answer;
}

void speed(RequestCall& call)
{
    auto request = call.read<SpeedRequest>();
    if (!request) return;
    call.submit(Lane::Attended, GiveWay::Pause,
                [models = call.models(), request = std::move(*request)](JobContext& job) { return runSpeed(*models, request, job); });
}

}  // namespace

std::vector<RequestHandler> generateRequests() { return {{GenerateRequest::kMethod, generateTokens}, {SpeedRequest::kMethod, speed}}; }

}  // namespace espalier
