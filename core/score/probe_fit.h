// From what a plan does to the layers to the change of NLL it causes, fitted to a few plans that were measured (probes). An estimate with
// an interval, never a measurement.
//
// A Taylor expansion at the dense model is several times too small for whole experts, which are no small steps, but the order it gives
// and the size of the error in the layer's output carry the rest. For the layers l that a plan changes:
//     t_l   = exp(a_l) (R_l^h C_l^(1-h))^g + exp(b_l) K_l^k
//     dNLL  = (sum_l t_l^p)^(1/p) + s sum_l E_l
// R: squared error of the layer's output for the experts left out, relative to the output's square; C: half the summed squared slopes
// (the Fisher matrix in place of the Hessian); K: relative squared error of the ranks; E: first order. a_l, the layer's weight, is free
// about a common mean, b_l stays near it, the exponents near 1, h and s near a half: a maximum a posteriori fit, by Levenberg-Marquardt,
// of asinh(dNLL / 2 tau), which is a logarithm above the noise tau of the measurements and linear below it.
//
// Interval: Student's form for a new observation, its variance from leave-one-out residuals (by the hat matrix), plus what the measured
// windows differ among themselves, plus a share of how far the plan lies beyond the largest probe. Changes that were measured below zero,
// which the form cannot follow, widen it by their root mean square for every layer that the plan changes.
//
// No torch; plain values. const functions from any thread.
#pragma once

#include <optional>
#include <span>
#include <vector>

namespace espalier
{

// What a plan does to one MoE layer, on the inputs of the dense model. All zero where it changes nothing.
struct LayerEffect {
    double removed = 0;    // R, dimensionless
    double ranks = 0;      // K, dimensionless
    double slope = 0;      // E, nats per token
    double curvature = 0;  // C, nats per token, without what ranks add
};

struct ProbePoint {
    std::vector<LayerEffect> layers;  // MoE layers in order, the same number in every point
    double change = 0;                // measured, nats per token
    double error = 0;                 // one standard error over windows; 0: not known
};

// Nats per token. [low, high] covers nine of ten measurements.
struct NllInterval {
    double change = 0;
    double low = 0;
    double high = 0;
    double spread = 0;  // standard deviation of the logarithm of measured / change
};

class ProbeFit
{
public:
    static constexpr int kLeastProbes = 4;

    // Nothing below kLeastProbes usable points (all numbers finite, something changed), or where none is above zero.
    static std::optional<ProbeFit> fit(std::span<const ProbePoint> points);

    // A plan that changes nothing gives zeros. More of any R, C or K never gives less.
    NllInterval estimate(std::span<const LayerEffect> layers) const;

    int probes() const noexcept { return m_probes; }
    double residual() const noexcept { return m_residual; }                // leave-one-out, of the logarithm
    double rankCorrelation() const noexcept { return m_rankCorrelation; }  // of probes and their leave-one-out estimates; Spearman's

private:
    struct Form;
    friend struct Form;
    std::vector<double> m_parameters;
    std::vector<double> m_covariance;  // [n][n] over sigma^2
    int m_layers = 0;
    int m_probes = 0;
    double m_noise = 0;     // tau
    double m_variance = 0;  // of a leave-one-out residual, in units of asinh
    double m_relative = 0;  // standard error of a measurement over its value, typical
    double m_below = 0;     // root mean square of the measured changes below zero, which the form cannot follow
    double m_largest = 0;   // measured
    double m_residual = 0;
    double m_rankCorrelation = 0;
};

// An estimate beside what was measured of the same plan later, both in nats per token.
struct MeasuredEstimate {
    double estimate = 0;
    double exact = 0;
};

// The interval in the light of earlier pairs on the windows that it is wanted for: their mean ratio, drawn towards 1 by the weight of one
// pair, and their scatter in place of the interval's the more of them there are. Pairs without a positive number are left out.
NllInterval refined(const NllInterval& estimate, std::span<const MeasuredEstimate> pairs);

}  // namespace espalier
