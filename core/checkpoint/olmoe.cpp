// OLMoE: q/k norm over the whole projection, optional clamp of q, k and v, every layer MoE, experts of intermediate_size.
#include "checkpoint/adapter.h"

namespace espalier
{

namespace
{

class Olmoe final : public ArchitectureAdapter
{
public:
    std::string_view modelType() const override { return "olmoe"; }
    Architecture architecture() const override { return Architecture::Olmoe; }
    const MoeNames& names() const override
    {
        static constexpr MoeNames kNames = {"mlp", {"gate_proj", "up_proj", "down_proj"}, {}, {}};
        return kNames;
    }

    Status read(const ConfigReader& reader, ModelConfig& config) const override
    {
        ESPALIER_TRY(const int experts, readExpertCount(reader, config, {"num_experts", "num_local_experts"}));
        ESPALIER_TRY(config.router.topK, readTopK(reader));
        ESPALIER_TRY(const bool renormalise, reader.boolean("norm_topk_prob"));
        config.router.rule = renormalise ? RoutingRule::SoftmaxRenormalised : RoutingRule::Softmax;
        config.routerWeightsInDtype = true;
        config.qkNorm = QkNorm::Whole;
        ESPALIER_TRY(config.qkvBias, reader.boolean("attention_bias", false));
        config.outputBias = config.qkvBias;
        ESPALIER_TRY(config.clipQkv, reader.optionalNumber("clip_qkv", 1e-9, 1e9));
        ESPALIER_TRY(const int width, reader.integer("intermediate_size", 1, kMaxWidth));
        return setLayers(reader, config, experts, width, 0, [](int) { return true; });
    }
};

}  // namespace

const ArchitectureAdapter& olmoeAdapter()
{
    static const Olmoe adapter;
    return adapter;
}

}  // namespace espalier
