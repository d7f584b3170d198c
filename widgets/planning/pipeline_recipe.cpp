#include "planning/pipeline_recipe.h"

#include "look/format.h"
#include "rpc/plan_presets.h"

#include <QCoreApplication>

#include <algorithm>

namespace espalier
{

namespace
{

QString tr(const char* text, int n = -1) { return QCoreApplication::translate("pipeline", text, nullptr, n); }

Json choiceJson(const MethodChoice& choice)
{
    Json params = Json::object();
    for (const auto& [key, value] : choice.params)
        params[key] = value;
    return {{"method", choice.method}, {"params", params}};
}

void readChoice(const Json& view, const char* key, MethodChoice& choice)
{
    const Json value = view.value(key, Json());
    if (!value.is_object() || !value.value("method", Json()).is_string()) return;
    choice.method = value["method"].get<std::string>();
    choice.params.clear();
    const Json params = value.value("params", Json());
    if (!params.is_object()) return;
    for (const auto& [name, param] : params.items())
        choice.params[name] = param;
}

constexpr std::pair<PipelineRecipe::RankBudget, const char*> kBudgets[] = {{PipelineRecipe::RankBudget::Automatic, "auto"},
                                                                           {PipelineRecipe::RankBudget::Average, "average"},
                                                                           {PipelineRecipe::RankBudget::Share, "share"}};

QString methodTitle(const std::vector<MethodInfo>& methods, Slot slot, const std::string& id)
{
    const MethodInfo* method = findMethod(methods, slot, id);
    return QString::fromStdString(method ? method->title : id);
}

}  // namespace

PlanRecipe planRecipe(const PipelineRecipe& r)
{
    PlanRecipe recipe;
    if (r.target == PipelineRecipe::Target::Experts)
        recipe.keepTotal = r.experts;
    else
        recipe.bytes = r.bytes;
    recipe.uniformCount = r.uniformCount;
    const auto choose = [&recipe](const char* slot, const MethodChoice& choice, std::string& method) {
        method = choice.method;
        if (!choice.params.empty()) recipe.params[slot] = choice.params;
    };
    choose("score", r.score, recipe.score);
    choose("allocate", r.allocate, recipe.allocate);
    choose("select", r.select, recipe.select);
    if (r.field) recipe.receptiveField = ReceptiveFieldChoice{r.sets, r.blockSize};
    if (r.ranks) {
        recipe.ranks = true;
        choose("rank", r.rule, recipe.rankRule);
        if (r.rankBudget == PipelineRecipe::RankBudget::Average) recipe.averageRank = r.averageRank;
        if (r.rankBudget == PipelineRecipe::RankBudget::Share) recipe.decomposeShare = r.share;
        recipe.factors = r.factors;
    }
    if (r.recovers) choose("recover", r.recover, recipe.recover);
    recipe.seed = static_cast<std::uint64_t>(r.seed);
    return recipe;
}

Json viewJson(const PipelineRecipe& r)
{
    std::string budget;
    for (const auto& [value, name] : kBudgets)
        if (value == r.rankBudget) budget = name;
    return {{"target", r.target == PipelineRecipe::Target::Experts ? "experts" : "bytes"},
            {"experts", r.experts},
            {"bytes", r.bytes},
            {"uniform_count", r.uniformCount},
            {"score", choiceJson(r.score)},
            {"allocate", choiceJson(r.allocate)},
            {"select", choiceJson(r.select)},
            {"receptive_field", r.field},
            {"sets", r.sets},
            {"block_size", r.blockSize},
            {"ranks", r.ranks},
            {"rule", choiceJson(r.rule)},
            {"rank_budget", budget},
            {"average_rank", r.averageRank},
            {"share", r.share},
            {"factors", r.factors},
            {"recovers", r.recovers},
            {"recover", choiceJson(r.recover)},
            {"seed", r.seed},
            {"minutes", r.minutes}};
}

PipelineRecipe recipeFromViewJson(const Json& view, PipelineRecipe r)
{
    if (!view.is_object()) return r;
    const auto whole = [&](const char* key, auto& target, std::int64_t low, std::int64_t high) {
        const Json value = view.value(key, Json());
        if (value.is_number_integer())
            target = static_cast<std::remove_reference_t<decltype(target)>>(std::clamp(value.get<std::int64_t>(), low, high));
    };
    const auto real = [&](const char* key, double& target, double low, double high) {
        const Json value = view.value(key, Json());
        if (value.is_number()) target = std::clamp(value.get<double>(), low, high);
    };
    const auto flag = [&](const char* key, bool& target) {
        const Json value = view.value(key, Json());
        if (value.is_boolean()) target = value.get<bool>();
    };
    const Json target = view.value("target", Json());
    if (target == "bytes") r.target = PipelineRecipe::Target::Bytes;
    if (target == "experts") r.target = PipelineRecipe::Target::Experts;
    whole("experts", r.experts, 1, 1 << 30);
    whole("bytes", r.bytes, 1, std::int64_t{1} << 50);
    flag("uniform_count", r.uniformCount);
    readChoice(view, "score", r.score);
    readChoice(view, "allocate", r.allocate);
    readChoice(view, "select", r.select);
    flag("receptive_field", r.field);
    whole("sets", r.sets, 1, 64);
    whole("block_size", r.blockSize, 1, 64);
    flag("ranks", r.ranks);
    readChoice(view, "rule", r.rule);
    for (const auto& [value, name] : kBudgets)
        if (view.value("rank_budget", Json()) == name) r.rankBudget = value;
    real("average_rank", r.averageRank, 1, 1e6);
    real("share", r.share, 0, 0.99);
    if (const Json factors = view.value("factors", Json()); factors.is_string()) r.factors = factors.get<std::string>();
    flag("recovers", r.recovers);
    readChoice(view, "recover", r.recover);
    whole("seed", r.seed, 0, std::int64_t{1} << 31);
    real("minutes", r.minutes, 0, 10000);
    return r;
}

namespace
{

PlanRecipe recipeOf(PipelinePreset preset)
{
    PlanRecipe uniformReap;
    uniformReap.score = "reap";
    uniformReap.allocate = "uniform";
    for (const auto& [known, id] : {std::pair{PipelinePreset::MoeI2, "moe-i2"}, {PipelinePreset::Verified, "verified"}})
        if (known == preset)
            for (const PlanPreset& of : planPresets())
                if (of.id == id) return of.recipe;
    return uniformReap;
}

}  // namespace

PipelineRecipe withPreset(PipelineRecipe r, PipelinePreset preset)
{
    const PlanRecipe recipe = recipeOf(preset);
    r.score = {recipe.score, {}};
    r.allocate = {recipe.allocate, {}};
    r.select = {recipe.select, {}};
    r.field = recipe.receptiveField.has_value();
    if (r.field) {
        r.sets = recipe.receptiveField->sets;
        r.blockSize = recipe.receptiveField->blockSize;
    }
    r.ranks = recipe.ranks;
    if (r.ranks) {
        r.rule = {recipe.rankRule, {}};
        r.rankBudget = PipelineRecipe::RankBudget::Automatic;
        r.factors = recipe.factors;
    }
    r.recovers = !recipe.recover.empty();
    if (r.recovers) r.recover = {recipe.recover, {}};
    return r;
}

PipelineRecipe findRecipe(const PipelineRecipe& recipe)
{
    PipelineRecipe find = withPreset(recipe, PipelinePreset::Verified);
    if (recipe.minutes > 0) find.allocate.params["minutes"] = recipe.minutes;
    return find;
}

std::optional<PipelinePreset> presetOf(const PipelineRecipe& r)
{
    for (const PipelinePreset preset : {PipelinePreset::MoeI2, PipelinePreset::UniformReap, PipelinePreset::Verified})
        if (withPreset(r, preset) == r) return preset;
    return std::nullopt;
}

const MethodInfo* findMethod(const std::vector<MethodInfo>& methods, Slot slot, const std::string& id)
{
    const auto it = std::find_if(methods.begin(), methods.end(), [&](const MethodInfo& m) { return m.slot == slot && m.id == id; });
    return it == methods.end() ? nullptr : &*it;
}

Json paramOf(const MethodInfo* method, const MethodChoice& choice, const std::string& key)
{
    if (const auto it = choice.params.find(key); it != choice.params.end()) return it->second;
    if (method)
        for (const ParamSpec& spec : method->params)
            if (spec.key == key) return spec.defaultValue;
    return {};
}

QString targetText(const PipelineRecipe& r, const ModelShape& shape)
{
    if (r.target == PipelineRecipe::Target::Bytes) return format::bytes(r.bytes);
    return format::share(static_cast<double>(r.experts) / static_cast<double>(std::max<std::int64_t>(1, shape.totalExperts())));
}

namespace
{

bool measures(const PipelineRecipe& r, const std::vector<MethodInfo>& methods)
{
    const MethodInfo* allocate = findMethod(methods, Slot::Allocate, r.allocate.method);
    return allocate && allocate->runsModel;
}

// One that is not listed is taken for a search: its name says more than the allocator's.
bool searches(const PipelineRecipe& r, const std::vector<MethodInfo>& methods)
{
    const MethodInfo* select = findMethod(methods, Slot::Select, r.select.method);
    return !select || select->searches;
}

}  // namespace

QString recipeName(const PipelineRecipe& r, const std::vector<MethodInfo>& methods)
{
    if (measures(r, methods)) return tr("Verified plan");
    if (!searches(r, methods)) return methodTitle(methods, Slot::Allocate, r.allocate.method);
    return methodTitle(methods, Slot::Select, r.select.method);
}

QString recipeTitle(const PipelineRecipe& r, const std::vector<MethodInfo>& methods, const ModelShape& shape)
{
    const QString name = recipeName(r, methods);
    QString title = name;
    if (measures(r, methods))
        title = tr("%1 for %2").arg(name, targetText(r, shape));
    else if (!searches(r, methods))
        title = tr("%1 for %2, ranked by %3").arg(name, targetText(r, shape), QString::fromStdString(r.score.method));
    if (r.field) title += QStringLiteral(", ") + tr("blocks of %n layer(s)", r.blockSize);
    if (r.ranks) title += QStringLiteral(", ") + tr("ranks");
    return title;
}

}  // namespace espalier
