// Ranks that minimise the sum of the matrices' error curves under one budget: gate, up and down of every
// expert on their own, dense where that pays.
#include "allocate/rank_rules.h"
#include "allocate/rank_split.h"
#include "plan/cost_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

struct Slots {
    std::vector<SplitMatrix> matrices;  // layer by layer, expert by expert, gate, up, down
    std::int64_t dense = 0;             // cost of all of them dense
};

Result<Slots> slotsOf(const RankProblem& problem, std::size_t i)
{
    Slots slots;
    const LayerShape& layer = problem.layer(i);
    const std::int64_t perRank = problem.shape.hiddenSize + layer.expertWidth;
    const std::int64_t whole = static_cast<std::int64_t>(problem.shape.hiddenSize) * layer.expertWidth;
    for (const int expert : problem.kept(i)) {
        ESPALIER_TRY(const ExpertCurves* curves, curvesOf(problem.request.curves.get(), layer.index, expert));
        for (const MatrixCurve& curve : *curves) {
            SplitMatrix matrix;
            matrix.error = curve.error;
            matrix.weight = curve.weight;
            matrix.rankCost = problem.bytes ? expertBytes(layer, perRank) : perRank;
            matrix.denseCost = problem.bytes ? expertBytes(layer, whole) : whole;
            matrix.maxRank = breakEvenRank(problem.shape.hiddenSize, layer.expertWidth);
            slots.dense += matrix.denseCost;
            slots.matrices.push_back(matrix);
        }
    }
    return slots;
}

std::vector<RankTriple> triples(const std::vector<int>& ranks, std::size_t begin, std::size_t experts)
{
    std::vector<RankTriple> list;
    for (std::size_t e = 0; e < experts; ++e)
        list.push_back({ranks[begin + 3 * e], ranks[begin + 3 * e + 1], ranks[begin + 3 * e + 2]});
    return list;
}

// Parameters of all matrices of a layer at its average rank, rounded down.
std::int64_t layerBudget(const RankProblem& problem, std::size_t i)
{
    const std::int64_t perRank = problem.shape.hiddenSize + problem.layer(i).expertWidth;
    const double units = 3.0 * problem.averageRank[i] * static_cast<double>(problem.kept(i).size());
    return static_cast<std::int64_t>(std::floor(units * static_cast<double>(perRank) + 1e-6));
}

Result<std::vector<std::vector<RankTriple>>> ranks(const RankProblem& problem, const Params& params)
{
    const int multipleOf = params.at("multiple_of").get<int>();
    const bool joint = params.at("scope") == "joint" || problem.bytes.has_value();
    std::vector<std::vector<RankTriple>> all;
    std::vector<SplitMatrix> matrices;
    std::int64_t budget = 0;
    std::int64_t dense = 0;
    for (std::size_t i = 0; i < problem.layers.size(); ++i) {
        ESPALIER_TRY(Slots slots, slotsOf(problem, i));
        if (!joint) {
            ESPALIER_TRY(const RankSplit split, splitRanks(slots.matrices, layerBudget(problem, i), multipleOf));
            all.push_back(triples(split.ranks, 0, problem.kept(i).size()));
            continue;
        }
        matrices.insert(matrices.end(), slots.matrices.begin(), slots.matrices.end());
        dense += slots.dense;
        if (!problem.bytes) budget += layerBudget(problem, i);
    }
    if (!joint) return all;
    if (problem.bytes) {
        // What is not in these matrices stays: embeddings, attention, routers, locked layers.
        CompressionPlan whole = problem.plan;
        for (const int layer : problem.layers) {
            ESPALIER_TRY(whole, whole.withRanks(problem.shape, layer, {}));
        }
        const std::int64_t rest = planCost(problem.shape, whole).bytes - dense;
        budget = *problem.bytes - rest;
        const RankPrices prices(matrices, multipleOf);
        std::int64_t least = rest;
        for (std::size_t i = 0; i < prices.count(); ++i)
            least += prices.matrix(i).cost(prices.cheapest(i));
        if (least > *problem.bytes)
            return badInput("allocate.infeasible", fmt::format("{} bytes", *problem.bytes),
                            {"A size of {bytes} bytes cannot be met with these experts: the feasible range is {least} to {rest}.",
                             {{"bytes", *problem.bytes}, {"least", least}, {"rest", rest + dense}}},
                            "Choose a larger size, or remove experts.");
    }
    ESPALIER_TRY(const RankSplit split, splitRanks(matrices, budget, multipleOf));
    std::size_t begin = 0;
    for (std::size_t i = 0; i < problem.layers.size(); ++i) {
        all.push_back(triples(split.ranks, begin, problem.kept(i).size()));
        begin += 3 * problem.kept(i).size();
    }
    return all;
}

}  // namespace

RankRule exactRankRule()
{
    RankRule rule;
    rule.info.id = "exact";
    rule.info.title = "Exact";
    rule.info.help = "Every matrix its own rank, so that the sum of the measured errors is least.";
    rule.info.source = "Multiple-choice knapsack over squared errors of every rank (SVD-LLM, arXiv 2403.07378)";
    rule.info.needs = {"curves"};
    ParamSpec scope;
    scope.key = "scope";
    scope.type = ParamType::Choice;
    scope.defaultValue = "joint";
    scope.choices = {"joint", "layer"};
    scope.help = "One budget for the model, or every layer keeps its average. A size target is always joint.";
    ParamSpec multiple;
    multiple.key = "multiple_of";
    multiple.type = ParamType::Integer;
    multiple.defaultValue = 1;
    multiple.low = 1;
    multiple.high = 256;
    multiple.help = "Ranks are multiples of this.";
    rule.info.params = {scope, multiple};
    rule.ranks = ranks;
    rule.solvesBytes = true;
    return rule;
}

}  // namespace espalier
