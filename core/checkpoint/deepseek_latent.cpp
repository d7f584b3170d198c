#include "checkpoint/deepseek_latent.h"

namespace espalier
{

bool DeepseekLatent::attention(const ModelConfig& config, std::string_view prefix, const TensorSink& sink) const
{
    const MlaConfig& mla = *config.mla;
    const std::int64_t hidden = config.hiddenSize;
    const std::int64_t q = std::int64_t(config.heads) * config.headDim;
    const std::int64_t latent = mla.kvLoraRank;
    const auto tensor = [&](const char* name, std::initializer_list<std::int64_t> shape) {
        return sink(fmt::format("{}{}", prefix, name), std::span(shape.begin(), shape.size()));
    };
    const bool queries = mla.qLoraRank == 0
                             ? tensor("q_proj.weight", {q, hidden})
                             : tensor("q_a_proj.weight", {mla.qLoraRank, hidden}) && tensor("q_a_layernorm.weight", {mla.qLoraRank}) &&
                                   tensor("q_b_proj.weight", {q, mla.qLoraRank}) &&
                                   (!config.qkvBias || tensor("q_a_proj.bias", {mla.qLoraRank}));
    return queries && tensor("kv_a_proj_with_mqa.weight", {latent + mla.ropeHeadDim, hidden}) &&
           (!config.qkvBias || tensor("kv_a_proj_with_mqa.bias", {latent + mla.ropeHeadDim})) &&
           tensor("kv_a_layernorm.weight", {latent}) &&
           tensor("kv_b_proj.weight", {std::int64_t(config.heads) * (mla.nopeHeadDim + mla.valueHeadDim), latent}) &&
           tensor("o_proj.weight", {hidden, std::int64_t(config.heads) * mla.valueHeadDim}) &&
           (!config.outputBias || tensor("o_proj.bias", {hidden}));
}

Status DeepseekLatent::readAttention(const ConfigReader& reader, ModelConfig& config)
{
    MlaConfig mla;
    ESPALIER_CHECK_OK(reader.present("q_lora_rank"));  // null: q_proj; the class default is another number
    ESPALIER_TRY(const std::optional<int> qRank, reader.optionalInteger("q_lora_rank", 1, kMaxHidden));
    mla.qLoraRank = qRank.value_or(0);
    ESPALIER_TRY(mla.kvLoraRank, reader.integer("kv_lora_rank", 1, kMaxHidden));
    ESPALIER_TRY(mla.nopeHeadDim, reader.integer("qk_nope_head_dim", 1, kMaxHeadDim));
    ESPALIER_TRY(mla.ropeHeadDim, reader.integer("qk_rope_head_dim", 2, kMaxHeadDim));
    ESPALIER_TRY(mla.valueHeadDim, reader.integer("v_head_dim", 1, kMaxHeadDim));
    if (mla.ropeHeadDim % 2 != 0)
        return reader.conflict("qk_rope_head_dim", fmt::format("qk_rope_head_dim {} is odd, but it is rotated in pairs", mla.ropeHeadDim));
    if (config.kvHeads != config.heads)
        return reader.conflict("num_key_value_heads", fmt::format("num_key_value_heads {} must equal num_attention_heads {} in this family",
                                                                  config.kvHeads, config.heads));
    config.headDim = mla.nopeHeadDim + mla.ropeHeadDim;
    config.mla = mla;
    ESPALIER_TRY(config.qkvBias, reader.boolean("attention_bias", false));
    config.outputBias = config.qkvBias;
    return {};
}

Status DeepseekLatent::readLayers(const ConfigReader& reader, ModelConfig& config, int experts)
{
    ESPALIER_TRY(const int width, reader.integer("moe_intermediate_size", 1, kMaxWidth));
    ESPALIER_CHECK_OK(reader.present("n_shared_experts"));
    ESPALIER_TRY(const std::optional<int> shared, reader.optionalInteger("n_shared_experts", 0, 64));
    config.sharedExperts = shared.value_or(0);
    if (std::int64_t(config.sharedExperts) * width > kMaxWidth)
        return reader.conflict("n_shared_experts",
                               fmt::format("n_shared_experts {} of moe_intermediate_size {} make an MLP of more than {} rows",
                                           config.sharedExperts, width, kMaxWidth));
    ESPALIER_TRY(const int firstDense, reader.integer("first_k_dense_replace", 0, std::numeric_limits<int>::max()));
    ESPALIER_TRY(const std::optional<int> every, reader.optionalInteger("moe_layer_freq", 1, std::numeric_limits<int>::max()));
    if (firstDense >= config.layerCount)
        return reader.conflict("first_k_dense_replace", fmt::format("first_k_dense_replace {} leaves none of {} layers to hold experts",
                                                                    firstDense, config.layerCount));
    ESPALIER_TRY(const bool mlpBias, reader.boolean("mlp_bias", false));
    if (mlpBias) return reader.valueUnsupported("mlp_bias", "mlp_bias is true, but biases in the MLP are not supported");
    return setLayers(reader, config, experts, width, config.sharedExperts * width,
                     [&](int i) { return i >= firstDense && i % every.value_or(1) == 0; });
}

Result<int> DeepseekLatent::readRouterKeys(const ConfigReader& reader, ModelConfig& config, std::string_view scoring)
{
    ESPALIER_TRY(const int experts, readExpertCount(reader, config, {"n_routed_experts", "num_local_experts", "num_experts"}));
    config.routerFp32 = true;
    ESPALIER_TRY(config.router.topK, readTopK(reader));
    ESPALIER_TRY(config.router.scaling, reader.number("routed_scaling_factor", 1e-6, 1e6));
    ESPALIER_TRY(const std::optional<std::string> given, reader.optionalString("scoring_func"));
    if (given && *given != scoring)
        return reader.valueUnsupported(
            "scoring_func", fmt::format("scoring_func is {}; this family's router is a {}", ConfigReader::shown(*given), scoring));
    return experts;
}

Status DeepseekLatent::readGroups(const ConfigReader& reader, RouterShape& router, int experts)
{
    ESPALIER_TRY(router.groups, reader.integer("n_group", 1, kMaxExperts));
    ESPALIER_TRY(router.topGroups, reader.integer("topk_group", 1, kMaxExperts));
    if (experts % router.groups != 0)
        return reader.conflict("n_group", fmt::format("{} experts cannot be divided into n_group {} groups", experts, router.groups));
    if (router.topGroups > router.groups)
        return reader.conflict("topk_group", fmt::format("topk_group {} is more than n_group {}", router.topGroups, router.groups));
    return {};
}

}  // namespace espalier
