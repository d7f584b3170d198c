// Swap improvement: first improvement until no exchange of two experts helps.
#include "search/layer_search.h"

#include <optional>

namespace espalier
{

ParamSpec swapParameter()
{
    return {.key = "swap",
            .type = ParamType::Switch,
            .defaultValue = false,
            .choices = {},
            .unit = "",
            .help = "Afterwards exchange a kept for a removed expert as long as that lowers the loss."};
}

ExpertBits improveBySwaps(LayerSearch& search, ExpertBits kept)
{
    double current = search.loss(kept);
    // Round robin over the experts that may go: the pass is over when none of them found a better partner since the last exchange.
    std::vector<int> order;
    for (const auto& group : search.removable())
        order.insert(order.end(), group.begin(), group.end());
    std::size_t since = 0;
    for (std::size_t at = 0; since < order.size(); at = (at + 1) % order.size()) {
        const int out = order[at];
        ++since;
        if (!kept.contains(out) || current == 0) continue;
        const auto& partners = search.removable()[static_cast<std::size_t>(search.groupOf(out))];
        const bool grouped = search.groups() > 1;
        // Without groups the state between the two halves of an exchange exists as long as top-k experts are left.
        const bool byDifference = !grouped && kept.count() > search.setLoss().topK();
        std::optional<LossState> between;
        if (byDifference) between.emplace(search.setLoss(), kept.without(out));
        for (const int in : partners) {
            if (kept.contains(in)) continue;
            const ExpertBits other = kept.without(out).with(in);
            if (byDifference) {
                const double squared = between->squaredWith(in);
                search.consider(other, squared);
                if (squared >= current) continue;
            }
            const double squared = search.loss(other);
            if (squared < current) {
                kept = other;
                current = squared;
                since = 0;
                break;
            }
        }
        if (since == 0 || since == order.size())
            if (!search.endStep()) return kept;
    }
    return kept;
}

}  // namespace espalier
