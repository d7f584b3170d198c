#include "model/router.h"

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

// Scores outside the topGroups groups with the best member become 0.0, as in the reference (DeepSeek-V2).
void maskGroups(const RouterShape& router, std::span<double> scores, std::vector<double>& groupScore, std::vector<int>& groups)
{
    const auto size = static_cast<std::ptrdiff_t>(scores.size()) / router.groups;
    groupScore.assign(static_cast<std::size_t>(router.groups), 0.0);
    groups.assign(static_cast<std::size_t>(router.topGroups), 0);
    for (int g = 0; g < router.groups; ++g)
        groupScore[static_cast<std::size_t>(g)] = *std::max_element(scores.begin() + g * size, scores.begin() + (g + 1) * size);
    largest(groupScore, router.topGroups, groups.data());
    for (int g = 0; g < router.groups; ++g)
        if (std::find(groups.begin(), groups.end(), g) == groups.end()) std::fill_n(scores.begin() + g * size, size, 0.0);
}

}  // namespace

RoutedTokens routeTokens(const RouterShape& router, const at::Tensor& logits, at::ScalarType weightType)
{
    const std::int64_t tokens = logits.size(0);
    const auto n = static_cast<std::size_t>(logits.size(1));
    const int k = router.topK;
    RoutedTokens routed{at::empty({tokens, k}, at::kLong), at::empty({tokens, k}, at::kFloat)};
    const float* in = logits.const_data_ptr<float>();
    auto* selectedOut = routed.selected.mutable_data_ptr<std::int64_t>();
    auto* weightsOut = routed.weights.mutable_data_ptr<float>();
    const bool grouped = router.rule == RoutingRule::GroupLimitedSoftmax && router.groups > 1 && router.topGroups < router.groups;

    at::parallel_for(0, tokens, 256, [&](std::int64_t begin, std::int64_t end) {
        std::vector<double> score(n), selection, groupScore;
        std::vector<int> groups, best(static_cast<std::size_t>(k));
        for (std::int64_t t = begin; t < end; ++t) {
            const float* z = in + t * static_cast<std::int64_t>(n);
            const double top = *std::max_element(z, z + n);
            double sum = 0;
            for (std::size_t i = 0; i < n; ++i)
                sum += score[i] = std::exp(z[i] - top);
            for (double& p : score)
                p /= sum;
            std::span<const double> choice = score;
            if (grouped) {
                selection = score;
                maskGroups(router, selection, groupScore, groups);
                choice = selection;
            }
            largest(choice, k, best.data());
            double scale = router.scaling;
            if (router.rule == RoutingRule::SoftmaxRenormalised) {
                double chosen = 0;
                for (const int column : best)
                    chosen += score[static_cast<std::size_t>(column)];
                scale = 1.0 / chosen;
            }
            for (int slot = 0; slot < k; ++slot) {
                const int column = best[static_cast<std::size_t>(slot)];
                auto weight = static_cast<float>(score[static_cast<std::size_t>(column)] * scale);
                if (weightType == at::kBFloat16) weight = static_cast<float>(c10::BFloat16(weight));
                selectedOut[t * k + slot] = column;
                weightsOut[t * k + slot] = weight;
            }
        }
    });
    return routed;
}

TokenGroups groupTokens(const at::Tensor& selected, int columns)
{
    const std::int64_t total = selected.numel();
    const std::int64_t k = selected.size(1);
    const auto* column = selected.const_data_ptr<std::int64_t>();
    TokenGroups groups;
    groups.offsets.assign(static_cast<std::size_t>(columns) + 1, 0);
    for (std::int64_t i = 0; i < total; ++i)
        ++groups.offsets[static_cast<std::size_t>(column[i]) + 1];
    for (std::size_t c = 0; c < static_cast<std::size_t>(columns); ++c)
        groups.offsets[c + 1] += groups.offsets[c];
    std::vector<std::int64_t> next(groups.offsets.begin(), groups.offsets.end() - 1);
    groups.order = at::empty({total}, at::kLong);
    groups.slots.resize(static_cast<std::size_t>(total));
    auto* order = groups.order.mutable_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < total; ++i) {
        const std::int64_t place = next[static_cast<std::size_t>(column[i])]++;
        order[place] = i / k;
        groups.slots[static_cast<std::size_t>(place)] = i;
    }
    return groups;
}

}  // namespace espalier
