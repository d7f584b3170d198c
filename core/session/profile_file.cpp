#include "session/profile_file.h"

#include "base/exception.h"
#include "session/hdf5_arrays.h"
#include "session/profile_content.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>

namespace espalier
{

namespace
{

constexpr h5::Format kStateFormat = {"profile-state", "profile", 1, 2};  // 1.2: outputs, similarity

bool holds(const StatisticStore& store, const LayerProfile& layer)
{
    return (layer.experts > 0 || store.denseLayers) && store.there(layer);
}

bool holdsAny(const LayerProfile& layer)
{
    const std::vector<StatisticStore>& stores = statisticStores();
    return std::any_of(stores.begin(), stores.end(), [&](const StatisticStore& store) { return holds(store, layer); });
}

std::int64_t bytesOf(const LayerProfile& layer)
{
    std::int64_t bytes = 4096;
    for (const StatisticStore& store : statisticStores())
        if (holds(store, layer)) bytes += store.bytes(layer);
    return bytes;
}

void writeLayer(GroupWriter& writer, const LayerProfile& layer)
{
    for (const StatisticStore& store : statisticStores())
        if (holds(store, layer)) store.write(writer, layer);
}

void writeWindowIds(const h5::Group& root, const WindowIds& windows)
{
    if (windows.empty()) return;
    const h5::Group text = root.create("text");
    text.write("ids", windows.ids);
    text.write("lengths", windows.lengths);
}

WindowIds readWindowIds(const h5::Group& root, const ProfileData& data)
{
    WindowIds windows;
    if (!root.has("text")) return windows;
    const h5::Group text = root.open("text");
    windows.ids = text.read<std::int32_t>("ids");
    windows.lengths = text.read<std::int32_t>("lengths");
    std::int64_t tokens = 0;
    bool fits = static_cast<std::int64_t>(windows.lengths.size()) == data.windows;
    for (const std::int32_t length : windows.lengths) {
        fits = fits && length > 0;
        tokens += length;
    }
    const std::int64_t vocabulary = data.shape.vocabularySize;
    for (const std::int32_t id : windows.ids)
        fits = fits && id >= 0 && (vocabulary == 0 || id < vocabulary);
    if (!fits || tokens != static_cast<std::int64_t>(windows.ids.size())) throw h5::Failure("the token ids do not fit");
    return windows;
}

// `experts` of the model's layer; 0 for a dense one.
LayerProfile readLayer(h5::Group group, int index, int experts)
{
    LayerProfile layer;
    layer.layer = index;
    layer.experts = experts;
    const GroupReader reader(std::move(group));
    for (const StatisticStore& store : statisticStores())
        if (experts > 0 || store.denseLayers) store.read(reader, layer);
    return layer;
}

// A profile of what older versions know is written as they write it.
h5::Format formatOf(const ProfileData& data)
{
    h5::Format format = kProfileFormat;
    format.minor = kOldestMinor;
    for (const LayerProfile& layer : data.layers)
        for (const StatisticStore& store : statisticStores())
            if (holds(store, layer)) format.minor = std::max(format.minor, store.minor);
    return format;
}

Json headerJson(const ProfileData& data)
{
    Json ranges = Json::array();
    for (const TokenRange& range : data.ranges)
        ranges.push_back({{"text_sha256", range.textSha256},
                          {"first_window", range.firstWindow},
                          {"windows", range.windowCount},
                          {"tokens", range.tokens},
                          {"sha256", range.sha256}});
    Json json = {{"shape", toJson(data.shape, false)},
                 {"fingerprint", data.fingerprint},
                 {"config_sha256", data.configSha256},
                 {"weights_sha256", data.weightsSha256},
                 {"numeric_mode", data.numericMode},
                 {"window_length", data.windowLength},
                 {"ranges", ranges},
                 {"text_sha256", data.textSha256},
                 {"source", data.source},
                 {"tokenizer_sha256", data.tokenizerSha256},
                 {"bos", data.bos},
                 {"windows", data.windows},
                 {"tokens", data.tokens},
                 {"collected", data.collected},
                 {"engine_version", data.engineVersion}};
    if (!data.kept.empty()) json["kept"] = data.kept;
    return json;
}

}  // namespace

Result<ProfileData> dataFromHeader(const Json& json)
{
    ProfileData data;
    ESPALIER_TRY(data.shape, modelShapeFromJson(json.at("shape")));
    data.fingerprint = json.at("fingerprint");
    data.configSha256 = json.at("config_sha256");
    data.weightsSha256 = json.at("weights_sha256");
    data.numericMode = json.at("numeric_mode");
    data.windowLength = json.at("window_length");
    for (const Json& item : json.at("ranges"))
        data.ranges.push_back({.textSha256 = item.at("text_sha256"),
                               .firstWindow = item.at("first_window"),
                               .windowCount = item.at("windows"),
                               .tokens = item.at("tokens"),
                               .sha256 = item.at("sha256")});
    data.textSha256 = json.at("text_sha256");
    data.source = json.at("source");
    data.tokenizerSha256 = json.at("tokenizer_sha256");
    data.bos = json.at("bos");
    data.windows = json.at("windows");
    data.tokens = json.at("tokens");
    data.collected = json.at("collected").get<std::vector<std::string>>();
    data.engineVersion = json.at("engine_version");
    if (json.contains("kept")) {
        data.kept = json.at("kept").get<std::vector<std::vector<int>>>();
        if (data.kept.size() != data.shape.layers.size()) throw h5::Failure("the kept experts do not fit");
        for (std::size_t l = 0; l < data.kept.size(); ++l)
            for (const int expert : data.kept[l])
                if (expert < 0 || expert >= data.shape.layers[l].experts) throw h5::Failure("the kept experts do not fit");
    }
    return data;
}

Error invalidProfile(const std::filesystem::path& path, const std::string& why)
{
    Error error = badInput("profile.invalid", path.string(),
                           {"{path} is not a usable profile: {why}.", {{"path", path.string()}, {"why", why}}}, "Take the profile again.");
    error.kept = "Nothing was loaded and the file was not changed.";
    return error;
}

Error unreadProfile(const std::filesystem::path& path, const std::exception& failure)
{
    if (!isOutOfMemory(failure)) return invalidProfile(path, failure.what());
    Error error =
        resourceError("profile.out_of_memory", path.string(), {"There is not enough memory to read {path}.", {{"path", path.string()}}},
                      "Close other programs, or take a profile with a smaller Gram store (--gram-tokens).");
    error.kept = "The file was not changed.";
    return error;
}

Error newerProfile(const std::filesystem::path& path, int major, int minor)
{
    return unsupported("profile.newer_version", path.string(),
                       {"{path} was written by a newer Espalier (profile format {major}.{minor}).",
                        {{"path", path.string()}, {"major", major}, {"minor", minor}}},
                       "Open it with that version, or take the profile again.");
}

Status writeProfile(const std::filesystem::path& path, const ProfileData& data, const std::vector<std::filesystem::path>& parts)
{
    std::int64_t estimate = (1 << 16) + static_cast<std::int64_t>(data.windowIds.ids.size() * sizeof(std::int32_t));
    for (const LayerProfile& layer : data.layers)
        estimate += bytesOf(layer);
    std::error_code ignored;
    for (const std::filesystem::path& part : parts)
        estimate += static_cast<std::int64_t>(std::filesystem::file_size(part, ignored));
    const auto lock = h5::exclusive();
    std::map<int, std::vector<h5::OpenedContainer>> partsOfLayer;
    for (const std::filesystem::path& part : parts) {
        ESPALIER_TRY(h5::OpenedContainer opened, h5::openContainer(part, kPartsFormat));
        try {
            const int layer = opened.root.readJson("parts").at("layer");
            partsOfLayer[layer].push_back(std::move(opened));
        } catch (const std::exception& failure) {
            return unreadProfile(part, failure);
        }
    }
    return h5::writeContainer(path, formatOf(data), estimate, [&](const h5::Group& root) {
        root.writeJson("profile", headerJson(data));
        writeWindowIds(root, data.windowIds);
        if (!data.probes.empty()) root.writeJson("probes", probesToJson(data.probes));
        const h5::Group layers = root.create("layers");
        for (const LayerProfile& layer : data.layers) {
            if (!holdsAny(layer)) continue;
            GroupWriter writer(layers.create(layerName(layer.layer)));
            writeLayer(writer, layer);
            const h5::Group& group = writer.inner();
            for (const char* kind : {kFactorsGroup, kMomentsGroup}) {
                std::optional<h5::Group> target;
                for (const h5::OpenedContainer& part : partsOfLayer[layer.layer]) {
                    if (!part.root.has(kind)) continue;
                    if (!target) target.emplace(group.create(kind));
                    const h5::Group source = part.root.open(kind);
                    for (const std::string& expert : source.links())
                        target->copyFrom(source, expert);
                }
            }
        }
    });
}

Result<ProfileData> readProfile(const std::filesystem::path& path)
{
    const auto lock = h5::exclusive();
    ESPALIER_TRY(const h5::OpenedContainer container, h5::openContainer(path, kProfileFormat));
    if (container.major > kProfileFormat.major) return newerProfile(path, container.major, container.minor);
    try {
        ESPALIER_TRY(ProfileData data, dataFromHeader(container.root.readJson("profile")));
        data.windowIds = readWindowIds(container.root, data);
        if (container.root.has("probes")) {
            data.probes = probesFromJson(container.root.readJson("probes"));
            checkProbes(data);
        }
        const h5::Group layers = container.root.open("layers");
        for (const LayerShape& shape : data.shape.layers) {
            if (!shape.moe) {
                LayerProfile dense;
                dense.layer = shape.index;
                const std::string name = layerName(shape.index);
                data.layers.push_back(layers.has(name) ? readLayer(layers.open(name), shape.index, 0) : std::move(dense));
                continue;
            }
            LayerProfile layer = readLayer(layers.open(layerName(shape.index)), shape.index, shape.experts);
            expectFit(layer.gram.listLength == 0 || layer.gram.listLength >= shape.router.topK, layer, "list length");
            data.layers.push_back(std::move(layer));
        }
        return data;
    } catch (const std::exception& failure) {
        return unreadProfile(path, failure);
    }
}

Result<std::string> profileSha256(const std::filesystem::path& path)
{
    ESPALIER_TRY(h5::ContainerHeader header, h5::readContainerHeader(path, kProfileFormat));
    return header.sha256;
}

Status writeProfileState(const std::filesystem::path& path, const ProfileState& state)
{
    return h5::writeContainer(path, kStateFormat, bytesOf(state.profile), [&](const h5::Group& root) {
        root.writeJson("state", {{"key", state.key}, {"layer", state.profile.layer}, {"experts", state.profile.experts}});
        GroupWriter writer(root.create("layer"));
        writeLayer(writer, state.profile);
        if (!state.probes.empty()) root.writeJson("probes", probesToJson(state.probes));
    });
}

Result<ProfileState> readProfileState(const std::filesystem::path& path)
{
    const auto lock = h5::exclusive();
    ESPALIER_TRY(const h5::OpenedContainer container, h5::openContainer(path, kStateFormat));
    try {
        ProfileState state;
        const Json json = container.root.readJson("state");
        state.key = json.at("key");
        state.profile = readLayer(container.root.open("layer"), json.at("layer"), json.at("experts"));
        if (container.root.has("probes")) state.probes = probesFromJson(container.root.readJson("probes"));
        return state;
    } catch (const std::exception& failure) {
        return unreadProfile(path, failure);
    }
}

}  // namespace espalier
