// Scores that read the weights, on checkpoints as they lie on the disk.
#include "base/json.h"
#include "pipeline/checkpoint_weights.h"
#include "score/scorer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

const fs::path kModels = fs::path(ESPALIER_TEST_FIXTURES) / "model";

std::shared_ptr<const Checkpoint> openModel(const std::string& name)
{
    auto checkpoint = Checkpoint::open(kModels / "checkpoints" / name);
    if (!checkpoint.ok()) throw std::runtime_error(checkpoint.error().describe());
    return std::move(checkpoint).value();
}

// A profile that knows the model and has measured nothing.
ProfileData nothingMeasured(const Checkpoint& checkpoint)
{
    ProfileData data;
    data.shape = checkpoint.shape();
    data.fingerprint = checkpoint.fingerprint();
    for (const LayerShape& shape : data.shape.layers) {
        LayerProfile layer;
        layer.layer = shape.index;
        layer.experts = shape.experts;
        data.layers.push_back(std::move(layer));
    }
    return data;
}

ExpertScores aimer(const std::string& name)
{
    const auto checkpoint = openModel(name);
    const CheckpointWeights weights(checkpoint);
    auto scores = score(nothingMeasured(*checkpoint), "aimer", {}, &weights);
    if (!scores.ok()) throw std::runtime_error(scores.error().describe());
    return std::move(scores).value();
}

// The reference's number is the inverse, in fp32.
TEST(CheckpointWeights, AimerIsThatOfTheReference)
{
    for (const std::string name : {"mixtral-tiny", "qwen2moe-tiny", "deepseekv2-lite-tiny"}) {
        const Json golden = *readJsonFile(kModels / "method" / (name + ".json"), "golden", {.maxBytes = 64u << 20, .maxDepth = 64});
        const ExpertScores scores = aimer(name);
        int compared = 0;
        for (const auto& [layer, expected] : golden.at("layers").items()) {
            const auto& row = scores.values.rows[static_cast<std::size_t>(std::stoi(layer))];
            ASSERT_EQ(row.size(), expected.at("aimer").size());
            for (std::size_t e = 0; e < row.size(); ++e, ++compared)
                EXPECT_NEAR(1 / row[e], expected.at("aimer")[e].get<double>(), 2e-6) << name << " layer " << layer << " expert " << e;
        }
        EXPECT_GT(compared, 20);
    }
}

// One layout or the other, fp32 or bf16 in shards.
TEST(CheckpointWeights, EveryLayoutGivesTheSameNumbers)
{
    for (const std::string name : {"mixtral-tiny", "qwen3moe-tiny", "deepseekv2-lite-tiny"})
        EXPECT_EQ(aimer(name).values, aimer(name + "-fused-v5").values) << name;
    for (const auto& row : aimer("mixtral-bf16-sharded").values.rows)
        for (const double value : row) {
            EXPECT_GT(value, 1.2);
            EXPECT_LT(value, 1.5) << "a little above sqrt(pi / 2), as Gaussian matrices of several widths are";
        }
}

TEST(CheckpointWeights, AModelHasToBeNamed)
{
    const auto checkpoint = openModel("mixtral-tiny");
    const auto scores = score(nothingMeasured(*checkpoint), "aimer");
    ASSERT_FALSE(scores.ok());
    EXPECT_EQ(scores.error().code, "score.no_weights");
    EXPECT_NE(scores.error().action.find("--model"), std::string::npos);
}

}  // namespace

}  // namespace espalier
