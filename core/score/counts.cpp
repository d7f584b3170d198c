// Heavy-hitters counting of SEER-MoE (arXiv 2404.05089): hard and soft counts of a router's choices.
#include "score/score_method.h"

namespace espalier
{

ScoreMethod expertFrequencyMethod()
{
    ScoreMethod method;
    method.info = {.id = "expert_frequency",
                   .title = "Expert frequency",
                   .slot = Slot::Score,
                   .help = "Share of the tokens for which the router chooses this expert. The baseline every other score has to beat.",
                   .params = {},
                   .needs = {"counts"},
                   .source = "SEER-MoE, arXiv 2404.05089"};
    method.unit = [](const Params&) { return "share of tokens"; };
    method.row = [](const LayerProfile& layer, const RouterShape&, const Params&) {
        std::vector<double> values;
        for (const std::int64_t count : layer.count)
            values.push_back(layer.tokens > 0 ? static_cast<double>(count) / static_cast<double>(layer.tokens) : 0.0);
        return values;
    };
    return method;
}

ScoreMethod softCountMethod()
{
    ScoreMethod method;
    method.info = {.id = "soft_count",
                   .title = "Soft count",
                   .slot = Slot::Score,
                   .help = "Sum of the router's probability for this expert over all tokens, chosen or not.",
                   .params = {},
                   .needs = {"counts"},
                   .source = "SEER-MoE, arXiv 2404.05089"};
    method.unit = [](const Params&) { return "tokens"; };
    method.row = [](const LayerProfile& layer, const RouterShape&, const Params&) { return layer.softMass; };
    return method;
}

ScoreMethod routedSoftCountMethod()
{
    ScoreMethod method;
    method.info = {.id = "routed_soft_count",
                   .title = "Routed soft count",
                   .slot = Slot::Score,
                   .help = "Sum of the routing weight over the tokens that choose this expert.",
                   .params = {weightsParameter("raw")},
                   .needs = {"counts"},
                   .source = "SEER-MoE, arXiv 2404.05089"};
    method.unit = [](const Params&) { return "tokens"; };
    method.row = [](const LayerProfile& layer, const RouterShape&, const Params& params) {
        return chosenWeights(params, layer.routedMassRaw, layer.routedMassRenormalised, layer.routedMassApplied);
    };
    return method;
}

}  // namespace espalier
