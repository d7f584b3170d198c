#include "checkpoint/checkpoint.h"

#include "checkpoint/adapter.h"
#include "checkpoint/departures.h"
#include "checkpoint/tensor_files.h"
#include "checkpoint/tensor_names.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <deque>
#include <map>

namespace espalier
{

namespace
{

constexpr Matrix kMatrices[] = {Matrix::Gate, Matrix::Up, Matrix::Down};
constexpr std::string_view kSharedMatrix[] = {"gate_proj", "up_proj", "down_proj"};
constexpr std::size_t kMaxMissing = 64;  // then the list of what is missing is long enough, and the search stops
constexpr std::size_t kMaxNamed = 5;

std::string firstNames(const std::vector<std::string>& names, bool more)
{
    const auto shown = static_cast<std::ptrdiff_t>(std::min(kMaxNamed, names.size()));
    return fmt::format("{}{}", fmt::join(names.begin(), names.begin() + shown, ", "), more || names.size() > kMaxNamed ? ", ..." : "");
}

struct Range {
    std::uint32_t file = 0;
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
};

}  // namespace

struct Checkpoint::Data {
    std::filesystem::path folder;
    ModelConfig config;
    const ArchitectureAdapter* adapter = nullptr;
    ModelShape shape;
    std::vector<std::string> warnings;
    std::string fingerprint;
    std::string configSha256;
    TensorFiles source;                                // its places are found by standard name (tensor_names.h)
    std::deque<std::string> renamed;                   // standard names that are not those on disk
    std::vector<std::vector<std::string_view>> names;  // [file][tensor]: standard name
    std::vector<bool> fused;                           // per layer
    std::vector<std::vector<bool>> used;               // [file][tensor]: part of the model
    std::vector<std::vector<Range>> ranges;            // per layer, for read-ahead; offsets in the file
    bool tied = false;

    std::string_view block(int layer) const
    {
        // transformers renames Mixtral's block when it fuses.
        return fused[static_cast<std::size_t>(layer)] ? std::string_view("mlp") : adapter->names().block;
    }
    std::string constantName(int layer, int expert) const
    {
        return fmt::format("model.layers.{}.{}.experts.{}.constant", layer, adapter->names().block, expert);
    }
    std::string expertBase(int layer, int expert, Matrix matrix) const
    {
        return fmt::format("model.layers.{}.{}.experts.{}.{}", layer, adapter->names().block, expert,
                           adapter->names().matrix[static_cast<int>(matrix)]);
    }
    TensorView view(const TensorFiles::Place& place) const
    {
        const SafetensorsFile& file = source.files[place.file];
        const TensorInfo& info = file.tensors()[place.tensor];
        return {info.name, info.dtype, info.shape, file.bytes(info)};
    }
    TensorView mustView(const std::string& name) const
    {
        const auto place = source.places.find(name);
        assert(place != source.places.end());
        return place == source.places.end() ? TensorView{name, DType::F32, {0}, {}} : view(place->second);
    }
    const LayerConfig& layer(int index) const
    {
        assert(index >= 0 && index < config.layerCount);
        return config.layers[static_cast<std::size_t>(index)];
    }

    TensorRole parse(std::string_view name) const;
    std::string standardName(std::string_view name) const
    {
        return standardTensorName(name, adapter->names().block, config.layerCount,
                                  [&](int i) { return static_cast<bool>(fused[static_cast<std::size_t>(i)]); });
    }
    Status nameTensors();
    Status verify();
    void describeExtras();
    void measure();
};

// Finds which layers are fused, then gives every tensor its standard name.
Status Checkpoint::Data::nameTensors()
{
    fused.assign(static_cast<std::size_t>(config.layerCount), false);
    const std::string_view block_ = adapter->names().block;
    for (const SafetensorsFile& file : source.files)
        for (const TensorInfo& info : file.tensors()) {
            const int index = config.factored ? -1 : fusedExpertLayer(info.name, block_);
            if (index >= 0 && index < config.layerCount && layer(index).moe) fused[static_cast<std::size_t>(index)] = true;
        }
    const bool embedding = source.places.contains("model.embed_tokens.weight") || source.places.contains("embed_tokens.weight");
    source.places.clear();
    for (std::uint32_t f = 0; f < source.files.size(); ++f) {
        const auto& tensors = source.files[f].tensors();
        names.emplace_back(tensors.size());
        for (std::uint32_t t = 0; t < tensors.size(); ++t) {
            std::string standard = standardName(tensors[t].name);
            // Tied the one way or the other: transformers takes the matrix that is there.
            if (config.tiedEmbeddings && !embedding && standard == "lm_head.weight") standard = "model.embed_tokens.weight";
            names[f][t] = tensors[t].name;
            if (standard != tensors[t].name) {
                renamed.push_back(std::move(standard));
                names[f][t] = renamed.back();
            }
            const auto [place, inserted] = source.places.emplace(names[f][t], TensorFiles::Place{f, t});
            if (!inserted)
                return badInput(
                    "checkpoint.duplicate_tensor", tensors[t].name,
                    {"{name} and {place} are two names of one tensor, and both are in the files.",
                     {{"name", tensors[t].name}, {"place", source.files[place->second.file].tensors()[place->second.tensor].name}}},
                    "Files of different conversions are mixed: fetch the checkpoint again.");
        }
    }
    return {};
}

// By anchored components: "shared_experts.down_proj" is not an expert. Other where the name says nothing special.
TensorRole Checkpoint::Data::parse(std::string_view name) const
{
    TensorRole role;
    if (!takePrefix(name, "model.layers.")) return role;
    const int index = takeNumber(name);
    if (index < 0) return role;
    role.layer = index;
    if (index >= config.layerCount) {
        role.kind = TensorRole::Kind::Ignored;
        return role;
    }
    if (static_cast<std::size_t>(index) < shape.layers.size())
        for (const LinearShape& linear : shape.layers[static_cast<std::size_t>(index)].linears) {
            std::string_view end = name;
            using Factor = TensorRole::Factor;
            if (!takePrefix(end, linear.name) || (end != ".weight" && end != ".U" && end != ".V" && end != ".bias")) continue;
            role.linear = linear.name;
            role.factor = end == ".U" ? Factor::U : end == ".V" ? Factor::V : end == ".bias" ? Factor::Bias : Factor::None;
            return role;
        }
    std::string_view rest = name;
    if (!takePrefix(rest, block(index)) || !takePrefix(rest, ".")) return role;
    if (rest == "gate.weight") {
        role.kind = TensorRole::Kind::Router;
    } else if (rest == "gate.e_score_correction_bias") {
        role.kind = TensorRole::Kind::RouterBias;
    } else if (takePrefix(rest, "experts.")) {
        if (rest == "gate_up_proj") {
            role.kind = TensorRole::Kind::FusedGateUp;
        } else if (rest == "down_proj") {
            role.kind = TensorRole::Kind::FusedDown;
        } else if (const int expert = takeNumber(rest); expert >= 0) {
            if (rest == ".constant") {
                role.kind = TensorRole::Kind::ExpertConstant;
                role.expert = expert;
                return role;
            }
            for (const Matrix matrix : kMatrices) {
                std::string_view end = rest;
                if (!takePrefix(end, adapter->names().matrix[static_cast<int>(matrix)])) continue;
                if (end == ".weight" || end == ".U" || end == ".V" || (config.factored && end == ".bias")) {
                    using Factor = TensorRole::Factor;
                    role.kind = TensorRole::Kind::Expert;
                    role.expert = expert;
                    role.matrix = matrix;
                    role.factor = end == ".U" ? Factor::U : end == ".V" ? Factor::V : end == ".bias" ? Factor::Bias : Factor::None;
                }
            }
        }
    }
    return role;
}

// What stands before the names, where a model was saved inside another one or by a training program.
std::optional<std::string> prefixHint(const TensorFiles& source)
{
    constexpr std::string_view kTail = "layers.0.input_layernorm.weight";
    for (const auto& [name, place] : source.places) {
        if (!name.ends_with(kTail)) continue;
        std::string_view prefix = std::string_view(name).substr(0, name.size() - kTail.size());
        if (prefix.ends_with("model.")) prefix.remove_suffix(6);
        if (prefix.empty()) continue;
        return fmt::format(
            "The names in the files begin with \"{}\", which transformers' class of this model does not load either: save the "
            "model itself without it.",
            prefix);
    }
    return std::nullopt;
}

// Every tensor the configuration asks for is there, has its shape and a dtype that holds weights. Nothing is listed that is not in the
// files, so a configuration that claims much costs nothing.
Status Checkpoint::Data::verify()
{
    std::vector<std::string> missing;
    std::optional<Error> wrongShape;
    std::optional<Error> wrongType;
    const TensorSink expect = [&](std::string_view name, std::span<const std::int64_t> shape) {
        const auto place = source.places.find(name);
        if (place == source.places.end()) {
            missing.emplace_back(name);
            return missing.size() < kMaxMissing;
        }
        used[place->second.file][place->second.tensor] = true;
        const TensorInfo& info = source.files[place->second.file].tensors()[place->second.tensor];
        if (!wrongShape && !std::equal(shape.begin(), shape.end(), info.shape.begin(), info.shape.end()))
            wrongShape = badInput("checkpoint.tensor_shape", info.name,
                                  {"Tensor {name} in {place} has the shape {shape_text}, but by config.json it is {shape_text2}.",
                                   {{"name", info.name},
                                    {"place", source.names[place->second.file]},
                                    {"shape_text", shapeText(info.shape)},
                                    {"shape_text2", shapeText(shape)}}},
                                  "config.json and weights do not belong together: take both from the same place.");
        if (!wrongType && !isFloating(info.dtype))
            wrongType =
                badInput("checkpoint.tensor_dtype", info.name,
                         {"Tensor {name} in {place} is stored as {dtype_name}; weights are F16, BF16, F32 or F64.",
                          {{"name", info.name}, {"place", source.names[place->second.file]}, {"dtype_name", dtypeName(info.dtype)}}},
                         "Open the unquantised checkpoint of this model.");
        return true;
    };

    tied = !source.places.contains("lm_head.weight");
    bool going = forEachTopTensor(config, tied, expect);
    const std::int64_t hidden = config.hiddenSize;
    for (int i = 0; going && i < config.layerCount; ++i) {
        const LayerConfig& l = layer(i);
        going = forEachLayerTensor(*adapter, config, i, block(i), expect);
        if (fused[static_cast<std::size_t>(i)]) {
            const std::int64_t experts = l.experts;
            const std::string prefix = fmt::format("model.layers.{}.mlp.experts.", i);
            going = going && expect(prefix + "gate_up_proj", std::array{experts, std::int64_t(2) * l.expertWidth, hidden}) &&
                    expect(prefix + "down_proj", std::array{experts, hidden, std::int64_t(l.expertWidth)});
            continue;
        }
        for (int e = 0; going && e < l.experts; ++e) {
            if (l.bodyOf(e) != e) continue;
            if (l.isConstant(e)) {
                going = expect(constantName(i, e), std::array{hidden});
                continue;
            }
            for (const Matrix matrix : kMatrices) {
                const std::int64_t rows = matrix == Matrix::Down ? hidden : l.widthOf(e);
                const std::int64_t columns = matrix == Matrix::Down ? l.widthOf(e) : hidden;
                const std::int64_t rank = l.ranks.empty() ? 0 : l.ranks[static_cast<std::size_t>(e)][static_cast<std::size_t>(matrix)];
                const std::string base = expertBase(i, e, matrix);
                going =
                    going && (rank == 0 ? expect(base + ".weight", std::array{rows, columns})
                                        : expect(base + ".U", std::array{rows, rank}) && expect(base + ".V", std::array{rank, columns}));
                if (l.hasBias(e, static_cast<std::size_t>(matrix))) going = going && expect(base + ".bias", std::array{rows});
            }
        }
    }
    if (!missing.empty())
        return badInput(
            "checkpoint.tensor_missing", missing.front(),
            {"{missing} of the model {missing2} not in the files: {first_names}.",
             {{"missing", missing.size() == 1 ? "A tensor" : fmt::format("{}{} tensors", going ? "" : "At least ", missing.size())},
              {"missing2", missing.size() == 1 ? "is" : "are"},
              {"first_names", firstNames(missing, !going)}}},
            prefixHint(source).value_or("The checkpoint is incomplete, or config.json belongs to another model."));
    // What is left over in an MLP of the model would be computed with if the configuration were right.
    std::vector<std::string> unexpected;
    for (std::size_t f = 0; f < source.files.size(); ++f) {
        const auto& tensors = source.files[f].tensors();
        for (std::size_t t = 0; t < tensors.size(); ++t) {
            if (used[f][t]) continue;
            std::string_view rest = names[f][t];
            if (!takePrefix(rest, "model.layers.")) continue;
            const int index = takeNumber(rest);
            if (index >= 0 && index < config.layerCount && (rest.starts_with("mlp.") || rest.starts_with("block_sparse_moe.")))
                unexpected.push_back(tensors[t].name);
        }
    }
    // The router of a layer with experts to spare has the wrong shape as well, and says the number.
    if (wrongShape) return *wrongShape;
    if (!unexpected.empty()) {
        std::sort(unexpected.begin(), unexpected.end());
        return badInput("checkpoint.tensor_unexpected", unexpected.front(),
                        {"{unexpected} in the files {unexpected2} no place in the model that config.json describes: {first_names}.",
                         {{"unexpected", unexpected.size() == 1 ? "A tensor" : fmt::format("{} tensors", unexpected.size())},
                          {"unexpected2", unexpected.size() == 1 ? "has" : "have"},
                          {"first_names", firstNames(unexpected, false)}}},
                        "config.json and weights do not belong together: take both from the same place.");
    }
    if (wrongType) return *wrongType;
    return {};
}

void Checkpoint::Data::describeExtras()
{
    std::vector<std::string> others;
    std::size_t beyond = 0;
    bool prediction = promisesPrediction(config);
    for (std::size_t f = 0; f < source.files.size(); ++f) {
        const auto& tensors = source.files[f].tensors();
        for (std::size_t t = 0; t < tensors.size(); ++t) {
            if (used[f][t]) continue;
            if (parse(names[f][t]).kind == TensorRole::Kind::Ignored) {
                ++beyond;
                // What joins the hidden state with the next token's embedding.
                prediction = prediction || names[f][t].ends_with(".eh_proj.weight");
            } else {
                others.push_back(tensors[t].name);
            }
        }
    }
    if (beyond > 0)
        warnings.push_back(fmt::format("{} tensors of layers from {} on ({}) are not part of the model and are ignored.", beyond,
                                       config.layerCount, prediction ? "multi-token prediction" : "beyond num_hidden_layers"));
    std::sort(others.begin(), others.end());
    if (others.size() == 1)
        warnings.push_back(fmt::format("The tensor {} is not part of the model and is ignored.", others.front()));
    else if (!others.empty())
        warnings.push_back(
            fmt::format("{} tensors are not part of the model and are ignored: {}.", others.size(), firstNames(others, false)));
    const auto embedding = source.places.find("model.embed_tokens.weight");
    const bool head = embedding != source.places.end() && view(embedding->second).name == "lm_head.weight";
    for (std::string& warning : departureWarnings(config, {tied, head, shape.dtype, beyond}))
        warnings.push_back(std::move(warning));
}

// Shape and bytes as stored, and where each layer lies.
void Checkpoint::Data::measure()
{
    config.tiedEmbeddings = tied;
    shape = modelShape(config);
    struct Sums {
        std::int64_t experts = 0, router = 0, other = 0;
    };
    std::vector<Sums> sums(config.layers.size());
    ranges.resize(config.layers.size());
    std::map<DType, std::uint64_t> byType;
    std::int64_t top = 0;
    for (std::uint32_t f = 0; f < source.files.size(); ++f) {
        const SafetensorsFile& file = source.files[f];
        for (std::size_t t = 0; t < file.tensors().size(); ++t) {
            const TensorInfo& info = file.tensors()[t];
            if (!used[f][t]) continue;
            byType[info.dtype] += info.byteCount();
            const TensorRole role = parse(names[f][t]);
            const auto bytes = static_cast<std::int64_t>(info.byteCount());
            if (role.layer < 0) {
                top += bytes;
                continue;
            }
            const auto index = static_cast<std::size_t>(role.layer);
            switch (role.kind) {
                case TensorRole::Kind::Expert:
                case TensorRole::Kind::ExpertConstant:
                case TensorRole::Kind::FusedGateUp:
                case TensorRole::Kind::FusedDown:
                    sums[index].experts += bytes;
                    break;
                case TensorRole::Kind::Router:
                case TensorRole::Kind::RouterBias:  // a number of each column
                    sums[index].router += bytes;
                    break;
                default:
                    sums[index].other += bytes;
            }
            const std::uint64_t begin = file.dataOffset() + info.begin;
            if (!ranges[index].empty() && ranges[index].back().file == f && ranges[index].back().end == begin)
                ranges[index].back().end += info.byteCount();
            else
                ranges[index].push_back({f, begin, begin + info.byteCount()});
        }
    }
    shape.embeddingBytes = top;
    for (LayerShape& layer : shape.layers)
        for (LinearShape& linear : layer.linears)
            linear.numberBytes =
                dtypeBits(mustView(fmt::format("model.layers.{}.{}.{}", layer.index, linear.name, linear.sourceRank > 0 ? "U" : "weight"))
                              .dtype) /
                8;
    for (std::size_t i = 0; i < sums.size(); ++i) {
        LayerShape& layer = shape.layers[i];
        layer.otherBytes = sums[i].other;
        if (!layer.moe) continue;
        layer.bytesPerExpert = sums[i].experts / layer.experts;
        layer.routerBytesPerExpert = sums[i].router / layer.experts;
        layer.otherBytes += sums[i].experts % layer.experts + sums[i].router % layer.experts;
    }
    const auto most = std::max_element(byType.begin(), byType.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    if (most != byType.end()) shape.dtype = dtypeName(most->first);
}

namespace
{

Error nothingLoaded(Error error)
{
    if (error.kept.empty()) error.kept = "Nothing was loaded.";
    return error;
}

}  // namespace

Checkpoint::Checkpoint(std::unique_ptr<Data> data) : m_data(std::move(data)) {}
Checkpoint::~Checkpoint() = default;

Result<std::shared_ptr<const Checkpoint>> Checkpoint::open(const std::filesystem::path& folder)
{
    auto data = std::make_unique<Data>();
    const auto load = [&]() -> Status {
        data->folder = folder;
        ESPALIER_TRY(ConfigFile file, readConfigFile(folder));
        data->configSha256 = file.sha256;
        ESPALIER_TRY(data->config, parseModelConfig(file.value));
        data->adapter = &adapterFor(data->config.architecture);
        ESPALIER_TRY(data->source, openTensorFiles(folder));
        data->used.reserve(data->source.files.size());
        for (const SafetensorsFile& shard : data->source.files)
            data->used.emplace_back(shard.tensors().size());
        for (std::size_t i = 0; i < data->source.files.size(); ++i)
            ESPALIER_CHECK_OK(checkNotQuantised(data->config, data->source.files[i].tensors(), data->source.names[i]));
        ESPALIER_CHECK_OK(data->nameTensors());
        ESPALIER_CHECK_OK(data->verify());
        data->warnings = data->config.warnings;
        data->warnings.insert(data->warnings.end(), data->source.warnings.begin(), data->source.warnings.end());
        data->measure();
        data->describeExtras();
        data->fingerprint = data->source.fingerprint(data->configSha256);
        return {};
    };
    const Status status = load();
    if (!status) return nothingLoaded(status.error());
    std::shared_ptr<const Checkpoint> checkpoint(new Checkpoint(std::move(data)));
    if (const Status same = checkpoint->checkUnchanged(); !same.ok()) return nothingLoaded(same.error());
    return checkpoint;
}

const std::filesystem::path& Checkpoint::folder() const noexcept { return m_data->folder; }
const ModelConfig& Checkpoint::config() const noexcept { return m_data->config; }
const ModelShape& Checkpoint::shape() const noexcept { return m_data->shape; }
const std::vector<std::string>& Checkpoint::warnings() const noexcept { return m_data->warnings; }
const std::string& Checkpoint::fingerprint() const noexcept { return m_data->fingerprint; }
const std::string& Checkpoint::configSha256() const noexcept { return m_data->configSha256; }
const std::string& Checkpoint::weightsSha256() const noexcept { return m_data->source.weightsSha256; }
std::vector<std::string> Checkpoint::shardNames() const { return m_data->source.names; }
std::int64_t Checkpoint::tensorCount() const noexcept { return static_cast<std::int64_t>(m_data->source.places.size()); }
bool Checkpoint::has(std::string_view name) const noexcept { return tensor(name).ok(); }

Result<TensorView> Checkpoint::tensor(std::string_view name) const
{
    auto place = m_data->source.places.find(name);
    if (place == m_data->source.places.end()) place = m_data->source.places.find(m_data->standardName(name));
    if (place == m_data->source.places.end())
        return badInput("checkpoint.tensor_missing", std::string(name), {"The checkpoint has no tensor {name}.", {{"name", name}}},
                        "Check the name with espalier-engine inspect --tensors.");
    return m_data->view(place->second);
}

Result<TensorView> Checkpoint::layerTensor(int layer, std::string_view suffix) const
{
    return tensor(fmt::format("model.layers.{}.{}", layer, suffix));
}

TensorView Checkpoint::embed() const { return m_data->mustView("model.embed_tokens.weight"); }
TensorView Checkpoint::lmHead() const { return m_data->mustView(m_data->tied ? "model.embed_tokens.weight" : "lm_head.weight"); }
TensorView Checkpoint::finalNorm() const { return m_data->mustView("model.norm.weight"); }

TensorView Checkpoint::router(int layer) const
{
    assert(m_data->layer(layer).moe);
    return m_data->mustView(fmt::format("model.layers.{}.{}.gate.weight", layer, m_data->block(layer)));
}

std::optional<TensorView> Checkpoint::routerBias(int layer) const
{
    const auto place =
        m_data->source.places.find(fmt::format("model.layers.{}.{}.gate.e_score_correction_bias", layer, m_data->block(layer)));
    if (place == m_data->source.places.end() || !m_data->used[place->second.file][place->second.tensor]) return std::nullopt;
    return m_data->view(place->second);
}

LinearView Checkpoint::expert(int layer, int number, Matrix matrix) const
{
    const LayerConfig& l = m_data->layer(layer);
    const int expert = l.bodyOf(number);
    assert(l.moe && expert >= 0 && expert < l.experts && !l.isConstant(expert));
    LinearView linear;
    if (m_data->fused[static_cast<std::size_t>(layer)]) {
        // A row range of dim 1 of one expert's slab is contiguous: a slice, no copy.
        const bool down = matrix == Matrix::Down;
        TensorView whole = m_data->mustView(fmt::format("model.layers.{}.mlp.experts.{}", layer, down ? "down_proj" : "gate_up_proj"));
        const std::size_t slab = whole.bytes.size() / static_cast<std::size_t>(l.experts);
        const std::size_t part = down ? slab : slab / 2;
        const std::size_t begin = slab * static_cast<std::size_t>(expert) + (matrix == Matrix::Up ? part : 0);
        linear.dense.name = std::move(whole.name);
        linear.dense.dtype = whole.dtype;
        linear.dense.shape = down ? std::vector<std::int64_t>{m_data->config.hiddenSize, l.expertWidth}
                                  : std::vector<std::int64_t>{l.expertWidth, m_data->config.hiddenSize};
        linear.dense.bytes = whole.bytes.subspan(begin, part);
        return linear;
    }
    const std::string base = m_data->expertBase(layer, expert, matrix);
    if (!l.ranks.empty() && l.ranks[static_cast<std::size_t>(expert)][static_cast<std::size_t>(matrix)] > 0) {
        linear.factored = true;
        linear.u = m_data->mustView(base + ".U");
        linear.v = m_data->mustView(base + ".V");
        linear.biased = l.hasBias(expert, static_cast<std::size_t>(matrix));
        if (linear.biased) linear.bias = m_data->mustView(base + ".bias");
    } else {
        linear.dense = m_data->mustView(base + ".weight");
    }
    return linear;
}

LinearView Checkpoint::linear(int layer, std::string_view name) const
{
    const LinearShape* shape = m_data->shape.layers[static_cast<std::size_t>(layer)].linear(name);
    assert(shape != nullptr);
    LinearView linear;
    if (shape == nullptr) return linear;
    const std::string base = fmt::format("model.layers.{}.{}", layer, name);
    if (shape->sourceRank > 0) {
        linear.factored = true;
        linear.u = m_data->mustView(base + ".U");
        linear.v = m_data->mustView(base + ".V");
    } else {
        linear.dense = m_data->mustView(base + ".weight");
    }
    linear.biased = shape->bias || shape->sourceBias;
    if (linear.biased) linear.bias = m_data->mustView(base + ".bias");
    return linear;
}

std::optional<LinearView> Checkpoint::sharedExpert(int layer, Matrix matrix) const
{
    if (m_data->layer(layer).sharedWidth == 0) return std::nullopt;
    return linear(layer, fmt::format("{}.{}.{}", m_data->adapter->names().block, m_data->adapter->names().shared,
                                     kSharedMatrix[static_cast<int>(matrix)]));
}

std::optional<TensorView> Checkpoint::sharedGate(int layer) const
{
    if (!m_data->config.sharedGate || m_data->layer(layer).sharedWidth == 0) return std::nullopt;
    return m_data->mustView(fmt::format("model.layers.{}.{}.{}.weight", layer, m_data->block(layer), m_data->adapter->names().sharedGate));
}

LinearView Checkpoint::denseMlp(int layer, Matrix matrix) const
{
    assert(!m_data->layer(layer).moe);
    return linear(layer, fmt::format("mlp.{}", kSharedMatrix[static_cast<int>(matrix)]));
}

bool Checkpoint::fusedExperts(int layer) const noexcept { return m_data->fused[static_cast<std::size_t>(layer)]; }

std::string Checkpoint::expertTensorName(int layer, int expert, Matrix matrix) const
{
    return m_data->expertBase(layer, expert, matrix) + ".weight";
}

std::string Checkpoint::expertConstantName(int layer, int expert) const { return m_data->constantName(layer, expert); }

std::optional<TensorView> Checkpoint::expertConstant(int layer, int expert) const
{
    const LayerConfig& l = m_data->layer(layer);
    if (!l.moe || !l.isConstant(expert)) return std::nullopt;
    return m_data->mustView(m_data->constantName(layer, expert));
}

std::string Checkpoint::routerTensorName(int layer) const
{
    return fmt::format("model.layers.{}.{}.gate.weight", layer, m_data->adapter->names().block);
}

std::vector<StoredTensor> Checkpoint::tensorsInOrder() const
{
    std::vector<StoredTensor> all;
    all.reserve(m_data->source.places.size());
    for (std::uint32_t f = 0; f < m_data->source.files.size(); ++f)
        for (std::uint32_t t = 0; t < m_data->source.files[f].tensors().size(); ++t) {
            StoredTensor stored{m_data->view({f, t}), m_data->source.names[f], {}};
            stored.role = roleOf(stored.view.name);
            all.push_back(std::move(stored));
        }
    return all;
}

TensorRole Checkpoint::roleOf(std::string_view name) const
{
    const std::string standard = standardTensorName(*this, name);
    TensorRole role = m_data->parse(standard);
    const auto place = m_data->source.places.find(standard);
    if (place == m_data->source.places.end() || !m_data->used[place->second.file][place->second.tensor])
        role.kind = TensorRole::Kind::Ignored;
    return role;
}

Status Checkpoint::checkUnchanged() const
{
    for (const SafetensorsFile& file : m_data->source.files)
        ESPALIER_CHECK_OK(file.file().checkUnchanged());
    return {};
}

void Checkpoint::readLayer(int layer, const std::function<bool()>& goOn) const
{
    constexpr std::size_t kPiece = std::size_t{8} << 20;
    if (layer < 0 || layer >= m_data->config.layerCount) return;
    for (const Range& range : m_data->ranges[static_cast<std::size_t>(layer)]) {
        const std::span<const std::byte> bytes = m_data->source.files[range.file].file().bytes();
        for (std::size_t begin = range.begin; begin < range.end; begin += kPiece) {
            if (!goOn()) return;
            MappedFile::populate(bytes.subspan(begin, std::min(kPiece, range.end - begin)));
        }
    }
}

void Checkpoint::dontNeedLayer(int layer) const noexcept
{
    if (layer < 0 || layer >= m_data->config.layerCount) return;
    for (const Range& range : m_data->ranges[static_cast<std::size_t>(layer)])
        m_data->source.files[range.file].file().dontNeed(range.begin, range.end - range.begin);
}

namespace
{

template <typename Advise>
void eachPart(const LinearView& matrix, Advise&& advise)
{
    for (const TensorView* view : {&matrix.dense, &matrix.u, &matrix.v, &matrix.bias})
        if (!view->bytes.empty()) advise(view->bytes);
}

}  // namespace

void Checkpoint::willNeed(const LinearView& matrix) const noexcept
{
    eachPart(matrix, [](std::span<const std::byte> bytes) { MappedFile::willNeed(bytes); });
}

void Checkpoint::dontNeed(const LinearView& matrix) const noexcept
{
    eachPart(matrix, [](std::span<const std::byte> bytes) { MappedFile::dontNeed(bytes); });
}

}  // namespace espalier
