// Routing of stored tokens under many kept sets, for routers that a search cannot lay out as words (rules C and D with groups): the order
// in which a token's router prefers the experts does not depend on which of them are kept, so it is sorted once and walked for every set.
#pragma once

#include "plan/model_shape.h"
#include "statistics/profile_data.h"

#include <cstdint>
#include <span>
#include <vector>

namespace espalier
{

// Who is kept, laid out for a walk. Groups are equal runs of the experts that are left, as in plan/routing.h.
struct KeptGroups {
    std::vector<std::int16_t> group;  // [n] of a kept expert, kNone behind the last whole group, kGone for others
    static constexpr std::int16_t kNone = -1;
    static constexpr std::int16_t kGone = -2;
};

// Tables of one layer: 12 bytes per token and expert. const functions may run in parallel.
class SelectionOrder
{
public:
    // Rules C and D. Takes nothing from the store but logits, lists and bias.
    SelectionOrder(const GramStore& store, const RouterShape& router, int experts);

    KeptGroups groupsOf(std::span<const int> kept) const;

    // Experts of a token under a kept set, by list position (-1: not in its list), with weights as route() gives them, up to rounding.
    // Holds room for top-k of both. False: fewer than top-k in the groups that were chosen; route() knows what happens then.
    bool select(std::size_t token, const KeptGroups& kept, int* position, double* weight) const;

private:
    bool limitsGroups() const noexcept { return m_router.groups > 1 && m_router.topGroups < m_router.groups; }
    void openBestPairs(std::size_t token, const KeptGroups& kept, std::span<bool> open) const;

    RouterShape m_router;
    std::size_t m_experts = 0;
    std::vector<float> m_bias;            // [n] or none
    std::vector<std::uint16_t> m_expert;  // [T][n] by selection score descending, ties to the lower id
    std::vector<std::int16_t> m_place;    // [T][n] list position of that expert, or -1
    std::vector<double> m_score;          // [T][n] what its weight is made of: sigmoid, or probability over all experts
};

}  // namespace espalier
