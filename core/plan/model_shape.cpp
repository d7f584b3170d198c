#include "plan/model_shape.h"

#include "plan/routing.h"

#include <fmt/format.h>

#include <algorithm>

namespace espalier
{

namespace
{

constexpr std::pair<RoutingRule, const char*> kRules[] = {
    {RoutingRule::SoftmaxRenormalised, "softmax_renormalised"},
    {RoutingRule::Softmax, "softmax"},
    {RoutingRule::GroupLimitedSoftmax, "group_limited_softmax"},
    {RoutingRule::SigmoidBias, "sigmoid_bias"},
    {RoutingRule::Unknown, "unknown"},
};

// [name, out, in, bytes of a number, bias, rank, bias of factors]
Json linearsJson(const LayerShape& layer)
{
    Json list = Json::array();
    for (const LinearShape& linear : layer.linears)
        list.push_back({linear.name, linear.out, linear.in, linear.numberBytes, linear.bias, linear.sourceRank, linear.sourceBias});
    return list;
}

LinearShape linearFromJson(const Json& item)
{
    return {.name = item.at(0),
            .out = item.at(1),
            .in = item.at(2),
            .bias = item.at(4),
            .sourceRank = item.at(5),
            .sourceBias = item.at(6),
            .numberBytes = item.at(3)};
}

}  // namespace

int ModelShape::moeLayerCount() const
{
    return static_cast<int>(std::count_if(layers.begin(), layers.end(), [](const LayerShape& l) { return l.moe; }));
}

int ModelShape::maxExperts() const
{
    int most = 0;
    for (const LayerShape& layer : layers)
        most = std::max(most, layer.experts);
    return most;
}

std::int64_t ModelShape::totalExperts() const
{
    std::int64_t total = 0;
    for (const LayerShape& layer : layers)
        total += layer.experts;
    return total;
}

std::int64_t ModelShape::parameters() const
{
    std::int64_t total = embeddingParameters;
    for (const LayerShape& layer : layers)
        total += layer.otherParameters + layer.experts * (layer.expertParameters + layer.routerParametersPerExpert);
    return total;
}

std::int64_t ModelShape::bytes() const
{
    std::int64_t total = embeddingBytes;
    for (const LayerShape& layer : layers)
        total += layer.otherBytes + layer.experts * (layer.bytesPerExpert + layer.routerBytesPerExpert);
    return total;
}

std::int64_t ModelShape::activeParameters() const
{
    std::int64_t total = embeddingParameters;
    for (const LayerShape& layer : layers)
        total += layer.otherParameters + layer.experts * layer.routerParametersPerExpert + layer.router.topK * layer.expertParameters;
    return total;
}

const LinearShape* LayerShape::linear(std::string_view name) const
{
    const auto found = std::find_if(linears.begin(), linears.end(), [&](const LinearShape& linear) { return linear.name == name; });
    return found == linears.end() ? nullptr : &*found;
}

bool LayerShape::isSourceConstant(int expert) const { return std::binary_search(sourceConstants.begin(), sourceConstants.end(), expert); }

std::int64_t LayerShape::expertParametersOf(int expert, int hiddenSize) const
{
    if (evenExperts()) return expertParameters;
    if (isSourceConstant(expert)) return hiddenSize;
    const std::int64_t width = widthOf(expert);
    const std::int64_t whole = hiddenSize * width;
    std::int64_t total = 0;
    if (sourceRanks.empty()) return 3 * whole;
    for (const int rank : sourceRanks[static_cast<std::size_t>(expert)])
        total += rank > 0 ? rank * (hiddenSize + width) : whole;
    for (std::size_t m = 0; m < 3 && !sourceBiases.empty(); ++m)
        if (sourceBiases[static_cast<std::size_t>(expert)][m]) total += m == 2 ? hiddenSize : width;
    return total;
}

std::int64_t LayerShape::allExpertParameters(int hiddenSize) const
{
    if (evenExperts()) return experts * expertParameters;
    std::int64_t total = 0;
    for (int e = 0; e < experts; ++e)
        if (sourceBodyOf(e) == e) total += expertParametersOf(e, hiddenSize);
    return total;
}

Json toJson(const ModelShape& shape, bool linears)
{
    Json layers = Json::array();
    for (const LayerShape& layer : shape.layers) {
        const char* rule = "unknown";
        for (const auto& [value, name] : kRules)
            if (value == layer.router.rule) rule = name;
        layers.push_back({{"index", layer.index},
                          {"moe", layer.moe},
                          {"experts", layer.experts},
                          {"router",
                           {{"rule", rule},
                            {"top_k", layer.router.topK},
                            {"groups", layer.router.groups},
                            {"top_groups", layer.router.topGroups},
                            {"scaling", layer.router.scaling},
                            {"normalise", layer.router.normalise}}},
                          {"expert_width", layer.expertWidth},
                          {"shared_width", layer.sharedWidth},
                          {"shared_gate", layer.sharedGate},
                          {"dense_width", layer.denseWidth},
                          {"expert_parameters", layer.expertParameters},
                          {"router_parameters_per_expert", layer.routerParametersPerExpert},
                          {"other_parameters", layer.otherParameters},
                          {"bytes_per_expert", layer.bytesPerExpert},
                          {"router_bytes_per_expert", layer.routerBytesPerExpert},
                          {"other_bytes", layer.otherBytes}});
        if (const auto& skip = layer.router.skip)
            layers.back()["router"]["skip"] = {{"rule", kSkipRuleNames[static_cast<std::size_t>(skip->kind)]},
                                               {"threshold_millionths", skip->thresholdMillionths}};
        if (!layer.sourceRanks.empty()) layers.back()["source_ranks"] = layer.sourceRanks;
        if (!layer.sourceConstants.empty()) layers.back()["source_constants"] = layer.sourceConstants;
        if (!layer.sourceBiases.empty()) layers.back()["source_biases"] = layer.sourceBiases;
        if (!layer.sourceWidths.empty()) layers.back()["source_widths"] = layer.sourceWidths;
        if (!layer.sourceBodies.empty()) layers.back()["source_bodies"] = layer.sourceBodies;
        if (linears && !layer.linears.empty()) layers.back()["linears"] = linearsJson(layer);
    }
    return {{"model_type", shape.modelType},
            {"architecture", shape.architecture},
            {"dtype", shape.dtype},
            {"hidden_size", shape.hiddenSize},
            {"vocabulary_size", shape.vocabularySize},
            {"max_positions", shape.maxPositions},
            {"tied_embeddings", shape.tiedEmbeddings},
            {"embedding_parameters", shape.embeddingParameters},
            {"embedding_bytes", shape.embeddingBytes},
            {"layers", layers}};
}

Result<ModelShape> modelShapeFromJson(const Json& value)
{
    try {
        ModelShape shape;
        shape.modelType = value.at("model_type");
        shape.architecture = value.at("architecture");
        shape.dtype = value.at("dtype");
        shape.hiddenSize = value.at("hidden_size");
        shape.vocabularySize = value.at("vocabulary_size");
        shape.maxPositions = value.at("max_positions");
        shape.tiedEmbeddings = value.at("tied_embeddings");
        shape.embeddingParameters = value.at("embedding_parameters");
        shape.embeddingBytes = value.at("embedding_bytes");
        for (const Json& item : value.at("layers")) {
            LayerShape layer;
            layer.index = item.at("index");
            layer.moe = item.at("moe");
            layer.experts = item.at("experts");
            const Json& router = item.at("router");
            for (const auto& [rule, name] : kRules)
                if (router.at("rule") == name) layer.router.rule = rule;
            layer.router.topK = router.at("top_k");
            layer.router.groups = router.at("groups");
            layer.router.topGroups = router.at("top_groups");
            layer.router.scaling = router.at("scaling");
            layer.router.normalise = router.at("normalise");
            if (router.contains("skip"))
                layer.router.skip = {
                    .kind = router["skip"].at("rule") == kSkipRuleNames[0] ? SkipRule::Kind::Ratio : SkipRule::Kind::Cumulative,
                    .thresholdMillionths = router["skip"].at("threshold_millionths")};
            layer.expertWidth = item.at("expert_width");
            layer.sharedWidth = item.at("shared_width");
            layer.sharedGate = item.at("shared_gate");
            layer.denseWidth = item.at("dense_width");
            layer.expertParameters = item.at("expert_parameters");
            layer.routerParametersPerExpert = item.at("router_parameters_per_expert");
            layer.otherParameters = item.at("other_parameters");
            layer.bytesPerExpert = item.at("bytes_per_expert");
            layer.routerBytesPerExpert = item.at("router_bytes_per_expert");
            layer.otherBytes = item.at("other_bytes");
            if (item.contains("source_ranks")) layer.sourceRanks = item["source_ranks"].get<std::vector<std::array<int, 3>>>();
            if (item.contains("source_constants")) layer.sourceConstants = item["source_constants"].get<std::vector<int>>();
            if (item.contains("source_biases")) layer.sourceBiases = item["source_biases"].get<std::vector<std::array<bool, 3>>>();
            if (!layer.sourceBiases.empty() && layer.sourceBiases.size() != static_cast<std::size_t>(std::max(layer.experts, 0)))
                return badInput("shape.invalid", fmt::format("layer {}", layer.index),
                                {"Layer {layer} has biases of experts that do not exist.", {{"layer", layer.index}}});
            if (item.contains("linears"))
                for (const Json& linear : item["linears"])
                    layer.linears.push_back(linearFromJson(linear));
            if (item.contains("source_widths")) layer.sourceWidths = item["source_widths"].get<std::vector<int>>();
            if (!layer.sourceWidths.empty() && layer.sourceWidths.size() != static_cast<std::size_t>(std::max(layer.experts, 0)))
                return badInput("shape.invalid", fmt::format("layer {}", layer.index),
                                {"Layer {layer} has widths of experts that do not exist.", {{"layer", layer.index}}});
            if (item.contains("source_bodies")) layer.sourceBodies = item["source_bodies"].get<std::vector<int>>();
            for (std::size_t e = 0; e < layer.sourceBodies.size(); ++e)
                if (layer.sourceBodies.size() != static_cast<std::size_t>(std::max(layer.experts, 0)) || layer.sourceBodies[e] < 0 ||
                    layer.sourceBodies[e] > static_cast<int>(e))
                    return badInput("shape.invalid", fmt::format("layer {}", layer.index),
                                    {"Layer {layer} has merged experts that do not exist.", {{"layer", layer.index}}});
            if (!layer.sourceRanks.empty() && layer.sourceRanks.size() != static_cast<std::size_t>(std::max(layer.experts, 0)))
                return badInput("shape.invalid", fmt::format("layer {}", layer.index),
                                {"Layer {layer} has {experts} experts and ranks for {source_ranks}.",
                                 {{"layer", layer.index}, {"experts", layer.experts}, {"source_ranks", layer.sourceRanks.size()}}});
            if (layer.experts < 0 || layer.router.topK < 0 || layer.router.topK > layer.experts || layer.router.groups < 1)
                return badInput("shape.invalid", fmt::format("layer {}", layer.index),
                                {"Layer {layer} has {experts} experts and top-k {top_k}.",
                                 {{"layer", layer.index}, {"experts", layer.experts}, {"top_k", layer.router.topK}}});
            shape.layers.push_back(layer);
        }
        return shape;
    } catch (const Json::exception& failure) {
        return badInput("shape.invalid", "model shape", {"The model shape is malformed: {what}.", {{"what", failure.what()}}});
    }
}

int breakEvenRank(std::int64_t rows, std::int64_t columns)
{
    if (rows <= 0 || columns <= 0) return 0;
    const std::int64_t rank = rows * columns / (rows + columns);
    // At equality the factors are exactly as large as the dense matrix and save nothing.
    return static_cast<int>(rank * (rows + columns) == rows * columns ? rank - 1 : rank);
}

}  // namespace espalier
