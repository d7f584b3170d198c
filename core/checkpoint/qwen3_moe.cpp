// Qwen3-MoE: q/k norm per head, head_dim of its own, no shared expert. A v5 file spells the expert count num_local_experts.
#include "checkpoint/adapter.h"

namespace espalier
{

namespace
{

class Qwen3Moe final : public ArchitectureAdapter
{
public:
    std::string_view modelType() const override { return "qwen3_moe"; }
    Architecture architecture() const override { return Architecture::Qwen3Moe; }
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
        config.qkNorm = QkNorm::PerHead;
        ESPALIER_TRY(config.qkvBias, reader.boolean("attention_bias", false));
        config.outputBias = config.qkvBias;
        ESPALIER_TRY(const int width, reader.integer("moe_intermediate_size", 1, kMaxWidth));
        ESPALIER_TRY(const std::vector<bool> moe, readSparseLayers(reader, config));
        ESPALIER_CHECK_OK(setLayers(reader, config, experts, width, 0, [&](int i) { return moe[static_cast<std::size_t>(i)]; }));
        ESPALIER_TRY(const bool windowed, reader.boolean("use_sliding_window", false));
        if (!windowed) return {};
        // On all layers; max_window_layers is not read by this family. Null: no window; the class default is a number.
        ESPALIER_CHECK_OK(reader.present("sliding_window"));
        ESPALIER_TRY(const std::optional<int> window, reader.optionalInteger("sliding_window", 1, kMaxPositions));
        for (LayerConfig& layer : config.layers)
            layer.window = window.value_or(0);
        return {};
    }
};

}  // namespace

const ArchitectureAdapter& qwen3MoeAdapter()
{
    static const Qwen3Moe adapter;
    return adapter;
}

}  // namespace espalier
