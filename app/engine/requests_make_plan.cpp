// From a profile to a plan, on the model that is open.
#include "requests.h"

#include "pipeline/make_plan.h"
#include "pipeline/model_match.h"
#include "pipeline/recipe_json.h"
#include "pipeline/result_json.h"
#include "pipeline/search_journal.h"
#include "plan/factor_methods.h"
#include "profile/profile_windows.h"
#include "search_device.h"
#include "session/profile_file.h"
#include "text_options.h"
#include "tokenizer/text_windows.h"
#include "verb_inputs.h"

#include <algorithm>
#include <chrono>

namespace espalier
{

namespace
{

struct PlanRequest {
    std::string path;
    std::string profile;
    std::vector<std::filesystem::path> baseProfiles;  // of the plan it starts from, where they are others
    Json base;
    PlanRecipe recipe;
    TextOptions text;    // calibration; none: the profile's own windows
    TextOptions locked;  // no search sees it
    std::string state;   // file in which a search is kept while it runs; empty: nowhere
    bool resume = false;
};

Json searchJson(const std::optional<PlanSearchResult>& search)
{
    if (!search) return nullptr;
    Json trace = Json::array();
    for (const PlanSearchStep& step : search->trace)
        trace.push_back(toJson(step));
    return {{"measured", search->measured},
            {"moves", search->moves},
            {"passes", search->passes},
            {"rank_given_back", search->rankGivenBack},
            {"end", planSearchEndName(search->end)},
            {"change", differenceJson(search->change)},
            {"against_given", search->againstFirst ? differenceJson(*search->againstFirst) : Json()},
            {"locked_change", search->lockedChange ? differenceJson(*search->lockedChange) : Json()},
            {"trace", std::move(trace)}};
}

Result<Json> runPlan(OpenModels& models, const PlanRequest& request, JobContext& job)
{
    const auto started = std::chrono::steady_clock::now();
    ESPALIER_TRY(const auto open, models.open(request.path));
    const std::shared_ptr<const Checkpoint> checkpoint = open->checkpoint;
    const ModelShape& shape = checkpoint->shape();
    ESPALIER_TRY(const auto profile, models.profileData(request.profile));
    ESPALIER_CHECK_OK(checkProfileModel(*profile, request.profile, *checkpoint));
    ESPALIER_TRY(const std::string profileHash, profileSha256(request.profile));
    CompressionPlan base = CompressionPlan::identity(shape);
    FactorSources sources;
    if (!request.base.is_null()) {
        ESPALIER_TRY(base, planFromJson(request.base, shape));
        ESPALIER_CHECK_OK(checkPlanModel(base, *checkpoint, false));
        std::vector<std::filesystem::path> paths = request.baseProfiles;
        if (std::find(paths.begin(), paths.end(), std::filesystem::path(request.profile)) == paths.end()) paths.push_back(request.profile);
        ESPALIER_TRY(sources, models.factorSourcesOf(base, paths));
        base = withGivenProfile(base, sources);
    }
    // The verified allocator measures plans with ranks of its own.
    if (sources.empty() && measuresRanks(request.recipe) && profile->has("factors")) {
        ESPALIER_TRY(sources, models.factorSources({request.profile}));
    }
    PlanInputs inputs{checkpoint, *profile, profileHash, base};
    inputs.batch = batchFactoryFor(models.options().device);
    std::shared_ptr<MoeModel> model;
    std::shared_ptr<Evaluator> evaluator;
    const bool given = !request.text.text.empty() || !request.text.ids.empty();
    std::vector<std::string> warnings;
    if (given) {
        ESPALIER_TRY(evaluator, models.evaluator(*open, request.text));
        inputs.windows = evaluator->windows();
        warnings = OpenModels::textWarnings(*open, request.text);
    } else {
        ESPALIER_TRY(auto own, profileWindows(*profile, request.text.windows, shape.vocabularySize));
        if (own) {
            inputs.windows = own->windows;
            inputs.missingWindows = own->missing;
            if (std::string fewer = fewerWindows(request.text.windows, own->windows); !fewer.empty()) warnings.push_back(std::move(fewer));
            // A plan that only reads the profile needs no model.
            if (runsModel(request.recipe)) {
                ESPALIER_TRY(evaluator, models.evaluator(*open, std::move(own->windows)));
            }
        }
    }
    if (inputs.windows) {
        model = open->model;
        inputs.evaluator = evaluator.get();
        // An evaluation that ran in between may have left other sources.
        inputs.model = [&]() -> Result<MoeModel*> {
            if (!model) {
                ESPALIER_TRY(model, models.model(*open));
            }
            model->setFactorSources(sources);
            return model.get();
        };
    }
    if (!request.locked.text.empty()) {
        ESPALIER_TRY(inputs.locked, openText(given ? request.locked : cutAsProfile(request.locked, *profile), *checkpoint, warnings));
    }
    PlanRecipe recipe = request.recipe;
    recipe.threads = models.options().threads;
    std::optional<SearchJournal> journal;
    if (!request.state.empty()) {
        const bool bf16 = computeTypeFor(models.options().dtype, *checkpoint) == ComputeType::Bf16;
        Result<SearchJournal> opened =
            SearchJournal::open(request.state, searchKey(inputs, recipe, bf16 ? "bf16" : "fp32"), request.resume);
        // That it cannot be written costs the chance to resume, not the search.
        if (opened.ok())
            journal.emplace(std::move(opened).value());
        else
            warnings.push_back(opened.error().describe());
        inputs.journal = journal ? &*journal : nullptr;
    }
    ESPALIER_TRY(const PlanOutcome outcome, makePlan(inputs, recipe, job));
    if (journal) journal->remove();
    warnings.insert(warnings.end(), outcome.warnings.begin(), outcome.warnings.end());
    Json stages = Json::array();
    for (const PlanStage& stage : outcome.stages)
        stages.push_back(toJson(stage));
    return Json{{"plan", toJson(outcome.plan)},
                {"plan_hash", outcome.plan.hash()},
                {"keep", outcome.keep},
                {"stages", std::move(stages)},
                {"warnings", std::move(warnings)},
                {"recovered", journal ? journal->recovered() : 0},
                {"exchange", searchJson(outcome.search)},
                {"cost", costJson(planCost(shape, outcome.plan), planCost(shape, CompressionPlan::identity(shape)))},
                {"seconds", std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count()}};
}

void plan(RequestCall& call)
{
    RequestParams& params = call.params;
    PlanRequest request;
    request.path = params.text("path", true);
    request.profile = params.text("profile", true);
    request.baseProfiles = params.paths("base_profiles");
    request.base = params.value("plan", false);
    request.recipe = recipeFromRequest(params.object("recipe", true));
    request.text = textOptionsOf(params);
    request.text.windows = params.count("windows", 0, 0);
    request.locked = request.text;
    request.locked.firstWindow = request.locked.spread = 0;
    request.locked.ids.clear();
    request.locked.text = params.paths("locked");
    request.state = params.text("state", false);
    request.resume = params.flag("resume", false);
    if (call.refused()) return;
    if (const Status recipe = checkRecipe(request.recipe); !recipe.ok()) return call.fail(recipe.error());
    // Every stage asks between two steps whether to stop; an interactive evaluation runs there and the search goes on.
    call.submit(Lane::Full, GiveWay::Pause,
                [models = call.models(), request = std::move(request)](JobContext& job) { return runPlan(*models, request, job); });
}

}  // namespace

std::vector<RequestHandler> planRequests() { return {{"plan", plan}}; }

}  // namespace espalier
