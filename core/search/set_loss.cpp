#include "search/set_loss.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <tuple>
#include <utility>

namespace espalier
{

namespace
{

// Below this share the difference 1 - (removed mass) has lost digits and the kept mass is added up instead.
constexpr double kEnoughMass = 0.25;

}  // namespace

SetLoss::SetLoss(const GramEvaluator& evaluator)
    : m_evaluator(evaluator),
      m_topK(evaluator.router().topK),
      m_own(evaluator.reference().topK),
      m_length(evaluator.store().listLength),
      m_fast(evaluator.plainOrder() && m_own <= kMaxTopK && m_own <= m_length),
      m_renormalised(evaluator.renormalised()),
      m_scale(evaluator.scale()),
      m_tokens(evaluator.store().tokenCount())
{
    if (!m_fast) return;
    const GramStore& store = evaluator.store();
    const auto n = static_cast<std::size_t>(evaluator.experts());
    const auto length = static_cast<std::size_t>(m_length);
    const std::span<const double> p = evaluator.probabilities();
    m_listProbability.resize(m_tokens * length);
    m_listingStart.assign(n + 1, 0);
    for (std::size_t i = 0; i < m_tokens * length; ++i) {
        m_listProbability[i] = p[i / length * n + store.list[i]];
        ++m_listingStart[store.list[i] + 1u];
    }
    for (std::size_t e = 0; e < n; ++e)
        m_listingStart[e + 1] += m_listingStart[e];
    m_listing.resize(m_tokens * length);
    std::vector<std::size_t> next(m_listingStart.begin(), m_listingStart.end() - 1);
    for (std::size_t i = 0; i < m_tokens * length; ++i)
        m_listing[next[store.list[i]]++] = {static_cast<std::uint32_t>(i / length), static_cast<std::uint32_t>(i % length)};
    if (!m_renormalised) {
        m_column.resize(n * m_tokens);
        for (std::size_t t = 0; t < m_tokens; ++t)
            for (std::size_t e = 0; e < n; ++e)
                m_column[e * m_tokens + t] = p[t * n + e];
    }
}

double SetLoss::exactMass(std::size_t token, const ExpertBits& kept) const
{
    const auto n = static_cast<std::size_t>(experts());
    const double* p = m_evaluator.probabilities().data() + token * n;
    double sum = 0;
    for (std::size_t e = 0; e < n; ++e)
        if (kept.contains(static_cast<int>(e))) sum += p[e];
    return sum;
}

void SetLoss::remainingMass(const ExpertBits& kept, std::vector<double>& rest) const
{
    rest.assign(m_tokens, 1.0);
    double* out = rest.data();
    for (int e = 0; e < experts(); ++e) {
        if (kept.contains(e)) continue;
        const double* p = m_column.data() + static_cast<std::size_t>(e) * m_tokens;
        for (std::size_t t = 0; t < m_tokens; ++t)
            out[t] -= p[t];
    }
    for (std::size_t t = 0; t < m_tokens; ++t)
        if (out[t] < kEnoughMass) out[t] = exactMass(t, kept);
}

void SetLoss::positionWords(const ExpertBits& kept, std::vector<std::uint32_t>& words) const
{
    const int bits = std::min(m_length, kWordBits);
    words.assign(m_tokens, bits == kWordBits ? ~std::uint32_t{0} : (std::uint32_t{1} << bits) - 1);
    for (int e = 0; e < experts(); ++e) {
        if (kept.contains(e)) continue;
        for (std::size_t i = m_listingStart[static_cast<std::size_t>(e)]; i < m_listingStart[static_cast<std::size_t>(e) + 1]; ++i)
            if (m_listing[i].position < kWordBits) words[m_listing[i].token] &= ~(std::uint32_t{1} << m_listing[i].position);
    }
}

template <bool kCurvature>
SetLoss::Terms SetLoss::tokenTerms(std::size_t token, std::uint32_t word, double rest, const ExpertBits& kept) const
{
    switch (m_topK == m_own ? m_own : 0) {
        case 2:
            return tokenTermsFor<kCurvature, 2>(token, word, rest, kept);
        case 4:
            return tokenTermsFor<kCurvature, 4>(token, word, rest, kept);
        case 6:
            return tokenTermsFor<kCurvature, 6>(token, word, rest, kept);
        case 8:
            return tokenTermsFor<kCurvature, 8>(token, word, rest, kept);
        default:
            return tokenTermsFor<kCurvature, 0>(token, word, rest, kept);
    }
}

namespace
{

// Of the experts that the token chose of all (the first k of its list), and of those that it chooses of the kept ones.
inline std::pair<double, double> probabilitySums(const double* p, int k, std::uint32_t chosen, const int* position, int count)
{
    double before = 0;
    double after = 0;
    for (int i = 0; i < k; ++i) {
        before += p[i];
        if (chosen >> i & 1) after += p[i];
    }
    for (int i = k; i < count; ++i)
        after += p[position[i]];
    return {before, after};
}

}  // namespace

template <bool kCurvature, int kTopK>
inline SetLoss::Terms SetLoss::tokenTermsFor(std::size_t token, std::uint32_t word, double rest, const ExpertBits& kept) const
{
    Terms terms;
    const int k = kTopK > 0 ? kTopK : m_own;
    const int uses = kTopK > 0 ? kTopK : m_topK;
    const std::uint32_t own = (std::uint32_t{1} << k) - 1;
    const double energy = m_evaluator.routedEnergy()[token];
    std::uint32_t chosen = word & own;  // of the token's own positions
    if (uses == k && chosen == own) {
        // The same experts. Rule A: the same weights.
        terms.last = k - 1;
        if (m_renormalised) return terms;
        const double growth = (1.0 - rest) / rest;
        terms.q = growth * growth * energy;
        terms.vv = energy;
        terms.va = growth * energy;
        return terms;
    }
    const double* p = m_listProbability.data() + token * static_cast<std::size_t>(m_length);
    int position[2 * kMaxTopK];
    int stay = std::popcount(chosen);
    for (; stay > uses; --stay)
        chosen ^= std::bit_floor(chosen);
    int count = k;
    const int wanted = k + uses - stay;
    for (std::uint32_t left = word & ~own; left != 0 && count < wanted; left &= left - 1)
        position[count++] = std::countr_zero(left);
    if (count < wanted && m_length > kWordBits) {
        const std::uint16_t* list = m_evaluator.store().list.data() + token * static_cast<std::size_t>(m_length);
        for (int i = kWordBits; i < m_length && count < wanted; ++i)
            if (kept.contains(list[i])) position[count++] = i;
    }
    if (count < wanted) {
        terms.q = energy;
        terms.last = kUncovered;
        return terms;
    }
    // NOLINTNEXTLINE(clang-analyzer-core.uninitialized.Assign): position[k .. count - 1] are set
    terms.last = count > k ? position[count - 1] : std::bit_width(chosen) - 1;

    double before = 1.0;
    double after = rest;
    if (m_renormalised) std::tie(before, after) = probabilitySums(p, k, chosen, position, count);
    // a = v / after - w over the token's own positions 0 .. k-1 and the new ones.
    const double scaleBefore = m_scale / before;
    const double scaleAfter = m_scale / after;
    double a[2 * kMaxTopK];
    double v[2 * kMaxTopK];
    for (int i = 0; i < k; ++i) {
        const bool stays = (chosen >> i & 1) != 0;
        a[i] = p[i] * ((stays ? scaleAfter : 0.0) - scaleBefore);
        if constexpr (kCurvature) v[i] = stays ? m_scale * p[i] : 0.0;
    }
    for (int i = k; i < count; ++i) {
        a[i] = p[position[i]] * scaleAfter;
        if constexpr (kCurvature) v[i] = m_scale * p[position[i]];
    }
    const double* triangle = m_evaluator.store().products.data() + token * m_evaluator.store().triangle();
    double q = 0;
    // Rows of the token's own positions, then those of the new ones: the first k columns lie side by side.
    const double* row = triangle;
    for (int i = 0; i < k; row += ++i) {
        double rowA = 0;
        double rowV = 0;
        for (int j = 0; j < i; ++j) {
            rowA += a[j] * row[j];
            if constexpr (kCurvature) rowV += v[j] * row[j];
        }
        q += a[i] * (2 * rowA + a[i] * row[i]);
        if constexpr (kCurvature) {
            terms.vv += v[i] * (2 * rowV + v[i] * row[i]);
            terms.va += v[i] * (rowA + a[i] * row[i]) + a[i] * rowV;
        }
    }
    for (int i = k; i < count; ++i) {
        const int at = position[i];
        row = triangle + static_cast<std::ptrdiff_t>(at) * (at + 1) / 2;
        double rowA = 0;
        double rowV = 0;
        for (int j = 0; j < k; ++j) {
            rowA += a[j] * row[j];
            if constexpr (kCurvature) rowV += v[j] * row[j];
        }
        for (int j = k; j < i; ++j) {
            rowA += a[j] * row[position[j]];
            if constexpr (kCurvature) rowV += v[j] * row[position[j]];
        }
        q += a[i] * (2 * rowA + a[i] * row[at]);
        if constexpr (kCurvature) {
            terms.vv += v[i] * (2 * rowV + v[i] * row[at]);
            terms.va += v[i] * (rowA + a[i] * row[at]) + a[i] * rowV;
        }
    }
    // Rounding of a difference of equal vectors may leave a tiny negative number.
    terms.q = std::max(q, 0.0);
    return terms;
}

GramLoss SetLoss::evaluate(const ExpertBits& kept)
{
    if (!m_fast) return m_evaluator.evaluate(kept.toSet());
    GramLoss loss;
    loss.tokens = static_cast<std::int64_t>(m_tokens);
    if (kept.count() == experts() && m_topK == m_own) return loss;
    positionWords(kept, m_words);
    if (!m_renormalised) remainingMass(kept, m_rest);
    switch (m_topK == m_own ? m_own : 0) {
        case 2:
            addTokens<2>(kept, loss);
            break;
        case 4:
            addTokens<4>(kept, loss);
            break;
        case 6:
            addTokens<6>(kept, loss);
            break;
        case 8:
            addTokens<8>(kept, loss);
            break;
        default:
            addTokens<0>(kept, loss);
    }
    return loss;
}

template <int kTopK>
void SetLoss::addTokens(const ExpertBits& kept, GramLoss& loss) const
{
    const std::uint32_t own = (std::uint32_t{1} << m_own) - 1;
    const double* energy = m_evaluator.routedEnergy().data();
    double squared = 0;
    for (std::size_t t = 0; t < m_tokens; ++t) {
        if (m_topK == m_own && (m_words[t] & own) == own) {
            if (m_renormalised) continue;
            const double growth = (1.0 - m_rest[t]) / m_rest[t];
            squared += growth * growth * energy[t];
            continue;
        }
        const Terms terms = tokenTermsFor<false, kTopK>(t, m_words[t], m_renormalised ? 1.0 : m_rest[t], kept);
        squared += terms.q;
        if (terms.last == kUncovered) {
            ++loss.uncovered;
            loss.chargedSquared += terms.q;
        }
    }
    loss.squared = squared;
}

LossState::LossState(SetLoss& loss, const ExpertBits& kept) : m_loss(&loss), m_kept(kept)
{
    if (!loss.fast()) {
        m_squared = loss.evaluate(kept).squared;
        return;
    }
    const std::size_t tokens = loss.m_tokens;
    loss.positionWords(kept, m_words);
    m_last.resize(tokens);
    m_q.resize(tokens);
    if (!loss.m_renormalised) {
        loss.remainingMass(kept, m_rest);
        m_vv.resize(tokens);
        m_va.resize(tokens);
    }
    for (std::size_t t = 0; t < tokens; ++t) {
        setTerms(t);
        m_squared += m_q[t];
    }
}

void LossState::setTerms(std::size_t token)
{
    if (m_loss->m_renormalised) {
        const SetLoss::Terms terms = m_loss->tokenTerms<false>(token, m_words[token], 1.0, m_kept);
        m_q[token] = terms.q;
        m_last[token] = terms.last;
        return;
    }
    const SetLoss::Terms terms = m_loss->tokenTerms<true>(token, m_words[token], m_rest[token], m_kept);
    m_q[token] = terms.q;
    m_last[token] = terms.last;
    m_vv[token] = terms.vv;
    m_va[token] = terms.va;
}

void LossState::remove(int expert) { *this = LossState(*m_loss, m_kept.without(expert)); }

void LossState::add(int expert) { *this = LossState(*m_loss, m_kept.with(expert)); }

double LossState::squaredWithout(int expert) const
{
    assert(m_kept.contains(expert));
    const ExpertBits kept = m_kept.without(expert);
    if (!m_loss->fast()) return m_loss->evaluate(kept).squared;
    const SetLoss& loss = *m_loss;
    const auto e = static_cast<std::size_t>(expert);
    const std::size_t first = loss.m_listingStart[e];
    const std::size_t end = loss.m_listingStart[e + 1];
    double delta = 0;
    if (!loss.m_renormalised) {
        // Every token's denominator loses p; those that have selected the expert are taken out again by their own terms below.
        // There p may be nearly all that is left, so the selected ones are masked rather than subtracted.
        thread_local std::vector<double> mass;
        const double* p = loss.m_column.data() + e * loss.m_tokens;
        mass.assign(p, p + loss.m_tokens);
        for (std::size_t i = first; i < end; ++i)
            if (static_cast<int>(loss.m_listing[i].position) <= m_last[loss.m_listing[i].token]) mass[loss.m_listing[i].token] = 0;
        const double* own = mass.data();
        double linear = 0;
        double square = 0;
        for (std::size_t t = 0; t < loss.m_tokens; ++t) {
            const double d = own[t] / (m_rest[t] * (m_rest[t] - own[t]));
            linear += d * m_va[t];
            square += d * d * m_vv[t];
        }
        delta = 2 * linear + square;
    }
    for (std::size_t i = first; i < end; ++i) {
        const auto [token, position] = loss.m_listing[i];
        if (m_last[token] == SetLoss::kUncovered || static_cast<int>(position) > m_last[token]) continue;
        const std::uint32_t word = position < SetLoss::kWordBits ? m_words[token] & ~(std::uint32_t{1} << position) : m_words[token];
        double rest = 1.0;
        if (!loss.m_renormalised) {
            const double p = loss.m_listProbability[token * static_cast<std::size_t>(loss.m_length) + position];
            rest = p > 0.5 * m_rest[token] ? loss.exactMass(token, kept) : m_rest[token] - p;
        }
        delta += loss.tokenTerms<false>(token, word, rest, kept).q - m_q[token];
    }
    return std::max(m_squared + delta, 0.0);
}

double LossState::squaredWith(int expert) const
{
    assert(!m_kept.contains(expert));
    const ExpertBits kept = m_kept.with(expert);
    if (!m_loss->fast()) return m_loss->evaluate(kept).squared;
    const SetLoss& loss = *m_loss;
    const auto e = static_cast<std::size_t>(expert);
    const double* p = loss.m_renormalised ? nullptr : loss.m_column.data() + e * loss.m_tokens;
    double delta = 0;
    if (p) {
        double linear = 0;
        double square = 0;
        for (std::size_t t = 0; t < loss.m_tokens; ++t) {
            const double d = -p[t] / (m_rest[t] * (m_rest[t] + p[t]));
            linear += d * m_va[t];
            square += d * d * m_vv[t];
        }
        delta = 2 * linear + square;
    }
    for (std::size_t i = loss.m_listingStart[e]; i < loss.m_listingStart[e + 1]; ++i) {
        const auto [token, position] = loss.m_listing[i];
        if (static_cast<int>(position) > m_last[token]) continue;
        if (p) {
            const double d = -p[token] / (m_rest[token] * (m_rest[token] + p[token]));
            delta -= 2 * d * m_va[token] + d * d * m_vv[token];
        }
        const std::uint32_t word = position < SetLoss::kWordBits ? m_words[token] | std::uint32_t{1} << position : m_words[token];
        const double rest = p ? std::min(m_rest[token] + p[token], 1.0) : 1.0;
        delta += loss.tokenTerms<false>(token, word, rest, kept).q - m_q[token];
    }
    return std::max(m_squared + delta, 0.0);
}

std::vector<double> LossState::squaredWithoutEach() const
{
    std::vector<double> losses(static_cast<std::size_t>(m_loss->experts()), std::numeric_limits<double>::infinity());
    if (m_kept.count() <= m_loss->topK()) return losses;
    for (int e = 0; e < m_loss->experts(); ++e)
        if (m_kept.contains(e)) losses[static_cast<std::size_t>(e)] = squaredWithout(e);
    return losses;
}

}  // namespace espalier
