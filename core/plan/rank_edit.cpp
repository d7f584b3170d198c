#include "plan/rank_edit.h"

#include "plan/cost_model.h"

#include <fmt/format.h>

#include <algorithm>

namespace espalier
{

namespace
{

const LayerShape* moeLayer(const ModelShape& shape, int layer)
{
    if (layer < 0 || layer >= static_cast<int>(shape.layers.size())) return nullptr;
    const LayerShape& found = shape.layers[static_cast<std::size_t>(layer)];
    return found.experts > 0 ? &found : nullptr;
}

Error noExperts(int layer)
{
    return badInput("plan.unknown_layer", fmt::format("layer {}", layer), {"Layer {layer} has no experts.", {{"layer", layer}}});
}

std::vector<RankTriple> rankList(const LayerPlan& layer)
{
    return layer.ranks().empty() ? std::vector<RankTriple>(layer.kept().size(), RankTriple{}) : layer.ranks();
}

int levelOfTriple(const RankTriple& ranks, int dense)
{
    if (ranks == RankTriple{}) return dense;
    int sum = 0;
    for (const int rank : ranks)
        sum += rank > 0 ? rank : dense;
    // Something of it is factored: it is not dense.
    return std::min((sum + 1) / 3, dense - 1);
}

Result<CompressionPlan> withList(const ModelShape& shape, const CompressionPlan& plan, int layer, const std::vector<RankTriple>& ranks,
                                 const FactorSettings& factors)
{
    ESPALIER_TRY(const CompressionPlan next, plan.withRanks(shape, layer, ranks));
    if (!next.hasRanks()) return next.withFactors({});
    // One plan has one kind of factors: those it has stay.
    return plan.hasRanks() && !plan.factors().method.empty() ? next : next.withFactors(factors);
}

}  // namespace

int breakEvenOf(const ModelShape& shape, int layer)
{
    const LayerShape* found = moeLayer(shape, layer);
    return found ? breakEvenRank(shape.hiddenSize, found->expertWidth) : 0;
}

int fullRankOf(const ModelShape& shape, int layer)
{
    const LayerShape* found = moeLayer(shape, layer);
    return found ? std::min(shape.hiddenSize, found->expertWidth) : 0;
}

int denseLevel(const ModelShape& shape, int layer) { return breakEvenOf(shape, layer) + 1; }

int rankOfLevel(const ModelShape& shape, int layer, int level) { return level >= denseLevel(shape, layer) ? 0 : std::max(1, level); }

int rankStep(int breakEven, bool coarse)
{
    int step = 1;
    while (step * 2 <= breakEven / 64)
        step *= 2;
    return coarse ? 5 * step : step;
}

RankTriple ranksOf(const CompressionPlan& plan, int layer, int expert) { return plan.layer(layer).ranksOf(expert); }

int levelOf(const ModelShape& shape, const CompressionPlan& plan, int layer, int expert)
{
    return plan.keeps(layer, expert) ? levelOfTriple(ranksOf(plan, layer, expert), denseLevel(shape, layer)) : 0;
}

int meanLevelOf(const ModelShape& shape, const CompressionPlan& plan, int layer)
{
    const LayerPlan& of = plan.layer(layer);
    const int dense = denseLevel(shape, layer);
    if (of.ranks().empty() || of.kept().empty()) return dense;
    std::int64_t sum = 0;
    for (const RankTriple& ranks : of.ranks())
        sum += levelOfTriple(ranks, dense);
    const auto count = static_cast<std::int64_t>(of.ranks().size());
    if (sum == count * dense) return dense;
    return std::min(static_cast<int>((sum + count / 2) / count), dense - 1);
}

std::int64_t expertBytes(const ModelShape& shape, const CompressionPlan& plan, int layer, int expert)
{
    const LayerShape* found = moeLayer(shape, layer);
    if (!found || !plan.keeps(layer, expert)) return 0;
    return bodyBytes(*found, shape.hiddenSize, *plan.layer(layer).bodyOf(expert));
}

Result<CompressionPlan> withExpertRank(const ModelShape& shape, const CompressionPlan& plan, int layer, int expert, int rank,
                                       const FactorSettings& factors)
{
    if (!moeLayer(shape, layer)) return noExperts(layer);
    const LayerPlan& of = plan.layer(layer);
    const auto at = std::lower_bound(of.kept().begin(), of.kept().end(), expert);
    if (at == of.kept().end() || *at != expert)
        return badInput("plan.rank_of_dropped", fmt::format("layer {}", layer),
                        {"Expert {expert} of layer {layer} is dropped and has no rank.", {{"expert", expert}, {"layer", layer}}},
                        "Keep it first.");
    std::vector<RankTriple> ranks = rankList(of);
    const int taken = rank == 0 ? 0 : rankOfLevel(shape, layer, rank);
    ranks[static_cast<std::size_t>(at - of.kept().begin())] = {taken, taken, taken};
    return withList(shape, plan, layer, ranks, factors);
}

Result<CompressionPlan> withMeanLevel(const ModelShape& shape, const CompressionPlan& plan, int layer, int meanLevel,
                                      const FactorSettings& factors)
{
    if (!moeLayer(shape, layer)) return noExperts(layer);
    const LayerPlan& of = plan.layer(layer);
    const int dense = denseLevel(shape, layer);
    meanLevel = std::clamp(meanLevel, 1, dense);
    std::vector<RankTriple> ranks = rankList(of);
    if (meanLevel == meanLevelOf(shape, plan, layer)) return plan;
    std::vector<int> levels;
    levels.reserve(ranks.size());
    for (const RankTriple& triple : ranks)
        levels.push_back(levelOfTriple(triple, dense));
    const auto shifted = [&](int by) {
        std::int64_t sum = 0;
        for (const int level : levels)
            sum += std::clamp(level + by, 1, dense);
        return sum;
    };
    const std::int64_t wanted = static_cast<std::int64_t>(meanLevel) * static_cast<std::int64_t>(levels.size());
    // The largest common shift that stays at or below the mean; the rest goes one by one to the first that can take it.
    int low = -dense;
    int high = dense;
    while (low < high) {
        const int middle = low + (high - low + 1) / 2;
        if (shifted(middle) <= wanted)
            low = middle;
        else
            high = middle - 1;
    }
    std::int64_t rest = wanted - shifted(low);
    for (std::size_t i = 0; i < levels.size(); ++i) {
        int level = std::clamp(levels[i] + low, 1, dense);
        if (rest > 0 && std::clamp(levels[i] + low + 1, 1, dense) > level) {
            ++level;
            --rest;
        }
        const int rank = rankOfLevel(shape, layer, level);
        ranks[i] = {rank, rank, rank};
    }
    return withList(shape, plan, layer, ranks, factors);
}

CompressionPlan withoutRanks(const ModelShape& shape, const CompressionPlan& plan)
{
    CompressionPlan next = plan;
    for (const LayerShape& layer : shape.layers) {
        if (plan.layer(layer.index).ranks().empty()) continue;
        // Dense is always valid.
        if (Result<CompressionPlan> dense = next.withRanks(shape, layer.index, {}); dense.ok()) next = std::move(dense).value();
    }
    return next.withFactors({});
}

}  // namespace espalier
