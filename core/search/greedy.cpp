// Backward elimination: one expert after the other, always the one that is missed least.
#include "search/layer_search.h"

namespace espalier
{

// Sets between two rounds do not exist for a grouped router. The joint choice is improved group by group until none changes.
void eliminateRound(LayerSearch& search, ExpertBits& kept, bool last)
{
    const std::vector<double> worth = search.leaveOneOutWorth();
    const auto& removable = search.removable();
    std::vector<int> out;
    for (const auto& group : removable) {
        int least = -1;
        for (const int e : group)
            if (kept.contains(e) && (least < 0 || worth[static_cast<std::size_t>(e)] < worth[static_cast<std::size_t>(least)])) least = e;
        out.push_back(least);
        kept.erase(least);
    }
    const auto lossOf = [&](const ExpertBits& set) { return last ? search.loss(set) : search.setLoss().evaluate(set).squared; };
    double best = lossOf(kept);
    for (bool changed = true; changed;) {
        changed = false;
        for (std::size_t group = 0; group < removable.size(); ++group) {
            for (const int e : removable[group]) {
                if (!kept.contains(e)) continue;
                const ExpertBits other = kept.with(out[group]).without(e);
                if (const double loss = lossOf(other); loss < best) {
                    best = loss;
                    kept = other;
                    out[group] = e;
                    changed = true;
                }
            }
            if (last && !search.endStep()) return;
        }
    }
}

void eliminate(LayerSearch& search)
{
    ExpertBits kept = ExpertBits::all(search.experts());
    if (search.removed() == 0) {
        search.loss(kept);
        return;
    }
    if (search.groups() > 1) {
        for (int i = search.removedPerGroup(); i > 0 && !search.stopped(); --i)
            eliminateRound(search, kept, i == 1);
        return;
    }
    LossState state(search.setLoss(), kept);
    for (int left = search.removed(); left > 0; --left) {
        const std::vector<double> losses = state.squaredWithoutEach();
        int least = -1;
        for (const int e : search.removable().front()) {
            if (!state.kept().contains(e)) continue;
            if (least < 0 || losses[static_cast<std::size_t>(e)] < losses[static_cast<std::size_t>(least)]) least = e;
            if (left == 1) search.consider(state.kept().without(e), losses[static_cast<std::size_t>(e)]);
        }
        if (left > 1) state.remove(least);
        if (!search.endStep()) return;
    }
}

SelectMethod greedyMethod()
{
    SelectMethod method;
    method.info = {.id = "greedy",
                   .title = "Greedy elimination",
                   .slot = Slot::Select,
                   .help = "Removes one expert after the other, always the one whose loss then is smallest.",
                   .params = {swapParameter()},
                   .needs = {"gram"},
                   .source = "Backward elimination by the exact layer loss (ours)"};
    method.run = [](LayerSearch& search, const Params& params) -> Status {
        eliminate(search);
        if (search.stopped()) return {};
        if (params.at("swap") == true) improveBySwaps(search, search.bestSet());
        return {};
    };
    return method;
}

}  // namespace espalier
