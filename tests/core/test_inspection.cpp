#include "checkpoint_fixture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace espalier;
using namespace espalier::test;
using testing::HasSubstr;

namespace
{

TEST(Inspection, JsonHasTheFieldsOfTheCommandLine)
{
    const auto inspected = inspect(kFixtures / "bad/good");
    ASSERT_TRUE(inspected.ok());
    const Json json = toJson(*inspected);
    EXPECT_EQ(json.at("model_type"), "mixtral");
    EXPECT_EQ(json.at("architecture"), "MixtralForCausalLM");
    EXPECT_EQ(json.at("dtype"), "F32");
    EXPECT_EQ(json.at("forward_supported"), true);
    EXPECT_TRUE(json.at("tokenizer").is_null());
    EXPECT_TRUE(json.at("warnings").empty());
    EXPECT_EQ(json.at("bytes").get<std::int64_t>(), 4 * json.at("parameters").get<std::int64_t>());
    EXPECT_LT(json.at("active_parameters"), json.at("parameters"));
    const Json& layer = json.at("layers").at(0);
    EXPECT_EQ(layer.at("index"), 0);
    EXPECT_EQ(layer.at("kind"), "moe");
    EXPECT_EQ(layer.at("experts"), 4);
    EXPECT_EQ(layer.at("top_k"), 2);
    EXPECT_EQ(layer.at("expert_parameters"), 3 * 16 * 8);
    EXPECT_EQ(layer.at("shared"), 0);
    EXPECT_FALSE(json.contains("tensors"));
    const Json full = toJson(*inspected, true);
    ASSERT_EQ(full.at("tensors").size(), json.at("tensor_count"));
    for (const char* key : {"name", "dtype", "shape", "bytes", "shard"})
        EXPECT_TRUE(full.at("tensors").at(0).contains(key)) << key;
    EXPECT_EQ(full.at("shards").at(0).at("name"), "model.safetensors");
    EXPECT_EQ(full.at("shards").at(0).at("tensors"), json.at("tensor_count"));
}

TEST(Inspection, SharedAndDenseLayersOfTheDemo)
{
    const auto inspected = inspect(fs::path(ESPALIER_RESOURCES) / "demo/espalier-demo-moe");
    ASSERT_TRUE(inspected.ok());
    EXPECT_EQ(inspected->tokenizer, "tokenizer.json");
    EXPECT_EQ(inspected->layers.front().shared, 1);
    EXPECT_EQ(inspected->layers.front().sharedParameters, 3 * 192 * 192);
    EXPECT_EQ(inspected->expertLayout, "per-expert");
}

// Families that are not run yet are counted from their tensor names.
TEST(Inspection, QuantisedLaterFamilies)
{
    const TempFolder folder;
    const Json config = {{"model_type", "gpt_oss"},
                         {"architectures", {"GptOssForCausalLM"}},
                         {"hidden_size", 64},
                         {"num_hidden_layers", 1},
                         {"num_local_experts", 4},
                         {"num_experts_per_tok", 2},
                         {"quantization_config", {{"quant_method", "mxfp4"}}}};
    writeBytes(folder.path() / "config.json", config.dump());
    const std::string prefix = "model.layers.0.mlp.experts.";
    ASSERT_TRUE(writeTensors(folder.path() / "model.safetensors", {{"model.embed_tokens.weight", DType::BF16, {10, 64}},
                                                                   {prefix + "gate_up_proj_blocks", DType::U8, {4, 64, 2, 16}},
                                                                   {prefix + "gate_up_proj_scales", DType::U8, {4, 64, 2}},
                                                                   {prefix + "down_proj_blocks", DType::U8, {4, 64, 1, 16}},
                                                                   {prefix + "down_proj_scales", DType::U8, {4, 64, 1}},
                                                                   {"model.layers.0.mlp.router.weight", DType::BF16, {4, 64}}})
                    .ok());
    const auto inspected = inspect(folder.path());
    ASSERT_TRUE(inspected.ok()) << inspected.error().describe();
    EXPECT_FALSE(inspected->forwardSupported);
    ASSERT_EQ(inspected->layers.size(), 1u);
    EXPECT_EQ(inspected->layers[0].experts, 4);
    EXPECT_EQ(inspected->layers[0].expertParameters, 64 * 64 + 64 * 32) << "two codes to a byte, scales are no parameters";
    EXPECT_EQ(inspected->parameters, 10 * 64 + 4 * (64 * 64 + 64 * 32) + 4 * 64);
    EXPECT_EQ(inspected->activeParameters, inspected->parameters - 2 * inspected->layers[0].expertParameters);
    EXPECT_EQ(inspected->expertLayout, "fused");
    EXPECT_THAT(inspected->warnings.front(), HasSubstr("gpt_oss"));
    EXPECT_EQ(toJson(*inspected).at("forward_supported"), false);
}

TEST(Inspection, QuantisedCopyOfASupportedFamily)
{
    const TempFolder folder;
    Json config = Json::parse(readBytes(kFixtures / "bad/good/config.json"));
    ASSERT_TRUE(writeModel(folder.path(), config).ok());
    config["quantization_config"] = {{"quant_method", "awq"}};
    writeBytes(folder.path() / "config.json", config.dump());
    // What config.json says of weights that are there as they were counts for nothing.
    const auto left = Checkpoint::open(folder.path());
    ASSERT_TRUE(left.ok()) << left.error().describe();
    EXPECT_THAT((*left)->warnings(), ::testing::ElementsAre(::testing::AllOf(HasSubstr("quantization_config (awq)"), HasSubstr("BF16"))));
    std::vector<TensorDeclaration> packed = declarationsOf(*parseModelConfig(config), DType::BF16);
    for (TensorDeclaration& tensor : packed)
        if (tensor.name.ends_with("w1.weight")) tensor = {tensor.name.substr(0, tensor.name.size() - 6) + "qweight", DType::I32, {2, 16}};
    ASSERT_TRUE(writeTensors(folder.path() / "model.safetensors", packed).ok());
    const auto refused = Checkpoint::open(folder.path());
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, "checkpoint.quantization_unsupported");
    EXPECT_THAT(refused.error().message, HasSubstr("w1.qweight in model.safetensors is stored as I32"));
    const auto inspected = inspect(folder.path());
    ASSERT_TRUE(inspected.ok());
    EXPECT_FALSE(inspected->forwardSupported);
    EXPECT_THAT(inspected->warnings.front(), HasSubstr("quantization_config"));
}

}  // namespace
