#include "model/model_parts.h"

#include "checkpoint/checkpoint.h"
#include "model/form_store.h"
#include "model/planned_attention.h"
#include "model/residence.h"
#include "model/row_operations.h"
#include "model/weight_store.h"

#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include <unistd.h>

namespace espalier
{

namespace
{

Error notFinite(const std::string& tensor)
{
    return badInput("model.not_finite", tensor,
                    {"The tensor {tensor} holds values that are not finite (NaN or infinity).", {{"tensor", tensor}}},
                    "Get the checkpoint again, or prune the expert the tensor belongs to.");
}

std::int64_t halfOfMemory()
{
    const long pages = sysconf(_SC_PHYS_PAGES);
    const long size = sysconf(_SC_PAGE_SIZE);
    return pages > 0 && size > 0 ? static_cast<std::int64_t>(pages) * size / 2 : std::int64_t{4} << 30;
}

}  // namespace

struct ModelParts::Impl {
    std::shared_ptr<const Checkpoint> checkpoint;
    Placement placement;
    MoeArithmetic arithmetic;
    double eps = 1e-6;
    std::vector<int> windows;
    bool streams = false;
    std::int64_t spare = 0;
    std::vector<std::string> warnings;
    std::unique_ptr<WeightStore> store;
    std::unique_ptr<FormStore> forms;
    std::unique_ptr<Attention> attention;
};

Result<std::unique_ptr<ModelParts>> ModelParts::create(std::shared_ptr<const Checkpoint> checkpoint, const ModelOptions& options)
{
    const c10::InferenceMode guard;
    auto impl = std::make_unique<Impl>();
    impl->checkpoint = std::move(checkpoint);
    const ModelConfig& config = impl->checkpoint->config();
    const ModelShape& shape = impl->checkpoint->shape();
    ModelOptions own = options;
    if (own.threads <= 0) own.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    if (own.memoryBudget <= 0) own.memoryBudget = halfOfMemory();
    ESPALIER_TRY(impl->placement, placementFor(options.device));
    impl->arithmetic.compute = at::kFloat;
    impl->arithmetic.routerInFp32 = config.routerFp32;
    impl->arithmetic.weightsRounded = config.routerWeightsInDtype;
    impl->eps = config.rmsNormEps;
    for (const LayerConfig& layer : config.layers)
        impl->windows.push_back(layer.window);

    const bool host = impl->placement.device.is_cpu();
    Residence residence = residenceOf(shape, 4, own, host);
    if (!host) {
        own.memoryBudget = freeDeviceMemory(impl->placement);
        residence = residenceOf(shape, 4, own, false);
    }
    impl->placement.portable = !host || (residence.holding.experts < 0 && !residence.holding.headInBlocks);
    impl->streams = residence.holding.layers < static_cast<int>(shape.layers.size());
    impl->spare = residence.spare;
    impl->warnings = std::move(residence.warnings);
    const std::int64_t factorBudget = std::max(std::min(residence.spare / 4, 4 * shape.bytes()), std::int64_t{64} << 20);
    impl->store = std::make_unique<WeightStore>(impl->checkpoint, at::kFloat, impl->placement, static_cast<int>(shape.layers.size()),
                                                residence.holding, own.threads);
    impl->forms = std::make_unique<FormStore>(impl->checkpoint, at::kFloat, impl->placement, factorBudget);
    impl->attention = std::make_unique<Attention>(attentionShape(config), at::kFloat, impl->placement.device);
    return std::unique_ptr<ModelParts>(new ModelParts(std::move(impl)));
}

ModelParts::ModelParts(std::unique_ptr<Impl> impl) : m_impl(std::move(impl)) {}
ModelParts::~ModelParts() = default;

Result<LayerParts> ModelParts::layer(int layer, const PreparedPlan& plan, int step)
{
    const c10::InferenceMode guard;
    LayerParts parts;
    if (plan.data().plan.layer(layer).content().mergedFrom)
        return unsupported("plan.form_not_run", fmt::format("layer {}", layer),
                           {"Layer {layer} is a mean of itself and another one: such a layer is not tuned.", {{"layer", layer}}},
                           "Export the plan, and tune the export.");
    ESPALIER_TRY(parts.weights, m_impl->store->layer(layer, step));
    const LayerWeights& weights = *parts.weights;
    const PlannedLayer& planned = plan.data().layers[static_cast<std::size_t>(layer)];
    if (!weights.nonFinite.empty()) return notFinite(weights.nonFinite);
    if (m_impl->checkpoint->shape().layers[static_cast<std::size_t>(layer)].moe) {
        if (!weights.routerNonFinite.empty() && !planned.routerRows.defined() &&
            !allFinite(weights.router.index_select(0, planned.columnIndex.to(weights.router.device()))))
            return notFinite(weights.routerNonFinite);
        for (const PlannedBody& body : planned.bodies)
            if (const auto& name = weights.experts[static_cast<std::size_t>(body.expert)].nonFinite;
                !name.empty() && !body.constant.defined() && body.ownWeights)
                return notFinite(name);
    }
    if (!planned.requests.empty()) {
        ESPALIER_TRY(const auto built, m_impl->forms->linears(layer, plan.data().factors.get(), plan.data().given, planned.requests));
        parts.forms.resize(3 * planned.bodies.size() + 3);
        for (std::size_t i = 0; i < built.size(); ++i)
            parts.forms[planned.places[i]] = built[i];
    }
    if (planned.attentionForms && planned.runsAttention) {
        ESPALIER_TRY(parts.attention,
                     attentionUnder(*m_impl->checkpoint, layer, plan.data().plan.layer(layer), weights, plan.data().given, *m_impl->forms));
    }
    ESPALIER_CHECK_OK(m_impl->checkpoint->checkUnchanged());
    return parts;
}

Result<std::shared_ptr<const GlobalWeights>> ModelParts::globals()
{
    ESPALIER_TRY(auto globals, m_impl->store->globals());
    if (!globals->headNonFinite.empty()) return notFinite(globals->headNonFinite);
    if (!globals->normNonFinite.empty()) return notFinite(globals->normNonFinite);
    return globals;
}

const Checkpoint& ModelParts::checkpoint() const { return *m_impl->checkpoint; }
const Placement& ModelParts::placement() const { return m_impl->placement; }
const MoeArithmetic& ModelParts::arithmetic() const { return m_impl->arithmetic; }
Attention& ModelParts::attention() { return *m_impl->attention; }
double ModelParts::eps() const { return m_impl->eps; }
int ModelParts::window(int layer) const { return m_impl->windows[static_cast<std::size_t>(layer)]; }
bool ModelParts::streamsWeights() const { return m_impl->streams; }
std::int64_t ModelParts::spareBytes() const { return m_impl->spare; }
const std::vector<std::string>& ModelParts::warnings() const { return m_impl->warnings; }

void ModelParts::release()
{
    m_impl->store->release();
    m_impl->forms->release();
}

}  // namespace espalier
