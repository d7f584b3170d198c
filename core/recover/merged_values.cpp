#include "recover/merged_values.h"

#include "checkpoint/checkpoint.h"
#include "model/form_builder.h"
#include "plan/values.h"
#include "recover/recover_run.h"
#include "recover/training_layer.h"

#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace espalier
{

namespace
{

DType fileType(at::ScalarType type) { return type == at::kBFloat16 ? DType::BF16 : type == at::kHalf ? DType::F16 : DType::F32; }

// The numbers of one layer on their way into its file.
class LayerValues
{
public:
    LayerValues(const Checkpoint& checkpoint, const LayerPlan& plan, int layer, const Trainables& trainables)
        : m_checkpoint(checkpoint), m_trainables(trainables), m_layer(layer), m_content(plan.content())
    {
    }

    // Fills in what `base` is called by and gives the form it is stored in.
    MatrixForm merge(const MatrixForm& form, const Linear& linear, const MatrixAdapters& adapters, const std::string& base,
                     at::ScalarType stored)
    {
        MatrixForm merged = form;
        if (linear.u.defined()) {
            add(base + ".U", sum(linear.u, adapters.u), stored);
            add(base + ".V", sum(linear.v, adapters.v), stored);
            const bool bias = linear.bias.defined() && ownsBias(form, base);
            if (bias) add(base + ".bias", linear.bias, stored);
            if (form.factorRank() == 0)
                merged.structure = LowRank{.bands = {{.rank = static_cast<int>(linear.u.columns()), .bits = 0}}, .bias = bias};
        } else {
            add(base + ".weight", sum(linear.weight, adapters.weight), stored);
        }
        return merged;
    }
    void add(std::string name, const at::Tensor& numbers, at::ScalarType stored)
    {
        m_tensors.push_back(numbers.to(at::kCPU, stored).contiguous());
        m_values.push_back({{std::move(name), fileType(stored), m_tensors.back().sizes().vec()}, {}});
    }
    LayerPlan::Content& content() { return m_content; }
    const Checkpoint& checkpoint() const { return m_checkpoint; }
    int layer() const { return m_layer; }
    // Forms and router that get the id of the file once it is known.
    std::vector<ValuesId*> named;

    Result<std::shared_ptr<const FactorSource>> write(const std::filesystem::path& folder)
    {
        for (std::size_t i = 0; i < m_values.size(); ++i)
            m_values[i].bytes = {static_cast<const std::byte*>(m_tensors[i].const_data_ptr()), m_tensors[i].nbytes()};
        ESPALIER_TRY(auto part, writePart(folder, m_values));
        for (ValuesId* id : named)
            *id = part->stored()->id();
        return part;
    }
    bool empty() const { return m_values.empty(); }

private:
    // The family's own bias stays where it is.
    bool ownsBias(const MatrixForm& form, const std::string& base) const
    {
        if (const auto* low = std::get_if<LowRank>(&form.structure)) return low->bias;
        return base.find(".experts.") != std::string::npos;
    }
    at::Tensor sum(const WeightMatrix& matrix, const Adapter& adapter) const
    {
        const at::Tensor whole = matrix.rowMajor();
        return adapter.defined() ? at::addmm(whole, adapter.b, adapter.a, 1, m_trainables.scale()) : whole;
    }

    const Checkpoint& m_checkpoint;
    const Trainables& m_trainables;
    const int m_layer;
    LayerPlan::Content m_content;
    std::vector<at::Tensor> m_tensors;
    std::vector<ValueToWrite> m_values;
};

void mergeExperts(LayerValues& values, const PlannedLayer& planned, const LayerParts& parts, const LayerTrainables& trained)
{
    LayerPlan::Content& content = values.content();
    for (std::size_t i = 0; i < trained.bodies.size(); ++i) {
        const MlpAdapters& adapters = trained.bodies[i];
        if (planned.bodies[i].constant.defined()) continue;
        ExpertBody* body = nullptr;
        for (const RouterColumn& column : content.columns)
            if (column.expert == planned.bodies[i].column)
                body = &std::get<ExpertBody>(content.bodies[static_cast<std::size_t>(column.body)]);
        const PlannedExpert expert =
            plannedExpert(*parts.weights, planned.bodies[i].expert, parts.forms.empty() ? nullptr : &parts.forms[3 * i]);
        const std::array<const Linear*, 3> linears = {&expert.mlp.gate, &expert.mlp.up, &expert.mlp.down};
        for (std::size_t m = 0; m < 3; ++m) {
            if (!adapters[m].any()) continue;
            MatrixForm& form = body->matrices[m];
            std::string base = matrixValueName(values.layer(), body->sources.front(), static_cast<int>(m), "");
            base.pop_back();
            const at::ScalarType stored =
                storedType(values.checkpoint().expert(values.layer(), planned.bodies[i].expert, static_cast<Matrix>(m)));
            form = values.merge(form, *linears[m], adapters[m], base, stored);
            values.named.push_back(&form.values);
        }
    }
}

Status mergeRouter(LayerValues& values, const PreparedPlan& plan, const PlannedLayer& planned, const LayerTrainables& trained)
{
    if (!trained.router.defined()) return {};
    const TensorView own = values.checkpoint().router(values.layer());
    at::Tensor rows;
    if (const ValuesId& id = values.content().router; !id.empty()) {
        const BuildContext context{values.checkpoint(), nullptr, plan.data().given};
        ESPALIER_TRY(rows, storedNumbers(context, id, routerValueName(values.layer()), own.shape));
    } else {
        ESPALIER_TRY(rows, loadVector(own));
    }
    at::Tensor all = rows.clone();
    all.index_copy_(0, planned.columnIndex, trained.router.to(at::kCPU));
    values.add(routerValueName(values.layer()), all, storedType(own));
    values.named.push_back(&values.content().router);
    return {};
}

// Maps beside the experts that were trained, by name.
std::vector<std::pair<LinearId, std::pair<Linear, const MatrixAdapters*>>> besideExperts(const LayerValues& values, const LayerParts& parts,
                                                                                         const PlannedLayer& planned,
                                                                                         const LayerTrainables& trained)
{
    std::vector<std::pair<LinearId, std::pair<Linear, const MatrixAdapters*>>> found;
    for (const auto& [name, adapters] : trained.attention)
        if (adapters.any())
            found.emplace_back("self_attn." + name,
                               std::pair{attentionLinear(values.checkpoint(), values.layer(), parts.attentionWeights(), name), &adapters});
    const bool moe = values.checkpoint().shape().layers[static_cast<std::size_t>(values.layer())].moe;
    const MlpAdapters& adapters = moe ? trained.shared : trained.dense;
    const GatedMlp mlp = plannedMlp(moe ? parts.weights->shared : parts.weights->dense, planned, parts.forms);
    const std::array<const Linear*, 3> linears = {&mlp.gate, &mlp.up, &mlp.down};
    for (std::size_t m = 0; m < 3; ++m)
        if (adapters[m].any())
            found.emplace_back(fmt::format("{}{}_proj", mlpPrefix(values.checkpoint(), values.layer()), kMatrixNames[m]),
                               std::pair{*linears[m], &adapters[m]});
    return found;
}

Status mergeBeside(LayerValues& values, const LayerParts& parts, const PlannedLayer& planned, const LayerTrainables& trained)
{
    auto& linears = values.content().linears;
    const auto found = besideExperts(values, parts, planned, trained);
    for (const auto& [name, linear] : found) {
        auto place = std::find_if(linears.begin(), linears.end(), [&wanted = name](const auto& entry) { return entry.first >= wanted; });
        if (place == linears.end() || place->first != name) place = linears.insert(place, {name, MatrixForm{}});
        const at::ScalarType stored = storedType(values.checkpoint().linear(values.layer(), name));
        place->second =
            values.merge(place->second, linear.first, *linear.second, fmt::format("layers.{}.{}", values.layer(), name), stored);
    }
    for (auto& [name, form] : linears)
        for (const auto& entry : found)
            if (entry.first == name) values.named.push_back(&form.values);
    return {};
}

}  // namespace

Result<MergedPlan> mergedPlan(ModelParts& model, const PreparedPlan& plan, const Trainables& trainables,
                              const std::filesystem::path& folder)
{
    const at::AutoGradMode off(false);
    MergedPlan result{plan.plan(), {}};
    for (int l = 0; l < plan.plan().layerCount(); ++l) {
        const LayerTrainables& trained = trainables.layer(l);
        if (!trained.any()) continue;
        const PlannedLayer& planned = plan.data().layers[static_cast<std::size_t>(l)];
        ESPALIER_TRY(const LayerParts parts, model.layer(l, plan, 1));
        LayerValues values(model.checkpoint(), plan.plan().layer(l), l, trainables);
        mergeExperts(values, planned, parts, trained);
        ESPALIER_CHECK_OK(mergeBeside(values, parts, planned, trained));
        ESPALIER_CHECK_OK(mergeRouter(values, plan, planned, trained));
        if (values.empty()) continue;
        ESPALIER_TRY(auto part, values.write(folder));
        result.parts.push_back(std::move(part));
        ESPALIER_TRY(result.plan, result.plan.with(model.checkpoint().shape(), l, LayerPlan(std::move(values.content()))));
    }
    return result;
}

}  // namespace espalier
