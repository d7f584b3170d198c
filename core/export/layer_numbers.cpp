#include "export/layer_numbers.h"

#include <fmt/format.h>

#include <algorithm>

namespace espalier
{

namespace
{

using OrderedJson = nlohmann::ordered_json;

bool isPerLayer(const std::string& key, const OrderedJson& value, std::size_t layers)
{
    return value.is_array() && value.size() == layers && key != "mlp_only_layers" &&
           (key.find("layer") != std::string::npos || key.ends_with("_types"));
}

void slicePerLayerLists(OrderedJson& config, const LayerNumbers& numbers, std::size_t layers)
{
    for (const auto& item : config.items()) {
        if (!isPerLayer(item.key(), item.value(), layers)) continue;
        OrderedJson left = OrderedJson::array();
        for (const int layer : numbers.kept())
            left.push_back(item.value()[static_cast<std::size_t>(layer)]);
        item.value() = std::move(left);
    }
}

// {"3": {...}}: settings of single layers.
void renumberPerLayerObject(OrderedJson& config, const LayerNumbers& numbers)
{
    const auto found = config.find("per_layer_config");
    if (found == config.end() || !found->is_object()) return;
    OrderedJson left = OrderedJson::object();
    for (const int layer : numbers.kept())
        if (const auto own = found->find(std::to_string(layer)); own != found->end()) left[std::to_string(numbers.of(layer))] = *own;
    *found = std::move(left);
}

// Qwen: every decoder_sparse_step-th layer has experts, but those listed. Said by the list alone.
void restateSparseStep(OrderedJson& config, const ModelShape& shape, const LayerNumbers& numbers)
{
    OrderedJson dense = OrderedJson::array();
    for (const int layer : numbers.kept())
        if (!shape.layers[static_cast<std::size_t>(layer)].moe) dense.push_back(numbers.of(layer));
    config["decoder_sparse_step"] = 1;
    config["mlp_only_layers"] = std::move(dense);
}

// DeepSeek: the first so many layers are dense, and of the others every moe_layer_freq-th has experts.
Status restateFirstDense(OrderedJson& config, const ModelShape& shape, const LayerNumbers& numbers)
{
    int dense = 0;
    bool prefix = true;
    for (const int layer : numbers.kept()) {
        const bool moe = shape.layers[static_cast<std::size_t>(layer)].moe;
        prefix = prefix && (moe || numbers.of(layer) == dense);
        dense += moe ? 0 : 1;
    }
    const bool every = !config.contains("moe_layer_freq") || !config["moe_layer_freq"].is_number_integer() || config["moe_layer_freq"] == 1;
    if (!prefix || !every)
        return unsupported("export.layers", "config.json",
                           "What is left of this model's dense layers cannot be said by first_k_dense_replace and moe_layer_freq.",
                           "Export as \"plan\", or leave out other layers.");
    config["first_k_dense_replace"] = dense;
    return {};
}

// Qwen2-MoE without layer_types: windows follow from the number of the layer.
void stateWindows(OrderedJson& config, const Checkpoint& checkpoint, const LayerNumbers& numbers)
{
    const auto& layers = checkpoint.config().layers;
    const bool some = std::any_of(layers.begin(), layers.end(), [](const LayerConfig& layer) { return layer.window > 0; });
    const bool all = std::all_of(layers.begin(), layers.end(), [](const LayerConfig& layer) { return layer.window > 0; });
    if (!some || all || config.contains("layer_types")) return;
    OrderedJson types = OrderedJson::array();
    for (const int layer : numbers.kept())
        types.push_back(layers[static_cast<std::size_t>(layer)].window > 0 ? "sliding_attention" : "full_attention");
    config["layer_types"] = std::move(types);
}

}  // namespace

LayerNumbers::LayerNumbers(const ModelShape& shape, const CompressionPlan& plan)
{
    for (const LayerShape& layer : shape.layers) {
        const bool left = plan.layer(layer.index).run() != LayerRun::Skipped;
        m_new.push_back(left ? static_cast<int>(m_kept.size()) : -1);
        if (left) m_kept.push_back(layer.index);
    }
}

std::string LayerNumbers::renamed(std::string name, int sourceLayer) const
{
    if (allKept() || sourceLayer < 0) return name;
    const std::string old = fmt::format("model.layers.{}.", sourceLayer);
    if (!name.starts_with(old)) return name;
    return fmt::format("model.layers.{}.{}", of(sourceLayer), name.substr(old.size()));
}

Status renumberConfig(OrderedJson& config, const Checkpoint& checkpoint, const LayerNumbers& numbers, bool& changed)
{
    if (numbers.allKept()) return {};
    const ModelShape& shape = checkpoint.shape();
    slicePerLayerLists(config, numbers, shape.layers.size());
    renumberPerLayerObject(config, numbers);
    stateWindows(config, checkpoint, numbers);
    config["num_hidden_layers"] = numbers.kept().size();
    if (config.contains("decoder_sparse_step") || config.contains("mlp_only_layers")) restateSparseStep(config, shape, numbers);
    if (config.contains("first_k_dense_replace")) ESPALIER_CHECK_OK(restateFirstDense(config, shape, numbers));
    changed = true;
    return {};
}

}  // namespace espalier
