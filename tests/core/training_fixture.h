// A model with adapters that are not zero, for tests of what gradients do.
#pragma once

#include "checkpoint/checkpoint.h"
#include "model/model_parts.h"
#include "model/moe_model_torch.h"
#include "parity/golden.h"
#include "recover/trainables.h"
#include "recover/training_pass.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <random>
#include <stdexcept>

namespace espalier::test
{

template <typename T>
T must(Result<T> result)
{
    if (!result.ok()) throw std::runtime_error(result.error().describe());
    return std::move(result).value();
}

inline std::filesystem::path modelFixture(const std::string& name)
{
    return std::filesystem::path(ESPALIER_TEST_FIXTURES) / "model" / "checkpoints" / name;
}

struct TrainingModel {
    std::shared_ptr<const Checkpoint> checkpoint;
    std::unique_ptr<MoeModel> model;
    std::unique_ptr<ModelParts> parts;
    PreparedPlan plan;
    std::unique_ptr<Trainables> trainables;

    explicit TrainingModel(const std::filesystem::path& folder, std::int64_t budget = 0)
    {
        checkpoint = must(Checkpoint::open(folder));
        ModelOptions options;
        options.threads = 2;
        options.memoryBudget = budget;
        model = must(MoeModel::create(checkpoint, options));
        parts = must(ModelParts::create(checkpoint, options));
        plan = model->identity();
    }
    void use(const CompressionPlan& to) { plan = must(model->prepare(to)); }
    void train(const TrainingTargets& targets, std::uint64_t seed = 3)
    {
        trainables = std::make_unique<Trainables>(must(Trainables::create(*checkpoint, plan, targets, seed, c10::kCPU)));
    }
    // Adapters begin with a product of zero, of which a learns nothing.
    void shake(double by, unsigned seed = 5)
    {
        std::mt19937 random(seed);
        std::normal_distribution<float> normal(0, static_cast<float>(by));
        for (const TrainableTensor& tensor : trainables->tensors()) {
            if (!tensor.name.ends_with("lora_b")) continue;
            at::Tensor values = trainables->valueOf(tensor);
            for (std::int64_t i = 0; i < values.numel(); ++i)
                values.mutable_data_ptr<float>()[i] = normal(random);
        }
    }
};

inline TrainingTargets everything()
{
    TrainingTargets targets;
    targets.adapters = {.rank = 3, .alpha = 6, .dropout = 0, .experts = true, .attention = true, .shared = true, .dense = true};
    targets.routers = true;
    return targets;
}

inline TrainingBatch goldenBatch(const std::string& name)
{
    const at::Tensor ids = Golden::read(std::filesystem::path(ESPALIER_TEST_FIXTURES) / "model" / "goldens" / name)
                               .tensor("input_ids")
                               .to(at::kLong)
                               .contiguous();
    TrainingBatch batch;
    for (std::int64_t row = 0; row < std::min<std::int64_t>(ids.size(0), 2); ++row) {
        const auto* begin = ids.const_data_ptr<std::int64_t>() + row * ids.size(1);
        batch.rows.emplace_back(begin, begin + std::min<std::int64_t>(ids.size(1), 40));
    }
    return batch;
}

inline std::int64_t scoredRows(const TrainingBatch& batch)
{
    std::int64_t count = 0;
    for (std::size_t w = 0; w < batch.rows.size(); ++w)
        count += scoredTokens(batch.rows[w], batch.scored.empty() ? std::vector<bool>() : batch.scored[w]);
    return count;
}

}  // namespace espalier::test
