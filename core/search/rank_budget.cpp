#include "search/rank_budget.h"

#include "plan/cost_model.h"

#include <algorithm>
#include <cmath>
#include <queue>
#include <tuple>

namespace espalier
{

namespace
{

// One factored matrix that may give back rank.
struct Open {
    int layer = 0;
    std::size_t place = 0;  // among the layer's kept experts
    int expert = 0;
    int matrix = 0;
    int rank = 0;
    int lowered = 0;  // its rank afterwards
};

std::vector<Open> openMatrices(const CompressionPlan& plan)
{
    std::vector<Open> list;
    for (int l = 0; l < plan.layerCount(); ++l) {
        const LayerPlan& layer = plan.layer(l);
        if (plan.isFixed(l)) continue;
        for (std::size_t i = 0; i < layer.ranks().size(); ++i)
            for (int m = 0; m < 3; ++m)
                if (const int rank = layer.ranks()[i][static_cast<std::size_t>(m)]; rank > 1)
                    list.push_back({l, i, layer.kept()[i], m, rank, rank});
    }
    return list;
}

// All matrices fall by one share, the rest by largest remainder, ties to the lower layer and expert. False: they do not have so much.
bool lowerEvenly(std::vector<Open>& open, std::int64_t units)
{
    std::int64_t spare = 0;
    for (const Open& matrix : open)
        spare += matrix.rank - 1;
    if (units > spare) return false;
    std::vector<std::pair<double, std::size_t>> remainders;
    std::int64_t left = units;
    for (std::size_t i = 0; i < open.size(); ++i) {
        const double share = static_cast<double>(units) * (open[i].rank - 1) / static_cast<double>(spare);
        const auto whole = static_cast<int>(std::floor(share));
        open[i].lowered = open[i].rank - whole;
        left -= whole;
        remainders.emplace_back(whole - share, i);
    }
    std::sort(remainders.begin(), remainders.end());
    for (std::size_t i = 0; left > 0; i = (i + 1) % remainders.size()) {
        Open& matrix = open[remainders[i].second];
        if (matrix.lowered <= 1) continue;
        --matrix.lowered;
        --left;
    }
    return true;
}

bool lowerLeastValuable(std::vector<Open>& open, std::int64_t units, const RankValue& value)
{
    using Item = std::tuple<double, std::size_t>;
    std::priority_queue<Item, std::vector<Item>, std::greater<>> least;
    const auto offer = [&](std::size_t i) {
        const Open& matrix = open[i];
        if (matrix.lowered > 1) least.emplace(value(matrix.layer, matrix.expert, matrix.matrix, matrix.lowered), i);
    };
    for (std::size_t i = 0; i < open.size(); ++i)
        offer(i);
    for (; units > 0; --units) {
        if (least.empty()) return false;
        const std::size_t i = std::get<1>(least.top());
        least.pop();
        --open[i].lowered;
        offer(i);
    }
    return true;
}

Result<CompressionPlan> lowered(const ModelShape& shape, CompressionPlan plan, const std::vector<Open>& open)
{
    for (std::size_t i = 0; i < open.size();) {
        const int layer = open[i].layer;
        std::vector<RankTriple> ranks = plan.layer(layer).ranks();
        for (; i < open.size() && open[i].layer == layer; ++i)
            ranks[open[i].place][static_cast<std::size_t>(open[i].matrix)] = open[i].lowered;
        ESPALIER_TRY(plan, plan.withRanks(shape, layer, ranks));
    }
    return plan;
}

// Bytes of one rank unit, at least: layers may differ, and what is rounded down is found out by costing the plan.
std::int64_t largestUnit(const ModelShape& shape, const std::vector<Open>& open)
{
    std::int64_t most = 1;
    for (const Open& matrix : open) {
        const LayerShape& layer = shape.layers[static_cast<std::size_t>(matrix.layer)];
        if (layer.expertParameters > 0)
            most = std::max(most, (shape.hiddenSize + layer.expertWidth) * layer.bytesPerExpert / layer.expertParameters);
    }
    return most;
}

}  // namespace

bool lessRank(const RankTriple& a, const RankTriple& b)
{
    const auto key = [](const RankTriple& ranks) {
        return std::pair(std::count(ranks.begin(), ranks.end(), 0), ranks[0] + ranks[1] + ranks[2]);
    };
    return key(a) < key(b);
}

RankTriple rankOf(const LayerPlan& layer, int expert)
{
    const auto it = std::lower_bound(layer.kept().begin(), layer.kept().end(), expert);
    if (layer.ranks().empty() || it == layer.kept().end() || *it != expert) return {};
    return layer.ranks()[static_cast<std::size_t>(it - layer.kept().begin())];
}

Result<CompressionPlan> withSetsHandingRanksOn(const ModelShape& shape, const CompressionPlan& base, const std::vector<ExpertSet>& sets)
{
    const auto setOf = [&](int layer) -> const ExpertSet& {
        const auto l = static_cast<std::size_t>(layer);
        const bool changes = l < sets.size() && !sets[l].empty() && !base.isFixed(layer);
        return changes ? sets[l] : base.layer(layer).kept();
    };
    struct Entering {
        int layer;
        int expert;
        RankTriple ranks;
    };
    std::vector<Entering> waiting;
    std::vector<RankTriple> pool, all;
    std::vector<std::vector<Entering>> entered(static_cast<std::size_t>(base.layerCount()));
    for (int l = 0; l < base.layerCount(); ++l) {
        const LayerPlan& layer = base.layer(l);
        const ExpertSet& kept = setOf(l);
        std::vector<RankTriple> leaving;
        for (const int expert : layer.kept()) {
            all.push_back(rankOf(layer, expert));
            if (!std::binary_search(kept.begin(), kept.end(), expert)) leaving.push_back(all.back());
        }
        std::stable_sort(leaving.begin(), leaving.end(), lessRank);
        for (const int expert : kept) {
            if (std::binary_search(layer.kept().begin(), layer.kept().end(), expert)) continue;
            if (leaving.empty()) {
                waiting.push_back({l, expert, {}});
                continue;
            }
            entered[static_cast<std::size_t>(l)].push_back({l, expert, leaving.back()});
            leaving.pop_back();
        }
        pool.insert(pool.end(), leaving.begin(), leaving.end());
    }
    std::stable_sort(pool.begin(), pool.end(), lessRank);
    std::stable_sort(all.begin(), all.end(), lessRank);
    for (Entering& expert : waiting) {
        expert.ranks = all.empty() ? RankTriple{} : all[all.size() / 2];
        if (!pool.empty()) {
            expert.ranks = pool.back();
            pool.pop_back();
        }
        entered[static_cast<std::size_t>(expert.layer)].push_back(expert);
    }
    CompressionPlan plan = base;
    for (int l = 0; l < base.layerCount(); ++l) {
        const ExpertSet& kept = setOf(l);
        if (kept == base.layer(l).kept()) continue;
        ESPALIER_TRY(plan, plan.withKept(shape, l, kept));
        if (!base.hasRanks()) continue;
        std::vector<RankTriple> ranks;
        for (const int expert : kept) {
            const auto& list = entered[static_cast<std::size_t>(l)];
            const auto it = std::find_if(list.begin(), list.end(), [&](const Entering& e) { return e.expert == expert; });
            ranks.push_back(it != list.end() ? it->ranks : rankOf(base.layer(l), expert));
        }
        ESPALIER_TRY(plan, plan.withRanks(shape, l, ranks));
    }
    return plan;
}

Result<std::optional<HeldPlan>> heldToBytes(const ModelShape& shape, const CompressionPlan& plan, std::int64_t bytes,
                                            const RankValue& value)
{
    std::int64_t excess = planCost(shape, plan).bytes - bytes;
    HeldPlan held{plan, 0};
    while (excess > 0) {
        std::vector<Open> open = openMatrices(held.plan);
        const std::int64_t unit = largestUnit(shape, open);
        const std::int64_t units = (excess + unit - 1) / unit;
        if (!(value ? lowerLeastValuable(open, units, value) : lowerEvenly(open, units))) return std::optional<HeldPlan>();
        ESPALIER_TRY(held.plan, lowered(shape, held.plan, open));
        held.givenBack += units;
        excess = planCost(shape, held.plan).bytes - bytes;
    }
    return std::optional(std::move(held));
}

}  // namespace espalier
