// CAMERA (arXiv 2508.02322): every intermediate channel of an expert is a micro-expert of its own, a row of gate and up and a column of
// down. Its energy over the tokens routed to the expert is
//
//   E_c = ||W_down[:,c]||^2 ((1 - a) sum_t (w_te h_tc)^2 + a max_t (w_te h_tc)^2),
//
// h_tc = act(W_gate x_t)_c (W_up x_t)_c, w_te the routing weight as the model applies it (the released code renormalises by model type,
// also where the model does not). With a = 0 it is exactly the squared error in the layer's output when this channel alone goes. Shared
// experts are not ranked here. An expert's score is the sum over its channels: the squared error of losing it if channels were orthogonal.
#include "score/expert_matrices.h"
#include "score/score_method.h"

#include <fmt/format.h>

#include <cstddef>

namespace espalier
{

ScoreMethod cameraMethod()
{
    ScoreMethod method;
    method.info = {.id = "camera",
                   .title = "CAMERA",
                   .slot = Slot::Score,
                   .help = "Energy that the expert's channels add to the layer's output, channel by channel. Reads the model too.",
                   .params = {{.key = "peak",
                               .type = ParamType::Number,
                               .defaultValue = 0.9,
                               .low = 0,
                               .high = 1,
                               .choices = {},
                               .unit = "",
                               .help = "Share of the largest token in a channel's energy; the rest is the sum over all tokens."}},
                   .needs = {"channels", "weights"},
                   .source = "CAMERA, arXiv 2508.02322"};
    method.unit = [](const Params&) { return "energy of the channels"; };
    method.channels = [](const ScoreInput& input) -> Result<std::vector<std::vector<double>>> {
        const double peak = input.params.at("peak").get<double>();
        const ChannelSums& sums = input.profile->channels;
        const auto width = static_cast<std::size_t>(sums.width);
        std::vector<std::vector<double>> values;
        for (int expert = 0; expert < input.shape.experts; ++expert) {
            ESPALIER_TRY(const std::vector<float> down, input.weights->matrix(input.shape.index, expert, 2));
            std::vector<double> squared(width, 0.0);
            if (down.size() % width != 0)
                return badInput("profile.other_model", fmt::format("layer {}", input.shape.index),
                                {"The profile has {width} channels per expert in layer {layer}, and the model's down projection does not.",
                                 {{"width", std::to_string(width)}, {"layer", std::to_string(input.shape.index)}}},
                                "Name the model the profile was taken of.");
            for (std::size_t i = 0; i < down.size(); ++i)
                squared[i % width] += static_cast<double>(down[i]) * down[i];
            const std::size_t offset = static_cast<std::size_t>(expert) * width;
            for (std::size_t c = 0; c < width; ++c)
                squared[c] *= (1 - peak) * sums.energy[offset + c] + peak * sums.peak[offset + c];
            values.push_back(std::move(squared));
        }
        return values;
    };
    return method;
}

}  // namespace espalier
