// Selection by ranking: the m best experts of each layer by one score.
#include "allocate/allocator.h"
#include "allocate/layer_allocator.h"
#include "plan/plan_edit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace espalier
{

const std::vector<MethodInfo>& selectors()
{
    static const std::vector<MethodInfo> methods = [] {
        MethodInfo ranking;
        ranking.id = "ranking";
        ranking.title = "Ranking";
        ranking.slot = Slot::Select;
        ranking.help = "Keeps the experts with the best score in each layer.";
        ranking.source = "The order of the scores; each names its own paper";
        return std::vector<MethodInfo>{ranking};
    }();
    return methods;
}

std::vector<int> keepOrder(const ExpertSet& pinned, const std::vector<double>& scores, Better better)
{
    const auto rankValue = [&](int expert) {
        const double v = scores[static_cast<std::size_t>(expert)];
        if (std::isnan(v)) return -HUGE_VAL;
        return better == Better::Higher ? v : -v;
    };
    std::vector<int> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
        const bool pinnedA = std::binary_search(pinned.begin(), pinned.end(), a);
        const bool pinnedB = std::binary_search(pinned.begin(), pinned.end(), b);
        if (pinnedA != pinnedB) return pinnedA;
        return rankValue(a) > rankValue(b);
    });
    return order;
}

Result<ExpertSet> rankedExperts(const LayerShape& layer, const ExpertSet& pinned, int count, const ExpertScores& scores)
{
    const auto l = static_cast<std::size_t>(layer.index);
    if (l >= scores.values.rows.size() || static_cast<int>(scores.values.rows[l].size()) != layer.experts)
        return badInput(
            "score.shape", fmt::format("layer {}", layer.index),
            {"The scores have no values for the {experts} experts of layer {layer}.", {{"experts", layer.experts}, {"layer", layer.index}}},
            "Use scores of this model's profile.");
    const int groups = std::max(1, layer.router.groups);
    // Group-limited routers need the same number of survivors in every group.
    const int perGroup = count / groups;
    std::vector<int> taken(static_cast<std::size_t>(groups), 0);
    ExpertSet kept;
    for (const int expert : keepOrder(pinned, scores.values.rows[l], scores.better)) {
        int& inGroup = taken[static_cast<std::size_t>(expert / (layer.experts / groups))];
        if (inGroup >= perGroup) continue;
        kept.push_back(expert);
        ++inGroup;
    }
    std::sort(kept.begin(), kept.end());
    return kept;
}

Result<CompressionPlan> selectByRanking(const ModelShape& shape, const CompressionPlan& plan, const std::vector<int>& keep,
                                        const ExpertScores& scores, std::optional<ConstantKind> dropped)
{
    CompressionPlan selected = plan;
    for (const LayerShape& layer : shape.layers) {
        const auto l = static_cast<std::size_t>(layer.index);
        if (!layer.moe || plan.isFixed(layer.index) || l >= keep.size()) continue;
        ESPALIER_TRY(ExpertSet kept, rankedExperts(layer, plan.protectedExperts(layer.index), keep[l], scores));
        if (dropped) {
            ESPALIER_TRY(selected, withKeptAnd(shape, selected, layer.index, kept, dropped));
        } else {
            ESPALIER_TRY(selected, selected.withKept(shape, layer.index, kept));
        }
    }
    return selected;
}

}  // namespace espalier
