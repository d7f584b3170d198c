#include "export/config_edit.h"

#include "checkpoint/departures.h"
#include "export/form_tensors.h"
#include "export/layer_numbers.h"
#include "export/layout.h"
#include "plan/routing.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace espalier
{

namespace
{

using OrderedJson = nlohmann::ordered_json;

constexpr std::array<const char*, 3> kCountKeys = {"num_local_experts", "num_experts", "n_routed_experts"};

// Sets a key only where it differs, so that an untouched config stays byte-identical.
void put(OrderedJson& config, const std::string& key, OrderedJson value, bool& changed)
{
    const auto found = config.find(key);
    if (found != config.end() && *found == value) return;
    config[key] = std::move(value);
    changed = true;
}

// By layer of the export, the linear maps beside the experts that are factors: {"self_attn.o_proj": {"rank", "bias"}}.
void describeLinears(OrderedJson& exported, const ModelShape& shape, const CompressionPlan& plan, const LayerNumbers& numbers)
{
    OrderedJson linears = OrderedJson::array();
    for (const int index : numbers.kept()) {
        OrderedJson own = OrderedJson::object();
        for (const DescribedLinear& linear : factoredLinears(shape.layers[static_cast<std::size_t>(index)], plan.layer(index)))
            own[linear.name] = {{"rank", linear.rank}, {"bias", linear.bias}};
        linears.push_back(std::move(own));
    }
    if (std::any_of(linears.begin(), linears.end(), [](const OrderedJson& own) { return !own.empty(); }))
        exported["linears"] = std::move(linears);
}

// Widths of experts, by layer of the export and column; an empty list where all have the layer's.
void describeWidths(OrderedJson& exported, const ModelShape& shape, const CompressionPlan& plan, const LayerNumbers& numbers)
{
    OrderedJson widths = OrderedJson::array();
    bool some = false;
    for (const int index : numbers.kept()) {
        const LayerShape& layer = shape.layers[static_cast<std::size_t>(index)];
        widths.push_back(layer.moe ? widthsOf(layer, plan.layer(index)) : std::vector<int>());
        some = some || !widths.back().empty();
    }
    if (some) exported["widths"] = std::move(widths);
}

// Rules by which tokens skip experts, null where there is none.
void describeSkips(OrderedJson& exported, const ModelShape& shape, const CompressionPlan& plan, const LayerNumbers& numbers)
{
    OrderedJson rules = OrderedJson::array();
    bool some = false;
    for (const int index : numbers.kept()) {
        const std::optional<SkipRule> rule = skipRuleOf(shape.layers[static_cast<std::size_t>(index)], plan.layer(index));
        some = some || rule.has_value();
        if (rule)
            rules.push_back(
                {{"rule", kSkipRuleNames[static_cast<std::size_t>(rule->kind)]}, {"threshold_millionths", rule->thresholdMillionths}});
        else
            rules.push_back(nullptr);
    }
    if (some) exported["skip"] = std::move(rules);
}

// Ranks of every column's matrices, and what version 2 adds, by layer of the export: columns that are constants; the column under which
// each one's weights are stored, where some share them; factors with a bias.
void describeBodies(OrderedJson& exported, const ModelShape& shape, const CompressionPlan& plan, const LayerNumbers& numbers)
{
    OrderedJson ranks = OrderedJson::array(), constants = ranks, bodies = ranks, biases = ranks;
    bool shared = false, biased = false;
    for (const int index : numbers.kept()) {
        const LayerShape& layer = shape.layers[static_cast<std::size_t>(index)];
        const OrderedJson none = OrderedJson::array();
        OrderedJson rows = none, constant = none, owners = none, biasesOf = none;
        const auto columns = layer.moe ? describeColumns(layer, plan.layer(index)) : std::vector<DescribedColumn>();
        bool sharedHere = false;
        for (std::size_t j = 0; j < columns.size(); ++j) {
            rows.push_back(columns[j].ranks);
            owners.push_back(columns[j].owner);
            sharedHere = sharedHere || columns[j].owner != static_cast<int>(j);
            if (columns[j].constant) constant.push_back(j);
            for (std::size_t m = 0; m < 3; ++m)
                if (columns[j].biases[m]) biasesOf.push_back({j, m});
        }
        if (!sharedHere) owners = OrderedJson::array();
        shared = shared || sharedHere;
        biased = biased || !biasesOf.empty();
        ranks.push_back(std::move(rows));
        constants.push_back(std::move(constant));
        bodies.push_back(std::move(owners));
        biases.push_back(std::move(biasesOf));
    }
    exported["ranks"] = std::move(ranks);
    if (exported["version"] == 1) return;
    exported["constants"] = std::move(constants);
    if (exported["version"] == 3) {
        describeLinears(exported, shape, plan, numbers);
        describeSkips(exported, shape, plan, numbers);
        describeWidths(exported, shape, plan, numbers);
    }
    if (shared) exported["bodies"] = std::move(bodies);
    if (biased) exported["biases"] = std::move(biases);
}

void drop(OrderedJson& config, const std::string& key, bool& changed) { changed = config.erase(key) > 0 || changed; }

}  // namespace

Result<std::string> editConfig(std::string_view source, const Checkpoint& checkpoint, const CompressionPlan& plan, ExportFlavor flavor)
{
    const ModelShape& shape = checkpoint.shape();
    OrderedJson config = OrderedJson::parse(source, nullptr, false);
    if (!config.is_object()) return badInput("config.invalid_json", "config.json", "The source's config.json is not a JSON object.");
    bool changed = false;
    for (const ConfigDeparture& departure : configDepartures(checkpoint)) {
        if (departure.value.is_null())
            drop(config, departure.key, changed);
        else
            put(config, departure.key, OrderedJson(departure.value), changed);
    }
    std::vector<int> counts, topKs;
    std::vector<std::vector<int>> originals;
    int most = 0, fewest = 0, globalTopK = 0, largestTopK = 0;
    // A source that is itself an export numbers its experts anew: the ids of the first model are what is recorded.
    const OrderedJson own = config.value("espalier", OrderedJson::object());
    const OrderedJson before = own.value("kept_experts", OrderedJson::array());
    const LayerNumbers numbers(shape, plan);
    if (numbers.kept().empty())
        return badInput("export.layers", "plan", "The plan skips every layer: nothing is left to export.", "Keep some layers.");
    for (const int index : numbers.kept()) {
        const LayerShape& layer = shape.layers[static_cast<std::size_t>(index)];
        const LayerPlan& part = plan.layer(layer.index);
        const int count = layer.moe ? static_cast<int>(part.columns().size()) : 0;
        const int topK = layer.moe ? part.topK().value_or(layer.router.topK) : 0;
        counts.push_back(count);
        topKs.push_back(topK);
        std::vector<int> ids = layer.moe ? part.columns() : std::vector<int>{};
        if (static_cast<std::size_t>(layer.index) < before.size())
            for (int& id : ids)
                id = before[static_cast<std::size_t>(layer.index)].at(static_cast<std::size_t>(id)).get<int>();
        originals.push_back(std::move(ids));
        if (!layer.moe) continue;
        most = std::max(most, count);
        fewest = fewest == 0 ? count : std::min(fewest, count);
        globalTopK = std::max(globalTopK, layer.router.topK);
        largestTopK = std::max(largestTopK, topK);
    }

    std::vector<std::string> countKeys;
    for (const char* key : kCountKeys)
        if (config.contains(key) && !config[key].is_null()) countKeys.emplace_back(key);
    if (countKeys.empty() && most > 0)
        return badInput("config.missing_key", "config.json", "The source's config.json states no number of experts.");
    if (most > 0)
        for (const std::string& key : countKeys)
            put(config, key, most, changed);
    ESPALIER_CHECK_OK(renumberConfig(config, checkpoint, numbers, changed));

    const std::string base(baseModelType(shape.modelType));
    if (flavor == ExportFlavor::Factored) {
        put(config, "model_type", "espalier_" + base, changed);
        put(config, "architectures", OrderedJson::array({"Espalier" + stockClassName(checkpoint.config().architecture)}), changed);
        put(config, "auto_map",
            {{"AutoConfig", "configuration_espalier.EspalierConfig"}, {"AutoModelForCausalLM", "modeling_espalier.EspalierForCausalLM"}},
            changed);
        put(config, "num_experts_per_layer", counts, changed);
        put(config, "num_experts_per_tok", globalTopK, changed);
        OrderedJson perLayer = OrderedJson::object();
        for (const int index : numbers.kept()) {
            const LayerShape& layer = shape.layers[static_cast<std::size_t>(index)];
            if (!layer.moe) continue;
            const auto l = static_cast<std::size_t>(numbers.of(index));
            OrderedJson overrides = OrderedJson::object();
            if (counts[l] != most)
                for (const std::string& key : countKeys)
                    overrides[key] = counts[l];
            if (topKs[l] != globalTopK) overrides["num_experts_per_tok"] = topKs[l];
            if (!overrides.empty()) perLayer[std::to_string(numbers.of(index))] = std::move(overrides);
        }
        if (perLayer.empty())
            drop(config, "per_layer_config", changed);
        else
            put(config, "per_layer_config", std::move(perLayer), changed);
        OrderedJson exported = {{"version", exportVersion(checkpoint, plan)}, {"base_model_type", base}, {"kept_experts", originals}};
        describeBodies(exported, shape, plan, numbers);
        put(config, "espalier", std::move(exported), changed);
    } else {
        if (largestTopK != globalTopK) put(config, "num_experts_per_tok", largestTopK, changed);
        if (config.contains("espalier")) {
            put(config, "model_type", base, changed);
            put(config, "architectures", OrderedJson::array({stockClassName(checkpoint.config().architecture)}), changed);
            put(config, "num_experts_per_tok", largestTopK, changed);
            for (const char* key : {"auto_map", "num_experts_per_layer", "per_layer_config", "espalier"})
                drop(config, key, changed);
        }
    }
    constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";  // which transformers does not read
    if (!changed) return std::string(source.substr(source.starts_with(kByteOrderMark) ? kByteOrderMark.size() : 0));
    return config.dump(2) + "\n";
}

}  // namespace espalier
