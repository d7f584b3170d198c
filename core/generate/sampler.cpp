#include "generate/sampler.h"

#include "base/random.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace espalier
{

namespace
{

// Ids by logit, descending, ties to the lower id; as many as are asked for.
class Ranking
{
public:
    explicit Ranking(std::span<const float> logits) : m_logits(logits), m_ids(logits.size()) { std::iota(m_ids.begin(), m_ids.end(), 0); }
    std::span<const int> first(std::size_t count)
    {
        count = std::min(count, m_ids.size());
        if (count > m_sorted) {
            const auto before = [this](int a, int b) {
                const float x = m_logits[static_cast<std::size_t>(a)];
                const float y = m_logits[static_cast<std::size_t>(b)];
                return x != y ? x > y : a < b;
            };
            std::partial_sort(m_ids.begin() + static_cast<std::ptrdiff_t>(m_sorted), m_ids.begin() + static_cast<std::ptrdiff_t>(count),
                              m_ids.end(), before);
            m_sorted = count;
        }
        return {m_ids.data(), count};
    }

private:
    std::span<const float> m_logits;
    std::vector<int> m_ids;
    std::size_t m_sorted = 0;
};

int drawn(std::span<const float> logits, const Sampling& sampling, std::uint64_t index, double largest)
{
    const auto weight = [&](int id) { return std::exp((logits[static_cast<std::size_t>(id)] - largest) / sampling.temperature); };
    double total = 0;
    for (int id = 0; id < std::ssize(logits); ++id)
        total += weight(id);
    const double at = Random::forPurpose(sampling.seed, "generate", index).uniform();
    Ranking ranking(logits);
    // The fewest tokens that have topP together, then the one among them where `at` of their sum is reached.
    double nucleus = 0;
    std::size_t count = 0;
    while (count < logits.size() && (count == 0 || nucleus < sampling.topP * total)) {
        const std::span<const int> ids = ranking.first(std::max<std::size_t>(64, 2 * count));
        while (count < ids.size() && (count == 0 || nucleus < sampling.topP * total))
            nucleus += weight(ids[count++]);
    }
    const std::span<const int> ids = ranking.first(count);
    double reached = 0;
    for (const int id : ids) {
        reached += weight(id);
        if (at * nucleus < reached) return id;
    }
    return ids.back();
}

}  // namespace

TokenChoice chooseToken(std::span<const float> logits, const Sampling& sampling, std::uint64_t index, int alternatives)
{
    const auto top = std::max_element(logits.begin(), logits.end());
    const double largest = *top;
    double sum = 0;
    for (const float logit : logits)
        sum += std::exp(logit - largest);
    const auto chance = [&](int id) { return TokenChance{id, logits[static_cast<std::size_t>(id)] - largest - std::log(sum)}; };
    TokenChoice choice;
    choice.chosen = chance(sampling.temperature > 0 ? drawn(logits, sampling, index, largest) : static_cast<int>(top - logits.begin()));
    if (alternatives > 0) {
        Ranking ranking(logits);
        for (const int id : ranking.first(static_cast<std::size_t>(alternatives)))
            choice.alternatives.push_back(chance(id));
    }
    return choice;
}

}  // namespace espalier
