#include "rpc/recipe_json.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstdint>
#include <initializer_list>
#include <set>
#include <utility>

namespace espalier
{

namespace
{

Error invalidRecipe(const std::string& where, const std::string& what)
{
    return badInput("recipe.invalid", where, {"\"{where}\" of the recipe {what}.", {{"where", where}, {"what", what}}},
                    "Choose methods and target by options, or take a plan file of this version.");
}

Json settingsJson(const PlanRecipe& recipe, const std::string& slot)
{
    Json json = Json::object();
    for (const auto& [key, value] : recipe.paramsOf(slot))
        json[key] = value.is_number_float() ? Json(value.dump()) : value;
    return json;
}

// Text that says a number is one again: no parameter of a method is text that could be a number.
Json settingFromJson(const Json& value)
{
    if (!value.is_string()) return value;
    const auto& text = value.get_ref<const std::string&>();
    double number = 0;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
    return failure == std::errc() && end == text.data() + text.size() && !text.empty() ? Json(number) : value;
}

Json boundsJson(const std::map<int, int>& bounds)
{
    Json json = Json::object();
    for (const auto& [layer, count] : bounds)
        json[layer == CountBounds::kAllLayers ? std::string("all") : std::to_string(layer)] = count;
    return json;
}

Status readBounds(const Json& json, const std::string& where, std::map<int, int>& bounds)
{
    if (!json.is_object()) return invalidRecipe(where, "is not an object of layers and counts");
    for (const auto& [key, value] : json.items()) {
        int layer = CountBounds::kAllLayers;
        const std::string path = fmt::format("{}.{}", where, key);
        const auto [end, failure] = std::from_chars(key.data(), key.data() + key.size(), layer);
        if (key != "all" && (failure != std::errc() || end != key.data() + key.size() || layer < 0))
            return invalidRecipe(path, "is not a layer");
        if (!value.is_number_integer() || value.get<std::int64_t>() < 0 || value.get<std::int64_t>() > 1 << 30)
            return invalidRecipe(path, "is not a count");
        bounds[layer] = value.get<int>();
    }
    return {};
}

Status knownKeys(const Json& json, const std::string& where, const std::set<std::string>& known)
{
    if (!json.is_object()) return invalidRecipe(where, "is not an object");
    for (const auto& [key, value] : json.items())
        if (!known.contains(key)) return invalidRecipe(fmt::format("{}.{}", where, key), "is not known");
    return {};
}

// One slot of a plan file. Every method has "method" and "parameters"; `more` are the slot's own.
Status readSlot(const Json& settings, const char* slot, const std::set<std::string>& more, std::string& method, PlanRecipe& recipe)
{
    const auto it = settings.find(slot);
    if (it == settings.end()) return {};
    std::set<std::string> known = {"method", "parameters"};
    known.insert(more.begin(), more.end());
    ESPALIER_CHECK_OK(knownKeys(*it, slot, known));
    const Json id = it->value("method", Json());
    if (!id.is_string()) return invalidRecipe(std::string(slot) + ".method", "is no method id");
    method = id.get<std::string>();
    const Json parameters = it->value("parameters", Json::object());
    if (!parameters.is_object()) return invalidRecipe(std::string(slot) + ".parameters", "is not an object");
    for (const auto& [key, value] : parameters.items())
        recipe.params[slot][key] = settingFromJson(value);
    return {};
}

Result<std::optional<double>> readNumber(const Json& value, const std::string& where)
{
    if (value.is_null()) return std::optional<double>();
    const Json number = settingFromJson(value);
    if (!number.is_number()) return invalidRecipe(where, "is not a number");
    return std::optional(number.get<double>());
}

Status readRank(const Json& settings, PlanRecipe& recipe)
{
    const auto rank = settings.find("rank");
    if (rank == settings.end()) return {};
    recipe.ranks = true;
    if (rank->is_object() && rank->value("average", Json()) != "auto") {
        ESPALIER_TRY(recipe.averageRank, readNumber(rank->value("average", Json()), "rank.average"));
    }
    if (rank->is_object()) {
        ESPALIER_TRY(recipe.decomposeShare, readNumber(rank->value("share", Json()), "rank.share"));
    }
    return {};
}

Result<int> readCount(const Json& object, const char* key, const std::string& where)
{
    const Json value = object.value(key, Json());
    if (!value.is_number_integer() || value.get<std::int64_t>() < 0 || value.get<std::int64_t>() > 1 << 30)
        return invalidRecipe(where, "is not a count");
    return value.get<int>();
}

Status readBudget(const Json& budget, PlanRecipe& recipe)
{
    ESPALIER_CHECK_OK(knownKeys(budget, "budget", {"experts", "bytes"}));
    if (budget.size() != 1) return invalidRecipe("budget", "is neither experts nor bytes");
    if (budget.contains("experts")) {
        ESPALIER_TRY(recipe.keepTotal, readCount(budget, "experts", "budget.experts"));
    } else {
        if (!budget["bytes"].is_number_integer()) return invalidRecipe("budget.bytes", "is not a number of bytes");
        recipe.bytes = budget["bytes"].get<std::int64_t>();
    }
    return {};
}

// What becomes of experts that leave, and which layers do: the same in plan files and requests.
constexpr std::pair<ConstantKind, const char*> kDropped[] = {{ConstantKind::Mean, "constant"},
                                                             {ConstantKind::Weighted, "weighted-constant"}};

void writeLeftOut(const PlanRecipe& recipe, Json& json)
{
    for (const auto& [kind, name] : kDropped)
        if (recipe.dropped == kind) json["dropped"] = name;
    if (!recipe.dropLayers.empty()) json["drop_layers"] = recipe.dropLayers;
    if (recipe.dropSimilar > 0) json["drop_similar_layers"] = recipe.dropSimilar;
}

Status readLeftOut(const Json& json, PlanRecipe& recipe)
{
    if (const auto dropped = json.find("dropped"); dropped != json.end()) {
        for (const auto& [kind, name] : kDropped)
            if (*dropped == name) recipe.dropped = kind;
        if (!recipe.dropped) return invalidRecipe("dropped", "is neither \"constant\" nor \"weighted-constant\"");
    }
    if (const auto layers = json.find("drop_layers"); layers != json.end()) {
        if (!layers->is_array()) return invalidRecipe("drop_layers", "is not a list of layers");
        for (const Json& layer : *layers) {
            if (!layer.is_number_integer()) return invalidRecipe("drop_layers", "is not a list of layers");
            recipe.dropLayers.push_back(layer.get<int>());
        }
    }
    if (json.contains("drop_similar_layers")) {
        ESPALIER_TRY(recipe.dropSimilar, readCount(json, "drop_similar_layers", "drop_similar_layers"));
    }
    return {};
}

// Slots that may stay empty, and have no settings of their own.
struct OpenSlot {
    const char* name;
    std::string PlanRecipe::*method;
};
constexpr std::array kOpenSlots = {OpenSlot{"recover", &PlanRecipe::recover}, OpenSlot{"skip", &PlanRecipe::skip}};

// {"method": id, "params": {..}}; what is not said stays as the recipe has it.
void readMethod(RequestParams& recipe, const char* slot, std::string& method, PlanRecipe& result,
                std::initializer_list<const char*> more = {})
{
    RequestParams given = recipe.object(slot, false);
    given.know(more);
    if (const std::string id = given.text("method", false); !id.empty()) method = id;
    (void)given.object("params", false);  // says what is wrong with it
    const Json params = given.value("params", false);
    given.finish();
    if (!params.is_object()) return;
    for (const auto& [key, value] : params.items())
        result.params[slot][key] = value;
}

Json methodJson(const PlanRecipe& recipe, const char* slot, const std::string& method)
{
    Json params = Json::object();
    for (const auto& [key, value] : recipe.paramsOf(slot))
        params[key] = value;
    return {{"method", method}, {"params", std::move(params)}};
}

}  // namespace

Json toJson(const PlanRecipe& recipe)
{
    Json json = {
        {"allocate", {{"method", recipe.allocate}, {"parameters", settingsJson(recipe, "allocate")}, {"uniform", recipe.uniformCount}}},
        {"score", {{"method", recipe.score}, {"parameters", settingsJson(recipe, "score")}}},
        {"select", {{"method", recipe.select}, {"parameters", settingsJson(recipe, "select")}}}};
    if (!recipe.bounds.least.empty()) json["allocate"]["floor"] = boundsJson(recipe.bounds.least);
    if (!recipe.bounds.most.empty()) json["allocate"]["cap"] = boundsJson(recipe.bounds.most);
    if (recipe.bounds.multipleOf != 1) json["allocate"]["multiple_of"] = recipe.bounds.multipleOf;
    json["budget"] = recipe.bytes ? Json{{"bytes", *recipe.bytes}} : Json{{"experts", recipe.keepTotal.value_or(0)}};
    if (recipe.receptiveField)
        json["receptive_field"] = {{"sets", recipe.receptiveField->sets}, {"block_size", recipe.receptiveField->blockSize}};
    writeLeftOut(recipe, json);
    if (recipe.ranks) {
        Json rank = {{"method", recipe.rankRule}, {"parameters", settingsJson(recipe, "rank")}};
        rank["average"] = recipe.averageRank ? Json(fmt::format("{}", *recipe.averageRank)) : Json("auto");
        if (recipe.decomposeShare) {
            rank["average"] = nullptr;
            rank["share"] = fmt::format("{}", *recipe.decomposeShare);
        }
        json["rank"] = std::move(rank);
    }
    for (const OpenSlot& slot : kOpenSlots)
        if (const std::string& method = recipe.*slot.method; !method.empty())
            json[slot.name] = {{"method", method}, {"parameters", settingsJson(recipe, slot.name)}};
    return json;
}

Result<PlanRecipe> recipeFromJson(const Json& settings)
{
    ESPALIER_CHECK_OK(knownKeys(settings, "recipe",
                                {"allocate", "score", "select", "rank", "receptive_field", "budget", "dropped", "drop_layers",
                                 "drop_similar_layers", "recover", "skip"}));
    PlanRecipe recipe;
    ESPALIER_CHECK_OK(readSlot(settings, "score", {}, recipe.score, recipe));
    ESPALIER_CHECK_OK(readSlot(settings, "allocate", {"uniform", "floor", "cap", "multiple_of"}, recipe.allocate, recipe));
    ESPALIER_CHECK_OK(readSlot(settings, "select", {}, recipe.select, recipe));
    ESPALIER_CHECK_OK(readSlot(settings, "rank", {"average", "share"}, recipe.rankRule, recipe));
    for (const OpenSlot& slot : kOpenSlots)
        ESPALIER_CHECK_OK(readSlot(settings, slot.name, {}, recipe.*slot.method, recipe));
    if (const auto allocate = settings.find("allocate"); allocate != settings.end()) {
        const Json uniform = allocate->value("uniform", Json(false));
        if (!uniform.is_boolean()) return invalidRecipe("allocate.uniform", "is neither true nor false");
        recipe.uniformCount = uniform.get<bool>();
        if (allocate->contains("floor")) ESPALIER_CHECK_OK(readBounds((*allocate)["floor"], "allocate.floor", recipe.bounds.least));
        if (allocate->contains("cap")) ESPALIER_CHECK_OK(readBounds((*allocate)["cap"], "allocate.cap", recipe.bounds.most));
        if (allocate->contains("multiple_of")) {
            ESPALIER_TRY(recipe.bounds.multipleOf, readCount(*allocate, "multiple_of", "allocate.multiple_of"));
        }
    }
    ESPALIER_CHECK_OK(readRank(settings, recipe));
    ESPALIER_CHECK_OK(readLeftOut(settings, recipe));
    if (const auto field = settings.find("receptive_field"); field != settings.end()) {
        ESPALIER_CHECK_OK(knownKeys(*field, "receptive_field", {"sets", "block_size"}));
        ReceptiveFieldChoice choice;
        ESPALIER_TRY(choice.sets, readCount(*field, "sets", "receptive_field.sets"));
        ESPALIER_TRY(choice.blockSize, readCount(*field, "block_size", "receptive_field.block_size"));
        recipe.receptiveField = choice;
    }
    if (const auto budget = settings.find("budget"); budget != settings.end()) ESPALIER_CHECK_OK(readBudget(*budget, recipe));
    return recipe;
}

PlanRecipe recipeFromRequest(RequestParams given)
{
    PlanRecipe recipe;
    RequestParams target = given.object("target", true);
    const bool experts = target.find("experts") != nullptr;
    const bool bytes = target.find("bytes") != nullptr;
    if (experts) recipe.keepTotal = target.count("experts", 0, 0);
    if (bytes) recipe.bytes = target.integer("bytes", 0, 0);
    if (experts == bytes) given.fail("target", "is neither {\"experts\": n} nor {\"bytes\": n}");
    target.finish();
    recipe.uniformCount = given.flag("uniform_count", false);
    readMethod(given, "score", recipe.score, recipe);
    readMethod(given, "allocate", recipe.allocate, recipe);
    readMethod(given, "select", recipe.select, recipe);
    if (given.find("receptive_field")) {
        RequestParams field = given.object("receptive_field", false);
        ReceptiveFieldChoice choice;
        choice.sets = field.count("sets", choice.sets, 1);
        choice.blockSize = field.count("block_size", choice.blockSize, 1);
        field.finish();
        recipe.receptiveField = choice;
    }
    if (given.find("rank")) {
        recipe.ranks = true;
        readMethod(given, "rank", recipe.rankRule, recipe, {"average", "share"});
        RequestParams rank = given.object("rank", false);
        recipe.averageRank = rank.number("average");
        recipe.decomposeShare = rank.number("share");
        if (recipe.averageRank && !(*recipe.averageRank >= 1)) rank.fail("average", "is below 1");
        if (recipe.decomposeShare && !(*recipe.decomposeShare >= 0 && *recipe.decomposeShare < 1)) rank.fail("share", "is not in [0, 1)");
    }
    for (const OpenSlot& slot : kOpenSlots)
        if (given.find(slot.name)) readMethod(given, slot.name, recipe.*slot.method, recipe);
    const auto bounds = [&](const char* key, std::map<int, int>& into) {
        const Json value = given.value(key, false);
        if (value.is_null()) return;
        if (!readBounds(value, key, into).ok()) given.fail(key, "is not an object of layers (or \"all\") and counts");
    };
    bounds("floor", recipe.bounds.least);
    bounds("cap", recipe.bounds.most);
    recipe.bounds.multipleOf = given.count("multiple_of", 1, 1);
    Json leftOut = Json::object();
    for (const char* key : {"dropped", "drop_layers", "drop_similar_layers"})
        if (Json value = given.value(key, false); !value.is_null()) leftOut[key] = std::move(value);
    if (const Status read = readLeftOut(leftOut, recipe); !read.ok()) given.fail(read.error().subject, "is not what it should be");
    recipe.factors = given.text("factors", false);
    recipe.seed = static_cast<std::uint64_t>(given.integer("seed", 0, 0));
    given.finish();
    return recipe;
}

Json requestJson(const PlanRecipe& recipe)
{
    Json json = {{"target", recipe.bytes ? Json{{"bytes", *recipe.bytes}} : Json{{"experts", recipe.keepTotal.value_or(0)}}},
                 {"uniform_count", recipe.uniformCount},
                 {"score", methodJson(recipe, "score", recipe.score)},
                 {"allocate", methodJson(recipe, "allocate", recipe.allocate)},
                 {"select", methodJson(recipe, "select", recipe.select)},
                 {"receptive_field", nullptr},
                 {"rank", nullptr},
                 {"seed", recipe.seed}};
    if (recipe.receptiveField)
        json["receptive_field"] = {{"sets", recipe.receptiveField->sets}, {"block_size", recipe.receptiveField->blockSize}};
    if (recipe.ranks) {
        json["rank"] = methodJson(recipe, "rank", recipe.rankRule);
        if (recipe.averageRank) json["rank"]["average"] = *recipe.averageRank;
        if (recipe.decomposeShare) json["rank"]["share"] = *recipe.decomposeShare;
    }
    writeLeftOut(recipe, json);
    for (const OpenSlot& slot : kOpenSlots)
        if (const std::string& method = recipe.*slot.method; !method.empty()) json[slot.name] = methodJson(recipe, slot.name, method);
    if (!recipe.bounds.least.empty()) json["floor"] = boundsJson(recipe.bounds.least);
    if (!recipe.bounds.most.empty()) json["cap"] = boundsJson(recipe.bounds.most);
    if (recipe.bounds.multipleOf != 1) json["multiple_of"] = recipe.bounds.multipleOf;
    if (!recipe.factors.empty()) json["factors"] = recipe.factors;
    return json;
}

}  // namespace espalier
