#include "plan/compression_plan.h"

#include "base/sha256.h"
#include "base/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

namespace espalier
{

namespace
{

constexpr int kPlanVersion = 1;
const LayerPlan kNoLayer;

bool anyRank(const LayerPlan& layer)
{
    return std::any_of(layer.ranks.begin(), layer.ranks.end(),
                       [](const RankTriple& r) { return std::any_of(r.begin(), r.end(), [](int x) { return x != 0; }); });
}

bool sameNumbers(const LayerPlan& a, const LayerPlan& b)
{
    return a.kept == b.kept && a.topK == b.topK && (a.ranks == b.ranks || (!anyRank(a) && !anyRank(b)));
}

bool keepsEverything(const LayerPlan& layer, int experts)
{
    return static_cast<int>(layer.kept.size()) == experts && !anyRank(layer) && !layer.topK;
}

Json numbersOf(const LayerPlan& layer, int index)
{
    Json json = {{"layer", index}, {"kept", layer.kept}};
    if (anyRank(layer)) json["ranks"] = layer.ranks;
    if (layer.topK) json["top_k"] = *layer.topK;
    return json;
}

Json factorsJson(const FactorSettings& factors)
{
    // Ranks without a named method are plain SVD (planFromJson reads them so): one plan, one hash.
    Json json = {{"method", factors.method.empty() ? std::string("svd") : factors.method}};
    if (!factors.profileSha256.empty()) json["profile_sha256"] = factors.profileSha256;
    return json;
}

Error invalid(std::string_view what, int layer, std::string message, std::string action = {})
{
    return badInput(fmt::format("plan.{}", what), fmt::format("layer {}", layer), std::move(message), std::move(action));
}

// Every rule a layer's plan must keep, in one place.
Status checkLayer(const ModelShape& model, int index, const LayerPlan& plan)
{
    const LayerShape& shape = model.layers[static_cast<std::size_t>(index)];
    if (!shape.moe) {
        if (!plan.kept.empty()) return invalid("unknown_layer", index, fmt::format("Layer {} is dense and has no experts to keep.", index));
        return {};
    }
    int previous = -1;
    for (const int expert : plan.kept) {
        if (expert < 0 || expert >= shape.experts)
            return invalid("unknown_expert", index,
                           fmt::format("Layer {} has experts 0 to {}; the plan keeps expert {}.", index, shape.experts - 1, expert));
        if (expert <= previous)
            return invalid(
                "invalid", index,
                fmt::format("The kept experts of layer {} must be ascending and distinct ({} after {}).", index, expert, previous));
        previous = expert;
    }
    const int topK = plan.topK.value_or(shape.router.topK);
    if (topK < 1 || topK > shape.router.topK)
        return invalid("invalid", index, fmt::format("top_k {} of layer {} must lie between 1 and {}.", topK, index, shape.router.topK));
    if (static_cast<int>(plan.kept.size()) < topK)
        return invalid("kept_below_top_k", index,
                       fmt::format("Layer {} would keep {} experts, but the router picks {}.", index, plan.kept.size(), topK),
                       plan.kept.empty() ? fmt::format("Keep at least one, better {}.", topK)
                                         : fmt::format("Keep at least {}, or let the layer's router pick fewer: \"top_k\": {} beside "
                                                       "\"kept\" in the plan file.",
                                                       topK, plan.kept.size()));
    if (shape.router.groups > 1) {
        const int size = shape.experts / shape.router.groups;
        std::vector<int> perGroup(static_cast<std::size_t>(shape.router.groups), 0);
        for (const int expert : plan.kept)
            ++perGroup[static_cast<std::size_t>(expert / size)];
        if (std::any_of(perGroup.begin(), perGroup.end(), [&](int count) { return count != perGroup[0]; }))
            return invalid(
                "groups", index,
                fmt::format("Layer {} routes in {} groups: each must keep the same number of experts.", index, shape.router.groups));
        if (topK > shape.router.topGroups * perGroup[0])
            return invalid("groups", index,
                           fmt::format("Layer {}: {} groups of {} kept experts cannot serve top-k {}.", index, shape.router.topGroups,
                                       perGroup[0], topK),
                           perGroup[0] == 0 ? std::string()
                                            : fmt::format("Keep more, or let the layer's router pick fewer: \"top_k\": {} beside \"kept\" "
                                                          "in the plan file.",
                                                          shape.router.topGroups * perGroup[0]));
    }
    if (!plan.ranks.empty() && plan.ranks.size() != plan.kept.size())
        return invalid("invalid", index,
                       fmt::format("Layer {} keeps {} experts and lists ranks for {}.", index, plan.kept.size(), plan.ranks.size()));
    const int breakEven = breakEvenRank(model.hiddenSize, shape.expertWidth);
    for (const RankTriple& triple : plan.ranks)
        for (const int rank : triple)
            if (rank < 0 || rank > breakEven)
                return invalid(
                    "rank_beyond_break_even", index,
                    fmt::format("Rank {} in layer {} is not between 1 and {}, beyond which factors save nothing.", rank, index, breakEven),
                    "Use 0 for a dense matrix.");
    return {};
}

}  // namespace

struct CompressionPlan::Data {
    std::vector<LayerPlan> layers;
    std::vector<int> experts;  // of the model, per layer: which layers are whole
    FactorSettings factors;
    PlanModel model;
    mutable std::once_flag hashOnce;
    mutable std::string hash;

    Data() = default;
    Data(const Data& other) : layers(other.layers), experts(other.experts), factors(other.factors), model(other.model) {}

    bool whole(std::size_t layer) const { return keepsEverything(layers[layer], experts[layer]); }
    Json numbers(std::size_t end) const
    {
        Json list = Json::array();
        bool ranks = false;
        for (std::size_t i = 0; i < end; ++i)
            if (!whole(i)) {
                list.push_back(numbersOf(layers[i], static_cast<int>(i)));
                ranks = ranks || anyRank(layers[i]);
            }
        Json json = {{"version", kPlanVersion}, {"layers", list}};
        // Factor settings decide nothing while every matrix is dense.
        if (ranks) json["factors"] = factorsJson(factors);
        return json;
    }
};

CompressionPlan CompressionPlan::identity(const ModelShape& shape)
{
    auto data = std::make_shared<Data>();
    for (const LayerShape& layer : shape.layers) {
        LayerPlan plan;
        for (int e = 0; e < layer.experts; ++e)
            plan.kept.push_back(e);
        data->layers.push_back(std::move(plan));
        data->experts.push_back(layer.experts);
    }
    return CompressionPlan(std::move(data));
}

int CompressionPlan::layerCount() const noexcept { return m_data ? static_cast<int>(m_data->layers.size()) : 0; }

const LayerPlan& CompressionPlan::layer(int layer) const
{
    return m_data && layer >= 0 && layer < layerCount() ? m_data->layers[static_cast<std::size_t>(layer)] : kNoLayer;
}

const FactorSettings& CompressionPlan::factors() const
{
    static const FactorSettings none;
    return m_data ? m_data->factors : none;
}

const PlanModel& CompressionPlan::model() const
{
    static const PlanModel none;
    return m_data ? m_data->model : none;
}

bool CompressionPlan::isIdentity(const ModelShape& shape) const
{
    for (int i = 0; i < layerCount(); ++i)
        if (!keepsEverything(layer(i), shape.layers[static_cast<std::size_t>(i)].experts)) return false;
    return true;
}

bool CompressionPlan::keeps(int layerIndex, int expert) const
{
    const ExpertSet& kept = layer(layerIndex).kept;
    return std::binary_search(kept.begin(), kept.end(), expert);
}

int CompressionPlan::keptExperts() const
{
    int total = 0;
    for (int i = 0; i < layerCount(); ++i)
        total += static_cast<int>(layer(i).kept.size());
    return total;
}

bool CompressionPlan::hasRanks() const { return m_data && std::any_of(m_data->layers.begin(), m_data->layers.end(), anyRank); }

int CompressionPlan::firstDifference(const CompressionPlan& other) const
{
    const int count = std::min(layerCount(), other.layerCount());
    const bool sameFactors = factors() == other.factors();
    for (int i = 0; i < count; ++i) {
        if (!sameNumbers(layer(i), other.layer(i))) return i;
        if (!sameFactors && anyRank(layer(i))) return i;
    }
    return count;
}

Result<CompressionPlan> CompressionPlan::withKept(const ModelShape& shape, int layerIndex, ExpertSet kept) const
{
    auto data = std::make_shared<Data>(*m_data);
    LayerPlan& plan = data->layers[static_cast<std::size_t>(layerIndex)];
    if (!plan.ranks.empty()) {
        // Ranks stay with the experts that stay; one that returns is dense.
        std::vector<RankTriple> ranks;
        for (const int expert : kept) {
            const auto it = std::lower_bound(plan.kept.begin(), plan.kept.end(), expert);
            const bool was = it != plan.kept.end() && *it == expert;
            ranks.push_back(was ? plan.ranks[static_cast<std::size_t>(it - plan.kept.begin())] : RankTriple{});
        }
        plan.ranks = std::move(ranks);
    }
    plan.kept = std::move(kept);
    ESPALIER_CHECK_OK(checkLayer(shape, layerIndex, plan));
    return CompressionPlan(std::move(data));
}

Result<CompressionPlan> CompressionPlan::withRanks(const ModelShape& shape, int layerIndex, std::vector<RankTriple> ranks) const
{
    auto data = std::make_shared<Data>(*m_data);
    LayerPlan& plan = data->layers[static_cast<std::size_t>(layerIndex)];
    plan.ranks = std::move(ranks);
    ESPALIER_CHECK_OK(checkLayer(shape, layerIndex, plan));
    if (!anyRank(plan)) plan.ranks.clear();
    return CompressionPlan(std::move(data));
}

CompressionPlan CompressionPlan::withLocked(int layerIndex, bool locked) const
{
    auto data = std::make_shared<Data>(*m_data);
    data->layers[static_cast<std::size_t>(layerIndex)].locked = locked;
    return CompressionPlan(std::move(data));
}

CompressionPlan CompressionPlan::withProtected(int layerIndex, int expert, bool isProtected) const
{
    auto data = std::make_shared<Data>(*m_data);
    ExpertSet& set = data->layers[static_cast<std::size_t>(layerIndex)].protectedExperts;
    const auto it = std::lower_bound(set.begin(), set.end(), expert);
    const bool present = it != set.end() && *it == expert;
    if (isProtected && !present) set.insert(it, expert);
    if (!isProtected && present) set.erase(it);
    return CompressionPlan(std::move(data));
}

CompressionPlan CompressionPlan::withFactors(FactorSettings factors) const
{
    auto data = std::make_shared<Data>(*m_data);
    data->factors = std::move(factors);
    return CompressionPlan(std::move(data));
}

CompressionPlan CompressionPlan::withModel(PlanModel model) const
{
    auto data = std::make_shared<Data>(*m_data);
    data->model = std::move(model);
    return CompressionPlan(std::move(data));
}

const std::string& CompressionPlan::hash() const
{
    static const std::string empty = sha256Hex("");
    if (!m_data) return empty;
    std::call_once(m_data->hashOnce, [&] { m_data->hash = sha256Hex(canonicalJson(m_data->numbers(m_data->layers.size()))); });
    return m_data->hash;
}

std::string CompressionPlan::prefixHash(int layerIndex) const
{
    if (!m_data) return sha256Hex("");
    return sha256Hex(canonicalJson(m_data->numbers(static_cast<std::size_t>(std::clamp(layerIndex, 0, layerCount())))));
}

bool CompressionPlan::operator==(const CompressionPlan& other) const
{
    if (m_data == other.m_data) return true;
    if (!m_data || !other.m_data || hash() != other.hash()) return false;
    for (int i = 0; i < layerCount(); ++i)
        if (layer(i).locked != other.layer(i).locked || layer(i).protectedExperts != other.layer(i).protectedExperts) return false;
    return true;
}

Result<CompressionPlan> planFromJson(const Json& value, const ModelShape& shape)
{
    if (!value.is_object()) return badInput("plan.invalid", "plan", "The plan is not a JSON object.");
    try {
        const Json version = value.value("version", Json());
        if (!version.is_number_integer())
            return badInput("plan.version", "version", "The plan has no version number.", "Add \"version\": 1.");
        if (version != kPlanVersion)
            return unsupported("plan.version", "version",
                               fmt::format("The plan has version {}; version {} is read.", version.dump(), kPlanVersion),
                               "Use the Espalier that wrote it, or a newer one.");
        if (!value.contains("layers") || !value["layers"].is_array())
            return badInput("plan.invalid", "layers", "The plan has no list of layers.");
        CompressionPlan plan = CompressionPlan::identity(shape);
        auto data = std::make_shared<CompressionPlan::Data>(*plan.m_data);
        std::vector<bool> seen(shape.layers.size(), false);
        for (const Json& item : value["layers"]) {
            const int index = item.at("layer").get<int>();
            if (index < 0 || index >= static_cast<int>(shape.layers.size()))
                return invalid("unknown_layer", index,
                               fmt::format("The plan names layer {}; the model has layers 0 to {}.", index, shape.layers.size() - 1));
            if (seen[static_cast<std::size_t>(index)])
                return invalid("invalid", index, fmt::format("The plan lists layer {} twice.", index));
            seen[static_cast<std::size_t>(index)] = true;
            LayerPlan& layer = data->layers[static_cast<std::size_t>(index)];
            layer.kept = item.at("kept").get<ExpertSet>();
            if (item.contains("ranks")) layer.ranks = item["ranks"].get<std::vector<RankTriple>>();
            if (item.contains("ranks"))
                for (const Json& triple : item["ranks"])
                    if (triple.size() != 3)
                        return invalid("invalid", index, fmt::format("Ranks of layer {} are triples [gate, up, down].", index));
            if (item.contains("top_k")) layer.topK = item["top_k"].get<int>();
            if (layer.topK && *layer.topK == shape.layers[static_cast<std::size_t>(index)].router.topK) layer.topK.reset();
            ESPALIER_CHECK_OK(checkLayer(shape, index, layer));
            if (!anyRank(layer)) layer.ranks.clear();
        }
        const auto validLayer = [&](const Json& item) {
            const int index = item.get<int>();
            return index >= 0 && index < static_cast<int>(shape.layers.size()) ? index : -1;
        };
        for (const Json& item : value.value("locks", Json::array())) {
            const int index = validLayer(item);
            if (index < 0) return invalid("unknown_layer", item.get<int>(), "A lock names a layer that the model does not have.");
            data->layers[static_cast<std::size_t>(index)].locked = true;
        }
        for (const Json& item : value.value("protected", Json::array())) {
            const int index = validLayer(item.at("layer"));
            if (index < 0)
                return invalid("unknown_layer", item.at("layer").get<int>(),
                               "A protected expert lies in a layer that the model does not have.");
            LayerPlan& layer = data->layers[static_cast<std::size_t>(index)];
            layer.protectedExperts = item.at("experts").get<ExpertSet>();
            std::sort(layer.protectedExperts.begin(), layer.protectedExperts.end());
            for (const int expert : layer.protectedExperts)
                if (expert < 0 || expert >= shape.layers[static_cast<std::size_t>(index)].experts)
                    return invalid("unknown_expert", index, fmt::format("Protected expert {} does not exist in layer {}.", expert, index));
        }
        if (value.contains("factors") && value["factors"].is_object()) {
            data->factors.method = value["factors"].value("method", "");
            data->factors.profileSha256 = value["factors"].value("profile_sha256", "");
        }
        if (value.contains("model") && value["model"].is_object()) {
            const Json& model = value["model"];
            data->model = {model.value("model_type", ""), model.value("config_sha256", ""), model.value("weights_sha256", "")};
        }
        const bool ranks = std::any_of(data->layers.begin(), data->layers.end(), anyRank);
        if (ranks && data->factors.method.empty()) data->factors.method = "svd";
        if (ranks && data->factors.method != "svd" && data->factors.method != "whitened-svd")
            return unsupported("plan.factors", "factors.method",
                               fmt::format("The factor method \"{}\" is not known.", data->factors.method), "Use svd or whitened-svd.");
        return CompressionPlan(std::move(data));
    } catch (const Json::exception& failure) {
        return badInput("plan.invalid", "plan", fmt::format("The plan is malformed: {}.", failure.what()));
    }
}

Json toJson(const CompressionPlan& plan)
{
    if (!plan.m_data) return {{"version", kPlanVersion}, {"layers", Json::array()}};
    Json json = plan.m_data->numbers(plan.m_data->layers.size());
    if (plan.m_data->model != PlanModel{})
        json["model"] = {{"model_type", plan.m_data->model.modelType},
                         {"config_sha256", plan.m_data->model.configSha256},
                         {"weights_sha256", plan.m_data->model.weightsSha256}};
    Json locks = Json::array();
    Json protectedExperts = Json::array();
    for (int i = 0; i < plan.layerCount(); ++i) {
        if (plan.layer(i).locked) locks.push_back(i);
        if (!plan.layer(i).protectedExperts.empty())
            protectedExperts.push_back({{"layer", i}, {"experts", plan.layer(i).protectedExperts}});
    }
    if (!locks.empty()) json["locks"] = locks;
    if (!protectedExperts.empty()) json["protected"] = protectedExperts;
    return json;
}

Result<CompressionPlan> readPlanFile(const std::filesystem::path& path, const ModelShape& shape)
{
    ESPALIER_TRY(const Json json, readJsonFile(path, "plan"));
    return planFromJson(json, shape);
}

}  // namespace espalier
