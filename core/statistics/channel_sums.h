// ChannelSums: how much each intermediate channel of each expert adds to what the layer gives, over the tokens that the router sends to the
// expert. What scores of single channels are made of (CAMERA's micro-experts, arXiv 2508.02322). A plain value; sums and maxima of disjoint
// texts add up.
//
// h_tc is channel c of act(W_gate x_t) * (W_up x_t), w_te the routing weight as the model applies it. The channel adds w_te h_tc
// W_down[:,c] to the layer's output, so that energy times ||W_down[:,c]||^2 is the squared error of a layer that loses this channel alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace espalier
{

struct ChannelSums {
    int width = 0;               // I; 0 = not collected
    std::vector<double> energy;  // [n][I] sum over the expert's tokens of (w h)^2
    std::vector<double> peak;    // [n][I] the largest of these squares

    bool empty() const noexcept { return width == 0; }
    static ChannelSums zeros(int experts, int width);
    // Of the same layer on other tokens.
    void add(const ChannelSums& part);

    bool operator==(const ChannelSums&) const = default;
};

}  // namespace espalier
