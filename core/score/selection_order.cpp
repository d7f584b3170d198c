#include "score/selection_order.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

namespace espalier
{

namespace
{

constexpr int kMaxGroups = 64;

}  // namespace

SelectionOrder::SelectionOrder(const GramStore& store, const RouterShape& router, int experts)
    : m_router(router), m_experts(static_cast<std::size_t>(experts)), m_bias(store.selectionBias)
{
    const std::size_t n = m_experts;
    const std::size_t tokens = store.tokenCount();
    const auto length = static_cast<std::size_t>(store.listLength);
    const bool sigmoid = router.rule == RoutingRule::SigmoidBias;
    m_expert.resize(tokens * n);
    m_place.resize(tokens * n);
    m_score.resize(tokens * n);
    std::vector<double> score(n), selection(n);
    std::vector<std::int16_t> place(n);
    for (std::size_t t = 0; t < tokens; ++t) {
        const float* z = store.logits.data() + t * n;
        const double top = *std::max_element(z, z + n);
        double sum = 0;
        for (std::size_t e = 0; e < n; ++e)
            sum += score[e] = sigmoid ? 1.0 / (1.0 + std::exp(-static_cast<double>(z[e]))) : std::exp(static_cast<double>(z[e]) - top);
        for (std::size_t e = 0; e < n; ++e) {
            if (!sigmoid) score[e] /= sum;
            selection[e] = score[e] + (sigmoid && !m_bias.empty() ? static_cast<double>(m_bias[e]) : 0.0);
        }
        std::uint16_t* order = m_expert.data() + t * n;
        std::iota(order, order + n, std::uint16_t{0});
        std::sort(order, order + n,
                  [&](std::uint16_t a, std::uint16_t b) { return selection[a] > selection[b] || (selection[a] == selection[b] && a < b); });
        std::fill(place.begin(), place.end(), std::int16_t{-1});
        for (std::size_t i = 0; i < length; ++i)
            place[store.list[t * length + i]] = static_cast<std::int16_t>(i);
        for (std::size_t i = 0; i < n; ++i) {
            m_place[t * n + i] = place[order[i]];
            m_score[t * n + i] = score[order[i]];
        }
    }
}

KeptGroups SelectionOrder::groupsOf(std::span<const int> kept) const
{
    KeptGroups groups;
    groups.group.assign(m_experts, KeptGroups::kGone);
    const std::size_t size = limitsGroups() ? kept.size() / static_cast<std::size_t>(m_router.groups) : 0;
    for (std::size_t i = 0; i < kept.size(); ++i) {
        const bool whole = size > 0 && i / size < static_cast<std::size_t>(m_router.groups);
        groups.group[static_cast<std::size_t>(kept[i])] = whole ? static_cast<std::int16_t>(i / size) : KeptGroups::kNone;
    }
    return groups;
}

// Rule C: a group is judged by the sum of its two best.
void SelectionOrder::openBestPairs(std::size_t token, const KeptGroups& kept, std::span<bool> open) const
{
    const auto groups = static_cast<std::size_t>(m_router.groups);
    std::array<double, kMaxGroups> sum{};
    std::array<std::uint8_t, kMaxGroups> seen{};
    std::size_t complete = 0;
    for (std::size_t i = token * m_experts; i < (token + 1) * m_experts && complete < groups; ++i) {
        const int group = kept.group[m_expert[i]];
        if (group < 0) continue;
        const auto g = static_cast<std::size_t>(group);
        if (seen[g] == 2) continue;
        sum[g] += m_score[i] + (m_bias.empty() ? 0.0 : static_cast<double>(m_bias[m_expert[i]]));
        if (++seen[g] == 2) ++complete;
    }
    for (int chosen = 0; chosen < m_router.topGroups; ++chosen) {
        std::size_t best = groups;
        for (std::size_t g = 0; g < groups; ++g)
            if (!open[g] && (best == groups || sum[g] > sum[best])) best = g;
        open[best] = true;
    }
}

bool SelectionOrder::select(std::size_t token, const KeptGroups& kept, int* position, double* weight) const
{
    const bool sigmoid = m_router.rule == RoutingRule::SigmoidBias;
    const bool limits = limitsGroups();
    if (m_router.skip.has_value() || (limits && m_router.groups > kMaxGroups)) return false;
    std::array<bool, kMaxGroups> open{};
    int opened = 0;
    if (limits && sigmoid) {
        openBestPairs(token, kept, std::span(open).first(static_cast<std::size_t>(m_router.groups)));
        opened = m_router.topGroups;
    }
    int found = 0;
    double selected = 0;
    const std::size_t begin = token * m_experts;
    for (std::size_t i = begin; i < begin + m_experts && found < m_router.topK; ++i) {
        const int group = kept.group[m_expert[i]];
        if (group == KeptGroups::kGone) continue;
        if (limits && group >= 0 && !open[static_cast<std::size_t>(group)]) {
            // Rule D judges a group by its best, which is the first one met.
            if (opened == m_router.topGroups) continue;
            open[static_cast<std::size_t>(group)] = true;
            ++opened;
        }
        position[found] = m_place[i];
        weight[found++] = m_score[i];
        selected += m_score[i];
    }
    if (found < m_router.topK) return false;
    double scale = m_router.scaling;
    if (sigmoid) {
        if (m_router.normalise) scale /= selected + 1e-20;
    } else {
        double rest = 0;
        for (std::size_t i = begin; i < begin + m_experts; ++i)
            if (kept.group[m_expert[i]] != KeptGroups::kGone) rest += m_score[i];
        scale /= rest;
    }
    for (int i = 0; i < found; ++i)
        weight[i] *= scale;
    return true;
}

}  // namespace espalier
