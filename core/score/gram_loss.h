// The exact layer loss of a kept set, from the Gram store, without a forward pass (core/score/README.md):
//     || Z - Z(C) ||_F^2 = sum_t a_t' G_t a_t,   a_t = w_t(C) - w_t(all).
// w_t(all) always is the unpruned layer at the model's own top-k; w_t(C) may use fewer experts per token (a plan's top_k).
// Routing is plan/routing.h's, in fp64 from the stored logits. "Exact" means: for this layer, on the inputs at which it was collected.
#pragma once

#include "base/error.h"
#include "score/selection_order.h"
#include "statistics/profile_data.h"

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace espalier
{

struct GramLoss {
    double squared = 0;          // charge included
    double chargedSquared = 0;   // of it: energy of the routed output of uncovered tokens
    std::int64_t uncovered = 0;  // tokens for which the kept set brings an expert into play that their list does not hold
    std::int64_t tokens = 0;

    double loss() const;  // sqrt(squared), unit of the output norm
    double uncoveredShare() const { return tokens ? static_cast<double>(uncovered) / static_cast<double>(tokens) : 0; }
};

// Evaluates kept sets of one layer. Keeps references: the store must outlive it. const functions may run in parallel.
class GramEvaluator
{
public:
    // `reference`: the model's router. `topK`: experts per token of the candidates, 1 .. the model's; none = the model's.
    // A store without tokens gives losses of 0 over 0 tokens.
    GramEvaluator(const LayerProfile& layer, const RouterShape& reference, std::optional<int> topK = {});

    int experts() const noexcept { return m_experts; }
    std::int64_t tokens() const noexcept { return static_cast<std::int64_t>(m_store.tokenCount()); }
    double outputNorm() const noexcept;  // ||MoE output||_F over the stored tokens, shared experts included

    // `kept`: ascending original ids, at least as many as a candidate uses per token.
    GramLoss evaluate(std::span<const int> kept) const;
    // Loss of all \ {e} for every expert e; equal to evaluate() of each, at a fraction of the cost.
    std::vector<GramLoss> leaveOneOut() const;

    // What a search builds its own tables from (search/set_loss.h).
    const GramStore& store() const noexcept { return m_store; }
    const RouterShape& reference() const noexcept { return m_reference; }
    const RouterShape& router() const noexcept { return m_router; }  // of the candidates
    bool sameTopK() const noexcept { return m_topK == m_reference.topK; }
    // Rules A and B, D and normalising C where no group is ever left out: the first k kept ids of a token's list are its selection.
    bool plainOrder() const noexcept;
    // Weights are divided by the sum over the selection (A and C), not over all that is kept (B and D), and multiplied by scale().
    bool renormalised() const noexcept;
    double scale() const noexcept;
    // [T][n] what weights are made of: softmax over all experts, sigmoid under rule C. Plain order only.
    std::span<const double> probabilities() const noexcept { return m_probability; }
    std::span<const double> routedEnergy() const noexcept { return m_energy; }  // [T] what an uncovered token is charged

private:
    void prepareToken(std::size_t token);
    GramLoss evaluateGeneric(std::span<const int> kept) const;

    const GramStore& m_store;
    RouterShape m_reference;
    RouterShape m_router;
    int m_experts = 0;
    int m_topK = 0;                     // of the candidates
    std::vector<double> m_probability;  // [T][n], plain order only
    std::vector<double> m_energy;       // [T] w'Gw of the unpruned layer
    // [T][the model's k] routing of the unpruned layer, list positions (-1: not in the list) and weights; other rules only.
    std::vector<int> m_fullPosition;
    std::vector<double> m_fullWeight;
    std::optional<SelectionOrder> m_order;  // where it is not plain
};

}  // namespace espalier
