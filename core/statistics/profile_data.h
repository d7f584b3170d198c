// ProfileData: what one streaming pass over the calibration text measured on the dense model. Sums, counts and maxima
// only, never means, so that profiles of disjoint shards add up. A plain value: no HDF5, no torch; scorers and losses work on it alone.
#pragma once

#include "plan/model_shape.h"
#include "statistics/channel_sums.h"
#include "statistics/layer_similarity.h"
#include "statistics/output_moments.h"

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace espalier
{

// Products of expert outputs for a sample of tokens, lists of the top k+m. Row t of every array is one token.
// The list of a token holds the first K experts in the order in which the router prefers them; the packed lower triangle holds
// <y_a, y_b> for list positions a >= b at a(a+1)/2 + b, so that a shorter list is a prefix of a longer one. K = n is the dense form.
struct GramStore {
    int listLength = 0;                // K; 0 = no store for this layer
    std::vector<std::int64_t> tokens;  // [T] position in the calibration text (window start + position in the window), ascending
    std::vector<std::uint16_t> list;   // [T][K] original expert ids
    std::vector<double> products;      // [T][K(K+1)/2]
    std::vector<float> logits;         // [T][n] router logits of all experts
    std::vector<float> selectionBias;  // [n], only for routers that have one
    double outputEnergy = 0;           // sum over these tokens of ||MoE output||^2, shared experts included

    std::size_t tokenCount() const noexcept { return tokens.size(); }
    std::size_t triangle() const noexcept { return static_cast<std::size_t>(listLength) * static_cast<std::size_t>(listLength + 1) / 2; }
    bool operator==(const GramStore&) const = default;
};

// What the reverse sweep left for the tokens of the Gram store: g_t is the gradient of the NLL, in nats summed over a
// window, at the routed output o_t of the layer.
struct GradientStore {
    std::vector<float> products;       // [T][K] c_te = g_t . f_e(x_t), token and list position as in the Gram store
    std::vector<std::int32_t> window;  // [T] number of the token's window in this profile, ascending from 0
    double squared = 0;                // sum of ||g_t||^2 over all tokens of the windows, not the sampled ones alone
    // The same where each label is drawn from the model's own distribution ("curvature"): no slope, an unbiased curvature.
    std::vector<float> drawnProducts;
    double drawnSquared = 0;
    std::int64_t tokens = 0;  // tokens behind `squared`

    bool operator==(const GradientStore&) const = default;
};

// All vectors have one element per expert of the layer (none in a dense layer). y is the expert output before weighting, p the
// router's probability over all experts, w the weight; sums run over the tokens routed to the expert unless stated otherwise.
struct LayerProfile {
    int layer = 0;
    int experts = 0;                             // 0 = dense layer, everything below is empty but `similarity`
    std::int64_t tokens = 0;                     // tokens that went through this layer
    std::vector<std::int64_t> count;             // routed tokens
    std::vector<double> softMass;                // sum p over ALL tokens
    std::vector<double> routedMassRaw;           // sum p
    std::vector<double> routedMassRenormalised;  // sum p / (sum of p over the token's selected experts)
    std::vector<double> routedMassApplied;       // sum w as multiplied with the output
    std::vector<double> norm;                    // sum ||y||
    std::vector<double> normSquared;             // sum ||y||^2
    std::vector<double> weightedNormRaw;         // sum p ||y||
    std::vector<double> weightedNormRenormalised;
    std::vector<double> weightedNormApplied;
    std::vector<double> maxActivation;  // max |y| over components
    double outputEnergy = 0;            // sum ||MoE output||^2 over all tokens, shared experts included
    double routedEnergy = 0;            // the same without shared experts
    GramStore gram;
    GradientStore gradients;     // "gradients"; empty without
    OutputMoments outputs;       // "outputs"; empty without
    ChannelSums channels;        // "channels"; empty without
    LayerSimilarity similarity;  // "similarity", of dense layers too; empty without

    // Rank curves ("curves"). A factored matrix of rank r has the squared error E(r) = sum of its spectrum from r
    // on, in its own output, over the tokens routed to the expert. An expert without tokens has a spectrum of zeros.
    int spectrumLength = 0;             // R = min(hidden size, expert width); 0 = not collected
    std::vector<float> spectra;         // [n][3][R]: gate, up, down; descending up to the ridge
    std::vector<double> weightSquared;  // sum w^2, as applied
    std::vector<double> gateGain,
        upGain;  // over gainTokens tokens: sum of sum_c q_c ||W_down[:,c]||^2 / I with q_c = (act'(g) u)^2, act(g)^2
    std::vector<std::int64_t> gainTokens;  // sampled

    // E(r) for r = 0..R of one expert matrix (0 gate, 1 up, 2 down); empty where it was not collected.
    std::vector<double> errorCurve(int expert, int matrix) const;
    // What turns E(r) into this expert's squared error in the layer's output: mean w^2, times the mean gain for gate and up. 0 for an
    // expert without tokens. Cross terms between experts are ignored.
    double outputGain(int expert, int matrix) const;

    bool operator==(const LayerProfile&) const = default;
};

// A run of consecutive windows of one text.
struct TokenRange {
    std::string textSha256;  // of all rows of the text the windows were cut from
    int firstWindow = 0;
    int windowCount = 0;
    std::int64_t tokens = 0;
    std::string sha256;  // of the ids of these windows

    bool operator==(const TokenRange&) const = default;
};

// Token ids of the profiled windows, one window after the other in the order of ProfileData::ranges. Empty where a profile has none: id
// by id it is the calibration text.
struct WindowIds {
    std::vector<std::int32_t> ids;
    std::vector<std::int32_t> lengths;  // [windows]

    bool empty() const noexcept { return lengths.empty(); }
    bool operator==(const WindowIds&) const = default;
};

// Exact changes of NLL of a few plans, measured on the dense model when the profile was taken: what estimates of other plans are fitted to
// (score/probe_fit.h).
struct NllProbe {
    struct Layer {  // of a layer that the plan changes
        int layer = 0;
        std::vector<int> kept;                  // original ids, ascending
        std::vector<std::array<int, 3>> ranks;  // per kept expert: gate, up, down, 0 = dense; empty = all dense

        bool operator==(const Layer&) const = default;
    };
    std::vector<Layer> layers;   // ascending
    std::vector<double> change;  // [windows of the set] NLL with the plan minus NLL without, in nats summed over the window

    bool operator==(const NllProbe&) const = default;
};

struct NllProbeSet {
    std::vector<std::int32_t> windows;  // numbers of the windows in this profile, ascending from 0
    std::vector<std::int32_t> scored;   // [windows] predicted tokens
    std::string factors;                // how ranks became factors: "whitened-svd"; empty where no probe has ranks
    std::vector<NllProbe> probes;

    bool operator==(const NllProbeSet&) const = default;
};

struct ProfileData {
    // What the numbers belong to. Equal for all shards that may be added up.
    ModelShape shape;
    std::string fingerprint;
    std::string configSha256;
    std::string weightsSha256;
    std::string numericMode;  // "fp32" or "bf16"
    int windowLength = 0;
    // The text.
    std::vector<TokenRange> ranges;  // ascending; several after a merge
    std::string textSha256;          // of the text; of the range list where several texts were merged
    std::string source;              // file names, for people
    std::string tokenizerSha256;     // empty for id files
    bool bos = false;
    int windows = 0;  // profiled
    std::int64_t tokens = 0;
    WindowIds windowIds;
    // Experts that existed, per decoder layer, where the pass ran on an already pruned model; empty = all. The others have no tokens, no
    // probability (logit -infinity) and no output.
    std::vector<std::vector<int>> kept;
    // What was collected (MethodInfo::needs): "counts", "ean", "reap", "gram", "outputs", "similarity", "channels", "gradients",
    // "curvature", "curves" (spectra), and the bulky parts that stay in the file (session/profile_parts.h): "factors" and "moments".
    std::vector<std::string> collected;
    std::vector<LayerProfile> layers;  // all decoder layers, in order
    std::vector<NllProbeSet> probes;   // one per shard; empty where none were taken
    std::string engineVersion;

    bool has(const std::string& statistic) const
    {
        for (const std::string& name : collected)
            if (name == statistic) return true;
        return false;
    }
};

}  // namespace espalier
