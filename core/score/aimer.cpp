// AIMER (arXiv 2603.18492): how peaked an expert's weights are, without a text. The paper's number is mean |w| / rms(w) over gate, up and
// down together, and the experts with the highest go first: flat weights carry least. Here it is the inverse,
//
//   score_e = rms(w) / mean |w|,
//
// so that more is better as everywhere: at least 1, sqrt(pi / 2) = 1.2533 for Gaussian weights, unchanged by scale, sign and order. An
// expert whose weights are all zero scores 0: the first to go.
#include "score/expert_matrices.h"
#include "score/score_method.h"

#include <cmath>
#include <cstddef>

namespace espalier
{

ScoreMethod aimerMethod()
{
    ScoreMethod method;
    method.info = {.id = "aimer",
                   .title = "AIMER",
                   .slot = Slot::Score,
                   .help = "How peaked the expert's weights are: root mean square over mean absolute value. Reads the model, not the text.",
                   .params = {},
                   .needs = {"weights"},
                   .source = "AIMER, arXiv 2603.18492"};
    method.unit = [](const Params&) { return "rms over mean of the weights"; };
    method.experts = [](const ScoreInput& input) -> Result<std::vector<double>> {
        std::vector<double> values;
        for (int expert = 0; expert < input.shape.experts; ++expert) {
            double absolute = 0;
            double squared = 0;
            std::size_t count = 0;
            for (int matrix = 0; matrix < 3; ++matrix) {
                ESPALIER_TRY(const std::vector<float> w, input.weights->matrix(input.shape.index, expert, matrix));
                for (const float value : w) {
                    absolute += std::abs(static_cast<double>(value));
                    squared += static_cast<double>(value) * value;
                }
                count += w.size();
            }
            values.push_back(absolute > 0 ? std::sqrt(squared * static_cast<double>(count)) / absolute : 0.0);
        }
        return values;
    };
    return method;
}

}  // namespace espalier
