#include "verb_inputs.h"

#include <fmt/format.h>

namespace espalier
{

ComputeType computeTypeFor(const std::string& dtype, const Checkpoint& checkpoint)
{
    if (dtype == "fp32") return ComputeType::Fp32;
    if (dtype == "bf16") return ComputeType::Bf16;
    // Narrow models spend their time between the products, where bf16 gains little, and stay in the reference mode.
    constexpr int kWidthWorthIt = 1024;
#if defined(__x86_64__)
    const bool native = __builtin_cpu_supports("avx512bf16");
#else
    const bool native = false;
#endif
    const ModelShape& shape = checkpoint.shape();
    return native && shape.dtype == "BF16" && shape.hiddenSize >= kWidthWorthIt ? ComputeType::Bf16 : ComputeType::Fp32;
}

Json modelJson(const Checkpoint& checkpoint) { return {{"path", checkpoint.folder().string()}, {"fingerprint", checkpoint.fingerprint()}}; }

Result<std::shared_ptr<const Checkpoint>> openCheckpoint(const std::filesystem::path& folder, Invocation& invocation)
{
    ESPALIER_TRY(auto checkpoint, Checkpoint::open(folder));
    invocation.model = modelJson(*checkpoint);
    invocation.warnings.insert(invocation.warnings.end(), checkpoint->warnings().begin(), checkpoint->warnings().end());
    return checkpoint;
}

Result<std::unique_ptr<MoeModel>> createModel(std::shared_ptr<const Checkpoint> checkpoint, Invocation& invocation)
{
    ESPALIER_TRY(ModelOptions options, modelOptions(invocation.options));
    options.compute = computeTypeFor(invocation.options.dtype, *checkpoint);
    ESPALIER_TRY(auto model, MoeModel::create(std::move(checkpoint), options));
    invocation.dtype = model->numericMode();
    invocation.warnings.insert(invocation.warnings.end(), model->warnings().begin(), model->warnings().end());
    return model;
}

Result<SearchJournal> openSearchJournal(const std::filesystem::path& path, bool resume, const PlanInputs& inputs, const PlanRecipe& recipe,
                                        Invocation& invocation)
{
    const bool bf16 = computeTypeFor(invocation.options.dtype, *inputs.checkpoint) == ComputeType::Bf16;
    ESPALIER_TRY(SearchJournal journal, SearchJournal::open(path, searchKey(inputs, recipe, bf16 ? "bf16" : "fp32"), resume));
    if (journal.startedAfresh())
        invocation.warnings.push_back(
            "The earlier search had another model, profile, text or other settings: it cannot be gone on with and begins again.");
    return journal;
}

Error withSearchKept(Error error, const SearchJournal& journal)
{
    if (error.kind != ErrorKind::Cancelled || journal.finished() == 0) return error;
    error.kept = fmt::format("What the search finished is kept in {}.", journal.path().string());
    error.action = "Go on with --resume.";
    return error;
}

Status checkOutput(const std::filesystem::path& path, bool force)
{
    std::error_code failure;
    if (force || !std::filesystem::exists(std::filesystem::symlink_status(path, failure))) return {};
    Error error = usageError({"{path} exists already.", {{"path", path.string()}}}, "Choose another name, or use --force.");
    error.code = "output.exists";
    error.subject = path.string();
    error.kept = "It was not changed.";
    return error;
}

}  // namespace espalier
