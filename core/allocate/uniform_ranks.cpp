// Every matrix gets the average rank.
#include "allocate/rank_rules.h"

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

Result<std::vector<std::vector<RankTriple>>> ranks(const RankProblem& problem, const Params&)
{
    std::vector<std::vector<RankTriple>> all;
    for (std::size_t i = 0; i < problem.layers.size(); ++i) {
        // A rank beyond what an int holds is dense all the same.
        const int rank = std::max(1, static_cast<int>(std::floor(std::min(problem.averageRank[i], 1e9) + 1e-9)));
        all.emplace_back(problem.kept(i).size(), RankTriple{rank, rank, rank});
    }
    return all;
}

}  // namespace

RankRule uniformRankRule()
{
    RankRule rule;
    rule.info.id = "uniform";
    rule.info.title = "Uniform";
    rule.info.help = "Every matrix gets the average rank.";
    rule.info.source = "MoE-I², arXiv 2411.01016, eq. 5 with alpha 0";
    rule.ranks = ranks;
    return rule;
}

}  // namespace espalier
