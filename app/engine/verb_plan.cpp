#include "base/atomic_file.h"
#include "factor_profiles.h"
#include "pipeline/make_plan.h"
#include "pipeline/model_match.h"
#include "pipeline/recipe_json.h"
#include "pipeline/result_json.h"
#include "pipeline/search_journal.h"
#include "plan/factor_methods.h"
#include "plan_method_options.h"
#include "plan_summary.h"
#include "profile/profile_windows.h"
#include "recover/recover.h"
#include "search_device.h"
#include "session/profile_file.h"
#include "terminal.h"
#include "text_options.h"
#include "tokenizer/text_windows.h"
#include "values_beside.h"
#include "verb_inputs.h"

#include <fmt/format.h>

#include <algorithm>

namespace espalier
{

namespace
{

struct PlanOptions {
    std::filesystem::path model;
    std::filesystem::path profile;
    std::filesystem::path out;
    std::filesystem::path from;
    std::filesystem::path locked;
    TextOptions text;
    PlanMethodOptions methods;
    bool force = false;
    bool resume = false;
    bool allowOther = false;
};

Json keptJson(const ModelShape& shape, const CompressionPlan& plan)
{
    Json kept = Json::array();
    for (const LayerShape& layer : shape.layers)
        kept.push_back(plan.layer(layer.index).kept());
    return kept;
}

Json ranksJson(const ModelShape& shape, const CompressionPlan& plan)
{
    Json ranks = Json::array();
    for (const LayerShape& layer : shape.layers)
        ranks.push_back(plan.layer(layer.index).ranks());
    return ranks;
}

// What the plan was made from, for its file and its answer.
struct MadeFrom {
    const ModelShape& shape;
    const ProfileData& profile;
    const std::string& profileHash;
    const PlanRecipe& recipe;
};

// Writes the plan and its numbers, and says what it is.
Result<Json> written(const PlanOptions& options, const MadeFrom& from, const PlanOutcome& outcome, std::size_t recovered,
                     Invocation& invocation)
{
    const ModelShape& shape = from.shape;
    CompressionPlan plan = outcome.plan;
    invocation.warnings.insert(invocation.warnings.end(), outcome.warnings.begin(), outcome.warnings.end());
    ESPALIER_CHECK_OK(invocation.processes.meet({}));
    if (invocation.processes.first()) {
        ESPALIER_TRY(plan, withValuesBeside(plan, outcome.values, options.out));
        ESPALIER_CHECK_OK(writeFileAtomically(options.out, planFileText(plan, from.recipe, from.profileHash) + "\n"));
    }
    Json result = toJson(costFacts(planCost(shape, plan), planCost(shape, CompressionPlan::identity(shape))));
    const Json losses = gramLossesJson(from.profile, plan);
    result["plan"] = options.out.string();
    result["plan_hash"] = plan.hash();
    result["kept"] = keptJson(shape, plan);
    result["ranks"] = ranksJson(shape, plan);
    result["kept_experts"] = plan.keptExperts();
    result["experts"] = shape.totalExperts();
    result["losses"] = losses;
    result["recovered"] = recovered;
    result["trace"] = toJson(from.recipe);
    result["trace"]["profile_sha256"] = from.profileHash;
    result["trace"]["stages"] = Json::array();
    for (const PlanStage& stage : outcome.stages)
        result["trace"]["stages"].push_back(toJson(stage));
    result["values"] = outcome.values ? Json(valuesBeside(options.out).string()) : Json();
    invocation.text = planText(shape, plan, losses) + recoveryText(outcome.stages);
    if (outcome.search)
        invocation.text += fmt::format("Search: {} plans measured, worth {:.1f} passes of the model over all windows ({})\n",
                                       outcome.search->measured, outcome.search->passes, planSearchEndName(outcome.search->end));
    return result;
}

Result<Json> planVerb(const PlanOptions& options, Invocation& invocation)
{
    ESPALIER_CHECK_OK(checkOutput(options.out, options.force));
    if (!options.methods.recover.empty() && options.methods.recover != "none")
        ESPALIER_CHECK_OK(checkOutput(valuesBeside(options.out), options.force));
    const PlanRecipe defaults;
    ESPALIER_TRY(PlanRecipe recipe, recipeOf(options.methods, invocation, defaults));
    ESPALIER_TRY(const auto checkpoint, openCheckpoint(options.model, invocation));
    const ModelShape& shape = checkpoint->shape();
    ESPALIER_CHECK_OK(readTarget(options.methods, shape, recipe));
    ESPALIER_CHECK_OK(checkRecipe(recipe));
    ESPALIER_TRY(const ProfileData data, readProfileFor(options.profile, *checkpoint, options.allowOther));
    ESPALIER_TRY(const std::string profileHash, profileSha256(options.profile));

    CompressionPlan base = CompressionPlan::identity(shape);
    if (!options.from.empty()) {
        ESPALIER_TRY(base, readPlan(options.from, *checkpoint, options.allowOther));
    }
    ESPALIER_TRY(base, withLocksAndProtection(base, shape, options.methods));
    FactorSources sources;
    if (factorsNeedProfile(base)) {
        ESPALIER_TRY(sources, openProfiles({options.profile}));
        base = withGivenProfile(base, sources);
    }
    if (sources.empty() && measuresRanks(recipe) && data.has("factors")) {
        ESPALIER_TRY(sources, openProfiles({options.profile}));
    }
    ESPALIER_CHECK_OK(addValuesFiles(base, options.from, sources));
    std::unique_ptr<MoeModel> model;
    PlanInputs inputs{checkpoint, data, profileHash, base};
    inputs.batch = batchFactoryFor(invocation.options.device);
    TextOptions locked = options.text;
    locked.ids.clear();
    locked.firstWindow = locked.spread = 0;
    locked.text = {options.locked};
    if (!options.text.text.empty() || !options.text.ids.empty()) {
        ESPALIER_TRY(inputs.windows, openText(options.text, *checkpoint, invocation.warnings));
    } else {
        if (options.text.windowLength > 0 && options.text.windowLength != data.windowLength)
            return usageError({"Without a text the profile's own windows are used, and those have {window_length} tokens.",
                               {{"window_length", data.windowLength}}},
                              "Leave --window-length out, or give --text.");
        ESPALIER_TRY(auto own, profileWindows(data, options.text.windows, shape.vocabularySize));
        if (own) {
            inputs.windows = std::move(own->windows);
            inputs.missingWindows = own->missing;
            if (std::string fewer = fewerWindows(options.text.windows, *inputs.windows); !fewer.empty())
                invocation.warnings.push_back(std::move(fewer));
        }
        locked = cutAsProfile(locked, data);
    }
    if (inputs.windows) {
        if (!options.locked.empty()) {
            ESPALIER_TRY(inputs.locked, openText(locked, *checkpoint, invocation.warnings));
        }
        inputs.model = [&]() -> Result<MoeModel*> {
            if (!model) {
                ESPALIER_TRY(model, createModel(checkpoint, invocation));
                model->setFactorSources(sources);
            }
            return model.get();
        };
    }
    inputs.recoverFolder = options.out;
    inputs.recoverFolder += ".recover";
    inputs.sources = [&](const CompressionPlan& which) -> Result<FactorSources> {
        const bool profile = std::any_of(sources.begin(), sources.end(), [](const auto& source) { return !source->stored(); });
        if (!profile && (factorsNeedProfile(which) || which.needsConstants())) {
            ESPALIER_TRY(FactorSources own, openProfiles({options.profile}));
            sources.insert(sources.end(), own.begin(), own.end());
        }
        return sources;
    };
    // Under mpirun every process records what it finished itself.
    inputs.processes = &invocation.processes;
    std::filesystem::path journalPath = options.out;
    journalPath += invocation.processes.first() ? ".search" : fmt::format(".search.{}", invocation.processes.rank() + 1);
    ESPALIER_TRY(SearchJournal journal, openSearchJournal(journalPath, options.resume, inputs, recipe, invocation));
    inputs.journal = &journal;
    Result<PlanOutcome> made = makePlan(inputs, recipe, invocation.job);
    if (!made.ok()) return withSearchKept(std::move(made).error(), journal);
    ESPALIER_TRY(Json result, written(options, {shape, data, profileHash, recipe}, *made, journal.recovered(), invocation));
    if (invocation.processes.first()) removeRun(inputs.recoverFolder);
    journal.remove();
    return result;
}

}  // namespace

void addPlan(Verbs& verbs)
{
    auto options = std::make_shared<PlanOptions>();
    CLI::App* verb = verbs.add(
        "plan", "Which experts to keep, at which rank: allocates, selects, ranks",
        [options](Invocation& invocation) { return planVerb(*options, invocation); }, Processes::Many);
    verb->add_option("MODEL", options->model, "Checkpoint folder")->required();
    verb->add_option("--profile", options->profile, "Profile of the model")->required()->type_name("P.h5");
    verb->add_option("--out", options->out, "Plan to write")->required()->type_name("PLAN.json");
    addPlanMethodOptions(verb, options->methods);
    addTextOptions(verb, options->text);
    verb->add_option(
            "--locked", options->locked,
            "Text that no search sees; the verified allocator measures its gain there once (not counted as an opening in any session)")
        ->type_name("FILE");
    verb->add_option("--from", options->from, "Start from this plan's locks, protection and ranks")->type_name("FILE");
    verb->add_flag("--resume", options->resume, "Go on with an interrupted search: what it finished is in OUT.search");
    verb->add_flag("--force", options->force, "Replace an existing output");
    verb->add_flag("--allow-other-model", options->allowOther, "Accept a profile or plan of another model");
}

}  // namespace espalier
