// Leave-one-out importance of MoE-I2 (arXiv 2411.01016, eq. 1): distance of the layer's output without the expert, from the Gram store.
#include "score/gram_loss.h"
#include "score/score_method.h"

namespace espalier
{

ScoreMethod leaveOneOutMethod()
{
    ScoreMethod method;
    method.info = {.id = "leave-one-out",
                   .title = "Leave-one-out importance",
                   .slot = Slot::Score,
                   .help =
                       "How far the layer's output moves when this expert alone is removed and the router chooses again. Misses "
                       "redundancy: two duplicates both look unimportant.",
                   .params = {{.key = "normalise",
                               .type = ParamType::Choice,
                               .defaultValue = "relative",
                               .choices = {"relative", "raw"},
                               .unit = "",
                               .help = "relative divides by the norm of the layer's output, so that layers can be compared."}},
                   .needs = {"gram"},
                   .source = "MoE-I2, arXiv 2411.01016"};
    method.unit = [](const Params& params) { return params.at("normalise") == "raw" ? "output norm" : "relative output error"; };
    method.row = [](const LayerProfile& layer, const RouterShape& router, const Params& params) {
        const GramEvaluator evaluator(layer, router);
        const double norm = params.at("normalise") == "raw" ? 1.0 : evaluator.outputNorm();
        std::vector<double> values;
        for (const GramLoss& loss : evaluator.leaveOneOut())
            values.push_back(norm > 0 ? loss.loss() / norm : 0.0);
        return values;
    };
    method.sumIsLayerImportance = true;
    return method;
}

}  // namespace espalier
