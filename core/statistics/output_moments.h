// OutputMoments: mean and scatter of what each expert of a layer answers, over the tokens that the router sends to it. What a constant in
// an expert's place is made of, and how much is lost by it. A plain value; merges of disjoint texts are exact up to rounding.
//
// y = f_e(x_t) is the expert's output before weighting [H], w its routing weight as the model applies it. With the weight's power p:
//   mass = sum w^p,   mean v = sum w^p y / mass,   scatter = sum w^p ||y - v||^2,   variance = scatter / mass.
// p = 0 is the constant of MoNE (arXiv 2507.00390): the mean over routed tokens. p = 2 minimises sum ||w y - w v||^2, the squared error in
// the layer's output where one expert is replaced; p = 1 lies between. sqrt(variance) of p = 0 is ||sqrt(Var f_e)||_2, the norm over the
// components of their standard deviations.
//
// The scatter is kept about the mean and not as a sum of squares: where the mean is far from 0 nothing cancels, and an expert that always
// answers the same has a plain scatter of exactly 0.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

namespace espalier
{

// The weight of a token in the mean: 1, w, w^2.
enum class OutputWeight { Plain, Routing, RoutingSquared };
inline constexpr std::array<OutputWeight, 3> kOutputWeights = {OutputWeight::Plain, OutputWeight::Routing, OutputWeight::RoutingSquared};
std::string_view outputWeightName(OutputWeight weight);  // "plain", "routing", "routing_squared"

struct OutputMoments {
    struct Weighted {
        std::vector<double> mass;     // [n]
        std::vector<double> sum;      // [n][H] sum of w^p y
        std::vector<double> scatter;  // [n]

        bool operator==(const Weighted&) const = default;
    };
    int width = 0;                     // H; 0 = not collected
    std::array<Weighted, 3> byWeight;  // in the order of OutputWeight

    bool empty() const noexcept { return width == 0; }
    const Weighted& of(OutputWeight weight) const noexcept { return byWeight[static_cast<std::size_t>(weight)]; }

    // v_e [H]; zeros for an expert without tokens, or without weight.
    std::vector<double> mean(int expert, OutputWeight weight) const;
    // E ||y - v_e||^2; 0 for an expert without tokens, or without weight.
    double variance(int expert, OutputWeight weight) const;

    // Room for `experts` of `hiddenSize`, all zero.
    static OutputMoments zeros(int experts, int hiddenSize);
    // Of one expert: mass, sum [H] and scatter about its own mean of further tokens (Chan, Golub and LeVeque 1979).
    void add(int expert, OutputWeight weight, double mass, std::span<const double> sum, double scatter);
    // Of the same layer on other tokens.
    void add(const OutputMoments& part);

    bool operator==(const OutputMoments&) const = default;
};

}  // namespace espalier
