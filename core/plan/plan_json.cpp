// espalier_plan.json. Version 1 lists kept experts and ranks; version 2 adds columns and bodies, forms, runs. A plan that version 1 can say
// is written as version 1, so that its readers go on reading it.
#include "plan/compression_plan.h"
#include "plan/factor_methods.h"
#include "plan/plan_rules.h"
#include "plan/routing.h"

#include <fmt/format.h>

#include <algorithm>

namespace espalier
{

namespace
{

constexpr int kNewest = 2;
constexpr std::string_view kRuns[] = {"whole", "skipped", "attention_only", "experts_only"};
constexpr std::string_view kConstants[] = {"mean", "weighted"};

// Beside the plan: what the window needs to go on from it, and what an export records. It decides no number.
const std::vector<std::string_view> kBeside = {"version",         "layers", "factors", "model", "locks", "protected", "budget",
                                               "method_settings", "seed",   "created", "notes", "name",  "export",    "seal"};
const std::vector<std::string_view> kFactorKeys = {"method", "profile_sha256", "calibration"};
const std::vector<std::string_view> kModelKeys = {"model_type", "config_sha256", "weights_sha256", "path", "fingerprint"};
const std::vector<std::string_view> kFirstLayerKeys = {"layer", "kept", "ranks", "top_k"};
const std::vector<std::string_view> kSecondLayerKeys = {"layer",  "kept", "ranks",  "top_k",   "run",        "columns",
                                                        "bodies", "skip", "router", "linears", "merged_from"};

Error invalid(std::string_view what, int layer, std::string message, std::string action = {})
{
    return badInput(fmt::format("plan.{}", what), fmt::format("layer {}", layer), std::move(message), std::move(action));
}

template <typename Names>
Result<int> named(const Names& names, const std::string& name, const std::string& where)
{
    const auto at = std::find(std::begin(names), std::end(names), name);
    if (at != std::end(names)) return static_cast<int>(at - std::begin(names));
    return unsupported("plan.unknown_content", name,
                       {"The plan says \"{name}\" {where}, which this Espalier does not know.", {{"name", name}, {"where", where}}},
                       "Use the Espalier that wrote it, or a newer one.");
}

Json bodyJson(const Body& body)
{
    if (const auto* constant = std::get_if<ConstantBody>(&body)) {
        Json json = {{"constant", kConstants[static_cast<int>(constant->kind)]}};
        if (!constant->values.empty()) json["values"] = constant->values;
        return json;
    }
    const auto& expert = std::get<ExpertBody>(body);
    Json json = {{"sources", expert.sources}};
    if (!expert.channels.empty()) json["channels"] = expert.channels;
    for (std::size_t m = 0; m < 3; ++m)
        if (!expert.matrices[m].isSource()) json[std::string(kMatrixNames[m])] = toJson(expert.matrices[m]);
    return json;
}

Result<Body> bodyFromJson(const Json& json, const std::string& where)
{
    if (json.contains("constant")) {
        ESPALIER_CHECK_OK(onlyKnownKeys(json, {"constant", "values"}, fmt::format("of {}", where)));
        ConstantBody constant;
        ESPALIER_TRY(const int kind, named(kConstants, json["constant"].get<std::string>(), fmt::format("as the constant of {}", where)));
        constant.kind = static_cast<ConstantKind>(kind);
        constant.values = json.value("values", std::string());
        return Body(constant);
    }
    ESPALIER_CHECK_OK(onlyKnownKeys(json, {"sources", "channels", "gate", "up", "down"}, fmt::format("of {}", where)));
    ExpertBody expert;
    expert.sources = json.at("sources").get<ExpertSet>();
    if (json.contains("channels")) expert.channels = json["channels"].get<ChannelSet>();
    for (std::size_t m = 0; m < 3; ++m)
        if (const std::string key(kMatrixNames[m]); json.contains(key)) {
            ESPALIER_TRY(expert.matrices[m], matrixFormFromJson(json[key], fmt::format("{}, {}", where, key)));
        }
    return Body(std::move(expert));
}

Json plainJson(const LayerPlan& layer, int index)
{
    Json json = {{"layer", index}, {"kept", layer.kept()}};
    if (!layer.ranks().empty()) json["ranks"] = layer.ranks();
    if (layer.topK()) json["top_k"] = *layer.topK();
    return json;
}

Json layerJson(const LayerPlan& layer, int index)
{
    if (layer.isPlain()) return plainJson(layer, index);
    const LayerPlan::Content& content = layer.content();
    Json json = {{"layer", index}};
    if (content.run != LayerRun::Whole) json["run"] = kRuns[static_cast<int>(content.run)];
    if (content.mergedFrom)
        json["merged_from"] = {{"layer", content.mergedFrom->layer},
                               {"alpha_millionths", content.mergedFrom->alphaMillionths},
                               {"alignment", content.mergedFrom->alignment}};
    for (const auto& [name, form] : content.linears)
        json["linears"][name] = toJson(form);
    if (!content.columns.empty()) {
        json["columns"] = Json::array();
        for (const RouterColumn& column : content.columns)
            json["columns"].push_back({column.expert, column.body});
        json["bodies"] = Json::array();
        for (const Body& body : content.bodies)
            json["bodies"].push_back(bodyJson(body));
    }
    if (content.topK) json["top_k"] = *content.topK;
    if (content.skip)
        json["skip"] = {{"rule", kSkipRuleNames[static_cast<std::size_t>(content.skip->kind)]},
                        {"threshold_millionths", content.skip->thresholdMillionths}};
    if (!content.router.empty()) json["router"] = content.router;
    return json;
}

struct PlanReader {
    const ModelShape& shape;
    int version = 1;

    Result<LayerPlan> plain(const Json& item, int index) const
    {
        const auto kept = item.at("kept").get<ExpertSet>();
        std::vector<RankTriple> ranks;
        if (item.contains("ranks")) {
            for (const Json& triple : item["ranks"])
                if (!triple.is_array() || triple.size() != 3)
                    return invalid("invalid", index, fmt::format("Ranks of layer {} are triples [gate, up, down].", index));
            ranks = item["ranks"].get<std::vector<RankTriple>>();
            ESPALIER_CHECK_OK(checkRankTriples(shape, index, kept.size(), ranks));
        }
        return LayerPlan(kept, ranks, topK(item, index));
    }

    std::optional<int> topK(const Json& item, int index) const
    {
        if (!item.contains("top_k")) return std::nullopt;
        const int value = item["top_k"].get<int>();
        if (value == shape.layers[static_cast<std::size_t>(index)].router.topK) return std::nullopt;
        return value;
    }

    Status experts(const Json& item, int index, LayerPlan::Content& content) const
    {
        for (const Json& column : item.at("columns")) {
            if (!column.is_array() || column.size() != 2)
                return invalid("invalid", index, fmt::format("Columns of layer {} are pairs [expert, body].", index));
            content.columns.push_back({.expert = column[0].get<int>(), .body = column[1].get<int>()});
        }
        int number = 0;
        for (const Json& body : item.at("bodies")) {
            ESPALIER_TRY(Body read, bodyFromJson(body, fmt::format("layer {}, body {}", index, number++)));
            content.bodies.push_back(std::move(read));
        }
        return {};
    }

    Result<LayerPlan> layer(const Json& item, int index) const
    {
        ESPALIER_CHECK_OK(onlyKnownKeys(item, version == 1 ? kFirstLayerKeys : kSecondLayerKeys, fmt::format("in layer {}", index)));
        if (version == 1 || item.contains("kept")) return plain(item, index);
        LayerPlan::Content content;
        const std::string where = fmt::format("in layer {}", index);
        if (item.contains("run")) {
            ESPALIER_TRY(const int run, named(kRuns, item["run"].get<std::string>(), where));
            content.run = static_cast<LayerRun>(run);
        }
        if (item.contains("merged_from")) {
            const Json& merge = item["merged_from"];
            ESPALIER_CHECK_OK(onlyKnownKeys(merge, {"layer", "alpha_millionths", "alignment"}, where));
            content.mergedFrom = {
                .layer = merge.at("layer"), .alphaMillionths = merge.at("alpha_millionths"), .alignment = merge.value("alignment", "")};
        }
        if (item.contains("linears"))
            for (const auto& linear : item["linears"].items()) {
                ESPALIER_TRY(MatrixForm form, matrixFormFromJson(linear.value(), fmt::format("layer {}, {}", index, linear.key())));
                if (!form.isSource()) content.linears.emplace_back(linear.key(), std::move(form));
            }
        if (item.contains("columns")) ESPALIER_CHECK_OK(experts(item, index, content));
        content.topK = topK(item, index);
        if (item.contains("skip")) {
            ESPALIER_CHECK_OK(onlyKnownKeys(item["skip"], {"rule", "threshold_millionths"}, where));
            ESPALIER_TRY(const int kind, named(kSkipRuleNames, item["skip"].at("rule").get<std::string>(), where));
            content.skip = {.kind = static_cast<SkipRule::Kind>(kind), .thresholdMillionths = item["skip"].at("threshold_millionths")};
        }
        content.router = item.value("router", std::string());
        return LayerPlan(std::move(content));
    }

    Result<int> layerIndex(const Json& item, std::string_view what) const
    {
        const int index = item.get<int>();
        if (index >= 0 && index < static_cast<int>(shape.layers.size())) return index;
        return invalid("unknown_layer", index,
                       fmt::format("{} names layer {}; the model has layers 0 to {}.", what, index, shape.layers.size() - 1));
    }

    Result<PlanMarks> marks(const Json& value) const
    {
        PlanMarks marks;
        for (const Json& item : value.value("locks", Json::array())) {
            ESPALIER_TRY(const int index, layerIndex(item, "A lock"));
            marks.locked.push_back(index);
        }
        std::sort(marks.locked.begin(), marks.locked.end());
        marks.locked.erase(std::unique(marks.locked.begin(), marks.locked.end()), marks.locked.end());
        for (const Json& item : value.value("protected", Json::array())) {
            ESPALIER_CHECK_OK(onlyKnownKeys(item, {"layer", "experts"}, "among the protected experts"));
            ESPALIER_TRY(const int index, layerIndex(item.at("layer"), "A protected expert"));
            auto experts = item.at("experts").get<ExpertSet>();
            std::sort(experts.begin(), experts.end());
            for (const int expert : experts)
                if (expert < 0 || expert >= shape.layers[static_cast<std::size_t>(index)].experts)
                    return invalid("unknown_expert", index, fmt::format("Protected expert {} does not exist in layer {}.", expert, index));
            if (!experts.empty()) marks.protectedExperts[index] = std::move(experts);
        }
        return marks;
    }

    Result<CompressionPlan> plan(const Json& value) const
    {
        std::vector<std::string_view> known = kBeside;
        if (version > 1) known.insert(known.end(), {"constants", "values"});
        ESPALIER_CHECK_OK(onlyKnownKeys(value, known, "beside its layers"));
        CompressionPlan plan = CompressionPlan::identity(shape);
        std::vector<bool> seen(shape.layers.size(), false);
        for (const Json& item : value["layers"]) {
            ESPALIER_TRY(const int index, layerIndex(item.at("layer"), "The plan"));
            if (seen[static_cast<std::size_t>(index)])
                return invalid("invalid", index, fmt::format("The plan lists layer {} twice.", index));
            seen[static_cast<std::size_t>(index)] = true;
            ESPALIER_TRY(LayerPlan read, layer(item, index));
            ESPALIER_TRY(plan, plan.with(shape, index, std::move(read)));
        }
        ESPALIER_TRY(PlanMarks read, marks(value));
        plan = plan.withMarks(std::move(read));
        ESPALIER_TRY(FactorSettings factors, factorSettings(value, plan));
        plan = plan.withFactors(std::move(factors));
        if (value.contains("constants")) {
            ESPALIER_CHECK_OK(onlyKnownKeys(value["constants"], {"profile_sha256"}, "about its constants"));
            plan = plan.withConstantsProfile(value["constants"].value("profile_sha256", ""));
        }
        if (value.contains("values")) {
            std::vector<ValuesInfo> values;
            for (const Json& item : value["values"]) {
                ESPALIER_CHECK_OK(onlyKnownKeys(item, {"id", "file", "made_by"}, "about its values files"));
                values.push_back({item.at("id").get<std::string>(), item.value("file", std::string()),
                                  item.contains("made_by") ? canonicalJson(item["made_by"]) : std::string()});
            }
            plan = plan.withValues(std::move(values));
        }
        if (value.contains("model") && value["model"].is_object()) {
            const Json& model = value["model"];
            ESPALIER_CHECK_OK(onlyKnownKeys(model, kModelKeys, "about its model"));
            plan = plan.withModel({model.value("model_type", ""), model.value("config_sha256", ""), model.value("weights_sha256", "")});
        }
        return plan;
    }

    static Result<FactorSettings> factorSettings(const Json& value, const CompressionPlan& plan)
    {
        FactorSettings factors;
        if (value.contains("factors") && value["factors"].is_object()) {
            ESPALIER_CHECK_OK(onlyKnownKeys(value["factors"], kFactorKeys, "about its factors"));
            factors.method = value["factors"].value("method", "");
            factors.profileSha256 = value["factors"].value("profile_sha256", "");
        }
        if (!plan.needsFactors()) return factors;
        if (factors.method.empty()) factors.method = "svd";
        if (!factorMethod(factors.method))
            return unsupported("plan.factors", "factors.method",
                               {"The factor method \"{method}\" is not known.", {{"method", factors.method}}}, "Use svd or whitened-svd.");
        return factors;
    }
};

}  // namespace

Result<CompressionPlan> planFromJson(const Json& value, const ModelShape& shape)
{
    if (!value.is_object()) return badInput("plan.invalid", "plan", "The plan is not a JSON object.");
    try {
        const Json version = value.value("version", Json());
        if (!version.is_number_integer())
            return badInput("plan.version", "version", "The plan has no version number.", "Add \"version\": 1.");
        if (version < 1 || version > kNewest)
            return unsupported(
                "plan.version", "version",
                {"The plan has version {version}; versions 1 and {newest} are read.", {{"version", version.dump()}, {"newest", kNewest}}},
                "Use the Espalier that wrote it, or a newer one.");
        if (!value.contains("layers") || !value["layers"].is_array())
            return badInput("plan.invalid", "layers", "The plan has no list of layers.");
        return PlanReader{shape, version.get<int>()}.plan(value);
    } catch (const Json::exception& failure) {
        return badInput("plan.invalid", "plan", {"The plan is malformed: {what}.", {{"what", failure.what()}}});
    }
}

Json toJson(const CompressionPlan& plan)
{
    Json layers = Json::array();
    bool factors = false;
    bool constants = false;
    for (int i = 0; i < plan.layerCount(); ++i) {
        const LayerPlan& layer = plan.layer(i);
        if (plan.isWholeLayer(i)) continue;
        layers.push_back(layerJson(layer, i));
        factors = factors || layer.needsFactors();
        constants = constants || layer.needsConstants();
    }
    Json json = {{"version", plan.isPlain() ? 1 : kNewest}, {"layers", std::move(layers)}};
    // Factor settings decide nothing while every matrix is dense.
    if (factors) {
        json["factors"] = {{"method", plan.factors().method.empty() ? std::string("svd") : plan.factors().method}};
        if (!plan.factors().profileSha256.empty()) json["factors"]["profile_sha256"] = plan.factors().profileSha256;
    }
    if (constants && !plan.constantsProfile().empty()) json["constants"] = {{"profile_sha256", plan.constantsProfile()}};
    for (const ValuesInfo& values : plan.isPlain() ? std::vector<ValuesInfo>() : plan.values()) {
        json["values"].push_back({{"id", values.id}, {"file", values.file}});
        if (!values.madeBy.empty()) json["values"].back()["made_by"] = Json::parse(values.madeBy, nullptr, false);
    }
    if (plan.model() != PlanModel{})
        json["model"] = {{"model_type", plan.model().modelType},
                         {"config_sha256", plan.model().configSha256},
                         {"weights_sha256", plan.model().weightsSha256}};
    if (!plan.marks().locked.empty()) json["locks"] = plan.marks().locked;
    for (const auto& [layer, experts] : plan.marks().protectedExperts)
        json["protected"].push_back({{"layer", layer}, {"experts", experts}});
    return json;
}

Result<CompressionPlan> readPlanFile(const std::filesystem::path& path, const ModelShape& shape)
{
    ESPALIER_TRY(const Json json, readJsonFile(path, "plan"));
    ESPALIER_TRY(CompressionPlan plan, planFromJson(json, shape));
    // Relative to the plan, so that both can be moved together; known by their whole path from here on.
    std::vector<ValuesInfo> values = plan.values();
    for (ValuesInfo& info : values)
        if (!info.file.empty()) info.file = (std::filesystem::absolute(path).parent_path() / info.file).lexically_normal().string();
    return values.empty() ? plan : plan.withValues(std::move(values));
}

}  // namespace espalier
