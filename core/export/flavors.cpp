#include "export/flavors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <vector>

namespace espalier
{

namespace
{

constexpr std::array<std::pair<ExportFlavor, std::string_view>, 4> kNames = {{{ExportFlavor::Stock, "stock"},
                                                                              {ExportFlavor::Factored, "factored"},
                                                                              {ExportFlavor::Reconstructed, "reconstructed"},
                                                                              {ExportFlavor::Plan, "plan"}}};
// What modeling_espalier.py can build.
constexpr std::array<std::string_view, 6> kFactoredBases = {"mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3"};
constexpr std::string_view kOwnPrefix = "espalier_";

std::string layerList(const std::vector<int>& layers)
{
    std::string text;
    for (std::size_t i = 0; i < layers.size(); ++i) {
        const bool last = i + 1 == layers.size();
        text += fmt::format("{}{}", i == 0 ? "" : last ? " and " : ", ", layers[i]);
    }
    return (layers.size() == 1 ? "layer " : "layers ") + text;
}

// "layers 0 and 4 (12 experts), layer 3 (9)" for all values but the most frequent one, and that one.
struct Spread {
    std::map<int, std::vector<int>> layersOf;  // value -> layers
    int common = 0;

    void add(int layer, int value) { layersOf[value].push_back(layer); }
    bool equal() const { return layersOf.size() <= 1; }
    std::string exceptions(std::string_view unit)
    {
        std::size_t most = 0;
        for (const auto& [value, layers] : layersOf)
            if (layers.size() >= most) most = layers.size(), common = value;
        std::string text;
        for (const auto& [value, layers] : layersOf)
            if (value != common) text += fmt::format("{}{} ({} {})", text.empty() ? "" : ", ", layerList(layers), value, unit);
        return text;
    }
};

constexpr std::string_view kWaysOut =
    "Export as \"factored\" (loads in transformers with trust_remote_code and in Espalier) or as \"plan\", or give every layer the same "
    "count (plan --uniform).";

}  // namespace

std::string_view flavorName(ExportFlavor flavor)
{
    return std::find_if(kNames.begin(), kNames.end(), [&](const auto& entry) { return entry.first == flavor; })->second;
}

Result<ExportFlavor> parseFlavor(std::string_view name)
{
    for (const auto& [flavor, text] : kNames)
        if (text == name) return flavor;
    return usageError(fmt::format("\"{}\" is not an export flavour.", name), "Use stock, factored, reconstructed or plan.");
}

Status checkFlavor(const ModelShape& shape, const CompressionPlan& plan, ExportFlavor flavor)
{
    if (flavor == ExportFlavor::Plan) return {};
    if (flavor == ExportFlavor::Factored) {
        const std::string_view base = baseModelType(shape.modelType);
        if (std::find(kFactoredBases.begin(), kFactoredBases.end(), base) == kFactoredBases.end())
            return unsupported("export.unsupported_architecture", shape.modelType,
                               fmt::format("Factored exports are not made of {} models: nothing could load them.", shape.modelType),
                               "Export as \"stock\" (equal counts, no ranks) or as \"plan\".");
        return {};
    }

    Spread counts, topKs;
    std::vector<int> ranked;
    for (const LayerShape& layer : shape.layers) {
        if (!layer.moe) continue;
        const LayerPlan& part = plan.layer(layer.index);
        counts.add(layer.index, static_cast<int>(part.kept.size()));
        topKs.add(layer.index, part.topK.value_or(layer.router.topK));
        if (std::any_of(part.ranks.begin(), part.ranks.end(), [](const RankTriple& triple) {
                return std::any_of(triple.begin(), triple.end(), [](int rank) { return rank != 0; });
            }))
            ranked.push_back(layer.index);
    }
    const std::string_view name = flavorName(flavor);
    if (!counts.equal()) {
        const std::string exceptions = counts.exceptions("experts");
        return badInput("export.unequal_counts", exceptions,
                        fmt::format("A {} checkpoint has one expert count for all layers; most layers keep {}, but {}.", name,
                                    counts.common, exceptions),
                        std::string(kWaysOut));
    }
    if (!topKs.equal()) {
        const std::string exceptions = topKs.exceptions("per token");
        return badInput(
            "export.unequal_counts", exceptions,
            fmt::format("A {} checkpoint has one number of experts per token; most layers use {}, but {}.", name, topKs.common, exceptions),
            std::string(kWaysOut));
    }
    if (flavor == ExportFlavor::Stock && !ranked.empty())
        return badInput("export.ranks_not_dense", layerList(ranked),
                        fmt::format("A stock checkpoint holds whole matrices; the plan factors experts of {}.", layerList(ranked)),
                        "Export as \"factored\" (saves memory), as \"reconstructed\" (runs everywhere, ranks save nothing), or as "
                        "\"plan\".");
    return {};
}

ExportFlavor bestFlavor(const ModelShape& shape, const CompressionPlan& plan)
{
    if (checkFlavor(shape, plan, ExportFlavor::Stock).ok()) return ExportFlavor::Stock;
    if (checkFlavor(shape, plan, ExportFlavor::Factored).ok()) return ExportFlavor::Factored;
    return ExportFlavor::Plan;
}

std::string_view baseModelType(std::string_view modelType)
{
    if (modelType.starts_with(kOwnPrefix)) modelType.remove_prefix(kOwnPrefix.size());
    return modelType;
}

}  // namespace espalier
