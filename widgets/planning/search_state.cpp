#include "planning/search_state.h"

#include "rpc/search_record.h"

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

QString shownName(const std::string& name) { return QString::fromStdString(name).replace(QStringLiteral("->"), QStringLiteral("→")); }

// A loss that is known.
std::optional<double> lossOf(double value) { return std::isfinite(value) ? std::optional(value) : std::nullopt; }

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

void SearchState::take(const PlanEvent& event)
{
    stage = event.stage;
    std::visit([this](const auto& what) { take(what); }, event.what);
}

void SearchState::takePlan(const Json& plan)
{
    Result<CompressionPlan> parsed = planFromJson(plan, shape);
    if (!parsed.ok()) return;
    best = std::move(parsed).value();
    planReachesTarget = stage == "rank" || stage == "finals" || stage == "recover" || !recipe.ranks;
}

void SearchState::take(const PlanFound& found)
{
    takePlan(found.plan);
    // Counts anew: what was searched for other counts says nothing about these.
    if (stage == "select") layers.clear();
}

void SearchState::take(const CurveKnown& known)
{
    if (knows(known.layer)) ++curves;
}

void SearchState::take(const LayerAlone& layer)
{
    if (knows(layer.layer)) alone[layer.layer] = layer.alone;
}

void SearchState::take(const PlanMeasured& plan)
{
    if (plan.plan) takePlan(*plan.plan);
    const PlanSearchStep& step = plan.step;
    measured.push_back({.name = shownName(step.name),
                        .nll = step.nll,
                        .change = step.change,
                        .error = step.changeError,
                        .rise = lossOf(step.rise),
                        .passes = lossOf(step.passes),
                        .windows = step.windows,
                        .accepted = step.accepted});
}

void SearchState::take(const LayerSearching& layer)
{
    if (!knows(layer.layer)) return;
    LayerSearch& search = layers[layer.layer];
    currentLayer = layer.layer;
    search.best = lossOf(layer.bestLoss);
    if (layer.referenceLoss) search.reference = layer.referenceLoss;
    if (!layer.trace.empty()) search.trace = layer.trace;
    search.enumerated = layer.enumerated;
    search.generation = static_cast<int>(layer.generation);
}

void SearchState::take(const LayerSearched& layer)
{
    if (!knows(layer.layer)) return;
    LayerSearch& search = layers[layer.layer];
    currentLayer = layer.layer;
    search.best = lossOf(layer.bestLoss);
    if (layer.referenceLoss) search.reference = layer.referenceLoss;
    search.outputNorm = lossOf(layer.outputNorm);
    if (!layer.trace.empty()) search.trace = layer.trace;
    search.evaluated = layer.evaluated;
    search.finished = true;
    search.kept = layer.kept;
    if (best && !search.kept.empty())
        if (Result<CompressionPlan> better = best->withKept(shape, layer.layer, search.kept); better.ok()) best = std::move(better).value();
}

void SearchState::take(const BlockChosen& chosen)
{
    takePlan(chosen.plan);
    SearchBlock block;
    block.layers = chosen.block.moeLayers;
    for (const BlockTrial& trial : chosen.block.trials)
        if (std::isfinite(trial.loss)) block.trials.push_back(trial.loss);
    block.choice = chosen.block.best.choice;
    block.best = chosen.block.best.loss;
    blocks.push_back(std::move(block));
}

void SearchState::take(const FinalistRecovered& finalist)
{
    if (finalist.plan) takePlan(*finalist.plan);
    finalists.push_back(finalist);
    finalists.back().name = shownName(finalist.name).toStdString();
}

Json viewJson(const SearchState& search)
{
    if (search.running() || search.phase == SearchState::Phase::None || search.measured.empty()) return nullptr;
    SearchRecord record{.title = search.title.toStdString(),
                        .name = search.name.toStdString(),
                        .recipe = viewJson(search.recipe),
                        .measured = {},
                        .alone = {},
                        .finished = search.phase == SearchState::Phase::Finished,
                        .ended = search.ended.toSecsSinceEpoch(),
                        .seconds = search.seconds};
    for (const MeasuredPlan& plan : search.measured)
        record.measured.push_back(
            {plan.name.toStdString(), plan.nll, plan.change, plan.error, plan.rise, plan.passes, plan.windows, plan.accepted});
    for (const auto& [layer, rise] : search.alone)
        record.alone.push_back({layer, rise});
    return toJson(record);
}

SearchState searchFromViewJson(const Json& view, const ModelShape& shape)
{
    SearchState search;
    const std::optional<SearchRecord> record = searchRecordFromJson(view);
    if (!record || record->measured.empty()) return search;
    search.shape = shape;
    search.base = CompressionPlan::identity(shape);
    search.recipe = recipeFromViewJson(record->recipe, {});
    search.stage = "allocate";
    for (const LayerAlone& layer : record->alone)
        if (layer.layer < static_cast<int>(shape.layers.size())) search.alone[layer.layer] = layer.alone;
    for (const MeasuredRecord& plan : record->measured)
        search.measured.push_back(
            {shownName(plan.name), plan.nll, plan.change, plan.error, plan.rise, plan.passes, plan.windows, plan.accepted});
    search.measures = true;
    search.title = QString::fromStdString(record->title);
    search.name = QString::fromStdString(record->name);
    search.phase = record->finished ? SearchState::Phase::Finished : SearchState::Phase::Cancelled;
    search.ended = QDateTime::fromSecsSinceEpoch(record->ended);
    search.seconds = record->seconds;
    return search;
}

}  // namespace espalier
