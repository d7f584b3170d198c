#include "plan/routing.h"

#include "plan/compression_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace espalier
{

namespace
{

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// Positions of `count` largest values, descending, ties to the lower position.
std::vector<int> largest(const std::vector<double>& values, int count)
{
    std::vector<int> order(values.size());
    std::iota(order.begin(), order.end(), 0);
    const auto better = [&](int a, int b) {
        const double x = values[static_cast<std::size_t>(a)];
        const double y = values[static_cast<std::size_t>(b)];
        return x > y || (x == y && a < b);
    };
    count = std::min(count, static_cast<int>(order.size()));
    std::partial_sort(order.begin(), order.begin() + count, order.end(), better);
    order.resize(static_cast<std::size_t>(count));
    return order;
}

// Group masking: `masked` for members of groups that are not among the topGroups best. Groups are equal consecutive runs of the
// experts that are left (plan_rules demands equal survivors per group).
void maskGroups(const RouterShape& router, std::vector<double>& score, int bestOfGroup, double masked)
{
    if (router.groups <= 1 || router.topGroups >= router.groups) return;
    const int size = static_cast<int>(score.size()) / router.groups;
    std::vector<double> groupScore;
    for (int group = 0; group < router.groups; ++group) {
        std::vector<double> members(score.begin() + group * size, score.begin() + (group + 1) * size);
        const int count = std::min(bestOfGroup, size);
        std::partial_sort(members.begin(), members.begin() + count, members.end(), std::greater<>());
        groupScore.push_back(std::accumulate(members.begin(), members.begin() + count, 0.0));
    }
    std::vector<bool> chosen(static_cast<std::size_t>(router.groups), false);
    for (const int group : largest(groupScore, router.topGroups))
        chosen[static_cast<std::size_t>(group)] = true;
    for (int group = 0; group < router.groups; ++group)
        if (!chosen[static_cast<std::size_t>(group)]) std::fill_n(score.begin() + group * size, size, masked);
}

}  // namespace

bool skipsNothing(const SkipRule& rule) { return rule.thresholdMillionths == (rule.kind == SkipRule::Kind::Ratio ? 0 : 1'000'000); }

bool tokensSkip(const ModelShape& shape, const CompressionPlan& plan)
{
    return std::any_of(shape.layers.begin(), shape.layers.end(), [&](const LayerShape& layer) {
        const LayerPlan& part = plan.layer(layer.index);
        const std::optional<SkipRule>& skip = part.content().skip ? part.content().skip : layer.router.skip;
        return layer.moe && part.runsExperts() && skip && !skipsNothing(*skip);
    });
}

void markSkipped(const SkipRule& rule, std::span<const double> scores, std::span<char> skipped)
{
    std::fill(skipped.begin(), skipped.end(), char{0});
    if (scores.empty() || skipsNothing(rule)) return;
    if (rule.kind == SkipRule::Kind::Ratio) {
        const double least = rule.threshold() * *std::max_element(scores.begin(), scores.end());
        for (std::size_t i = 0; i < scores.size(); ++i)
            skipped[i] = scores[i] < least ? 1 : 0;
        return;
    }
    const std::vector<int> order = largest({scores.begin(), scores.end()}, static_cast<int>(scores.size()));
    double total = 0;
    for (const int i : order)
        total += scores[static_cast<std::size_t>(i)];
    double before = 0;
    for (const int i : order) {
        skipped[static_cast<std::size_t>(i)] = i != order.front() && before >= rule.threshold() * total ? 1 : 0;
        before += scores[static_cast<std::size_t>(i)];
    }
}

Routing route(const RouterShape& router, std::span<const float> logits, std::span<const int> kept, std::span<const float> bias)
{
    std::vector<int> ids(kept.begin(), kept.end());
    if (ids.empty()) {
        ids.resize(logits.size());
        std::iota(ids.begin(), ids.end(), 0);
    }

    const std::size_t n = ids.size();
    std::vector<double> score(n);
    if (router.rule == RoutingRule::SigmoidBias) {
        for (std::size_t i = 0; i < n; ++i)
            score[i] = 1.0 / (1.0 + std::exp(-static_cast<double>(logits[static_cast<std::size_t>(ids[i])])));
    } else {
        double top = kMinusInfinity;
        for (std::size_t i = 0; i < n; ++i)
            top = std::max(top, static_cast<double>(logits[static_cast<std::size_t>(ids[i])]));
        double sum = 0;
        for (std::size_t i = 0; i < n; ++i)
            sum += score[i] = std::exp(logits[static_cast<std::size_t>(ids[i])] - top);
        for (double& p : score)
            p /= sum;
    }

    std::vector<double> selection = score;
    if (router.rule == RoutingRule::SigmoidBias) {
        if (!bias.empty())
            for (std::size_t i = 0; i < n; ++i)
                selection[i] += bias[static_cast<std::size_t>(ids[i])];
        maskGroups(router, selection, 2, kMinusInfinity);
    } else if (router.rule == RoutingRule::GroupLimitedSoftmax) {
        maskGroups(router, selection, 1, 0.0);
    }

    Routing routing;
    for (const int position : largest(selection, router.topK)) {
        routing.experts.push_back(ids[static_cast<std::size_t>(position)]);
        routing.weights.push_back(score[static_cast<std::size_t>(position)]);
    }
    if (router.skip) {
        std::vector<char> skipped(routing.weights.size());
        markSkipped(*router.skip, routing.weights, skipped);
        for (std::size_t i = 0; i < skipped.size(); ++i)
            if (skipped[i] != 0) routing.weights[i] = 0;
    }
    const double selectedSum = std::accumulate(routing.weights.begin(), routing.weights.end(), 0.0);
    switch (router.rule) {
        case RoutingRule::SoftmaxRenormalised:
            for (double& w : routing.weights)
                w /= selectedSum;
            break;
        case RoutingRule::SigmoidBias:
            for (double& w : routing.weights)
                w *= router.scaling / (router.normalise ? selectedSum + 1e-20 : 1.0);
            break;
        default:
            for (double& w : routing.weights)
                w *= router.scaling;
    }
    return routing;
}

}  // namespace espalier
