// One rank budget over many matrices. Pure arithmetic, deterministic, any thread.
#pragma once

#include "base/error.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace espalier
{

// A matrix that is either factored, at rankCost per rank, or dense, at denseCost and without error.
struct SplitMatrix {
    std::span<const double> error;  // E(r), r = 0..; falls, ever more slowly (sums of discarded squares). Not owned.
    double weight = 1;              // the loss of rank r is weight * E(r)
    std::int64_t rankCost = 1;
    std::int64_t denseCost = 1;
    int maxRank = 0;  // of the factored form: below break-even

    double loss(int rank) const { return rank == 0 ? 0.0 : weight * error[static_cast<std::size_t>(rank)]; }
    std::int64_t cost(int rank) const { return rank == 0 ? denseCost : rankCost * rank; }
};

struct RankSplit {
    std::vector<int> ranks;  // 0 = dense
    std::int64_t cost = 0;
    double loss = 0;
    double dualBound = 0;  // no split within the budget loses less
    double gap = 0;
    std::string method;  // "dp", "lagrangian", "all"
    bool optimal = false;
};

// For one price per unit of cost, the choice of every matrix at once, in time logarithmic in its rank. Ranks are multiples of
// `multipleOf`, at least one multiple; a matrix whose break-even lies below it can only stay dense.
class RankPrices
{
public:
    RankPrices(std::vector<SplitMatrix> matrices, int multipleOf);

    std::size_t count() const noexcept { return m_matrices.size(); }
    const SplitMatrix& matrix(std::size_t i) const { return m_matrices[i]; }
    // The rank that minimises loss + price * cost: the cheapest of equals.
    int rankAt(std::size_t matrix, double price) const;
    // The cheapest form, and the next dearer form than `rank` (-1: none; 0: dense).
    int cheapest(std::size_t matrix) const;
    int next(std::size_t matrix, int rank) const;
    // A price above which every matrix takes its cheapest form.
    double ceiling() const noexcept { return m_ceiling; }

private:
    int options(std::size_t matrix) const { return m_matrices[matrix].maxRank / m_step + 1; }
    int rankOf(std::size_t matrix, int option) const { return option + 1 == options(matrix) ? 0 : (option + 1) * m_step; }

    std::vector<SplitMatrix> m_matrices;
    int m_step;
    std::vector<std::int32_t> m_hull;  // options on the lower hull of every matrix, one list after the other
    std::vector<std::size_t> m_begin;  // of each matrix's list, and the end
    double m_ceiling = 0;
};

// Least loss with cost <= budget: the multiplier, filled up rank by rank, and where few matrices (one layer) leave a gap of more than
// 1e-4, dynamic programming.
// Error: allocate.infeasible.
Result<RankSplit> splitRanks(const std::vector<SplitMatrix>& matrices, std::int64_t budget, int multipleOf = 1);

}  // namespace espalier
