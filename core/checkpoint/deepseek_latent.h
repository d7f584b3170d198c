// What DeepSeek-V2 and V3 share: multi-head latent attention, first layers dense, shared experts as one wide MLP, groups of experts.
#pragma once

#include "checkpoint/adapter.h"

namespace espalier
{

class DeepseekLatent : public ArchitectureAdapter
{
public:
    bool latentAttention() const override { return true; }
    bool attention(const ModelConfig& config, std::string_view prefix, const TensorSink& sink) const override;

protected:
    static Status readAttention(const ConfigReader& reader, ModelConfig& config);
    // Widths, shared experts and which layers hold experts; the router is read before.
    static Status readLayers(const ConfigReader& reader, ModelConfig& config, int experts);
    // Number of experts; into the router top-k, scaling and, as in every member of the family, scores in fp32. `scoring`: the one that
    // scoring_func may name.
    static Result<int> readRouterKeys(const ConfigReader& reader, ModelConfig& config, std::string_view scoring);
    // n_group and topk_group.
    static Status readGroups(const ConfigReader& reader, RouterShape& router, int experts);
};

}  // namespace espalier
