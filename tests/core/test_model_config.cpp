#include "checkpoint_fixture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace espalier;
using namespace espalier::test;
using testing::HasSubstr;

namespace
{

// config.json of the published checkpoints, as far as it decides shapes and routing.
Json published(const std::string& name)
{
    if (name == "Mixtral-8x7B-v0.1")
        return Json::parse(R"({"architectures":["MixtralForCausalLM"],"model_type":"mixtral","hidden_size":4096,"num_hidden_layers":32,
            "num_attention_heads":32,"num_key_value_heads":8,"intermediate_size":14336,"num_local_experts":8,"num_experts_per_tok":2,
            "vocab_size":32000,"rope_theta":1000000.0,"max_position_embeddings":32768,"rms_norm_eps":1e-5,"sliding_window":null,
            "tie_word_embeddings":false,"torch_dtype":"bfloat16","hidden_act":"silu"})");
    if (name == "Qwen1.5-MoE-A2.7B")
        return Json::parse(R"({"architectures":["Qwen2MoeForCausalLM"],"model_type":"qwen2_moe","hidden_size":2048,"num_hidden_layers":24,
            "num_attention_heads":16,"num_key_value_heads":16,"intermediate_size":5632,"moe_intermediate_size":1408,"num_experts":60,
            "num_experts_per_tok":4,"shared_expert_intermediate_size":5632,"norm_topk_prob":false,"decoder_sparse_step":1,
            "vocab_size":151936,"rope_theta":1000000.0,"max_position_embeddings":8192,"rms_norm_eps":1e-6,"sliding_window":32768,
            "use_sliding_window":false,"max_window_layers":21,"tie_word_embeddings":false,"torch_dtype":"bfloat16","hidden_act":"silu"})");
    if (name == "DeepSeek-V2-Lite")
        return Json::parse(
            R"({"architectures":["DeepseekV2ForCausalLM"],"model_type":"deepseek_v2","hidden_size":2048,"num_hidden_layers":27,
            "num_attention_heads":16,"num_key_value_heads":16,"qk_nope_head_dim":128,"qk_rope_head_dim":64,"v_head_dim":128,
            "q_lora_rank":null,"kv_lora_rank":512,"intermediate_size":10944,"moe_intermediate_size":1408,"n_routed_experts":64,
            "n_shared_experts":2,"num_experts_per_tok":6,"norm_topk_prob":false,"routed_scaling_factor":1.0,"topk_method":"greedy",
            "n_group":1,"topk_group":1,"scoring_func":"softmax","first_k_dense_replace":1,"moe_layer_freq":1,"vocab_size":102400,
            "rope_theta":10000,"rope_scaling":{"beta_fast":32,"beta_slow":1,"factor":40,"mscale":0.707,"mscale_all_dim":0.707,
            "original_max_position_embeddings":4096,"type":"yarn"},"max_position_embeddings":163840,"rms_norm_eps":1e-6,
            "tie_word_embeddings":false,"torch_dtype":"bfloat16","hidden_act":"silu"})");
    if (name == "OLMoE-1B-7B-0924")
        return Json::parse(R"({"architectures":["OlmoeForCausalLM"],"model_type":"olmoe","hidden_size":2048,"num_hidden_layers":16,
            "num_attention_heads":16,"num_key_value_heads":16,"intermediate_size":1024,"num_experts":64,"num_experts_per_tok":8,
            "norm_topk_prob":false,"vocab_size":50304,"rope_theta":10000.0,"rope_scaling":null,"max_position_embeddings":4096,
            "rms_norm_eps":1e-5,"clip_qkv":null,"tie_word_embeddings":false,"torch_dtype":"bfloat16","hidden_act":"silu"})");
    return Json::parse(R"({"architectures":["Qwen3MoeForCausalLM"],"model_type":"qwen3_moe","hidden_size":2048,"num_hidden_layers":48,
        "num_attention_heads":32,"num_key_value_heads":4,"head_dim":128,"intermediate_size":6144,"moe_intermediate_size":768,
        "num_experts":128,"num_experts_per_tok":8,"norm_topk_prob":true,"decoder_sparse_step":1,"mlp_only_layers":[],"vocab_size":151936,
        "rope_theta":1000000.0,"rope_scaling":null,"max_position_embeddings":40960,"rms_norm_eps":1e-6,"use_sliding_window":false,
        "sliding_window":null,"tie_word_embeddings":false,"torch_dtype":"bfloat16","hidden_act":"silu"})");
}

ModelConfig parsed(const Json& json)
{
    auto config = parseModelConfig(json);
    if (!config.ok()) ADD_FAILURE() << config.error().describe();
    return config.ok() ? *config : ModelConfig{};
}

Error refused(const Json& json)
{
    const auto config = parseModelConfig(json);
    EXPECT_FALSE(config.ok()) << json.dump();
    return config.ok() ? Error{} : config.error();
}

// With one key changed; null as `value` text "-" removes it.
Json changed(const std::string& name, const char* key, const Json& value)
{
    Json json = published(name);
    json[key] = value;
    return json;
}

Json without(const std::string& name, const char* key)
{
    Json json = published(name);
    json.erase(key);
    return json;
}

struct Totals {
    const char* name;
    std::int64_t parameters, active, expert, tensors;
};

TEST(ModelConfig, TotalsOfThePublishedModels)
{
    const Totals rows[] = {
        {"Mixtral-8x7B-v0.1", 46'702'792'704, 12'879'925'248, 176'160'768, 995},
        {"Qwen1.5-MoE-A2.7B", 14'315'784'192, 2'689'173'504, 8'650'752, 4'659},
        {"DeepSeek-V2-Lite", 15'706'484'224, 2'661'150'208, 8'650'752, 5'291},
        {"OLMoE-1B-7B-0924", 6'919'161'856, 1'282'017'280, 6'291'456, 3'219},
        {"Qwen3-30B-A3B", 30'532'122'624, 3'353'032'704, 4'718'592, 18'867},
    };
    for (const Totals& row : rows) {
        SCOPED_TRACE(row.name);
        const ModelConfig config = parsed(published(row.name));
        const ModelShape shape = modelShape(config);
        EXPECT_EQ(shape.parameters(), row.parameters);
        EXPECT_EQ(shape.activeParameters(), row.active);
        EXPECT_EQ(shape.layers.back().expertParameters, row.expert);
        EXPECT_EQ(shape.bytes(), 2 * row.parameters);
        EXPECT_EQ(shape.dtype, "BF16");
        EXPECT_EQ(expectedTensorCount(config), row.tensors);
    }
}

TEST(ModelConfig, RoutersOfThePublishedModels)
{
    const ModelConfig mixtral = parsed(published("Mixtral-8x7B-v0.1"));
    EXPECT_EQ(mixtral.router.rule, RoutingRule::SoftmaxRenormalised);
    EXPECT_EQ(mixtral.headDim, 128);
    EXPECT_FALSE(mixtral.qkvBias);
    const ModelConfig qwen = parsed(published("Qwen1.5-MoE-A2.7B"));
    EXPECT_EQ(qwen.router.rule, RoutingRule::Softmax);
    EXPECT_TRUE(qwen.qkvBias);
    EXPECT_FALSE(qwen.outputBias);
    EXPECT_TRUE(qwen.sharedGate);
    EXPECT_EQ(qwen.layers[0].window, 0) << "use_sliding_window is false";
    EXPECT_EQ(parsed(published("OLMoE-1B-7B-0924")).qkNorm, QkNorm::Whole);
    const ModelConfig qwen3 = parsed(published("Qwen3-30B-A3B"));
    EXPECT_EQ(qwen3.qkNorm, QkNorm::PerHead);
    EXPECT_EQ(qwen3.headDim, 128);
    const ModelConfig lite = parsed(published("DeepSeek-V2-Lite"));
    EXPECT_TRUE(lite.routerFp32);
    EXPECT_EQ(lite.headDim, 192);
    EXPECT_FALSE(lite.layers[0].moe);
    EXPECT_EQ(lite.layers[0].denseWidth, 10944);
    EXPECT_EQ(lite.layers[1].sharedWidth, 2816);
    ASSERT_EQ(lite.rope.type, RopeScaling::Type::Yarn);
    EXPECT_EQ(lite.rope.factor, 40);
    EXPECT_EQ(lite.rope.originalPositions, 4096);
    EXPECT_EQ(lite.rope.mscaleAllDim, 0.707);
}

TEST(ModelConfig, BothGenerationsOfSpellingsMeanTheSame)
{
    Json v5 = without("DeepSeek-V2-Lite", "rope_scaling");
    v5["rope_parameters"] = published("DeepSeek-V2-Lite").at("rope_scaling");
    v5["rope_parameters"]["rope_type"] = "yarn";
    v5["rope_parameters"]["rope_theta"] = v5.at("rope_theta");
    v5.erase("rope_theta");
    v5["dtype"] = v5.at("torch_dtype");
    v5.erase("torch_dtype");
    v5["head_dim"] = 64;  // qk_rope_head_dim in a v5 file; means nothing here
    v5["qk_head_dim"] = 192;
    const ModelConfig a = parsed(v5);
    const ModelConfig b = parsed(published("DeepSeek-V2-Lite"));
    EXPECT_EQ(a.ropeTheta, b.ropeTheta);
    EXPECT_EQ(a.rope.factor, b.rope.factor);
    EXPECT_EQ(a.headDim, b.headDim);
    EXPECT_EQ(a.dtype, "bfloat16");

    Json both = published("Mixtral-8x7B-v0.1");
    both["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 1e6}};
    EXPECT_EQ(parsed(both).ropeTheta, 1e6);
    both["rope_parameters"]["rope_theta"] = 1e4;
    EXPECT_EQ(refused(both).code, "config.conflict");
    both["rope_parameters"] = {{"full_attention", {{"rope_type", "default"}}}};
    EXPECT_EQ(refused(both).code, "config.rope_unsupported");

    Json renamed = without("Qwen3-30B-A3B", "num_experts");
    renamed["num_local_experts"] = 128;
    EXPECT_EQ(parsed(renamed).layers[0].experts, 128);
    EXPECT_THAT(parsed(renamed).expertCountKeys, testing::ElementsAre("num_local_experts"));
    renamed["num_experts"] = 128;
    EXPECT_THAT(parsed(renamed).expertCountKeys, testing::ElementsAre("num_experts", "num_local_experts"));
    renamed["num_experts"] = 64;
    const Error error = refused(renamed);
    EXPECT_EQ(error.code, "config.conflict");
    EXPECT_THAT(error.message, HasSubstr("num_local_experts"));

    EXPECT_EQ(parsed(changed("Mixtral-8x7B-v0.1", "head_dim", nullptr)).headDim, 128);
    EXPECT_EQ(parsed(without("OLMoE-1B-7B-0924", "num_key_value_heads")).kvHeads, 16);
}

TEST(ModelConfig, YarnFactorOfNullIsTheRatioOfPositions)
{
    Json json = published("DeepSeek-V2-Lite");
    json["rope_scaling"]["factor"] = nullptr;
    EXPECT_EQ(parsed(json).rope.factor, 40.0);
    json["rope_scaling"]["factor"] = 8;  // a stated factor wins over the ratio
    EXPECT_EQ(parsed(json).rope.factor, 8.0);
}

TEST(ModelConfig, WindowsByFamily)
{
    const auto windows = [](const ModelConfig& config) {
        std::vector<int> list;
        for (const LayerConfig& layer : config.layers)
            list.push_back(layer.window);
        return list;
    };
    EXPECT_THAT(windows(parsed(changed("Mixtral-8x7B-v0.1", "sliding_window", 4096))), testing::Each(4096));
    Json qwen = changed("Qwen1.5-MoE-A2.7B", "use_sliding_window", true);
    qwen["num_hidden_layers"] = 4;
    qwen["max_window_layers"] = 3;
    qwen["sliding_window"] = 24;
    EXPECT_THAT(windows(parsed(qwen)), testing::ElementsAre(24, 0, 24, 0));
    qwen["layer_types"] = {"full_attention", "sliding_attention", "full_attention", "full_attention"};
    EXPECT_THAT(windows(parsed(qwen)), testing::ElementsAre(0, 24, 0, 0));
    qwen["layer_types"] = {"full_attention", "chunked_attention", "full_attention", "full_attention"};
    EXPECT_EQ(refused(qwen).code, "config.value_unsupported");
    // A window that is switched off or has no length, and layers that ask for it.
    qwen["layer_types"] = {"full_attention", "sliding_attention", "full_attention", "full_attention"};
    qwen["use_sliding_window"] = false;
    const Error off = refused(qwen);
    EXPECT_EQ(off.code, "config.conflict");
    EXPECT_THAT(off.message, testing::AllOf(testing::HasSubstr("layer 1"), testing::HasSubstr("use_sliding_window is false")));
    qwen["use_sliding_window"] = true;
    qwen["sliding_window"] = nullptr;
    EXPECT_EQ(refused(qwen).code, "config.conflict");
    qwen["layer_types"] = {"full_attention", "full_attention", "full_attention", "full_attention"};
    EXPECT_THAT(windows(parsed(qwen)), testing::Each(0));
    Json qwen3 = changed("Qwen3-30B-A3B", "use_sliding_window", true);
    qwen3["sliding_window"] = 100;
    EXPECT_THAT(windows(parsed(qwen3)), testing::Each(100));
    // Where it is absent the families have different numbers; null is none.
    qwen3["sliding_window"] = nullptr;
    EXPECT_THAT(windows(parsed(qwen3)), testing::Each(0));
    for (Json* config : {&qwen, &qwen3}) {
        config->erase("sliding_window");
        EXPECT_EQ(refused(*config).subject, "sliding_window");
    }
}

TEST(ModelConfig, DenseLayersByFamily)
{
    Json json = changed("Qwen1.5-MoE-A2.7B", "decoder_sparse_step", 2);
    json["num_hidden_layers"] = 6;
    json["mlp_only_layers"] = {1};
    const ModelConfig config = parsed(json);
    std::vector<int> moe;
    for (int i = 0; i < 6; ++i)
        if (config.layers[static_cast<std::size_t>(i)].moe) moe.push_back(i);
    EXPECT_THAT(moe, testing::ElementsAre(3, 5));
    EXPECT_EQ(config.layers[0].denseWidth, 5632);
    json.erase("intermediate_size");
    EXPECT_EQ(refused(json).subject, "intermediate_size");
    EXPECT_EQ(refused(changed("Qwen1.5-MoE-A2.7B", "decoder_sparse_step", 100)).code, "config.conflict") << "no layer has experts";
}

TEST(ModelConfig, WhatDecidesShapesOrRoutingIsNeverGuessed)
{
    const std::pair<const char*, std::vector<const char*>> required[] = {
        {"Mixtral-8x7B-v0.1",
         {"model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_local_experts",
          "num_experts_per_tok", "vocab_size", "rope_theta", "rms_norm_eps", "hidden_act"}},
        {"Qwen1.5-MoE-A2.7B",
         {"moe_intermediate_size", "num_experts", "norm_topk_prob", "shared_expert_intermediate_size", "decoder_sparse_step"}},
        {"DeepSeek-V2-Lite",
         {"q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "n_routed_experts", "n_shared_experts",
          "routed_scaling_factor", "topk_method", "first_k_dense_replace"}},
        {"OLMoE-1B-7B-0924", {"num_experts", "norm_topk_prob"}},
        {"Qwen3-30B-A3B", {"num_experts", "norm_topk_prob", "moe_intermediate_size"}},
    };
    for (const auto& [name, keys] : required)
        for (const char* key : keys) {
            const Error error = refused(without(name, key));
            EXPECT_EQ(error.code, "config.missing_key") << name;
            EXPECT_EQ(error.subject, key);
            EXPECT_THAT(error.message, HasSubstr(key));
        }
}

TEST(ModelConfig, ValuesOutOfRangeOrOfTheWrongType)
{
    const std::string name = "Qwen3-30B-A3B";
    for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
                            "moe_intermediate_size", "num_experts", "vocab_size"}) {
        for (const Json& value : {Json(0), Json(-5), Json(std::uint64_t(1) << 40), Json(std::numeric_limits<std::uint64_t>::max()),
                                  Json(std::numeric_limits<std::int64_t>::min())}) {
            const Error error = refused(changed(name, key, value));
            EXPECT_EQ(error.code, "config.out_of_range") << key << " " << value;
            EXPECT_EQ(error.subject, key);
        }
        for (const Json& value : {Json("64"), Json(64.0), Json(true), Json::array(), Json::object()})
            EXPECT_EQ(refused(changed(name, key, value)).code, "config.wrong_type") << key << " " << value;
    }
    EXPECT_EQ(refused(changed(name, "norm_topk_prob", 1)).code, "config.wrong_type");
    EXPECT_EQ(refused(changed(name, "rms_norm_eps", "1e-6")).code, "config.wrong_type");
    EXPECT_EQ(refused(changed(name, "rope_scaling", 3)).code, "config.wrong_type");
    EXPECT_EQ(refused(changed(name, "mlp_only_layers", {1.5})).code, "config.wrong_type");
    EXPECT_EQ(refused(changed(name, "architectures", "x")).code, "config.wrong_type");
    EXPECT_EQ(refused(Json::array()).code, "config.wrong_type");
    EXPECT_EQ(refused(changed(name, "num_experts_per_tok", 129)).code, "config.conflict");
    EXPECT_EQ(refused(changed(name, "num_key_value_heads", 5)).code, "config.conflict");
    EXPECT_EQ(refused(changed("DeepSeek-V2-Lite", "num_key_value_heads", 8)).code, "config.conflict");
}

TEST(ModelConfig, KnownVariantsThatAreNotComputedAreRefusedByName)
{
    const auto expectUnsupported = [](const Error& error, const char* code, const char* text) {
        EXPECT_EQ(error.code, code);
        EXPECT_EQ(error.exitCode(), 6);
        EXPECT_THAT(error.message, HasSubstr(text));
    };
    expectUnsupported(refused(changed("Mixtral-8x7B-v0.1", "hidden_act", "gelu")), "config.activation_unsupported", "gelu");
    expectUnsupported(refused(changed("Mixtral-8x7B-v0.1", "rope_scaling", {{"type", "linear"}, {"factor", 2.0}})),
                      "config.rope_unsupported", "linear");
    expectUnsupported(refused(changed("Qwen3-30B-A3B", "partial_rotary_factor", 0.5)), "config.value_unsupported", "0.5");
    Json partial = without("Qwen3-30B-A3B", "rope_theta");
    partial["rope_parameters"] = {{"rope_theta", 1e6},
                                  {"rope_type", "yarn"},
                                  {"factor", 4.0},
                                  {"original_max_position_embeddings", 32768},
                                  {"partial_rotary_factor", 0.5}};
    expectUnsupported(refused(partial), "config.rope_unsupported", "partial_rotary_factor is 0.5");
    expectUnsupported(refused(changed("DeepSeek-V2-Lite", "topk_method", "noaux_tc")), "config.value_unsupported", "noaux_tc");
    expectUnsupported(refused(changed("DeepSeek-V2-Lite", "scoring_func", "sigmoid")), "config.value_unsupported", "sigmoid");
    for (const char* type : {"glm4_moe", "gpt_oss", "mixtrall", "espalier_mixtrall", "llama"}) {
        const Error error = refused(changed("Mixtral-8x7B-v0.1", "model_type", type));
        expectUnsupported(error, "checkpoint.architecture_unsupported", type);
        for (const std::string& supported : supportedModelTypes())
            EXPECT_THAT(error.message, HasSubstr(supported));
    }
    EXPECT_TRUE(isKnownModelType("glm4_moe"));
    EXPECT_FALSE(isKnownModelType("mixtrall"));
    EXPECT_EQ(parsed(changed("DeepSeek-V2-Lite", "norm_topk_prob", true)).warnings.size(), 1u);
}

TEST(ModelConfig, SigmoidRoutersSelectInGroupsOfTwoOrMore)
{
    Json json = changed("DeepSeek-V2-Lite", "model_type", "deepseek_v3");
    json.update(
        {{"architectures", {"DeepseekV3ForCausalLM"}}, {"scoring_func", "sigmoid"}, {"topk_method", "noaux_tc"}, {"norm_topk_prob", true}});
    json.update({{"n_group", 8}, {"topk_group", 4}, {"routed_scaling_factor", 2.5}});
    const ModelConfig config = parsed(json);
    EXPECT_EQ(config.router.rule, RoutingRule::SigmoidBias);
    EXPECT_EQ(config.router.groups, 8);
    EXPECT_EQ(config.router.topGroups, 4);
    EXPECT_EQ(config.router.scaling, 2.5);
    EXPECT_TRUE(config.router.normalise);
    const ModelShape shape = modelShape(config);
    EXPECT_EQ(shape.layers.back().routerParametersPerExpert, config.hiddenSize + 1) << "an expert brings its selection bias";
    json["n_group"] = 64;  // one expert per group: there is no second one to judge it by
    json["topk_group"] = 32;
    EXPECT_EQ(refused(json).code, "config.conflict");
    json["n_group"] = 8;
    json["scoring_func"] = "softmax";
    EXPECT_EQ(refused(json).code, "config.value_unsupported");
}

TEST(ModelConfig, GroupsMustDivideTheExperts)
{
    Json json = changed("DeepSeek-V2-Lite", "topk_method", "group_limited_greedy");
    json["n_group"] = 8;
    json["topk_group"] = 3;
    const ModelConfig config = parsed(json);
    EXPECT_EQ(config.router.rule, RoutingRule::GroupLimitedSoftmax);
    EXPECT_EQ(config.router.groups, 8);
    EXPECT_EQ(config.router.topGroups, 3);
    json["n_group"] = 7;
    EXPECT_EQ(refused(json).code, "config.conflict");
    json["n_group"] = 32;
    json["topk_group"] = 2;  // four experts to choose six from
    EXPECT_EQ(refused(json).code, "config.conflict");
    json["topk_group"] = 33;
    EXPECT_EQ(refused(json).code, "config.conflict");
}

Json factored()
{
    Json json = published("Qwen1.5-MoE-A2.7B");
    json["model_type"] = "espalier_qwen2_moe";
    json["num_hidden_layers"] = 3;
    json["hidden_size"] = 32;
    json["moe_intermediate_size"] = 16;
    json["shared_expert_intermediate_size"] = 24;
    json["vocab_size"] = 40;
    json["num_attention_heads"] = 4;
    json["num_key_value_heads"] = 4;
    json["num_experts"] = 5;
    json["mlp_only_layers"] = {0};
    json["intermediate_size"] = 20;
    json["num_experts_per_tok"] = 4;
    json["num_experts_per_layer"] = {0, 5, 3};
    json["per_layer_config"] = {{"2", {{"num_experts", 3}, {"num_experts_per_tok", 3}}}};
    json["espalier"] = {{"version", 1},
                        {"base_model_type", "qwen2_moe"},
                        {"kept_experts", {Json::array(), {0, 1, 4, 9, 11}, {2, 3, 7}}},
                        {"ranks", {Json::array(), Json::array(), {{4, 4, 5}, {0, 0, 0}, {3, 0, 7}}}}};
    return json;
}

TEST(ModelConfig, FactoredExportsCarryCountsAndRanksPerLayer)
{
    const ModelConfig config = parsed(factored());
    EXPECT_TRUE(config.factored);
    EXPECT_EQ(config.baseModelType, "qwen2_moe");
    EXPECT_EQ(config.layers[1].experts, 5);
    EXPECT_EQ(config.layers[1].topK, 4);
    EXPECT_EQ(config.layers[2].experts, 3);
    EXPECT_EQ(config.layers[2].topK, 3);
    EXPECT_THAT(config.layers[2].keptExperts, testing::ElementsAre(2, 3, 7));
    const ModelShape shape = modelShape(config);
    std::int64_t sum = 0;
    for (const TensorDeclaration& tensor : declarationsOf(config, DType::F32)) {
        std::int64_t count = 1;
        for (const std::int64_t dimension : tensor.shape)
            count *= dimension;
        sum += count;
    }
    EXPECT_EQ(shape.parameters(), sum) << "means and remainders must add up";

    const auto with = [](const char* key, const Json& value) {
        Json json = factored();
        json[key] = value;
        return json;
    };
    EXPECT_EQ(refused(with("num_experts_per_layer", {5, 5, 3})).code, "config.conflict");
    EXPECT_EQ(refused(with("num_experts_per_layer", {0, 5})).code, "config.conflict");
    EXPECT_EQ(refused(with("num_experts_per_layer", nullptr)).code, "config.missing_key");
    EXPECT_EQ(refused(with("per_layer_config", {{"2", {{"num_experts", 4}}}})).code, "config.conflict");
    EXPECT_EQ(refused(with("per_layer_config", {{"9", {{"num_experts", 4}}}})).code, "config.conflict");
    EXPECT_EQ(refused(with("per_layer_config", {{"2", {{"num_experts", 3}, {"hidden_act", "relu"}}}})).code, "config.value_unsupported");
    EXPECT_EQ(refused(with("espalier", nullptr)).code, "config.missing_key");
    Json json = factored();
    json["espalier"]["version"] = 4;
    EXPECT_EQ(refused(json).exitCode(), 6);
    json = factored();
    json["espalier"]["base_model_type"] = "mixtral";
    EXPECT_EQ(refused(json).code, "config.conflict");
    json = factored();
    json["espalier"]["ranks"][2][0] = {4, 4, 17};  // beyond min(out, in)
    EXPECT_EQ(refused(json).code, "config.conflict");
    json["espalier"]["ranks"][2] = {{4, 4, 4}};
    EXPECT_EQ(refused(json).code, "config.conflict");
}

TEST(ModelConfig, VersionTwoOfExportsSharesBodiesAndHasBiases)
{
    Json json = factored();
    json["espalier"]["version"] = 2;
    const std::int64_t before = modelShape(parsed(json)).parameters();
    json["espalier"]["bodies"] = {Json::array(), Json::array(), {0, 0, 2}};
    json["espalier"]["biases"] = {Json::array(), Json::array(), {{0, 1}, {2, 2}}};
    const ModelConfig config = parsed(json);
    EXPECT_THAT(config.layers[2].bodies, testing::ElementsAre(0, 0, 2));
    EXPECT_EQ(config.layers[2].bodyOf(1), 0);
    EXPECT_EQ(config.layers[1].bodyOf(4), 4);
    EXPECT_TRUE(config.layers[2].hasBias(0, 1));
    EXPECT_FALSE(config.layers[2].hasBias(0, 2));
    const ModelShape shape = modelShape(config);
    EXPECT_EQ(shape.parameters(), before - 3 * 32 * 16 + 16 + 32) << "expert 1 has none of its own; biases of an up and a down";
    const auto read = modelShapeFromJson(toJson(shape));
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(read->layers[2].sourceBodies, shape.layers[2].sourceBodies);
    EXPECT_EQ(read->layers[2].sourceBiases, shape.layers[2].sourceBiases);

    const auto with = [&](const char* key, const Json& value, int version = 2) {
        Json other = json;
        other["espalier"]["version"] = version;
        other["espalier"][key] = {Json::array(), Json::array(), value};
        return refused(other).code;
    };
    EXPECT_EQ(with("bodies", {0, 2, 2}), "config.conflict") << "not a lower one";
    EXPECT_EQ(with("bodies", {0, 0, 1}), "config.conflict") << "one without weights of its own";
    EXPECT_EQ(with("bodies", {0, 0}), "config.conflict");
    EXPECT_EQ(with("biases", {{1, 0}}), "config.conflict") << "a whole matrix";
    EXPECT_EQ(with("biases", {{0, 3}}), "config.conflict");
    EXPECT_EQ(with("bodies", {0, 0, 2}, 1), "config.value_unsupported");
}

TEST(ModelConfig, FactoredExportOpensWithItsFactors)
{
    const TempFolder folder;
    ASSERT_TRUE(writeModel(folder.path(), factored()).ok());
    const auto checkpoint = Checkpoint::open(folder.path());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().describe();
    const Checkpoint& model = **checkpoint;
    const LinearView down = model.expert(2, 0, Matrix::Down);
    ASSERT_TRUE(down.factored);
    EXPECT_THAT(down.u.shape, testing::ElementsAre(32, 5));
    EXPECT_THAT(down.v.shape, testing::ElementsAre(5, 16));
    EXPECT_FALSE(model.expert(2, 1, Matrix::Down).factored);
    EXPECT_FALSE(model.expert(2, 2, Matrix::Up).factored);
    EXPECT_EQ(model.roleOf("model.layers.2.mlp.experts.0.down_proj.V").factor, TensorRole::Factor::V);
    EXPECT_EQ(model.router(2).shape, (std::vector<std::int64_t>{3, 32}));
    EXPECT_EQ(model.shape().parameters() * 2, model.shape().bytes());
    EXPECT_TRUE(inspect(model).factored);

    // A dense matrix where the configuration has factors.
    Json dense = factored();
    dense["espalier"]["ranks"][2][1] = {2, 2, 2};
    writeBytes(folder.path() / "config.json", dense.dump());
    EXPECT_EQ(Checkpoint::open(folder.path()).error().code, "checkpoint.tensor_missing");
}

// Values that transformers asks for their truth: null is false whatever the default, and where it would not mask, nothing is computed.
TEST(ModelConfig, NullIsFalseWhereTransformersTakesItForThat)
{
    Json v2 = published("DeepSeek-V2-Lite");
    EXPECT_TRUE(parsed(v2).rope.truncate);
    v2["rope_scaling"]["truncate"] = nullptr;
    EXPECT_FALSE(parsed(v2).rope.truncate);
    Json v3 = Json::parse(readBytes(kModels / "deepseekv3-tiny" / "config.json"));
    v3.erase("norm_topk_prob");
    EXPECT_TRUE(parsed(v3).router.normalise);
    v3["norm_topk_prob"] = nullptr;
    EXPECT_FALSE(parsed(v3).router.normalise);
    v3["rope_interleave"] = nullptr;
    EXPECT_THAT(refused(v3).message, HasSubstr("rope_interleave"));
    for (const Json& value : {Json(false), Json(nullptr), Json(0)}) {
        Json json = published("OLMoE-1B-7B-0924");
        json["is_causal"] = value;
        EXPECT_EQ(refused(json).code, "config.value_unsupported");
        EXPECT_THAT(refused(json).message, HasSubstr("is_causal is " + value.dump()));
    }
    Json causal = published("OLMoE-1B-7B-0924");
    causal["is_causal"] = true;
    parsed(causal);
    v2["partial_rotary_factor"] = 0.5;
    EXPECT_THAT(refused(v2).message, HasSubstr("partial_rotary_factor"));
}

TEST(ModelConfig, BothSpellingsOfYarnAgreeInEveryNumber)
{
    Json json = published("DeepSeek-V2-Lite");
    json["rope_parameters"] = json["rope_scaling"];
    json["rope_parameters"]["rope_theta"] = json["rope_theta"];
    parsed(json);
    for (const char* key : {"beta_fast", "beta_slow", "attention_factor"}) {
        Json other = json;
        other["rope_parameters"][key] = 3;
        EXPECT_EQ(refused(other).code, "config.conflict") << key;
    }
}

}  // namespace
