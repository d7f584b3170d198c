// MoNE, "mixture of novice experts" (arXiv 2507.00390): an expert whose place a constant can take, because it always answers much the same
// or hardly counts, scores low.
//
//   score_e = || sqrt(Var_t f_e(x_t)) ||_2  *  (1/T) sum_t w_te
//
// The variance is per component of the output, before weighting, over the tokens routed to the expert, about their plain mean v_e, which is
// the constant; the norm of its root is the root of E ||f_e - v_e||^2. w_te is 0 where the expert is not chosen, so the second factor is
// the routing weight per token of the text. The released code estimates the variance against a running mean that is one batch old, and
// divides by mixed numbers of tokens; these are the exact ones.
#include "score/score_method.h"

#include <cmath>

namespace espalier
{

ScoreMethod moneMethod()
{
    ScoreMethod method;
    method.info = {.id = "mone",
                   .title = "MoNE",
                   .slot = Slot::Score,
                   .help =
                       "Spread of the expert's output about its mean, times its routing weight per token: what a constant in its place "
                       "cannot give.",
                   .params = {weightsParameter("applied")},
                   .needs = {"counts", "outputs"},
                   .source = "MoNE, arXiv 2507.00390"};
    method.unit = [](const Params&) { return "weighted output spread per token"; };
    method.row = [](const LayerProfile& layer, const RouterShape&, const Params& params) {
        const std::vector<double>& mass = chosenWeights(params, layer.routedMassRaw, layer.routedMassRenormalised, layer.routedMassApplied);
        std::vector<double> values;
        values.reserve(static_cast<std::size_t>(layer.experts));
        for (int e = 0; e < layer.experts; ++e)
            values.push_back(layer.tokens > 0 ? std::sqrt(layer.outputs.variance(e, OutputWeight::Plain)) *
                                                    mass[static_cast<std::size_t>(e)] / static_cast<double>(layer.tokens)
                                              : 0.0);
        return values;
    };
    return method;
}

}  // namespace espalier
