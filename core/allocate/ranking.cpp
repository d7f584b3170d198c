// Selection by ranking: the m best experts of each layer by one score.
#include "allocate/allocator.h"

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
        ranking.source = "methods.md 1.2";
        return std::vector<MethodInfo>{ranking};
    }();
    return methods;
}

Result<CompressionPlan> selectByRanking(const ModelShape& shape, const CompressionPlan& plan, const std::vector<int>& keep,
                                        const ExpertScores& scores)
{
    CompressionPlan selected = plan;
    for (const LayerShape& layer : shape.layers) {
        const auto l = static_cast<std::size_t>(layer.index);
        if (!layer.moe || plan.layer(layer.index).locked || l >= keep.size()) continue;
        if (l >= scores.values.rows.size() || static_cast<int>(scores.values.rows[l].size()) != layer.experts)
            return badInput("score.shape", fmt::format("layer {}", layer.index),
                            fmt::format("The scores have no values for the {} experts of layer {}.", layer.experts, layer.index),
                            "Use scores of this model's profile.");
        const std::vector<double>& value = scores.values.rows[l];
        const ExpertSet& pinned = plan.layer(layer.index).protectedExperts;
        const auto rankValue = [&](int expert) {
            const double v = value[static_cast<std::size_t>(expert)];
            if (std::isnan(v)) return -HUGE_VAL;
            return scores.better == Better::Higher ? v : -v;
        };
        std::vector<int> order(static_cast<std::size_t>(layer.experts));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
            const bool pinnedA = std::binary_search(pinned.begin(), pinned.end(), a);
            const bool pinnedB = std::binary_search(pinned.begin(), pinned.end(), b);
            if (pinnedA != pinnedB) return pinnedA;
            return rankValue(a) > rankValue(b);
        });
        ExpertSet kept;
        const int groups = std::max(1, layer.router.groups);
        // Group-limited routers need the same number of survivors in every group.
        const int perGroup = keep[l] / groups;
        std::vector<int> taken(static_cast<std::size_t>(groups), 0);
        for (const int expert : order) {
            if (groups == 1) {
                if (static_cast<int>(kept.size()) < keep[l]) kept.push_back(expert);
            } else if (int& count = taken[static_cast<std::size_t>(expert / (layer.experts / groups))]; count < perGroup) {
                kept.push_back(expert);
                ++count;
            }
        }
        std::sort(kept.begin(), kept.end());
        ESPALIER_TRY(selected, selected.withKept(shape, layer.index, std::move(kept)));
    }
    return selected;
}

}  // namespace espalier
