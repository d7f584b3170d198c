// Which of the experts that a router chose for a token the token skips (Lu et al. 2024, arXiv 2402.14800). p_i are the scores that routing
// weights are made of, p_(1) the largest of them among the chosen.
//   Ratio       those with p_i < t p_(1), strictly
//   Cumulative  by p descending, those behind the first so many that hold a share of at least t of the sum over the chosen
// The largest is never skipped. The rule of the router then weighs what is left: where it divides by the sum over the chosen, by the sum
// over those that are not skipped, so that one that is left alone of a renormalising router has the weight 1. A threshold of 0 of a ratio,
// and of 1 of a cumulative share, skips nothing.
#pragma once

namespace espalier
{

struct SkipRule {
    enum class Kind { Ratio, Cumulative };
    Kind kind = Kind::Ratio;
    int thresholdMillionths = 0;  // t
    bool operator==(const SkipRule&) const = default;

    double threshold() const { return thresholdMillionths / 1e6; }
};

}  // namespace espalier
