#include "checkpoint/tensor_names.h"

#include "checkpoint/adapter.h"

#include <fmt/format.h>

#include <charconv>

namespace espalier
{

namespace
{

constexpr std::string_view kOldBlock = "block_sparse_moe";
constexpr std::string_view kNewBlock = "mlp";
constexpr std::string_view kBase = "model.";

// Behind "layers.<i>.": whether the text begins with a block that can hold experts, which is then cut off with its dot.
bool takeBlock(std::string_view& text, std::string_view block)
{
    return takePrefix(text, "mlp.") || (block == kOldBlock && takePrefix(text, "block_sparse_moe."));
}

}  // namespace

int takeNumber(std::string_view& text)
{
    int number = -1;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
    const auto length = static_cast<std::size_t>(end - text.data());
    if (failure != std::errc() || number < 0 || length == text.size() || text[length] != '.' || (length > 1 && text[0] == '0')) return -1;
    text.remove_prefix(length + 1);
    return number;
}

bool takePrefix(std::string_view& text, std::string_view prefix)
{
    if (!text.starts_with(prefix)) return false;
    text.remove_prefix(prefix.size());
    return true;
}

int fusedExpertLayer(std::string_view name, std::string_view block)
{
    takePrefix(name, kBase);
    if (!takePrefix(name, "layers.")) return -1;
    const int layer = takeNumber(name);
    if (layer < 0 || !takeBlock(name, block)) return -1;
    return name == "experts.gate_up_proj" || name == "experts.down_proj" ? layer : -1;
}

std::string standardTensorName(std::string_view name, std::string_view block, int layerCount, const std::function<bool(int)>& fused)
{
    std::string_view rest = name;
    const bool based = takePrefix(rest, kBase);
    if (!based && !rest.starts_with("layers.") && !rest.starts_with("embed_tokens.") && !rest.starts_with("norm."))
        return std::string(name);
    std::string_view inner = rest;
    if (block == kOldBlock && takePrefix(inner, "layers.")) {
        const int layer = takeNumber(inner);
        // Layers beyond the last are none of ours: their names stay as they are.
        if (layer >= 0 && layer < layerCount && takeBlock(inner, block))
            return fmt::format("model.layers.{}.{}.{}", layer, fused(layer) ? kNewBlock : kOldBlock, inner);
    }
    return based ? std::string(name) : fmt::format("{}{}", kBase, rest);
}

std::string standardTensorName(const Checkpoint& checkpoint, std::string_view name)
{
    const ModelConfig& config = checkpoint.config();
    // The one matrix of a tied model is the embedding.
    if (name == "lm_head.weight" && checkpoint.lmHead().name == name && checkpoint.embed().name == name) return "model.embed_tokens.weight";
    return standardTensorName(name, adapterFor(config.architecture).names().block, config.layerCount,
                              [&](int layer) { return checkpoint.fusedExperts(layer); });
}

}  // namespace espalier
