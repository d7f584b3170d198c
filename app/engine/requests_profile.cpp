// Taking profiles and looking at what they hold.
#include "requests.h"

#include "gram_store_note.h"
#include "pipeline/checkpoint_weights.h"
#include "pipeline/profile_rank_curves.h"
#include "pipeline/result_json.h"
#include "profile/profile_pass.h"
#include "rpc/protocol_profile.h"
#include "score/scorer.h"
#include "text_options.h"

#include <algorithm>
#include <chrono>

namespace espalier
{

namespace
{

LoadProfileAnswer factsOf(const std::string& path, const ProfileData& data)
{
    return {.profile = path,
            .tokens = data.tokens,
            .windows = data.windows,
            .windowLength = data.windowLength,
            .textSha256 = data.textSha256,
            .fingerprint = data.fingerprint,
            .layersDone = static_cast<int>(data.layers.size()),
            .collected = data.collected,
            .uncoveredFraction = uncoveredFraction(data),
            .gram = gramStoreNote(data),
            .scores = allScores(data),
            .warnings = profileWarnings(data)};
}

Result<ProfileAnswer> runProfileRequest(OpenModels& models, const ProfileRequest& request, JobContext& job)
{
    TextOptions text = textOptionsOf(request.text);
    text.windows = request.windows;
    ProfileOptions options;
    options.out = request.out;
    options.gramTokens = request.gramTokens;
    if (!request.collect.empty()) options.collect = request.collect;
    options.resume = request.resume;
    options.force = request.force;
    ESPALIER_TRY(const auto open, models.open(request.path));
    ProfileAnswer answer;
    ESPALIER_TRY(const TokenWindows windows, openText(text, *open->checkpoint, answer.textWarnings));
    ESPALIER_TRY(const auto model, models.model(*open, request.memoryBudget));
    const auto started = std::chrono::steady_clock::now();
    ESPALIER_TRY(ProfileData data, runProfile(*model, windows, options, job));
    answer.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    const auto held = std::make_shared<const ProfileData>(std::move(data));
    models.remember(options.out, held);
    models.estimators().remember(options.out, *held);
    answer.facts = factsOf(options.out.string(), *held);
    std::vector<std::string>& warnings = answer.facts.warnings;
    warnings.insert(warnings.end(), answer.textWarnings.begin(), answer.textWarnings.end());
    warnings.insert(warnings.end(), model->warnings().begin(), model->warnings().end());
    answer.windowsAsked = windowsAsked(text);
    answer.tokensPerSecond = static_cast<double>(held->tokens) / answer.seconds;
    answer.dtype = model->numericMode();
    return answer;
}

void profile(RequestCall& call)
{
    auto request = call.read<ProfileRequest>();
    if (!request) return;
    // An interactive evaluation runs between two steps of the pass; the pass itself goes on where it was.
    call.submit(Lane::Full, GiveWay::Pause, [models = call.models(), request = std::move(*request)](JobContext& job) {
        return runProfileRequest(*models, request, job);
    });
}

void loadProfile(RequestCall& call)
{
    const auto request = call.read<LoadProfileRequest>();
    if (!request) return;
    call.submit(Lane::Interactive, GiveWay::Never,
                [models = call.models(), path = request->profile](JobContext&) -> Result<LoadProfileAnswer> {
                    ESPALIER_TRY(const auto held, models->profileData(path));
                    models->estimators().remember(path, *held);
                    return factsOf(path, *held);
                });
}

// A job that can be stopped, or give way, between two matrices, and says how far it is.
class WatchedWeights final : public ExpertMatrices
{
public:
    WatchedWeights(std::shared_ptr<const Checkpoint> checkpoint, const ModelShape& shape, JobContext& job)
        : m_weights(std::move(checkpoint)), m_job(job)
    {
        for (const LayerShape& layer : shape.layers)
            if (layer.moe) m_total += 3 * static_cast<std::int64_t>(layer.experts);
    }
    Result<std::vector<float>> matrix(int layer, int expert, int matrix) const override
    {
        if (m_job.stopRequested()) return cancelledError();
        m_job.progress(m_done++, m_total, "matrix");
        return m_weights.matrix(layer, expert, matrix);
    }

private:
    CheckpointWeights m_weights;
    JobContext& m_job;
    std::int64_t m_total = 0;
    mutable std::int64_t m_done = 0;
};

bool readsWeights(const std::string& id)
{
    const auto& all = scorers();
    return std::any_of(all.begin(), all.end(), [&id](const MethodInfo& method) {
        return method.id == id && std::find(method.needs.begin(), method.needs.end(), "weights") != method.needs.end();
    });
}

// Beside the weights.
bool readsProfile(const std::string& id)
{
    const auto& all = scorers();
    return std::any_of(all.begin(), all.end(), [&id](const MethodInfo& method) {
        return method.id == id && std::any_of(method.needs.begin(), method.needs.end(), [](const auto& need) { return need != "weights"; });
    });
}

// The model's weights are read, all of its experts once: long for a large model, so it gives way to what is asked for meanwhile.
void scoreWeightsOf(RequestCall& call, ScoreRequest request)
{
    if (request.path.empty())
        return call.fail(
            usageError("The score \"" + request.method + "\" reads the weights of the model, and no model was named.", "Name it."));
    if (readsProfile(request.method) && request.profile.empty())
        return call.fail(
            usageError("The score \"" + request.method + "\" is computed from a profile, and none was named.", "Name a profile."));
    call.submit(
        Lane::Full, GiveWay::Pause, [models = call.models(), request = std::move(request)](JobContext& job) -> Result<ExpertScores> {
            ESPALIER_TRY(const auto open, models->open(request.path));
            const ModelShape& shape = open->checkpoint->shape();
            const WatchedWeights weights(open->checkpoint, shape, job);
            if (readsProfile(request.method)) {
                ESPALIER_TRY(const auto data, models->profileData(request.profile));
                if (data->fingerprint != open->checkpoint->fingerprint())
                    return badInput("profile.other_model", request.profile,
                                    {"{file} belongs to another model than {model}.", {{"file", request.profile}, {"model", request.path}}},
                                    "Name the model the profile was taken of.");
                return score(*data, request.method, request.params, &weights);
            }
            return scoreWeights(shape, request.method, request.params, weights);
        });
}

void scoreProfile(RequestCall& call)
{
    auto request = call.read<ScoreRequest>();
    if (!request) return;
    if (readsWeights(request->method)) return scoreWeightsOf(call, std::move(*request));
    if (request->profile.empty())
        return call.fail(
            usageError("The score \"" + request->method + "\" is computed from a profile, and none was named.", "Name a profile."));
    call.submit(Lane::Interactive, GiveWay::Never,
                [models = call.models(), request = std::move(*request)](JobContext&) -> Result<ExpertScores> {
                    ESPALIER_TRY(const auto data, models->profileData(request.profile));
                    return score(*data, request.method, request.params);
                });
}

void rankCurves(RequestCall& call)
{
    const auto request = call.read<RankCurvesRequest>();
    if (!request) return;
    // A few additions once the profile is in memory: here, whatever the compute thread is busy with.
    if (const auto held = call.models()->heldProfile(request->profile))
        return call.answer(rankCurves(*held, request->layer, request->expert));
    call.submit(Lane::Interactive, GiveWay::Never, [models = call.models(), request = *request](JobContext&) -> Result<RankCurvesAnswer> {
        ESPALIER_TRY(const auto data, models->profileData(request.profile));
        return rankCurves(*data, request.layer, request.expert);
    });
}

}  // namespace

std::vector<RequestHandler> profileRequests()
{
    return {{ProfileRequest::kMethod, profile},
            {LoadProfileRequest::kMethod, loadProfile},
            {ScoreRequest::kMethod, scoreProfile},
            {RankCurvesRequest::kMethod, rankCurves}};
}

}  // namespace espalier
