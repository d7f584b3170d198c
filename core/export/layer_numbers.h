// Numbers of decoder layers in an export that leaves some out: names of tensors, and what config.json says layer by layer.
#pragma once

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "plan/compression_plan.h"

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

namespace espalier
{

class LayerNumbers
{
public:
    LayerNumbers(const ModelShape& shape, const CompressionPlan& plan);

    const std::vector<int>& kept() const noexcept { return m_kept; }  // of the source, ascending
    bool allKept() const noexcept { return m_kept.size() == m_new.size(); }
    int of(int sourceLayer) const { return m_new[static_cast<std::size_t>(sourceLayer)]; }  // -1: left out
    // "model.layers.5.x" under the layer's new number.
    std::string renamed(std::string name, int sourceLayer) const;

private:
    std::vector<int> m_kept;
    std::vector<int> m_new;  // by source layer
};

// Makes config.json say what is left: num_hidden_layers, lists with an entry per layer (layer_types and their kin), lists of layer numbers,
// the rules by which a family tells dense layers from layers with experts. Untouched where every layer stays. Errors: export.layers
// (the family's rule cannot say what is left).
Status renumberConfig(nlohmann::ordered_json& config, const Checkpoint& checkpoint, const LayerNumbers& numbers, bool& changed);

}  // namespace espalier
