// Forward and reverse pass of one decoder layer with what is trained in it. Attention is recorded by ATen's autograd, the MoE module is
// written out, its experts side by side. The arithmetic is the model's (core/model/README.md), in fp32; the router's selection is constant,
// its weights are differentiable. Compute thread; not inside inference mode.
#pragma once

#include "model/model_parts.h"
#include "recover/trainables.h"
#include "recover/training_matrix.h"

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace espalier
{

// What one pass through a layer works with.
struct LayerPass {
    ModelParts& model;
    const LayerParts& parts;
    const PlannedLayer& plan;             // with the router rows that are trained
    const LayerTrainables* trained = {};  // null: nothing
    AdapterPass adapters;
    int layer = 0;
    bool moe = false;
    double entropyWeight = 0;  // the loss has so much per nat of the router's entropy, summed over tokens
    at::Tensor own = {};       // [N] fp64, 0 for tokens that only fill up a window; undefined: none do
};

// What the reverse pass needs of the forward pass.
struct LayerTape {
    at::Tensor hidden;                                      // [B,T,H] input
    at::Tensor normed, attended;                            // leaf and result of the recorded attention; undefined: it does not run
    std::vector<std::pair<at::Tensor, at::Tensor>> leaves;  // adapters of attention, and where their gradients go
    at::Tensor residual;                                    // [N,H]
    at::Tensor x, seen, seenMask;                           // [N,H] of the MoE module or MLP, and after dropout
    struct Body {
        BodyTokens tokens;
        MlpTape mlp;
        at::Tensor out;  // [M,H]
    };
    std::optional<RoutedBatch> routed;
    std::vector<Body> bodies;
    MlpTape whole;              // shared expert or dense MLP
    at::Tensor wholeOut, open;  // [N,H], [N,1]
};

struct LayerOutput {
    at::Tensor hidden;            // [B,T,H]
    double entropy = 0;           // of the router, nats summed over tokens; where it is weighted
    std::uint64_t selection = 0;  // PassLoss::selection of this layer
};

// hidden [B,T,H] fp32 where the model computes. The tape may be null.
LayerOutput forwardLayer(const LayerPass& pass, const at::Tensor& hidden, LayerTape* tape);
// gradient [B,T,H] of the output -> that of the input; gradients of what is trained are added to theirs. The tape is used up.
at::Tensor backwardLayer(const LayerPass& pass, LayerTape& tape, const at::Tensor& gradient);

// A map of attention by its name in the checkpoint ("q_proj"): of q | k | v in one matrix its rows. Shares their memory.
Linear attentionLinear(const Checkpoint& checkpoint, int layer, const LayerWeights& weights, std::string_view name);

// Bytes that a tape holds per token: an estimate from the shapes, for who decides whether to keep it.
std::int64_t tapeBytesPerToken(const Checkpoint& checkpoint, const PreparedPlan& plan, int layer, const LayerTrainables& trained,
                               bool dropout);

}  // namespace espalier
