// ProfileData: what one streaming pass over the calibration text measured on the dense model (methods.md 2). Sums, counts and maxima
// only, never means, so that profiles of disjoint shards add up. A plain value: no HDF5, no torch; scorers and losses work on it alone.
#pragma once

#include "plan/model_shape.h"

#include <cstdint>
#include <string>
#include <vector>

namespace espalier
{

// Products of expert outputs for a sample of tokens, in the top-(k+m) form of methods.md 2.5. Row t of every array is one token.
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

// All vectors have one element per expert of the layer (none in a dense layer). y is the expert output before weighting, p the
// router's probability over all experts, w the weight; sums run over the tokens routed to the expert unless stated otherwise.
struct LayerProfile {
    int layer = 0;
    int experts = 0;                             // 0 = dense layer, everything below is empty
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
    // What was collected: "counts", "ean", "reap", "gram" (MethodInfo::needs).
    std::vector<std::string> collected;
    std::vector<LayerProfile> layers;  // all decoder layers, in order
    std::string engineVersion;

    bool has(const std::string& statistic) const
    {
        for (const std::string& name : collected)
            if (name == statistic) return true;
        return false;
    }
};

}  // namespace espalier
