// Opening a checkpoint and writing a smaller one.
#include "requests.h"

#include "export/exporter.h"
#include "export/verify.h"
#include "pipeline/model_match.h"
#include "plan/factor_methods.h"
#include "text_options.h"

namespace espalier
{

namespace
{

// Known and not run here: what the headers say can still be shown.
Result<Json> inspectedJson(const std::string& path)
{
    ESPALIER_TRY(const Inspection inspection, inspect(path));
    return Json{{"path", path},
                {"fingerprint", inspection.fingerprint},
                {"config_sha256", inspection.configSha256},
                {"weights_sha256", inspection.weightsSha256},
                {"shape", nullptr},
                {"inspection", toJson(inspection)},
                {"warnings", inspection.warnings},
                {"tokenizer", nullptr},
                {"forward_supported", false}};
}

void openModel(RequestCall& call)
{
    const std::string path = call.params.text("path", true);
    if (call.refused()) return;
    call.submit(Lane::Interactive, GiveWay::Never, [models = call.models(), path](JobContext&) -> Result<Json> {
        const auto open = models->reopen(path);
        if (!open.ok() && open.error().kind == ErrorKind::Unsupported) return inspectedJson(path);
        if (!open.ok()) return open.error();
        const Checkpoint& checkpoint = *(*open)->checkpoint;
        std::vector<std::string> warnings = checkpoint.warnings();
        Json tokenizerJson = nullptr;
        if (const Result<Tokenizer> tokenizer = Tokenizer::load(path, checkpoint.shape().vocabularySize); tokenizer.ok()) {
            tokenizerJson = {
                {"sha256", tokenizer->sha256()}, {"vocabulary", tokenizer->vocabularySize()}, {"adds_bos", tokenizer->addsBos()}};
            warnings.insert(warnings.end(), tokenizer->warnings().begin(), tokenizer->warnings().end());
        } else if (tokenizer.error().code != "tokenizer.missing")
            warnings.push_back(tokenizer.error().describe());
        return Json{{"path", path},
                    {"fingerprint", checkpoint.fingerprint()},
                    {"config_sha256", checkpoint.configSha256()},
                    {"weights_sha256", checkpoint.weightsSha256()},
                    {"shape", toJson(checkpoint.shape())},
                    {"inspection", toJson(inspect(checkpoint))},
                    {"warnings", warnings},
                    {"tokenizer", std::move(tokenizerJson)},
                    {"forward_supported", checkpoint.forwardSupported()}};
    });
}

struct ExportRequest {
    std::string path;
    Json plan;
    std::vector<std::filesystem::path> profiles;
    ExportOptions options;
    bool verify = true;
    TextOptions text;  // for the verification
};

Result<Json> runExport(OpenModels& models, ExportRequest request, JobContext& job)
{
    ESPALIER_TRY(const auto open, models.open(request.path));
    const std::shared_ptr<const Checkpoint> checkpoint = open->checkpoint;
    ESPALIER_TRY(CompressionPlan compression, planFromJson(request.plan, checkpoint->shape()));
    ESPALIER_CHECK_OK(checkPlanModel(compression, *checkpoint, false));
    ESPALIER_TRY(request.options.profiles, models.factorSourcesOf(compression, request.profiles));
    compression = withGivenProfile(compression, request.options.profiles);
    ESPALIER_TRY(const ExportReport report, exportCheckpoint(*checkpoint, compression, request.options, job));
    Json result = toJson(report);
    result["verify"] = nullptr;
    if (!request.verify || request.options.dryRun) return result;
    VerifyOptions check;
    check.exported = request.options.out;
    check.source = request.path;
    check.profiles = request.options.profiles;
    ESPALIER_TRY(check.model, modelOptions(models.options()));
    std::vector<std::string> warnings;
    if (!request.text.text.empty() || !request.text.ids.empty()) {
        ESPALIER_TRY(check.windows, openText(request.text, *checkpoint, warnings));
    }
    ESPALIER_TRY(VerifyReport verified, verifyExport(check, job));
    verified.warnings.insert(verified.warnings.begin(), warnings.begin(), warnings.end());
    result["verify"] = toJson(verified);
    return result;
}

void exportModel(RequestCall& call)
{
    RequestParams& params = call.params;
    ExportRequest request;
    request.path = params.text("path", true);
    request.plan = params.value("plan", true);
    ExportOptions& options = request.options;
    options.out = params.text("out", true);
    options.flavor = params.text("flavor", false);
    options.force = params.flag("force", false);
    options.resume = params.flag("resume", false);
    options.dryRun = params.flag("dry_run", false);
    options.unfuse = params.flag("unfuse", false);
    options.shardSize = params.integer("shard_size", options.shardSize, 1);
    if (const Json* measured = params.find("measured")) {
        auto parsed = parseMeasured(*measured);
        if (parsed)
            options.measured = std::move(parsed).value();
        else
            params.fail("measured", parsed.error().message);
    }
    request.profiles = params.paths("profile");
    request.verify = params.flag("verify", true);
    request.text = textOptionsOf(params);
    request.text.windows = params.count("windows", 2, 1);
    request.text.windowsByDefault = params.find("windows") == nullptr;
    request.text.spread = params.count("spread", 0, 0);
    if (call.refused()) return;
    call.submit(Lane::Export, GiveWay::Pause, [models = call.models(), request = std::move(request)](JobContext& job) -> Result<Json> {
        return runExport(*models, request, job);
    });
}

}  // namespace

std::vector<RequestHandler> modelRequests() { return {{"open_model", openModel}, {"export", exportModel}}; }

}  // namespace espalier
