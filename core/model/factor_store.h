// Low-rank factors of expert matrices: one decomposition per matrix gives every rank, so a changed rank costs a copy.
// Plain factors are decomposed here; whitened ones are made from the basis that a profile holds (plan/factor_source.h).
#pragma once

#include "base/error.h"
#include "lowrank/plain_svd.h"
#include "lowrank/whitened_svd.h"
#include "model/layer_weights.h"
#include "model/placement.h"
#include "plan/factor_source.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <variant>

namespace espalier
{

class Checkpoint;

struct FactorRequest {
    int expert = 0;  // original id
    int matrix = 0;  // 0 gate, 1 up, 2 down
    int rank = 0;
};

// Factors of one matrix for every rank (under one rule of the profile). What a preview runs and what an export writes both come from here.
struct MatrixFactors {
    std::variant<PlainSvd, ProjectionFactors> all;
    at::ScalarType stored = at::kFloat;  // dtype the checkpoint holds the matrix in

    // Contiguous, rounded once from fp32 to `stored`.
    Factors factors(int rank) const;
    std::int64_t bytes() const;
};
// `source` null: plain SVD. Any thread; on one thread, so that the same matrix gives the same bits wherever it is asked for.
// Errors: checkpoint.*, lowrank.*, plan.profile_without_factors, profile.*.
Result<MatrixFactors> matrixFactors(const Checkpoint& checkpoint, const FactorSource* source, int layer, const FactorRequest& request);

// Runs `one` for 0 .. count - 1 side by side, each call on one thread even when there is a single one: a matrix product by several
// threads may round otherwise.
void eachOnOneThread(std::size_t count, const std::function<void(std::size_t)>& one);

// Belongs to the compute thread.
class FactorStore
{
public:
    FactorStore(std::shared_ptr<const Checkpoint> checkpoint, at::ScalarType compute, const Placement& placement, std::int64_t budget)
        : m_checkpoint(std::move(checkpoint)), m_compute(compute), m_placement(placement), m_budget(budget)
    {
    }

    // Factors in the order of the requests (`source` as in matrixFactors), rounded to the stored dtype of the matrix and then converted to
    // the compute type. Missing decompositions are computed side by side, one thread each. Least recently used ones of other layers go
    // beyond the budget.
    Result<std::vector<Linear>> factors(int layer, const std::shared_ptr<const FactorSource>& source,
                                        std::span<const FactorRequest> requests);
    std::int64_t bytes() const { return m_bytes; }
    void release();

private:
    struct Key {
        int layer, expert, matrix;
        std::string variant;                           // hash and rule of the profile; empty for plain factors
        auto operator<=>(const Key&) const = default;  // NOLINT(modernize-use-nullptr): the 0 that a comparison expands to
    };
    struct Entry {
        MatrixFactors all;
        int rank = 0;
        Linear factors;
        std::int64_t bytes = 0;
        std::uint64_t used = 0;
    };

    const std::shared_ptr<const Checkpoint> m_checkpoint;
    const at::ScalarType m_compute;
    const Placement m_placement;
    const std::int64_t m_budget;
    std::map<Key, Entry> m_entries;
    std::int64_t m_bytes = 0;
    std::uint64_t m_clock = 0;
};

}  // namespace espalier
