// Opening a checkpoint and writing a smaller one.
#include "requests.h"

#include "checkpoint/values_file.h"
#include "export/exporter.h"
#include "export/verify.h"
#include "pipeline/model_match.h"
#include "plan/factor_methods.h"
#include "plan/values_search.h"
#include "rpc/protocol_export.h"
#include "rpc/protocol_model.h"
#include "text_options.h"

namespace espalier
{

namespace
{

// Known and not run here: what the headers say can still be shown.
Result<OpenModelAnswer> inspected(const std::string& path)
{
    ESPALIER_TRY(const Inspection inspection, inspect(path));
    return OpenModelAnswer{.path = path,
                           .fingerprint = inspection.fingerprint,
                           .configSha256 = inspection.configSha256,
                           .weightsSha256 = inspection.weightsSha256,
                           .shape = {},
                           .inspection = toJson(inspection),
                           .warnings = inspection.warnings,
                           .tokenizer = {},
                           .forwardSupported = false};
}

Result<OpenModelAnswer> runOpen(OpenModels& models, const std::string& path)
{
    const auto open = models.reopen(path);
    if (!open.ok() && open.error().kind == ErrorKind::Unsupported) return inspected(path);
    if (!open.ok()) return open.error();
    const Checkpoint& checkpoint = *(*open)->checkpoint;
    OpenModelAnswer answer{.path = path,
                           .fingerprint = checkpoint.fingerprint(),
                           .configSha256 = checkpoint.configSha256(),
                           .weightsSha256 = checkpoint.weightsSha256(),
                           .shape = checkpoint.shape(),
                           .inspection = toJson(inspect(checkpoint)),
                           .warnings = checkpoint.warnings(),
                           .tokenizer = {},
                           .forwardSupported = checkpoint.forwardSupported()};
    if (const Result<Tokenizer> tokenizer = Tokenizer::load(path, checkpoint.shape().vocabularySize); tokenizer.ok()) {
        answer.tokenizer = TokenizerFacts{tokenizer->sha256(), tokenizer->vocabularySize(), tokenizer->addsBos()};
        answer.warnings.insert(answer.warnings.end(), tokenizer->warnings().begin(), tokenizer->warnings().end());
    } else if (tokenizer.error().code != "tokenizer.missing")
        answer.warnings.push_back(tokenizer.error().describe());
    return answer;
}

void openModel(RequestCall& call)
{
    const auto request = call.read<OpenModelRequest>();
    if (!request) return;
    call.submit(Lane::Interactive, GiveWay::Never,
                [models = call.models(), path = request->path](JobContext&) { return runOpen(*models, path); });
}

Result<ExportAnswer> runExport(OpenModels& models, const ExportRequest& request, JobContext& job)
{
    ESPALIER_TRY(const auto open, models.open(request.path));
    const std::shared_ptr<const Checkpoint> checkpoint = open->checkpoint;
    ESPALIER_TRY(CompressionPlan compression, planFromJson(request.plan, checkpoint->shape()));
    ESPALIER_CHECK_OK(checkPlanModel(compression, *checkpoint, false));
    ExportOptions options;
    options.out = request.out;
    options.flavor = request.flavor;
    options.force = request.force;
    options.resume = request.resume;
    options.dryRun = request.dryRun;
    options.unfuse = request.unfuse;
    options.shardSize = request.shardSize.value_or(options.shardSize);
    options.measured = request.measured;
    options.measuredTasks = request.measuredTasks;
    options.measuredSpeed = request.measuredSpeed;
    ESPALIER_TRY(options.profiles, models.factorSourcesOf(compression, request.profiles));
    compression = withGivenProfile(compression, options.profiles);
    ExportAnswer answer;
    ESPALIER_TRY(answer.report, exportCheckpoint(*checkpoint, compression, options, job));
    // The plan beside the weights names them where they lie.
    if (!request.dryRun)
        for (const ValuesInfo& info : withValuesOf(compression, options.profiles).values())
            noteValuesUser(info.file, std::filesystem::path(request.out) / "espalier_plan.json");
    if (!request.verify || request.dryRun) return answer;
    VerifyOptions check;
    check.exported = options.out;
    check.source = request.path;
    check.profiles = options.profiles;
    ESPALIER_TRY(check.model, modelOptions(models.options()));
    std::vector<std::string> warnings;
    if (!request.text.empty()) {
        TextOptions text = textOptionsOf(request.text);
        text.windows = request.windows.value_or(2);
        text.windowsByDefault = !request.windows;
        text.spread = request.spread;
        ESPALIER_TRY(check.windows, openText(text, *checkpoint, warnings));
    }
    ESPALIER_TRY(answer.verify, verifyExport(check, job));
    answer.verify->warnings.insert(answer.verify->warnings.begin(), warnings.begin(), warnings.end());
    return answer;
}

void exportModel(RequestCall& call)
{
    auto request = call.read<ExportRequest>();
    if (!request) return;
    call.submit(Lane::Export, GiveWay::Pause,
                [models = call.models(), request = std::move(*request)](JobContext& job) { return runExport(*models, request, job); });
}

}  // namespace

std::vector<RequestHandler> modelRequests() { return {{OpenModelRequest::kMethod, openModel}, {ExportRequest::kMethod, exportModel}}; }

}  // namespace espalier
