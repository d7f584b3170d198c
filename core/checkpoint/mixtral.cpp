// Mixtral: every layer is MoE, no shared expert, weights always renormalised. w1 = gate, w3 = up, w2 = down.
#include "checkpoint/adapter.h"

namespace espalier
{

namespace
{

class Mixtral final : public ArchitectureAdapter
{
public:
    std::string_view modelType() const override { return "mixtral"; }
    Architecture architecture() const override { return Architecture::Mixtral; }
    const MoeNames& names() const override
    {
        static constexpr MoeNames kNames = {"block_sparse_moe", {"w1", "w3", "w2"}, {}, {}};
        return kNames;
    }

    Status read(const ConfigReader& reader, ModelConfig& config) const override
    {
        ESPALIER_TRY(const int experts, readExpertCount(reader, config, {"num_local_experts", "num_experts"}));
        ESPALIER_TRY(config.router.topK, readTopK(reader));
        config.router.rule = RoutingRule::SoftmaxRenormalised;
        ESPALIER_TRY(const int width, reader.integer("intermediate_size", 1, kMaxWidth));
        ESPALIER_CHECK_OK(setLayers(reader, config, experts, width, 0, [](int) { return true; }));
        // There is no use_sliding_window: a number means every layer.
        ESPALIER_TRY(const std::optional<int> window, reader.optionalInteger("sliding_window", 1, kMaxPositions));
        for (LayerConfig& layer : config.layers)
            layer.window = window.value_or(0);
        return {};
    }
};

}  // namespace

const ArchitectureAdapter& mixtralAdapter()
{
    static const Mixtral adapter;
    return adapter;
}

}  // namespace espalier
