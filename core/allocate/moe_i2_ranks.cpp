// MoE-I² (arXiv 2411.01016), equation 5: ranks grow with expert importance to a small power; every layer keeps its mean.
#include "allocate/budget.h"
#include "allocate/importance_exponent.h"
#include "allocate/rank_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace espalier
{

namespace
{

// Shares that are whole but for rounding are whole.
int floored(double share) { return static_cast<int>(std::floor(share + 1e-9 * std::max(1.0, share))); }

Result<std::vector<std::vector<RankTriple>>> ranks(const RankProblem& problem, const Params& params)
{
    const double alpha = params.at("alpha").get<double>();
    const ExpertGrid& importance = problem.request.importance.values;
    std::vector<std::vector<RankTriple>> all;
    for (std::size_t i = 0; i < problem.layers.size(); ++i) {
        const LayerShape& layer = problem.layer(i);
        const auto l = static_cast<std::size_t>(layer.index);
        std::vector<double> values;
        for (const int expert : problem.kept(i)) {
            const auto e = static_cast<std::size_t>(expert);
            const double value = l < importance.rows.size() && e < importance.rows[l].size() ? importance.rows[l][e] : std::nan("");
            if (!std::isfinite(value) || value < 0)
                return badInput("allocate.no_importance", fmt::format("layer {}, expert {}", layer.index, expert),
                                {"Expert {expert} of layer {layer} has no importance.", {{"expert", expert}, {"layer", layer.index}}},
                                "Measure a profile and score it with leave-one-out, or choose another rank rule.");
            values.push_back(value);
        }
        all.emplace_back();
        for (const int rank : moeI2Ranks(values, problem.averageRank[i], problem.shape.hiddenSize, layer.expertWidth, alpha))
            all.back().push_back({rank, rank, rank});
    }
    return all;
}

}  // namespace

std::vector<int> moeI2Ranks(std::span<const double> importance, double averageRank, std::int64_t rows, std::int64_t columns, double alpha)
{
    const std::size_t m = importance.size();
    const std::int64_t perRank = rows + columns;
    const auto cap = static_cast<int>(rows * columns / std::max<std::int64_t>(1, perRank));
    std::vector<double> weight(m);
    for (std::size_t i = 0; i < m; ++i)
        weight[i] = dampedImportance(importance[i], alpha);
    std::vector<bool> dense(m, false);
    std::vector<int> ranks(m, 0);
    const double budget = averageRank * static_cast<double>(m);
    double units = budget;
    for (bool first = true;; first = false) {
        double sum = 0;
        for (std::size_t i = 0; i < m; ++i)
            if (!dense[i]) sum += weight[i];
        std::vector<double> shares;
        std::vector<std::size_t> who;
        bool exceeded = false;
        std::int64_t charged = 0;
        for (std::size_t i = 0; i < m; ++i) {
            if (!dense[i]) {
                const double share = weight[i] / sum * units;
                if (floored(share) > cap) {
                    dense[i] = true;
                    exceeded = true;
                } else {
                    shares.push_back(share);
                    who.push_back(i);
                }
            }
            if (dense[i]) charged += rows * columns;
        }
        if (exceeded) {
            units =
                std::max(0, floored((budget * static_cast<double>(perRank) - static_cast<double>(charged)) / static_cast<double>(perRank)));
            continue;
        }
        if (first) {
            for (std::size_t k = 0; k < who.size(); ++k)
                ranks[who[k]] = floored(shares[k]);
        } else {
            // The budget contract with the cap: what a capped expert cannot take goes to the others before anything is rounded.
            Budget rest;
            rest.limits = {std::vector<int>(who.size(), 0), std::vector<int>(who.size(), cap)};
            rest.total = std::min<std::int64_t>(static_cast<std::int64_t>(units), static_cast<std::int64_t>(who.size()) * cap);
            const std::vector<int> shared = roundReals(waterFill(shares, rest, WaterFill::Proportional), rest).units;
            for (std::size_t k = 0; k < who.size(); ++k)
                ranks[who[k]] = shared[k];
        }
        break;
    }
    for (std::size_t i = 0; i < m; ++i)
        ranks[i] = dense[i] ? 0 : std::max(1, ranks[i]);
    return ranks;
}

RankRule moeI2RankRule()
{
    RankRule rule;
    rule.info.id = "moe-i2";
    rule.info.title = "MoE-I²";
    rule.info.help = "One rank per expert, growing with its importance to the power alpha; every layer keeps the average.";
    rule.info.source = "MoE-I², arXiv 2411.01016, eq. 5";
    rule.info.needs = {"gram"};
    rule.info.params = {importanceExponent("ranks")};
    rule.ranks = ranks;
    return rule;
}

}  // namespace espalier
