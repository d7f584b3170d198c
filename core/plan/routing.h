// The single place where a routing rule lives: Gram losses, counts and masks call it. fp64, one token.
// The torch forward pass has a batched twin; a test holds the two together.
#pragma once

#include "plan/model_shape.h"
#include "plan/skip_rule.h"

#include <array>
#include <span>
#include <string_view>
#include <vector>

namespace espalier
{

class CompressionPlan;

struct Routing {
    std::vector<int> experts;     // selected, by selection score descending, ties to the lower id
    std::vector<double> weights;  // as multiplied with the expert outputs; 0 of those that the router's skip rule skips
};

// By SkipRule::Kind, in files.
constexpr std::array<std::string_view, 2> kSkipRuleNames = {"ratio", "cumulative"};
bool skipsNothing(const SkipRule& rule);
// Whether tokens may skip experts somewhere: how many parameters are active then depends on the text, and what is said of them is the most.
bool tokensSkip(const ModelShape& shape, const CompressionPlan& plan);

// Which of the chosen experts a token skips, 1, by the scores that their weights are made of. Both of one size.
void markSkipped(const SkipRule& rule, std::span<const double> scores, std::span<char> skipped);

// `logits`: router logits of all n experts. `kept`: ascending ids that exist; empty = all. `bias`: selection bias of all n experts
// (SigmoidBias), else empty. Equals slicing the router's rows. kept.size() >= topK.
Routing route(const RouterShape& router, std::span<const float> logits, std::span<const int> kept = {}, std::span<const float> bias = {});

}  // namespace espalier
