// LayerSimilarity: how little a decoder layer changes the hidden state, the measure by which layers are dropped (ShortGPT, arXiv
// 2403.03853, whose block influence is 1 - mean()). Of dense and MoE layers alike. A plain value; sums of disjoint texts add up.
#pragma once

#include <cstdint>

namespace espalier
{

struct LayerSimilarity {
    // Sum over the tokens of <x, z> / (||x|| ||z||), x [H] the hidden state before the layer (the residual stream, not normed) and z after
    // it. 1 where both are zero, 0 where one is.
    double cosine = 0;
    std::int64_t tokens = 0;  // 0 = not collected

    bool empty() const noexcept { return tokens == 0; }
    // Between -1 and 1; 1: the layer changes no direction. 0 without tokens.
    double mean() const noexcept;
    void add(const LayerSimilarity& part) noexcept;

    bool operator==(const LayerSimilarity&) const = default;
};

}  // namespace espalier
