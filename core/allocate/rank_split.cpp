#include "allocate/rank_split.h"

#include "allocate/exact_solver.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <queue>

namespace espalier
{

namespace
{

// Where dynamic programming is cheap: the matrices of one layer.
constexpr std::size_t kProgramMatrices = 400;
constexpr std::size_t kProgramOptions = 400000;
constexpr std::size_t kProgramStates = 4096;
// With more matrices than these an answer this close to its bound is left alone: the program would take a second for nothing.
constexpr std::size_t kAlwaysMatrices = 32;
constexpr double kCloseEnough = 1e-4;

std::int64_t costOf(const RankPrices& prices, const std::vector<int>& ranks)
{
    std::int64_t cost = 0;
    for (std::size_t i = 0; i < ranks.size(); ++i)
        cost += prices.matrix(i).cost(ranks[i]);
    return cost;
}

double lossOf(const RankPrices& prices, const std::vector<int>& ranks)
{
    double loss = 0;
    for (std::size_t i = 0; i < ranks.size(); ++i)
        loss += prices.matrix(i).loss(ranks[i]);
    return loss;
}

std::vector<int> ranksAt(const RankPrices& prices, double price)
{
    std::vector<int> ranks(prices.count());
    for (std::size_t i = 0; i < ranks.size(); ++i)
        ranks[i] = prices.rankAt(i, price);
    return ranks;
}

// One more multiple, or dense at once, whatever saves most per cost and still fits.
void fillUp(const RankPrices& prices, std::vector<int>& ranks, std::int64_t left)
{
    struct Move {
        double rate;
        std::size_t matrix;
        int from;
        int to;
        std::int64_t cost;
    };
    const auto worse = [](const Move& a, const Move& b) {
        if (a.rate != b.rate) return a.rate < b.rate;
        return a.matrix != b.matrix ? a.matrix > b.matrix : a.cost > b.cost;
    };
    std::priority_queue<Move, std::vector<Move>, decltype(worse)> moves(worse);
    const auto offer = [&](std::size_t i) {
        const SplitMatrix& matrix = prices.matrix(i);
        const int from = ranks[i];
        if (from == 0) return;
        const int next = prices.next(i, from);
        for (const int to : {next, 0}) {
            const std::int64_t cost = matrix.cost(to) - matrix.cost(from);
            const double gain = matrix.loss(from) - matrix.loss(to);
            if (cost > left || gain <= 0) continue;
            moves.push({cost > 0 ? gain / static_cast<double>(cost) : HUGE_VAL, i, from, to, cost});
            if (next == 0) break;
        }
    };
    for (std::size_t i = 0; i < ranks.size(); ++i)
        offer(i);
    while (!moves.empty()) {
        const Move move = moves.top();
        moves.pop();
        if (ranks[move.matrix] != move.from || move.cost > left) continue;
        ranks[move.matrix] = move.to;
        left -= move.cost;
        offer(move.matrix);
    }
}

}  // namespace

RankPrices::RankPrices(std::vector<SplitMatrix> matrices, int multipleOf) : m_matrices(std::move(matrices)), m_step(std::max(1, multipleOf))
{
    m_begin.push_back(0);
    std::vector<std::int32_t> hull;
    for (std::size_t i = 0; i < m_matrices.size(); ++i) {
        SplitMatrix& matrix = m_matrices[i];
        matrix.maxRank = std::clamp(matrix.maxRank, 0, std::max(0, static_cast<int>(matrix.error.size()) - 1));
        // A rank that costs as much as the dense matrix is no option.
        if (matrix.rankCost > 0 && matrix.denseCost > 0)
            matrix.maxRank = static_cast<int>(std::min<std::int64_t>(matrix.maxRank, (matrix.denseCost - 1) / matrix.rankCost));
        hull.clear();
        const auto loss = [&](int option) { return matrix.loss(rankOf(i, option)); };
        const auto cost = [&](int option) { return static_cast<double>(matrix.cost(rankOf(i, option))); };
        for (int option = 0; option < options(i); ++option) {
            if (!hull.empty() && loss(option) >= loss(hull.back())) continue;
            while (hull.size() >= 2) {
                const int p = hull[hull.size() - 2];
                const int q = hull.back();
                if ((loss(p) - loss(q)) * (cost(option) - cost(q)) > (loss(q) - loss(option)) * (cost(q) - cost(p))) break;
                hull.pop_back();
            }
            hull.push_back(option);
        }
        if (hull.size() > 1) m_ceiling = std::max(m_ceiling, (loss(hull[0]) - loss(hull[1])) / (cost(hull[1]) - cost(hull[0])));
        m_hull.insert(m_hull.end(), hull.begin(), hull.end());
        m_begin.push_back(m_hull.size());
    }
}

int RankPrices::rankAt(std::size_t i, double price) const
{
    const SplitMatrix& matrix = m_matrices[i];
    // Slopes fall along the hull: the first point whose next step saves no more than the price.
    std::size_t low = m_begin[i];
    std::size_t high = m_begin[i + 1] - 1;
    while (low < high) {
        const std::size_t middle = low + (high - low) / 2;
        const int here = rankOf(i, m_hull[middle]);
        const int there = rankOf(i, m_hull[middle + 1]);
        const double saved = matrix.loss(here) - matrix.loss(there);
        const auto extra = static_cast<double>(matrix.cost(there) - matrix.cost(here));
        if (saved > price * extra)
            low = middle + 1;
        else
            high = middle;
    }
    return rankOf(i, m_hull[low]);
}

int RankPrices::cheapest(std::size_t i) const { return rankOf(i, 0); }

int RankPrices::next(std::size_t i, int rank) const
{
    if (rank == 0) return -1;
    return rankOf(i, rank / m_step);  // option of `rank` is rank / step - 1
}

Result<RankSplit> splitRanks(const std::vector<SplitMatrix>& matrices, std::int64_t budget, int multipleOf)
{
    const RankPrices prices(matrices, multipleOf);
    RankSplit split;
    split.ranks.resize(prices.count());
    std::int64_t most = 0;
    std::size_t options = 0;
    for (std::size_t i = 0; i < prices.count(); ++i) {
        split.ranks[i] = prices.cheapest(i);
        most += prices.matrix(i).denseCost;
        options += static_cast<std::size_t>(prices.matrix(i).maxRank) + 1;
    }
    split.cost = costOf(prices, split.ranks);
    if (split.cost > budget)
        return badInput("allocate.infeasible", fmt::format("budget {}", budget),
                        {"A rank budget of {budget} cannot be met: the feasible range is {cost} to {most}.",
                         {{"budget", budget}, {"cost", split.cost}, {"most", most}}},
                        "Choose a target in that range.");
    if (most <= budget) {
        std::fill(split.ranks.begin(), split.ranks.end(), 0);
        split.cost = most;
        split.method = "all";
        split.optimal = true;
        return split;
    }

    double low = 0;
    double high = prices.ceiling();
    const auto dualAt = [&](double price) {
        double sum = 0;
        double mixed = 0;
        for (std::size_t i = 0; i < prices.count(); ++i) {
            const int rank = prices.rankAt(i, price);
            sum += prices.matrix(i).loss(rank);
            mixed += price * static_cast<double>(prices.matrix(i).cost(rank));
        }
        return sum + (mixed - price * static_cast<double>(budget));
    };
    double bound = 0;
    for (int halving = 0; halving < 100; ++halving) {
        const double price = low + (high - low) / 2;
        if (price == low || price == high) break;
        (costOf(prices, ranksAt(prices, price)) > budget ? low : high) = price;
    }
    bound = std::max({0.0, dualAt(low), dualAt(high)});
    split.ranks = ranksAt(prices, high);
    fillUp(prices, split.ranks, budget - costOf(prices, split.ranks));
    split.method = "lagrangian";

    const double loss = lossOf(prices, split.ranks);
    const bool close = prices.count() > kAlwaysMatrices && loss - bound <= kCloseEnough * loss;
    if (!close && prices.count() <= kProgramMatrices && options <= kProgramOptions) {
        std::vector<SolverLayer> layers(prices.count());
        for (std::size_t i = 0; i < layers.size(); ++i)
            for (int rank = prices.cheapest(i); rank >= 0; rank = prices.next(i, rank))
                layers[i].push_back({prices.matrix(i).cost(rank), prices.matrix(i).loss(rank), rank});
        SolverSettings settings;
        settings.maxStates = kProgramStates;
        ESPALIER_TRY(const SolverAnswer answer, solveExact(layers, budget, settings));
        if (answer.optimal || answer.loss < loss) {
            split.ranks = answer.payload;
            split.method = answer.method == "greedy" ? "lagrangian" : answer.method;
            split.optimal = answer.optimal;
        }
    }
    split.cost = costOf(prices, split.ranks);
    split.loss = lossOf(prices, split.ranks);
    split.dualBound = std::min(bound, split.loss);
    split.gap = split.loss - split.dualBound;
    return split;
}

}  // namespace espalier
