#include "score/gram_loss.h"

#include "plan/routing.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

namespace espalier
{

namespace
{

// Packed lower triangle: <y_a, y_b> for list positions a, b.
double product(const double* triangle, int a, int b)
{
    if (a < b) std::swap(a, b);
    return triangle[static_cast<std::size_t>(a) * static_cast<std::size_t>(a + 1) / 2 + static_cast<std::size_t>(b)];
}

// A sparse vector over list positions, at most 2k long.
struct Change {
    std::vector<int> position;
    std::vector<double> weight;

    void clear()
    {
        position.clear();
        weight.clear();
    }
    void add(int at, double value)
    {
        for (std::size_t i = 0; i < position.size(); ++i)
            if (position[i] == at) {
                weight[i] += value;
                return;
            }
        position.push_back(at);
        weight.push_back(value);
    }
    double energy(const double* triangle) const
    {
        double sum = 0;
        for (std::size_t i = 0; i < position.size(); ++i) {
            double row = 0;
            for (std::size_t j = 0; j < i; ++j)
                row += weight[j] * product(triangle, position[i], position[j]);
            sum += weight[i] * (2 * row + weight[i] * product(triangle, position[i], position[i]));
        }
        // Rounding of a difference of equal vectors may leave a tiny negative number.
        return std::max(sum, 0.0);
    }
};

int positionOf(const std::uint16_t* list, int length, int expert)
{
    for (int i = 0; i < length; ++i)
        if (list[i] == expert) return i;
    return -1;
}

}  // namespace

double GramLoss::loss() const { return std::sqrt(squared); }

GramEvaluator::GramEvaluator(const LayerProfile& layer, const RouterShape& reference, std::optional<int> topK)
    : m_store(layer.gram), m_reference(reference), m_router(reference), m_experts(layer.experts), m_topK(topK.value_or(reference.topK))
{
    assert(m_topK >= 1 && m_topK <= reference.topK);
    m_router.topK = m_topK;
    const std::size_t tokens = m_store.tokenCount();
    m_energy.assign(tokens, 0.0);
    if (plainOrder())
        m_probability.resize(tokens * static_cast<std::size_t>(m_experts));
    else if (tokens > 0)
        m_order.emplace(m_store, m_router, m_experts);
    for (std::size_t t = 0; t < tokens; ++t)
        prepareToken(t);
}

bool GramEvaluator::plainOrder() const noexcept
{
    if (m_router.skip) return false;
    switch (m_router.rule) {
        case RoutingRule::SoftmaxRenormalised:
        case RoutingRule::Softmax:
            return true;
        case RoutingRule::GroupLimitedSoftmax:
            return m_router.groups <= 1 || m_router.topGroups >= m_router.groups;
        case RoutingRule::SigmoidBias:
            return m_router.normalise && (m_router.groups <= 1 || m_router.topGroups >= m_router.groups);
        default:
            return false;
    }
}

bool GramEvaluator::renormalised() const noexcept
{
    return m_router.rule == RoutingRule::SoftmaxRenormalised || m_router.rule == RoutingRule::SigmoidBias;
}

double GramEvaluator::scale() const noexcept { return m_router.rule == RoutingRule::SoftmaxRenormalised ? 1.0 : m_router.scaling; }

double GramEvaluator::outputNorm() const noexcept { return std::sqrt(m_store.outputEnergy); }

void GramEvaluator::prepareToken(std::size_t token)
{
    const auto n = static_cast<std::size_t>(m_experts);
    const std::span<const float> logits(m_store.logits.data() + token * n, n);
    const auto length = static_cast<std::size_t>(m_store.listLength);
    const std::uint16_t* list = m_store.list.data() + token * length;
    const double* triangle = m_store.products.data() + token * m_store.triangle();
    if (plainOrder()) {
        double* p = m_probability.data() + token * n;
        const bool sigmoid = m_router.rule == RoutingRule::SigmoidBias;
        const double top = *std::max_element(logits.begin(), logits.end());
        double sum = 0;
        for (std::size_t e = 0; e < n; ++e)
            sum += p[e] =
                sigmoid ? 1.0 / (1.0 + std::exp(-static_cast<double>(logits[e]))) : std::exp(static_cast<double>(logits[e]) - top);
        for (std::size_t e = 0; e < n && !sigmoid; ++e)
            p[e] /= sum;
    }
    const Routing all = route(m_reference, logits, {}, m_store.selectionBias);
    Change weights;
    for (std::size_t i = 0; i < all.experts.size(); ++i) {
        const int position = positionOf(list, m_store.listLength, all.experts[i]);
        if (position >= 0) weights.add(position, all.weights[i]);
        if (!plainOrder()) {
            m_fullPosition.push_back(position);
            m_fullWeight.push_back(all.weights[i]);
        }
    }
    m_energy[token] = weights.energy(triangle);
}

GramLoss GramEvaluator::evaluate(std::span<const int> kept) const
{
    if (!plainOrder()) return evaluateGeneric(kept);
    const auto n = static_cast<std::size_t>(m_experts);
    const int length = m_store.listLength;
    const int k = m_reference.topK;
    const bool renormalised = this->renormalised();
    std::vector<bool> keeps(n, false);
    for (const int e : kept)
        keeps[static_cast<std::size_t>(e)] = true;

    GramLoss loss;
    loss.tokens = tokens();
    if (kept.size() == n && sameTopK()) return loss;  // exactly nothing, whatever the probabilities add up to
    Change change;
    std::vector<int> now(static_cast<std::size_t>(m_topK));
    for (std::size_t t = 0; t < m_store.tokenCount(); ++t) {
        const std::uint16_t* list = m_store.list.data() + t * static_cast<std::size_t>(length);
        const double* p = m_probability.data() + t * n;
        int found = 0;
        for (int i = 0; i < length && found < m_topK; ++i)
            if (keeps[list[i]]) now[static_cast<std::size_t>(found++)] = i;
        if (found < m_topK) {
            ++loss.uncovered;
            loss.chargedSquared += m_energy[t];
            loss.squared += m_energy[t];
            continue;
        }
        double before = 1.0;
        double after = 0;
        if (renormalised) {
            if (now.back() == k - 1 && sameTopK()) continue;  // the same experts, the same weights
            before = 0;
            for (int i = 0; i < k; ++i)
                before += p[list[i]];
            for (const int i : now)
                after += p[list[i]];
        } else {
            for (const int e : kept)
                after += p[e];
        }
        const double scale = this->scale();
        change.clear();
        for (const int i : now)
            change.add(i, scale * p[list[i]] / after);
        for (int i = 0; i < k; ++i)
            change.add(i, -scale * p[list[i]] / before);
        loss.squared += change.energy(m_store.products.data() + t * m_store.triangle());
    }
    return loss;
}

GramLoss GramEvaluator::evaluateGeneric(std::span<const int> kept) const
{
    const auto n = static_cast<std::size_t>(m_experts);
    const int length = m_store.listLength;
    GramLoss loss;
    loss.tokens = tokens();
    if (m_store.tokenCount() == 0) return loss;
    const KeptGroups groups = m_order->groupsOf(kept);
    std::vector<int> position(static_cast<std::size_t>(m_topK));
    std::vector<double> weight(static_cast<std::size_t>(m_topK));
    Change change;
    for (std::size_t t = 0; t < m_store.tokenCount(); ++t) {
        change.clear();
        bool covered = true;
        if (!m_order->select(t, groups, position.data(), weight.data())) {
            const std::uint16_t* list = m_store.list.data() + t * static_cast<std::size_t>(length);
            const Routing after = route(m_router, {m_store.logits.data() + t * n, n}, kept, m_store.selectionBias);
            for (std::size_t i = 0; i < position.size(); ++i) {
                position[i] = i < after.experts.size() ? positionOf(list, length, after.experts[i]) : -1;
                weight[i] = i < after.experts.size() ? after.weights[i] : 0.0;
            }
        }
        for (std::size_t i = 0; i < position.size(); ++i) {
            covered = covered && position[i] >= 0;
            if (position[i] >= 0) change.add(position[i], weight[i]);
        }
        const auto k = static_cast<std::size_t>(m_reference.topK);
        for (std::size_t i = t * k; i < (t + 1) * k; ++i) {
            covered = covered && m_fullPosition[i] >= 0;
            if (m_fullPosition[i] >= 0) change.add(m_fullPosition[i], -m_fullWeight[i]);
        }
        if (!covered) {
            ++loss.uncovered;
            loss.chargedSquared += m_energy[t];
            loss.squared += m_energy[t];
        } else {
            loss.squared += change.energy(m_store.products.data() + t * m_store.triangle());
        }
    }
    return loss;
}

std::vector<GramLoss> GramEvaluator::leaveOneOut() const
{
    const auto n = static_cast<std::size_t>(m_experts);
    std::vector<GramLoss> losses(n);
    if (m_experts <= m_topK) {
        // Nothing may be removed: the price of doing it anyway is the whole routed output.
        for (GramLoss& loss : losses) {
            loss.tokens = loss.uncovered = tokens();
            loss.squared = loss.chargedSquared = std::accumulate(m_energy.begin(), m_energy.end(), 0.0);
        }
        return losses;
    }
    if (!plainOrder()) {
        for (int e = 0; e < m_experts; ++e) {
            std::vector<int> kept;
            for (int other = 0; other < m_experts; ++other)
                if (other != e) kept.push_back(other);
            losses[static_cast<std::size_t>(e)] = evaluateGeneric(kept);
        }
        return losses;
    }

    const int length = m_store.listLength;
    const int k = m_reference.topK;
    const bool renormalised = this->renormalised();
    const double scale = this->scale();
    const bool hasNext = length > m_topK;
    Change change;
    for (std::size_t t = 0; t < m_store.tokenCount(); ++t) {
        const std::uint16_t* list = m_store.list.data() + t * static_cast<std::size_t>(length);
        const double* p = m_probability.data() + t * n;
        const double* triangle = m_store.products.data() + t * m_store.triangle();
        const auto massOf = [&](int count) {
            double sum = 0;
            for (int i = 0; i < count; ++i)
                sum += p[list[i]];
            return sum;
        };
        const double before = renormalised ? massOf(k) : 1.0;
        const double selected = sameTopK() && renormalised ? before : massOf(m_topK);
        // Probability left when e is gone. The difference cancels when e has nearly all of it.
        const auto without = [&](double total, int e, bool amongSelected) {
            if (p[e] < 0.5 * total) return total - p[e];
            double rest = 0;
            if (amongSelected) {
                for (int i = 0; i < m_topK; ++i)
                    if (list[i] != e) rest += p[list[i]];
            } else {
                for (int other = 0; other < m_experts; ++other)
                    if (other != e) rest += p[other];
            }
            return rest;
        };
        // The candidate uses the first `count` of the list but for `out`, their probabilities divided by `after`.
        const auto energy = [&](int count, int out, double after) {
            change.clear();
            for (int i = 0; i < std::max(count, k); ++i) {
                const double probability = scale * p[list[i]];
                const double was = i < k ? probability / before : 0.0;
                const double is = i < count && i != out ? probability / after : 0.0;
                change.position.push_back(i);
                change.weight.push_back(is - was);
            }
            return change.energy(triangle);
        };
        for (int out = 0; out < m_topK; ++out) {
            const int e = list[out];
            GramLoss& loss = losses[static_cast<std::size_t>(e)];
            if (!hasNext) {
                ++loss.uncovered;
                loss.chargedSquared += m_energy[t];
                loss.squared += m_energy[t];
                continue;
            }
            loss.squared += energy(m_topK + 1, out, renormalised ? without(selected, e, true) + p[list[m_topK]] : without(1.0, e, false));
        }
        // Every other removal leaves the selection as it is. Rule A: at the model's top-k nothing changes.
        if (renormalised && sameTopK()) continue;
        const double unchanged = renormalised ? energy(m_topK, -1, selected) : 0.0;
        for (int e = 0; e < m_experts; ++e) {
            if (positionOf(list, m_topK, e) >= 0) continue;
            double& squared = losses[static_cast<std::size_t>(e)].squared;
            if (renormalised) {
                squared += unchanged;
            } else if (sameTopK()) {
                // Rule B: it only enlarges the weights, by p_e / (1 - p_e).
                const double growth = p[e] / without(1.0, e, false);
                squared += growth * growth * m_energy[t];
            } else {
                squared += energy(m_topK, -1, without(1.0, e, false));
            }
        }
    }
    for (GramLoss& loss : losses)
        loss.tokens = tokens();
    return losses;
}

}  // namespace espalier
