// One name per tensor, whatever spelling the files use. Written by released versions of transformers are, beside the standard names:
//  * names without "model." (a bare base model, saved by itself);
//  * Mixtral's block as "mlp" with one tensor per expert, or as "block_sparse_moe" with fused experts: version 5 renames the block and
//    fuses, each of which can be undone without the other;
//  * a tied model whose only matrix is called lm_head.weight.
// The standard is that of version 4 for experts one by one and that of version 5 for fused ones.
#pragma once

#include "base/error.h"
#include "checkpoint/checkpoint.h"

#include <functional>
#include <string>
#include <string_view>

namespace espalier
{

// `block`: MoeNames::block. `fused` says which layers have fused experts; asked for existing layers only, and only where it matters.
std::string standardTensorName(std::string_view name, std::string_view block, int layerCount, const std::function<bool(int)>& fused);

// The layer whose experts a tensor of this name holds fused ("[model.]layers.3.mlp.experts.down_proj"), or -1.
int fusedExpertLayer(std::string_view name, std::string_view block);

// Name of a tensor of `checkpoint` in the standard spelling: what an export writes, and what Checkpoint::tensor is asked by.
std::string standardTensorName(const Checkpoint& checkpoint, std::string_view name);

// The number at the front of `text`, which is cut off together with the dot after it; -1 when there is none. "007" is no number.
int takeNumber(std::string_view& text);
// Whether `text` began with `prefix`, which is then cut off.
bool takePrefix(std::string_view& text, std::string_view prefix);

}  // namespace espalier
