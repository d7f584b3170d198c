// The reverse pass of a decoder layer and of the output head: what flows from the gradient of a layer's output to that of its
// input. Weights are constants; the router's selection is one too, its weights are differentiable. Gradients are fp32 whatever
// the compute type, so that the residual stream does not round them layer by layer.
//
// Attention runs under ATen's autograd; the MoE module, whose experts each see a few tokens, is written out: its products g . f_e(x) are
// wanted anyway, and no graph has to live longer than one expert.
#pragma once

#include "model/attention.h"
#include "model/layer_weights.h"
#include "model/moe_layer.h"
#include "model/moe_model_torch.h"

#include <ATen/ATen.h>

#include <vector>

namespace espalier
{

// The same memory as a tensor that autograd may keep: weights are inference tensors, which it refuses. The original must outlive the
// graph. For use outside inference mode.
at::Tensor recordable(const at::Tensor& tensor);

// d / dx of sum(gradient * rmsNorm(x, weight, eps)): x [.., H] any dtype, gradient [.., H] -> fp32.
at::Tensor rmsNormGradient(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& gradient, double eps);

// The same for the MLP: x [M,H], gradient [M,H] of its output -> [M,H] fp32.
at::Tensor mlpGradient(const GatedMlp& mlp, const at::Tensor& x, const at::Tensor& gradient);

// Gradient of the logits, [N,n] fp64, from that of the weights of the selected columns, [N,k] fp64.
at::Tensor routerGradient(const RouterShape& router, const at::Tensor& logits, const RoutedTokens& routed, const at::Tensor& products);

// x [N,H] input of the MoE module, gradient [N,H] fp32 of its output -> gradient of x, fp32. Observer may be empty.
at::Tensor moeGradient(int layer, const at::Tensor& x, const at::Tensor& gradient, const LayerWeights& weights, const PlannedLayer& plan,
                       const std::vector<Linear>& forms, const MoeArithmetic& arithmetic, const GradientObserver& observer);

// x [B,T,H] normed input of the attention, gradient [B,T,H] of its output -> gradient of x, fp32.
at::Tensor attentionGradient(Attention& attention, const at::Tensor& x, const at::Tensor& gradient, const LayerWeights& weights,
                             int window);

// Normed rows [N,H] and targets [N] -> d (sum of -log softmax(head row)[target]) / d row, [N,H] fp32. Row blocks, as tokenNll.
at::Tensor headGradient(const at::Tensor& normedRows, const at::Tensor& targets, const GlobalWeights& globals, std::int64_t blockRows);

}  // namespace espalier
