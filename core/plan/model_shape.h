// What config.json and the tensor shapes say about a model, without a weight being read. A plain value; crosses the JSON boundary.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "plan/skip_rule.h"

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

// How a router turns scores into weights. The one place that implements them is plan/routing.h.
enum class RoutingRule {
    SoftmaxRenormalised,  // A: p / sum of the selected p          Mixtral, Qwen3-MoE, Qwen2-MoE with norm_topk_prob
    Softmax,              // B: scaling * p over the kept experts  Qwen1.5/2-MoE, OLMoE, DeepSeek-V2 greedy
    GroupLimitedSoftmax,  // D: groups by their best p, then B     DeepSeek-V2
    SigmoidBias,          // C: sigmoid + selection bias + groups  DeepSeek-V3, GLM-4.5
    Unknown,
};

struct RouterShape {
    RoutingRule rule = RoutingRule::Unknown;
    int topK = 0;
    int groups = 1;
    int topGroups = 1;
    double scaling = 1.0;
    bool normalise = false;  // SigmoidBias only
    std::optional<SkipRule> skip = std::nullopt;  // a value, so that shapes may be written without it
};

// A linear map beside the routed experts, W [out, in]: of attention, of a shared expert, of a dense MLP.
struct LinearShape {
    std::string name;  // within its layer: "self_attn.q_proj", "mlp.shared_expert.down_proj", "mlp.gate_proj"
    std::int64_t out = 0;
    std::int64_t in = 0;
    bool bias = false;             // the family adds b [out] to W x
    int sourceRank = 0;            // the checkpoint itself stores factors of this rank; 0 = a whole matrix
    bool sourceBias = false;       // .. with a bias beside them that the family does not have
    std::int64_t numberBytes = 0;  // that a number takes as stored
    bool operator==(const LinearShape&) const = default;
};

struct LayerShape {
    int index = 0;
    bool moe = false;
    int experts = 0;  // routed experts, 0 in a dense layer
    RouterShape router;
    int expertWidth = 0;  // I, intermediate width of a routed expert
    int sharedWidth = 0;  // 0: no shared expert
    bool sharedGate = false;
    int denseWidth = 0;  // intermediate width of a dense layer's MLP
    // Per routed expert: ranks (gate, up, down; 0 = a whole matrix) of factors that the checkpoint itself stores. Empty: all whole.
    std::vector<std::array<int, 3>> sourceRanks;
    // Of those factors, which have a bias [out] beside them. Empty: none.
    std::vector<std::array<bool, 3>> sourceBiases;
    // Experts that the checkpoint itself stores as constant vectors [H], ascending.
    std::vector<int> sourceConstants;
    // Per routed expert, where the checkpoint itself merged some: the first whose weights it uses, itself or a lower one. Empty: all their
    // own.
    std::vector<int> sourceBodies;
    // Per routed expert, where the checkpoint itself cut channels out of some: the width that is left. Empty: all expertWidth.
    std::vector<int> sourceWidths;
    // Linear maps beside the routed experts. Empty: not known (a shape that was written down before they were).
    std::vector<LinearShape> linears;
    // Parameter counts of this layer, and their bytes as stored.
    std::int64_t expertParameters = 0;  // of one routed expert (where experts differ: their mean, rounded down)
    std::int64_t routerParametersPerExpert = 0;
    std::int64_t otherParameters = 0;  // attention, norms, shared expert, dense MLP, router bias independent of the count
    std::int64_t bytesPerExpert = 0;
    std::int64_t routerBytesPerExpert = 0;
    std::int64_t otherBytes = 0;

    bool isSourceConstant(int expert) const;
    const LinearShape* linear(std::string_view name) const;  // null: there is none of that name
    bool evenExperts() const
    {
        return sourceRanks.empty() && sourceConstants.empty() && sourceBodies.empty() && sourceBiases.empty() && sourceWidths.empty();
    }
    int widthOf(int expert) const { return sourceWidths.empty() ? expertWidth : sourceWidths[static_cast<std::size_t>(expert)]; }
    // The expert under which the weights of this one are stored.
    int sourceBodyOf(int expert) const { return sourceBodies.empty() ? expert : sourceBodies[static_cast<std::size_t>(expert)]; }
    std::int64_t expertParametersOf(int expert, int hiddenSize) const;
    std::int64_t allExpertParameters(int hiddenSize) const;
};

struct ModelShape {
    std::string modelType;     // "qwen2_moe"
    std::string architecture;  // architectures[0]
    std::string dtype;         // dominant storage dtype, safetensors spelling: "BF16"
    int hiddenSize = 0;
    int vocabularySize = 0;
    int maxPositions = 0;
    bool tiedEmbeddings = false;
    std::int64_t embeddingParameters = 0;  // embed_tokens, lm_head (if not tied), final norm
    std::int64_t embeddingBytes = 0;
    std::vector<LayerShape> layers;  // all decoder layers, in order

    int moeLayerCount() const;
    int maxExperts() const;
    std::int64_t totalExperts() const;  // over all MoE layers
    std::int64_t parameters() const;
    std::int64_t bytes() const;
    // Parameters touched per token: everything but the routed experts that are not selected (with embedding and head).
    std::int64_t activeParameters() const;
};

// `linears`: whether the linear maps beside the experts are listed. Profiles do not: they are what they were before.
Json toJson(const ModelShape& shape, bool linears = true);
Result<ModelShape> modelShapeFromJson(const Json& value);

// Largest rank of an [a, b] matrix that is still smaller than the dense matrix: floor(ab / (a + b)), 1 less where it is equal
// (834 for 2048 x 1408).
int breakEvenRank(std::int64_t rows, std::int64_t columns);

}  // namespace espalier
