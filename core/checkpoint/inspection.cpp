#include "checkpoint/checkpoint.h"
#include "checkpoint/tensor_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

namespace espalier
{

namespace
{

std::string findTokenizer(const std::filesystem::path& folder)
{
    std::error_code failure;
    for (const char* name : {"tokenizer.json", "tokenizer.model"})
        if (std::filesystem::is_regular_file(folder / name, failure)) return name;
    return {};
}

std::vector<std::string_view> components(std::string_view name)
{
    std::vector<std::string_view> parts;
    while (true) {
        const std::size_t dot = name.find('.');
        parts.push_back(name.substr(0, dot));
        if (dot == std::string_view::npos) return parts;
        name.remove_prefix(dot + 1);
    }
}

int numberOf(std::string_view text)
{
    int number = -1;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
    return failure == std::errc() && end == text.data() + text.size() && number >= 0 ? number : -1;
}

// Parameters a tensor stands for: scales beside quantised weights are none, a byte of MXFP4 blocks holds two.
std::int64_t parametersOf(const TensorInfo& info)
{
    const std::string_view name = info.name;
    if (name.ends_with("_scale_inv") || name.ends_with("_scales") || name.ends_with(".weight_scale")) return 0;
    return info.elementCount() * (name.ends_with("_blocks") && info.dtype == DType::U8 ? 2 : 1);
}

struct LayerSums {
    std::set<int> experts;
    std::int64_t fusedExperts = 0;
    std::int64_t expertParameters = 0;
    std::int64_t sharedParameters = 0;
    std::int64_t parameters = 0;
    std::int64_t bytes = 0;
};

// Any family, by what its names have in common: "layers.<i>." and below it "experts.<e>." or a three-dimensional "experts.<matrix>".
void countLayers(const TensorFiles& source, const Json& config, Inspection& result)
{
    const auto number = [&](std::initializer_list<const char*> keys, int otherwise) {
        for (const char* key : keys) {
            const auto it = config.find(key);
            if (it != config.end() && it->is_number_unsigned() && it->get<std::uint64_t>() <= 1u << 30) return it->get<int>();
        }
        return otherwise;
    };
    result.hiddenSize = number({"hidden_size"}, 0);
    result.vocabularySize = number({"vocab_size"}, 0);
    result.maxPositions = number({"max_position_embeddings"}, 0);
    const int layerCount = number({"num_hidden_layers"}, 0);
    const int topK = number({"num_experts_per_tok", "experts_per_token", "moe_topk"}, 0);
    std::map<int, LayerSums> layers;
    std::map<DType, std::uint64_t> byType;
    std::size_t beyond = 0;
    bool perExpert = false;
    bool fused = false;
    bool head = false;
    for (const SafetensorsFile& file : source.files)
        for (const TensorInfo& info : file.tensors()) {
            const std::int64_t parameters = parametersOf(info);
            const auto bytes = static_cast<std::int64_t>(info.byteCount());
            byType[info.dtype] += info.byteCount();
            head = head || info.name.ends_with("lm_head.weight");
            const std::vector<std::string_view> parts = components(info.name);
            const auto at = std::find(parts.begin(), parts.end(), "layers");
            const int index = at != parts.end() && at + 1 != parts.end() ? numberOf(at[1]) : -1;
            if (layerCount > 0 && index >= layerCount) {
                ++beyond;
                continue;
            }
            result.parameters += parameters;
            result.bytes += bytes;
            if (index < 0) continue;
            LayerSums& layer = layers[index];
            layer.parameters += parameters;
            layer.bytes += bytes;
            const auto experts = std::find(at, parts.end(), "experts");
            const bool granite = info.name.ends_with(".input_linear.weight") || info.name.ends_with(".output_linear.weight");
            if (experts != parts.end() && experts + 1 != parts.end() && numberOf(experts[1]) >= 0) {
                layer.experts.insert(numberOf(experts[1]));
                layer.expertParameters += parameters;
                perExpert = true;
            } else if ((experts != parts.end() || granite) && info.shape.size() >= 2) {
                layer.fusedExperts = std::max(layer.fusedExperts, info.shape.front());
                layer.expertParameters += parameters;
                fused = true;
            } else if (info.name.find(".shared_expert") != std::string::npos && info.name.find("_gate.") == std::string::npos) {
                layer.sharedParameters += parameters;
            }
        }
    result.expertLayout = perExpert && fused ? "mixed" : perExpert ? "per-expert" : fused ? "fused" : "";
    result.tiedEmbeddings = !head;
    if (beyond > 0)
        result.warnings.push_back(
            fmt::format("{} tensors of layers from {} on (multi-token prediction) are not counted.", beyond, layerCount));
    const auto most = std::max_element(byType.begin(), byType.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    if (most != byType.end()) result.dtype = dtypeName(most->first);
    result.activeParameters = result.parameters;
    for (const auto& [index, sums] : layers) {
        InspectedLayer layer;
        layer.index = index;
        layer.experts = static_cast<int>(
            std::max<std::int64_t>(static_cast<std::int64_t>(sums.experts.size()), std::min<std::int64_t>(sums.fusedExperts, 1 << 20)));
        layer.moe = layer.experts > 0;
        layer.parameters = sums.parameters;
        layer.bytes = sums.bytes;
        layer.sharedParameters = sums.sharedParameters;
        if (layer.moe) {
            layer.topK = std::min(topK, layer.experts);
            layer.expertParameters = sums.expertParameters / layer.experts;
            layer.shared = sums.sharedParameters > 0 ? std::max(1, number({"n_shared_experts", "num_shared_experts"}, 1)) : 0;
            if (layer.topK > 0) result.activeParameters -= (layer.experts - layer.topK) * layer.expertParameters;
        }
        result.layers.push_back(layer);
    }
}

void listFiles(const TensorFiles& source, Inspection& result)
{
    for (std::size_t i = 0; i < source.files.size(); ++i) {
        const SafetensorsFile& file = source.files[i];
        result.shards.push_back({source.names[i], static_cast<std::int64_t>(file.file().size()), static_cast<int>(file.tensors().size())});
        for (const TensorInfo& info : file.tensors())
            result.tensors.push_back(
                {info.name, std::string(dtypeName(info.dtype)), info.shape, static_cast<std::int64_t>(info.byteCount()), source.names[i]});
    }
}

// What can be said about a model whose forward pass is not here.
Result<Inspection> inspectUnsupported(const std::filesystem::path& folder, const Error& reason)
{
    ESPALIER_TRY(const ConfigFile config, readConfigFile(folder));
    ESPALIER_TRY(const TensorFiles source, openTensorFiles(folder));
    Inspection result;
    result.folder = folder;
    result.modelType = config.value.value("model_type", "");
    const auto architectures = config.value.find("architectures");
    if (architectures != config.value.end() && architectures->is_array() && !architectures->empty() && architectures->front().is_string())
        result.architecture = architectures->front().get<std::string>();
    result.warnings.push_back(reason.message);
    result.warnings.insert(result.warnings.end(), source.warnings.begin(), source.warnings.end());
    // Multimodal families nest what describes the language model.
    const auto text = config.value.find("text_config");
    countLayers(source, text != config.value.end() && text->is_object() ? *text : config.value, result);
    listFiles(source, result);
    result.tokenizer = findTokenizer(folder);
    result.configSha256 = config.sha256;
    result.weightsSha256 = source.weightsSha256;
    result.fingerprint = source.fingerprint(config.sha256);
    return result;
}

}  // namespace

Inspection inspect(const Checkpoint& checkpoint)
{
    const ModelShape& shape = checkpoint.shape();
    const ModelConfig& config = checkpoint.config();
    Inspection result;
    result.folder = checkpoint.folder();
    result.modelType = shape.modelType;
    result.architecture = shape.architecture;
    result.parameters = shape.parameters();
    result.activeParameters = shape.activeParameters();
    result.bytes = shape.bytes();
    result.dtype = shape.dtype;
    result.hiddenSize = shape.hiddenSize;
    result.vocabularySize = shape.vocabularySize;
    result.maxPositions = shape.maxPositions;
    result.tiedEmbeddings = shape.tiedEmbeddings;
    result.forwardSupported = checkpoint.forwardSupported();
    result.factored = config.factored;
    bool perExpert = false;
    bool fused = false;
    for (const LayerShape& from : shape.layers) {
        InspectedLayer layer;
        layer.index = from.index;
        layer.moe = from.moe;
        layer.experts = from.experts;
        layer.topK = from.router.topK;
        layer.expertParameters = from.expertParameters;
        layer.shared = from.sharedWidth > 0 ? config.sharedExperts : 0;
        layer.sharedParameters = std::int64_t(3) * shape.hiddenSize * from.sharedWidth;
        layer.parameters = from.otherParameters + from.experts * (from.expertParameters + from.routerParametersPerExpert);
        layer.bytes = from.otherBytes + from.experts * (from.bytesPerExpert + from.routerBytesPerExpert);
        result.layers.push_back(layer);
        if (from.moe) (checkpoint.fusedExperts(from.index) ? fused : perExpert) = true;
    }
    result.expertLayout = perExpert && fused ? "mixed" : fused ? "fused" : "per-expert";
    result.tokenizer = findTokenizer(checkpoint.folder());
    result.fingerprint = checkpoint.fingerprint();
    result.configSha256 = checkpoint.configSha256();
    result.weightsSha256 = checkpoint.weightsSha256();
    result.warnings = checkpoint.warnings();
    for (const std::string& name : checkpoint.shardNames()) {
        std::error_code failure;
        result.shards.push_back({name, static_cast<std::int64_t>(std::filesystem::file_size(checkpoint.folder() / name, failure)), 0});
    }
    std::size_t shard = 0;
    for (StoredTensor& stored : checkpoint.tensorsInOrder()) {
        while (result.shards[shard].name != stored.shard)
            ++shard;
        ++result.shards[shard].tensors;
        result.tensors.push_back({std::move(stored.view.name), std::string(dtypeName(stored.view.dtype)), std::move(stored.view.shape),
                                  static_cast<std::int64_t>(stored.view.bytes.size()), std::move(stored.shard)});
    }
    return result;
}

Result<Inspection> inspect(const std::filesystem::path& folder)
{
    const auto checkpoint = Checkpoint::open(folder);
    if (checkpoint) return inspect(**checkpoint);
    if (checkpoint.error().kind != ErrorKind::Unsupported) return checkpoint.error();
    auto result = inspectUnsupported(folder, checkpoint.error());
    if (result) return result;
    Error error = result.error();
    if (error.kept.empty()) error.kept = "Nothing was loaded.";
    return error;
}

Json toJson(const Inspection& inspection, bool tensors)
{
    Json layers = Json::array();
    for (const InspectedLayer& layer : inspection.layers)
        layers.push_back({{"index", layer.index},
                          {"kind", layer.moe ? "moe" : "dense"},
                          {"experts", layer.experts},
                          {"top_k", layer.topK},
                          {"expert_parameters", layer.expertParameters},
                          {"shared", layer.shared},
                          {"shared_parameters", layer.sharedParameters},
                          {"parameters", layer.parameters},
                          {"bytes", layer.bytes}});
    Json shards = Json::array();
    for (const InspectedShard& shard : inspection.shards)
        shards.push_back({{"name", shard.name}, {"bytes", shard.bytes}, {"tensors", shard.tensors}});
    Json json = {{"model", {{"path", inspection.folder.string()}, {"fingerprint", inspection.fingerprint}}},
                 {"model_type", inspection.modelType},
                 {"architecture", inspection.architecture},
                 {"layers", std::move(layers)},
                 {"parameters", inspection.parameters},
                 {"active_parameters", inspection.activeParameters},
                 {"bytes", inspection.bytes},
                 {"dtype", inspection.dtype},
                 {"hidden_size", inspection.hiddenSize},
                 {"vocabulary_size", inspection.vocabularySize},
                 {"max_positions", inspection.maxPositions},
                 {"tied_embeddings", inspection.tiedEmbeddings},
                 {"tokenizer", inspection.tokenizer.empty() ? Json(nullptr) : Json(inspection.tokenizer)},
                 {"forward_supported", inspection.forwardSupported},
                 {"factored", inspection.factored},
                 {"expert_layout", inspection.expertLayout},
                 {"config_sha256", inspection.configSha256},
                 {"weights_sha256", inspection.weightsSha256},
                 {"shards", std::move(shards)},
                 {"tensor_count", inspection.tensors.size()},
                 {"warnings", inspection.warnings}};
    if (tensors) {
        Json list = Json::array();
        for (const InspectedTensor& tensor : inspection.tensors)
            list.push_back({{"name", tensor.name},
                            {"dtype", tensor.dtype},
                            {"shape", tensor.shape},
                            {"bytes", tensor.bytes},
                            {"shard", tensor.shard}});
        json["tensors"] = std::move(list);
    }
    return json;
}

}  // namespace espalier
