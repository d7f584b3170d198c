// For compare_transformers.py: exports a plan and says what Espalier computes for the source under it.
//   espalier_interop_tool MODEL PLAN FLAVOR OUT LOGITS [TEXT [METHOD]]
// LOGITS: fp32 logits of the first window, row-major. stdout: {"rows": token ids, "ppl": perplexity over them}. Without a text the
// windows are random ids (so they are with an empty one). With a METHOD the plan is recovered by it first, on those windows. Whitened
// factors of a plan come from a profile of the same windows, taken here.
#include "base/random.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/values_file.h"
#include "evaluate/evaluator.h"
#include "export/exporter.h"
#include "model/moe_model_torch.h"
#include "profile/profile_pass.h"
#include "recover/recover.h"
#include "session/profile_parts.h"
#include "tokenizer/tokenizer.h"

#include <cstdio>
#include <fstream>
#include <iostream>

namespace espalier
{

namespace
{

Result<TokenWindows> windowsFor(const Checkpoint& checkpoint, const std::filesystem::path& text)
{
    if (text.empty()) {
        TokenWindows windows;
        Random random(7);
        for (int w = 0; w < 4; ++w) {
            windows.rows.emplace_back();
            for (int t = 0; t < 64; ++t)
                windows.rows.back().push_back(
                    static_cast<int>(random.below(static_cast<std::uint64_t>(checkpoint.shape().vocabularySize))));
        }
        return windows;
    }
    ESPALIER_TRY(const Tokenizer tokenizer, Tokenizer::load(checkpoint.folder()));
    WindowOptions options;
    options.windowLength = 256;
    options.maxWindows = 24;
    return windowsFromText(tokenizer, {&text, 1}, options);
}

Status run(int count, char** arguments)
{
    if (count < 6) return usageError("Usage: espalier_interop_tool MODEL PLAN FLAVOR OUT LOGITS [TEXT]");
    ESPALIER_TRY(const auto checkpoint, Checkpoint::open(arguments[1]));
    ESPALIER_TRY(CompressionPlan plan, readPlanFile(arguments[2], checkpoint->shape()));
    SilentJob job;
    ExportOptions options;
    options.flavor = arguments[3];
    options.out = arguments[4];
    ESPALIER_TRY(const TokenWindows windows, windowsFor(*checkpoint, count > 6 ? arguments[6] : ""));
    ESPALIER_TRY(auto model, MoeModel::create(checkpoint, ModelOptions{}));
    if (plan.hasRanks() && plan.factors().method == "whitened-svd") {
        ProfileOptions profile;
        profile.out = options.out.string() + ".profile.h5";
        profile.collect = {"counts", "curves", "factors"};
        profile.force = true;
        ESPALIER_CHECK_OK(runProfile(*model, windows, profile, job));
        ESPALIER_TRY(auto parts, ProfileParts::open(profile.out));
        options.profiles = {std::move(parts)};
        plan = withGivenProfile(plan, options.profiles);
        model->setFactorSources(options.profiles);
    }
    ESPALIER_CHECK_OK(addValuesFiles(plan, arguments[2], options.profiles));
    model->setFactorSources(options.profiles);
    if (count > 7) {
        RecoverRequest request;
        request.model = model.get();
        request.plan = plan;
        request.sources = options.profiles;
        request.method = arguments[7];
        request.text.windows = windows;
        request.gate = windows;
        request.folder = options.out.string() + ".recover";
        request.valuesFolder = request.folder;
        ESPALIER_TRY(const RecoverResult recovered, recoverPlan(request, job));
        if (!recovered.accepted) {
            Error error = internalError("The recovery was not accepted.");
            error.kind = ErrorKind::VerificationFailed;
            return error;
        }
        plan = recovered.plan;
        ESPALIER_CHECK_OK(addValuesFiles(plan, {}, options.profiles));
        model->setFactorSources(options.profiles);
    }
    ESPALIER_CHECK_OK(exportCheckpoint(*checkpoint, plan, options, job));
    if (options.flavor == "reconstructed") {
        // Products are rounded to the checkpoint's type once more, and small models feel it: what counts here are the files.
        ESPALIER_TRY(const auto written, Checkpoint::open(options.out));
        ESPALIER_TRY(model, MoeModel::create(written, ModelOptions{}));
        plan = CompressionPlan::identity(written->shape());
    }

    Evaluator evaluator(*model, windows, 0);
    ESPALIER_TRY(const auto losses, evaluator.run(plan, firstWindows(evaluator.windowCount()), {}, job));

    const c10::InferenceMode inference;
    ESPALIER_TRY(const PreparedPlan prepared, model->prepare(plan));
    const at::Tensor ids = at::tensor(std::vector<std::int64_t>(windows.rows[0].begin(), windows.rows[0].end())).unsqueeze(0);
    ESPALIER_TRY(const at::Tensor hidden, model->hiddenStates(ids, prepared));
    ESPALIER_TRY(const at::Tensor normed, model->finalNorm(hidden));
    ESPALIER_TRY(at::Tensor logits, model->logits(normed.flatten(0, 1)));
    logits = logits.to(at::kFloat).contiguous();
    std::ofstream(arguments[5], std::ios::binary)
        .write(static_cast<const char*>(logits.const_data_ptr()), static_cast<std::streamsize>(logits.nbytes()));
    std::cout << Json({{"rows", windows.rows}, {"ppl", perplexity(losses).ppl}}).dump() << "\n";
    return {};
}

}  // namespace

}  // namespace espalier

int main(int count, char** arguments)
{
    const espalier::Status status = espalier::run(count, arguments);
    if (status.ok()) return 0;
    std::cerr << status.error().code << ": " << status.error().describe() << "\n";
    return status.error().exitCode();
}
