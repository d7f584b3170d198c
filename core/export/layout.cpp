#include "export/layout.h"

#include "checkpoint/tensor_names.h"
#include "export/layer_numbers.h"
#include "model/factor_store.h"
#include "model/layer_weights.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>

namespace espalier
{

namespace
{

constexpr std::size_t kPiece = 16u << 20;

std::uint64_t byteCount(DType dtype, const std::vector<std::int64_t>& shape)
{
    std::uint64_t elements = 1;
    for (const std::int64_t size : shape)
        elements *= static_cast<std::uint64_t>(size);
    return elements * static_cast<std::uint64_t>(dtypeBits(dtype)) / 8;
}

at::ScalarType scalarType(DType dtype)
{
    switch (dtype) {
        case DType::BF16:
            return at::kBFloat16;
        case DType::F16:
            return at::kHalf;
        case DType::F64:
            return at::kDouble;
        default:
            return at::kFloat;
    }
}

OutputTensor copyOf(const TensorView& view, std::string name)
{
    OutputTensor tensor;
    tensor.name = std::move(name);
    tensor.dtype = view.dtype;
    tensor.shape = view.shape;
    tensor.bytes = view.bytes.size();
    tensor.source = view;
    return tensor;
}

OutputTensor rowsOf(const TensorView& view, std::string name, const std::vector<int>& rows)
{
    OutputTensor tensor = copyOf(view, std::move(name));
    if (static_cast<std::int64_t>(rows.size()) == view.shape[0]) return tensor;
    tensor.origin = OutputTensor::Origin::Rows;
    tensor.rows = rows;
    tensor.shape[0] = static_cast<std::int64_t>(rows.size());
    tensor.bytes = byteCount(tensor.dtype, tensor.shape);
    return tensor;
}

// Number of an expert in the export, or -1.
int newNumber(const LayerPlan& plan, int expert)
{
    const auto found = std::lower_bound(plan.columns().begin(), plan.columns().end(), expert);
    return found != plan.columns().end() && *found == expert ? static_cast<int>(found - plan.columns().begin()) : -1;
}

std::string stem(std::string name)
{
    constexpr std::string_view kWeight = ".weight";
    if (name.ends_with(kWeight)) name.resize(name.size() - kWeight.size());
    return name;
}

struct Builder {
    const Checkpoint& checkpoint;
    const CompressionPlan& plan;
    const LayerNumbers& numbers;
    ExportLayout& layout;
    bool perExpert = true;  // write experts one by one whatever the source does

    void add(OutputTensor tensor)
    {
        layout.bytes += tensor.bytes;
        layout.tensors.push_back(std::move(tensor));
    }

    void addConstant(int layer, int expert, int number, ConstantKind kind)
    {
        OutputTensor tensor;
        tensor.name = numbers.renamed(checkpoint.expertConstantName(layer, number), layer);
        tensor.origin = OutputTensor::Origin::Constant;
        if (const auto source = checkpoint.expertConstant(layer, expert)) {
            tensor.dtype = source->dtype;
        } else {
            const LinearView linear = checkpoint.expert(layer, expert, Matrix::Down);
            tensor.dtype = linear.factored ? linear.u.dtype : linear.dense.dtype;
        }
        tensor.shape = {checkpoint.shape().hiddenSize};
        tensor.bytes = byteCount(tensor.dtype, tensor.shape);
        tensor.layer = layer;
        tensor.expert = expert;
        tensor.constant = kind;
        add(std::move(tensor));
    }

    // All tensors that stand for one matrix of one column's expert.
    Status addExpert(int layer, int expert, Matrix matrix)
    {
        const LayerPlan& part = plan.layer(layer);
        const int number = newNumber(part, expert);
        if (number < 0) return {};
        const int rank = part.ranks().empty() ? 0 : part.ranksOf(expert)[static_cast<std::size_t>(matrix)];
        const std::string name = numbers.renamed(checkpoint.expertTensorName(layer, number, matrix), layer);
        if (const auto* constant = std::get_if<ConstantBody>(part.bodyOf(expert))) {
            if (matrix == Matrix::Gate) addConstant(layer, expert, number, constant->kind);
            return {};
        }
        const LinearView linear = checkpoint.expert(layer, expert, matrix);
        const bool whole = layout.flavor == ExportFlavor::Reconstructed;
        if (rank == 0 && !linear.factored) {
            OutputTensor tensor = copyOf(linear.dense, name);
            tensor.origin = OutputTensor::Origin::Matrix;
            add(std::move(tensor));
            return {};
        }
        if (rank == 0 && !whole) {
            if (layout.flavor == ExportFlavor::Stock)
                return badInput("export.ranks_not_dense", linear.u.name,
                                fmt::format("The source holds expert {} of layer {} as factors; a stock checkpoint holds whole matrices.",
                                            expert, layer),
                                "Export as \"factored\", as \"reconstructed\" (factors are multiplied back), or as \"plan\".");
            add(copyOf(linear.u, stem(name) + ".U"));
            add(copyOf(linear.v, stem(name) + ".V"));
            return {};
        }
        OutputTensor tensor;
        tensor.dtype = linear.factored ? linear.u.dtype : linear.dense.dtype;
        tensor.layer = layer;
        tensor.expert = expert;
        tensor.matrix = matrix;
        tensor.rank = rank;
        const std::int64_t out = linear.factored ? linear.u.shape[0] : linear.dense.shape[0];
        const std::int64_t in = linear.factored ? linear.v.shape[1] : linear.dense.shape[1];
        const auto emit = [&](OutputTensor::Origin origin, std::string full, std::vector<std::int64_t> shape) {
            tensor.origin = origin;
            tensor.name = std::move(full);
            tensor.shape = std::move(shape);
            tensor.bytes = byteCount(tensor.dtype, tensor.shape);
            add(tensor);
        };
        if (whole) {
            emit(OutputTensor::Origin::Product, name, {out, in});
        } else {
            emit(OutputTensor::Origin::FactorU, stem(name) + ".U", {out, rank});
            emit(OutputTensor::Origin::FactorV, stem(name) + ".V", {rank, in});
        }
        return {};
    }

    Status addTensor(const StoredTensor& stored)
    {
        using Kind = TensorRole::Kind;
        const TensorRole& role = stored.role;
        const TensorView& view = stored.view;
        if (role.kind != Kind::Ignored && role.layer >= 0 && numbers.of(role.layer) < 0) return {};
        const std::string name =
            role.kind == Kind::Ignored ? view.name : numbers.renamed(standardTensorName(checkpoint, view.name), role.layer);
        switch (role.kind) {
            case Kind::Other:
                add(copyOf(view, name));
                return {};
            case Kind::Ignored:
                layout.dropped.push_back(view.name);
                return {};
            case Kind::Router:
                add(rowsOf(view, perExpert ? numbers.renamed(checkpoint.routerTensorName(role.layer), role.layer) : name,
                           plan.layer(role.layer).columns()));
                return {};
            case Kind::RouterBias:
                add(rowsOf(view, name, plan.layer(role.layer).columns()));
                return {};
            case Kind::ExpertConstant:
                if (const int number = newNumber(plan.layer(role.layer), role.expert); number < 0)
                    return {};
                else if (const auto* constant = std::get_if<ConstantBody>(plan.layer(role.layer).bodyOf(role.expert)))
                    addConstant(role.layer, role.expert, number, constant->kind);
                else
                    add(copyOf(view, numbers.renamed(checkpoint.expertConstantName(role.layer, number), role.layer)));
                return {};
            case Kind::Expert:
                // U and V of a factored source are one matrix: it is handled when U comes by.
                return role.factor == TensorRole::Factor::V ? Status{} : addExpert(role.layer, role.expert, role.matrix);
            case Kind::FusedGateUp:
            case Kind::FusedDown:
                if (!perExpert) {
                    add(rowsOf(view, name, plan.layer(role.layer).kept()));
                    layout.fused = true;
                    return {};
                }
                for (const int expert : plan.layer(role.layer).columns()) {
                    if (role.kind == Kind::FusedDown) {
                        ESPALIER_CHECK_OK(addExpert(role.layer, expert, Matrix::Down));
                    } else {
                        ESPALIER_CHECK_OK(addExpert(role.layer, expert, Matrix::Gate));
                        ESPALIER_CHECK_OK(addExpert(role.layer, expert, Matrix::Up));
                    }
                }
                return {};
        }
        return {};
    }
};

}  // namespace

std::string ExportLayout::shardName(std::size_t shard) const
{
    if (shards.size() == 1) return "model.safetensors";
    return fmt::format("model-{:05d}-of-{:05d}.safetensors", shard + 1, shards.size());
}

int exportVersion(const Checkpoint& checkpoint, const CompressionPlan& plan)
{
    const auto& layers = checkpoint.shape().layers;
    const bool source = std::any_of(layers.begin(), layers.end(), [](const LayerShape& layer) { return !layer.sourceConstants.empty(); });
    return plan.hasConstants() || source ? 2 : 1;
}

Result<ExportLayout> layoutExport(const Checkpoint& checkpoint, const CompressionPlan& plan, ExportFlavor flavor, bool unfuse,
                                  std::int64_t shardSize)
{
    ExportLayout layout;
    layout.flavor = flavor;
    layout.metadata = {{"format", "pt"}};
    if (flavor == ExportFlavor::Plan) return layout;
    if (flavor == ExportFlavor::Factored) layout.metadata.emplace("espalier.version", exportVersion(checkpoint, plan) == 1 ? "1" : "2");

    // A fused tensor cannot hold matrices of reduced rank multiplied back one by one without being put together again; such a
    // source is written per expert.
    const bool perExpert = flavor == ExportFlavor::Factored || unfuse || (flavor == ExportFlavor::Reconstructed && plan.hasRanks());
    const LayerNumbers numbers(checkpoint.shape(), plan);
    Builder builder{checkpoint, plan, numbers, layout, perExpert};
    for (const StoredTensor& stored : checkpoint.tensorsInOrder())
        ESPALIER_CHECK_OK(builder.addTensor(stored));

    const std::uint64_t limit = static_cast<std::uint64_t>(std::max<std::int64_t>(shardSize, 1));
    std::uint64_t used = 0;
    for (std::size_t i = 0; i < layout.tensors.size(); ++i) {
        const std::uint64_t bytes = layout.tensors[i].bytes;
        if (layout.shards.empty() || (used + bytes > limit && !layout.shards.back().empty())) {
            layout.shards.emplace_back();
            used = 0;
        }
        layout.shards.back().push_back(i);
        used += bytes;
    }
    return layout;
}

std::string indexJson(const ExportLayout& layout)
{
    Json map = Json::object();
    for (std::size_t shard = 0; shard < layout.shards.size(); ++shard)
        for (const std::size_t i : layout.shards[shard])
            map[layout.tensors[i].name] = layout.shardName(shard);
    const Json index = {{"metadata", {{"total_size", layout.bytes}}}, {"weight_map", std::move(map)}};
    return index.dump(2) + "\n";
}

struct TensorProducer::State {
    struct Key {
        int layer = -1;
        int expert = -1;
        Matrix matrix = Matrix::Gate;
        int rank = 0;                                  // 0: the whole matrix
        auto operator<=>(const Key&) const = default;  // NOLINT(modernize-use-nullptr): the 0 that a comparison expands to
    };
    struct Entry {
        at::Tensor weight;  // fp32; of a whole matrix
        MatrixFactors factors;
    };

    State(const Checkpoint& c, const FactorSource* f, const FactorSource* k) : checkpoint(c), source(f), constants(k) {}
    const Checkpoint& checkpoint;
    const FactorSource* source;
    const FactorSource* constants;
    std::vector<const OutputTensor*> upcoming;
    std::map<Key, Entry> entries;  // the current batch

    static bool computed(const OutputTensor& tensor)
    {
        return tensor.origin == OutputTensor::Origin::FactorU || tensor.origin == OutputTensor::Origin::FactorV ||
               tensor.origin == OutputTensor::Origin::Product;
    }

    Result<const Entry*> entry(const OutputTensor& tensor)
    {
        const auto keyOf = [](const OutputTensor& of) { return Key{of.layer, of.expert, of.matrix, of.rank}; };
        const Key key = keyOf(tensor);
        if (const auto found = entries.find(key); found != entries.end()) return &found->second;
        entries.clear();
        std::vector<Key> batch = {key};
        auto next = std::find(upcoming.begin(), upcoming.end(), &tensor);
        for (; next != upcoming.end() && batch.size() < static_cast<std::size_t>(at::get_num_threads()); ++next)
            if (computed(**next) && batch.back() != keyOf(**next)) batch.push_back(keyOf(**next));
        std::vector<Entry> results(batch.size());
        std::vector<std::optional<Error>> errors(batch.size());
        eachOnOneThread(batch.size(), [&](std::size_t i) {
            const c10::InferenceMode inference;
            const Key& which = batch[i];
            const int matrix = static_cast<int>(which.matrix);
            if (which.rank == 0) {
                auto loaded = loadExpertMatrix(checkpoint, which.layer, which.expert, matrix);
                if (loaded)
                    results[i].weight = loaded->weight;
                else
                    errors[i] = loaded.error();
                return;
            }
            auto factors = matrixFactors(checkpoint, source, which.layer, {which.expert, matrix, which.rank});
            if (factors)
                results[i].factors = std::move(factors).value();
            else
                errors[i] = factors.error();
        });
        for (std::size_t i = 0; i < batch.size(); ++i) {
            if (errors[i]) return *errors[i];
            entries.emplace(batch[i], std::move(results[i]));
        }
        return &entries.at(key);
    }
};

TensorProducer::TensorProducer(const Checkpoint& checkpoint, const FactorSource* factors, const FactorSource* constants)
    : m_state(std::make_unique<State>(checkpoint, factors, constants))
{
}
TensorProducer::~TensorProducer() = default;

void TensorProducer::expect(std::vector<const OutputTensor*> upcoming) { m_state->upcoming = std::move(upcoming); }

Status TensorProducer::produce(const OutputTensor& tensor, const Sink& sink)
{
    const auto pieces = [&](std::span<const std::byte> bytes, bool mapped = true) -> Status {
        while (!bytes.empty()) {
            const auto piece = bytes.first(std::min(bytes.size(), kPiece));
            if (mapped) MappedFile::populate(piece);
            ESPALIER_CHECK_OK(sink(piece));
            bytes = bytes.subspan(piece.size());
        }
        return {};
    };
    using Origin = OutputTensor::Origin;
    if (tensor.origin == Origin::Copy || tensor.origin == Origin::Matrix) return pieces(tensor.source.bytes);
    if (tensor.origin == Origin::Rows) {
        const std::size_t row = tensor.source.bytes.size() / static_cast<std::size_t>(tensor.source.shape[0]);
        for (const int r : tensor.rows)
            ESPALIER_CHECK_OK(pieces(tensor.source.bytes.subspan(static_cast<std::size_t>(r) * row, row)));
        return {};
    }
    const c10::InferenceMode inference;
    const at::ScalarType type = scalarType(tensor.dtype);
    at::Tensor result;
    if (tensor.origin == Origin::Constant) {
        if (!m_state->constants) return internalError(fmt::format("{} has no source of constants", tensor.name));
        ESPALIER_TRY(const std::vector<float> values, m_state->constants->constant(tensor.layer, tensor.expert, tensor.constant));
        if (static_cast<std::int64_t>(values.size()) != tensor.shape[0])
            return badInput("profile.invalid", "profile", fmt::format("The constant for {} has {} numbers.", tensor.name, values.size()),
                            "Take the profile of this model again.");
        result = at::tensor(values, at::kFloat).to(type).contiguous();
        return pieces({static_cast<const std::byte*>(result.const_data_ptr()), static_cast<std::size_t>(tensor.bytes)}, false);
    }
    ESPALIER_TRY(const State::Entry* entry, m_state->entry(tensor));
    if (tensor.origin == Origin::Product) {
        if (tensor.rank > 0) {
            // Of the rounded factors: the same matrix that the factored flavour stands for, rounded once more.
            const Factors factors = entry->factors.factors(tensor.rank);
            result = at::matmul(factors.u.to(at::kFloat), factors.v.to(at::kFloat));
        } else {
            result = entry->weight;
        }
        result = result.to(type).contiguous();
    } else {
        const Factors factors = entry->factors.factors(tensor.rank);
        result = (tensor.origin == Origin::FactorU ? factors.u : factors.v).to(type).contiguous();
    }
    return pieces({static_cast<const std::byte*>(result.const_data_ptr()), static_cast<std::size_t>(tensor.bytes)}, false);
}

}  // namespace espalier
