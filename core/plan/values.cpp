#include "plan/values.h"

#include "plan/factor_source.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

namespace espalier
{

std::string matrixValueName(int layer, int expert, int matrix, std::string_view part)
{
    return fmt::format("layers.{}.experts.{}.{}.{}", layer, expert, kMatrixNames[static_cast<std::size_t>(matrix)], part);
}

std::string linearValueName(int layer, std::string_view linear, std::string_view part)
{
    return fmt::format("layers.{}.{}.{}", layer, linear, part);
}

std::string baseValueName(int layer, std::string_view base) { return fmt::format("layers.{}.bases.{}", layer, base); }

std::string constantValueName(int layer, int expert) { return fmt::format("layers.{}.experts.{}.constant", layer, expert); }

std::string routerValueName(int layer) { return fmt::format("layers.{}.router", layer); }

std::vector<ValuesId> valuesOf(const CompressionPlan& plan)
{
    std::set<ValuesId> ids;
    // Matrices of a plan mostly read one file: this is asked in every frame of an edit.
    const ValuesId* last = nullptr;
    const auto add = [&](const ValuesId& id) {
        if (id.empty() || (last && *last == id)) return;
        last = &*ids.insert(id).first;
    };
    for (int l = 0; l < plan.layerCount(); ++l) {
        if (plan.layer(l).isPlain()) continue;
        const LayerPlan::Content& content = plan.layer(l).content();
        add(content.router);
        for (const auto& [name, form] : content.linears)
            add(form.values);
        for (const Body& body : content.bodies) {
            if (const auto* constant = std::get_if<ConstantBody>(&body)) {
                add(constant->values);
                continue;
            }
            for (const MatrixForm& form : std::get<ExpertBody>(body).matrices)
                add(form.values);
        }
    }
    return {ids.begin(), ids.end()};
}

Error valuesMissing(const ValuesId& id, std::string_view why)
{
    Error error = badInput("plan.values_missing", id,
                           {"The plan's stored numbers lie in the values file {id}, {why}.", {{"id", id.substr(0, 12)}, {"why", why}}},
                           {"Put it beside the plan, as PLAN.values.safetensors or values/{id2}.safetensors.", {{"id2", id}}});
    error.kept = "Nothing was changed.";
    return error;
}

Result<const StoredValues*> storedValuesFor(const ValuesId& id, const FactorSources& given)
{
    for (const auto& source : given)
        if (const StoredValues* values = source->stored(); values && values->id() == id) return values;
    return valuesMissing(id, "which was not given");
}

Result<StoredValue> storedValue(const StoredValues& values, const std::string& name, std::span<const std::int64_t> shape)
{
    const auto damaged = [&](std::string message) {
        return badInput("plan.values_damaged", name, std::move(message), "Make the values file of this plan again.");
    };
    std::optional<StoredValue> value = values.find(name);
    if (!value) return damaged(fmt::format("The values file {} has no tensor {}.", values.id().substr(0, 12), name));
    const bool fits = std::equal(shape.begin(), shape.end(), value->shape.begin(), value->shape.end(),
                                 [](std::int64_t wanted, std::int64_t there) { return wanted < 0 || wanted == there; });
    if (!fits)
        return damaged(fmt::format("The tensor {} of the values file {} has the shape [{}] and not [{}].", name, values.id().substr(0, 12),
                                   fmt::join(value->shape, ", "), fmt::join(shape, ", ")));
    return std::move(*value);
}

}  // namespace espalier
