// Scores from the norms of expert outputs (arXiv 2606.15716): EAN, MAN, MSAN, and the largest activation.
#include "score/score_method.h"

namespace espalier
{

ScoreMethod eanSumMethod()
{
    ScoreMethod method;
    method.info = {.id = "ean_sum",
                   .title = "Expert activation norm, sum",
                   .slot = Slot::Score,
                   .help = "Sum of the norms of the expert's outputs over its tokens: frequency times strength.",
                   .params = {},
                   .needs = {"ean"},
                   .source = "EAN, arXiv 2606.15716"};
    method.unit = [](const Params&) { return "output norm"; };
    method.row = [](const LayerProfile& layer, const RouterShape&, const Params&) { return layer.norm; };
    return method;
}

ScoreMethod eanMeanMethod()
{
    ScoreMethod method;
    method.info = {.id = "ean_mean",
                   .title = "Expert activation norm, mean",
                   .slot = Slot::Score,
                   .help = "Mean norm of the expert's outputs over its tokens: strength alone.",
                   .params = {},
                   .needs = {"ean"},
                   .source = "MAN, arXiv 2606.15716"};
    method.unit = [](const Params&) { return "output norm per token"; };
    method.row = [](const LayerProfile& layer, const RouterShape&, const Params&) { return meanPerToken(layer.norm, layer.count); };
    return method;
}

ScoreMethod msanMethod()
{
    ScoreMethod method;
    method.info = {.id = "msan",
                   .title = "Mean squared activation norm",
                   .slot = Slot::Score,
                   .help = "Mean squared norm of the expert's outputs over its tokens.",
                   .params = {},
                   .needs = {"ean"},
                   .source = "MSAN, arXiv 2606.15716"};
    method.unit = [](const Params&) { return "squared output norm per token"; };
    method.row = [](const LayerProfile& layer, const RouterShape&, const Params&) { return meanPerToken(layer.normSquared, layer.count); };
    return method;
}

ScoreMethod maxActivationMethod()
{
    ScoreMethod method;
    method.info = {.id = "max_activation",
                   .title = "Largest activation",
                   .slot = Slot::Score,
                   .help = "Largest component, in magnitude, of any output of the expert: finds experts with massive activations.",
                   .params = {},
                   .needs = {"ean"},
                   .source = "REAP reference, super-expert guard, arXiv 2510.13999"};
    method.unit = [](const Params&) { return "activation"; };
    method.row = [](const LayerProfile& layer, const RouterShape&, const Params&) { return layer.maxActivation; };
    return method;
}

}  // namespace espalier
