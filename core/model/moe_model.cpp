#include "model/moe_model_torch.h"

#include "base/exception.h"
#include "base/text.h"
#include "checkpoint/checkpoint.h"
#include "model/attention.h"
#include "model/demand_store.h"
#include "model/device_staging.h"
#include "model/form_store.h"
#include "model/kv_cache.h"
#include "model/layer_gradient.h"
#include "model/moe_layer.h"
#include "model/norm.h"
#include "model/placement.h"
#include "model/planned_attention.h"
#include "model/residence.h"
#include "model/row_operations.h"
#include "model/weight_store.h"
#include "plan/forms/form_rules.h"
#include "plan/plan_rules.h"
#include "plan/routing.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <thread>
#include <utility>

#include <malloc.h>
#include <unistd.h>

namespace espalier
{

PreparedPlan::PreparedPlan() : m_data(std::make_shared<const Data>()) {}
PreparedPlan::PreparedPlan(std::shared_ptr<const Data> data) : m_data(std::move(data)) {}
PreparedPlan::~PreparedPlan() = default;
PreparedPlan::PreparedPlan(const PreparedPlan&) = default;
PreparedPlan& PreparedPlan::operator=(const PreparedPlan&) = default;
PreparedPlan::PreparedPlan(PreparedPlan&&) noexcept = default;
PreparedPlan& PreparedPlan::operator=(PreparedPlan&&) noexcept = default;

const CompressionPlan& PreparedPlan::plan() const { return m_data->plan; }

namespace
{

// Rows of a block in tokenNll: about 16 MB of logits, enough rows for a product that is not bound by reading the head.
constexpr std::int64_t kHeadElements = std::int64_t{1} << 22;
constexpr std::int64_t kHeadRowsMin = 128;
constexpr std::int64_t kHeadRowsMax = 1024;

// What an operation on a device holds on the host beside the weights on their way.
constexpr std::int64_t kRoomOnHost = std::int64_t{512} << 20;

std::int64_t halfOfMemory()
{
    const long pages = sysconf(_SC_PHYS_PAGES);
    const long size = sysconf(_SC_PAGE_SIZE);
    return pages > 0 && size > 0 ? static_cast<std::int64_t>(pages) * size / 2 : std::int64_t{4} << 30;
}

Error notFiniteWeight(const std::string& tensor)
{
    return badInput("model.not_finite", tensor,
                    {"The tensor {tensor} holds values that are not finite (NaN or infinity).", {{"tensor", tensor}}},
                    "Get the checkpoint again, or prune the expert the tensor belongs to.");
}

Error notFiniteResult(const std::string& where)
{
    return badInput("model.not_finite", where, {"The numbers of {where} are not finite although all its weights are.", {{"where", where}}},
                    "The activations overflow: evaluate in fp32.");
}

std::int64_t headRows(std::int64_t vocabulary) { return std::clamp<std::int64_t>(kHeadElements / vocabulary, kHeadRowsMin, kHeadRowsMax); }

// Products of all rows with some rows of the head, some rows at a time, each handed on with the first of its rows. fp32 products of wide
// models run at 1.2 times the speed in oneDNN. Elsewhere one buffer serves all of them: fresh pages for every product would cost more than
// that.
template <typename HandOn>
void eachHeadProduct(const at::Tensor& normed, const at::Tensor& head, std::int64_t most, HandOn&& handOn)
{
    const std::int64_t count = normed.size(0);
    const bool wide = normed.scalar_type() == at::kFloat ? normed.size(1) >= 512 : !WeightMatrix::hasBlockedProducts(normed.scalar_type());
    const WeightMatrix matrix = WeightMatrix::plain(head);
    at::Tensor buffer;
    if (!wide) buffer = at::empty({std::min(most, count), head.size(0)}, normed.options());
    for (std::int64_t begin = 0; begin < count; begin += most) {
        const std::int64_t rows = std::min(most, count - begin);
        at::Tensor product;
        if (wide) {
            product = matrix.product(normed.narrow(0, begin, rows));
        } else {
            product = buffer.narrow(0, 0, rows);
            at::mm_out(product, normed.narrow(0, begin, rows), head.t());
        }
        handOn(product, begin);
    }
}

Status checkTargets(const at::Tensor& targets, std::int64_t vocabulary)
{
    const auto* target = targets.const_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < targets.numel(); ++i)
        if (target[i] < 0 || target[i] >= vocabulary)
            return badInput(
                "model.token_out_of_range", std::to_string(target[i]),
                {"Token {i} does not exist: the model has {vocabulary} output rows.", {{"i", target[i]}, {"vocabulary", vocabulary}}},
                "Use the tokenizer that belongs to the model.");
    return {};
}

}  // namespace

struct MoeModel::Impl {
    std::shared_ptr<const Checkpoint> checkpoint;
    ModelOptions options;
    at::ScalarType compute = at::kFloat;
    Placement placement;
    MoeArithmetic arithmetic;
    double eps = 1e-6;
    std::vector<int> windows;  // per layer, 0 = none
    std::int64_t spare = 0;
    bool streams = false;
    std::vector<std::string> warnings;
    std::unique_ptr<WeightStore> store;
    std::unique_ptr<DemandStore> demand;  // where layers are streamed on the processor
    int heldLayers = 0;                   // the first so many stay in the store
    bool streamedLayers = false;          // it may have others
    ExtendReads reads;
    std::unique_ptr<FormStore> forms;
    FactorSources sources;
    std::unique_ptr<Attention> attention;
    // Of the layer that runs: expertOutput inside an observer must not wait for the store.
    int currentLayer = -1;
    std::shared_ptr<const LayerWeights> current;

    const ModelShape& shape() const { return checkpoint->shape(); }
    int storedUnder(int layer, int expert) const { return shape().layers[static_cast<std::size_t>(layer)].sourceBodyOf(expert); }
    // Where the model computes. The way back waits for everything that was asked of a device: its weights may be dropped after that.
    at::Tensor placed(const at::Tensor& x) const { return x.to(placement.device); }
    Result<at::Tensor> normed(const at::Tensor& hidden);  // final norm, result where the model computes
    Result<std::shared_ptr<const LayerWeights>> weights(int layer)
    {
        if (currentLayer == layer && current) return current;
        return store->layer(layer);
    }
    // The layer's weights, mixed with another's where the plan says so; `step` as WeightStore::layer.
    Result<std::shared_ptr<const LayerWeights>> weightsUnder(int layer, const PreparedPlan& plan, int step = 1);
    struct Merged {
        LayerMerge merge;
        std::shared_ptr<const LayerWeights> weights;
        std::uint64_t used = 0;
    };
    std::map<int, Merged> merged;  // by layer, within mergedBudget, one at least
    std::int64_t mergedBudget = 0;
    std::uint64_t mergedClock = 0;
    // What attention computes with under the plan: the layer's own weights, or a copy of its attention with the plan's linear maps.
    Result<std::shared_ptr<const LayerWeights>> attending(int layer, const PreparedPlan& plan, std::shared_ptr<const LayerWeights> own)
    {
        if (!plan.data().layers[static_cast<std::size_t>(layer)].attentionForms) return own;
        return attentionUnder(*checkpoint, layer, plan.data().plan.layer(layer), *own, plan.data().given, *forms);
    }
    // All of a layer. Where it is streamed it takes the room of what steps keep.
    Result<std::shared_ptr<const LayerWeights>> whole(int layer, int step)
    {
        if (demand && layer >= heldLayers) {
            demand->release();
            streamedLayers = true;
        }
        return store->layer(layer, step);
    }
    // What every token needs of a layer; experts come as they are chosen.
    Result<std::shared_ptr<const LayerWeights>> onDemand(int layer)
    {
        if (layer < heldLayers) return store->layer(layer, 0);
        if (std::exchange(streamedLayers, false)) store->dropStreamed();
        return demand->layer(layer);
    }
    Result<std::shared_ptr<const LayerWeights>> begin(int layer, const PreparedPlan& plan, int step, std::vector<Linear>& planned);
    Result<PlannedLayer> planned(int layer, const LayerPlan& plan, const FactorSource* constants) const;
    Status planBodies(int layer, const LayerPlan& plan, const FactorSource* constants, PlannedLayer& planned) const;
    Result<at::Tensor> constantOf(int layer, int expert, const ConstantBody& body, const FactorSource* constants) const;
    Result<at::Tensor> routerRows(int layer, const ValuesId& id, const at::Tensor& columns) const;
    Result<at::Tensor> attend(int layer, const at::Tensor& hidden, const PreparedPlan& plan, LayerObserver* observer,
                              const TokenTree* tree = nullptr);
    Result<at::Tensor> feedForward(int layer, const at::Tensor& residual, const PreparedPlan& plan, LayerObserver* observer);
    bool readsChosen(std::int64_t tokens) const;
    std::int64_t valueBytes() const { return compute == at::kFloat ? 4 : 2; }
    Result<at::Tensor> extend(int layer, const at::Tensor& hidden, const PreparedPlan& plan, KvCache& cache);
    Result<std::vector<Linear>> chosenForms(int layer, const PreparedPlan& plan, const RoutedBatch* routed);
    Result<at::Tensor> extendMoe(int layer, const at::Tensor& x, const LayerWeights& weights, const PreparedPlan& plan);
};

Result<std::unique_ptr<MoeModel>> MoeModel::create(std::shared_ptr<const Checkpoint> checkpoint, const ModelOptions& options)
{
    const c10::InferenceMode guard;
    if (!checkpoint->forwardSupported())
        return unsupported("model.unsupported_architecture", checkpoint->shape().modelType,
                           {"Models of type {checkpoint} cannot be run here.", {{"checkpoint", checkpoint->shape().modelType}}},
                           "They can be inspected and sliced.");
    const ModelConfig& config = checkpoint->config();
    for (const LayerShape& layer : checkpoint->shape().layers)
        if (layer.moe && layer.router.rule == RoutingRule::Unknown)
            return unsupported("model.unsupported_routing", checkpoint->shape().modelType,
                               {"The routing rule of layer {layer} cannot be run here.", {{"layer", layer.index}}},
                               "It can be inspected and sliced.");

    auto impl = std::make_unique<Impl>();
    impl->checkpoint = std::move(checkpoint);
    impl->options = options;
    if (impl->options.threads <= 0) impl->options.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    if (impl->options.memoryBudget <= 0) impl->options.memoryBudget = halfOfMemory();
    at::set_num_threads(impl->options.threads);
    // The reference mode stays true fp32 on hardware that has faster approximations.
    at::globalContext().setFloat32MatmulPrecision("highest");

    ESPALIER_TRY(impl->placement, placementFor(options.device));
    impl->compute = options.compute == ComputeType::Bf16 ? at::kBFloat16 : at::kFloat;
    impl->arithmetic.compute = impl->compute;
    impl->arithmetic.routerInFp32 = config.routerFp32;
    impl->arithmetic.weightsRounded = config.routerWeightsInDtype;
    impl->eps = config.rmsNormEps;
    for (const LayerConfig& layer : config.layers)
        impl->windows.push_back(layer.window);

    const ModelShape& shape = impl->shape();
    Residence residence = residenceOf(shape, impl->compute == at::kFloat ? 4 : 2, impl->options, !impl->placement.portable);
    if (!impl->placement.device.is_cpu()) {
        ModelOptions onDevice = impl->options;
        onDevice.memoryBudget = freeDeviceMemory(impl->placement);
        residence = residenceOf(shape, impl->compute == at::kFloat ? 4 : 2, onDevice, false);
        // The host holds no weights but those on their way.
        residence.spare = impl->options.memoryBudget - std::min(impl->options.memoryBudget / 8, kRoomOnHost);
    }
    impl->spare = residence.spare;
    // Experts that come and go leave holes between what stays: matrices get pages of their own, which go back when they are freed.
    if (residence.holding.experts >= 0) mallopt(M_MMAP_THRESHOLD, 4 << 20);
    impl->warnings = std::move(residence.warnings);
    impl->streams = residence.holding.layers < static_cast<int>(shape.layers.size());
    // In proportion to the model: the decompositions of all its experts take about twice what they do in fp32, and a large memory is no
    // reason to keep those of every rule beside them.
    constexpr std::int64_t kFactors = std::int64_t{64} << 20;
    const std::int64_t factorBudget = std::max(std::min(residence.spare / 4, 4 * shape.bytes()), kFactors);
    impl->store = std::make_unique<WeightStore>(impl->checkpoint, impl->compute, impl->placement, static_cast<int>(shape.layers.size()),
                                                residence.holding, impl->options.threads);
    impl->heldLayers = residence.holding.layers;
    if (impl->streams && !impl->placement.portable)
        impl->demand =
            std::make_unique<DemandStore>(impl->checkpoint, impl->compute, static_cast<int>(shape.layers.size()), residence.streamed);
    impl->forms = std::make_unique<FormStore>(impl->checkpoint, impl->compute, impl->placement, factorBudget);
    impl->mergedBudget = residence.spare / 4;
    impl->attention = std::make_unique<Attention>(attentionShape(config), impl->compute, impl->placement.device);
    return std::unique_ptr<MoeModel>(new MoeModel(std::move(impl)));
}

MoeModel::MoeModel(std::unique_ptr<Impl> impl) : m_impl(std::move(impl)) {}
MoeModel::~MoeModel() = default;

const Checkpoint& MoeModel::checkpoint() const { return *m_impl->checkpoint; }

std::shared_ptr<const Checkpoint> MoeModel::sharedCheckpoint() const { return m_impl->checkpoint; }

const ModelShape& MoeModel::shape() const { return m_impl->shape(); }

const ModelOptions& MoeModel::options() const { return m_impl->options; }

std::string MoeModel::numericMode() const { return m_impl->compute == at::kFloat ? "fp32" : "bf16"; }

int MoeModel::layerCount() const { return static_cast<int>(shape().layers.size()); }

std::int64_t MoeModel::residentBytes() const
{
    std::int64_t bytes = m_impl->store->bytes() + m_impl->forms->bytes() + (m_impl->demand ? m_impl->demand->bytes() : 0);
    for (const auto& [layer, merged] : m_impl->merged)
        bytes += merged.weights->bytes;
    return bytes;
}

bool MoeModel::streamsWeights() const { return m_impl->streams; }

std::int64_t MoeModel::spareBytes() const { return m_impl->spare; }

const std::vector<std::string>& MoeModel::warnings() const { return m_impl->warnings; }

void MoeModel::releaseWeights()
{
    m_impl->current.reset();
    m_impl->store->release();
    if (m_impl->demand) m_impl->demand->release();
    m_impl->forms->release();
    m_impl->merged.clear();
}

void MoeModel::setFactorSources(FactorSources sources) { m_impl->sources = std::move(sources); }

const FactorSources& MoeModel::factorSources() const { return m_impl->sources; }

namespace
{

// What can be said and not run. Refused by name.
Status checkRuns(const CompressionPlan& plan)
{
    const auto refuse = [](int layer, std::string_view what) {
        return unsupported("plan.form_not_run", fmt::format("layer {}", layer),
                           {"The plan has {what} in layer {layer}, which cannot be run here.", {{"what", what}, {"layer", layer}}},
                           "Use a newer Espalier, or take it out of the plan.");
    };
    for (int l = 0; l < plan.layerCount(); ++l) {
        if (plan.layer(l).isPlain()) continue;
        const LayerPlan::Content& content = plan.layer(l).content();
        if (const std::string what = mergeRefusal(plan.layer(l)); !what.empty()) return refuse(l, what);
        for (const auto& [name, form] : content.linears)
            if (const std::string what = linearRefusal(form); !what.empty()) return refuse(l, fmt::format("{} ({})", name, what));
        for (const Body& body : content.bodies)
            if (const auto* expert = std::get_if<ExpertBody>(&body))
                for (const MatrixForm& form : expert->matrices)
                    if (const std::string what = formRefusal(*expert, form); !what.empty()) return refuse(l, what);
    }
    return {};
}

bool isUntouched(const ExpertBody& expert)
{
    return expert.channels.empty() &&
           std::all_of(expert.matrices.begin(), expert.matrices.end(), [](const MatrixForm& form) { return form.isSource(); });
}

}  // namespace

// As an export stores it: rounded to the dtype of the checkpoint's experts. [1,H]
Result<at::Tensor> MoeModel::Impl::constantOf(int layer, int expert, const ConstantBody& body, const FactorSource* constants) const
{
    const auto stored = checkpoint->expertConstant(layer, expert);
    const at::ScalarType rounded = stored ? storedType(*stored) : storedType(checkpoint->expert(layer, expert, Matrix::Down));
    at::Tensor row;
    if (body.values.empty()) {
        ESPALIER_TRY(const std::vector<float> values, constants->constant(layer, expert, body.kind));
        row = at::tensor(values, at::kFloat);
    } else {
        const BuildContext context{*checkpoint, nullptr, sources};
        ESPALIER_TRY(row, storedNumbers(context, body.values, constantValueName(layer, expert), {shape().hiddenSize}));
    }
    return placed(row.to(rounded).to(compute).unsqueeze(0));
}

Result<at::Tensor> MoeModel::Impl::routerRows(int layer, const ValuesId& id, const at::Tensor& columns) const
{
    const TensorView own = checkpoint->router(layer);
    const BuildContext context{*checkpoint, nullptr, sources};
    ESPALIER_TRY(const at::Tensor rows, storedNumbers(context, id, routerValueName(layer), own.shape));
    const at::ScalarType type = arithmetic.routerInFp32 ? at::kFloat : compute;
    return placed(rows.to(storedType(own)).to(type).index_select(0, columns));
}

// Columns of an expert that the checkpoint itself merged lead to one body as well, unless the plan makes something else of one of them.
Status MoeModel::Impl::planBodies(int index, const LayerPlan& plan, const FactorSource* constants, PlannedLayer& planned) const
{
    const LayerShape& layerShape = shape().layers[static_cast<std::size_t>(index)];
    const LayerPlan::Content& content = plan.content();
    std::vector<int> numberOf(content.bodies.size(), -1);
    std::vector<int> numberOfSource(layerShape.sourceBodies.size(), -1);
    std::vector<std::int64_t> leadsTo;
    bool own = true;
    for (const RouterColumn& column : content.columns) {
        const Body& body = content.bodies[static_cast<std::size_t>(column.body)];
        const auto* expert = std::get_if<ExpertBody>(&body);
        int* number = &numberOf[static_cast<std::size_t>(column.body)];
        const int source = expert ? layerShape.sourceBodyOf(expert->sources.front()) : column.expert;
        if (expert && !layerShape.sourceBodies.empty() && isUntouched(*expert)) number = &numberOfSource[static_cast<std::size_t>(source)];
        if (*number < 0) {
            *number = static_cast<int>(planned.bodies.size());
            PlannedBody next{.column = column.expert, .expert = source, .constant = {}, .ownWeights = true};
            if (!expert) {
                ESPALIER_TRY(next.constant, constantOf(index, column.expert, std::get<ConstantBody>(body), constants));
            } else if (const auto stored = checkpoint->expertConstant(index, source)) {
                ESPALIER_TRY(const at::Tensor row, loadVector(*stored));
                next.constant = placed(row.to(compute).unsqueeze(0));
            } else {
                next.ownWeights = false;
                for (int matrix = 0; matrix < 3; ++matrix) {
                    const MatrixForm& form = expert->matrices[static_cast<std::size_t>(matrix)];
                    next.ownWeights = next.ownWeights || form.values.empty();
                    if (form.isSource() && expert->channels.empty()) continue;
                    // Stored numbers are named by the plan's source, whatever the checkpoint keeps them under.
                    planned.requests.push_back({expert->sources.front(), matrix, &form, &expert->channels});
                    planned.places.push_back(3 * planned.bodies.size() + static_cast<std::size_t>(matrix));
                }
            }
            planned.bodies.push_back(std::move(next));
        }
        own = own && *number == static_cast<int>(leadsTo.size());
        leadsTo.push_back(*number);
    }
    if (!own) planned.bodyIndex = at::tensor(leadsTo, at::kLong);
    return {};
}

Result<PlannedLayer> MoeModel::Impl::planned(int index, const LayerPlan& plan, const FactorSource* constants) const
{
    const LayerShape& layerShape = shape().layers[static_cast<std::size_t>(index)];
    PlannedLayer layer;
    layer.runsAttention = plan.runsAttention();
    layer.runsExperts = plan.runsExperts();
    const auto requestMlp = [&] {
        for (const auto& [name, form] : plan.content().linears) {
            if (isOfAttention(name)) {
                layer.attentionForms = true;
                continue;
            }
            const int matrix = name.ends_with("gate_proj") ? 0 : name.ends_with("up_proj") ? 1 : 2;
            layer.requests.push_back({.matrix = matrix, .form = &form, .linear = name});
            layer.places.push_back(3 * layer.bodies.size() + static_cast<std::size_t>(matrix));
        }
    };
    if (!layerShape.moe) {
        requestMlp();
        return layer;
    }
    layer.router = layerShape.router;
    if (plan.topK()) layer.router.topK = *plan.topK();
    if (plan.content().skip) layer.router.skip = plan.content().skip;
    if (layer.router.skip && skipsNothing(*layer.router.skip)) layer.router.skip.reset();
    layer.columns = plan.columns();
    layer.allColumns = static_cast<int>(layer.columns.size()) == layerShape.experts;
    layer.columnIndex = at::empty({std::ssize(layer.columns)}, at::kLong);
    std::copy(layer.columns.begin(), layer.columns.end(), layer.columnIndex.mutable_data_ptr<std::int64_t>());
    ESPALIER_CHECK_OK(planBodies(index, plan, constants, layer));
    requestMlp();
    if (const ValuesId& id = plan.content().router; !id.empty()) {
        ESPALIER_TRY(layer.routerRows, routerRows(index, id, layer.columnIndex));
    }
    return layer;
}

Result<PreparedPlan> MoeModel::prepare(const CompressionPlan& plan) const
{
    const c10::InferenceMode guard;
    if (plan.layerCount() != layerCount())
        return badInput("plan.unknown_layer", "plan",
                        {"The plan has {layer_count} layers, the model {layer_count2}.",
                         {{"layer_count", plan.layerCount()}, {"layer_count2", layerCount()}}},
                        "Use a plan that was made for this model.");
    ESPALIER_CHECK_OK(checkRuns(plan));
    auto data = std::make_shared<PreparedPlan::Data>();
    ESPALIER_TRY(data->factors, factorSourceFor(plan, m_impl->sources, m_impl->checkpoint->fingerprint()));
    ESPALIER_TRY(const auto constants, constantSourceFor(plan, m_impl->sources, m_impl->checkpoint->fingerprint()));
    data->plan = plan;
    data->given = m_impl->sources;
    for (const ValuesId& id : valuesOf(plan))
        if (auto found = storedValuesFor(id, data->given); !found.ok()) return found.error();
    for (int l = 0; l < layerCount(); ++l) {
        ESPALIER_CHECK_OK(checkLayerPlan(m_impl->shape(), l, plan.layer(l)));
        ESPALIER_TRY(PlannedLayer layer, m_impl->planned(l, data->plan.layer(l), constants.get()));
        data->layers.push_back(std::move(layer));
    }
    return PreparedPlan(std::move(data));
}

PreparedPlan MoeModel::identity() const
{
    auto prepared = prepare(CompressionPlan::identity(shape()));
    return prepared ? std::move(prepared).value() : PreparedPlan();  // the identity of a checkpoint that opened is valid
}

Result<at::Tensor> MoeModel::embed(const at::Tensor& ids)
{
    const c10::InferenceMode guard;
    const at::Tensor flat = ids.to(at::kLong).contiguous();
    const TensorView table = m_impl->checkpoint->embed();
    const std::int64_t rows = table.shape.front();
    const auto* id = flat.const_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < flat.numel(); ++i)
        if (id[i] < 0 || id[i] >= rows)
            return badInput("model.token_out_of_range", std::to_string(id[i]),
                            {"Token {i} does not exist: the model has {rows} embedding rows.", {{"i", id[i]}, {"rows", rows}}},
                            "Use the tokenizer that belongs to the model.");
    ESPALIER_TRY(const at::Tensor embedded,
                 embeddingRows(*m_impl->checkpoint, {id, static_cast<std::size_t>(flat.numel())}, m_impl->compute));
    ESPALIER_CHECK_OK(m_impl->checkpoint->checkUnchanged());
    if (!allFinite(embedded)) return notFiniteWeight(table.name);
    std::vector<std::int64_t> sizes = flat.sizes().vec();
    sizes.push_back(embedded.size(1));
    return embedded.view(sizes);
}

Result<std::shared_ptr<const LayerWeights>> MoeModel::Impl::weightsUnder(int layer, const PreparedPlan& plan, int step)
{
    const std::optional<LayerMerge>& merge = plan.data().plan.layer(layer).content().mergedFrom;
    if (!merge) return whole(layer, step);
    if (const auto found = merged.find(layer); found != merged.end()) {
        if (found->second.merge == *merge) {
            found->second.used = ++mergedClock;
            return found->second.weights;
        }
        merged.erase(found);
    }
    try {
        std::optional<DeviceStaging> staging;
        if (placement.portable) staging.emplace(placement.device);
        ESPALIER_TRY(
            auto weights,
            loadLayer(*checkpoint, layer,
                      {.compute = compute, .threads = options.threads, .staging = staging ? &*staging : nullptr, .merge = &*merge}));
        std::int64_t bytes = weights->bytes;
        for (const auto& [other, held] : merged)
            bytes += held.weights->bytes;
        while (!merged.empty() && bytes > mergedBudget) {
            const auto oldest =
                std::min_element(merged.begin(), merged.end(), [](const auto& a, const auto& b) { return a.second.used < b.second.used; });
            bytes -= oldest->second.weights->bytes;
            merged.erase(oldest);
        }
        merged[layer] = {*merge, weights, ++mergedClock};
        return weights;
    } catch (const std::exception& failure) {
        return errorOf(
            failure,
            resourceError("model.out_of_memory", std::to_string(layer),
                          "The weights of layer " + std::to_string(layer) + " and the layer it is merged with do not fit in memory.",
                          "Close other programs, or lower the memory budget so that layers are streamed."),
            "Merging layer " + std::to_string(layer));
    }
}

// The weights of the layer that is to run, checked, and the matrices that the plan makes something else of.
Result<std::shared_ptr<const LayerWeights>> MoeModel::Impl::begin(int layer, const PreparedPlan& plan, int step,
                                                                  std::vector<Linear>& planned)
{
    current.reset();
    ESPALIER_TRY(const auto weights, weightsUnder(layer, plan, step));
    const PlannedLayer& planLayer = plan.data().layers[static_cast<std::size_t>(layer)];
    if (!weights->nonFinite.empty()) return notFiniteWeight(weights->nonFinite);
    const bool moe = shape().layers[static_cast<std::size_t>(layer)].moe;
    if (moe) {
        if (!weights->routerNonFinite.empty() && !planLayer.routerRows.defined() &&
            !allFinite(weights->router.index_select(0, planLayer.columnIndex.to(weights->router.device()))))
            return notFiniteWeight(weights->routerNonFinite);
        for (const PlannedBody& body : planLayer.bodies)
            if (const auto& name = weights->experts[static_cast<std::size_t>(body.expert)].nonFinite;
                !name.empty() && !body.constant.defined() && body.ownWeights)
                return notFiniteWeight(name);
    }

    if (!planLayer.requests.empty()) {
        ESPALIER_TRY(const auto built, forms->linears(layer, plan.data().factors.get(), plan.data().given, planLayer.requests));
        planned.resize(3 * planLayer.bodies.size() + 3);
        for (std::size_t i = 0; i < built.size(); ++i)
            planned[planLayer.places[i]] = built[i];
    }

    currentLayer = layer;
    current = weights;
    return weights;
}

// hidden where the model computes, and the result too.
Result<at::Tensor> MoeModel::Impl::attend(int layer, const at::Tensor& hidden, const PreparedPlan& plan, LayerObserver* observer,
                                          const TokenTree* tree)
{
    current.reset();
    if (!plan.data().layers[static_cast<std::size_t>(layer)].runsAttention) return hidden;
    ESPALIER_TRY(const auto weights, weightsUnder(layer, plan));
    if (!weights->nonFinite.empty()) return notFiniteWeight(weights->nonFinite);
    ESPALIER_TRY(const auto planned, attending(layer, plan, weights));
    at::Tensor seen;
    attention->seeOutputInput(observer ? &seen : nullptr);
    const at::Tensor attended =
        attention->forward(rmsNorm(hidden, weights->inputNorm, eps), *planned, windows[static_cast<std::size_t>(layer)], tree);
    attention->seeOutputInput(nullptr);
    if (observer) {
        observer->attentionInput(layer, seen.to(at::kCPU));
        observer->attention(layer, attended.to(at::kCPU));
    }
    return hidden + attended;
}

Result<at::Tensor> MoeModel::Impl::feedForward(int layer, const at::Tensor& residual, const PreparedPlan& plan, LayerObserver* observer)
{
    if (!plan.data().layers[static_cast<std::size_t>(layer)].runsExperts) return residual;
    std::vector<Linear> planned;
    ESPALIER_TRY(const auto weights, begin(layer, plan, 1, planned));
    const PlannedLayer& planLayer = plan.data().layers[static_cast<std::size_t>(layer)];
    const bool moe = shape().layers[static_cast<std::size_t>(layer)].moe;
    const at::Tensor x = rmsNorm(residual, weights->postNorm, eps).view({residual.size(0) * residual.size(1), -1});
    const at::Tensor y =
        moe ? moeForward(layer, x, *weights, planLayer, planned, arithmetic, observer) : plannedMlp(weights->dense, planLayer, planned)(x);
    current.reset();
    at::Tensor out = residual + y.view_as(residual);
    ESPALIER_CHECK_OK(checkpoint->checkUnchanged());
    if (!allFinite(out)) return notFiniteResult(fmt::format("layer {}", layer));
    return out;
}

Result<at::Tensor> MoeModel::attend(int layer, const at::Tensor& hidden, const PreparedPlan& plan, LayerObserver* observer,
                                    const TokenTree* tree)
{
    const c10::InferenceMode guard;
    const PortableScope scope(m_impl->placement.portable);
    ESPALIER_TRY(const at::Tensor residual, m_impl->attend(layer, m_impl->placed(hidden), plan, observer, tree));
    return residual.to(at::kCPU);
}

Result<at::Tensor> MoeModel::feedForward(int layer, const at::Tensor& residual, const PreparedPlan& plan, LayerObserver* observer)
{
    const c10::InferenceMode guard;
    const PortableScope scope(m_impl->placement.portable);
    ESPALIER_TRY(const at::Tensor out, m_impl->feedForward(layer, m_impl->placed(residual), plan, observer));
    return out.to(at::kCPU);
}

Result<at::Tensor> MoeModel::layer(int layer, const at::Tensor& hidden, const PreparedPlan& plan, LayerObserver* observer)
{
    const c10::InferenceMode guard;
    const PortableScope scope(m_impl->placement.portable);
    ESPALIER_TRY(const at::Tensor residual, m_impl->attend(layer, m_impl->placed(hidden), plan, observer));
    ESPALIER_TRY(const at::Tensor out, m_impl->feedForward(layer, residual, plan, observer));
    return out.to(at::kCPU);
}

namespace
{

std::int64_t bytesOf(const Linear& linear)
{
    return (linear.weight.defined() ? linear.weight.bytes() : 0) + (linear.u.defined() ? linear.u.bytes() + linear.v.bytes() : 0);
}

std::int64_t bytesOf(const GatedMlp& mlp) { return mlp.defined() ? bytesOf(mlp.gate) + bytesOf(mlp.up) + bytesOf(mlp.down) : 0; }

std::int64_t bytesOf(const at::Tensor& tensor) { return tensor.defined() ? static_cast<std::int64_t>(tensor.nbytes()) : 0; }

std::int64_t numbersOf(const LinearView& view)
{
    std::int64_t numbers = 0;
    for (const TensorView* part : {&view.dense, &view.u, &view.v})
        if (!part->shape.empty()) numbers += c10::multiply_integers(part->shape);
    return numbers;
}

std::int64_t attentionBytes(const LayerWeights& weights)
{
    std::int64_t bytes = 0;
    for (const Linear* linear : {&weights.qkv, &weights.query, &weights.key, &weights.value, &weights.output, &weights.queryA,
                                 &weights.queryB, &weights.latentA, &weights.latentB})
        bytes += bytesOf(*linear);
    return bytes;
}

}  // namespace

// Whether a step of so many tokens leaves experts out that reading whole layers would read.
bool MoeModel::Impl::readsChosen(std::int64_t tokens) const
{
    if (!demand) return false;
    std::int64_t experts = 0;
    std::int64_t chosen = 0;
    for (const LayerShape& layer : shape().layers)
        if (layer.moe) {
            experts += layer.experts;
            chosen += std::min<std::int64_t>(layer.experts, tokens * layer.router.topK);
        }
    return chosen < experts;
}

// Forms of the bodies that tokens came to, and of the MLP beside them; by place, empty where there are none.
Result<std::vector<Linear>> MoeModel::Impl::chosenForms(int layer, const PreparedPlan& plan, const RoutedBatch* routed)
{
    const PlannedLayer& planLayer = plan.data().layers[static_cast<std::size_t>(layer)];
    std::vector<FormRequest> requests;
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < planLayer.requests.size(); ++i) {
        const std::size_t body = planLayer.places[i] / 3;
        if (body < planLayer.bodies.size() && (!routed || routed->slotsOf(body) == 0)) continue;
        requests.push_back(planLayer.requests[i]);
        places.push_back(planLayer.places[i]);
    }
    std::vector<Linear> planned;
    if (requests.empty()) return planned;
    ESPALIER_TRY(const auto built, forms->linears(layer, plan.data().factors.get(), plan.data().given, requests));
    planned.resize(3 * planLayer.bodies.size() + 3);
    for (std::size_t i = 0; i < built.size(); ++i)
        planned[places[i]] = built[i];
    return planned;
}

Result<at::Tensor> MoeModel::Impl::extendMoe(int layer, const at::Tensor& x, const LayerWeights& weights, const PreparedPlan& plan)
{
    const PlannedLayer& planLayer = plan.data().layers[static_cast<std::size_t>(layer)];
    if (!weights.routerNonFinite.empty() && !planLayer.routerRows.defined() &&
        !allFinite(weights.router.index_select(0, planLayer.columnIndex.to(weights.router.device()))))
        return notFiniteWeight(weights.routerNonFinite);
    const RoutedBatch routed = routeBatch(x, weights, planLayer, arithmetic);
    ESPALIER_TRY(const std::vector<Linear> planned, chosenForms(layer, plan, &routed));
    reads.weightBytes += bytesOf(routed.rows) + bytesOf(plannedMlp(weights.shared, planLayer, planned)) + bytesOf(weights.sharedGate);
    for (std::size_t body = 0; body < planLayer.bodies.size(); ++body) {
        if (routed.slotsOf(body) == 0) continue;
        const PlannedBody& runs = planLayer.bodies[body];
        if (runs.constant.defined()) {
            reads.weightBytes += bytesOf(runs.constant);
            continue;
        }
        const std::string& bad = weights.experts[static_cast<std::size_t>(runs.expert)].nonFinite;
        if (!bad.empty() && runs.ownWeights) return notFiniteWeight(bad);
        bool own = false;
        for (int matrix = 0; matrix < 3; ++matrix) {
            const Linear* form = planned.empty() ? nullptr : &planned[3 * body + static_cast<std::size_t>(matrix)];
            const bool formed = form && form->defined();
            own = own || !formed;
            reads.weightBytes +=
                formed ? bytesOf(*form) : numbersOf(checkpoint->expert(layer, runs.expert, static_cast<Matrix>(matrix))) * valueBytes();
        }
        if (own && weights.reader && demand) demand->expect(layer, runs.expert);
    }
    at::Tensor y = moeForward(layer, x, weights, planLayer, planned, routed, nullptr);
    if (weights.reader)
        if (const std::string bad = weights.reader->nonFinite(); !bad.empty()) return notFiniteWeight(bad);
    return y;
}

Result<at::Tensor> MoeModel::Impl::extend(int layer, const at::Tensor& hidden, const PreparedPlan& plan, KvCache& cache)
{
    current.reset();
    const PlannedLayer& planLayer = plan.data().layers[static_cast<std::size_t>(layer)];
    if (!planLayer.runsAttention && !planLayer.runsExperts) return hidden;
    // A layer that is mixed with another is held whole.
    const bool chosen = !plan.data().plan.layer(layer).content().mergedFrom && readsChosen(hidden.size(1));
    const std::int64_t before = chosen ? demand->bytesRead() : 0;
    ESPALIER_TRY(const auto weights, chosen ? onDemand(layer) : weightsUnder(layer, plan));
    if (!weights->nonFinite.empty()) return notFiniteWeight(weights->nonFinite);
    at::Tensor residual = hidden;
    if (planLayer.runsAttention) {
        ESPALIER_TRY(const auto planned, attending(layer, plan, weights));
        residual = hidden + attention->extend(rmsNorm(hidden, weights->inputNorm, eps), *planned, windows[static_cast<std::size_t>(layer)],
                                              cache.layer(layer), cache.keepsExpansions());
        reads.weightBytes += attentionBytes(*planned);
    }
    at::Tensor out = residual;
    if (planLayer.runsExperts) {
        const at::Tensor x = rmsNorm(residual, weights->postNorm, eps).view({residual.size(1), -1});
        at::Tensor y;
        if (shape().layers[static_cast<std::size_t>(layer)].moe) {
            ESPALIER_TRY(y, extendMoe(layer, x, *weights, plan));
        } else {
            ESPALIER_TRY(const std::vector<Linear> planned, chosenForms(layer, plan, nullptr));
            const GatedMlp mlp = plannedMlp(weights->dense, planLayer, planned);
            y = mlp(x);
            reads.weightBytes += bytesOf(mlp);
        }
        out = residual + y.view_as(residual);
    }
    if (chosen) {
        reads.fileBytes += demand->bytesRead() - before;
        reads.experts = demand->expertsRead();
    }
    if (!allFinite(out)) return notFiniteResult(fmt::format("layer {}", layer));
    return out;
}

Result<at::Tensor> MoeModel::extend(int layer, const at::Tensor& hidden, const PreparedPlan& plan, KvCache& cache)
{
    const c10::InferenceMode guard;
    const PortableScope scope(m_impl->placement.portable);
    ESPALIER_TRY(const at::Tensor out, m_impl->extend(layer, m_impl->placed(hidden), plan, cache));
    return out.to(at::kCPU);
}

ExtendReads MoeModel::extendReads() const { return m_impl->reads; }

Result<KvCache> MoeModel::makeCache(std::int64_t tokens) const
{
    const ModelConfig& config = m_impl->checkpoint->config();
    const std::int64_t bytes = kvCacheBytes(config, tokens, m_impl->valueBytes());
    if (bytes > m_impl->spare)
        return resourceError("model.cache_too_large", std::to_string(tokens),
                             {"Keys and values of {tokens} tokens take {bytes}, and the memory budget leaves {spare} beside the weights.",
                              {{"tokens", tokens}, {"bytes", formatBytes(bytes)}, {"spare", formatBytes(m_impl->spare)}}},
                             "Use a shorter prompt or fewer tokens, or raise --memory-budget.");
    return KvCache(layerCount(), bytes + kvExpansionBytes(config, m_impl->valueBytes()) <= m_impl->spare);
}

std::int64_t MoeModel::headBytes() const { return std::int64_t{shape().vocabularySize} * shape().hiddenSize * m_impl->valueBytes(); }

Result<at::Tensor> MoeModel::hiddenStates(const at::Tensor& ids, const PreparedPlan& plan, LayerObserver* observer)
{
    ESPALIER_TRY(at::Tensor hidden, embed(ids));
    for (int l = 0; l < layerCount(); ++l) {
        ESPALIER_TRY(hidden, layer(l, hidden, plan, observer));
    }
    return hidden;
}

Result<at::Tensor> MoeModel::Impl::normed(const at::Tensor& hidden)
{
    ESPALIER_TRY(const auto globals, store->globals());
    if (!globals->normNonFinite.empty()) return notFiniteWeight(globals->normNonFinite);
    return rmsNorm(placed(hidden), globals->finalNorm, eps);
}

Result<at::Tensor> MoeModel::finalNorm(const at::Tensor& hidden)
{
    const c10::InferenceMode guard;
    const PortableScope scope(m_impl->placement.portable);
    ESPALIER_TRY(const at::Tensor normed, m_impl->normed(hidden));
    return normed.to(at::kCPU);
}

Result<at::Tensor> MoeModel::logits(const at::Tensor& normedRows)
{
    const c10::InferenceMode guard;
    ESPALIER_TRY(const auto globals, m_impl->store->globals());
    if (!globals->headNonFinite.empty()) return notFiniteWeight(globals->headNonFinite);
    at::Tensor product = headProduct(m_impl->placed(normedRows), *globals).to(at::kCPU, at::kFloat);
    ESPALIER_CHECK_OK(m_impl->checkpoint->checkUnchanged());
    return product;
}

Result<at::Tensor> MoeModel::tokenNll(const at::Tensor& hidden, const at::Tensor& ids)
{
    const c10::InferenceMode guard;
    const PortableScope scope(m_impl->placement.portable);
    const std::int64_t batch = hidden.size(0);
    const std::int64_t scored = hidden.size(1) - 1;
    at::Tensor nll = at::empty({batch, std::max<std::int64_t>(scored, 0)}, at::kDouble);
    if (scored <= 0) return nll;
    ESPALIER_TRY(const at::Tensor normed, m_impl->normed(hidden.narrow(1, 0, scored).reshape({batch * scored, hidden.size(2)})));
    const at::Tensor targets = ids.to(at::kLong).narrow(1, 1, scored).reshape({batch * scored}).contiguous();
    const auto* target = targets.const_data_ptr<std::int64_t>();
    auto* out = nll.mutable_data_ptr<double>();
    ESPALIER_TRY(const auto globals, m_impl->store->globals());
    if (!globals->headNonFinite.empty()) return notFiniteWeight(globals->headNonFinite);
    const std::int64_t vocabulary = globals->vocabulary;
    ESPALIER_CHECK_OK(checkTargets(targets, vocabulary));
    const std::int64_t headBlock = headBlockRows(vocabulary, normed.size(1));
    if (headBlock < vocabulary && !m_impl->placement.portable) {
        BlockedNll sums({target, static_cast<std::size_t>(targets.numel())});
        for (std::int64_t first = 0; first < vocabulary; first += headBlock)
            eachHeadProduct(normed, globals->headRows(first, std::min(headBlock, vocabulary - first)), kHeadRowsMax,
                            [&](const at::Tensor& logits, std::int64_t row) { sums.add(logits, row, first); });
        sums.finish(out);
    } else {
        eachHeadProduct(normed, globals->headRows(0, vocabulary), headRows(vocabulary),
                        [&](const at::Tensor& logits, std::int64_t row) { negativeLogLikelihood(logits, target + row, out + row); });
    }
    ESPALIER_CHECK_OK(m_impl->checkpoint->checkUnchanged());
    if (!at::isfinite(nll).all().item<bool>()) return notFiniteResult("the output head");
    return nll;
}

namespace
{

// Positions that are scored, without the last of each window.
at::Tensor scoredRows(const at::Tensor& hidden)
{
    const std::int64_t scored = hidden.size(1) - 1;
    return hidden.narrow(1, 0, scored).reshape({hidden.size(0) * scored, hidden.size(2)});
}

}  // namespace

Result<at::Tensor> MoeModel::headGradient(const at::Tensor& hidden, const at::Tensor& targets)
{
    const c10::InferenceMode guard;
    at::Tensor gradient = at::zeros(hidden.sizes(), hidden.options().dtype(at::kFloat));
    if (hidden.size(1) < 2) return gradient;
    const PortableScope scope(m_impl->placement.portable);
    const at::Tensor rows = m_impl->placed(scoredRows(hidden));
    ESPALIER_TRY(const at::Tensor normed, m_impl->normed(rows));
    ESPALIER_TRY(const auto globals, m_impl->store->globals());
    if (!globals->headNonFinite.empty()) return notFiniteWeight(globals->headNonFinite);
    const at::Tensor flat = targets.to(at::kLong).reshape({-1}).contiguous();
    if (flat.numel() != rows.size(0)) return internalError("headGradient: targets do not fit the hidden states");
    const std::int64_t vocabulary = globals->vocabulary;
    ESPALIER_CHECK_OK(checkTargets(flat, vocabulary));
    const at::Tensor above = espalier::headGradient(normed, m_impl->placed(flat), *globals, headRows(vocabulary));
    const at::Tensor below = rmsNormGradient(rows, globals->finalNorm, above, m_impl->eps);
    gradient.narrow(1, 0, hidden.size(1) - 1).copy_(below.view({hidden.size(0), hidden.size(1) - 1, hidden.size(2)}));
    ESPALIER_CHECK_OK(m_impl->checkpoint->checkUnchanged());
    if (!allFinite(gradient)) return notFiniteResult("the output head");
    return gradient;
}

Result<at::Tensor> MoeModel::layerGradient(int layer, const at::Tensor& hidden, const at::Tensor& gradient, const PreparedPlan& plan,
                                           const GradientObserver& observer)
{
    const c10::InferenceMode guard;
    Impl& impl = *m_impl;
    const PortableScope scope(impl.placement.portable);
    std::vector<Linear> factors;
    ESPALIER_TRY(const auto weights, impl.begin(layer, plan, -1, factors));
    const PlannedLayer& planLayer = plan.data().layers[static_cast<std::size_t>(layer)];
    ESPALIER_TRY(const auto attending, impl.attending(layer, plan, weights));
    const int window = impl.windows[static_cast<std::size_t>(layer)];
    const at::Tensor in = impl.placed(hidden);
    const at::Tensor normed = rmsNorm(in, weights->inputNorm, impl.eps);
    const at::Tensor residual = planLayer.runsAttention ? in + impl.attention->forward(normed, *attending, window) : in;
    const at::Tensor rows = residual.view({-1, residual.size(2)});
    at::Tensor middle = impl.placed(gradient).to(at::kFloat).reshape(rows.sizes());
    if (planLayer.runsExperts) {
        const at::Tensor x = rmsNorm(rows, weights->postNorm, impl.eps);
        const at::Tensor input = impl.shape().layers[static_cast<std::size_t>(layer)].moe
                                     ? moeGradient(layer, x, middle, *weights, planLayer, factors, impl.arithmetic, observer)
                                     : mlpGradient(plannedMlp(weights->dense, planLayer, factors), x, middle);
        middle = middle + rmsNormGradient(rows, weights->postNorm, input, impl.eps);
    }
    middle = middle.view(hidden.sizes());
    impl.current.reset();
    at::Tensor out = middle;
    if (planLayer.runsAttention) {
        const at::Tensor attended = attentionGradient(*impl.attention, normed, middle, *attending, window);
        out = middle + rmsNormGradient(in, weights->inputNorm, attended, impl.eps);
    }
    out = out.to(at::kCPU);
    ESPALIER_CHECK_OK(impl.checkpoint->checkUnchanged());
    if (!allFinite(out)) return notFiniteResult(fmt::format("the gradient of layer {}", layer));
    return out;
}

Result<at::Tensor> MoeModel::drawTokens(const at::Tensor& hidden, const at::Tensor& uniform)
{
    const c10::InferenceMode guard;
    const std::int64_t scored = std::max<std::int64_t>(hidden.size(1) - 1, 0);
    at::Tensor drawn = at::empty({hidden.size(0), scored}, at::kLong);
    if (scored == 0) return drawn;
    const PortableScope scope(m_impl->placement.portable);
    ESPALIER_TRY(const at::Tensor normed, m_impl->normed(scoredRows(hidden)));
    ESPALIER_TRY(const auto globals, m_impl->store->globals());
    if (!globals->headNonFinite.empty()) return notFiniteWeight(globals->headNonFinite);
    const std::int64_t vocabulary = globals->vocabulary;
    const std::int64_t blockRows = headRows(vocabulary);
    const at::Tensor at = m_impl->placed(uniform.to(at::kDouble).reshape({-1, 1}));
    at::Tensor flat = drawn.view({-1});
    for (std::int64_t begin = 0; begin < flat.numel(); begin += blockRows) {
        const std::int64_t rows = std::min(blockRows, flat.numel() - begin);
        const at::Tensor logits = headProduct(normed.narrow(0, begin, rows), *globals).to(at::kDouble);
        const at::Tensor reached = at::softmax(logits, 1).cumsum(1);
        // The sum of all probabilities may end a little below 1.
        flat.narrow(0, begin, rows).copy_((reached <= at.narrow(0, begin, rows)).sum({1}).clamp_max(vocabulary - 1));
    }
    ESPALIER_CHECK_OK(m_impl->checkpoint->checkUnchanged());
    return drawn;
}

Result<at::Tensor> MoeModel::expertOutput(int layer, int expert, const at::Tensor& x)
{
    const c10::InferenceMode guard;
    ESPALIER_TRY(const auto weights, m_impl->weights(layer));
    if (expert < 0 || expert >= static_cast<int>(weights->experts.size()))
        return internalError(fmt::format("expertOutput: layer {} has no expert {}", layer, expert));
    if (const auto constant = m_impl->checkpoint->expertConstant(layer, expert)) {
        ESPALIER_TRY(const at::Tensor values, loadVector(*constant));
        return values.to(m_impl->compute).expand({x.size(0), values.size(0)}).contiguous();
    }
    const PortableScope scope(m_impl->placement.portable);
    const auto mlp = weights->expert(m_impl->storedUnder(layer, expert));
    return (*mlp)(padded(m_impl->placed(x))).narrow(0, 0, x.size(0)).to(at::kCPU);
}

Result<at::Tensor> MoeModel::expertPreActivation(int layer, int expert, const at::Tensor& x)
{
    const c10::InferenceMode guard;
    ESPALIER_TRY(const auto weights, m_impl->weights(layer));
    if (expert < 0 || expert >= static_cast<int>(weights->experts.size()))
        return internalError(fmt::format("expertPreActivation: layer {} has no expert {}", layer, expert));
    if (m_impl->checkpoint->expertConstant(layer, expert))
        return unsupported("model.constant_expert", fmt::format("layer {}", layer),
                           {"Expert {expert} of layer {layer} is a constant in this checkpoint and has no activations.",
                            {{"expert", expert}, {"layer", layer}}},
                           "Leave out what looks at activations of experts, or profile the original.");
    const PortableScope scope(m_impl->placement.portable);
    const auto mlp = weights->expert(m_impl->storedUnder(layer, expert));
    const at::Tensor in = padded(m_impl->placed(x));
    return at::cat({mlp->gate(in), mlp->up(in)}, 1).narrow(0, 0, x.size(0)).to(at::kCPU);
}

}  // namespace espalier
