#include "checkpoint/model_config.h"

#include "checkpoint/adapter.h"
#include "checkpoint/departures.h"
#include "checkpoint/safetensors.h"
#include "plan/routing.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace espalier
{

namespace
{

constexpr std::string_view kExportPrefix = "espalier_";

// 0 to `high`, or nothing.
std::optional<int> wholeNumber(const Json& value, int high)
{
    if (!value.is_number_integer()) return std::nullopt;
    const bool fits = value.is_number_unsigned() ? value.get<std::uint64_t>() <= static_cast<std::uint64_t>(high)
                                                 : value.get<std::int64_t>() >= 0 && value.get<std::int64_t>() <= high;
    return fits ? std::optional<int>(value.get<int>()) : std::nullopt;
}

Status readCommon(const ConfigReader& reader, const ArchitectureAdapter& adapter, ModelConfig& config)
{
    if (reader.has("architectures")) {
        // The family is known by model_type; of several names the one that belongs to it counts.
        const Json& names = reader.at("architectures");
        if (!names.is_array()) return reader.wrongType("architectures", "a list of names");
        for (const Json& name : names) {
            if (!name.is_string()) return reader.wrongType("architectures", "a list of names");
            if (config.architectureName.empty() || name == stockClassName(config.architecture))
                config.architectureName = name.get<std::string>();
        }
    }
    for (const char* key : {"torch_dtype", "dtype"}) {
        ESPALIER_TRY(const std::optional<std::string> dtype, reader.optionalString(key));
        if (dtype) config.dtype = *dtype;
    }
    ESPALIER_TRY(config.hiddenSize, reader.integer("hidden_size", 1, kMaxHidden));
    ESPALIER_TRY(config.layerCount, reader.integer("num_hidden_layers", 1, kMaxLayers));
    ESPALIER_TRY(config.heads, reader.integer("num_attention_heads", 1, kMaxHeads));
    ESPALIER_TRY(const std::optional<int> kvHeads, reader.optionalInteger("num_key_value_heads", 1, kMaxHeads));
    config.kvHeads = kvHeads.value_or(config.heads);
    if (config.heads % config.kvHeads != 0)
        return reader.conflict("num_key_value_heads", fmt::format("num_attention_heads {} cannot share num_key_value_heads {} evenly",
                                                                  config.heads, config.kvHeads));
    if (!adapter.latentAttention()) {
        ESPALIER_TRY(const std::optional<int> headDim, reader.optionalInteger("head_dim", 1, kMaxHeadDim));
        if (!headDim && config.hiddenSize % config.heads != 0)
            return reader.conflict("hidden_size",
                                   fmt::format("hidden_size {} cannot be divided by num_attention_heads {}, and there is no head_dim",
                                               config.hiddenSize, config.heads));
        config.headDim = headDim.value_or(config.hiddenSize / config.heads);
        if (config.headDim % 2 != 0)
            return reader.conflict("head_dim", fmt::format("the head dimension {} is odd, but it is rotated in pairs", config.headDim));
    }
    if (reader.has("partial_rotary_factor")) {
        ESPALIER_TRY(const double part, reader.number("partial_rotary_factor", 0, 1));
        if (part != 1.0) return reader.valueUnsupported("partial_rotary_factor", fmt::format("partial_rotary_factor is {:g}", part));
    }
    // transformers masks nothing then, in every family, and takes null and 0 for false.
    if (reader.present("is_causal").ok() && reader.at("is_causal") != true)
        return reader.valueUnsupported(
            "is_causal", fmt::format("is_causal is {}; only causal models are computed", ConfigReader::shown(reader.at("is_causal"))));
    ESPALIER_TRY(config.vocabularySize, reader.integer("vocab_size", 1, kMaxVocabulary));
    ESPALIER_TRY(const std::optional<int> positions, reader.optionalInteger("max_position_embeddings", 1, kMaxPositions));
    config.maxPositions = positions.value_or(0);
    ESPALIER_TRY(config.rmsNormEps, reader.number("rms_norm_eps", 0, 1));
    ESPALIER_TRY(config.tiedEmbeddings, reader.boolean("tie_word_embeddings", false));
    ESPALIER_TRY(const std::string activation, reader.string("hidden_act"));
    if (activation != "silu" && activation != "swish")
        return reader.valueUnsupported(
            "hidden_act", fmt::format("hidden_act is {}; the experts of this family use silu", ConfigReader::shown(activation)),
            "config.activation_unsupported");
    return {};
}

Status readYarn(const ConfigReader& reader, const ModelConfig& config, RopeScaling& rope)
{
    rope.type = RopeScaling::Type::Yarn;
    ESPALIER_TRY(const std::optional<int> original, reader.optionalInteger("original_max_position_embeddings", 1, kMaxPositions));
    rope.originalPositions = original.value_or(config.maxPositions);
    if (rope.originalPositions == 0) return reader.missing("original_max_position_embeddings");
    ESPALIER_TRY(const std::optional<double> factor, reader.optionalNumber("factor", 1e-3, 1e6));
    if (!factor && config.maxPositions == 0) return reader.missing("factor");
    rope.factor = factor.value_or(static_cast<double>(config.maxPositions) / rope.originalPositions);
    ESPALIER_TRY(const std::optional<double> fast, reader.optionalNumber("beta_fast", 1e-6, 1e6));
    ESPALIER_TRY(const std::optional<double> slow, reader.optionalNumber("beta_slow", 1e-6, 1e6));
    rope.betaFast = fast.value_or(rope.betaFast);
    rope.betaSlow = slow.value_or(rope.betaSlow);
    ESPALIER_TRY(rope.mscale, reader.optionalNumber("mscale", 0, 1e6));
    ESPALIER_TRY(rope.mscaleAllDim, reader.optionalNumber("mscale_all_dim", 0, 1e6));
    ESPALIER_TRY(rope.attentionFactor, reader.optionalNumber("attention_factor", 1e-6, 1e6));
    ESPALIER_TRY(rope.truncate, reader.trueUnlessSaid("truncate"));
    return {};
}

bool sameScaling(const RopeScaling& a, const RopeScaling& b)
{
    return a.factor == b.factor && a.originalPositions == b.originalPositions && a.betaFast == b.betaFast && a.betaSlow == b.betaSlow &&
           a.mscale == b.mscale && a.mscaleAllDim == b.mscaleAllDim && a.attentionFactor == b.attentionFactor && a.truncate == b.truncate;
}

// rope_parameters (v5) or rope_theta with rope_scaling (v4). A file that was saved by v5 can hold both; they must agree.
Status readRope(const ConfigReader& reader, ModelConfig& config)
{
    std::optional<double> theta;
    std::optional<std::string> type;
    const Json* details = nullptr;
    std::string detailsKey;
    if (reader.has("rope_theta")) {
        ESPALIER_TRY(theta, reader.number("rope_theta", 1, 1e12));
    }
    for (const char* key : {"rope_parameters", "rope_scaling"}) {
        if (!reader.has(key)) continue;
        const Json& object = reader.at(key);
        if (!object.is_object()) return reader.wrongType(key, "an object");
        for (const auto& [name, value] : object.items())
            if (value.is_object())
                return reader.valueUnsupported(key, fmt::format("{} differs by layer type (\"{}\")", key, name), "config.rope_unsupported");
        if (object.empty()) continue;  // no scaling
        const ConfigReader inner(object, reader.subject(), std::string(key) + ".");
        if (inner.has("rope_theta")) {
            ESPALIER_TRY(const double stated, inner.number("rope_theta", 1, 1e12));
            if (theta && *theta != stated)
                return reader.conflict("rope_theta", fmt::format("rope_theta is {:g}, but {}.rope_theta is {:g}", *theta, key, stated));
            theta = stated;
        }
        std::optional<std::string> statedType;
        for (const char* spelling : {"rope_type", "type"}) {
            ESPALIER_TRY(const std::optional<std::string> value, inner.optionalString(spelling));
            if (!value) continue;
            if (statedType && *statedType != *value)
                return reader.conflict(key, fmt::format("{} has rope_type \"{}\" and type \"{}\"", key, *statedType, *value));
            statedType = value;
        }
        if (!statedType && std::string_view(key) == "rope_scaling") return inner.missing("rope_type");
        if (!statedType) statedType = "default";
        if (*statedType != "default" && *statedType != "yarn")
            return reader.valueUnsupported(
                key, fmt::format("{} has the type {}; supported are default and yarn", key, ConfigReader::shown(*statedType)),
                "config.rope_unsupported");
        if (type && *type != *statedType)
            return reader.conflict("rope_scaling",
                                   fmt::format("rope_parameters has the type \"{}\", but rope_scaling has \"{}\"", *type, *statedType));
        if (*statedType == "yarn") {
            if (inner.has("partial_rotary_factor") && inner.at("partial_rotary_factor") != 1.0)
                return reader.valueUnsupported(
                    key, fmt::format("{}.partial_rotary_factor is {}", key, ConfigReader::shown(inner.at("partial_rotary_factor"))),
                    "config.rope_unsupported");
            RopeScaling rope;
            ESPALIER_CHECK_OK(readYarn(inner, config, rope));
            if (details != nullptr && !sameScaling(rope, config.rope))
                return reader.conflict("rope_scaling", "rope_parameters and rope_scaling describe different yarn scalings");
            config.rope = rope;
            details = &object;
        }
        type = statedType;
    }
    if (!theta) return reader.missing("rope_theta");
    config.ropeTheta = *theta;
    return {};
}

Status tooManySelected(const ConfigReader& reader, int topK, int experts, const std::string& where)
{
    return reader.conflict("num_experts_per_tok", fmt::format("num_experts_per_tok is {}, but {} only {} experts", topK,
                                                              where.empty() ? "there are" : where + " has", experts));
}

// num_experts_per_layer of our exports and per_layer_config of transformers: counts that differ by layer.
Status readPerLayer(const ConfigReader& reader, ModelConfig& config)
{
    if (reader.has("num_experts_per_layer")) {
        ESPALIER_TRY(const std::vector<int> counts, reader.integers("num_experts_per_layer", 0, kMaxExperts));
        if (counts.size() != config.layers.size())
            return reader.conflict("num_experts_per_layer",
                                   fmt::format("num_experts_per_layer has {} entries for {} layers", counts.size(), config.layers.size()));
        for (std::size_t i = 0; i < counts.size(); ++i) {
            LayerConfig& layer = config.layers[i];
            if (layer.moe != (counts[i] > 0))
                return reader.conflict("num_experts_per_layer", fmt::format("num_experts_per_layer gives layer {} {} experts, but it is {}",
                                                                            i, counts[i], layer.moe ? "an MoE layer" : "a dense layer"));
            layer.experts = counts[i];
        }
    } else if (config.factored) {
        return reader.missing("num_experts_per_layer");
    }
    const bool listed = reader.has("num_experts_per_layer");
    for (LayerConfig& layer : config.layers)
        if (listed && layer.moe) layer.topK = std::min(config.router.topK, layer.experts);
    if (!reader.has("per_layer_config")) return {};

    const Json& overrides = reader.at("per_layer_config");
    if (!overrides.is_object()) return reader.wrongType("per_layer_config", "an object");
    for (const auto& [key, object] : overrides.items()) {
        int index = -1;
        const auto [end, failure] = std::from_chars(key.data(), key.data() + key.size(), index);
        if (failure != std::errc() || end != key.data() + key.size() || index < 0 || index >= config.layerCount)
            return reader.conflict("per_layer_config",
                                   fmt::format("per_layer_config names a layer {} that does not exist", ConfigReader::shown(key)));
        if (!object.is_object()) return reader.wrongType("per_layer_config", "an object of objects");
        LayerConfig& layer = config.layers[static_cast<std::size_t>(index)];
        const ConfigReader inner(object, reader.subject(), fmt::format("per_layer_config.{}.", index));
        for (const auto& [attribute, value] : object.items()) {
            const bool count = attribute == "num_experts" || attribute == "num_local_experts" || attribute == "n_routed_experts";
            if (!count && attribute != "num_experts_per_tok")
                return reader.valueUnsupported("per_layer_config",
                                               fmt::format("per_layer_config overrides {} in layer {}", attribute, index));
            ESPALIER_TRY(const int number, inner.integer(attribute.c_str(), 1, kMaxExperts));
            if (count) {
                if (!layer.moe || (listed && layer.experts != number))
                    return reader.conflict(
                        "per_layer_config",
                        fmt::format("per_layer_config gives layer {} {} experts, num_experts_per_layer {}", index, number, layer.experts));
                layer.experts = number;
            } else {
                layer.topK = number;
            }
        }
    }
    return {};
}

// Per expert the one whose weights it uses; an empty list: each its own.
Status readBodies(const ConfigReader& reader, const Json& list, std::size_t index, LayerConfig& layer)
{
    const auto refuse = [&] {
        return reader.conflict(
            "espalier.bodies",
            fmt::format("espalier.bodies of layer {} does not lead each of {} experts to itself or to a lower one that has "
                        "weights of its own",
                        index, layer.experts));
    };
    if (!list.is_array() || (!list.empty() && list.size() != static_cast<std::size_t>(layer.experts))) return refuse();
    for (std::size_t e = 0; e < list.size(); ++e) {
        const std::optional<int> owner = wholeNumber(list[e], static_cast<int>(e));
        const bool own = owner && (*owner == static_cast<int>(e) || layer.bodies[static_cast<std::size_t>(*owner)] == *owner);
        if (!own || (*owner != static_cast<int>(e) && (layer.isConstant(static_cast<int>(e)) || layer.isConstant(*owner)))) return refuse();
        layer.bodies.push_back(*owner);
    }
    return {};
}

// Pairs [expert, matrix] of factors that have a bias.
Status readBiases(const ConfigReader& reader, const Json& list, std::size_t index, LayerConfig& layer)
{
    for (const Json& pair : list) {
        const bool two = pair.is_array() && pair.size() == 2;
        const std::optional<int> expert = two ? wholeNumber(pair[0], layer.experts - 1) : std::nullopt;
        const std::optional<int> matrix = two ? wholeNumber(pair[1], 2) : std::nullopt;
        const bool factored = expert && matrix && !layer.ranks.empty() &&
                              layer.ranks[static_cast<std::size_t>(*expert)][static_cast<std::size_t>(*matrix)] > 0;
        if (!factored)
            return reader.conflict("espalier.biases", fmt::format("espalier.biases of layer {} holds {}, which are no factors", index,
                                                                  ConfigReader::shown(pair)));
        layer.biases.resize(static_cast<std::size_t>(layer.experts));
        layer.biases[static_cast<std::size_t>(*expert)][static_cast<std::size_t>(*matrix)] = true;
    }
    return {};
}

// Per expert, 1 to the width of the layer; an empty list: all have that.
Status readWidths(const ConfigReader& reader, const Json& list, std::size_t index, LayerConfig& layer)
{
    bool valid = list.is_array() && (list.empty() || list.size() == static_cast<std::size_t>(layer.experts));
    for (std::size_t e = 0; valid && e < list.size(); ++e) {
        const std::optional<int> width = wholeNumber(list[e], layer.expertWidth);
        valid = width && *width > 0;
        layer.widths.push_back(width.value_or(0));
    }
    if (valid) return {};
    return reader.conflict("espalier.widths", fmt::format("espalier.widths of layer {} is not a list of {} widths from 1 to {}", index,
                                                          layer.experts, layer.expertWidth));
}

// {"rule", "threshold_millionths"}, or null.
Status readSkip(const ConfigReader& reader, const Json& rule, std::size_t index, LayerConfig& layer)
{
    if (rule.is_null()) return {};
    std::optional<int> threshold;
    const bool complete = rule.is_object() && rule.size() == 2 && rule.contains("rule") && rule.contains("threshold_millionths");
    if (complete) threshold = wholeNumber(rule["threshold_millionths"], 1'000'000);
    for (std::size_t kind = 0; threshold && layer.moe && kind < kSkipRuleNames.size(); ++kind)
        if (rule["rule"] == kSkipRuleNames[kind]) layer.skip = SkipRule{static_cast<SkipRule::Kind>(kind), *threshold};
    if (layer.skip) return {};
    return reader.conflict("espalier.skip", fmt::format("espalier.skip of layer {} is {}, which is no rule that is known here", index,
                                                        ConfigReader::shown(rule)));
}

// {"self_attn.q_proj": {"rank", "bias"}, ..}: maps beside the experts that are factors.
Status readLinears(const ConfigReader& reader, const Json& object, int index, ModelConfig& config)
{
    LayerConfig& layer = config.layers[static_cast<std::size_t>(index)];
    const std::vector<LinearShape> known = linearShapes(adapterFor(config.architecture), config, index);
    if (!object.is_object()) return reader.conflict("espalier.linears", fmt::format("espalier.linears of layer {} is no object", index));
    for (const auto& item : object.items()) {
        const auto linear = std::find_if(known.begin(), known.end(), [&](const LinearShape& one) { return one.name == item.key(); });
        const Json& said = item.value();
        std::optional<int> rank;
        const bool named = linear != known.end() && said.is_object() && said.contains("rank");
        const bool bias = named && said.contains("bias") && said["bias"] == true;
        const std::size_t keys = named && said.contains("bias") && said["bias"].is_boolean() ? 2 : 1;
        if (named && said.size() == keys) rank = wholeNumber(said["rank"], static_cast<int>(std::min(linear->out, linear->in)));
        if (!rank || *rank < 1)
            return reader.conflict("espalier.linears", fmt::format("espalier.linears of layer {} gives {} as {}, which is no rank of it",
                                                                   index, ConfigReader::shown(item.key()), ConfigReader::shown(said)));
        layer.linears[item.key()] = {*rank, bias};
    }
    return {};
}

// The "espalier" object of a factored export.
Status readExport(const ConfigReader& reader, ModelConfig& config)
{
    if (!reader.has("espalier")) return reader.missing("espalier");
    const Json& object = reader.at("espalier");
    if (!object.is_object()) return reader.wrongType("espalier", "an object");
    const ConfigReader inner(object, reader.subject(), "espalier.");
    ESPALIER_TRY(const int version, inner.integer("version", 0, std::numeric_limits<int>::max()));
    if (version < 1 || version > 3)
        return reader.valueUnsupported("espalier.version",
                                       fmt::format("the export has version {}, this program reads versions 1 to 3", version));
    for (const auto& item : object.items())
        if (item.key() != "version" && item.key() != "base_model_type" && item.key() != "kept_experts" && item.key() != "ranks" &&
            !(version >= 2 && (item.key() == "constants" || item.key() == "bodies" || item.key() == "biases")) &&
            !(version >= 3 && (item.key() == "linears" || item.key() == "skip" || item.key() == "widths")))
            return reader.valueUnsupported("espalier." + item.key(),
                                           fmt::format("the export holds \"{}\", which this program does not know", item.key()));
    ESPALIER_TRY(const std::string base, inner.string("base_model_type"));
    if (base != config.baseModelType)
        return reader.conflict("espalier.base_model_type", fmt::format("espalier.base_model_type is {}, but model_type is \"{}\"",
                                                                       ConfigReader::shown(base), config.modelType));
    const auto lists = [&](const char* key) -> Result<const Json*> {
        if (!inner.has(key)) return static_cast<const Json*>(nullptr);
        const Json& value = inner.at(key);
        if (!value.is_array() || value.size() != config.layers.size()) return inner.wrongType(key, "a list with one entry per layer");
        return &value;
    };
    ESPALIER_TRY(const Json* const kept, lists("kept_experts"));
    ESPALIER_TRY(const Json* const ranks, lists("ranks"));
    ESPALIER_TRY(const Json* const constants, lists("constants"));
    ESPALIER_TRY(const Json* const bodies, lists("bodies"));
    ESPALIER_TRY(const Json* const biases, lists("biases"));
    ESPALIER_TRY(const Json* const linears, lists("linears"));
    ESPALIER_TRY(const Json* const skips, lists("skip"));
    ESPALIER_TRY(const Json* const widths, lists("widths"));
    if (ranks == nullptr) return inner.missing("ranks");
    for (std::size_t i = 0; i < config.layers.size(); ++i) {
        LayerConfig& layer = config.layers[i];
        const auto experts = static_cast<std::size_t>(layer.experts);
        if (widths != nullptr) ESPALIER_CHECK_OK(readWidths(reader, (*widths)[i], i, layer));
        const Json& triples = (*ranks)[i];
        if (!triples.is_array() || (!triples.empty() && triples.size() != experts))
            return reader.conflict("espalier.ranks", fmt::format("espalier.ranks of layer {} is not a list of {} triples", i, experts));
        const int most = std::min(config.hiddenSize, layer.expertWidth);
        for (const Json& triple : triples) {
            std::array<int, 3> values{};
            bool valid = triple.is_array() && triple.size() == 3;
            for (std::size_t j = 0; valid && j < 3; ++j) {
                const std::optional<int> rank = wholeNumber(triple[j], most);
                valid = rank.has_value();
                values[j] = rank.value_or(0);
            }
            if (!valid)
                return reader.conflict("espalier.ranks",
                                       fmt::format("espalier.ranks of layer {} holds {} instead of three ranks from 0 to {}", i,
                                                   ConfigReader::shown(triple), most));
            layer.ranks.push_back(values);
        }
        if (constants != nullptr)
            for (const Json& id : (*constants)[i]) {
                const std::optional<int> number = wholeNumber(id, layer.experts - 1);
                if (!number || (!layer.constants.empty() && *number <= layer.constants.back()))
                    return reader.conflict("espalier.constants",
                                           fmt::format("espalier.constants of layer {} is not an ascending list of its experts", i));
                layer.constants.push_back(*number);
            }
        if (bodies != nullptr) ESPALIER_CHECK_OK(readBodies(reader, (*bodies)[i], i, layer));
        if (biases != nullptr) ESPALIER_CHECK_OK(readBiases(reader, (*biases)[i], i, layer));
        if (skips != nullptr) ESPALIER_CHECK_OK(readSkip(reader, (*skips)[i], i, layer));
        if (linears != nullptr) ESPALIER_CHECK_OK(readLinears(reader, (*linears)[i], static_cast<int>(i), config));
        if (kept == nullptr || (*kept)[i].empty()) continue;
        if (!(*kept)[i].is_array() || (*kept)[i].size() != experts)
            return reader.conflict("espalier.kept_experts",
                                   fmt::format("espalier.kept_experts of layer {} is not a list of {} ids", i, experts));
        for (const Json& id : (*kept)[i]) {
            const std::optional<int> number = wholeNumber(id, kMaxExperts - 1);
            if (!number)
                return reader.conflict("espalier.kept_experts",
                                       fmt::format("espalier.kept_experts of layer {} holds {}", i, ConfigReader::shown(id)));
            layer.keptExperts.push_back(*number);
        }
    }
    return {};
}

Status checkRouters(const ConfigReader& reader, const ModelConfig& config)
{
    for (std::size_t i = 0; i < config.layers.size(); ++i) {
        const LayerConfig& layer = config.layers[i];
        if (!layer.moe) continue;
        const bool same = layer.experts == config.maxExperts();
        if (layer.topK > layer.experts) return tooManySelected(reader, layer.topK, layer.experts, same ? "" : fmt::format("layer {}", i));
        if (config.router.rule != RoutingRule::GroupLimitedSoftmax && config.router.rule != RoutingRule::SigmoidBias) continue;
        if (layer.experts % config.router.groups != 0)
            return reader.conflict("n_group", fmt::format("{} experts of layer {} cannot be divided into n_group {} groups", layer.experts,
                                                          i, config.router.groups));
        const int reachable = config.router.topGroups * (layer.experts / config.router.groups);
        if (layer.topK > reachable)
            return reader.conflict("num_experts_per_tok",
                                   fmt::format("num_experts_per_tok is {}, but topk_group {} leaves only {} experts to choose from",
                                               layer.topK, config.router.topGroups, reachable));
    }
    return {};
}

int statedBytes(const std::string& dtype)
{
    if (dtype == "bfloat16" || dtype == "float16") return 2;
    return dtype == "float64" ? 8 : 4;
}

const char* storageName(const std::string& dtype)
{
    if (dtype == "bfloat16") return "BF16";
    if (dtype == "float16") return "F16";
    return dtype == "float64" ? "F64" : "F32";
}

}  // namespace

int ModelConfig::maxExperts() const
{
    int most = 0;
    for (const LayerConfig& layer : layers)
        most = std::max(most, layer.experts);
    return most;
}

Result<ModelConfig> parseModelConfig(const Json& value, std::string_view subject)
{
    if (!value.is_object())
        return badInput("config.wrong_type", std::string(subject), {"{subject} is not a JSON object.", {{"subject", subject}}},
                        "Take the config.json that belongs to the weights.");
    const ConfigReader reader(value, subject);
    ModelConfig config;
    ESPALIER_TRY(config.modelType, reader.string("model_type"));
    config.factored = config.modelType.starts_with(kExportPrefix);
    config.baseModelType = config.factored ? config.modelType.substr(kExportPrefix.size()) : config.modelType;
    const ArchitectureAdapter* adapter = findAdapter(config.baseModelType);
    if (adapter == nullptr) return architectureUnsupported(config.modelType, subject);
    config.architecture = adapter->architecture();
    ESPALIER_CHECK_OK(readCommon(reader, *adapter, config));
    ESPALIER_CHECK_OK(readRope(reader, config));
    config.layers.resize(static_cast<std::size_t>(config.layerCount));
    ESPALIER_CHECK_OK(adapter->read(reader, config));
    if (std::none_of(config.layers.begin(), config.layers.end(), [](const LayerConfig& layer) { return layer.moe; }))
        return reader.conflict("decoder_sparse_step", "no layer has experts by decoder_sparse_step and mlp_only_layers");
    ESPALIER_CHECK_OK(readPerLayer(reader, config));
    if (config.factored) ESPALIER_CHECK_OK(readExport(reader, config));
    ESPALIER_CHECK_OK(checkRouters(reader, config));
    config.raw = value;
    return config;
}

ModelShape modelShape(const ModelConfig& config)
{
    const ArchitectureAdapter& adapter = adapterFor(config.architecture);
    const std::int64_t hidden = config.hiddenSize;
    const int bytes = statedBytes(config.dtype);
    std::int64_t sum = 0;
    const TensorSink add = [&](std::string_view, std::span<const std::int64_t> shape) {
        std::int64_t count = 1;
        for (const std::int64_t dimension : shape)
            count *= dimension;
        sum += count;
        return true;
    };

    ModelShape shape;
    shape.modelType = config.modelType;
    shape.architecture = config.architectureName;
    shape.dtype = storageName(config.dtype);
    shape.hiddenSize = config.hiddenSize;
    shape.vocabularySize = config.vocabularySize;
    shape.maxPositions = config.maxPositions;
    shape.tiedEmbeddings = config.tiedEmbeddings;
    forEachTopTensor(config, config.tiedEmbeddings, add);
    shape.embeddingParameters = sum;
    shape.embeddingBytes = sum * bytes;
    for (int i = 0; i < config.layerCount; ++i) {
        const LayerConfig& from = config.layers[static_cast<std::size_t>(i)];
        LayerShape layer;
        layer.index = i;
        layer.moe = from.moe;
        layer.experts = from.experts;
        layer.denseWidth = from.denseWidth;
        sum = 0;
        forEachLayerTensor(adapter, config, i, adapter.names().block, add);
        layer.otherParameters = sum;
        layer.linears = linearShapes(adapter, config, i);
        for (LinearShape& linear : layer.linears) {
            linear.numberBytes = bytes;
            const auto factors = from.linears.find(linear.name);
            if (factors == from.linears.end()) continue;
            linear.sourceRank = factors->second.rank;
            linear.sourceBias = factors->second.bias && !linear.bias;
        }
        if (from.moe) {
            layer.router = config.router;
            layer.router.topK = from.topK;
            layer.router.skip = from.skip;
            layer.expertWidth = from.expertWidth;
            layer.sharedWidth = from.sharedWidth;
            layer.sharedGate = config.sharedGate && from.sharedWidth > 0;
            layer.routerParametersPerExpert = hidden + (adapter.names().routerBias.empty() ? 0 : 1);
            layer.otherParameters -= from.experts * layer.routerParametersPerExpert;
            if (std::any_of(from.ranks.begin(), from.ranks.end(), [](const auto& triple) { return triple != std::array<int, 3>{}; }))
                layer.sourceRanks = from.ranks;
            layer.sourceConstants = from.constants;
            layer.sourceBodies = from.bodies;
            layer.sourceBiases = from.biases;
            layer.sourceWidths = from.widths;
            const std::int64_t expertSum = layer.evenExperts() ? std::int64_t(from.experts) * 3 * hidden * from.expertWidth
                                                               : layer.allExpertParameters(config.hiddenSize);
            layer.expertParameters = expertSum / from.experts;
            layer.otherParameters += expertSum % from.experts;
        }
        layer.bytesPerExpert = layer.expertParameters * bytes;
        layer.routerBytesPerExpert = layer.routerParametersPerExpert * bytes;
        layer.otherBytes = layer.otherParameters * bytes;
        shape.layers.push_back(layer);
    }
    return shape;
}

std::int64_t expectedTensorCount(const ModelConfig& config)
{
    const ArchitectureAdapter& adapter = adapterFor(config.architecture);
    std::int64_t count = 0;
    const TensorSink add = [&](std::string_view, std::span<const std::int64_t>) { return ++count > 0; };
    forEachTopTensor(config, config.tiedEmbeddings, add);
    for (int i = 0; i < config.layerCount; ++i) {
        const LayerConfig& layer = config.layers[static_cast<std::size_t>(i)];
        forEachLayerTensor(adapter, config, i, adapter.names().block, add);
        count += std::int64_t(3) * layer.experts - 2 * std::ssize(layer.constants);
        for (const auto& triple : layer.ranks)
            count += std::count_if(triple.begin(), triple.end(), [](int rank) { return rank > 0; });
        for (const auto& biases : layer.biases)
            count += std::count(biases.begin(), biases.end(), true);
        for (int e = 0; e < layer.experts; ++e) {
            if (layer.bodyOf(e) == e) continue;
            count -= 3;
            for (std::size_t m = 0; m < 3 && !layer.ranks.empty(); ++m)
                count -= (layer.ranks[static_cast<std::size_t>(e)][m] > 0 ? 1 : 0) + (layer.hasBias(e, m) ? 1 : 0);
        }
    }
    return count;
}

}  // namespace espalier
