// Where a checkpoint is read otherwise than its config.json says, and what an export therefore says instead.
#include "checkpoint/departures.h"
#include "checkpoint_fixture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace espalier;
using namespace espalier::test;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

namespace
{

Json goodConfig() { return Json::parse(readBytes(kFixtures / "bad/good/config.json")); }

// The edits of a model of `config` with `changes`, whose weights have the type `dtype`; its warnings in `warnings`.
Json departures(const Json& changes, DType dtype, std::vector<std::string>* warnings = nullptr, Json config = goodConfig())
{
    const TempFolder folder;
    for (const auto& [key, value] : changes.items())
        if (value == "(absent)")
            config.erase(key);
        else
            config[key] = value;
    const Status written = writeModel(folder.path(), config, dtype);
    EXPECT_TRUE(written.ok()) << written.error().describe();
    const auto opened = Checkpoint::open(folder.path());
    if (!opened.ok()) {
        ADD_FAILURE() << opened.error().describe();
        return nullptr;
    }
    Json edits = Json::object();
    for (const ConfigDeparture& departure : configDepartures(**opened))
        edits[departure.key] = departure.value;
    if (warnings != nullptr) *warnings = (*opened)->warnings();
    return edits;
}

// What is read otherwise than config.json says is an edit of config.json, and nothing else is.
TEST(Departures, AreEditsOfTheConfigurationAndNothingElse)
{
    EXPECT_EQ(departures({{"torch_dtype", "bfloat16"}}, DType::BF16), Json::object());
    EXPECT_EQ(departures({{"torch_dtype", "float32"}}, DType::BF16), Json::object()) << "nothing is lost";
    EXPECT_EQ(departures({{"torch_dtype", "float16"}, {"dtype", "float16"}}, DType::BF16),
              (Json{{"torch_dtype", "bfloat16"}, {"dtype", "bfloat16"}}));
    EXPECT_EQ(departures({{"torch_dtype", "bfloat16"}}, DType::F32), (Json{{"torch_dtype", "float32"}}));
    EXPECT_EQ(departures({{"torch_dtype", nullptr},
                          {"quantization_config", {{"quant_method", "fp8"}}},
                          {"num_nextn_predict_layers", 1},
                          {"architectures", {"MixtralModel"}},
                          {"auto_map", {{"AutoConfig", "configuration_x.X"}}},
                          {"custom_pipelines", {{"text", {{"impl", "pipeline_x.P"}}}}}},
                         DType::BF16),
              (Json{{"quantization_config", nullptr},
                    {"num_nextn_predict_layers", 0},
                    {"architectures", {"MixtralForCausalLM"}},
                    {"auto_map", nullptr},
                    {"custom_pipelines", nullptr}}));
    EXPECT_EQ(departures({{"torch_dtype", nullptr}, {"num_nextn_predict_layers", 0}, {"quantization_config", nullptr}}, DType::F16),
              Json::object());
    EXPECT_THAT(pythonFilesNamedBy({{"auto_map", {{"AutoTokenizer", {"tokenization_x.Slow", nullptr}}, {"AutoModel", "a/b--model_x.M"}}},
                                    {"custom_pipelines", {{"text", {{"impl", "pipeline_x.P"}}}}}}),
                testing::UnorderedElementsAre("tokenization_x.py", "a/b--model_x.py", "pipeline_x.py"));
    EXPECT_THAT(pythonFilesNamedBy({{"auto_map", {"tokenization_x.Slow", "tokenization_x.Fast"}}}), ElementsAre("tokenization_x.py"));
}

// A program that takes the stated type as it is ("dtype": "auto") gets the weights as they are stored, or fails on a name it does not know.
TEST(Departures, StatedTypesThatAreNarrowerUnknownOrMisspelt)
{
    std::vector<std::string> warnings;
    for (const char* narrow : {"float8_e4m3fn", "float8_e5m2", "int8", "uint8", "float16", "float4_e2m1fn_x2"}) {
        SCOPED_TRACE(narrow);
        EXPECT_EQ(departures({{"torch_dtype", narrow}}, DType::BF16, &warnings), (Json{{"torch_dtype", "bfloat16"}}));
        EXPECT_THAT(warnings, ElementsAre(HasSubstr(fmt::format("torch_dtype {}, but most weights are stored as BF16", narrow))));
    }
    for (const char* name : {"torch.bfloat16", "auto", "torch.float32", "double"}) {
        SCOPED_TRACE(name);
        EXPECT_EQ(departures({{"torch_dtype", "(absent)"}, {"dtype", name}}, DType::BF16, &warnings), (Json{{"dtype", "bfloat16"}}));
        EXPECT_THAT(warnings, IsEmpty()) << "nothing is lost by it";
    }
    EXPECT_EQ(departures({{"torch_dtype", "(absent)"}}, DType::BF16, &warnings), Json::object());
    EXPECT_EQ(departures({{"torch_dtype", "float64"}}, DType::BF16, &warnings), Json::object());
    EXPECT_EQ(departures({{"torch_dtype", "float32"}, {"text_config", {{"dtype", "float8_e4m3fn"}}}}, DType::BF16, &warnings),
              (Json{{"text_config", nullptr}}));
    EXPECT_THAT(warnings, ElementsAre(HasSubstr("text_config")));
}

TEST(Departures, QuantisationLeftBehindOverFullWeights)
{
    std::vector<std::string> warnings;
    const Json methods = {
        {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 128}, {"zero_point", true}},
        {{"quant_method", "gptq"}, {"bits", 4}, {"desc_act", false}},
        {{"quant_method", "compressed-tensors"}, {"format", "pack-quantized"}, {"config_groups", Json::object()}},
        {{"quant_method", "bitsandbytes"}, {"load_in_4bit", true}},
    };
    for (const Json& method : methods) {
        SCOPED_TRACE(method);
        EXPECT_EQ(departures({{"quantization_config", method}}, DType::F32, &warnings), (Json{{"quantization_config", nullptr}}));
        EXPECT_THAT(warnings, ElementsAre(HasSubstr(method["quant_method"].get<std::string>())));
    }
    EXPECT_EQ(departures({{"quantization_config", Json::object()}}, DType::F32), (Json{{"quantization_config", nullptr}}));
    EXPECT_EQ(departures({{"compression_config", methods[2]}}, DType::F32), (Json{{"compression_config", nullptr}}));
}

TEST(Departures, ArchitecturesNameTheClassOfTheFamily)
{
    std::vector<std::string> warnings;
    const Json stock = {{"architectures", {"MixtralForCausalLM"}}};
    EXPECT_EQ(departures({{"architectures", {"PrunedMixtral", "MixtralForCausalLM"}}}, DType::F32, &warnings), stock);
    EXPECT_THAT(warnings, IsEmpty()) << "the family's own is among them";
    EXPECT_EQ(departures({{"architectures", {"MixtralForCausalLM", "Other"}}}, DType::F32, &warnings), stock);
    EXPECT_EQ(departures({{"architectures", {"PrunedMixtral"}}}, DType::F32, &warnings), stock);
    EXPECT_THAT(warnings, ElementsAre(testing::AllOf(HasSubstr("PrunedMixtral"), HasSubstr("MixtralForCausalLM"))));
    for (const Json& nothing : {Json(nullptr), Json::array()})
        EXPECT_EQ(departures({{"architectures", nothing}}, DType::F32, &warnings), Json::object());
}

// What transformers refuses to load where Espalier opens it, and what its classes fill in otherwise.
TEST(Departures, WhatTransformersWouldNotLoadIsLeftOut)
{
    std::vector<std::string> warnings;
    EXPECT_EQ(
        departures({{"auto_map", nullptr}, {"max_position_embeddings", nullptr}, {"tie_word_embeddings", nullptr}}, DType::F32, &warnings),
        (Json{{"auto_map", nullptr}, {"max_position_embeddings", nullptr}, {"tie_word_embeddings", false}}));
    EXPECT_THAT(warnings, IsEmpty());
    EXPECT_EQ(departures({{"tie_word_embeddings", "(absent)"}}, DType::F32), Json::object());
    EXPECT_EQ(departures({{"auto_map", {{"AutoConfig", "x.C"}, {"AutoModel", nullptr}, {"AutoTokenizer", {"y.T", nullptr}}}}}, DType::F32),
              (Json{{"auto_map", nullptr}}));
    // A model that was cut to fewer layers, and its lists were not.
    const Json lists = {{"layer_types", {"full_attention", "full_attention"}}, {"mlp_layer_types", Json::array()}};
    EXPECT_EQ(departures(lists, DType::F32, &warnings), (Json{{"layer_types", nullptr}, {"mlp_layer_types", nullptr}}));
    EXPECT_THAT(warnings, ElementsAre(HasSubstr("layer_types"), HasSubstr("mlp_layer_types")));
    EXPECT_EQ(departures({{"layer_types", {"full_attention"}}}, DType::F32), Json::object());
    EXPECT_EQ(departures({{"layer_types", {"attention"}}}, DType::F32, &warnings), (Json{{"layer_types", nullptr}}));
    EXPECT_THAT(warnings, ElementsAre(HasSubstr("layer_types")));
    EXPECT_EQ(departures({{"use_cache", nullptr}, {"attention_dropout", nullptr}, {"router_aux_loss_coef", nullptr}}, DType::F32),
              (Json{{"use_cache", nullptr}, {"attention_dropout", nullptr}, {"router_aux_loss_coef", nullptr}}));
    EXPECT_EQ(departures({{"pad_token_id", 32}}, DType::F32, &warnings), (Json{{"pad_token_id", nullptr}}));
    EXPECT_THAT(warnings, ElementsAre(HasSubstr("pad_token_id 32")));
    for (const Json& fine : {Json(31), Json(-1), Json(nullptr)})
        EXPECT_EQ(departures({{"pad_token_id", fine}, {"eos_token_id", 99}}, DType::F32, &warnings), Json::object());
}

TEST(Departures, DefaultsThatTransformersFillsInOtherwiseAreWritten)
{
    for (const char* how : {"(absent)", "null"}) {
        const Json value = std::string(how) == "null" ? Json(nullptr) : Json(how);
        EXPECT_EQ(departures({{"num_key_value_heads", value}}, DType::F32), (Json{{"num_key_value_heads", 2}}));
    }
    EXPECT_EQ(departures({{"head_dim", nullptr}}, DType::F32), Json::object());
    // Latent attention: head_dim of an older release. Qwen2-MoE: sliding windows of no length.
    const auto of = [](const char* model, const Json& changes) {
        Json json = Json::parse(readBytes(kModels / model / "config.json"));
        json.update(changes);
        return departures(Json::object(), DType::F32, nullptr, json);
    };
    const Json rotated = Json::parse(readBytes(kModels / "deepseekv3-tiny" / "config.json"))["qk_rope_head_dim"];
    EXPECT_EQ(of("deepseekv3-tiny", {{"head_dim", 192}}).value("head_dim", Json()), rotated);
    EXPECT_FALSE(of("deepseekv3-tiny", {{"head_dim", rotated}}).contains("head_dim"));
    EXPECT_TRUE(of("olmoe-tiny", {{"head_dim", nullptr}}).contains("head_dim"));
    EXPECT_EQ(of("qwen2moe-tiny", {{"use_sliding_window", true}, {"sliding_window", nullptr}}).value("use_sliding_window", Json()), false);
    const Json yarn = {{"rope_type", "yarn"}, {"original_max_position_embeddings", 4096}};
    Json spelt = yarn;
    spelt["factor"] = 8.0;
    EXPECT_EQ(departures({{"rope_scaling", yarn}}, DType::F32), (Json{{"head_dim", 8}, {"rope_scaling", spelt}}));
    EXPECT_EQ(departures({{"rope_scaling", spelt}, {"head_dim", 8}}, DType::F32), Json::object());
    EXPECT_EQ(departures({{"rope_scaling", Json::object()}}, DType::F32), Json::object()) << "no scaling";
}

}  // namespace
