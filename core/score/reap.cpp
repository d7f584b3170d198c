// Router-weighted activation norms (arXiv 2510.13999): REAP is the mean over the expert's tokens, the weighted sum is beside it.
#include "score/score_method.h"

namespace espalier
{

ScoreMethod reapMethod()
{
    ScoreMethod method;
    method.info = {.id = "reap",
                   .title = "REAP",
                   .slot = Slot::Score,
                   .help = "Mean of routing weight times output norm over the expert's tokens: what it adds when it is chosen.",
                   .params = {weightsParameter("renormalised")},
                   .needs = {"reap"},
                   .source = "REAP, arXiv 2510.13999"};
    method.unit = [](const Params&) { return "weighted output norm per token"; };
    method.row = [](const LayerProfile& layer, const RouterShape&, const Params& params) {
        return meanPerToken(chosenWeights(params, layer.weightedNormRaw, layer.weightedNormRenormalised, layer.weightedNormApplied),
                            layer.count);
    };
    return method;
}

ScoreMethod weightedEanSumMethod()
{
    ScoreMethod method;
    method.info = {.id = "weighted_ean_sum",
                   .title = "Weighted activation norm, sum",
                   .slot = Slot::Score,
                   .help = "Sum of routing weight times output norm over the expert's tokens.",
                   .params = {weightsParameter("applied")},
                   .needs = {"reap"},
                   .source = "REAP, arXiv 2510.13999"};
    method.unit = [](const Params&) { return "weighted output norm"; };
    method.row = [](const LayerProfile& layer, const RouterShape&, const Params& params) {
        return chosenWeights(params, layer.weightedNormRaw, layer.weightedNormRenormalised, layer.weightedNormApplied);
    };
    return method;
}

}  // namespace espalier
