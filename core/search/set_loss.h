// The loss of score/gram_loss.h, laid out for searches that evaluate thousands of kept sets of one layer.
//
// Per token a word says which positions of its list are kept: the k lowest set bits are its selection (k of the candidates, which may
// use fewer experts per token than the unpruned layer they are compared with). Removing an expert clears one
// bit in the words of the tokens that list it, so a set costs work only where the selection changes. Under rule A nothing else
// changes; under rule B every other token's weights grow by one factor, which costs O(1).
#pragma once

#include "score/gram_loss.h"
#include "search/expert_bits.h"

#include <cstdint>
#include <limits>
#include <vector>

namespace espalier
{

// Tables of one layer. Keeps a reference to the evaluator, which must outlive it. One thread: evaluate() uses scratch memory.
class SetLoss
{
public:
    explicit SetLoss(const GramEvaluator& evaluator);

    const GramEvaluator& evaluator() const noexcept { return m_evaluator; }
    int experts() const noexcept { return m_evaluator.experts(); }
    int topK() const noexcept { return m_topK; }  // of the candidates
    // A pure function of the set: the same bits however a search came to it. At least top-k experts. Where groups are left
    // out it goes through GramEvaluator::evaluate.
    GramLoss evaluate(const ExpertBits& kept);

private:
    friend class LossState;
    static constexpr int kWordBits = 32;  // list positions that have a bit; positions behind them are looked up in the list
    static constexpr int kMaxTopK = 24;
    struct Listing {
        std::uint32_t token;
        std::uint32_t position;
    };
    // q = a'Ga with a = v/rest' - w; v'Gv and v'Ga are what a change of the denominator alone needs (rule B).
    struct Terms {
        double q = 0;
        double vv = 0;
        double va = 0;
        int last = 0;  // list position of the k-th selected; kUncovered
    };
    static constexpr int kUncovered = std::numeric_limits<int>::max();

    bool fast() const noexcept { return m_fast; }
    // 1 - (probability of what was removed), per token.
    void remainingMass(const ExpertBits& kept, std::vector<double>& rest) const;
    double exactMass(std::size_t token, const ExpertBits& kept) const;
    void positionWords(const ExpertBits& kept, std::vector<std::uint32_t>& words) const;
    template <bool kCurvature>
    Terms tokenTerms(std::size_t token, std::uint32_t word, double rest, const ExpertBits& kept) const;
    // kTopK is the top-k of both routers where the compiler is to know it, else 0.
    template <bool kCurvature, int kTopK>
    Terms tokenTermsFor(std::size_t token, std::uint32_t word, double rest, const ExpertBits& kept) const;
    template <int kTopK>
    void addTokens(const ExpertBits& kept, GramLoss& loss) const;

    const GramEvaluator& m_evaluator;
    int m_topK = 0;
    int m_own = 0;                // the model's top-k: the first so many of a list are its selection in the unpruned layer
    int m_length = 0;             // K
    bool m_fast = false;          // plain order
    bool m_renormalised = false;  // rules A and C
    double m_scale = 1;
    std::size_t m_tokens = 0;
    std::vector<double> m_listProbability;  // [T][K]
    std::vector<double> m_column;           // [n][T] probabilities, rule B
    std::vector<Listing> m_listing;         // by expert: where it stands in which lists
    std::vector<std::size_t> m_listingStart;
    std::vector<std::uint32_t> m_words;  // scratch
    std::vector<double> m_rest;          // scratch
};

// One kept set with its per-token terms, and the losses of its neighbours at a fraction of the price. They agree with
// SetLoss::evaluate up to rounding (about 1e-13 of the layer's energy); a search that accepts a neighbour evaluates it again.
// Copies are cheap (five arrays over tokens).
class LossState
{
public:
    LossState(SetLoss& loss, const ExpertBits& kept);

    const ExpertBits& kept() const noexcept { return m_kept; }
    double squared() const noexcept { return m_squared; }
    void remove(int expert);
    void add(int expert);
    double squaredWithout(int expert) const;
    double squaredWith(int expert) const;
    // Per expert of the layer; infinity for those that are not kept. Rule A: O(T k^3) for all of them.
    std::vector<double> squaredWithoutEach() const;

private:
    void setTerms(std::size_t token);

    SetLoss* m_loss;
    ExpertBits m_kept;
    double m_squared = 0;
    std::vector<std::uint32_t> m_words;
    std::vector<int> m_last;
    std::vector<double> m_q;
    std::vector<double> m_rest;  // rule B from here on
    std::vector<double> m_vv;
    std::vector<double> m_va;
};

}  // namespace espalier
