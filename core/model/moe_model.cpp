#include "model/moe_model_impl.h"

#include "base/exception.h"
#include "model/device_staging.h"
#include "model/layer_gradient.h"
#include "model/norm.h"
#include "model/residence.h"
#include "model/row_operations.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>

#include <malloc.h>
#include <unistd.h>

namespace espalier
{

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

namespace
{

// What an operation on a device holds on the host beside the weights on their way.
constexpr std::int64_t kRoomOnHost = std::int64_t{512} << 20;

std::int64_t halfOfMemory()
{
    const long pages = sysconf(_SC_PHYS_PAGES);
    const long size = sysconf(_SC_PAGE_SIZE);
    return pages > 0 && size > 0 ? static_cast<std::int64_t>(pages) * size / 2 : std::int64_t{4} << 30;
}

}  // namespace

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
    // Merged layers have a quarter of what is spare, streams that are kept between evaluations 1 GiB at most.
    constexpr std::int64_t kStreams = std::int64_t{1} << 30;
    const std::int64_t left = std::max(residence.spare / 4, residence.spare - residence.spare / 4 - kStreams);
    const std::int64_t factorBudget = std::max(std::min(left, 4 * shape.bytes()), kFactors);
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

Result<at::Tensor> MoeModel::hiddenStates(const at::Tensor& ids, const PreparedPlan& plan, LayerObserver* observer)
{
    ESPALIER_TRY(at::Tensor hidden, embed(ids));
    for (int l = 0; l < layerCount(); ++l) {
        ESPALIER_TRY(hidden, layer(l, hidden, plan, observer));
    }
    return hidden;
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
