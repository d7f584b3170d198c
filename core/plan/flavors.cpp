#include "plan/flavors.h"

#include "plan/plan_rules.h"
#include "plan/routing.h"

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

using LayerAndWhat = std::pair<int, std::string>;

// Layers by what some kinds of checkpoint cannot hold.
struct Forms {
    std::vector<int> constants;
    std::vector<int> notStock;  // of factors and other forms, the plan's or the source's
    bool planned = false;       // some of them are the plan's
    bool factors = true;        // all of them are factors
    std::vector<LayerAndWhat> notFactored, notReconstructed;
    std::vector<LayerAndWhat> notWhole;  // neither stock nor, where they are there too, reconstructed
    std::vector<LayerAndWhat> linears;   // beside the experts, that are no whole matrices
    std::vector<LayerAndWhat> unheld;    // no export but the plan alone
};

void addBody(Forms& forms, const ModelShape& shape, const LayerShape& layer, const ExpertBody& expert, bool& stock)
{
    const bool merged = expert.sources.size() > 1;
    const bool sliced = !expert.channels.empty() ||
                        (layer.widthOf(expert.sources.front()) < layer.expertWidth && !layer.isSourceConstant(expert.sources.front()));
    for (int m = 0; m < 3; ++m) {
        const MatrixForm& form = expert.matrices[static_cast<std::size_t>(m)];
        const std::string title(rulesOf(form).title);
        const FlavourSet fits = rulesOf(form).fits(form);
        if (const std::string why = formRefusal(expert, form); !why.empty()) forms.unheld.emplace_back(layer.index, why);
        if (!fits.factored) forms.notFactored.emplace_back(layer.index, title);
        if (!fits.reconstructed) forms.notReconstructed.emplace_back(layer.index, title);
        const SlotShape slot = slotOf(layer, shape.hiddenSize, expert.sources.front(), m);
        const bool source = slot.sourceRank > 0;
        if (slot.sourceBias && form.isSource()) forms.notReconstructed.emplace_back(layer.index, "factors with a bias");
        forms.planned = forms.planned || !fits.stock || merged || !expert.channels.empty();
        forms.factors = forms.factors && !merged && !sliced && (fits.stock || std::holds_alternative<LowRank>(form.structure));
        stock = stock && !merged && !sliced && fits.stock && !(source && form.isSource());
    }
}

// Of linear maps beside the experts, those that the checkpoint itself factored among them.
void addLinears(Forms& forms, const LayerShape& layer, const LayerPlan& plan)
{
    const auto add = [&](const std::string& name, const SlotShape& slot, const MatrixForm& form) {
        const FlavourSet fits = rulesOf(form).fits(form);
        const std::string what = fmt::format("{} as {}", name, rulesOf(form).title);
        const auto* low = std::get_if<LowRank>(&form.structure);
        const bool place = slot.ownBias && low && low->bias;  // the family's own bias gives way
        if (const std::string why = linearRefusal(form); !why.empty())
            forms.unheld.emplace_back(layer.index, fmt::format("{}: {}", name, why));
        if (!fits.factored) forms.notFactored.emplace_back(layer.index, what);
        if ((!fits.reconstructed && !place) || (slot.sourceBias && form.isSource())) forms.notReconstructed.emplace_back(layer.index, what);
        if (!fits.stock || (slot.sourceRank > 0 && form.isSource())) forms.linears.emplace_back(layer.index, name);
    };
    const auto& planned = plan.content().linears;
    for (const auto& [name, form] : planned) {
        const LinearShape* linear = layer.linear(name);
        add(name, linear ? slotOf(*linear) : SlotShape{}, form);
    }
    for (const LinearShape& linear : layer.linears)
        if (linear.sourceRank > 0 &&
            std::none_of(planned.begin(), planned.end(), [&](const auto& entry) { return entry.first == linear.name; }))
            add(linear.name, slotOf(linear), MatrixForm{});
}

Forms formsOf(const ModelShape& shape, const CompressionPlan& plan)
{
    Forms forms;
    for (const LayerShape& layer : shape.layers) {
        const LayerPlan& part = plan.layer(layer.index);
        const LayerPlan::Content& content = part.content();
        if (!part.constants().empty()) forms.constants.push_back(layer.index);
        if (content.run == LayerRun::AttentionOnly || content.run == LayerRun::ExpertsOnly)
            forms.unheld.emplace_back(layer.index, "half a layer");
        if (const std::string why = mergeRefusal(part); !why.empty()) forms.unheld.emplace_back(layer.index, why);
        if (content.run != LayerRun::Skipped) addLinears(forms, layer, part);
        const std::optional<SkipRule>& skip = content.skip ? content.skip : layer.router.skip;
        if (skip && !skipsNothing(*skip) && part.runsExperts()) {
            forms.notWhole.emplace_back(layer.index, "a skip rule");
            forms.notReconstructed.emplace_back(layer.index, "a skip rule");
        }
        // A column of the plan for every row: those of an expert that the checkpoint itself merged share what they hold.
        bool stock = layer.sourceBodies.empty();
        forms.factors = forms.factors && stock;
        for (const Body& body : content.bodies)
            if (const auto* expert = std::get_if<ExpertBody>(&body)) addBody(forms, shape, layer, *expert, stock);
        if (!stock) forms.notStock.push_back(layer.index);
    }
    return forms;
}

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
    return usageError({"\"{name}\" is not an export flavour.", {{"name", name}}}, "Use stock, factored, reconstructed or plan.");
}

namespace
{

// One count of experts and one top-k for all layers that run.
Status checkUniform(const ModelShape& shape, const CompressionPlan& plan, ExportFlavor flavor)
{
    Spread counts, topKs;
    for (const LayerShape& layer : shape.layers) {
        const LayerPlan& part = plan.layer(layer.index);
        if (!layer.moe || part.run() == LayerRun::Skipped) continue;
        counts.add(layer.index, static_cast<int>(part.columns().size()));
        topKs.add(layer.index, part.topK().value_or(layer.router.topK));
    }
    const std::string_view name = flavorName(flavor);
    if (!counts.equal()) {
        const std::string exceptions = counts.exceptions("experts");
        return badInput("export.unequal_counts", exceptions,
                        {"A {name} checkpoint has one expert count for all layers; most layers keep {common}, but {exceptions}.",
                         {{"name", name}, {"common", counts.common}, {"exceptions", exceptions}}},
                        std::string(kWaysOut));
    }
    if (!topKs.equal()) {
        const std::string exceptions = topKs.exceptions("per token");
        return badInput("export.unequal_counts", exceptions,
                        {"A {name} checkpoint has one number of experts per token; most layers use {common}, but {exceptions}.",
                         {{"name", name}, {"common", topKs.common}, {"exceptions", exceptions}}},
                        std::string(kWaysOut));
    }
    return {};
}

}  // namespace

Status checkFlavor(const ModelShape& shape, const CompressionPlan& plan, ExportFlavor flavor)
{
    if (flavor == ExportFlavor::Plan) return {};
    const Forms forms = formsOf(shape, plan);
    if (!forms.unheld.empty())
        return unsupported("export.form", fmt::format("layer {}", forms.unheld.front().first),
                           {"No checkpoint is written of {second} (layer {first}) yet.",
                            {{"second", forms.unheld.front().second}, {"first", forms.unheld.front().first}}},
                           "Export as \"plan\".");
    const auto& lacking = flavor == ExportFlavor::Factored        ? forms.notFactored
                          : flavor == ExportFlavor::Reconstructed ? forms.notReconstructed
                                                                  : forms.notWhole;
    if (!lacking.empty())
        return unsupported("export.form", fmt::format("layer {}", lacking.front().first),
                           {"A {flavor_name} checkpoint has no place for {second} (layer {first}).",
                            {{"flavor_name", flavorName(flavor)}, {"second", lacking.front().second}, {"first", lacking.front().first}}},
                           flavor == ExportFlavor::Factored ? "Export as \"reconstructed\" (the sum is written) or as \"plan\"."
                                                            : "Export as \"factored\" or as \"plan\".");
    if (flavor == ExportFlavor::Factored) {
        const std::string_view base = baseModelType(shape.modelType);
        if (std::find(kFactoredBases.begin(), kFactoredBases.end(), base) == kFactoredBases.end())
            return unsupported(
                "export.unsupported_architecture", shape.modelType,
                {"Factored exports are not made of {model_type} models: nothing could load them.", {{"model_type", shape.modelType}}},
                "Export as \"stock\" (equal counts, no ranks) or as \"plan\".");
        return {};
    }

    ESPALIER_CHECK_OK(checkUniform(shape, plan, flavor));
    if (!forms.constants.empty())
        return badInput("export.constants", layerList(forms.constants),
                        {"A {flavor_name} checkpoint has an expert behind every row of the router; the plan has constants in {layer_list}.",
                         {{"flavor_name", flavorName(flavor)}, {"layer_list", layerList(forms.constants)}}},
                        "Export as \"factored\" (loads in transformers with trust_remote_code and in Espalier) or as \"plan\".");
    if (flavor == ExportFlavor::Stock && !forms.notStock.empty())
        return badInput("export.ranks_not_dense", layerList(forms.notStock),
                        {"A stock checkpoint holds whole matrices{factors}; experts of {layer_list} are {factors2}.",
                         {{"factors", forms.factors ? "" : " of every expert"},
                          {"layer_list", layerList(forms.notStock)},
                          {"factors2", !forms.factors  ? "merged, or in a form that is none"
                                       : forms.planned ? "factored by the plan"
                                                       : "stored as factors"}}},
                        "Export as \"factored\" (saves memory), as \"reconstructed\" (runs everywhere, ranks save nothing), or as "
                        "\"plan\".");
    if (flavor == ExportFlavor::Stock && !forms.linears.empty())
        return badInput("export.ranks_not_dense", fmt::format("layer {}", forms.linears.front().first),
                        {"A stock checkpoint holds whole matrices; {linear} of layer {layer} is none.",
                         {{"linear", forms.linears.front().second}, {"layer", forms.linears.front().first}}},
                        "Export as \"factored\" (saves memory), as \"reconstructed\" (runs everywhere, saves nothing of it), or as "
                        "\"plan\".");
    if (flavor == ExportFlavor::Reconstructed && forms.notStock.empty() && forms.linears.empty())
        return badInput("export.nothing_factored", "plan", "Nothing is factored: this would be the stock form.", "Export as \"stock\".");
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
