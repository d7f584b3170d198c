#include "model/form_builder.h"

#include "base/sha256.h"
#include "checkpoint/checkpoint.h"
#include "model/layer_weights.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace espalier
{

std::int64_t FormBasis::bytes() const
{
    if (const auto* tensor = std::get_if<at::Tensor>(&of)) return tensor->defined() ? static_cast<std::int64_t>(tensor->nbytes()) : 0;
    if (const auto* plain = std::get_if<PlainSvd>(&of)) return plain->bytes();
    if (const auto* projection = std::get_if<ProjectionFactors>(&of)) return projection->bytes();
    return 0;
}

at::Tensor FormTerms::sum() const
{
    if (!u.defined()) return weight.to(at::kFloat);
    const at::Tensor product = at::matmul(u.to(at::kFloat), v.to(at::kFloat));
    return weight.defined() ? weight.to(at::kFloat) + product : product;
}

namespace
{

// A body that lost channels and is otherwise as the checkpoint has it: the matrix without them, or factors without them.
const FormBuilder kSlicedBuilder = {
    false, [](const BuildContext&, const MatrixSlot& slot, const MatrixForm&) { return "sliced" + slot.channelsKey(); },
    [](const BuildContext& context, const MatrixSlot& slot, const MatrixForm&) -> Result<FormBasis> {
        FormBasis basis;
        basis.stored = typeOf(context, slot).stored;
        return basis;
    },
    [](const BuildContext& context, const MatrixSlot& slot, const MatrixForm&, const FormBasis& basis) -> Result<FormTerms> {
        const LinearView view = viewOf(context, slot);
        FormTerms terms;
        if (!view.factored) {
            ESPALIER_TRY(const StoredMatrix matrix, loadMatrix(view));
            terms.weight = slot.sliceColumns(slot.sliceRows(matrix.weight)).to(basis.stored).contiguous();
            return terms;
        }
        ESPALIER_TRY(const at::Tensor u, loadVector(view.u));
        ESPALIER_TRY(const at::Tensor v, loadVector(view.v));
        terms.u = slot.sliceRows(u).to(basis.stored).contiguous();
        terms.v = slot.sliceColumns(v).to(basis.stored).contiguous();
        if (view.biased) {
            ESPALIER_TRY(const at::Tensor bias, loadVector(view.bias));
            terms.bias = slot.sliceRows(bias).to(basis.stored).contiguous();
        }
        return terms;
    }};

}  // namespace

const FormBuilder& builderOf(const MatrixSlot& slot, const MatrixForm& form)
{
    return slot.sliced() && form.isSource() ? kSlicedBuilder : builderOf(form);
}

const FormBuilder& builderOf(const MatrixForm& form)
{
    // In the order of the alternatives of Structure.
    static const std::array<const FormBuilder*, std::variant_size_v<Structure>> table = {&kDenseBuilder, &kLowRankBuilder,
                                                                                         &kBaseDeltaBuilder, &kMaskedBuilder};
    return *table[form.structure.index()];
}

namespace
{

Error damaged(const std::string& name, std::string message)
{
    return badInput("plan.values_damaged", name, std::move(message), "Make the values file of this plan again.");
}

Result<at::Tensor> copyOf(const StoredValue& value, const std::string& name, bool mask)
{
    const std::pair<const char*, at::ScalarType> numbers[] = {
        {"F32", at::kFloat}, {"BF16", at::kBFloat16}, {"F16", at::kHalf}, {"F64", at::kDouble}};
    const std::pair<const char*, at::ScalarType> masks[] = {{"BOOL", at::kBool}, {"U8", at::kByte}};
    const at::ScalarType* type = nullptr;
    if (mask) {
        for (const auto& entry : masks)
            if (value.dtype == entry.first) type = &entry.second;
    } else {
        for (const auto& entry : numbers)
            if (value.dtype == entry.first) type = &entry.second;
    }
    if (type == nullptr) return damaged(name, fmt::format("The tensor {} of the values file is stored as {}.", name, value.dtype));
    at::Tensor copy = at::empty(value.shape, *type);
    std::memcpy(copy.mutable_data_ptr(), value.bytes.data(), value.bytes.size());
    return copy;
}

}  // namespace

Result<at::Tensor> storedNumbers(const BuildContext& context, const ValuesId& id, const std::string& name, at::IntArrayRef shape)
{
    ESPALIER_TRY(const StoredValues* values, storedValuesFor(id, context.given));
    ESPALIER_TRY(const StoredValue value, storedValue(*values, name, {shape.data(), shape.size()}));
    ESPALIER_TRY(const at::Tensor copy, copyOf(value, name, false));
    ESPALIER_CHECK_OK(values->checkUnchanged());
    at::Tensor numbers = copy.to(at::kFloat);
    if (!at::isfinite(numbers).all().item<bool>())
        return damaged(name, fmt::format("The tensor {} of the values file holds values that are not finite (NaN or infinity).", name));
    return numbers;
}

bool hasStored(const BuildContext& context, const ValuesId& id, const std::string& name)
{
    const auto values = storedValuesFor(id, context.given);
    return values.ok() && (*values)->find(name).has_value();
}

Result<at::Tensor> storedMask(const BuildContext& context, const ValuesId& id, const std::string& name, at::IntArrayRef shape)
{
    ESPALIER_TRY(const StoredValues* values, storedValuesFor(id, context.given));
    ESPALIER_TRY(const StoredValue value, storedValue(*values, name, {shape.data(), shape.size()}));
    ESPALIER_TRY(const at::Tensor mask, copyOf(value, name, true));
    ESPALIER_CHECK_OK(values->checkUnchanged());
    return mask.ne(0).to(at::kFloat);
}

std::string MatrixSlot::valueName(std::string_view part) const
{
    return linear.empty() ? matrixValueName(layer, expert, matrix, part) : linearValueName(layer, linear, part);
}

std::string MatrixSlot::words() const
{
    return linear.empty() ? fmt::format("expert {} in layer {}", expert, layer) : fmt::format("{} in layer {}", linear, layer);
}

at::Tensor MatrixSlot::sliceRows(const at::Tensor& rows) const
{
    if (!sliced() || matrix == 2) return rows;
    return rows.index_select(0, at::tensor(std::vector<std::int64_t>(channels->begin(), channels->end()), at::kLong));
}

at::Tensor MatrixSlot::sliceColumns(const at::Tensor& rows) const
{
    if (!sliced() || matrix != 2) return rows;
    return rows.index_select(1, at::tensor(std::vector<std::int64_t>(channels->begin(), channels->end()), at::kLong));
}

std::string MatrixSlot::channelsKey() const
{
    return sliced() ? " of " + sha256Hex(fmt::format("{}", fmt::join(*channels, " "))) : std::string();
}

LinearView viewOf(const BuildContext& context, const MatrixSlot& slot)
{
    return slot.linear.empty() ? context.checkpoint.expert(slot.layer, slot.expert, static_cast<Matrix>(slot.matrix))
                               : context.checkpoint.linear(slot.layer, slot.linear);
}

SlotType typeOf(const BuildContext& context, const MatrixSlot& slot)
{
    const LinearView view = viewOf(context, slot);
    const TensorView& rows = view.factored ? view.u : view.dense;
    const TensorView& columns = view.factored ? view.v : view.dense;
    SlotType type{rows.shape[0], columns.shape[1], storedType(view)};
    if (slot.sliced()) (slot.matrix == 2 ? type.in : type.out) = std::ssize(*slot.channels);
    return type;
}

Result<at::Tensor> wholeMatrix(const BuildContext& context, const MatrixSlot& slot, const MatrixForm& form)
{
    const std::string name = slot.valueName("weight");
    if (form.values.empty()) {
        ESPALIER_TRY(const StoredMatrix matrix, loadMatrix(viewOf(context, slot)));
        return slot.sliceColumns(slot.sliceRows(matrix.weight));
    }
    const SlotType type = typeOf(context, slot);
    return storedNumbers(context, form.values, name, {type.out, type.in});
}

void eachOnOneThread(std::size_t count, const std::function<void(std::size_t)>& one)
{
    // At least two: a single one would run outside of a parallel region, where a product takes all threads.
    at::parallel_for(0, static_cast<std::int64_t>(std::max<std::size_t>(count, 2)), 1, [&](std::int64_t begin, std::int64_t end) {
        for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end) && i < count; ++i)
            one(i);
    });
}

}  // namespace espalier
