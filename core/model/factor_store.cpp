#include "model/factor_store.h"

#include "checkpoint/checkpoint.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <optional>

namespace espalier
{

Result<std::vector<Linear>> FactorStore::factors(int layer, std::span<const FactorRequest> requests)
{
    std::vector<FactorRequest> missing;
    for (const FactorRequest& request : requests)
        if (!m_entries.contains({layer, request.expert, request.matrix})) missing.push_back(request);

    std::vector<Entry> computed(missing.size());
    std::vector<std::optional<Error>> errors(missing.size());
    at::parallel_for(0, static_cast<std::int64_t>(missing.size()), 1, [&](std::int64_t begin, std::int64_t end) {
        const c10::InferenceMode guard;
        for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
            auto matrix = loadExpertMatrix(*m_checkpoint, layer, missing[i].expert, missing[i].matrix);
            if (!matrix) {
                errors[i] = matrix.error();
                continue;
            }
            auto svd = PlainSvd::of(matrix->weight);
            if (!svd) {
                errors[i] = svd.error();
                continue;
            }
            computed[i].svd = std::move(svd).value();
            computed[i].stored = matrix->stored;
        }
    });
    for (std::size_t i = 0; i < missing.size(); ++i) {
        if (errors[i]) return *errors[i];
        m_entries.emplace(Key{layer, missing[i].expert, missing[i].matrix}, std::move(computed[i]));
    }

    std::vector<Linear> result;
    result.reserve(requests.size());
    ++m_clock;
    for (const FactorRequest& request : requests) {
        Entry& entry = m_entries.at({layer, request.expert, request.matrix});
        entry.used = m_clock;
        if (entry.rank != request.rank) {
            const Factors factors = entry.svd.factors(request.rank, entry.stored);
            entry.factors.u = factors.u.to(m_compute);
            entry.factors.v = factors.v.to(m_compute);
            entry.rank = request.rank;
            const std::int64_t bytes = entry.svd.bytes() + static_cast<std::int64_t>(entry.factors.u.nbytes() + entry.factors.v.nbytes());
            m_bytes += bytes - entry.bytes;
            entry.bytes = bytes;
        }
        result.push_back(entry.factors);
    }
    while (m_bytes > m_budget) {
        const auto oldest = std::min_element(m_entries.begin(), m_entries.end(),
                                             [](const auto& a, const auto& b) { return a.second.used < b.second.used; });
        if (oldest->second.used == m_clock) break;
        m_bytes -= oldest->second.bytes;
        m_entries.erase(oldest);
    }
    return result;
}

void FactorStore::release()
{
    m_entries.clear();
    m_bytes = 0;
}

}  // namespace espalier
