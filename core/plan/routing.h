// The single place where a routing rule lives: Gram losses, counts and masks call it. fp64, one token.
// The torch forward pass has a batched twin; a test holds the two together.
#pragma once

#include "plan/model_shape.h"

#include <span>
#include <vector>

namespace espalier
{

struct Routing {
    std::vector<int> experts;     // selected, by selection score descending, ties to the lower id
    std::vector<double> weights;  // as multiplied with the expert outputs
};

// `logits`: router logits of all n experts. `kept`: ascending ids that exist; empty = all. `bias`: selection bias of all n experts
// (SigmoidBias), else empty. Equals slicing the router's rows. kept.size() >= topK.
Routing route(const RouterShape& router, std::span<const float> logits, std::span<const int> kept = {}, std::span<const float> bias = {});

}  // namespace espalier
