#include "base/text.h"
#include "export/exporter.h"
#include "export/verify.h"
#include "factor_profiles.h"
#include "pipeline/model_match.h"
#include "terminal.h"
#include "text_options.h"
#include "verb_inputs.h"

#include <fmt/format.h>

namespace espalier
{

namespace
{

struct ExportVerbOptions {
    std::filesystem::path model;
    std::filesystem::path plan;
    std::string shardSize;
    ExportOptions options;
    std::vector<std::filesystem::path> profiles;
    std::vector<std::filesystem::path> measured;
    bool allowOther = false;
};

Result<Json> exportVerb(ExportVerbOptions& verb, Invocation& invocation)
{
    if (!verb.options.dryRun) ESPALIER_CHECK_OK(checkOutput(verb.options.out, verb.options.force));
    if (!verb.shardSize.empty()) {
        ESPALIER_TRY(verb.options.shardSize, parseByteSize(verb.shardSize));
    }
    for (const std::filesystem::path& path : verb.measured) {
        ESPALIER_TRY(const Json measured, readJsonFile(path, "export"));
        if (holdsSpeed(measured)) {
            ESPALIER_TRY(verb.options.measuredSpeed, parseMeasuredSpeed(measured));
            continue;
        }
        if (holdsTasks(measured)) {
            // What `evaluate --tasks` prints holds both.
            const bool perplexityToo = measured.contains("ppl");
            ESPALIER_TRY(const std::vector<TaskMeasurement> tasks, parseMeasuredTasks(perplexityToo ? measured["tasks"] : measured));
            verb.options.measuredTasks.insert(verb.options.measuredTasks.end(), tasks.begin(), tasks.end());
            if (!perplexityToo) continue;
        }
        ESPALIER_TRY(const std::vector<Measurement> parsed, parseMeasured(measured));
        verb.options.measured.insert(verb.options.measured.end(), parsed.begin(), parsed.end());
    }
    ESPALIER_TRY(const auto checkpoint, openCheckpoint(verb.model, invocation));
    ESPALIER_TRY(CompressionPlan plan, readPlan(verb.plan, *checkpoint, verb.allowOther));
    ESPALIER_TRY(verb.options.profiles, openProfiles(verb.profiles));
    ESPALIER_CHECK_OK(addValuesFiles(plan, verb.plan, verb.options.profiles));
    plan = withGivenProfile(plan, verb.options.profiles);
    ProcessGroup& processes = invocation.processes;
    verb.options.share = &processes;
    ESPALIER_TRY(const ExportReport report, exportCheckpoint(*checkpoint, plan, verb.options, invocation.job));
    invocation.warnings.insert(invocation.warnings.end(), report.warnings.begin(), report.warnings.end());
    invocation.text = fmt::format("{}{}: {} in {} files, flavor {}\n", report.dryRun ? "would write " : "", report.out.string(),
                                  formatBytes(report.bytes), report.files.size(), report.flavor);
    Table table({"file", "size"});
    for (const ExportedFile& file : report.files)
        table.row({file.name, formatBytes(file.bytes)});
    invocation.text += table.text();
    return toJson(report);
}

struct VerifyVerbOptions {
    std::filesystem::path exported;
    std::filesystem::path source;
    std::filesystem::path plan;
    std::vector<std::filesystem::path> profiles;
    TextOptions text;
};

Result<Json> verify(const VerifyVerbOptions& verb, Invocation& invocation)
{
    VerifyOptions options;
    options.exported = verb.exported;
    options.source = verb.source;
    if (!verb.plan.empty()) options.plan = verb.plan;
    ESPALIER_TRY(options.profiles, openProfiles(verb.profiles));
    invocation.model = {{"path", verb.exported.string()}, {"fingerprint", nullptr}};
    ESPALIER_TRY(options.model, modelOptions(invocation.options));
    if (!verb.text.text.empty() || !verb.text.ids.empty()) {
        // The tokenizer and the limits are the source's; the export's files are what is being checked.
        if (verb.source.empty()) return usageError("A text needs the source model.", "Give --source MODEL.");
        ESPALIER_TRY(const auto source, Checkpoint::open(verb.source));
        TextOptions text = verb.text;
        text.windowsByDefault = text.windows == 0;
        if (text.windows == 0) text.windows = 2;
        ESPALIER_TRY(options.windows, openText(text, *source, invocation.warnings));
        options.model.compute = computeTypeFor(invocation.options.dtype == "auto" ? "fp32" : invocation.options.dtype, *source);
    }
    invocation.dtype = options.model.compute == ComputeType::Bf16 ? "bf16" : "fp32";
    ESPALIER_TRY(const VerifyReport report, verifyExport(options, invocation.job));
    invocation.warnings.insert(invocation.warnings.end(), report.warnings.begin(), report.warnings.end());
    Table table({"check", "holds", "detail"});
    for (const VerifyCheck& check : report.checks)
        table.row({check.name, check.holds ? "yes" : "NO", check.detail});
    invocation.text = table.text() + fmt::format("\n{}\n", report.holds ? "The export holds." : "The export does NOT hold.");
    if (!report.holds) invocation.exitCode = static_cast<int>(ErrorKind::VerificationFailed);
    return toJson(report);
}

}  // namespace

void addExport(Verbs& verbs)
{
    auto options = std::make_shared<ExportVerbOptions>();
    CLI::App* verb = verbs.add(
        "export", "Writes the compressed checkpoint", [options](Invocation& invocation) { return exportVerb(*options, invocation); },
        Processes::Many);
    verb->add_option("MODEL", options->model, "Checkpoint folder")->required();
    verb->add_option("--plan", options->plan, "Plan file")->required()->type_name("FILE");
    verb->add_option("--out", options->options.out, "Folder to write")->required()->type_name("DIR");
    verb->add_option("--flavor", options->options.flavor, "stock, factored, reconstructed, plan or auto (the first that fits)")
        ->check(CLI::IsMember({"stock", "factored", "reconstructed", "plan", "auto"}));
    addProfileOption(verb, options->profiles);
    verb->add_option("--measured", options->measured,
                     "What evaluate, tasks or speed printed for this plan with --json, for the README of the export (several)")
        ->type_name("FILE")
        ->allow_extra_args(false);
    verb->add_option("--shard-size", options->shardSize, "Largest shard (default: 5GB)")->type_name("SIZE");
    verb->add_flag("--unfuse", options->options.unfuse, "Write one tensor per expert where the source has fused ones");
    verb->add_flag("--dry-run", options->options.dryRun, "Say what would be written");
    verb->add_flag("--resume", options->options.resume, "Go on with an interrupted export");
    verb->add_flag("--force", options->options.force, "Replace an existing output");
    verb->add_flag("--allow-other-model", options->allowOther, "Accept a plan made for another model");

    auto verifyOptions = std::make_shared<VerifyVerbOptions>();
    CLI::App* verifyVerb = verbs.add("verify", "Reopens an export and compares it with plan and source",
                                     [verifyOptions](Invocation& invocation) { return verify(*verifyOptions, invocation); });
    verifyVerb->add_option("DIR", verifyOptions->exported, "Exported folder")->required();
    verifyVerb->add_option("--source", verifyOptions->source, "The model it was made of")->type_name("MODEL");
    verifyVerb->add_option("--plan", verifyOptions->plan, "Compare with this plan")->type_name("FILE");
    addProfileOption(verifyVerb, verifyOptions->profiles);
    addTextOptions(verifyVerb, verifyOptions->text);
}

}  // namespace espalier
