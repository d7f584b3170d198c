#include "model/router.h"

#include "plan/routing.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

namespace espalier
{

namespace
{

// Positions of the `count` largest scores, descending, ties to the lower position. Insertion into a short list: k is at most 8 or so.
void largest(std::span<const double> scores, int count, int* best)
{
    int filled = 0;
    for (int i = 0; i < static_cast<int>(scores.size()); ++i) {
        const double score = scores[static_cast<std::size_t>(i)];
        if (filled == count && !(score > scores[static_cast<std::size_t>(best[count - 1])])) continue;
        int position = filled < count ? filled++ : count - 1;
        while (position > 0 && score > scores[static_cast<std::size_t>(best[position - 1])]) {
            best[position] = best[position - 1];
            --position;
        }
        best[position] = i;
    }
}

// Scores outside the topGroups best groups are masked, as in the references: DeepSeek-V2 judges a group by its best member and masks
// with 0.0, V3 by the sum of its two best and masks with minus infinity (a score + bias may be negative).
void maskGroups(const RouterShape& router, std::span<double> scores, std::vector<double>& groupScore, std::vector<int>& groups)
{
    const bool sigmoid = router.rule == RoutingRule::SigmoidBias;
    const auto size = static_cast<std::ptrdiff_t>(scores.size()) / router.groups;
    groupScore.assign(static_cast<std::size_t>(router.groups), 0.0);
    groups.assign(static_cast<std::size_t>(router.topGroups), 0);
    for (int g = 0; g < router.groups; ++g) {
        const auto begin = scores.begin() + g * size;
        const auto best = std::max_element(begin, begin + size);
        double& score = groupScore[static_cast<std::size_t>(g)] = *best;
        if (!sigmoid || size < 2) continue;
        double second = -std::numeric_limits<double>::infinity();
        for (auto it = begin; it != begin + size; ++it)
            if (it != best) second = std::max(second, *it);
        score += second;
    }
    largest(groupScore, router.topGroups, groups.data());
    const double masked = sigmoid ? -std::numeric_limits<double>::infinity() : 0.0;
    for (int g = 0; g < router.groups; ++g)
        if (std::find(groups.begin(), groups.end(), g) == groups.end()) std::fill_n(scores.begin() + g * size, size, masked);
}

// softmax(z), or the sigmoid of each.
void scoresOf(const RouterShape& router, const float* z, std::vector<double>& score)
{
    if (router.rule == RoutingRule::SigmoidBias) {
        for (std::size_t i = 0; i < score.size(); ++i)
            score[i] = 1.0 / (1.0 + std::exp(-static_cast<double>(z[i])));
        return;
    }
    const double top = *std::max_element(z, z + score.size());
    double sum = 0;
    for (std::size_t i = 0; i < score.size(); ++i)
        sum += score[i] = std::exp(z[i] - top);
    for (double& p : score)
        p /= sum;
}

}  // namespace

RoutedTokens routeTokens(const RouterShape& router, const at::Tensor& logits, const at::Tensor& bias, at::ScalarType weightType)
{
    const std::int64_t tokens = logits.size(0);
    const auto n = static_cast<std::size_t>(logits.size(1));
    const int k = router.topK;
    RoutedTokens routed{at::empty({tokens, k}, at::kLong), at::empty({tokens, k}, at::kFloat), {}};
    if (router.skip) routed.skipped = at::zeros({tokens, k}, at::kBool);
    auto* skippedOut = router.skip ? routed.skipped.mutable_data_ptr<bool>() : nullptr;
    const float* in = logits.const_data_ptr<float>();
    auto* selectedOut = routed.selected.mutable_data_ptr<std::int64_t>();
    auto* weightsOut = routed.weights.mutable_data_ptr<float>();
    const float* biases = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
    const bool sigmoid = router.rule == RoutingRule::SigmoidBias;
    const bool grouped =
        (sigmoid || router.rule == RoutingRule::GroupLimitedSoftmax) && router.groups > 1 && router.topGroups < router.groups;

    at::parallel_for(0, tokens, 256, [&](std::int64_t begin, std::int64_t end) {
        std::vector<double> score(n), selection, groupScore;
        std::vector<int> groups, best(static_cast<std::size_t>(k));
        std::vector<double> chosenScores(best.size());
        std::vector<char> skipped(best.size(), 0);
        for (std::int64_t t = begin; t < end; ++t) {
            scoresOf(router, in + t * static_cast<std::int64_t>(n), score);
            std::span<const double> choice = score;
            if (grouped || biases) {
                selection = score;
                if (biases)
                    for (std::size_t i = 0; i < n; ++i)
                        selection[i] += biases[i];
                if (grouped) maskGroups(router, selection, groupScore, groups);
                choice = selection;
            }
            largest(choice, k, best.data());
            if (router.skip) {
                for (std::size_t slot = 0; slot < best.size(); ++slot)
                    chosenScores[slot] = score[static_cast<std::size_t>(best[slot])];
                markSkipped(*router.skip, chosenScores, skipped);
                std::copy(skipped.begin(), skipped.end(), skippedOut + t * k);
            }
            double scale = router.scaling;
            if (router.rule == RoutingRule::SoftmaxRenormalised || (sigmoid && router.normalise)) {
                double chosen = 0;
                for (std::size_t slot = 0; slot < best.size(); ++slot)
                    if (skipped[slot] == 0) chosen += score[static_cast<std::size_t>(best[slot])];
                scale = sigmoid ? router.scaling / (chosen + 1e-20) : 1.0 / chosen;
            }
            for (int slot = 0; slot < k; ++slot) {
                const int column = best[static_cast<std::size_t>(slot)];
                auto weight = static_cast<float>(score[static_cast<std::size_t>(column)] * scale);
                if (skipped[static_cast<std::size_t>(slot)] != 0) weight = 0;
                if (weightType == at::kBFloat16) weight = static_cast<float>(c10::BFloat16(weight));
                selectedOut[t * k + slot] = column;
                weightsOut[t * k + slot] = weight;
            }
        }
    });
    return routed;
}

TokenGroups groupTokens(const at::Tensor& selected, int columns, const at::Tensor& skipped)
{
    const std::int64_t total = selected.numel();
    const std::int64_t k = selected.size(1);
    const auto* column = selected.const_data_ptr<std::int64_t>();
    TokenGroups groups;
    groups.offsets.assign(static_cast<std::size_t>(columns) + 1, 0);
    const bool* gone = skipped.defined() ? skipped.const_data_ptr<bool>() : nullptr;
    for (std::int64_t i = 0; i < total; ++i)
        if (!gone || !gone[i]) ++groups.offsets[static_cast<std::size_t>(column[i]) + 1];
    for (std::size_t c = 0; c < static_cast<std::size_t>(columns); ++c)
        groups.offsets[c + 1] += groups.offsets[c];
    std::vector<std::int64_t> next(groups.offsets.begin(), groups.offsets.end() - 1);
    const std::int64_t grouped = groups.offsets.back();
    groups.order = at::empty({grouped}, at::kLong);
    groups.slots.resize(static_cast<std::size_t>(grouped));
    auto* order = groups.order.mutable_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < total; ++i) {
        if (gone && gone[i]) continue;
        const std::int64_t place = next[static_cast<std::size_t>(column[i])]++;
        order[place] = i / k;
        groups.slots[static_cast<std::size_t>(place)] = i;
    }
    return groups;
}

}  // namespace espalier
