// Router-KD: routers alone, towards the original model's next tokens (README.md here).
#include "base/sha256.h"
#include "recover/recover_run.h"
#include "recover/teacher_cache.h"
#include "recover/training_run.h"

#include "checkpoint/checkpoint.h"
#include "model/model_parts.h"
#include "model/moe_model.h"

#include <algorithm>

namespace espalier
{

namespace
{

constexpr const char* kTeacherFile = "teacher.safetensors";
constexpr std::size_t kTokensAtOnce = 2048;

// What the original model says about every window, written down once: only then the plan's own weights are wanted.
Result<std::shared_ptr<const TeacherCache>> teacherOf(RecoverRun& run, ModelParts& parts, double temperature, JobContext& job)
{
    const std::filesystem::path path = run.folder / kTeacherFile;
    const TuningText& text = run.text;
    const Json of = {{"model", parts.checkpoint().fingerprint()},
                     {"text", text.windows.textSha256},
                     {"scored", sha256Hex(canonicalJson(Json(text.scored)))},
                     {"temperature", Json(temperature).dump()}};
    std::error_code failure;
    if (run.resume && std::filesystem::exists(path, failure)) return TeacherCache::open(path, of);
    const auto& rows = text.windows.rows;
    const auto scoredOf = [&](std::size_t w) { return text.scored.empty() ? std::vector<bool>() : text.scored[w]; };
    std::vector<std::int64_t> counts;
    for (std::size_t w = 0; w < rows.size(); ++w)
        counts.push_back(scoredTokens(rows[w], scoredOf(w)));
    ESPALIER_TRY(TeacherWriter writer, TeacherWriter::create(path, counts, parts.checkpoint().lmHead().shape.front(), of));
    const PreparedPlan original = run.model.identity();
    TrainingPass pass(parts, original, nullptr);
    for (std::size_t first = 0; first < rows.size();) {
        job.progress(static_cast<std::int64_t>(first), static_cast<std::int64_t>(rows.size()), "window");
        const std::size_t most = std::max<std::size_t>(kTokensAtOnce / std::max<std::size_t>(rows[first].size(), 1), 1);
        TrainingBatch batch;
        std::size_t last = first;
        for (; last < rows.size() && last - first < most && rows[last].size() == rows[first].size(); ++last) {
            batch.rows.push_back(rows[last]);
            if (!text.scored.empty()) batch.scored.push_back(text.scored[last]);
        }
        ESPALIER_TRY(const TeacherRows said, pass.teach(batch, temperature, job));
        std::int64_t row = 0;
        for (; first < last; ++first) {
            const std::int64_t count = counts[first];
            ESPALIER_CHECK_OK(writer.add(
                {said.tokens.narrow(0, row, count), said.logProbability.narrow(0, row, count), said.rest.narrow(0, row, count)}));
            row += count;
        }
    }
    ESPALIER_CHECK_OK(writer.finish());
    return TeacherCache::open(path, of);
}

}  // namespace

Result<Recovered> runRouterKd(RecoverRun& run, JobContext& job)
{
    ESPALIER_CHECK_OK(checkAlone(run));
    warnOfSingleExperts(run);
    TrainingTask task;
    task.targets.withAdapters = false;
    task.targets.routers = true;
    task.steps = stepSettings(run.params, run.seed);
    task.temperature = run.params.at("temperature").get<double>();
    ESPALIER_TRY(const auto parts, ModelParts::create(run.model.sharedCheckpoint(), run.model.options()));
    ESPALIER_TRY(task.teacher, teacherOf(run, *parts, task.temperature, job));
    return train(run, task, *parts, job);
}

}  // namespace espalier
