#include "base/atomic_file.h"
#include "evaluate/evaluator.h"
#include "factor_profiles.h"
#include "pipeline/method_catalog.h"
#include "pipeline/model_match.h"
#include "pipeline/recover_stage.h"
#include "pipeline/window_losses.h"
#include "session/profile_file.h"
#include "text_options.h"
#include "tuning_options.h"
#include "values_beside.h"
#include "verb_inputs.h"

#include <fmt/format.h>

#include <algorithm>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

constexpr int kDemoGateWindows = 32;

struct RecoverOptions {
    fs::path model;
    fs::path plan;
    fs::path out;
    std::string method = "least-squares";
    TextOptions text;
    TuningOptions tuning;
    fs::path gate;
    std::string gateIds;
    int gateWindows = 0;
    std::vector<fs::path> profiles;
    std::vector<std::string> params;
    int steps = 0;
    bool control = false;
    bool resume = false;
    bool force = false;
    bool allowOther = false;
};

Result<Params> paramsOf(const RecoverOptions& options)
{
    // "recover.ridge=0.1" as in a recipe, or "ridge=0.1": there is one slot.
    std::vector<std::string> given = options.params;
    for (std::string& item : given)
        if (item.starts_with("recover.")) item = item.substr(8);
    ESPALIER_TRY(auto params, parseParams(given, {}));
    Params result = params[""];
    if (options.steps > 0) result["steps"] = options.steps;
    return result;
}

// The plan file with what it said beside its numbers: how it was made, notes.
Result<std::string> fileText(const RecoverOptions& options, const RecoverResult& result, const Params& params)
{
    ESPALIER_TRY(const Json before, readJsonFile(options.plan, "plan"));
    Json file = toJson(result.plan);
    for (const char* key : {"budget", "method_settings", "seed", "created", "notes"})
        if (before.contains(key)) file[key] = before[key];
    if (result.accepted && file.contains("method_settings") && file["method_settings"].is_object()) {
        Json settings = Json::object();
        for (const auto& [key, value] : params)
            settings[key] = value.is_number_float() ? Json(value.dump()) : value;
        file["method_settings"]["recover"] = {{"method", options.method}, {"parameters", std::move(settings)}};
    }
    return canonicalJson(file) + "\n";
}

std::string textOf(const RecoverOptions& options, const RecoverResult& result)
{
    const auto ppl = [](const std::vector<WindowLoss>& losses) { return perplexity(losses).ppl; };
    // One window has no spread.
    const auto interval = [](const PairedDifference& one) { return one.windows > 1 ? fmt::format(" ± {:.5f}", one.se) : std::string(); };
    const PairedDifference gain = pairedDifference(result.after, result.before);
    std::string text =
        fmt::format("{} on {}{}, windows: {}; perplexity {:.4f} before, {:.4f} after ({:+.5f}{} nats per token); dense {:.4f}",
                    options.method, result.gateText, result.gateHeldOut ? " (kept apart)" : "", result.before.size(), ppl(result.before),
                    ppl(result.after), gain.nll, interval(gain), ppl(result.dense));
    if (!result.control.empty()) {
        const PairedDifference more = pairedDifference(result.control, result.dense);
        text += fmt::format(", control {:.4f} ({:+.5f}{} to dense)", ppl(result.control), more.nll, interval(more));
    }
    text += "\n";
    if (result.control.empty() && !result.cancelled)
        text += "How much of it is more training and not recovery is unknown: --control tunes the dense model in the same way.\n";
    if (!result.changed && result.cancelled)
        text += "Stopped before anything better was found: the plan was written as it was.\n";
    else if (!result.changed)
        text += "Nothing was missing: the plan was written as it was.\n";
    else if (!result.accepted)
        text += "Not accepted: the loss on the gate's text does not fall. The plan was written as it was.\n";
    return text;
}

// Methods that follow gradients tune on a text of their own.
bool tunesOnText(const std::string& method)
{
    const MethodInfo* info = findMethod(Slot::Recover, method);
    return info != nullptr && info->stochastic;
}

// The profile among the files of --profile, to know its windows by; none where there is none, or where it is of another kind.
Result<std::optional<ProfileData>> profileOf(const RecoverOptions& options)
{
    for (const fs::path& path : options.profiles) {
        if (isValuesFile(path) || isPlanFactors(path)) continue;
        ESPALIER_TRY(ProfileData data, readProfile(path));
        return std::optional(std::move(data));
    }
    return std::optional<ProfileData>();
}

// What is learned from and what judges. Where nothing is named, the demo has both.
Result<TuningOverlap> openTexts(const RecoverOptions& options, const Checkpoint& checkpoint, RecoverRequest& request,
                                std::vector<std::string>& warnings)
{
    std::optional<ProfileData> profile;
    if (tunesOnText(options.method)) {
        ESPALIER_TRY(profile, profileOf(options));
    }
    TextOptions gate = options.text;
    gate.ids = options.gateIds;
    gate.text.clear();
    if (!options.gate.empty()) gate.text = {options.gate};
    gate.windows = options.gateWindows;
    gate.windowsByDefault = false;
    gate.firstWindow = gate.spread = 0;
    const bool named = !options.text.text.empty() || !options.text.ids.empty();
    const std::optional<DemoTexts> demo = named || !tunesOnText(options.method) ? std::nullopt : demoTexts(options.model);
    if (demo) {
        ESPALIER_TRY(request.text, unusedWindows(demo->calibration, options.text, profile ? &*profile : nullptr, checkpoint, warnings));
        gate.windowLength = request.text.windows.windowLength;
        if (gate.text.empty() && gate.ids.empty()) {
            gate.text = {demo->live};
            if (gate.windows == 0) gate.windows = kDemoGateWindows;
        }
    } else {
        ESPALIER_TRY(request.text, openTuningText(options.text, options.tuning, checkpoint, warnings));
    }
    if (!gate.text.empty() || !gate.ids.empty()) {
        ESPALIER_TRY(request.gate, openText(gate, checkpoint, warnings));
    }
    return overlapOf(request.text, request.gate ? &*request.gate : nullptr, profile ? &*profile : nullptr, checkpoint, warnings);
}

Result<Json> recover(const RecoverOptions& options, Invocation& invocation)
{
    // What a stopped run wrote is its best so far.
    ESPALIER_CHECK_OK(checkOutput(options.out, options.force || options.resume));
    const fs::path valuesPath = valuesBeside(options.out);
    ESPALIER_CHECK_OK(checkOutput(valuesPath, options.force || options.resume));
    ESPALIER_TRY(const Params params, paramsOf(options));
    ESPALIER_TRY(const auto checkpoint, openCheckpoint(options.model, invocation));
    ESPALIER_TRY(CompressionPlan plan, readPlan(options.plan, *checkpoint, options.allowOther));
    ESPALIER_TRY(FactorSources sources, openProfiles(options.profiles));
    ESPALIER_CHECK_OK(bindProfile(plan, options.plan, sources, checkpoint->fingerprint(), invocation.warnings));
    plan = withValuesOf(plan, sources);
    RecoverRequest request;
    ESPALIER_TRY(const TuningOverlap overlap, openTexts(options, *checkpoint, request, invocation.warnings));
    ESPALIER_TRY(const auto model, createModel(checkpoint, invocation));
    request.model = model.get();
    request.plan = plan;
    request.sources = sources;
    request.method = options.method;
    request.params = params;
    request.seed = invocation.options.seed;
    request.control = options.control;
    request.folder = options.out;
    request.folder += ".recover";
    request.resume = options.resume ? RecoverResume::Yes : RecoverResume::No;
    request.valuesFolder = request.folder / "values";
    request.processes = &invocation.processes;
    std::optional<Evaluator> evaluator;
    request.measure = [&](const TokenWindows& gate, const CompressionPlan& which, JobContext& job) {
        if (!evaluator) evaluator.emplace(*model, gate, evaluatorCacheBytes(*model));
        return runShared(*evaluator, which, {}, job, invocation.processes);
    };
    Result<RecoverResult> recovered = recoverPlan(request, invocation.job);
    if (!recovered.ok()) {
        Error error = std::move(recovered).error();
        std::error_code ignored;
        if (error.kind == ErrorKind::Cancelled && fs::exists(request.folder, ignored)) {
            error.kept = fmt::format("{}What was finished is in {}.", error.kept.empty() ? "" : error.kept + " ", request.folder.string());
            error.action = "Go on with --resume.";
        }
        return error;
    }
    RecoverResult& result = *recovered;
    invocation.warnings.insert(invocation.warnings.end(), result.warnings.begin(), result.warnings.end());
    ESPALIER_CHECK_OK(invocation.processes.meet({}));
    if (invocation.processes.first()) {
        ESPALIER_TRY(result.plan, withValuesBeside(result.plan, result.values, options.out));
        ESPALIER_TRY(const std::string text, fileText(options, result, params));
        ESPALIER_CHECK_OK(writeFileAtomically(options.out, text));
        if (!result.cancelled) removeRun(request.folder);
    }
    // Offered or not: a script has to see it.
    if (result.changed && !result.accepted) invocation.exitCode = static_cast<int>(ErrorKind::VerificationFailed);
    if (result.cancelled) invocation.exitCode = static_cast<int>(ErrorKind::Cancelled);
    Json answer = recoverDetail(result, options.method);
    answer["plan"] = options.out.string();
    answer["plan_hash"] = result.plan.hash();
    answer["values"] = result.values ? Json(valuesPath.string()) : Json();
    answer["values_id"] = result.values ? Json(result.values->id) : Json();
    answer["made_by"] = result.madeBy;
    answer["text"] = request.text.windows.source;
    answer["text_windows"] = request.text.windows.rows.size();
    answer["text_overlap"] = {{"gate", overlap.gate}, {"calibration", overlap.calibration ? Json(*overlap.calibration) : Json()}};
    invocation.text = fmt::format("Learned from {} windows of {}.\n", request.text.windows.rows.size(), request.text.windows.source) +
                      textOf(options, result);
    return answer;
}

}  // namespace

void addRecover(Verbs& verbs)
{
    auto options = std::make_shared<RecoverOptions>();
    CLI::App* verb = verbs.add(
        "recover", "Wins quality back after compression: a plan with new numbers in a values file beside it",
        [options](Invocation& invocation) { return recover(*options, invocation); }, Processes::Many);
    verb->add_option("MODEL", options->model, "Checkpoint folder")->required();
    verb->add_option("--plan", options->plan, "Plan to recover")->required()->type_name("FILE");
    verb->add_option("--out", options->out, "Plan to write; its numbers go to the file of that name ending in .values.safetensors")
        ->required()
        ->type_name("PLAN.json");
    verb->add_option("--method", options->method, "See `methods --slot recover` (default: least-squares)");
    addTextOptions(verb, options->text);
    addTuningOptions(verb, options->tuning);
    verb->add_option("--gate", options->gate,
                     "Text that the method does not see: where the loss on it does not fall, the plan stays as it was (default: every "
                     "eighth window of the text is kept apart for it)")
        ->type_name("FILE");
    verb->add_option("--gate-ids", options->gateIds, "The same as token ids, FILE or FILE:NAME")->type_name("FILE")->excludes("--gate");
    verb->add_option("--gate-windows", options->gateWindows, "Use its first N windows (default: all)")
        ->check(CLI::Range(1, 1 << 30))
        ->type_name("N");
    addProfileOption(verb, options->profiles);
    verb->add_option("--param", options->params, "Parameter of the method, as ridge=0.1 (several)")
        ->type_name("K=V")
        ->allow_extra_args(false);
    verb->add_option("--steps", options->steps, "Steps of a method that takes steps")->check(CLI::Range(1, 1 << 30))->type_name("N");
    verb->add_flag("--control", options->control, "Also tune the dense model in the same way, and measure that");
    verb->add_flag("--resume", options->resume, "Go on with an interrupted recovery: what it finished is in OUT.recover");
    verb->add_flag("--force", options->force, "Replace an existing output");
    verb->add_flag("--allow-other-model", options->allowOther, "Accept a plan made for another model");
    verb->footer("Exit code 5: the result was not accepted, and the plan was written as it was.");
}

}  // namespace espalier
