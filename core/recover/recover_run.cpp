#include "recover/recover_run.h"

#include "checkpoint/safetensors.h"
#include "plan/values.h"

#include <fmt/format.h>

#include <map>
#include <set>

namespace espalier
{

namespace
{

// Tensors of an open values file whose names begin with `prefix`, added to `all`.
struct Gathered {
    std::map<ValuesId, SafetensorsFile> files;
    std::map<std::string, ValueToWrite> tensors;

    Status add(const ValuesId& id, const std::string& prefix, const FactorSources& given)
    {
        if (!files.contains(id)) {
            ESPALIER_TRY(const StoredValues* values, storedValuesFor(id, given));
            ESPALIER_TRY(SafetensorsFile file, SafetensorsFile::open(values->path()));
            files.emplace(id, std::move(file));
        }
        const SafetensorsFile& file = files.at(id);
        for (const TensorInfo& info : file.tensors())
            if (info.name.starts_with(prefix)) tensors[info.name] = {{info.name, info.dtype, info.shape}, file.bytes(info)};
        return {};
    }
};

// Everything in the plan's layer that may name stored numbers.
template <typename Content, typename Visit>
Status eachStored(Content& content, int layer, Visit&& visit)
{
    for (auto& body : content.bodies) {
        if (auto* expert = std::get_if<ExpertBody>(&body)) {
            for (int m = 0; m < 3; ++m) {
                auto& form = expert->matrices[static_cast<std::size_t>(m)];
                ESPALIER_CHECK_OK(visit(form.values, matrixValueName(layer, expert->sources.front(), m, "")));
                if (const auto* base = std::get_if<BaseDelta>(&form.structure))
                    ESPALIER_CHECK_OK(visit(form.values, baseValueName(layer, base->base)));
            }
        } else {
            auto& constant = std::get<ConstantBody>(body);
            const auto column = std::find_if(content.columns.begin(), content.columns.end(), [&](const RouterColumn& c) {
                return &content.bodies[static_cast<std::size_t>(c.body)] == &body;
            });
            ESPALIER_CHECK_OK(visit(constant.values, constantValueName(layer, column->expert)));
        }
    }
    for (auto& [name, form] : content.linears)
        ESPALIER_CHECK_OK(visit(form.values, fmt::format("layers.{}.{}.", layer, name)));
    return visit(content.router, routerValueName(layer));
}

}  // namespace

Result<std::shared_ptr<const FactorSource>> writePart(const std::filesystem::path& folder, const std::vector<ValueToWrite>& values)
{
    ESPALIER_TRY(const ValuesInfo info, writeValuesFile(folder, values, Json::object()));
    return openValuesFile(info.file, info.id);
}

Result<JoinedValues> joinParts(const ModelShape& shape, const CompressionPlan& plan, const FactorSources& parts,
                               const std::filesystem::path& folder, const Json& madeBy, WorkShare& share)
{
    std::set<ValuesId> joined;
    for (const auto& part : parts)
        if (part->stored()) joined.insert(part->stored()->id());
    Gathered gathered;
    for (int l = 0; l < plan.layerCount(); ++l) {
        const LayerPlan::Content& content = plan.layer(l).content();
        ESPALIER_CHECK_OK(eachStored(content, l, [&](const ValuesId& id, const std::string& prefix) -> Status {
            return joined.contains(id) ? gathered.add(id, prefix, parts) : Status();
        }));
    }
    if (gathered.tensors.empty()) return JoinedValues{plan, std::nullopt};
    std::vector<ValueToWrite> tensors;
    for (const auto& [name, tensor] : gathered.tensors)
        tensors.push_back(tensor);
    JoinedValues result;
    const auto written = [&]() -> Result<Json> {
        if (!share.first()) return Json();
        ESPALIER_TRY(const ValuesInfo info, writeValuesFile(folder, tensors, madeBy));
        return Json{{"id", info.id}, {"file", info.file}, {"made_by", info.madeBy}};
    };
    ESPALIER_TRY(const std::vector<Json> all, share.exchange(written()));
    const Json& first = all.front();
    result.file = ValuesInfo{first["id"].get<std::string>(), first["file"].get<std::string>(), first["made_by"].get<std::string>()};
    result.plan = plan;
    for (int l = 0; l < plan.layerCount(); ++l) {
        LayerPlan::Content content = plan.layer(l).content();
        bool changed = false;
        ESPALIER_CHECK_OK(eachStored(content, l, [&](ValuesId& id, const std::string&) -> Status {
            if (!joined.contains(id)) return {};
            id = result.file->id;
            changed = true;
            return {};
        }));
        if (!changed) continue;
        ESPALIER_TRY(result.plan, result.plan.with(shape, l, LayerPlan(std::move(content))));
    }
    std::vector<ValuesInfo> infos;
    const std::vector<ValuesId> read = valuesOf(result.plan);
    for (const ValuesInfo& info : plan.values())
        if (std::find(read.begin(), read.end(), info.id) != read.end()) infos.push_back(info);
    infos.push_back(*result.file);
    result.plan = result.plan.withValues(std::move(infos));
    return result;
}

}  // namespace espalier
