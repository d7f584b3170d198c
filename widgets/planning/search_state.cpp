#include "planning/search_state.h"

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

std::optional<double> ratioGain(std::optional<double> best, std::optional<double> reference)
{
    if (!best || !reference || !(*reference > 0)) return std::nullopt;
    return *best / *reference - 1;
}

std::optional<double> numberOf(const Json& value, const char* key)
{
    const Json number = value.value(key, Json());
    return number.is_number() ? std::optional(number.get<double>()) : std::nullopt;
}

std::vector<double> numbersOf(const Json& list)
{
    std::vector<double> numbers;
    if (list.is_array())
        for (const Json& x : list)
            if (x.is_number()) numbers.push_back(x.get<double>());
    return numbers;
}

std::vector<int> integersOf(const Json& list)
{
    std::vector<int> integers;
    if (list.is_array())
        for (const Json& x : list)
            if (x.is_number_integer()) integers.push_back(x.get<int>());
    return integers;
}

}  // namespace

std::optional<double> LayerSearch::gain() const { return ratioGain(best, reference); }

std::optional<double> SearchBlock::gain() const { return ratioGain(best, trials.empty() ? std::nullopt : std::optional(trials.front())); }

bool SearchState::searches(int layer) const
{
    return layer >= 0 && layer < static_cast<int>(shape.layers.size()) && layer < base.layerCount() &&
           shape.layers[static_cast<std::size_t>(layer)].experts > 0 && !base.isLocked(layer);
}

int SearchState::layersToSearch() const
{
    int count = 0;
    for (const LayerShape& layer : shape.layers)
        count += searches(layer.index) ? 1 : 0;
    return count;
}

int SearchState::layersFinished() const
{
    return static_cast<int>(std::count_if(layers.begin(), layers.end(), [](const auto& item) { return item.second.finished; }));
}

int SearchState::blocksToTry() const
{
    int moe = 0;
    for (const LayerShape& layer : shape.layers)
        moe += layer.experts > 0 ? 1 : 0;
    const int size = std::max(1, recipe.blockSize);
    return (moe + size - 1) / size;
}

std::vector<int> SearchState::layersBeingSearched() const
{
    std::vector<int> now;
    if (!running() || stage != "select") return now;
    for (const auto& [layer, search] : layers)
        if (!search.finished) now.push_back(layer);
    return now;
}

void SearchState::take(const Json& partial)
{
    if (!partial.is_object() || !partial.value("stage", Json()).is_string()) return;
    stage = partial["stage"].get<std::string>();
    const Json layerJson = partial.value("layer", Json());
    const int layer = layerJson.is_number_integer() ? layerJson.get<int>() : -1;
    const bool known = layer >= 0 && layer < static_cast<int>(shape.layers.size());
    if (const Json plan = partial.value("plan", Json()); plan.is_object())
        if (Result<CompressionPlan> parsed = planFromJson(plan, shape); parsed.ok()) {
            best = std::move(parsed).value();
            planReachesTarget = stage == "rank" || !recipe.ranks;
            // Counts anew: what was searched for other counts says nothing about these.
            if (stage == "select") layers.clear();
        }
    if (stage == "allocate") {
        if (partial.contains("curve") && known) ++curves;
        if (const auto nll = numberOf(partial, "alone"); nll && known) alone[layer] = *nll;
        if (partial.value("name", Json()).is_string() && partial.value("nll", Json()).is_number()) {
            MeasuredPlan plan;
            plan.name = QString::fromStdString(partial["name"].get<std::string>()).replace(QStringLiteral("->"), QStringLiteral("→"));
            plan.nll = partial["nll"].get<double>();
            plan.change = numberOf(partial, "change").value_or(0);
            plan.error = numberOf(partial, "error").value_or(0);
            plan.rise = numberOf(partial, "rise");
            plan.passes = numberOf(partial, "passes");
            plan.windows = static_cast<int>(numberOf(partial, "windows").value_or(0));
            plan.accepted = partial.value("accepted", Json()) == Json(true);
            measured.push_back(std::move(plan));
        }
    } else if (stage == "select" && known) {
        LayerSearch& search = layers[layer];
        currentLayer = layer;
        if (const auto x = numberOf(partial, "best_loss")) search.best = x;
        if (const auto x = numberOf(partial, "reference_loss")) search.reference = x;
        if (const auto x = numberOf(partial, "output_norm")) search.outputNorm = x;
        if (std::vector<double> trace = numbersOf(partial.value("trace", Json())); !trace.empty()) search.trace = std::move(trace);
        search.enumerated = partial.value("enumerated", Json(search.enumerated)) == Json(true);
        if (partial.value("generation", Json()).is_number_integer()) search.generation = partial["generation"].get<int>();
        if (partial.value("evaluated", Json()).is_number_integer()) search.evaluated = partial["evaluated"].get<std::int64_t>();
        if (partial.value("finished", Json()) == Json(true)) {
            search.finished = true;
            search.kept = integersOf(partial.value("kept", Json()));
            if (best && !search.kept.empty())
                if (Result<CompressionPlan> better = best->withKept(shape, layer, search.kept); better.ok())
                    best = std::move(better).value();
        }
    } else if (stage == "receptive-field" && partial.contains("moe_layers")) {
        SearchBlock block;
        block.layers = integersOf(partial["moe_layers"]);
        for (const Json& trial : partial.value("trials", Json::array()))
            if (const auto loss = trial.is_object() ? numberOf(trial, "loss") : std::nullopt) block.trials.push_back(*loss);
        const Json chosen = partial.value("best", Json::object());
        block.choice = integersOf(chosen.is_object() ? chosen.value("choice", Json()) : Json());
        block.best = (chosen.is_object() ? numberOf(chosen, "loss") : std::nullopt).value_or(std::nan(""));
        blocks.push_back(std::move(block));
    }
}

Json viewJson(const SearchState& search)
{
    if (search.running() || search.phase == SearchState::Phase::None || search.measured.empty()) return nullptr;
    Json measured = Json::array();
    for (const MeasuredPlan& plan : search.measured)
        measured.push_back({{"name", plan.name.toStdString()},
                            {"nll", plan.nll},
                            {"change", plan.change},
                            {"error", plan.error},
                            {"rise", plan.rise ? Json(*plan.rise) : Json()},
                            {"passes", plan.passes ? Json(*plan.passes) : Json()},
                            {"windows", plan.windows},
                            {"accepted", plan.accepted}});
    Json alone = Json::array();
    for (const auto& [layer, rise] : search.alone)
        alone.push_back({{"layer", layer}, {"alone", rise}});
    return {{"title", search.title.toStdString()},
            {"name", search.name.toStdString()},
            {"recipe", viewJson(search.recipe)},
            {"measured", std::move(measured)},
            {"alone", std::move(alone)},
            {"finished", search.phase == SearchState::Phase::Finished},
            {"ended", search.ended.toSecsSinceEpoch()},
            {"seconds", search.seconds}};
}

SearchState searchFromViewJson(const Json& view, const ModelShape& shape)
{
    SearchState search;
    if (!view.is_object()) return search;
    search.shape = shape;
    search.base = CompressionPlan::identity(shape);
    search.recipe = recipeFromViewJson(view.value("recipe", Json()), {});
    for (const char* list : {"alone", "measured"})
        for (Json item : view.value(list, Json::array()))
            if (item.is_object()) {
                item["stage"] = "allocate";
                search.take(item);
            }
    if (search.measured.empty()) return {};
    search.measures = true;
    const auto text = [&](const char* key) {
        const Json value = view.value(key, Json());
        return value.is_string() ? QString::fromStdString(value.get<std::string>()) : QString();
    };
    search.title = text("title");
    search.name = text("name");
    search.phase = view.value("finished", Json()) == Json(false) ? SearchState::Phase::Cancelled : SearchState::Phase::Finished;
    search.ended = QDateTime::fromSecsSinceEpoch(static_cast<qint64>(numberOf(view, "ended").value_or(0)));
    search.seconds = numberOf(view, "seconds").value_or(0);
    return search;
}

}  // namespace espalier
