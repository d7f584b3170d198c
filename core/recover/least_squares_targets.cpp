#include "recover/least_squares_targets.h"

#include "plan/values.h"

#include <fmt/format.h>

#include <algorithm>

namespace espalier
{

namespace
{

constexpr std::int64_t kChunkRows = 2048;  // of inputs that are held together: long enough for a product, small enough to convert
constexpr std::string_view kOutputProjection = "self_attn.o_proj";

// Whole matrices and plain factors, in the checkpoint's own type.
bool mendable(const MatrixForm& form, bool storedFactored)
{
    const auto* low = std::get_if<LowRank>(&form.structure);
    const bool plain = std::holds_alternative<Dense>(form.structure) ||
                       (low && std::all_of(low->bands.begin(), low->bands.end(), [](const Band& band) { return band.bits == 0; }));
    // What a checkpoint stores factored would come back dense.
    return plain && form.storage == Storage{} && !(form.isSource() && storedFactored);
}

const MatrixForm& formOf(const LayerPlan& plan, const Target& target)
{
    static const MatrixForm asItIs;
    if (target.slot.linear.empty()) return std::get<ExpertBody>(plan.content().bodies[target.body]).matrices[2];
    for (const auto& [name, form] : plan.content().linears)
        if (name == target.slot.linear) return form;
    return asItIs;
}

void addLinear(const LayerShape& shape, const LayerPlan& plan, const LinearShape& linear, std::vector<Target>& targets, bool& left)
{
    Target target;
    target.slot = {shape.index, 0, 0, linear.name};
    if (mendable(formOf(plan, target), linear.sourceRank > 0))
        targets.push_back(std::move(target));
    else
        left = true;
}

Status load(const BuildContext& context, const CompressionPlan& plan, Target& target)
{
    const MatrixForm& form = formOf(plan.layer(target.slot.layer), target);
    const FormBuilder& builder = builderOf(form);
    ESPALIER_TRY(const FormBasis basis, builder.basis(context, target.slot, form));
    ESPALIER_TRY(const FormTerms terms, builder.terms(context, target.slot, form, basis));
    target.stored = basis.stored;
    target.weight = (terms.u.defined() ? terms.u : terms.weight).to(at::kFloat);
    target.v = terms.v;
    target.bias = terms.bias;
    target.map.width = target.weight.size(1);
    return {};
}

}  // namespace

DType storedAs(at::ScalarType type) { return type == at::kBFloat16 ? DType::BF16 : type == at::kHalf ? DType::F16 : DType::F32; }

std::span<const std::byte> bytesOf(const at::Tensor& tensor)
{
    return {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()};
}

Status Target::add(at::Tensor tokens, at::Tensor weights, const at::Tensor& inputs, Scratch& scratch)
{
    pendingRows += tokens.numel();
    pending.push_back(
        {std::move(tokens), std::move(weights), v.defined() ? at::mm(inputs.to(at::kDouble), v.to(at::kDouble).t()) : inputs.clone()});
    return pendingRows >= kChunkRows ? flush(scratch) : Status();
}

Status Target::flush(Scratch& scratch)
{
    if (pending.empty()) return {};
    std::vector<at::Tensor> tokens, weights, inputs;
    for (const MapRows& rows : pending) {
        tokens.push_back(rows.tokens);
        if (rows.weights.defined()) weights.push_back(rows.weights);
        inputs.push_back(rows.inputs);
    }
    pending.clear();
    pendingRows = 0;
    ESPALIER_TRY(at::Tensor kept, scratch.keep(at::cat(inputs)));
    map.rows.push_back({at::cat(tokens), weights.empty() ? at::Tensor() : at::cat(weights), std::move(kept)});
    return {};
}

std::vector<Target> expertTargets(const Checkpoint& checkpoint, const CompressionPlan& plan, int layer, bool shared, bool& left)
{
    std::vector<Target> targets;
    const LayerShape& shape = checkpoint.shape().layers[static_cast<std::size_t>(layer)];
    const LayerPlan& of = plan.layer(layer);
    if (!shape.moe || !of.runsExperts() || plan.isLocked(layer)) return targets;
    for (std::size_t b = 0; b < of.content().bodies.size(); ++b) {
        const auto* body = std::get_if<ExpertBody>(&of.content().bodies[b]);
        if (!body) continue;
        if (!body->channels.empty() ||
            !mendable(body->matrices[2], checkpoint.expert(layer, body->sources.front(), Matrix::Down).factored)) {
            left = true;
            continue;
        }
        Target target;
        target.body = b;
        target.slot = {layer, body->sources.front(), 2, {}};
        targets.push_back(std::move(target));
    }
    if (shared)
        for (const LinearShape& linear : shape.linears)
            if (linear.name.find("shared_expert") != std::string::npos && linear.name.ends_with("down_proj"))
                addLinear(shape, of, linear, targets, left);
    return targets;
}

std::vector<Target> attentionTarget(const Checkpoint& checkpoint, const CompressionPlan& plan, int layer, bool& left)
{
    std::vector<Target> targets;
    const LayerShape& shape = checkpoint.shape().layers[static_cast<std::size_t>(layer)];
    if (!plan.layer(layer).runsAttention() || plan.isLocked(layer)) return targets;
    if (const LinearShape* linear = shape.linear(kOutputProjection)) addLinear(shape, plan.layer(layer), *linear, targets, left);
    return targets;
}

std::int64_t widthOf(const ModelShape& shape, const CompressionPlan& plan, const Target& target)
{
    if (const int rank = formOf(plan.layer(target.slot.layer), target).factorRank(); rank > 0) return rank;
    const LayerShape& layer = shape.layers[static_cast<std::size_t>(target.slot.layer)];
    if (target.slot.linear.empty()) return layer.expertWidth;
    const LinearShape* linear = layer.linear(target.slot.linear);
    return linear ? linear->in : 0;
}

Status loadTargets(const BuildContext& context, const CompressionPlan& plan, std::vector<Target>& targets)
{
    std::vector<Status> states(targets.size());
    eachOnOneThread(targets.size(), [&](std::size_t i) {
        const c10::InferenceMode guard;
        states[i] = load(context, plan, targets[i]);
    });
    for (const Status& status : states)
        ESPALIER_CHECK_OK(status);
    return {};
}

Result<TargetValues> valuesOf(const std::vector<Target>& targets, const std::vector<at::Tensor>& fresh)
{
    TargetValues result;
    const auto add = [&](const Target& target, std::string_view part, const at::Tensor& tensor) {
        result.held.push_back(tensor.contiguous());
        result.values.push_back(
            {{target.slot.valueName(part), storedAs(tensor.scalar_type()), tensor.sizes().vec()}, bytesOf(result.held.back())});
    };
    for (std::size_t i = 0; i < targets.size(); ++i) {
        const Target& target = targets[i];
        if (!fresh[i].defined() || at::equal(fresh[i], target.weight.to(target.stored))) continue;
        if (!at::isfinite(fresh[i]).all().item<bool>())
            return badInput("recover.not_finite", fmt::format("layer {}", target.slot.layer),
                            {"The mended weights of {matrix} are not finite in the checkpoint's type.", {{"matrix", target.slot.words()}}},
                            "Use a larger ridge.");
        if (target.v.defined()) {
            add(target, "U", fresh[i]);
            add(target, "V", target.v);
            if (target.bias.defined()) add(target, "bias", target.bias);
        } else {
            add(target, "weight", fresh[i]);
        }
        if (target.slot.linear.empty())
            result.bodies.push_back(target.body);
        else
            result.linears.push_back(target.slot.linear);
    }
    return result;
}

Result<CompressionPlan> withStored(const ModelShape& shape, const CompressionPlan& plan, int layer, const std::vector<std::size_t>& bodies,
                                   const std::vector<std::string>& linears, const ValuesId& id)
{
    LayerPlan::Content content = plan.layer(layer).content();
    for (const std::size_t body : bodies) {
        if (body >= content.bodies.size() || !std::holds_alternative<ExpertBody>(content.bodies[body]))
            return internalError("numbers for another plan");
        std::get<ExpertBody>(content.bodies[body]).matrices[2].values = id;
    }
    for (const std::string& name : linears) {
        auto at = std::lower_bound(content.linears.begin(), content.linears.end(), name,
                                   [](const auto& linear, const std::string& key) { return linear.first < key; });
        if (at == content.linears.end() || at->first != name) at = content.linears.insert(at, {name, MatrixForm{}});
        at->second.values = id;
    }
    return plan.with(shape, layer, LayerPlan(std::move(content)));
}

TargetInputs::TargetInputs(const CompressionPlan& plan, int layer, std::vector<Target>& targets, Scratch& scratch) : m_scratch(scratch)
{
    for (Target& target : targets) {
        if (target.slot.linear == kOutputProjection)
            m_attention = &target;
        else if (!target.slot.linear.empty())
            m_shared = &target;
        else  // observers know a body by the first column that leads to it
            for (const RouterColumn& column : plan.layer(layer).content().columns)
                if (static_cast<std::size_t>(column.body) == target.body) {
                    m_byColumn[column.expert] = &target;
                    break;
                }
    }
}

void TargetInputs::take(Target* target, at::Tensor tokens, at::Tensor weights, const at::Tensor& inputs)
{
    if (target && status.ok()) status = target->add(std::move(tokens), std::move(weights), inputs, m_scratch);
}

void TargetInputs::attentionInput(int, const at::Tensor& in)
{
    if (!m_attention) return;
    const at::Tensor rows = in.reshape({-1, in.size(-1)});
    take(m_attention, at::arange(firstRow, firstRow + rows.size(0), at::kLong), {}, rows);
}

void TargetInputs::expert(int, int expert, const at::Tensor& tokens, const at::Tensor&, const at::Tensor& h, const at::Tensor&,
                          const at::Tensor& w)
{
    const auto found = m_byColumn.find(expert);
    if (found != m_byColumn.end()) take(found->second, tokens + firstRow, w.clone(), h);
}

void TargetInputs::shared(int, const at::Tensor& h, const at::Tensor& gate)
{
    take(m_shared, at::arange(firstRow, firstRow + h.size(0), at::kLong),
         gate.defined() ? gate.reshape({-1}).to(at::kFloat).clone() : at::Tensor(), h);
}

}  // namespace espalier
