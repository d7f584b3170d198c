// From a profile to a plan, on the model that is open.
#include "requests.h"

#include "base/atomic_file.h"
#include "base/cache_folder.h"
#include "pipeline/make_plan.h"
#include "pipeline/model_match.h"
#include "pipeline/search_journal.h"
#include "plan/factor_methods.h"
#include "plan/values_search.h"
#include "profile/profile_windows.h"
#include "recover/recover.h"
#include "rpc/protocol_plan.h"
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

SearchSummary summaryOf(const PlanSearchResult& search)
{
    return {.measured = search.measured,
            .moves = search.moves,
            .passes = search.passes,
            .rankGivenBack = search.rankGivenBack,
            .end = planSearchEndName(search.end),
            .change = search.change,
            .againstGiven = search.againstFirst,
            .lockedChange = search.lockedChange,
            .trace = search.trace};
}

// The file stays by the name of its content, so that every plan and session that names it finds it.
Result<CompressionPlan> withValuesKept(const CompressionPlan& plan, const ValuesInfo& values, const std::filesystem::path& folder)
{
    ESPALIER_CHECK_OK(makeFolder(folder));
    const std::filesystem::path kept = folder / (values.id + ".safetensors");
    std::error_code failure;
    const bool isNew = !std::filesystem::exists(kept, failure) && !failure;
    ESPALIER_CHECK_OK(syncAndRename(values.file, kept));
    // One without a record is never removed; no reason to lose the plan.
    if (isNew) (void)beginValuesRecord(kept);
    std::vector<ValuesInfo> all = plan.values();
    for (ValuesInfo& info : all)
        if (info.id == values.id) info.file = kept.string();
    return plan.withValues(std::move(all));
}

PlanAnswer answerOf(const PlanOutcome& outcome, const ModelShape& shape, std::vector<std::string> warnings, std::int64_t recovered,
                    double seconds)
{
    PlanAnswer answer{.plan = toJson(outcome.plan),
                      .planHash = outcome.plan.hash(),
                      .keep = outcome.keep,
                      .stages = {},
                      .warnings = std::move(warnings),
                      .recovered = recovered,
                      .exchange = outcome.search ? std::optional(summaryOf(*outcome.search)) : std::nullopt,
                      .recovery = outcome.recovery,
                      .cost = costFacts(planCost(shape, outcome.plan), planCost(shape, CompressionPlan::identity(shape))),
                      .seconds = seconds};
    for (const PlanStage& stage : outcome.stages)
        answer.stages.push_back(toJson(stage));
    return answer;
}

Result<PlanAnswer> runPlan(OpenModels& models, const PlanRequest& request, JobContext& job)
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
    if (!request.plan.is_null()) {
        ESPALIER_TRY(base, planFromJson(request.plan, shape));
        ESPALIER_CHECK_OK(checkPlanModel(base, *checkpoint, false));
        std::vector<std::filesystem::path> paths = request.baseProfiles;
        if (std::find(paths.begin(), paths.end(), std::filesystem::path(request.profile)) == paths.end()) paths.push_back(request.profile);
        ESPALIER_TRY(sources, models.factorSourcesOf(base, paths));
        base = withGivenProfile(base, sources);
    }
    // The verified allocator measures plans with ranks of its own.
    const bool profiles = std::any_of(sources.begin(), sources.end(), [](const auto& source) { return source->stored() == nullptr; });
    if (!profiles && measuresRanks(request.recipe) && profile->has("factors")) {
        ESPALIER_TRY(const FactorSources own, models.factorSources({request.profile}));
        sources.insert(sources.end(), own.begin(), own.end());
    }
    PlanInputs inputs{checkpoint, *profile, profileHash, base};
    inputs.recoverOnly = request.recoverOnly;
    inputs.batch = batchFactoryFor(models.options().device);
    std::shared_ptr<MoeModel> model;
    std::shared_ptr<Evaluator> evaluator;
    const bool given = !request.text.empty();
    TextOptions text = textOptionsOf(request.text);
    text.windows = request.windows;
    std::vector<std::string> warnings;
    if (given) {
        ESPALIER_TRY(evaluator, models.evaluator(*open, text));
        inputs.windows = evaluator->windows();
        warnings = OpenModels::textWarnings(*open, text);
    } else {
        ESPALIER_TRY(auto own, profileWindows(*profile, text.windows, shape.vocabularySize));
        if (own) {
            inputs.windows = own->windows;
            inputs.missingWindows = own->missing;
            if (std::string fewer = fewerWindows(text.windows, own->windows); !fewer.empty()) warnings.push_back(std::move(fewer));
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
    if (!request.locked.empty()) {
        TextOptions locked = text;
        locked.firstWindow = locked.spread = 0;
        locked.ids.clear();
        locked.text = request.locked;
        ESPALIER_TRY(inputs.locked, openText(given ? locked : cutAsProfile(locked, *profile), *checkpoint, warnings));
    }
    const std::filesystem::path valuesFolder = request.values.empty() ? cacheFolder() / "values" : std::filesystem::path(request.values);
    inputs.recoverFolder = request.state.empty() ? valuesFolder / "recover" : std::filesystem::path(request.state + ".recover");
    inputs.sources = [&](const CompressionPlan& which) { return models.factorSourcesOf(which, {request.profile}); };
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
    ESPALIER_TRY(PlanOutcome outcome, makePlan(inputs, recipe, job));
    if (outcome.values) {
        ESPALIER_TRY(outcome.plan, withValuesKept(outcome.plan, *outcome.values, valuesFolder));
    }
    if (!recipe.recover.empty()) removeRun(inputs.recoverFolder);
    if (journal) journal->remove();
    warnings.insert(warnings.end(), outcome.warnings.begin(), outcome.warnings.end());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    return answerOf(outcome, shape, std::move(warnings), journal ? static_cast<std::int64_t>(journal->recovered()) : 0, seconds);
}

void plan(RequestCall& call)
{
    auto request = call.read<PlanRequest>();
    if (!request) return;
    if (const Status recipe = checkRecipe(request->recipe); !recipe.ok()) return call.fail(recipe.error());
    // Every stage asks between two steps whether to stop; an interactive evaluation runs there and the search goes on.
    call.submit(Lane::Full, GiveWay::Pause,
                [models = call.models(), request = std::move(*request)](JobContext& job) { return runPlan(*models, request, job); });
}

}  // namespace

std::vector<RequestHandler> planRequests() { return {{PlanRequest::kMethod, plan}}; }

}  // namespace espalier
