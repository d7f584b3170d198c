// The batched twin of plan/routing.h: the same rules on [N,n] logits of the experts that exist. A test holds the two together.
#pragma once

#include "plan/model_shape.h"

#include <ATen/ATen.h>

#include <vector>

namespace espalier
{

struct RoutedTokens {
    at::Tensor selected;  // [N,k] int64: COLUMN of the logits, by weight descending, ties to the lower column
    at::Tensor weights;   // [N,k] fp32; 0 of those that are skipped
    at::Tensor skipped;   // [N,k] bool: by the router's skip rule; undefined where it has none
};

// logits [N,n] fp32, contiguous, n >= topK. `bias` [n] fp32: selection bias of rule C, or undefined. weightType Bf16: weights are rounded
// to it (and handed out as fp32), as the reference does for Qwen2/3-MoE and OLMoE. Rows are independent of each other: no batch effect.
RoutedTokens routeTokens(const RouterShape& router, const at::Tensor& logits, const at::Tensor& bias, at::ScalarType weightType);

// Tokens by expert, without padding: tokens of column c are order[offsets[c] .. offsets[c+1]), ascending, and slots[i] is the flat
// index [token, slot] into `selected` and `weights`.
struct TokenGroups {
    std::vector<std::int64_t> offsets;  // n + 1
    at::Tensor order;                   // [N*k] int64, fewer where some are skipped
    std::vector<std::int64_t> slots;    // as many
};
// `skipped` slots [N,k] are in no group; undefined: there are none.
TokenGroups groupTokens(const at::Tensor& selected, int columns, const at::Tensor& skipped = {});

}  // namespace espalier
