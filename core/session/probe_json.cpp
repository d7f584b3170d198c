// Probes of a profile as JSON: a few kilobytes of small lists, which HDF5 has no better form for.
#include "session/profile_content.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace espalier
{

namespace
{

Json layerJson(const NllProbe::Layer& layer)
{
    Json json = {{"layer", layer.layer}, {"kept", layer.kept}};
    if (!layer.ranks.empty()) json["ranks"] = layer.ranks;
    return json;
}

NllProbe::Layer layerFromJson(const Json& json)
{
    NllProbe::Layer layer;
    layer.layer = json.at("layer");
    layer.kept = json.at("kept").get<std::vector<int>>();
    if (json.contains("ranks")) layer.ranks = json.at("ranks").get<std::vector<std::array<int, 3>>>();
    return layer;
}

template <typename T>
bool ascending(const std::vector<T>& values)
{
    return std::adjacent_find(values.begin(), values.end(), std::greater_equal<>()) == values.end();
}

bool fits(const NllProbe::Layer& layer, const ModelShape& shape)
{
    if (layer.layer < 0 || static_cast<std::size_t>(layer.layer) >= shape.layers.size()) return false;
    const int experts = shape.layers[static_cast<std::size_t>(layer.layer)].experts;
    const bool ranked = std::all_of(layer.ranks.begin(), layer.ranks.end(),
                                    [](const std::array<int, 3>& ranks) { return *std::min_element(ranks.begin(), ranks.end()) >= 0; });
    return !layer.kept.empty() && ascending(layer.kept) && layer.kept.front() >= 0 && layer.kept.back() < experts &&
           (layer.ranks.empty() || layer.ranks.size() == layer.kept.size()) && ranked;
}

bool fits(const NllProbeSet& set, const ProfileData& data)
{
    const std::size_t count = set.windows.size();
    if (count == 0 || set.scored.size() != count || !ascending(set.windows) || set.windows.front() < 0 ||
        set.windows.back() >= data.windows || *std::min_element(set.scored.begin(), set.scored.end()) < 1)
        return false;
    return std::all_of(set.probes.begin(), set.probes.end(), [&](const NllProbe& probe) {
        return !probe.layers.empty() && probe.change.size() == count &&
               std::all_of(probe.layers.begin(), probe.layers.end(), [&](const auto& layer) { return fits(layer, data.shape); }) &&
               std::all_of(probe.change.begin(), probe.change.end(), [](double value) { return std::isfinite(value); });
    });
}

}  // namespace

Json probesToJson(const std::vector<NllProbeSet>& probes)
{
    Json sets = Json::array();
    for (const NllProbeSet& set : probes) {
        Json list = Json::array();
        for (const NllProbe& probe : set.probes) {
            Json layers = Json::array();
            for (const NllProbe::Layer& layer : probe.layers)
                layers.push_back(layerJson(layer));
            list.push_back({{"layers", std::move(layers)}, {"change", probe.change}});
        }
        sets.push_back({{"windows", set.windows}, {"scored", set.scored}, {"factors", set.factors}, {"probes", std::move(list)}});
    }
    return sets;
}

std::vector<NllProbeSet> probesFromJson(const Json& json)
{
    std::vector<NllProbeSet> sets;
    for (const Json& item : json) {
        NllProbeSet set;
        set.windows = item.at("windows").get<std::vector<std::int32_t>>();
        set.scored = item.at("scored").get<std::vector<std::int32_t>>();
        set.factors = item.at("factors");
        for (const Json& one : item.at("probes")) {
            NllProbe probe;
            for (const Json& layer : one.at("layers"))
                probe.layers.push_back(layerFromJson(layer));
            probe.change = one.at("change").get<std::vector<double>>();
            set.probes.push_back(std::move(probe));
        }
        sets.push_back(std::move(set));
    }
    return sets;
}

void checkProbes(const ProfileData& data)
{
    for (const NllProbeSet& set : data.probes)
        if (!fits(set, data)) throw h5::Failure("the probes do not fit");
}

}  // namespace espalier
