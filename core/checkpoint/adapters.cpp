#include "checkpoint/adapter.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

namespace espalier
{

namespace
{

const std::array<const ArchitectureAdapter*, 6>& adapters()
{
    static const std::array<const ArchitectureAdapter*, 6> all = {&deepseekV2Adapter(), &deepseekV3Adapter(), &mixtralAdapter(),
                                                                  &olmoeAdapter(),      &qwen2MoeAdapter(),   &qwen3MoeAdapter()};
    return all;
}

constexpr std::string_view kKnown[] = {"glm4_moe", "gpt_oss", "granitemoe", "llama4", "phimoe"};

}  // namespace

const ArchitectureAdapter* findAdapter(std::string_view modelType)
{
    for (const ArchitectureAdapter* adapter : adapters())
        if (adapter->modelType() == modelType) return adapter;
    return nullptr;
}

const ArchitectureAdapter& adapterFor(Architecture architecture)
{
    return **std::find_if(adapters().begin(), adapters().end(), [&](const auto* a) { return a->architecture() == architecture; });
}

std::vector<std::string> supportedModelTypes()
{
    std::vector<std::string> names;
    for (const ArchitectureAdapter* adapter : adapters())
        names.emplace_back(adapter->modelType());
    std::sort(names.begin(), names.end());
    return names;
}

bool isKnownModelType(std::string_view modelType)
{
    return findAdapter(modelType) != nullptr || std::find(std::begin(kKnown), std::end(kKnown), modelType) != std::end(kKnown);
}

Error architectureUnsupported(std::string_view modelType, std::string_view subject)
{
    return unsupported(
        "checkpoint.architecture_unsupported", fmt::format("model_type {}", modelType),
        {"{subject} says model_type {shown}, which {is_known_model_type}. Supported are {supported_model_types}.",
         {{"subject", subject},
          {"shown", ConfigReader::shown(std::string(modelType))},
          {"is_known_model_type", isKnownModelType(modelType) ? "can be inspected, but not run or compressed yet" : "is not known"},
          {"supported_model_types", fmt::format("{}", fmt::join(supportedModelTypes(), ", "))}}},
        "Open a checkpoint of a supported architecture.");
}

bool ArchitectureAdapter::attention(const ModelConfig& config, std::string_view prefix, const TensorSink& sink) const
{
    const std::int64_t hidden = config.hiddenSize;
    const std::int64_t q = std::int64_t(config.heads) * config.headDim;
    const std::int64_t kv = std::int64_t(config.kvHeads) * config.headDim;
    const auto matrix = [&](const char* name, std::int64_t rows, std::int64_t columns) {
        return sink(fmt::format("{}{}.weight", prefix, name), std::array{rows, columns});
    };
    const auto vector = [&](const char* name, std::int64_t size) { return sink(fmt::format("{}{}", prefix, name), std::array{size}); };
    if (!matrix("q_proj", q, hidden) || !matrix("k_proj", kv, hidden) || !matrix("v_proj", kv, hidden) || !matrix("o_proj", hidden, q))
        return false;
    if (config.qkvBias && (!vector("q_proj.bias", q) || !vector("k_proj.bias", kv) || !vector("v_proj.bias", kv))) return false;
    if (config.outputBias && !vector("o_proj.bias", hidden)) return false;
    switch (config.qkNorm) {
        case QkNorm::None:
            return true;
        case QkNorm::Whole:
            return vector("q_norm.weight", q) && vector("k_norm.weight", kv);
        case QkNorm::PerHead:
            return vector("q_norm.weight", config.headDim) && vector("k_norm.weight", config.headDim);
    }
    return true;
}

Result<int> readExpertCount(const ConfigReader& reader, ModelConfig& config, std::initializer_list<const char*> spellings)
{
    std::optional<int> count;
    for (const char* key : spellings) {
        ESPALIER_TRY(const std::optional<int> value, reader.optionalInteger(key, 1, kMaxExperts));
        if (!value) continue;
        if (count && *count != *value)
            return reader.conflict(key, fmt::format("{} is {}, but {} is {}; they spell the same number", config.expertCountKeys.front(),
                                                    *count, key, *value));
        count = value;
        config.expertCountKeys.emplace_back(key);
    }
    if (!count) return reader.missing(*spellings.begin());
    return *count;
}

Result<int> readTopK(const ConfigReader& reader) { return reader.integer("num_experts_per_tok", 1, std::numeric_limits<int>::max()); }

Status setLayers(const ConfigReader& reader, ModelConfig& config, int experts, int expertWidth, int sharedWidth,
                 const std::function<bool(int)>& isMoe)
{
    for (int i = 0; i < config.layerCount; ++i) {
        LayerConfig& layer = config.layers[static_cast<std::size_t>(i)];
        layer.moe = isMoe(i);
        if (layer.moe) {
            layer.experts = experts;
            layer.topK = config.router.topK;
            layer.expertWidth = expertWidth;
            layer.sharedWidth = sharedWidth;
        } else {
            ESPALIER_TRY(layer.denseWidth, reader.integer("intermediate_size", 1, kMaxWidth));
        }
    }
    return {};
}

Result<std::vector<bool>> readSparseLayers(const ConfigReader& reader, const ModelConfig& config)
{
    ESPALIER_TRY(const int step, reader.integer("decoder_sparse_step", 1, std::numeric_limits<int>::max()));
    ESPALIER_TRY(const std::vector<int> dense, reader.integers("mlp_only_layers", 0, std::numeric_limits<int>::max()));
    std::vector<bool> moe(static_cast<std::size_t>(config.layerCount));
    for (int i = 0; i < config.layerCount; ++i)
        moe[static_cast<std::size_t>(i)] = (i + 1) % step == 0;
    for (const int i : dense)
        if (i < config.layerCount) moe[static_cast<std::size_t>(i)] = false;
    return moe;
}

namespace
{

// As the family has them, all whole.
bool forEachWholeTensor(const ArchitectureAdapter& adapter, const ModelConfig& config, int index, std::string_view block,
                        const TensorSink& sink)
{
    const LayerConfig& layer = config.layers[static_cast<std::size_t>(index)];
    const MoeNames& names = adapter.names();
    const std::string prefix = fmt::format("model.layers.{}.", index);
    const std::int64_t hidden = config.hiddenSize;
    for (const char* norm : {"input_layernorm.weight", "post_attention_layernorm.weight"})
        if (!sink(prefix + norm, std::array{hidden})) return false;
    if (!adapter.attention(config, prefix + "self_attn.", sink)) return false;
    const auto mlp = [&](const std::string& path, std::int64_t width) {
        return sink(path + ".gate_proj.weight", std::array{width, hidden}) && sink(path + ".up_proj.weight", std::array{width, hidden}) &&
               sink(path + ".down_proj.weight", std::array{hidden, width});
    };
    if (!layer.moe) return mlp(prefix + "mlp", layer.denseWidth);
    if (!sink(fmt::format("{}{}.gate.weight", prefix, block), std::array{std::int64_t(layer.experts), hidden})) return false;
    if (!names.routerBias.empty() &&
        !sink(fmt::format("{}{}.{}", prefix, block, names.routerBias), std::array{std::int64_t(layer.experts)}))
        return false;
    if (layer.sharedWidth > 0 && !mlp(fmt::format("{}{}.{}", prefix, block, names.shared), layer.sharedWidth)) return false;
    return !config.sharedGate || layer.sharedWidth == 0 ||
           sink(fmt::format("{}{}.{}.weight", prefix, block, names.sharedGate), std::array{std::int64_t(1), hidden});
}

constexpr std::string_view kWeight = ".weight";

}  // namespace

std::vector<LinearShape> linearShapes(const ArchitectureAdapter& adapter, const ModelConfig& config, int index)
{
    const std::string prefix = fmt::format("model.layers.{}.", index);
    const MoeNames& names = adapter.names();
    std::vector<LinearShape> linears;
    forEachWholeTensor(adapter, config, index, names.block, [&](std::string_view name, std::span<const std::int64_t> shape) {
        name.remove_prefix(prefix.size());
        // Routers and the gate of a shared expert choose; they are no maps that are compressed.
        const bool chooses = name == fmt::format("{}.gate.weight", names.block) ||
                             (!names.sharedGate.empty() && name == fmt::format("{}.{}.weight", names.block, names.sharedGate));
        if (shape.size() == 2 && name.ends_with(kWeight) && !chooses) {
            LinearShape linear;
            linear.name = std::string(name.substr(0, name.size() - kWeight.size()));
            linear.out = shape[0];
            linear.in = shape[1];
            linears.push_back(std::move(linear));
        } else if (name.ends_with(".bias")) {
            const std::string_view of = name.substr(0, name.size() - std::string_view(".bias").size());
            for (LinearShape& linear : linears)
                linear.bias = linear.bias || linear.name == of;
        }
        return true;
    });
    return linears;
}

bool forEachLayerTensor(const ArchitectureAdapter& adapter, const ModelConfig& config, int index, std::string_view block,
                        const TensorSink& sink)
{
    const LayerConfig& layer = config.layers[static_cast<std::size_t>(index)];
    if (layer.linears.empty()) return forEachWholeTensor(adapter, config, index, block, sink);
    const std::string prefix = fmt::format("model.layers.{}.", index);
    const std::vector<LinearShape> linears = linearShapes(adapter, config, index);
    return forEachWholeTensor(adapter, config, index, block, [&](std::string_view name, std::span<const std::int64_t> shape) {
        if (!name.ends_with(kWeight)) return sink(name, shape);
        const std::string_view stem = name.substr(0, name.size() - kWeight.size());
        const auto factors = layer.linears.find(stem.substr(prefix.size()));
        if (factors == layer.linears.end()) return sink(name, shape);
        const std::int64_t rank = factors->second.rank;
        const bool ownBias =
            std::any_of(linears.begin(), linears.end(), [&](const LinearShape& l) { return l.name == factors->first && l.bias; });
        return sink(fmt::format("{}.U", stem), std::array{shape[0], rank}) && sink(fmt::format("{}.V", stem), std::array{rank, shape[1]}) &&
               (!factors->second.bias || ownBias || sink(fmt::format("{}.bias", stem), std::array{shape[0]}));
    });
}

bool forEachTopTensor(const ModelConfig& config, bool tied, const TensorSink& sink)
{
    const std::int64_t hidden = config.hiddenSize;
    const std::int64_t vocabulary = config.vocabularySize;
    return sink("model.embed_tokens.weight", std::array{vocabulary, hidden}) && sink("model.norm.weight", std::array{hidden}) &&
           (tied || sink("lm_head.weight", std::array{vocabulary, hidden}));
}

}  // namespace espalier
