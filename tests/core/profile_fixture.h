// Profiles made from random expert outputs, with the outputs beside them for brute-force comparison. No files, no model.
#pragma once

#include "base/random.h"
#include "core/shapes.h"
#include "plan/routing.h"
#include "statistics/profile_data.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace espalier::test
{

struct MadeLayer {
    RouterShape router;
    LayerProfile profile;
    int width = 0;
    std::vector<std::vector<double>> outputs;  // [token * experts + expert][width]

    // || Z - Z(kept) ||^2 by weighting and adding the outputs themselves. `topK`: of Z(kept), 0 = the model's.
    double direct(const std::vector<int>& kept, int topK = 0) const
    {
        RouterShape candidate = router;
        if (topK > 0) candidate.topK = topK;
        const auto n = static_cast<std::size_t>(profile.experts);
        double sum = 0;
        for (std::size_t t = 0; t < profile.gram.tokenCount(); ++t) {
            std::vector<double> difference(static_cast<std::size_t>(width), 0.0);
            const auto add = [&](const Routing& routing, double sign) {
                for (std::size_t i = 0; i < routing.experts.size(); ++i)
                    for (std::size_t c = 0; c < difference.size(); ++c)
                        difference[c] += sign * routing.weights[i] * outputs[t * n + static_cast<std::size_t>(routing.experts[i])][c];
            };
            const std::span<const float> logits(profile.gram.logits.data() + t * n, n);
            add(route(candidate, logits, kept), 1);
            add(route(router, logits), -1);
            for (const double value : difference)
                sum += value * value;
        }
        return sum;
    }
};

// A layer with a store of `length` list positions (0 = all experts) and sums that belong to it.
inline MadeLayer madeLayer(RoutingRule rule, int experts, int topK, int tokens, int length, std::uint64_t seed, double scaling = 1.0)
{
    constexpr int kWidth = 7;
    Random random(seed);
    MadeLayer made;
    made.width = kWidth;
    made.router.rule = rule;
    made.router.topK = topK;
    made.router.scaling = scaling;
    made.router.normalise = rule == RoutingRule::SigmoidBias;
    LayerProfile& layer = made.profile;
    layer.experts = experts;
    layer.tokens = tokens;
    const auto n = static_cast<std::size_t>(experts);
    layer.count.assign(n, 0);
    for (auto* sums :
         {&layer.softMass, &layer.routedMassRaw, &layer.routedMassRenormalised, &layer.routedMassApplied, &layer.norm, &layer.normSquared,
          &layer.weightedNormRaw, &layer.weightedNormRenormalised, &layer.weightedNormApplied, &layer.maxActivation})
        sums->assign(n, 0.0);
    GramStore& gram = layer.gram;
    gram.listLength = length == 0 ? experts : length;
    for (int t = 0; t < tokens; ++t) {
        gram.tokens.push_back(t);
        std::vector<float> logits;
        for (std::size_t e = 0; e < n; ++e)
            logits.push_back(static_cast<float>(6 * random.uniform() - 3));
        gram.logits.insert(gram.logits.end(), logits.begin(), logits.end());
        double total = 0;
        for (const float z : logits)
            total += std::exp(static_cast<double>(z));
        std::vector<std::size_t> order(n);
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
        const std::size_t base = made.outputs.size();
        for (std::size_t e = 0; e < n; ++e) {
            std::vector<double> y;
            for (int c = 0; c < kWidth; ++c)
                y.push_back(2 * random.uniform() - 1);
            made.outputs.push_back(std::move(y));
        }
        const auto product = [&](std::size_t a, std::size_t b) {
            return std::inner_product(made.outputs[base + a].begin(), made.outputs[base + a].end(), made.outputs[base + b].begin(), 0.0);
        };
        for (std::size_t a = 0; a < static_cast<std::size_t>(gram.listLength); ++a) {
            gram.list.push_back(static_cast<std::uint16_t>(order[a]));
            for (std::size_t b = 0; b <= a; ++b)
                gram.products.push_back(product(order[a], order[b]));
        }
        const Routing routing = route(made.router, logits);
        double mass = 0;
        for (const int e : routing.experts)
            mass += std::exp(static_cast<double>(logits[static_cast<std::size_t>(e)])) / total;
        for (std::size_t e = 0; e < n; ++e)
            layer.softMass[e] += std::exp(static_cast<double>(logits[e])) / total;
        double energy = 0;
        for (std::size_t i = 0; i < routing.experts.size(); ++i) {
            const auto e = static_cast<std::size_t>(routing.experts[i]);
            const double p = std::exp(static_cast<double>(logits[e])) / total;
            const double norm = std::sqrt(product(e, e));
            ++layer.count[e];
            layer.routedMassRaw[e] += p;
            layer.routedMassRenormalised[e] += p / mass;
            layer.routedMassApplied[e] += routing.weights[i];
            layer.norm[e] += norm;
            layer.normSquared[e] += norm * norm;
            layer.weightedNormRaw[e] += p * norm;
            layer.weightedNormRenormalised[e] += p / mass * norm;
            layer.weightedNormApplied[e] += routing.weights[i] * norm;
            for (const double value : made.outputs[base + e])
                layer.maxActivation[e] = std::max(layer.maxActivation[e], std::abs(value));
            for (std::size_t j = 0; j < routing.experts.size(); ++j)
                energy += routing.weights[i] * routing.weights[j] * product(e, static_cast<std::size_t>(routing.experts[j]));
        }
        layer.outputEnergy += energy;
        layer.routedEnergy += energy;
        gram.outputEnergy += energy;
    }
    return made;
}

// A whole profile of `layers` such layers; windows of 8 tokens starting at `firstWindow` of one text.
inline ProfileData madeProfile(int layers, int experts, int topK, int windows, int firstWindow, std::uint64_t seed)
{
    ProfileData data;
    data.shape = evenShape(layers, experts, topK);
    data.fingerprint = "fingerprint";
    data.configSha256 = "config";
    data.weightsSha256 = "weights";
    data.numericMode = "fp32";
    data.windowLength = 8;
    data.windows = windows;
    data.tokens = 8 * windows;
    data.textSha256 = "text";
    data.source = "calibration.txt";
    data.tokenizerSha256 = "tokenizer";
    data.bos = true;
    data.engineVersion = "1";
    data.collected = {"counts", "ean", "reap", "gram"};
    data.ranges = {{.textSha256 = "text",
                    .firstWindow = firstWindow,
                    .windowCount = windows,
                    .tokens = 8 * windows,
                    .sha256 = "rows of " + std::to_string(firstWindow)}};
    for (int l = 0; l < layers; ++l) {
        MadeLayer made = madeLayer(RoutingRule::Softmax, experts, topK, 8 * windows, 2 * topK, seed + static_cast<std::uint64_t>(l));
        made.profile.layer = l;
        for (std::int64_t& token : made.profile.gram.tokens)
            token += 8 * firstWindow;
        data.layers.push_back(std::move(made.profile));
    }
    return data;
}

}  // namespace espalier::test
