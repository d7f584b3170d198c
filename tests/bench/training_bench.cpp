// Time and memory of training steps: gradients of adapters beside all projections and experts, clipping, AdamW. One JSON object.
//   training_bench MODEL IDS.json RANK STEPS THREADS [BUDGET]
// IDS.json: windows of equal length, all of them one step's batch. Beside peer_peft.py.
#include "base/json.h"
#include "base/text.h"
#include "checkpoint/checkpoint.h"
#include "model/model_parts.h"
#include "model/moe_model_torch.h"
#include "recover/training_optimiser.h"
#include "recover/training_pass.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <iostream>

namespace espalier
{

namespace
{

constexpr std::int64_t kTokensAtOnce = 2048;

Status run(int count, char** arguments)
{
    if (count < 6) return usageError("Usage: training_bench MODEL IDS.json RANK STEPS THREADS [BUDGET]");
    ESPALIER_TRY(const auto checkpoint, Checkpoint::open(arguments[1]));
    ESPALIER_TRY(const Json ids, readJsonFile(arguments[2], "ids"));
    ModelOptions options;
    options.threads = std::stoi(arguments[5]);
    if (count > 6) {
        ESPALIER_TRY(options.memoryBudget, parseByteSize(arguments[6]));
    }
    PreparedPlan plan;
    {
        ESPALIER_TRY(auto model, MoeModel::create(checkpoint, options));
        plan = model->identity();
    }
    ESPALIER_TRY(const auto parts, ModelParts::create(checkpoint, options));
    TrainingTargets targets;
    const int rank = std::stoi(arguments[3]);
    targets.adapters = {.rank = rank, .alpha = 2.0 * rank, .dropout = 0, .experts = true, .attention = true, .shared = true, .dense = true};
    ESPALIER_TRY(Trainables trainables, Trainables::create(*checkpoint, plan, targets, 1, c10::kCPU));
    TrainingPass pass(*parts, plan, &trainables);
    AdamW optimiser = AdamW::of(trainables.values());
    StepSettings settings;
    const auto rows = ids.get<std::vector<std::vector<int>>>();
    const auto length = static_cast<std::int64_t>(rows.front().size());
    const auto most = static_cast<std::size_t>(std::max<std::int64_t>(kTokensAtOnce / length, 1));
    SilentJob job;
    Json seconds = Json::array(), losses = Json::array();
    for (int step = 0; step <= std::stoi(arguments[4]); ++step) {
        const auto started = std::chrono::steady_clock::now();
        trainables.gradients().zero_();
        PassSettings one;
        one.weight = 1.0 / static_cast<double>(std::ssize(rows) * (length - 1));
        double loss = 0;
        for (std::size_t first = 0; first < rows.size(); first += most) {
            TrainingBatch batch;
            for (std::size_t w = first; w < std::min(rows.size(), first + most); ++w)
                batch.rows.push_back(rows[w]);
            ESPALIER_TRY(const PassLoss part, pass.gradients(batch, one, job));
            loss += part.sum * one.weight;
        }
        clipNorm(trainables.gradients(), 1);
        optimiser.step(trainables.values(), trainables.gradients(), 1e-3, settings);
        // The first one loads.
        if (step > 0) seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
        losses.push_back(loss);
    }
    std::vector<double> sorted = seconds.get<std::vector<double>>();
    std::sort(sorted.begin(), sorted.end());
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const double median = sorted[sorted.size() / 2];
    std::cout << Json{{"seconds", seconds},
                      {"losses", losses},
                      {"trained", trainables.count()},
                      {"kept_layers", pass.keptLayers(std::min<std::int64_t>(kTokensAtOnce, std::ssize(rows) * length))},
                      {"tokens_per_second", static_cast<double>(std::ssize(rows) * length) / median},
                      {"peak_rss", std::int64_t{usage.ru_maxrss} * 1024}}
                     .dump()
              << '\n';
    return {};
}

}  // namespace

}  // namespace espalier

int main(int count, char** arguments)
{
    const auto status = espalier::run(count, arguments);
    if (status.ok()) return 0;
    std::cerr << status.error().describe() << '\n';
    return status.error().exitCode();
}
