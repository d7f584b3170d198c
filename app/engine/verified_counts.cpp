#include "verified_counts.h"

#include "plan/cost_model.h"
#include "rank_curves.h"
#include "stage_job.h"
#include "work.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

namespace espalier
{

namespace
{

// The best sets of a layer at every count, found once: what candidates and exchanges are made of.
class SetTable
{
public:
    explicit SetTable(const std::vector<LayerCurve>& curves)
    {
        for (const LayerCurve& curve : curves)
            m_curves[curve.layer] = curve;
    }

    Result<ExpertSet> at(int layer, int count) const
    {
        const auto it = m_curves.find(layer);
        const int index = it == m_curves.end() ? -1 : count - it->second.lowest;
        if (index < 0 || index >= static_cast<int>(it->second.sets.size()))
            return usageError(fmt::format("Layer {} cannot keep {} experts.", layer, count));
        return it->second.sets[static_cast<std::size_t>(index)];
    }

    // Relative squared error of the layer's output at a count.
    double loss(int layer, int count) const
    {
        const auto it = m_curves.find(layer);
        if (it == m_curves.end()) return 0;
        const auto& losses = it->second.loss;
        const int last = static_cast<int>(losses.size()) - 1;
        const int index = std::clamp(count - it->second.lowest, 0, last);
        const double relative = it->second.outputNorm > 0 ? losses[static_cast<std::size_t>(index)] / it->second.outputNorm : 0;
        return relative * relative;
    }

    Result<CompressionPlan> plan(const ModelShape& shape, const CompressionPlan& base, const std::vector<int>& keep) const
    {
        std::vector<ExpertSet> sets(shape.layers.size());
        for (const auto& [layer, curve] : m_curves) {
            ESPALIER_TRY(sets[static_cast<std::size_t>(layer)], at(layer, keep[static_cast<std::size_t>(layer)]));
        }
        return withSetsHandingRanksOn(shape, base, sets);
    }

    const std::map<int, LayerCurve>& curves() const { return m_curves; }

private:
    std::map<int, LayerCurve> m_curves;  // free MoE layers
};

RankValue rankValueOf(const ProfileData& profile)
{
    const auto curves = rankCurvesOf(profile);
    if (!curves) return {};
    return [curves](int layer, int expert, int matrix, int rank) {
        const MatrixCurve& curve =
            curves->layers[static_cast<std::size_t>(layer)][static_cast<std::size_t>(expert)][static_cast<std::size_t>(matrix)];
        const auto r = static_cast<std::size_t>(rank);
        return r < curve.error.size() ? curve.weight * (curve.error[r - 1] - curve.error[r]) : 0.0;
    };
}

// Bytes that a plan of `keepTotal` experts may take: those of the start, and for every expert more or fewer what one of its experts takes
// on average.
std::int64_t bytesForCount(const ModelShape& shape, const CompressionPlan& start, int keepTotal)
{
    std::int64_t experts = 0;
    for (const LayerShape& layer : shape.layers)
        experts += layerBytes(layer, shape.hiddenSize, start.layer(layer.index)) - layer.otherBytes;
    const auto kept = static_cast<double>(std::max(start.keptExperts(), 1));
    const double more = static_cast<double>(keepTotal - start.keptExperts());
    return planCost(shape, start).bytes + static_cast<std::int64_t>(std::floor(more * static_cast<double>(experts) / kept));
}

}  // namespace

Result<VerifiedCounts> verifyCounts(const VerifiedProblem& verified, const Params& given, JobContext& job)
{
    const PlanInputs& inputs = verified.inputs;
    const CompressionPlan& base = verified.base;
    const int keepTotal = verified.keepTotal;
    const auto& evaluate = verified.evaluate;
    const ModelShape& shape = inputs.checkpoint->shape();
    ESPALIER_TRY(const Params params, checkParams(verifiedExchangeInfo(), given));
    const SetTable table(verified.curves);

    // What a layer is worth to the loss: the rise when it alone gives up its share of the experts. Output error cannot see that.
    ESPALIER_TRY(const std::vector<WindowLoss> dense, evaluate(base));
    const double share = static_cast<double>(keepTotal) / static_cast<double>(shape.totalExperts());
    std::vector<double> rise(shape.layers.size(), 0);
    std::vector<double> weight(shape.layers.size(), 1);
    double smallest = 0;
    for (const auto& [layer, curve] : table.curves()) {
        const int experts = shape.layers[static_cast<std::size_t>(layer)].experts;
        const int count = std::clamp(static_cast<int>(std::lround(share * experts)), curve.lowest, experts - 1);
        ESPALIER_TRY(ExpertSet kept, table.at(layer, count));
        ESPALIER_TRY(const CompressionPlan alone, base.withKept(shape, layer, std::move(kept)));
        ESPALIER_TRY(const std::vector<WindowLoss> losses, evaluate(alone));
        const double nll = pairedDifference(losses, dense).nll;
        rise[static_cast<std::size_t>(layer)] = nll;
        const double error = table.loss(layer, count);
        weight[static_cast<std::size_t>(layer)] = error > 0 ? std::max(nll, 0.0) / error : 0;
        if (nll > 0)
            smallest =
                smallest == 0 ? weight[static_cast<std::size_t>(layer)] : std::min(smallest, weight[static_cast<std::size_t>(layer)]);
        job.partial({{"layer", layer}, {"alone", numberJson(nll)}});
    }
    // A layer that measurably gains by losing experts still has a limit somewhere: the smallest weight seen stands in for it.
    for (const auto& [layer, curve] : table.curves())
        weight[static_cast<std::size_t>(layer)] = std::max(weight[static_cast<std::size_t>(layer)], smallest);

    ExchangeProblem problem;
    problem.shape = shape;
    AllocationRequest asked = verified.request;
    asked.keepTotal = keepTotal;
    AllocationRequest weighted = asked;
    for (std::size_t l = 0; l < weighted.lossCurves.size(); ++l)
        for (double& value : weighted.lossCurves[l])
            value *= weight[l];
    VerifiedCounts result;
    // Without ranks all plans of one count have one size.
    if (base.hasRanks()) {
        result.rankValue = rankValueOf(inputs.profile);
        problem.bytes = bytesForCount(shape, base, keepTotal);
        problem.rankValue = result.rankValue;
    }
    Json candidates = Json::array();
    for (const char* id : {"uniform", "importance", "inverse", "coverage", "global", "exact", "measured"}) {
        const bool measured = std::string_view(id) == "measured";
        const Result<std::vector<int>> keep = allocate(measured ? "exact" : id, shape, measured ? weighted : asked, {});
        if (!keep.ok()) {
            candidates.push_back({{"name", id}, {"error", keep.error().code}});
            continue;
        }
        const Result<CompressionPlan> plan = table.plan(shape, base, *keep);
        if (!plan.ok() || plan->keptExperts() != keepTotal) continue;
        std::optional<HeldPlan> held = HeldPlan{*plan, 0};
        if (problem.bytes > 0) {
            ESPALIER_TRY(held, heldToBytes(shape, *plan, problem.bytes, problem.rankValue));
        }
        if (!held) {
            candidates.push_back({{"name", id}, {"error", "plan.size_infeasible"}});
            continue;
        }
        candidates.push_back({{"name", id}, {"keep", *keep}});
        if (held->givenBack > 0) candidates.back()["rank_given_back"] = held->givenBack;
        const bool known = std::any_of(problem.candidates.begin(), problem.candidates.end(),
                                       [&](const ExchangeCandidate& other) { return other.plan.hash() == held->plan.hash(); });
        if (!known) problem.candidates.push_back({id, std::move(held->plan)});
    }
    problem.measure = evaluate;
    problem.bestSet = [&](int layer, int count) { return table.at(layer, count); };
    problem.estimatedGain = [&](const CompressionPlan& current, const ExchangeMove& move) {
        const auto value = [&](int layer, int change) {
            const int count = static_cast<int>(current.layer(layer).kept.size());
            return weight[static_cast<std::size_t>(layer)] * (table.loss(layer, count) - table.loss(layer, count + change));
        };
        return value(move.to, move.amount) + value(move.from, -move.amount);
    };
    problem.lowestCount.assign(shape.layers.size(), 0);
    for (const auto& [layer, curve] : table.curves())
        problem.lowestCount[static_cast<std::size_t>(layer)] = curve.lowest;
    if (inputs.locked) {
        problem.measureLocked = [&](const CompressionPlan& plan) -> Result<std::vector<WindowLoss>> {
            ESPALIER_TRY(MoeModel * model, inputs.model());
            SilentPartials quiet(job);
            return measureOnce(*model, *inputs.locked, plan, quiet);
        };
    }
    ESPALIER_TRY(result.exchange, exchangeVerified(problem, exchangeOptions(params), job));
    const ExchangeResult& exchange = result.exchange;
    Json rises = Json::array();
    for (const double value : rise)
        rises.push_back(numberJson(value));
    Json trace = Json::array();
    for (const ExchangeStep& step : exchange.trace)
        trace.push_back(toJson(step));
    result.detail = {{"candidates", std::move(candidates)},
                     {"layer_rise", std::move(rises)},
                     {"trace", std::move(trace)},
                     {"measured", exchange.measured},
                     {"moves", exchange.moves},
                     {"bytes", planCost(shape, exchange.plan).bytes},
                     {"rank_given_back", exchange.rankGivenBack},
                     {"end", exchangeEndName(exchange.end)},
                     {"start", problem.candidates[static_cast<std::size_t>(exchange.startCandidate)].name},
                     {"change", differenceJson(exchange.change)},
                     {"against_dense", differenceJson(pairedDifference(exchange.losses, dense))},
                     {"locked_change", exchange.lockedChange ? differenceJson(*exchange.lockedChange) : Json()}};
    return result;
}

}  // namespace espalier
