// Entropy of what a router says about a token, H = - sum of p ln p over all columns: what SEER-MoE's second stage adds to the loss
// (arXiv 2404.05089), so that fewer experts carry more of a token.
#pragma once

#include "plan/model_shape.h"

#include <ATen/ATen.h>

namespace espalier
{

struct RouterEntropy {
    at::Tensor entropy;   // [N] fp64, nats
    at::Tensor gradient;  // [N,n] fp64: d H_t / d z_tj
};
// logits [N,n]. p is the softmax of the logits, so that d H / d z_j = - p_j (ln p_j + H); where scores are sigmoids s_j, p_j = s_j / sum s,
// and that times (1 - s_j).
RouterEntropy routerEntropy(const RouterShape& router, const at::Tensor& logits);

}  // namespace espalier
