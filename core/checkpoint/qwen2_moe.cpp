// Qwen1.5-MoE, Qwen2-MoE: a shared expert with a sigmoid gate, bias on q, k and v, dense layers by decoder_sparse_step.
#include "checkpoint/adapter.h"

namespace espalier
{

namespace
{

class Qwen2Moe final : public ArchitectureAdapter
{
public:
    std::string_view modelType() const override { return "qwen2_moe"; }
    Architecture architecture() const override { return Architecture::Qwen2Moe; }
    const MoeNames& names() const override
    {
        static constexpr MoeNames kNames = {"mlp", {"gate_proj", "up_proj", "down_proj"}, "shared_expert", "shared_expert_gate"};
        return kNames;
    }

    Status read(const ConfigReader& reader, ModelConfig& config) const override
    {
        ESPALIER_TRY(const int experts, readExpertCount(reader, config, {"num_experts", "num_local_experts"}));
        ESPALIER_TRY(config.router.topK, readTopK(reader));
        ESPALIER_TRY(const bool renormalise, reader.boolean("norm_topk_prob"));
        config.router.rule = renormalise ? RoutingRule::SoftmaxRenormalised : RoutingRule::Softmax;
        config.routerWeightsInDtype = true;
        ESPALIER_TRY(config.qkvBias, reader.boolean("qkv_bias", true));
        config.sharedGate = true;
        config.sharedExperts = 1;
        ESPALIER_TRY(const int width, reader.integer("moe_intermediate_size", 1, kMaxWidth));
        ESPALIER_TRY(const int sharedWidth, reader.integer("shared_expert_intermediate_size", 1, kMaxWidth));
        ESPALIER_TRY(const std::vector<bool> moe, readSparseLayers(reader, config));
        ESPALIER_CHECK_OK(setLayers(reader, config, experts, width, sharedWidth, [&](int i) { return moe[static_cast<std::size_t>(i)]; }));
        return readWindows(reader, config);
    }

private:
    // Only with use_sliding_window: by layer_types where given, else on layers with even index below max_window_layers.
    static Status readWindows(const ConfigReader& reader, ModelConfig& config)
    {
        ESPALIER_TRY(const bool used, reader.boolean("use_sliding_window", false));
        std::optional<int> window;
        if (used) {
            ESPALIER_CHECK_OK(reader.present("sliding_window"));  // null: none; the class default is a number
            ESPALIER_TRY(window, reader.optionalInteger("sliding_window", 1, kMaxPositions));
        }
        if (reader.has("layer_types")) {
            const Json& types = reader.at("layer_types");
            if (!types.is_array() || types.size() != config.layers.size())
                return reader.conflict("layer_types",
                                       fmt::format("layer_types is not a list of {} entries, one per layer", config.layerCount));
            for (std::size_t i = 0; i < config.layers.size(); ++i) {
                if (types[i] != "sliding_attention" && types[i] != "full_attention")
                    return reader.valueUnsupported("layer_types", fmt::format("layer_types holds {}", ConfigReader::shown(types[i])));
                if (types[i] == "full_attention") continue;
                // Without a window transformers masks such a layer by one of length 0: nobody meant that.
                if (!window)
                    return reader.conflict("layer_types", fmt::format("layer_types gives layer {} a sliding window, but {}", i,
                                                                      used ? "sliding_window is null" : "use_sliding_window is false"));
                config.layers[i].window = *window;
            }
            return {};
        }
        if (!window) return {};
        ESPALIER_TRY(const int below, reader.integer("max_window_layers", 0, std::numeric_limits<int>::max()));
        for (int i = 0; i < config.layerCount && i < below; i += 2)
            config.layers[static_cast<std::size_t>(i)].window = *window;
        return {};
    }
};

}  // namespace

const ArchitectureAdapter& qwen2MoeAdapter()
{
    static const Qwen2Moe adapter;
    return adapter;
}

}  // namespace espalier
