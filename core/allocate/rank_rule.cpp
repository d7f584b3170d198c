#include "allocate/rank_rule.h"

#include "allocate/rank_rules.h"
#include "plan/cost_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

constexpr double kNominalShare = 0.37;  // of an expert's parameters removed: MoE-I2, arXiv 2411.01016

// One line per rule, in the order of the choosers.
const std::vector<RankRule>& rules()
{
    static const std::vector<RankRule> table = {moeI2RankRule(), uniformRankRule(), exactRankRule()};
    return table;
}

Error badTarget(std::string message)
{
    Error error = usageError(std::move(message), "Give one of: an average rank of at least 1, a share below 100 %, a size.");
    error.code = "rank.bad_target";
    return error;
}

Status checkTarget(const RankRequest& request)
{
    if (request.averageRank.has_value() + request.decomposeShare.has_value() + request.bytes.has_value() > 1)
        return badTarget("More than one target for the ranks.");
    if (request.averageRank && !(*request.averageRank >= 1 && std::isfinite(*request.averageRank)))
        return badTarget(fmt::format("An average rank of {} is below 1.", *request.averageRank));
    if (request.decomposeShare && !(*request.decomposeShare >= 0 && *request.decomposeShare < 1))
        return badTarget(fmt::format("A share of {:.4g} % cannot be decomposed.", *request.decomposeShare * 100));
    return {};
}

Result<CompressionPlan> withRanks(const RankProblem& problem, std::vector<std::vector<RankTriple>> ranks)
{
    CompressionPlan plan = problem.plan.withFactors(problem.request.factors);
    for (std::size_t i = 0; i < ranks.size(); ++i) {
        const LayerShape& layer = problem.layer(i);
        const int most = breakEvenRank(problem.shape.hiddenSize, layer.expertWidth);
        for (RankTriple& triple : ranks[i])
            for (int& rank : triple)
                if (rank > most) rank = 0;
        ESPALIER_TRY(plan, plan.withRanks(problem.shape, layer.index, ranks[i]));
    }
    return plan;
}

// Every layer at the same part of its break-even rank.
void setPart(RankProblem& problem, double part)
{
    problem.averageRank.clear();
    for (std::size_t i = 0; i < problem.layers.size(); ++i)
        problem.averageRank.push_back(
            std::max(1.0, averageRankForShare(problem.shape.hiddenSize, problem.layer(i).expertWidth, 1.0 - part)));
}

// The largest plan of a rule without a budget of its own that does not exceed the bytes.
Result<CompressionPlan> fitBytes(RankProblem& problem, const RankRule& rule, const Params& params, std::int64_t bytes)
{
    const auto planAt = [&](double part) -> Result<CompressionPlan> {
        setPart(problem, part);
        ESPALIER_TRY(auto ranks, rule.ranks(problem, params));
        return withRanks(problem, std::move(ranks));
    };
    ESPALIER_TRY(CompressionPlan best, planAt(0));
    std::int64_t bestBytes = planCost(problem.shape, best).bytes;
    std::vector<std::vector<RankTriple>> none;
    for (std::size_t i = 0; i < problem.layers.size(); ++i)
        none.emplace_back(problem.kept(i).size(), RankTriple{});
    ESPALIER_TRY(CompressionPlan dense, withRanks(problem, std::move(none)));
    const std::int64_t most = planCost(problem.shape, dense).bytes;
    if (bestBytes > bytes)
        return badInput("allocate.infeasible", fmt::format("{} bytes", bytes),
                        {"A size of {bytes} bytes cannot be met with these experts: the feasible range is {best_bytes} to {most}.",
                         {{"bytes", bytes}, {"best_bytes", bestBytes}, {"most", most}}},
                        "Choose a larger size, or remove experts.");
    if (most <= bytes) return dense;
    double low = 0;
    double high = 1.01;
    for (int halving = 0; halving < 50; ++halving) {
        const double part = low + (high - low) / 2;
        ESPALIER_TRY(CompressionPlan plan, planAt(part));
        const std::int64_t size = planCost(problem.shape, plan).bytes;
        (size <= bytes ? low : high) = part;
        // Size is not quite monotone where experts turn dense: keep the largest that fits.
        if (size > bytes || size <= bestBytes) continue;
        best = std::move(plan);
        bestBytes = size;
    }
    return best;
}

}  // namespace

std::int64_t expertBytes(const LayerShape& layer, std::int64_t parameters)
{
    if (layer.expertParameters <= 0) return 0;
    return (parameters * layer.bytesPerExpert + layer.expertParameters - 1) / layer.expertParameters;
}

Result<const ExpertCurves*> curvesOf(const RankCurves* curves, int layer, int expert)
{
    const auto l = static_cast<std::size_t>(layer);
    const auto e = static_cast<std::size_t>(expert);
    const bool known = curves && l < curves->layers.size() && e < curves->layers[l].size();
    if (known && std::all_of(curves->layers[l][e].begin(), curves->layers[l][e].end(), [](const MatrixCurve& curve) {
            return curve.error.size() > 1 && std::isfinite(curve.weight) && curve.weight >= 0 &&
                   std::all_of(curve.error.begin(), curve.error.end(), [](double error) { return std::isfinite(error) && error >= 0; });
        }))
        return &curves->layers[l][e];
    return badInput("allocate.no_curves", fmt::format("layer {}, expert {}", layer, expert),
                    {"What factors of expert {expert} of layer {layer} would lose is not known.", {{"expert", expert}, {"layer", layer}}},
                    "Measure rank curves with the profile, or choose another rank rule.");
}

const std::vector<MethodInfo>& rankRules()
{
    static const std::vector<MethodInfo> infos = [] {
        std::vector<MethodInfo> list;
        for (const RankRule& rule : rules()) {
            list.push_back(rule.info);
            list.back().slot = Slot::RankRule;
            list.back().answers = {Answer::Ranks};
        }
        return list;
    }();
    return infos;
}

Result<CompressionPlan> assignRanks(const ModelShape& shape, const CompressionPlan& plan, const std::string& rule,
                                    const RankRequest& request, const Params& params)
{
    const auto it = std::find_if(rules().begin(), rules().end(), [&](const RankRule& r) { return r.info.id == rule; });
    if (it == rules().end()) {
        Error error =
            usageError({"There is no rank rule \"{rule}\".", {{"rule", rule}}}, "See `espalier-engine methods --slot rank-rule`.");
        error.code = "method.unknown";
        error.subject = rule;
        return error;
    }
    ESPALIER_TRY(const Params checked, checkParams(it->info, params));
    ESPALIER_CHECK_OK(checkTarget(request));
    RankProblem problem{shape, plan, request, {}, {}, {}};
    for (const LayerShape& layer : shape.layers) {
        if (!layer.moe || plan.isFixed(layer.index)) continue;
        problem.layers.push_back(layer.index);
        double rank = autoAverageRank(shape.hiddenSize, layer.expertWidth);
        if (request.averageRank) rank = *request.averageRank;
        if (request.decomposeShare) rank = averageRankForShare(shape.hiddenSize, layer.expertWidth, *request.decomposeShare);
        problem.averageRank.push_back(rank);
    }
    if (request.bytes && !it->solvesBytes) return fitBytes(problem, *it, checked, *request.bytes);
    problem.bytes = request.bytes;
    ESPALIER_TRY(auto ranks, it->ranks(problem, checked));
    return withRanks(problem, std::move(ranks));
}

double averageRankForShare(int hiddenSize, int expertWidth, double share)
{
    if (hiddenSize <= 0 || expertWidth <= 0) return 0;
    return (1.0 - share) * static_cast<double>(hiddenSize) * expertWidth / (static_cast<double>(hiddenSize) + expertWidth);
}

double shareForAverageRank(int hiddenSize, int expertWidth, double averageRank)
{
    if (hiddenSize <= 0 || expertWidth <= 0) return 0;
    return 1.0 - averageRank * (static_cast<double>(hiddenSize) + expertWidth) / (static_cast<double>(hiddenSize) * expertWidth);
}

int autoAverageRank(int hiddenSize, int expertWidth)
{
    const double rank = averageRankForShare(hiddenSize, expertWidth, kNominalShare);
    int step = 128;
    while (step > 1 && step * 2 > rank)
        step /= 2;
    return std::max(1, static_cast<int>(std::floor(rank / step + 0.5)) * step);
}

}  // namespace espalier
