#include "export/layout.h"

#include "checkpoint/tensor_names.h"
#include "export/layer_numbers.h"
#include "model/form_builder.h"
#include "model/layer_mix.h"
#include "model/layer_weights.h"
#include "plan/plan_rules.h"

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
    bool perExpert = true;                                       // write experts one by one whatever the source does
    std::map<int, std::vector<DescribedColumn>> described = {};  // by layer, when first asked for

    void add(OutputTensor tensor)
    {
        layout.bytes += tensor.bytes;
        layout.tensors.push_back(std::move(tensor));
    }

    void addConstant(int layer, int expert, int number, const ConstantBody& constant)
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
        tensor.constant = constant;
        add(std::move(tensor));
    }

    // The matrix as the source has it, or the product of the source's factors.
    Status addSource(int layer, int expert, int number, Matrix matrix, const std::string& name)
    {
        const LinearView linear = checkpoint.expert(layer, expert, matrix);
        if (!linear.factored) {
            OutputTensor tensor = copyOf(linear.dense, name);
            tensor.origin = OutputTensor::Origin::Matrix;
            add(std::move(tensor));
            return {};
        }
        if (layout.flavor == ExportFlavor::Stock)
            return badInput("export.ranks_not_dense", linear.u.name,
                            {"The source holds expert {expert} of layer {layer} as factors; a stock checkpoint holds whole matrices.",
                             {{"expert", expert}, {"layer", layer}}},
                            "Export as \"factored\", as \"reconstructed\" (factors are multiplied back), or as \"plan\".");
        if (layout.flavor == ExportFlavor::Reconstructed) {
            addForm(layer, expert, number, matrix, name, MatrixForm{},
                    {FormPart::Product, ".weight", {linear.u.shape[0], linear.v.shape[1]}});
            return {};
        }
        add(copyOf(linear.u, stem(name) + ".U"));
        add(copyOf(linear.v, stem(name) + ".V"));
        if (linear.biased) add(copyOf(linear.bias, stem(name) + ".bias"));
        return {};
    }

    // A tensor of a linear map beside the experts: what stands for the whole map is added when its weight, or U of it, comes by.
    Status addLinear(const TensorRole& role, const TensorView& view, const std::string& name)
    {
        const LayerShape& shape = checkpoint.shape().layers[static_cast<std::size_t>(role.layer)];
        const LinearShape& linear = *shape.linear(role.linear);
        const auto& planned = plan.layer(role.layer).content().linears;
        const auto found = std::find_if(planned.begin(), planned.end(), [&](const auto& entry) { return entry.first == role.linear; });
        const MatrixForm form = found == planned.end() ? MatrixForm{} : found->second;
        const bool multiplied = layout.flavor == ExportFlavor::Reconstructed;
        using Factor = TensorRole::Factor;
        const auto* low = std::get_if<LowRank>(&form.structure);
        if (role.factor == Factor::Bias) {
            // The family's bias stays unless the form has one; that of factors goes with them.
            const bool gone = (low && low->bias) || (!linear.bias && !form.isSource());
            if (!gone) add(copyOf(view, name));
            return {};
        }
        if (form.isSource() && !(multiplied && linear.sourceRank > 0)) {
            add(copyOf(view, name));
            return {};
        }
        if (role.factor == Factor::V) return {};
        const std::string whole = name.substr(0, name.rfind('.')) + ".weight";
        const std::vector<FormTensor> tensors = form.isSource()
                                                    ? std::vector<FormTensor>{{FormPart::Product, ".weight", {linear.out, linear.in}}}
                                                    : formTensors(form, linear.out, linear.in, multiplied);
        for (const FormTensor& tensor : tensors)
            addFormOf(role.layer, role.linear, whole, view.dtype, form, tensor);
        // Multiplied out, what the form adds takes the place of the family's bias.
        if (multiplied && low && low->bias)
            addFormOf(role.layer, role.linear, whole, view.dtype, form, {FormPart::Bias, ".bias", {linear.out}});
        return {};
    }

    void addFormOf(int layer, const LinearId& linear, const std::string& name, DType type, const MatrixForm& form, const FormTensor& part)
    {
        OutputTensor tensor;
        tensor.origin = OutputTensor::Origin::Form;
        tensor.name = stem(name) + std::string(part.suffix);
        tensor.dtype = type;
        tensor.shape = part.shape;
        tensor.bytes = byteCount(tensor.dtype, tensor.shape);
        tensor.layer = layer;
        tensor.linear = linear;
        tensor.form = form;
        tensor.part = part.part;
        add(std::move(tensor));
    }

    void addForm(int layer, int expert, int number, Matrix matrix, const std::string& name, const MatrixForm& form, const FormTensor& part,
                 const ChannelSet& channels = {})
    {
        const LinearView linear = checkpoint.expert(layer, expert, matrix);
        OutputTensor tensor;
        tensor.origin = OutputTensor::Origin::Form;
        tensor.name = stem(name) + std::string(part.suffix);
        tensor.dtype = linear.factored ? linear.u.dtype : linear.dense.dtype;
        tensor.shape = part.shape;
        tensor.bytes = byteCount(tensor.dtype, tensor.shape);
        tensor.layer = layer;
        tensor.expert = expert;
        tensor.number = number;
        tensor.matrix = matrix;
        tensor.channels = channels;
        tensor.form = form;
        tensor.part = part.part;
        add(std::move(tensor));
    }

    // All tensors that stand for one matrix of the body behind column `number`.
    Status addMatrix(int layer, int number, Matrix matrix)
    {
        const LayerPlan& part = plan.layer(layer);
        const int column = part.columns()[static_cast<std::size_t>(number)];
        const std::string name = numbers.renamed(checkpoint.expertTensorName(layer, number, matrix), layer);
        const Body& body = *part.bodyOf(column);
        if (const auto* constant = std::get_if<ConstantBody>(&body)) {
            if (matrix == Matrix::Gate) addConstant(layer, column, number, *constant);
            return {};
        }
        const auto& expert = std::get<ExpertBody>(body);
        const int source = expert.sources.front();
        if (const auto vector = checkpoint.expertConstant(layer, source)) {
            if (matrix == Matrix::Gate) add(copyOf(*vector, numbers.renamed(checkpoint.expertConstantName(layer, number), layer)));
            return {};
        }
        const MatrixForm& form = expert.matrices[static_cast<std::size_t>(matrix)];
        const LayerShape& shape = checkpoint.shape().layers[static_cast<std::size_t>(layer)];
        const bool reconstructed = layout.flavor == ExportFlavor::Reconstructed;
        // Channels that are gone, here or in the source, are zeros in a checkpoint of one width.
        const bool widened = reconstructed && (!expert.channels.empty() || shape.widthOf(source) < shape.expertWidth);
        if (form.isSource() && expert.channels.empty() && !widened) return addSource(layer, source, number, matrix, name);
        SlotShape slot = slotOf(shape, checkpoint.shape().hiddenSize, expert, static_cast<int>(matrix));
        if (widened) {
            (matrix == Matrix::Down ? slot.in : slot.out) = shape.expertWidth;
            addForm(layer, source, number, matrix, name, form, {FormPart::Product, ".weight", {slot.out, slot.in}}, expert.channels);
            return {};
        }
        const MatrixForm held =
            form.isSource() && slot.sourceRank > 0
                ? MatrixForm{.structure = LowRank{.bands = {{slot.sourceRank, 0}}, .bias = slot.sourceBias}, .storage = {}, .values = {}}
                : form;
        for (const FormTensor& tensor : formTensors(held, slot.out, slot.in, reconstructed))
            addForm(layer, source, number, matrix, name, form, tensor, expert.channels);
        return {};
    }

    // Where the tensors of a column's body go: where those of its expert lie in the source. A body that several columns share is written
    // once by a factored export, and for every one of them by those that know one expert a column.
    Status addExpert(int layer, int stored, Matrix matrix)
    {
        const LayerPlan& part = plan.layer(layer);
        const LayerShape& shape = checkpoint.shape().layers[static_cast<std::size_t>(layer)];
        std::vector<DescribedColumn>& columns = described[layer];
        if (columns.empty()) columns = describeColumns(shape, part);
        for (std::size_t number = 0; number < columns.size(); ++number) {
            if (shape.sourceBodyOf(part.columns()[number]) != stored) continue;
            const bool own = columns[number].owner == static_cast<int>(number);
            if (own || layout.flavor != ExportFlavor::Factored) ESPALIER_CHECK_OK(addMatrix(layer, static_cast<int>(number), matrix));
        }
        return {};
    }

    void addRouter(const TensorView& view, const std::string& name, int layer)
    {
        const LayerPlan& part = plan.layer(layer);
        OutputTensor tensor = rowsOf(view, name, part.columns());
        if (const ValuesId& id = part.content().router; !id.empty()) {
            tensor.origin = OutputTensor::Origin::Router;
            tensor.rows = part.columns();
            tensor.layer = layer;
            tensor.values = id;
        }
        add(std::move(tensor));
    }

    // What comes of a tensor of a merged layer is mixed.
    Status addTensor(const StoredTensor& stored)
    {
        const std::size_t before = layout.tensors.size();
        ESPALIER_CHECK_OK(addStored(stored));
        const int layer = stored.role.layer;
        if (stored.role.kind == TensorRole::Kind::Ignored || layer < 0) return {};
        using Origin = OutputTensor::Origin;
        for (std::size_t i = before; i < layout.tensors.size(); ++i)
            if (OutputTensor& tensor = layout.tensors[i];
                tensor.origin == Origin::Copy || tensor.origin == Origin::Rows || tensor.origin == Origin::Matrix) {
                tensor.merge = plan.layer(layer).content().mergedFrom;
                tensor.layer = layer;
            }
        return {};
    }

    Status addStored(const StoredTensor& stored)
    {
        using Kind = TensorRole::Kind;
        const TensorRole& role = stored.role;
        const TensorView& view = stored.view;
        if (role.kind != Kind::Ignored && role.layer >= 0 && numbers.of(role.layer) < 0) return {};
        const std::string name =
            role.kind == Kind::Ignored ? view.name : numbers.renamed(standardTensorName(checkpoint, view.name), role.layer);
        switch (role.kind) {
            case Kind::Other:
                if (!role.linear.empty()) return addLinear(role, view, name);
                add(copyOf(view, name));
                return {};
            case Kind::Ignored:
                layout.dropped.push_back(view.name);
                return {};
            case Kind::Router:
                addRouter(view, perExpert ? numbers.renamed(checkpoint.routerTensorName(role.layer), role.layer) : name, role.layer);
                return {};
            case Kind::RouterBias:
                add(rowsOf(view, name, plan.layer(role.layer).columns()));
                return {};
            case Kind::ExpertConstant:
                for (const Matrix matrix : {Matrix::Gate, Matrix::Up, Matrix::Down})
                    ESPALIER_CHECK_OK(addExpert(role.layer, role.expert, matrix));
                return {};
            case Kind::Expert:
                // U, V and bias of a factored source are one matrix: it is handled when U comes by.
                if (role.factor == TensorRole::Factor::V || role.factor == TensorRole::Factor::Bias) return {};
                return addExpert(role.layer, role.expert, role.matrix);
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
    if (std::any_of(layers.begin(), layers.end(), [&](const LayerShape& layer) {
            const LayerPlan& part = plan.layer(layer.index);
            return !factoredLinears(layer, part).empty() || skipRuleOf(layer, part).has_value() || !widthsOf(layer, part).empty();
        }))
        return 3;
    return std::any_of(
               layers.begin(), layers.end(),
               [&](const LayerShape& layer) {
                   if (!layer.moe || plan.layer(layer.index).run() == LayerRun::Skipped) return !layer.sourceConstants.empty();
                   const std::vector<DescribedColumn> columns = describeColumns(layer, plan.layer(layer.index));
                   for (std::size_t j = 0; j < columns.size(); ++j)
                       if (columns[j].constant || columns[j].owner != static_cast<int>(j) || columns[j].biases != std::array<bool, 3>{})
                           return true;
                   return !layer.sourceConstants.empty();
               })
               ? 2
               : 1;
}

namespace
{

// Whether some expert's matrices are not the bytes of the source.
bool changesMatrices(const ModelShape& shape, const CompressionPlan& plan)
{
    return std::any_of(shape.layers.begin(), shape.layers.end(), [&](const LayerShape& layer) {
        const LayerPlan::Content& content = plan.layer(layer.index).content();
        if (content.columns.size() != content.bodies.size()) return true;
        return std::any_of(content.columns.begin(), content.columns.end(), [&](const RouterColumn& column) {
            const auto* expert = std::get_if<ExpertBody>(&content.bodies[static_cast<std::size_t>(column.body)]);
            return expert &&
                   (expert->sources != ExpertSet{column.expert} || !expert->channels.empty() ||
                    std::any_of(expert->matrices.begin(), expert->matrices.end(), [](const auto& form) { return !form.isSource(); }));
        });
    });
}

}  // namespace

Result<ExportLayout> layoutExport(const Checkpoint& checkpoint, const CompressionPlan& plan, ExportFlavor flavor, bool unfuse,
                                  std::int64_t shardSize)
{
    ExportLayout layout;
    layout.flavor = flavor;
    layout.metadata = {{"format", "pt"}};
    if (flavor == ExportFlavor::Plan) return layout;
    if (flavor == ExportFlavor::Factored) layout.metadata.emplace("espalier.version", std::to_string(exportVersion(checkpoint, plan)));

    // A fused tensor cannot hold matrices of reduced rank multiplied back one by one without being put together again; such a
    // source is written per expert.
    const bool perExpert = flavor == ExportFlavor::Factored || unfuse || changesMatrices(checkpoint.shape(), plan);
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
    // One matrix of one column of the export.
    struct Key {
        int layer = -1;
        int number = -1;
        Matrix matrix = Matrix::Gate;
        LinearId linear;
        auto operator<=>(const Key&) const = default;  // NOLINT(modernize-use-nullptr): the 0 that a comparison expands to
    };
    struct Wanted {
        Key key;
        MatrixSlot slot;
        const MatrixForm* form = nullptr;
    };

    State(const Checkpoint& c, const FactorSource* f, const FactorSource* k, const FactorSources& g)
        : checkpoint(c), context{c, f, g}, constants(k)
    {
    }
    const Checkpoint& checkpoint;
    const BuildContext context;
    const FactorSource* constants;
    std::vector<const OutputTensor*> upcoming;
    std::map<Key, FormTerms> entries;  // the current batch

    static Wanted wanted(const OutputTensor& of)
    {
        return {{of.layer, of.number, of.matrix, of.linear},
                {of.layer, of.expert, static_cast<int>(of.matrix), of.linear, &of.channels},
                &of.form};
    }

    Result<FormTerms> build(const Wanted& one) const
    {
        if (one.form->isSource() && !one.slot.sliced()) {  // the product of factors that the source holds
            FormTerms terms;
            ESPALIER_TRY(const StoredMatrix whole, loadMatrix(viewOf(context, one.slot)));
            terms.weight = whole.weight;
            return terms;
        }
        const FormBuilder& builder = builderOf(one.slot, *one.form);
        ESPALIER_TRY(const FormBasis basis, builder.basis(context, one.slot, *one.form));
        return builder.terms(context, one.slot, *one.form, basis);
    }

    Result<const FormTerms*> entry(const OutputTensor& tensor)
    {
        const Key key = wanted(tensor).key;
        if (const auto found = entries.find(key); found != entries.end()) return &found->second;
        entries.clear();
        std::vector<Wanted> batch = {wanted(tensor)};
        auto next = std::find(upcoming.begin(), upcoming.end(), &tensor);
        for (; next != upcoming.end() && batch.size() < static_cast<std::size_t>(at::get_num_threads()); ++next)
            if ((*next)->origin == OutputTensor::Origin::Form && batch.back().key != wanted(**next).key) batch.push_back(wanted(**next));
        std::vector<FormTerms> results(batch.size());
        std::vector<std::optional<Error>> errors(batch.size());
        eachOnOneThread(batch.size(), [&](std::size_t i) {
            const c10::InferenceMode inference;
            auto built = build(batch[i]);
            if (built)
                results[i] = std::move(built).value();
            else
                errors[i] = built.error();
        });
        for (std::size_t i = 0; i < batch.size(); ++i) {
            if (errors[i]) return *errors[i];
            entries.emplace(batch[i].key, std::move(results[i]));
        }
        return &entries.at(key);
    }

    // v_e in fp32.
    Result<at::Tensor> constantOf(const OutputTensor& tensor) const
    {
        if (!tensor.constant.values.empty())
            return storedNumbers(context, tensor.constant.values, constantValueName(tensor.layer, tensor.expert), tensor.shape);
        if (!constants) return internalError(fmt::format("{} has no source of constants", tensor.name));
        ESPALIER_TRY(const std::vector<float> values, constants->constant(tensor.layer, tensor.expert, tensor.constant.kind));
        if (static_cast<std::int64_t>(values.size()) != tensor.shape[0])
            return badInput("profile.invalid", "profile",
                            {"The constant for {name} has {values} numbers.", {{"name", tensor.name}, {"values", values.size()}}},
                            "Take the profile of this model again.");
        return at::tensor(values, at::kFloat);
    }

    // Piece by piece, row by row where rows were chosen.
    Status mixed(const OutputTensor& tensor, const Sink& sink) const
    {
        const c10::InferenceMode inference;
        const LayerMix mix(checkpoint, tensor.layer, *tensor.merge);
        std::int64_t all = 1;
        for (const std::int64_t size : tensor.source.shape)
            all *= size;
        const auto range = [&](std::int64_t first, std::int64_t count) -> Status {
            for (const std::int64_t end = first + count; first < end;) {
                const std::int64_t piece = std::min<std::int64_t>(end - first, static_cast<std::int64_t>(kPiece / sizeof(double)));
                ESPALIER_TRY(const at::Tensor numbers, mix.numbers(tensor.source, first, piece));
                ESPALIER_CHECK_OK(
                    sink({static_cast<const std::byte*>(numbers.const_data_ptr()), static_cast<std::size_t>(numbers.nbytes())}));
                first += piece;
            }
            return {};
        };
        if (tensor.origin != OutputTensor::Origin::Rows) return range(0, all);
        const std::int64_t row = all / tensor.source.shape[0];
        for (const int r : tensor.rows)
            ESPALIER_CHECK_OK(range(r * row, row));
        return {};
    }

    Result<at::Tensor> routerOf(const OutputTensor& tensor) const
    {
        const std::vector<std::int64_t> shape = checkpoint.router(tensor.layer).shape;
        ESPALIER_TRY(const at::Tensor rows, storedNumbers(context, tensor.values, routerValueName(tensor.layer), shape));
        return rows.index_select(0, at::tensor(std::vector<std::int64_t>(tensor.rows.begin(), tensor.rows.end()), at::kLong));
    }
};

namespace
{

// Zeros for the channels that are gone: those of the body, or the last of an expert that is narrower in the source.
at::Tensor widened(const at::Tensor& product, const OutputTensor& tensor)
{
    if (product.sizes() == at::IntArrayRef(tensor.shape)) return product;
    const std::int64_t dim = tensor.matrix == Matrix::Down ? 1 : 0;
    const at::Tensor place = tensor.channels.empty()
                                 ? at::arange(product.size(dim), at::kLong)
                                 : at::tensor(std::vector<std::int64_t>(tensor.channels.begin(), tensor.channels.end()), at::kLong);
    return at::zeros(tensor.shape, product.options()).index_copy_(dim, place, product);
}

}  // namespace

TensorProducer::TensorProducer(const Checkpoint& checkpoint, const FactorSource* factors, const FactorSource* constants,
                               const FactorSources& given)
    : m_state(std::make_unique<State>(checkpoint, factors, constants, given))
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
    if (tensor.merge) return m_state->mixed(tensor, sink);
    if (tensor.origin == Origin::Copy || tensor.origin == Origin::Matrix) return pieces(tensor.source.bytes);
    if (tensor.origin == Origin::Rows) {
        const std::size_t row = tensor.source.bytes.size() / static_cast<std::size_t>(tensor.source.shape[0]);
        for (const int r : tensor.rows)
            ESPALIER_CHECK_OK(pieces(tensor.source.bytes.subspan(static_cast<std::size_t>(r) * row, row)));
        return {};
    }
    const c10::InferenceMode inference;
    at::Tensor result;
    if (tensor.origin == Origin::Constant) {
        ESPALIER_TRY(result, m_state->constantOf(tensor));
    } else if (tensor.origin == Origin::Router) {
        ESPALIER_TRY(result, m_state->routerOf(tensor));
    } else {
        // A product is of the rounded terms: the same matrix that the factored flavour stands for, rounded once more.
        ESPALIER_TRY(const FormTerms* terms, m_state->entry(tensor));
        result = partOf(*terms, tensor.part);
        if (tensor.part == FormPart::Product && tensor.linear.empty()) result = widened(result, tensor);
    }
    result = result.to(scalarType(tensor.dtype)).contiguous();
    return pieces({static_cast<const std::byte*>(result.const_data_ptr()), static_cast<std::size_t>(tensor.bytes)}, false);
}

}  // namespace espalier
