// Taking profiles and looking at what they hold.
#include "requests.h"

#include "gram_store_note.h"
#include "pipeline/profile_rank_curves.h"
#include "pipeline/result_json.h"
#include "profile/profile_pass.h"
#include "score/scorer.h"
#include "text_options.h"

#include <algorithm>
#include <chrono>

namespace espalier
{

namespace
{

Json profileJson(const std::string& path, const ProfileData& data)
{
    return {{"profile", path},
            {"tokens", data.tokens},
            {"windows", data.windows},
            {"window_length", data.windowLength},
            {"text_sha256", data.textSha256},
            {"fingerprint", data.fingerprint},
            {"layers_done", data.layers.size()},
            {"collected", data.collected},
            {"uncovered_fraction", numberJson(uncoveredFraction(data))},
            {"gram", gramStoreJson(data)},
            {"scores", allScoresJson(data)},
            {"warnings", profileWarnings(data)}};
}

struct ProfileRequest {
    std::string path;
    TextOptions text;
    ProfileOptions options;
    std::int64_t memoryBudget = 0;
};

Result<Json> runProfileRequest(OpenModels& models, const ProfileRequest& request, JobContext& job)
{
    ESPALIER_TRY(const auto open, models.open(request.path));
    std::vector<std::string> warnings;
    ESPALIER_TRY(const TokenWindows windows, openText(request.text, *open->checkpoint, warnings));
    ESPALIER_TRY(const auto model, models.model(*open, request.memoryBudget));
    const auto started = std::chrono::steady_clock::now();
    ESPALIER_TRY(ProfileData data, runProfile(*model, windows, request.options, job));
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    const auto held = std::make_shared<const ProfileData>(std::move(data));
    models.remember(request.options.out, held);
    models.estimators().remember(request.options.out, *held);
    Json result = profileJson(request.options.out.string(), *held);
    for (const std::string& warning : warnings)
        result["warnings"].push_back(warning);
    result["text_warnings"] = warnings;
    result["windows_asked"] = windowsAsked(request.text);
    result["tokens_per_second"] = numberJson(static_cast<double>(held->tokens) / seconds);
    result["seconds"] = seconds;
    result["dtype"] = model->numericMode();
    for (const std::string& warning : model->warnings())
        result["warnings"].push_back(warning);
    return result;
}

void profile(RequestCall& call)
{
    RequestParams& params = call.params;
    ProfileRequest request;
    request.path = params.text("path", true);
    request.text = textOptionsOf(params);
    request.text.windows = params.count("windows", 0, 0);
    if (request.text.text.empty() && request.text.ids.empty()) params.fail("text", "is missing");
    ProfileOptions& options = request.options;
    options.out = params.text("out", true);
    options.gramTokens = params.count("gram_tokens", -1, -1);
    if (const Json* collect = params.find("collect")) {
        if (collect->is_array() && std::all_of(collect->begin(), collect->end(), [](const Json& name) { return name.is_string(); }))
            options.collect = collect->get<std::vector<std::string>>();
        else
            params.fail("collect", "is not a list of statistics");
    }
    options.resume = params.flag("resume", false);
    options.force = params.flag("force", true);
    request.memoryBudget = params.integer("memory_budget", 0, 0);
    if (call.refused()) return;
    // An interactive evaluation runs between two steps of the pass; the pass itself goes on where it was.
    call.submit(Lane::Full, GiveWay::Pause, [models = call.models(), request = std::move(request)](JobContext& job) {
        return runProfileRequest(*models, request, job);
    });
}

void loadProfile(RequestCall& call)
{
    const std::string path = call.params.text("profile", true);
    if (call.refused()) return;
    call.submit(Lane::Interactive, GiveWay::Never, [models = call.models(), path](JobContext&) -> Result<Json> {
        ESPALIER_TRY(const auto held, models->profileData(path));
        models->estimators().remember(path, *held);
        return profileJson(path, *held);
    });
}

void scoreProfile(RequestCall& call)
{
    RequestParams& params = call.params;
    const std::string path = params.text("profile", true);
    const std::string id = params.text("method", true);
    Params methodParams;
    if (const Json* given = params.find("params")) {
        if (!given->is_object())
            params.fail("params", "must be an object");
        else
            for (const auto& [key, value] : given->items())
                methodParams[key] = value;
    }
    if (call.refused()) return;
    call.submit(Lane::Interactive, GiveWay::Never, [models = call.models(), path, id, methodParams](JobContext&) -> Result<Json> {
        ESPALIER_TRY(const auto data, models->profileData(path));
        ESPALIER_TRY(const ExpertScores scores, score(*data, id, methodParams));
        return scoresJson(scores);
    });
}

void rankCurves(RequestCall& call)
{
    RequestParams& params = call.params;
    const std::string path = params.text("profile", true);
    (void)params.find("layer", true);
    (void)params.find("expert", true);
    const int layer = params.count("layer", 0, 0);
    const int expert = params.count("expert", 0, 0);
    if (call.refused()) return;
    // A few additions once the profile is in memory: here, whatever the compute thread is busy with.
    if (const auto held = call.models()->heldProfile(path)) return call.answer(rankCurvesJson(*held, layer, expert));
    call.submit(Lane::Interactive, GiveWay::Never, [models = call.models(), path, layer, expert](JobContext&) -> Result<Json> {
        ESPALIER_TRY(const auto data, models->profileData(path));
        return rankCurvesJson(*data, layer, expert);
    });
}

}  // namespace

std::vector<RequestHandler> profileRequests()
{
    return {{"profile", profile}, {"load_profile", loadProfile}, {"score", scoreProfile}, {"rank_curves", rankCurves}};
}

}  // namespace espalier
