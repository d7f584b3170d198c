// What one model family needs: how its part of config.json is read and what its tensors are called. One file per family, one line in
// adapters.cpp; nothing else in the reader knows a family.
#pragma once

#include "checkpoint/config_reader.h"
#include "checkpoint/model_config.h"

#include <functional>
#include <span>
#include <string_view>

namespace espalier
{

// Names within `model.layers.{i}.`, as transformers saves them.
struct MoeNames {
    std::string_view block;            // "mlp" or "block_sparse_moe"
    std::string_view matrix[3];        // gate, up, down: "gate_proj", ...
    std::string_view shared;           // "shared_expert"; empty: none
    std::string_view sharedGate;       // "shared_expert_gate"; empty: none
    std::string_view routerBias = {};  // "gate.e_score_correction_bias", [experts]; empty: none
};

// Is told every tensor: full name and shape. Returns false to stop.
using TensorSink = std::function<bool(std::string_view name, std::span<const std::int64_t> shape)>;

class ArchitectureAdapter
{
public:
    virtual ~ArchitectureAdapter() = default;
    virtual std::string_view modelType() const = 0;
    virtual Architecture architecture() const = 0;
    virtual const MoeNames& names() const = 0;
    // The keys beyond the common ones. On entry hiddenSize, layerCount, heads, kvHeads, vocabularySize, maxPositions, rmsNormEps and
    // rope are set and `layers` has its size; headDim is the common rule's. Sets layers, router, biases, norms.
    virtual Status read(const ConfigReader& reader, ModelConfig& config) const = 0;
    virtual bool latentAttention() const { return false; }
    // Tensors of self_attn; false when the sink stopped. The default is grouped-query attention with the biases and norms of the config.
    virtual bool attention(const ModelConfig& config, std::string_view prefix, const TensorSink& sink) const;
};

const ArchitectureAdapter& mixtralAdapter();
const ArchitectureAdapter& qwen2MoeAdapter();
const ArchitectureAdapter& qwen3MoeAdapter();
const ArchitectureAdapter& olmoeAdapter();
const ArchitectureAdapter& deepseekV2Adapter();
const ArchitectureAdapter& deepseekV3Adapter();

const ArchitectureAdapter& adapterFor(Architecture architecture);
const ArchitectureAdapter* findAdapter(std::string_view modelType);  // without the espalier_ prefix; null: not supported

// Reads the expert count under any of the spellings, which must agree; remembers those that are there (expertCountKeys).
Result<int> readExpertCount(const ConfigReader& reader, ModelConfig& config, std::initializer_list<const char*> spellings);
// num_experts_per_tok.
Result<int> readTopK(const ConfigReader& reader);
// Every layer i with isMoe(i) gets the experts, the others an MLP of intermediate_size, which is then required.
Status setLayers(const ConfigReader& reader, ModelConfig& config, int experts, int expertWidth, int sharedWidth,
                 const std::function<bool(int)>& isMoe);
// decoder_sparse_step and mlp_only_layers (Qwen): true for MoE layers.
Result<std::vector<bool>> readSparseLayers(const ConfigReader& reader, const ModelConfig& config);

// Linear maps beside the routed experts as the family has them, whole; numberBytes and what a source factored are the caller's to fill in.
std::vector<LinearShape> linearShapes(const ArchitectureAdapter& adapter, const ModelConfig& config, int layer);
// All tensors of layer i but the routed experts, factors where it stores them; `block` replaces names().block in a fused source. False when
// the sink stopped.
bool forEachLayerTensor(const ArchitectureAdapter& adapter, const ModelConfig& config, int layer, std::string_view block,
                        const TensorSink& sink);
// embed_tokens, norm and, unless tied, lm_head.
bool forEachTopTensor(const ModelConfig& config, bool tied, const TensorSink& sink);

}  // namespace espalier
