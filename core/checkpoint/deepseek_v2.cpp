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
        ESPALIER_TRY(const int experts, readRouterKeys(reader, config, "softmax"));
        ESPALIER_CHECK_OK(readRouter(reader, config, experts));
        return readLayers(reader, config, experts);
    }

private:
    static Status readRouter(const ConfigReader& reader, ModelConfig& config, int experts)
    {
        RouterShape& router = config.router;
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
