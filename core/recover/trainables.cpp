#include "recover/trainables.h"

#include "base/random.h"
#include "checkpoint/checkpoint.h"
#include "model/layer_weights.h"
#include "model/moe_layer.h"
#include "plan/values.h"

#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

bool anyOf(const MlpAdapters& adapters)
{
    return std::any_of(adapters.begin(), adapters.end(), [](const MatrixAdapters& matrix) { return matrix.any(); });
}

// Numbers in a form that rounding or a mask would take the training from again, or that several matrices share.
bool keepsTraining(const MatrixForm& form)
{
    if (form.storage.bits != 0) return false;
    if (std::holds_alternative<Dense>(form.structure)) return true;
    const auto* low = std::get_if<LowRank>(&form.structure);
    return low && std::all_of(low->bands.begin(), low->bands.end(), [](const Band& band) { return band.bits == 0; });
}

}  // namespace

bool LayerTrainables::any() const
{
    return router.defined() || anyOf(shared) || anyOf(dense) || std::any_of(bodies.begin(), bodies.end(), anyOf) ||
           std::any_of(attention.begin(), attention.end(), [](const auto& entry) { return entry.second.any(); });
}

// First the places of all tensors, then the array, then the views.
class TrainablesBuilder
{
public:
    TrainablesBuilder(const Checkpoint& checkpoint, const PreparedPlan& plan, const TrainingTargets& targets)
        : m_checkpoint(checkpoint), m_plan(plan), m_rank(targets.adapters.rank)
    {
        m_result.m_targets = targets;
        m_result.m_scale = targets.adapters.alpha / targets.adapters.rank;
        m_result.m_dropout = targets.withAdapters ? targets.adapters.dropout : 0;
        m_result.m_layers.resize(checkpoint.shape().layers.size());
    }

    Status collect()
    {
        for (int l = 0; l < static_cast<int>(m_result.m_layers.size()); ++l) {
            if (m_plan.plan().isLocked(l)) continue;
            if (m_result.m_targets.withAdapters) {
                attention(l);
                mlps(l);
            }
            if (m_result.m_targets.routers) ESPALIER_CHECK_OK(router(l));
        }
        if (m_left > 0)
            m_result.m_warnings.push_back(fmt::format(
                "{} matrices are masked, quantised, merged in the checkpoint, or a base and a difference, and stay as they are.", m_left));
        if (m_count == 0)
            return badInput("recover.nothing_to_train", "plan", "Nothing of what is to be trained is in the layers that the plan runs.",
                            "Train something else, or use another plan.");
        return {};
    }

    Trainables finish(std::uint64_t seed, c10::Device device) &&
    {
        const at::TensorOptions options = at::TensorOptions(at::kFloat);
        at::Tensor values = at::zeros({m_count}, options);
        fill(values, seed);
        m_result.m_values = values.to(device);
        m_result.m_gradients = at::zeros({m_count}, options.device(device));
        for (const Link& link : m_links) {
            const TrainableTensor& tensor = m_result.m_tensors[link.tensor];
            *link.value = m_result.valueOf(tensor);
            *link.gradient = m_result.gradientOf(tensor);
        }
        return std::move(m_result);
    }

private:
    struct Link {
        std::size_t tensor;
        at::Tensor* value;
        at::Tensor* gradient;
        std::int64_t fanIn = 0;  // of a: uniform in +-1/sqrt(in)
        at::Tensor start = {};   // of router rows
    };

    const PlannedLayer& planned(int layer) const { return m_plan.data().layers[static_cast<std::size_t>(layer)]; }
    const LayerShape& shape(int layer) const { return m_checkpoint.shape().layers[static_cast<std::size_t>(layer)]; }

    void tensor(const std::string& name, std::vector<std::int64_t> sizes, Link link)
    {
        link.tensor = m_result.m_tensors.size();
        const std::int64_t numbers = sizes[0] * sizes[1];
        m_result.m_tensors.push_back({name, std::move(sizes), m_count});
        m_count += numbers;
        m_links.push_back(std::move(link));
    }

    void adapter(Adapter& adapter, const std::string& name, std::int64_t out, std::int64_t in)
    {
        adapter.name = name;
        adapter.index = m_adapters++;
        tensor(name + ".lora_a", {m_rank, in}, {.tensor = 0, .value = &adapter.a, .gradient = &adapter.gradientA, .fanIn = in});
        tensor(name + ".lora_b", {out, m_rank}, {.tensor = 0, .value = &adapter.b, .gradient = &adapter.gradientB});
    }

    // A whole matrix, or factors of some rank.
    void matrix(MatrixAdapters& adapters, const std::string& base, std::int64_t out, std::int64_t in, int factorRank)
    {
        if (factorRank == 0) {
            adapter(adapters.weight, base + ".weight", out, in);
            return;
        }
        adapter(adapters.u, base + ".U", out, factorRank);
        adapter(adapters.v, base + ".V", factorRank, in);
    }

    // A map beside the routed experts, by its name in the checkpoint.
    void linear(MatrixAdapters& adapters, int layer, const LinearShape& linear)
    {
        MatrixForm form;
        for (const auto& [name, has] : m_plan.plan().layer(layer).content().linears)
            if (name == linear.name) form = has;
        if (!keepsTraining(form)) {
            ++m_left;
            return;
        }
        matrix(adapters, fmt::format("layers.{}.{}", layer, linear.name), linear.out, linear.in,
               form.isSource() ? linear.sourceRank : form.factorRank());
    }

    void attention(int layer)
    {
        if (!m_result.m_targets.adapters.attention || !planned(layer).runsAttention) return;
        auto& own = m_result.layer(layer).attention;
        for (const LinearShape& shape : shape(layer).linears)
            if (isOfAttention(shape.name)) linear(own[shape.name.substr(std::string_view("self_attn.").size())], layer, shape);
    }

    void mlp(MlpAdapters& own, int layer)
    {
        for (std::size_t m = 0; m < 3; ++m)
            if (const LinearShape* map = shape(layer).linear(fmt::format("{}{}_proj", mlpPrefix(m_checkpoint, layer), kMatrixNames[m])))
                linear(own[m], layer, *map);
    }

    void mlps(int layer)
    {
        const AdapterSettings& which = m_result.m_targets.adapters;
        if (!planned(layer).runsExperts) return;
        if (!shape(layer).moe) {
            if (which.dense) mlp(m_result.layer(layer).dense, layer);
            return;
        }
        if (which.experts) experts(layer);
        if (which.shared && shape(layer).sharedWidth > 0) mlp(m_result.layer(layer).shared, layer);
    }

    void experts(int layer)
    {
        const std::int64_t hidden = m_checkpoint.shape().hiddenSize;
        const std::int64_t width = shape(layer).expertWidth;
        const PlannedLayer& plan = planned(layer);
        std::vector<MlpAdapters>& bodies = m_result.layer(layer).bodies;
        bodies.resize(plan.bodies.size());
        for (std::size_t i = 0; i < bodies.size(); ++i) {
            if (plan.bodies[i].constant.defined()) continue;
            const auto& expert = std::get<ExpertBody>(*m_plan.plan().layer(layer).bodyOf(plan.bodies[i].column));
            for (int m = 0; m < 3; ++m) {
                const MatrixForm& form = expert.matrices[static_cast<std::size_t>(m)];
                if (!keepsTraining(form) || !expert.channels.empty() || !shape(layer).sourceBodies.empty()) {
                    ++m_left;
                    continue;
                }
                int rank = form.factorRank();
                if (form.isSource()) {
                    const LinearView view = m_checkpoint.expert(layer, plan.bodies[i].expert, static_cast<Matrix>(m));
                    if (view.factored) rank = static_cast<int>(view.v.shape[0]);
                }
                std::string name = matrixValueName(layer, expert.sources.front(), m, "");
                if (name.ends_with('.')) name.pop_back();
                matrix(bodies[i][static_cast<std::size_t>(m)], name, m == 2 ? hidden : width, m == 2 ? width : hidden, rank);
            }
        }
    }

    Status router(int layer)
    {
        const PlannedLayer& plan = planned(layer);
        if (!shape(layer).moe || !plan.runsExperts) return {};
        at::Tensor rows;
        if (plan.routerRows.defined()) {
            rows = plan.routerRows.to(at::kCPU, at::kFloat);
        } else {
            ESPALIER_TRY(const at::Tensor all, loadVector(m_checkpoint.router(layer)));
            rows = all.index_select(0, plan.columnIndex);
        }
        LayerTrainables& own = m_result.layer(layer);
        tensor(routerValueName(layer), rows.sizes().vec(),
               {.tensor = 0, .value = &own.router, .gradient = &own.routerGradient, .fanIn = 0, .start = rows});
        return {};
    }

    void fill(at::Tensor& values, std::uint64_t seed) const
    {
        for (const Link& link : m_links) {
            const TrainableTensor& tensor = m_result.m_tensors[link.tensor];
            const std::int64_t count = tensor.shape[0] * tensor.shape[1];
            if (link.start.defined()) {
                values.narrow(0, tensor.begin, count).copy_(link.start.reshape({-1}));
                continue;
            }
            if (link.fanIn == 0) continue;
            Random random = Random::forPurpose(seed, "adapter", static_cast<std::uint64_t>(link.tensor));
            const double bound = 1 / std::sqrt(static_cast<double>(link.fanIn));
            float* to = values.mutable_data_ptr<float>() + tensor.begin;
            for (std::int64_t i = 0; i < count; ++i)
                to[i] = static_cast<float>((2 * random.uniform() - 1) * bound);
        }
    }

    const Checkpoint& m_checkpoint;
    const PreparedPlan& m_plan;
    const std::int64_t m_rank;
    Trainables m_result;
    std::vector<Link> m_links;
    std::int64_t m_count = 0;
    std::uint64_t m_adapters = 0;
    int m_left = 0;
};

Result<Trainables> Trainables::create(const Checkpoint& checkpoint, const PreparedPlan& plan, const TrainingTargets& targets,
                                      std::uint64_t seed, c10::Device device)
{
    if (targets.withAdapters) ESPALIER_CHECK_OK(checkSettings(targets.adapters));
    const c10::InferenceMode recording(false);
    TrainablesBuilder builder(checkpoint, plan, targets);
    ESPALIER_CHECK_OK(builder.collect());
    return std::move(builder).finish(seed, device);
}

std::string mlpPrefix(const Checkpoint& checkpoint, int layer)
{
    constexpr std::string_view kGate = "gate_proj";
    for (const LinearShape& linear : checkpoint.shape().layers[static_cast<std::size_t>(layer)].linears)
        if (!isOfAttention(linear.name) && linear.name.ends_with(kGate)) return linear.name.substr(0, linear.name.size() - kGate.size());
    return {};
}

int Trainables::lowestLayer() const
{
    for (std::size_t l = 0; l < m_layers.size(); ++l)
        if (m_layers[l].any()) return static_cast<int>(l);
    return static_cast<int>(m_layers.size());
}

at::Tensor Trainables::valueOf(const TrainableTensor& tensor) const
{
    return m_values.narrow(0, tensor.begin, tensor.shape[0] * tensor.shape[1]).view(tensor.shape);
}

at::Tensor Trainables::gradientOf(const TrainableTensor& tensor) const
{
    return m_gradients.narrow(0, tensor.begin, tensor.shape[0] * tensor.shape[1]).view(tensor.shape);
}

}  // namespace espalier
