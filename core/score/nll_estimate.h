// The change of NLL that a plan causes, estimated from the profile without a forward pass: an estimate, never a measurement. With g_t = d
// NLL / d o_t from the reverse sweep, c_te = g_t . f_e(x_t) and a = w(C) - w(all), a plan moves the routed output of layer l so that the
// NLL moves by
//     first order   e1 = sum_l sum_t u_lt,           u_lt = sum_e a_lte c_lte
//     curvature     e2 = 1/2 sum_l sum_t u_lt^2
// because the squared gradient of a summed loss stands in for its Hessian. Ranks add 1/2 eps_e(r) mean ||g||^2 / H to e2, eps_e(r) from the
// profile's curves: the error of whitened factors, so plain ones do worse than this says.
//
// The expansion is several times too small for whole experts. Profiles with probes give an interval too (score/probe_fit.h): of the right
// size, on the windows that the probes ran on.
//
// No torch: plain arithmetic on what the estimator copied out of a profile.
#pragma once

#include "base/error.h"
#include "plan/compression_plan.h"
#include "score/probe_fit.h"
#include "statistics/profile_data.h"

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace espalier
{

// Whether the expansion says anything of this plan: kept sets and ranks move it, and nothing else. Error: estimate.not_covered, which names
// what the plan does beside; only a measurement tells what that costs.
Status estimateCovers(const CompressionPlan& plan);

// Nats per scored token, summed over layers.
struct NllEstimate {
    double e1 = 0;
    double e2 = 0;       // ranks included
    double ranks = 0;    // what ranks add to e2
    double e1Error = 0;  // standard error of e1 over windows; 0 for fewer than two
    // Of the sampled tokens in the layers whose experts the plan changes, the part whose list does not hold k kept experts. They are
    // charged as if their whole routed output were lost.
    double uncoveredFraction = 0;

    struct Layer {
        int layer = 0;
        double e1 = 0;
        double e2 = 0;
        double uncoveredFraction = 0;
    };
    std::vector<Layer> layers;  // MoE layers

    std::vector<LayerEffect> effects;   // of the same layers
    std::optional<NllInterval> fitted;  // where the profile has probes
};

// Keeps what it computed of every layer, so that the next plan costs only the layers in which it differs: O(tokens 2k) each. One thread at
// a time.
class NllEstimator
{
public:
    // Copies what it needs; the profile may go. Errors: profile.missing_statistics (taken without gradients).
    static Result<std::unique_ptr<NllEstimator>> create(const ProfileData& profile);
    ~NllEstimator();
    NllEstimator(const NllEstimator&) = delete;
    NllEstimator& operator=(const NllEstimator&) = delete;

    // A plan that keeps everything gives exactly 0. Errors: plan.unknown_layer (another number of layers), estimate.not_covered,
    // profile.missing_statistics (the plan has ranks, the profile no curves).
    Result<NllEstimate> estimate(const CompressionPlan& plan);

    const ModelShape& shape() const;
    const std::string& fingerprint() const;

    // Of a profile with probes, what is fitted to them.
    const ProbeFit* probeFit() const;
    int probeWindows() const;  // windows behind the probes; 0 without

private:
    struct State;
    explicit NllEstimator(std::unique_ptr<State> state);
    std::unique_ptr<State> m_state;
};

// An estimate beside the exact change of NLL per token on the same windows.
struct EstimatePair {
    double e1 = 0;
    double e2 = 0;
    double exact = 0;
};

// How estimates of one model and text become numbers with a band: delta = beta1 e1 + beta2 e2, beta >= 0.
struct EstimateCalibration {
    static constexpr int kPairsWanted = 8;

    double beta1 = 1;
    double beta2 = 1;
    int pairs = 0;
    double residual = 0;         // standard deviation of exact - estimate; NaN below three pairs
    double rankCorrelation = 0;  // Spearman's, of estimate and exact; NaN below three pairs

    bool calibrated() const noexcept { return pairs >= kPairsWanted; }
    double change(double e1, double e2) const noexcept { return beta1 * e1 + beta2 * e2; }
    const char* label() const noexcept { return calibrated() ? "estimate" : "estimate, uncalibrated"; }
};

// Least squares, drawn towards (1, 1) by a ridge that weighs as much as one average pair. Without pairs: (1, 1).
EstimateCalibration calibrateEstimates(std::span<const EstimatePair> pairs);

// Spearman's rank correlation, ties at their mean rank; NaN below three values or where one side is constant.
double rankCorrelation(std::span<const double> a, std::span<const double> b);

}  // namespace espalier
