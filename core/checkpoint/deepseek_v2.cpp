// DeepSeek-V2 and V2-Lite: a softmax router, with or without groups, over what deepseek_latent.h has.
#include "checkpoint/deepseek_latent.h"

namespace espalier
{

namespace
{

class DeepseekV2 final : public DeepseekLatent
{
public:
    std::string_view modelType() const override { return "deepseek_v2"; }
    Architecture architecture() const override { return Architecture::DeepseekV2; }
    const MoeNames& names() const override
    {
        static constexpr MoeNames kNames = {"mlp", {"gate_proj", "up_proj", "down_proj"}, "shared_experts", {}};
        return kNames;
    }

    Status read(const ConfigReader& reader, ModelConfig& config) const override
    {
        ESPALIER_CHECK_OK(readAttention(reader, config));
        ESPALIER_TRY(const int experts, readExpertCount(reader, config, {"n_routed_experts", "num_local_experts", "num_experts"}));
        ESPALIER_CHECK_OK(readRouter(reader, config, experts));
        return readLayers(reader, config, experts);
    }

private:
    static Status readRouter(const ConfigReader& reader, ModelConfig& config, int experts)
    {
        RouterShape& router = config.router;
        config.routerFp32 = true;
        ESPALIER_TRY(router.topK, readTopK(reader));
        ESPALIER_TRY(router.scaling, reader.number("routed_scaling_factor", 1e-6, 1e6));
        ESPALIER_TRY(const std::optional<std::string> scoring, reader.optionalString("scoring_func"));
        if (scoring && *scoring != "softmax")
            return reader.valueUnsupported("scoring_func",
                                           fmt::format("scoring_func is \"{}\"; this family's router is a softmax", *scoring));
        ESPALIER_TRY(const std::string method, reader.string("topk_method"));
        if (method == "group_limited_greedy") {
            router.rule = RoutingRule::GroupLimitedSoftmax;
            ESPALIER_CHECK_OK(readGroups(reader, router, experts));
        } else if (method == "greedy") {
            router.rule = RoutingRule::Softmax;
        } else {
            return reader.valueUnsupported("topk_method", fmt::format("topk_method is {}", ConfigReader::shown(method)));
        }
        ESPALIER_TRY(const bool renormalise, reader.boolean("norm_topk_prob", false));
        if (renormalise)
            config.warnings.push_back(
                "norm_topk_prob is true; transformers' own deepseek_v2 ignores it and scales by routed_scaling_factor, and so does "
                "Espalier.");
        return {};
    }
};

}  // namespace

const ArchitectureAdapter& deepseekV2Adapter()
{
    static const DeepseekV2 adapter;
    return adapter;
}

}  // namespace espalier
