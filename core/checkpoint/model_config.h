// config.json read into one canonical form: every spelling of transformers 4 and 5, and of our own factored exports, ends up in the
// same fields. What is missing or contradictory is an error, never a default, except those that README.md here lists.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "plan/model_shape.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

enum class Architecture { Mixtral, Qwen2Moe, Qwen3Moe, Olmoe, DeepseekV2, DeepseekV3 };

enum class QkNorm {
    None,
    Whole,    // RMSNorm over the whole q and k projection, before heads are split (OLMoE)
    PerHead,  // RMSNorm over head_dim, after (Qwen3-MoE)
};

struct RopeScaling {
    enum class Type { None, Yarn };
    Type type = Type::None;
    // YaRN (arXiv 2309.00071). `factor` is the effective one: max_position_embeddings / original where the file says null.
    double factor = 1.0;
    int originalPositions = 0;
    double betaFast = 32.0;
    double betaSlow = 1.0;
    std::optional<double> mscale;
    std::optional<double> mscaleAllDim;
    std::optional<double> attentionFactor;
    bool truncate = true;
};

// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434).
struct MlaConfig {
    int qLoraRank = 0;  // 0: q_proj instead of q_a_proj, q_b_proj
    int kvLoraRank = 0;
    int nopeHeadDim = 0;
    int ropeHeadDim = 0;
    int valueHeadDim = 0;
    double normEps = 1e-6;  // of q_a_layernorm and kv_a_layernorm, whatever rms_norm_eps says
};

struct LayerConfig {
    bool moe = false;
    int window = 0;  // attention window in tokens; 0 = none
    int experts = 0;
    int topK = 0;
    int expertWidth = 0;      // I
    int sharedWidth = 0;      // 0: no shared expert
    std::vector<int> widths;  // of a routed expert, where they differ; empty: all expertWidth
    std::optional<SkipRule> skip;
    int denseWidth = 0;  // of the MLP of a layer that is not MoE
    // Factored exports only. ranks: gate, up, down per expert, 0 = dense; empty = all dense. keptExperts: original ids.
    std::vector<std::array<int, 3>> ranks;
    std::vector<int> keptExperts;
    std::vector<int> constants;  // experts that are stored as one vector, ascending
    std::vector<int> bodies;     // per expert: the one whose weights it uses, itself or a lower one; empty = each its own
    struct Factors {
        int rank = 0;
        bool bias = false;  // of the factors; where the family has one anyway it is that one
    };
    std::map<std::string, Factors, std::less<>> linears;  // maps beside the experts that are stored as factors
    std::vector<std::array<bool, 3>> biases;              // per expert: factors with a bias (gate, up, down); empty = none

    int widthOf(int expert) const { return widths.empty() ? expertWidth : widths[static_cast<std::size_t>(expert)]; }
    int bodyOf(int expert) const { return bodies.empty() ? expert : bodies[static_cast<std::size_t>(expert)]; }
    bool hasBias(int expert, std::size_t matrix) const { return !biases.empty() && biases[static_cast<std::size_t>(expert)][matrix]; }
    bool isConstant(int expert) const { return std::binary_search(constants.begin(), constants.end(), expert); }
};

struct ModelConfig {
    Architecture architecture = Architecture::Mixtral;
    std::string modelType;         // as written: "qwen2_moe", "espalier_qwen2_moe"
    std::string baseModelType;     // "qwen2_moe" in both cases
    std::string architectureName;  // of architectures the class that belongs to modelType, else the first; may be empty
    std::string dtype;             // as stated, "bfloat16"; may be empty
    bool factored = false;         // one of our own exports (core/export/README.md)

    int hiddenSize = 0;
    int layerCount = 0;
    int heads = 0;
    int kvHeads = 0;
    int headDim = 0;  // of q and k; MLA: nope + rope
    int vocabularySize = 0;
    int maxPositions = 0;  // 0: not stated
    double rmsNormEps = 0.0;
    bool tiedEmbeddings = false;  // as stated; a checkpoint without lm_head.weight is tied whatever this says

    double ropeTheta = 0.0;
    RopeScaling rope;

    bool qkvBias = false;     // bias on q, k, v
    bool outputBias = false;  // bias on o. MLA with attention_bias: both are set, and bias is on q_a, kv_a and o
    std::optional<double> clipQkv;
    QkNorm qkNorm = QkNorm::None;
    std::optional<MlaConfig> mla;

    RouterShape router;                        // topK as stated for the whole model
    bool routerFp32 = false;                   // router product in fp32 (DeepSeek)
    bool routerWeightsInDtype = false;         // weights cast to the compute type after normalising (Qwen2, Qwen3, OLMoE)
    bool sharedGate = false;                   // sigmoid gate on the shared expert (Qwen2-MoE)
    int sharedExperts = 0;                     // how many the shared width stands for; 0 = none
    std::vector<std::string> expertCountKeys;  // spellings of the expert count that are in the file, for the exporter to edit

    std::vector<LayerConfig> layers;    // layerCount entries
    std::vector<std::string> warnings;  // sentences for people
    Json raw;                           // the file as parsed

    int maxExperts() const;
};

// Errors: config.missing_key, config.wrong_type, config.out_of_range, config.conflict (exit 3); config.rope_unsupported,
// config.activation_unsupported, config.value_unsupported, checkpoint.architecture_unsupported (exit 6, names model_type and lists what is
// supported). Messages name key and value.
Result<ModelConfig> parseModelConfig(const Json& value, std::string_view subject = "config.json");

// model_type values that open, without the espalier_ prefix, ascending.
std::vector<std::string> supportedModelTypes();
// deepseek_v3, glm4_moe, gpt_oss, ...: inspect shows them, nothing else is offered.
bool isKnownModelType(std::string_view modelType);
// Exit 6; the text that `inspect` shows as its warning as well.
Error architectureUnsupported(std::string_view modelType, std::string_view subject = "config.json");

// Counts and sizes from the configuration alone, in the stated dtype (4 bytes where none is stated); tied as stated.
ModelShape modelShape(const ModelConfig& config);
// Number of tensors a per-expert checkpoint of this configuration holds.
std::int64_t expectedTensorCount(const ModelConfig& config);

}  // namespace espalier
