// Low-rank factors of expert matrices: one decomposition per matrix gives every rank, so a changed rank costs a copy.
#pragma once

#include "base/error.h"
#include "lowrank/plain_svd.h"
#include "model/layer_weights.h"

#include <cstdint>
#include <map>
#include <memory>
#include <span>

namespace espalier
{

class Checkpoint;

struct FactorRequest {
    int expert = 0;  // original id
    int matrix = 0;  // 0 gate, 1 up, 2 down
    int rank = 0;
};

// Belongs to the compute thread.
class FactorStore
{
public:
    FactorStore(std::shared_ptr<const Checkpoint> checkpoint, at::ScalarType compute, std::int64_t budget)
        : m_checkpoint(std::move(checkpoint)), m_compute(compute), m_budget(budget)
    {
    }

    // Factors in the order of the requests, rounded to the stored dtype of the matrix and then converted to the compute type.
    // Missing decompositions are computed side by side, one thread each. Least recently used ones of other layers go beyond the budget.
    Result<std::vector<Linear>> factors(int layer, std::span<const FactorRequest> requests);
    std::int64_t bytes() const { return m_bytes; }
    void release();

private:
    struct Key {
        int layer, expert, matrix;
        auto operator<=>(const Key&) const = default;
    };
    struct Entry {
        PlainSvd svd;
        at::ScalarType stored = at::kFloat;
        int rank = 0;
        Linear factors;
        std::int64_t bytes = 0;
        std::uint64_t used = 0;
    };

    const std::shared_ptr<const Checkpoint> m_checkpoint;
    const at::ScalarType m_compute;
    const std::int64_t m_budget;
    std::map<Key, Entry> m_entries;
    std::int64_t m_bytes = 0;
    std::uint64_t m_clock = 0;
};

}  // namespace espalier
