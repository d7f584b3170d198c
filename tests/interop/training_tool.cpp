// For compare_training.py: what a plan's trainable tensors are, their gradients, and the losses of some steps of AdamW.
//   espalier_training_tool MODEL PLAN OUT STEPS [attention]
// PLAN may be "-": the model as it is. Trained is everything there is, or the projections of attention alone. OUT gets state.safetensors
// (ids [windows,T], and of every trainable tensor its start and its gradient), the matrices they stand beside in values files, and
// report.json.
#include "base/atomic_file.h"
#include "base/random.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/values_file.h"
#include "model/model_parts.h"
#include "model/moe_model_torch.h"
#include "plan/compression_plan.h"
#include "recover/merged_values.h"
#include "recover/training_optimiser.h"
#include "recover/training_pass.h"

#include <iostream>

namespace espalier
{

namespace
{

constexpr int kWindows = 20;
constexpr int kLength = 48;

struct Output {
    std::vector<std::pair<std::string, at::Tensor>> tensors;

    Status write(const std::filesystem::path& path) const
    {
        std::vector<TensorDeclaration> declared;
        for (const auto& [name, tensor] : tensors)
            declared.push_back({name, DType::F32, tensor.sizes().vec()});
        ESPALIER_TRY(SafetensorsWriter writer, SafetensorsWriter::create(path, declared));
        while (writer.next() < writer.order().size())
            for (const auto& [name, tensor] : tensors)
                if (writer.next() < writer.order().size() && writer.order()[writer.next()].name == name)
                    ESPALIER_CHECK_OK(writer.write({static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()}));
        return writer.finish();
    }
};

Status run(int count, char** arguments)
{
    if (count < 5) return usageError("Usage: espalier_training_tool MODEL PLAN OUT STEPS");
    const std::filesystem::path out = arguments[3];
    ESPALIER_CHECK_OK(makeFolder(out));
    ESPALIER_TRY(const auto checkpoint, Checkpoint::open(arguments[1]));
    CompressionPlan plan = CompressionPlan::identity(checkpoint->shape());
    if (std::string_view(arguments[2]) != "-") {
        ESPALIER_TRY(plan, readPlanFile(arguments[2], checkpoint->shape()));
    }
    ESPALIER_TRY(auto model, MoeModel::create(checkpoint, ModelOptions{}));
    ESPALIER_TRY(const PreparedPlan prepared, model->prepare(plan));
    ESPALIER_TRY(const auto parts, ModelParts::create(checkpoint, ModelOptions{}));
    TrainingTargets targets;
    targets.adapters = {.rank = 4, .alpha = 8, .dropout = 0, .experts = true, .attention = true, .shared = true, .dense = true};
    targets.routers = true;
    if (count > 5 && std::string_view(arguments[5]) == "attention") {
        targets.adapters.experts = targets.adapters.shared = targets.adapters.dense = false;
        targets.routers = false;
    }
    ESPALIER_TRY(Trainables trainables, Trainables::create(*checkpoint, prepared, targets, 1, c10::kCPU));
    ESPALIER_TRY(const MergedPlan bases, mergedPlan(*parts, prepared, trainables, out / "bases"));
    // A product of zero would teach a nothing in the first step.
    Random random(5);
    for (const TrainableTensor& tensor : trainables.tensors()) {
        if (!tensor.name.ends_with("lora_b")) continue;
        at::Tensor values = trainables.valueOf(tensor);
        for (std::int64_t i = 0; i < values.numel(); ++i)
            values.mutable_data_ptr<float>()[i] = static_cast<float>((random.uniform() - 0.5) * 0.1);
    }
    Output output;
    std::vector<std::vector<int>> windows(kWindows);
    at::Tensor ids = at::empty({kWindows, kLength}, at::kFloat);
    for (int w = 0; w < kWindows; ++w)
        for (int t = 0; t < kLength; ++t) {
            windows[static_cast<std::size_t>(w)].push_back(
                static_cast<int>(random.below(static_cast<std::uint64_t>(checkpoint->shape().vocabularySize))));
            ids[w][t] = windows[static_cast<std::size_t>(w)].back();
        }
    output.tensors.emplace_back("ids", ids);
    for (const TrainableTensor& tensor : trainables.tensors())
        output.tensors.emplace_back("start." + tensor.name, trainables.valueOf(tensor).clone());
    StepSettings settings;
    settings.steps = std::stoi(arguments[4]);
    settings.rate = 5e-3;
    settings.warmup = 2;
    settings.decay = 0.01;
    settings.clip = 0.5;
    TrainingPass pass(*parts, prepared, &trainables);
    AdamW optimiser = AdamW::of(trainables.values());
    SilentJob job;
    Json losses = Json::array();
    for (int step = 1; step <= settings.steps; ++step) {
        TrainingBatch batch;
        for (int i = 0; i < 2; ++i)
            batch.rows.push_back(windows[static_cast<std::size_t>((2 * (step - 1) + i) % kWindows)]);
        trainables.gradients().zero_();
        PassSettings one;
        one.weight = 1.0 / (2 * (kLength - 1));
        ESPALIER_TRY(const PassLoss loss, pass.gradients(batch, one, job));
        losses.push_back(loss.sum * one.weight);
        if (step == 1)
            for (const TrainableTensor& tensor : trainables.tensors())
                output.tensors.emplace_back("gradient." + tensor.name, trainables.gradientOf(tensor).clone());
        clipNorm(trainables.gradients(), settings.clip);
        optimiser.step(trainables.values(), trainables.gradients(), rateOf(settings, step), settings);
    }
    ESPALIER_CHECK_OK(output.write(out / "state.safetensors"));
    Json columns = Json::array();
    for (const PlannedLayer& layer : prepared.data().layers)
        columns.push_back(layer.columns);
    const Json report = {{"losses", losses},          {"scale", trainables.scale()}, {"columns", columns},    {"rate", settings.rate},
                         {"warmup", settings.warmup}, {"decay", settings.decay},     {"clip", settings.clip}, {"steps", settings.steps}};
    return writeFileAtomically(out / "report.json", report.dump());
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
