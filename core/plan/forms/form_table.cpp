#include "plan/forms/form_rules.h"

#include "plan/layer_plan.h"
#include "plan/model_shape.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace espalier
{

namespace
{

constexpr std::string_view kSchemes[] = {"none", "symmetric", "asymmetric"};
// A scale, and a zero point where the scheme has one, are 16 bits each.
constexpr std::int64_t kScaleBytes = 2;

}  // namespace

const std::vector<const FormRules*>& formTable()
{
    static const std::vector<const FormRules*> table = {&kDenseRules, &kLowRankRules, &kBaseDeltaRules, &kMaskedRules};
    return table;
}

const FormRules& rulesOf(const MatrixForm& form) { return *formTable()[form.structure.index()]; }

Status onlyKnownKeys(const Json& object, const std::vector<std::string_view>& known, std::string_view where)
{
    for (const auto& item : object.items())
        if (std::find(known.begin(), known.end(), item.key()) == known.end())
            return unsupported(
                "plan.unknown_content", item.key(),
                {"The plan says \"{key}\" {where}, which this Espalier does not know.", {{"key", item.key()}, {"where", where}}},
                "Use the Espalier that wrote it or a newer one, or take it out: it is not left out in silence.");
    return {};
}

std::string formRefusal(const ExpertBody& expert, const MatrixForm& form)
{
    if (expert.sources.size() > 1 && form.values.empty()) return "merged experts without stored values";
    const bool bands = std::holds_alternative<LowRank>(form.structure) || std::holds_alternative<BaseDelta>(form.structure);
    if (bands && form.storage != Storage{}) return "bits beside those of its bands";
    if (std::holds_alternative<BaseDelta>(form.structure) && form.values.empty()) return "a shared base without stored values";
    if (const auto* low = std::get_if<LowRank>(&form.structure); low && low->bias && form.values.empty())
        return "factors with a bias without stored values";
    return {};
}

std::string mergeRefusal(const LayerPlan& plan)
{
    const LayerPlan::Content& content = plan.content();
    if (!content.mergedFrom) return {};
    if (!content.mergedFrom->alignment.empty()) return "a merged layer with neurons in another order";
    const bool forms = std::any_of(content.bodies.begin(), content.bodies.end(), [](const Body& body) {
        const auto* expert = std::get_if<ExpertBody>(&body);
        return expert &&
               (expert->sources.size() > 1 || !expert->channels.empty() ||
                std::any_of(expert->matrices.begin(), expert->matrices.end(), [](const MatrixForm& form) { return !form.isSource(); }));
    });
    return forms || !content.linears.empty() ? "other forms in a merged layer" : "";
}

std::string linearRefusal(const MatrixForm& form)
{
    if (std::holds_alternative<BaseDelta>(form.structure)) return "a shared base beside the experts";
    return formRefusal(ExpertBody{}, form);
}

Json toJson(const MatrixForm& form)
{
    Json json = rulesOf(form).write(form.structure);
    if (!std::holds_alternative<Dense>(form.structure)) json["form"] = rulesOf(form).id;
    if (form.storage.bits != 0) {
        json["bits"] = form.storage.bits;
        if (form.storage.group != 0) json["group"] = form.storage.group;
        json["scheme"] = kSchemes[static_cast<int>(form.storage.scheme)];
    }
    if (!form.values.empty()) json["values"] = form.values;
    return json;
}

Result<MatrixForm> matrixFormFromJson(const Json& json, const std::string& where)
{
    if (!json.is_object()) return badInput("plan.invalid", where, {"The form of {where} is not an object.", {{"where", where}}});
    const std::string id = json.value("form", std::string(kDenseRules.id));
    const auto& table = formTable();
    const auto rules = std::find_if(table.begin(), table.end(), [&](const FormRules* candidate) { return candidate->id == id; });
    if (rules == table.end())
        return unsupported("plan.unknown_content", id,
                           {"The plan gives {where} the form \"{id}\", which this Espalier does not know.", {{"where", where}, {"id", id}}},
                           "Use the Espalier that wrote it, or a newer one.");
    std::vector<std::string_view> known = {"form", "bits", "group", "scheme", "values"};
    known.insert(known.end(), (*rules)->keys.begin(), (*rules)->keys.end());
    ESPALIER_CHECK_OK(onlyKnownKeys(json, known, fmt::format("of {}", where)));
    MatrixForm form;
    ESPALIER_TRY(form.structure, (*rules)->read(json));
    form.storage.bits = json.value("bits", 0);
    form.storage.group = json.value("group", 0);
    const std::string scheme = json.value("scheme", std::string(kSchemes[0]));
    const auto at = std::find(std::begin(kSchemes), std::end(kSchemes), scheme);
    if (at == std::end(kSchemes))
        return unsupported("plan.unknown_content", scheme,
                           {"The plan stores {where} by the scheme \"{scheme}\", which this Espalier does not know.",
                            {{"where", where}, {"scheme", scheme}}},
                           "Use the Espalier that wrote it, or a newer one.");
    form.storage.scheme = static_cast<QuantScheme>(at - std::begin(kSchemes));
    form.values = json.value("values", std::string());
    return form;
}

Footprint storedNumbers(std::int64_t numbers, std::int64_t rows, const Storage& storage)
{
    Footprint footprint;
    footprint.parameters = numbers;
    footprint.multiplyAdds = numbers;
    if (storage.bits == 0) {
        footprint.sourceNumbers = numbers;
        return footprint;
    }
    const std::int64_t perRow = rows > 0 ? numbers / rows : 0;
    const std::int64_t groups = storage.group > 0 ? rows * ((perRow + storage.group - 1) / storage.group) : rows;
    const std::int64_t scales = groups * kScaleBytes * (storage.scheme == QuantScheme::Asymmetric ? 2 : 1);
    footprint.packedBytes = (numbers * storage.bits + 7) / 8 + scales;
    return footprint;
}

Footprint bandNumbers(const SlotShape& slot, const std::vector<Band>& bands)
{
    Footprint sum;
    for (const Band& band : bands) {
        const std::int64_t numbers = static_cast<std::int64_t>(band.rank) * (slot.out + slot.in);
        const Footprint part = storedNumbers(numbers, band.bits > 0 ? 2 * band.rank : 0, {.bits = band.bits, .group = 0, .scheme = {}});
        sum.sourceNumbers += part.sourceNumbers;
        sum.packedBytes += part.packedBytes;
        sum.parameters += part.parameters;
        sum.multiplyAdds += part.multiplyAdds;
    }
    return sum;
}

Json toJson(const std::vector<Band>& bands)
{
    Json list = Json::array();
    for (const Band& band : bands)
        list.push_back({band.rank, band.bits});
    return list;
}

Result<std::vector<Band>> bandsFromJson(const Json& json, std::string_view where)
{
    std::vector<Band> bands;
    for (const Json& item : json.at("bands")) {
        if (!item.is_array() || item.size() != 2)
            return badInput("plan.invalid", std::string(where), {"Bands of {where} are pairs [rank, bits].", {{"where", where}}});
        bands.push_back({.rank = item[0].get<int>(), .bits = item[1].get<int>()});
    }
    return bands;
}

Status checkBands(const SlotShape& slot, const std::vector<Band>& bands, const std::string& where)
{
    std::int64_t total = 0;
    for (const Band& band : bands) {
        if (band.rank < 1)
            return badInput("plan.invalid", where, {"A band of {where} has rank {rank}.", {{"where", where}, {"rank", band.rank}}},
                            "Ranks are 1 or more.");
        if (band.bits < 0 || band.bits > 16)
            return badInput("plan.invalid", where, {"A band of {where} has {bits} bits.", {{"where", where}, {"bits", band.bits}}},
                            "Use 1 to 16, or 0 for the checkpoint's own type.");
        total += band.rank;
    }
    if (bands.empty()) return badInput("plan.invalid", where, {"The factors of {where} have no band.", {{"where", where}}});
    if (total > std::min(slot.out, slot.in))
        return badInput("plan.rank_beyond_break_even", where,
                        {"{where} has rank {min} at most; the plan asks for {total}.",
                         {{"where", where}, {"min", std::min(slot.out, slot.in)}, {"total", total}}});
    return {};
}

}  // namespace espalier
