#include "model/moe_model_impl.h"

#include "model/form_builder.h"
#include "plan/forms/form_rules.h"
#include "plan/plan_rules.h"
#include "plan/routing.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

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

}  // namespace espalier
