#include "checkpoint/departures.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace espalier
{

namespace
{

// The keys of compressed-tensors and of MLX mean the same thing as the first.
constexpr std::array<const char*, 3> kQuantisationKeys = {"quantization_config", "compression_config", "quantization"};
constexpr std::array<const char*, 4> kPredictionKeys = {"num_nextn_predict_layers", "num_mtp_layers", "num_mtp_modules",
                                                        "mtp_num_hidden_layers"};
constexpr std::array<const char*, 2> kTypeKeys = {"torch_dtype", "dtype"};
// Lists with an entry per layer, which transformers holds against num_hidden_layers in every family, read or not.
constexpr std::array<const char*, 2> kLayerLists = {"layer_types", "mlp_layer_types"};
// Where null means what absent means here, and transformers takes no null.
constexpr std::array<const char*, 12> kNeverNull = {
    "attention_bias", "mlp_bias",          "qkv_bias",          "use_sliding_window",   "max_position_embeddings", "intermediate_size",
    "auto_map",       "attention_dropout", "initializer_range", "output_router_logits", "router_aux_loss_coef",    "use_cache"};
constexpr std::array<std::string_view, 2> kLayerTypes = {"full_attention", "sliding_attention"};

bool stated(const Json& config, const char* key)
{
    const auto it = config.find(key);
    return it != config.end() && !it->is_null();
}

bool flag(const Json& config, const char* key) { return stated(config, key) && config[key].is_boolean() && config[key].get<bool>(); }

std::string typeName(std::string_view stored)
{
    if (stored == "BF16") return "bfloat16";
    if (stored == "F16") return "float16";
    return stored == "F64" ? "float64" : "float32";
}

std::string_view withoutTorch(std::string_view type)
{
    if (type.starts_with("torch.")) type.remove_prefix(6);
    return type;
}

// A program that converts to the stated type loses digits or range: every type but those that hold all of the stored one.
bool losesBy(std::string_view statedType, std::string_view stored)
{
    const std::string_view type = withoutTorch(statedType);
    if (type == "float64" || type == "double" || type == "auto") return false;
    if (type == "float32" || type == "float") return stored == "F64";
    return type != typeName(stored);
}

// What torch has under its name and nothing is lost by.
bool keepsType(const std::string& statedType, std::string_view stored)
{
    return (statedType == "float32" || statedType == "float64" || statedType == typeName(stored)) && !losesBy(statedType, stored);
}

// Whether `architectures` says something else than the one class. Absent, null and empty say nothing.
bool namesOtherClasses(const ModelConfig& config)
{
    if (!stated(config.raw, "architectures")) return false;
    const Json& names = config.raw["architectures"];
    return !(names.is_array() && names.empty()) && names != Json::array({stockClassName(config.architecture)});
}

bool promises(const Json& config, const char* key) { return stated(config, key) && config[key] != 0; }

// A padding token that the embedding has no row for: transformers' embedding is then not made at all.
bool padsBeyond(const ModelConfig& config)
{
    const auto pad = config.raw.find("pad_token_id");
    return pad != config.raw.end() && pad->is_number_integer() && pad->get<std::int64_t>() >= config.vocabularySize;
}

bool listsOtherLayers(const ModelConfig& config, const char* key)
{
    if (!stated(config.raw, key)) return false;
    const Json& list = config.raw[key];
    if (!list.is_array() || list.size() != config.layers.size()) return true;
    // What no release knows keeps it from loading; other kinds of attention belong to other families.
    return std::string_view(key) == "layer_types" && std::any_of(list.begin(), list.end(), [](const Json& type) {
               return std::find(kLayerTypes.begin(), kLayerTypes.end(), type) == kLayerTypes.end();
           });
}

// What the reading filled in and transformers would fill in otherwise: its classes have numbers of their own for what is absent.
void addFilledIn(const ModelConfig& config, std::vector<ConfigDeparture>& departures)
{
    const Json& raw = config.raw;
    const bool headsByDefault = config.architecture == Architecture::DeepseekV2 || config.architecture == Architecture::Olmoe;
    if (!headsByDefault && !stated(raw, "num_key_value_heads")) departures.push_back({"num_key_value_heads", config.kvHeads});
    // Of latent attention it is the rotated part, and a number of an older release is taken at its word.
    if (config.mla && stated(raw, "head_dim") && raw["head_dim"] != config.mla->ropeHeadDim)
        departures.push_back({"head_dim", config.mla->ropeHeadDim});
    else if (config.architecture != Architecture::Mixtral && raw.contains("head_dim") && raw["head_dim"].is_null())
        departures.push_back({"head_dim", nullptr});
    // Its yarn multiplies head_dim, which its Mixtral leaves empty.
    if (config.architecture == Architecture::Mixtral && config.rope.type != RopeScaling::Type::None && !stated(raw, "head_dim"))
        departures.push_back({"head_dim", config.headDim});
    if (config.rope.type == RopeScaling::Type::None) return;
    for (const char* key : {"rope_parameters", "rope_scaling"}) {
        if (!stated(raw, key) || !raw[key].is_object() || raw[key].empty() || raw[key].contains("factor")) continue;
        Json scaling = raw[key];
        scaling["factor"] = config.rope.factor;
        departures.push_back({key, std::move(scaling)});
    }
}

std::string quantisationMethod(const Json& value)
{
    const auto method = value.is_object() ? value.find("quant_method") : value.end();
    return value.is_object() && method != value.end() && method->is_string() ? method->get<std::string>() : std::string();
}

bool endsWithAny(std::string_view name, std::initializer_list<std::string_view> ends)
{
    return std::any_of(ends.begin(), ends.end(), [&](std::string_view end) { return name.ends_with(end); });
}

// A matrix, or packed digits of one; not a counter or a mask that some version stored as well.
bool holdsWeights(std::string_view name)
{
    return endsWithAny(name, {".weight", "weight_packed", "qweight", "qzeros", "_blocks", "_packed", "_proj", ".quant_map"});
}

bool isScale(std::string_view name)
{
    return endsWithAny(name, {"_scale_inv", "weight_scale", "weight_scale_2", ".scales", ".biases", "_scales", ".absmax", ".SCB"});
}

// "module.Class", "repository--module.Class"
void addClass(const Json& value, std::vector<std::string>& files)
{
    if (!value.is_string()) return;
    const auto& text = value.get_ref<const std::string&>();
    const std::size_t repository = text.rfind("--");
    const std::size_t dot = text.find('.', repository == std::string::npos ? 0 : repository);
    std::string file = text.substr(0, dot) + ".py";
    if (std::find(files.begin(), files.end(), file) == files.end()) files.push_back(std::move(file));
}

}  // namespace

bool promisesPrediction(const ModelConfig& config)
{
    return std::any_of(kPredictionKeys.begin(), kPredictionKeys.end(), [&](const char* key) { return promises(config.raw, key); });
}

std::string stockClassName(Architecture architecture)
{
    switch (architecture) {
        case Architecture::Mixtral:
            return "MixtralForCausalLM";
        case Architecture::Qwen2Moe:
            return "Qwen2MoeForCausalLM";
        case Architecture::Qwen3Moe:
            return "Qwen3MoeForCausalLM";
        case Architecture::Olmoe:
            return "OlmoeForCausalLM";
        case Architecture::DeepseekV2:
            return "DeepseekV2ForCausalLM";
        case Architecture::DeepseekV3:
            return "DeepseekV3ForCausalLM";
    }
    return {};
}

std::vector<ConfigDeparture> configDepartures(const Checkpoint& checkpoint)
{
    const ModelConfig& config = checkpoint.config();
    const Json& raw = config.raw;
    std::vector<ConfigDeparture> departures;
    const bool tied = checkpoint.shape().tiedEmbeddings;
    if (flag(raw, "tie_word_embeddings") != tied || (raw.contains("tie_word_embeddings") && !raw["tie_word_embeddings"].is_boolean()))
        departures.push_back({"tie_word_embeddings", tied});
    for (const char* key : kQuantisationKeys)
        if (stated(raw, key)) departures.push_back({key, nullptr});
    for (const char* key : kPredictionKeys)
        if (promises(raw, key)) departures.push_back({key, 0});
    for (const char* key : kTypeKeys)
        if (stated(raw, key) && raw[key].is_string() && !keepsType(raw[key].get_ref<const std::string&>(), checkpoint.shape().dtype))
            departures.push_back({key, typeName(checkpoint.shape().dtype)});
    // transformers' own class does not read it, the code published with the model and other runtimes do.
    if (config.architecture == Architecture::DeepseekV2 && flag(raw, "norm_topk_prob")) departures.push_back({"norm_topk_prob", false});
    for (const char* key : kNeverNull)
        if (raw.contains(key) && raw[key].is_null()) departures.push_back({key, nullptr});
    for (const char* key : kLayerLists)
        if (listsOtherLayers(config, key)) departures.push_back({key, nullptr});
    if (padsBeyond(config)) departures.push_back({"pad_token_id", nullptr});
    if (flag(raw, "use_sliding_window") && !stated(raw, "sliding_window")) departures.push_back({"use_sliding_window", false});
    if (raw.contains("text_config")) departures.push_back({"text_config", nullptr});
    addFilledIn(config, departures);
    // A factored export names its own class and code; what becomes of them depends on what it is exported as.
    if (config.factored) return departures;
    if (namesOtherClasses(config)) departures.push_back({"architectures", Json::array({stockClassName(config.architecture)})});
    for (const char* key : {"auto_map", "custom_pipelines"})
        if (stated(raw, key)) departures.push_back({key, nullptr});
    return departures;
}

std::vector<std::string> departureWarnings(const ModelConfig& config, const StoredFacts& facts)
{
    const Json& raw = config.raw;
    std::vector<std::string> warnings;
    const bool statedTied = flag(raw, "tie_word_embeddings");
    if (facts.tied && !statedTied)
        warnings.emplace_back(
            "lm_head.weight is not in the files although config.json says that embeddings are not tied: the output layer uses the "
            "embedding.");
    if (facts.tied && facts.head)
        warnings.emplace_back("The embeddings are tied and only lm_head.weight is in the files: it is the embedding as well.");
    if (!facts.tied && statedTied)
        warnings.emplace_back(
            "config.json says that embeddings are tied, but lm_head.weight is in the files: the output layer uses that one.");
    for (const char* key : kQuantisationKeys) {
        if (!stated(raw, key)) continue;
        const std::string method = quantisationMethod(raw[key]);
        warnings.push_back(fmt::format("config.json has a {}{}, but the weights are stored as {}: the key was left over and is ignored.",
                                       key, method.empty() ? "" : fmt::format(" ({})", method), facts.dtype));
    }
    for (const char* key : kPredictionKeys)
        if (promises(raw, key) && facts.layersBeyond == 0)
            warnings.push_back(fmt::format(
                "config.json promises layers for multi-token prediction ({} {}) that are not in the files; they are no part of the model.",
                key, raw[key].dump()));
    for (const char* key : kTypeKeys)
        if (stated(raw, key) && raw[key].is_string() && losesBy(raw[key].get_ref<const std::string&>(), facts.dtype))
            warnings.push_back(fmt::format("config.json says {} {}, but most weights are stored as {} and read as that.", key,
                                           raw[key].get_ref<const std::string&>(), facts.dtype));
    if (!config.factored && namesOtherClasses(config) && config.architectureName != stockClassName(config.architecture))
        warnings.push_back(
            fmt::format("config.json names the class {}: the model is computed as {}, which transformers has for model_type {}.",
                        config.architectureName, stockClassName(config.architecture), config.modelType));
    for (const char* key : kLayerLists)
        if (listsOtherLayers(config, key))
            warnings.push_back(
                fmt::format("{} of config.json is not a list of {} known entries, one per layer; this family does not read it.", key,
                            config.layerCount));
    if (padsBeyond(config))
        warnings.push_back(fmt::format("pad_token_id {} of config.json is beyond the {} rows of the embedding and is ignored.",
                                       raw["pad_token_id"].dump(), config.vocabularySize));
    if (stated(raw, "text_config")) warnings.emplace_back("config.json has a text_config; the model is read from the keys beside it.");
    return warnings;
}

Status checkNotQuantised(const ModelConfig& config, std::span<const TensorInfo> tensors, std::string_view file)
{
    const char* key = nullptr;
    for (const char* candidate : kQuantisationKeys)
        if (key == nullptr && stated(config.raw, candidate)) key = candidate;
    if (key == nullptr) return {};
    const std::string method = quantisationMethod(config.raw[key]);
    const std::string says =
        method.empty() ? fmt::format("config.json has a {}", key) : fmt::format("config.json has a {} ({})", key, method);
    const TensorInfo* scale = nullptr;
    for (const TensorInfo& tensor : tensors) {
        if (!isFloating(tensor.dtype) && (holdsWeights(tensor.name) || isScale(tensor.name)))
            return unsupported(
                "checkpoint.quantization_unsupported", tensor.name,
                {"{says}, and {name} in {file} is stored as {dtype_name}: the weights are in a quantised form, which is not read yet.",
                 {{"says", says}, {"name", tensor.name}, {"file", file}, {"dtype_name", dtypeName(tensor.dtype)}}},
                "Open the unquantised checkpoint of this model.");
        if (scale == nullptr && isScale(tensor.name)) scale = &tensor;
    }
    if (scale == nullptr) return {};
    return unsupported(
        "checkpoint.quantization_unsupported", scale->name,
        {"{says}, and {scale} in {file} is a scale of quantised weights: whether it was applied to the weights cannot be seen.",
         {{"says", says}, {"scale", scale->name}, {"file", file}}},
        "Open the unquantised checkpoint of this model; where the weights were converted with their scales, remove the scales "
        "from the files and the key from config.json.");
}

std::vector<std::string> pythonFilesNamedBy(const Json& object)
{
    std::vector<std::string> files;
    if (!object.is_object()) return files;
    // In old tokenizer_config.json files the map is the list of the tokenizer's two classes.
    if (const auto map = object.find("auto_map"); map != object.end() && (map->is_object() || map->is_array()))
        for (const auto& [name, value] : map->items()) {
            if (value.is_array())
                for (const Json& one : value)
                    addClass(one, files);
            else
                addClass(value, files);
        }
    if (const auto pipelines = object.find("custom_pipelines"); pipelines != object.end() && pipelines->is_object())
        for (const auto& [name, value] : pipelines->items())
            if (value.is_object() && value.contains("impl")) addClass(value["impl"], files);
    return files;
}

}  // namespace espalier
