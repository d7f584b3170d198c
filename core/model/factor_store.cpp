#include "model/factor_store.h"

#include "checkpoint/checkpoint.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>

namespace espalier
{

Factors MatrixFactors::factors(int rank) const
{
    return std::visit([&](const auto& form) { return form.factors(rank, stored); }, all);
}

std::int64_t MatrixFactors::bytes() const
{
    return std::visit([](const auto& form) { return form.bytes(); }, all);
}

Result<MatrixFactors> matrixFactors(const Checkpoint& checkpoint, const FactorSource* source, int layer, const FactorRequest& request)
{
    const c10::InferenceMode guard;
    ESPALIER_TRY(const StoredMatrix matrix, loadExpertMatrix(checkpoint, layer, request.expert, request.matrix));
    MatrixFactors result;
    result.stored = matrix.stored;
    if (!source) {
        ESPALIER_TRY(result.all, PlainSvd::of(matrix.weight));
        return result;
    }
    ESPALIER_TRY(const FactorBasis basis, source->basis(layer, request.expert, request.matrix, request.rank));
    if (basis.rows != matrix.weight.size(0))
        return badInput("profile.invalid", "profile",
                        fmt::format("The basis of expert {} in layer {} has {} rows, the matrix {}.", request.expert, layer, basis.rows,
                                    matrix.weight.size(0)),
                        "Take the profile of this model again.");
    const at::Tensor q = at::from_blob(const_cast<float*>(basis.values.data()), {basis.rows, basis.columns}, at::kFloat);
    ESPALIER_TRY(result.all, ProjectionFactors::of(matrix.weight, q));
    return result;
}

void eachOnOneThread(std::size_t count, const std::function<void(std::size_t)>& one)
{
    // At least two: a single one would run outside of a parallel region, where a product takes all threads.
    at::parallel_for(0, static_cast<std::int64_t>(std::max<std::size_t>(count, 2)), 1, [&](std::int64_t begin, std::int64_t end) {
        for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end) && i < count; ++i)
            one(i);
    });
}

Result<std::vector<Linear>> FactorStore::factors(int layer, const std::shared_ptr<const FactorSource>& source,
                                                 std::span<const FactorRequest> requests)
{
    const auto keyOf = [&](const FactorRequest& request) {
        Key key{layer, request.expert, request.matrix, {}};
        if (source) {
            key.variant = factorRuleName(source->rule(layer, request.expert, request.rank, request.matrix));
            key.variant += source->profileSha256();
        }
        return key;
    };
    std::vector<FactorRequest> missing;
    for (const FactorRequest& request : requests)
        if (!m_entries.contains(keyOf(request))) missing.push_back(request);

    std::vector<Entry> computed(missing.size());
    std::vector<std::optional<Error>> errors(missing.size());
    eachOnOneThread(missing.size(), [&](std::size_t i) {
        auto all = matrixFactors(*m_checkpoint, source.get(), layer, missing[i]);
        if (all)
            computed[i].all = std::move(all).value();
        else
            errors[i] = all.error();
    });
    for (std::size_t i = 0; i < missing.size(); ++i) {
        if (errors[i]) return *errors[i];
        m_entries.emplace(keyOf(missing[i]), std::move(computed[i]));
    }

    std::vector<Linear> result;
    result.reserve(requests.size());
    ++m_clock;
    for (const FactorRequest& request : requests) {
        Entry& entry = m_entries.at(keyOf(request));
        entry.used = m_clock;
        if (entry.rank != request.rank) {
            const Factors factors = entry.all.factors(request.rank);
            const auto placed = [&](const at::Tensor& factor) {
                return m_placement.portable ? WeightMatrix::plain(factor.to(m_placement.device, m_compute))
                                            : WeightMatrix::packed(factor.to(m_compute));
            };
            entry.factors.u = placed(factors.u);
            entry.factors.v = placed(factors.v);
            entry.rank = request.rank;
            const std::int64_t bytes = entry.all.bytes() + entry.factors.u.bytes() + entry.factors.v.bytes();
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
