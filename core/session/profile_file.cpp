#include "session/profile_file.h"

#include "base/exception.h"
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

std::int64_t bytesOf(const LayerProfile& layer)
{
    const GramStore& gram = layer.gram;
    return static_cast<std::int64_t>(layer.count.size() * 11 * sizeof(double) + gram.tokens.size() * sizeof(std::int64_t) +
                                     gram.list.size() * sizeof(std::uint16_t) + gram.products.size() * sizeof(double) +
                                     gram.logits.size() * sizeof(float) + layer.spectra.size() * sizeof(float) +
                                     (layer.gradients.products.size() + layer.gradients.drawnProducts.size()) * sizeof(float) +
                                     layer.gradients.window.size() * sizeof(std::int32_t) +
                                     layer.outputs.of(OutputWeight::Plain).sum.size() * kOutputWeights.size() * sizeof(double)) +
           8192;
}

// The per-expert sums under the names they have in the file.
template <typename Layer, typename Visit>
void visitSums(Layer& layer, Visit visit)
{
    visit("soft_mass", layer.softMass);
    visit("routed_mass_raw", layer.routedMassRaw);
    visit("routed_mass_renormalised", layer.routedMassRenormalised);
    visit("routed_mass_applied", layer.routedMassApplied);
    visit("norm", layer.norm);
    visit("norm_squared", layer.normSquared);
    visit("weighted_norm_raw", layer.weightedNormRaw);
    visit("weighted_norm_renormalised", layer.weightedNormRenormalised);
    visit("weighted_norm_applied", layer.weightedNormApplied);
    visit("max_activation", layer.maxActivation);
    visit("weight_squared", layer.weightSquared);
    visit("gate_gain", layer.gateGain);
    visit("up_gain", layer.upGain);
}

void writeOutputs(const h5::Group& group, const OutputMoments& outputs)
{
    if (outputs.empty()) return;
    const h5::Group store = group.create("outputs");
    for (const OutputWeight weight : kOutputWeights) {
        const OutputMoments::Weighted& moment = outputs.of(weight);
        const h5::Group own = store.create(std::string(outputWeightName(weight)));
        own.write("mass", moment.mass);
        own.write<double>("sum", moment.sum, {moment.mass.size(), static_cast<std::uint64_t>(outputs.width)});
        own.write("scatter", moment.scatter);
    }
}

void writeSimilarity(const h5::Group& group, const LayerSimilarity& similarity)
{
    if (similarity.empty()) return;
    const h5::Group store = group.create("similarity");
    store.write("cosine", std::vector<double>{similarity.cosine});
    store.write("tokens", std::vector<std::int64_t>{similarity.tokens});
}

void writeLayer(const h5::Group& group, const LayerProfile& layer)
{
    writeSimilarity(group, layer.similarity);
    if (layer.experts == 0) return;
    group.write("tokens", std::vector<std::int64_t>{layer.tokens});
    group.write("count", layer.count);
    visitSums(layer, [&](const char* name, const std::vector<double>& values) {
        if (!values.empty()) group.write(name, values);
    });
    group.write("energy", std::vector<double>{layer.outputEnergy, layer.routedEnergy});
    if (!layer.gainTokens.empty()) group.write("gain_tokens", layer.gainTokens);
    if (layer.spectrumLength > 0) {
        group.write<float>("spectra", layer.spectra,
                           {static_cast<std::uint64_t>(layer.experts), 3, static_cast<std::uint64_t>(layer.spectrumLength)});
    }
    writeOutputs(group, layer.outputs);
    const GramStore& gram = layer.gram;
    if (gram.listLength == 0) return;
    const h5::Group store = group.create("gram");
    const std::uint64_t tokens = gram.tokens.size();
    store.write("tokens", gram.tokens);
    store.write<std::uint16_t>("list", gram.list, {tokens, static_cast<std::uint64_t>(gram.listLength)});
    store.write<double>("products", gram.products, {tokens, gram.triangle()});
    store.write<float>("logits", gram.logits, {tokens, static_cast<std::uint64_t>(layer.experts)});
    if (!gram.selectionBias.empty()) store.write("selection_bias", gram.selectionBias);
    store.write("output_energy", std::vector<double>{gram.outputEnergy});
    const GradientStore& gradients = layer.gradients;
    if (gradients.products.empty()) return;
    const h5::Group sweep = group.create("gradients");
    const h5::Shape shape = {tokens, static_cast<std::uint64_t>(gram.listLength)};
    sweep.write<float>("products", gradients.products, shape);
    sweep.write("window", gradients.window);
    sweep.write("squared", std::vector<double>{gradients.squared, gradients.drawnSquared});
    sweep.write("tokens", std::vector<std::int64_t>{gradients.tokens});
    if (!gradients.drawnProducts.empty()) sweep.write<float>("drawn_products", gradients.drawnProducts, shape);
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

void expect(bool condition, int layer, const char* what)
{
    if (!condition) throw h5::Failure(fmt::format("layer {}: {} does not fit", layer, what));
}

bool finite(const std::vector<double>& values)
{
    return std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
}

OutputMoments readOutputs(const h5::Group& group, int index, std::size_t experts)
{
    OutputMoments outputs;
    if (!group.has("outputs")) return outputs;
    const h5::Group store = group.open("outputs");
    for (const OutputWeight weight : kOutputWeights) {
        const h5::Group own = store.open(std::string(outputWeightName(weight)));
        OutputMoments::Weighted& moment = outputs.byWeight[static_cast<std::size_t>(weight)];
        h5::Shape shape(2);
        moment.sum = own.read<double>("sum", &shape);
        moment.mass = own.read<double>("mass");
        moment.scatter = own.read<double>("scatter");
        if (weight == OutputWeight::Plain && shape[1] >= 1 && shape[1] <= (1u << 24)) outputs.width = static_cast<int>(shape[1]);
        expect(shape[0] == experts && shape[1] == static_cast<std::uint64_t>(outputs.width) && moment.mass.size() == experts &&
                   moment.scatter.size() == experts && finite(moment.sum) && finite(moment.mass) && finite(moment.scatter),
               index, "outputs");
        for (std::size_t e = 0; e < experts; ++e)
            expect(moment.mass[e] >= 0 && moment.scatter[e] >= 0, index, "outputs");
    }
    return outputs;
}

LayerSimilarity readSimilarity(const h5::Group& group, int index)
{
    LayerSimilarity similarity;
    if (!group.has("similarity")) return similarity;
    const h5::Group store = group.open("similarity");
    const auto cosine = store.read<double>("cosine");
    const auto tokens = store.read<std::int64_t>("tokens");
    // Rounding may carry a sum of ones a little beyond the number of tokens.
    expect(cosine.size() == 1 && tokens.size() == 1 && tokens[0] > 0 && std::abs(cosine[0]) <= static_cast<double>(tokens[0]) * (1 + 1e-9),
           index, "similarity");
    similarity.cosine = cosine[0];
    similarity.tokens = tokens[0];
    return similarity;
}

// `experts` of the model's layer; 0 for a dense one.
LayerProfile readLayer(const h5::Group& group, int index, int experts)
{
    LayerProfile layer;
    layer.layer = index;
    layer.experts = experts;
    const auto n = static_cast<std::size_t>(experts);
    layer.similarity = readSimilarity(group, index);
    if (experts == 0) return layer;
    const auto tokens = group.read<std::int64_t>("tokens");
    expect(tokens.size() == 1 && tokens[0] >= 0, index, "tokens");
    layer.tokens = tokens[0];
    layer.count = group.read<std::int64_t>("count");
    expect(layer.count.size() == n, index, "count");
    visitSums(layer, [&](const char* name, std::vector<double>& values) {
        if (!group.has(name)) return;
        values = group.read<double>(name);
        expect(values.size() == n && finite(values), index, name);
    });
    const auto energy = group.read<double>("energy");
    expect(energy.size() == 2 && finite(energy), index, "energy");
    layer.outputEnergy = energy[0];
    layer.routedEnergy = energy[1];
    if (group.has("spectra")) {
        h5::Shape shape(3);
        layer.spectra = group.read<float>("spectra", &shape);
        expect(shape[0] == n && shape[1] == 3 && shape[2] >= 1 && shape[2] <= (1u << 20), index, "spectra");
        layer.spectrumLength = static_cast<int>(shape[2]);
        for (const float energy : layer.spectra)
            expect(std::isfinite(energy) && energy >= 0, index, "spectra");
    }
    if (group.has("gain_tokens")) layer.gainTokens = group.read<std::int64_t>("gain_tokens");
    const std::size_t gains = layer.gainTokens.size();
    expect((gains == 0 || gains == n) && layer.weightSquared.size() == gains && layer.gateGain.size() == gains &&
               layer.upGain.size() == gains && (layer.spectrumLength == 0 || gains == n),
           index, "gains");
    layer.outputs = readOutputs(group, index, n);
    if (!group.has("gram")) return layer;

    const h5::Group store = group.open("gram");
    GramStore& gram = layer.gram;
    gram.tokens = store.read<std::int64_t>("tokens");
    h5::Shape shape(2);
    gram.list = store.read<std::uint16_t>("list", &shape);
    expect(shape[0] == gram.tokens.size() && shape[1] >= 1 && shape[1] <= n, index, "expert list");
    gram.listLength = static_cast<int>(shape[1]);
    for (const std::uint16_t expert : gram.list)
        expect(expert < n, index, "expert list");
    gram.products = store.read<double>("products", &shape);
    expect(shape[0] == gram.tokens.size() && shape[1] == gram.triangle() && finite(gram.products), index, "products");
    gram.logits = store.read<float>("logits", &shape);
    expect(shape[0] == gram.tokens.size() && shape[1] == n, index, "logits");
    if (store.has("selection_bias")) gram.selectionBias = store.read<float>("selection_bias");
    expect(gram.selectionBias.empty() || gram.selectionBias.size() == n, index, "selection bias");
    const auto outputEnergy = store.read<double>("output_energy");
    expect(outputEnergy.size() == 1 && finite(outputEnergy), index, "output energy");
    gram.outputEnergy = outputEnergy[0];
    if (!group.has("gradients")) return layer;

    const h5::Group sweep = group.open("gradients");
    GradientStore& gradients = layer.gradients;
    const auto products = [&](const char* name) {
        h5::Shape size(2);
        std::vector<float> values = sweep.read<float>(name, &size);
        expect(size[0] == gram.tokens.size() && size[1] == static_cast<std::uint64_t>(gram.listLength), index, name);
        for (const float value : values)
            expect(std::isfinite(value), index, name);
        return values;
    };
    gradients.products = products("products");
    if (sweep.has("drawn_products")) gradients.drawnProducts = products("drawn_products");
    gradients.window = sweep.read<std::int32_t>("window");
    expect(gradients.window.size() == gram.tokens.size() && std::is_sorted(gradients.window.begin(), gradients.window.end()) &&
               (gradients.window.empty() || gradients.window.front() >= 0),
           index, "windows of the gradients");
    const auto squared = sweep.read<double>("squared");
    const auto swept = sweep.read<std::int64_t>("tokens");
    expect(squared.size() == 2 && finite(squared) && swept.size() == 1 && swept[0] > 0, index, "squared gradients");
    gradients.squared = squared[0];
    gradients.drawnSquared = squared[1];
    gradients.tokens = swept[0];
    return layer;
}

// A profile of what older versions know is written as they write it.
h5::Format formatOf(const ProfileData& data)
{
    h5::Format format = kProfileFormat;
    const auto newer = [](const LayerProfile& layer) { return !layer.outputs.empty() || !layer.similarity.empty(); };
    if (std::none_of(data.layers.begin(), data.layers.end(), newer)) format.minor = kMinorBeforeOutputs;
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
    Json json = {{"shape", toJson(data.shape)},
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
    Error error = badInput("profile.invalid", path.string(), fmt::format("{} is not a usable profile: {}.", path.string(), why),
                           "Take the profile again.");
    error.kept = "Nothing was loaded and the file was not changed.";
    return error;
}

Error unreadProfile(const std::filesystem::path& path, const std::exception& failure)
{
    if (!isOutOfMemory(failure)) return invalidProfile(path, failure.what());
    Error error =
        resourceError("profile.out_of_memory", path.string(), fmt::format("There is not enough memory to read {}.", path.string()),
                      "Close other programs, or take a profile with a smaller Gram store (--gram-tokens).");
    error.kept = "The file was not changed.";
    return error;
}

Error newerProfile(const std::filesystem::path& path, int major, int minor)
{
    return unsupported("profile.newer_version", path.string(),
                       fmt::format("{} was written by a newer Espalier (profile format {}.{}).", path.string(), major, minor),
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
            if (layer.experts == 0 && layer.similarity.empty()) continue;
            const h5::Group group = layers.create(layerName(layer.layer));
            writeLayer(group, layer);
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
            expect(layer.gram.listLength == 0 || layer.gram.listLength >= shape.router.topK, shape.index, "list length");
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
        writeLayer(root.create("layer"), state.profile);
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
