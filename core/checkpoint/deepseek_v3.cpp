// DeepSeek-V3 and R1: a sigmoid router that selects by score + bias within the best groups, over what deepseek_latent.h has.
#include "checkpoint/deepseek_latent.h"

namespace espalier
{

namespace
{

class DeepseekV3 final : public DeepseekLatent
{
public:
    std::string_view modelType() const override { return "deepseek_v3"; }
    Architecture architecture() const override { return Architecture::DeepseekV3; }
    const MoeNames& names() const override
    {
        static constexpr MoeNames kNames = {
            "mlp", {"gate_proj", "up_proj", "down_proj"}, "shared_experts", {}, "gate.e_score_correction_bias"};
        return kNames;
    }

    Status read(const ConfigReader& reader, ModelConfig& config) const override
    {
        ESPALIER_CHECK_OK(readAttention(reader, config));
        ESPALIER_TRY(const bool interleaved, reader.trueUnlessSaid("rope_interleave"));
        if (!interleaved)
            return reader.valueUnsupported("rope_interleave", "rope_interleave is not true; this family stores pairs side by side");
        ESPALIER_TRY(const int experts, readRouterKeys(reader, config, "sigmoid"));
        ESPALIER_CHECK_OK(readRouter(reader, config, experts));
        return readLayers(reader, config, experts);
    }

private:
    static Status readRouter(const ConfigReader& reader, ModelConfig& config, int experts)
    {
        RouterShape& router = config.router;
        router.rule = RoutingRule::SigmoidBias;
        ESPALIER_TRY(router.normalise, reader.trueUnlessSaid("norm_topk_prob"));
        ESPALIER_TRY(const std::optional<std::string> method, reader.optionalString("topk_method"));
        if (method && *method != "noaux_tc")
            return reader.valueUnsupported("topk_method", fmt::format("topk_method is {}", ConfigReader::shown(*method)));
        ESPALIER_CHECK_OK(readGroups(reader, router, experts));
        // A group is judged by its two best experts.
        if (experts / router.groups < 2)
            return reader.conflict("n_group",
                                   fmt::format("n_group {} leaves fewer than two of {} experts in a group", router.groups, experts));
        return {};
    }
};

}  // namespace

const ArchitectureAdapter& deepseekV3Adapter()
{
    static const DeepseekV3 adapter;
    return adapter;
}

}  // namespace espalier
