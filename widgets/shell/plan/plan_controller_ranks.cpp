// The plan controller's edits of matrix ranks.
#include "plan/factor_methods.h"
#include "plan/rank_edit.h"
#include "shell/plan/plan_controller.h"

#include <algorithm>

namespace espalier
{

namespace
{

QString levelText(const ModelShape& shape, int layer, int level)
{
    const int rank = rankOfLevel(shape, layer, level);
    return rank == 0 ? PlanController::tr("dense") : QString::number(rank);
}

}  // namespace

bool PlanController::refusesRank(int layer)
{
    if (!isOpen() || layer < 0 || layer >= static_cast<int>(m_shape.layers.size()) || breakEvenOf(m_shape, layer) < 1) return true;
    if (refusesSkipped(layer)) return true;
    if (!plan().isLocked(layer)) return false;
    say(tr("Layer %1 is locked: unlock it to change its ranks (L).").arg(layer), true, {layer});
    m_offer = Offer{std::nullopt, {layer}};
    return true;
}

void PlanController::setExpertRank(int layer, int expert, int rank)
{
    if (refusesRank(layer) || expert < 0 || expert >= m_shape.layers[static_cast<std::size_t>(layer)].experts) return;
    const CompressionPlan start = base();
    const int breakEven = breakEvenOf(m_shape, layer);
    const int before = start.keeps(layer, expert) ? levelOf(m_shape, start, layer, expert) : 0;
    const int level = rank == 0 ? breakEven + 1 : std::clamp(rank, 1, breakEven + 1);
    const QString note = rank > breakEven ? tr("beyond %1 the factors save nothing: dense").arg(breakEven) : QString();
    Result<CompressionPlan> next = start;
    if (before == 0) {
        ExpertSet kept = start.layer(layer).kept();
        kept.insert(std::lower_bound(kept.begin(), kept.end(), expert), expert);
        next = start.withKept(m_shape, layer, kept);
    }
    if (next.ok()) next = withExpertRank(m_shape, *next, layer, expert, rank, m_rankFactors);
    const QString to = levelText(m_shape, layer, level);
    apply(std::move(next),
          before == 0 ? tr("Keep expert %1 of layer %2, rank %3").arg(expert).arg(layer).arg(to)
                      : tr("Expert %1 of layer %2: rank %3 → %4").arg(expert).arg(layer).arg(levelText(m_shape, layer, before), to),
          note);
}

void PlanController::setMeanRank(int layer, int level)
{
    if (refusesRank(layer)) return;
    const CompressionPlan start = base();
    const int breakEven = breakEvenOf(m_shape, layer);
    const QString note = level > breakEven ? tr("beyond %1 the factors save nothing: dense").arg(breakEven)
                         : level < 1       ? tr("at least rank 1: an expert that is to go is dropped")
                                           : QString();
    level = std::clamp(level, 1, breakEven + 1);
    const int before = meanLevelOf(m_shape, start, layer);
    apply(withMeanLevel(m_shape, start, layer, level, m_rankFactors),
          tr("Layer %1: mean rank %2 → %3").arg(layer).arg(levelText(m_shape, layer, before), levelText(m_shape, layer, level)), note);
}

void PlanController::stepMeanRank(int layer, int direction, bool coarse)
{
    if (refusesRank(layer)) return;
    // On multiples of the step, so that steps from anywhere meet.
    const int step = rankStep(breakEvenOf(m_shape, layer), coarse);
    const int now = meanLevelOf(m_shape, plan(), layer);
    const int next = direction > 0 ? (now / step + 1) * step : ((now + step - 1) / step - 1) * step;
    setMeanRank(layer, next);
}

void PlanController::setAllDense()
{
    if (!isOpen() || !plan().hasRanks()) return;
    CompressionPlan next = plan();
    int lockedLayers = 0;
    for (const LayerShape& layer : m_shape.layers) {
        if (plan().layer(layer.index).ranks().empty()) continue;
        if (plan().isLocked(layer.index)) {
            ++lockedLayers;
            continue;
        }
        if (Result<CompressionPlan> dense = withMeanLevel(m_shape, next, layer.index, denseLevel(m_shape, layer.index), m_rankFactors);
            dense.ok())
            next = std::move(dense).value();
    }
    apply(std::move(next), tr("All matrices dense"),
          lockedLayers > 0 ? tr("%n locked layer(s) keep their ranks.", nullptr, lockedLayers) : QString());
}

void PlanController::setPlanFactors(const FactorSettings& factors)
{
    if (!isOpen() || !plan().hasRanks() || plan().factors() == factors) return;
    apply(plan().withFactors(factors),
          factorsNeedProfile(factors) ? tr("Factors: whitened by the input's second moment") : tr("Factors: plain SVD"));
}

}  // namespace espalier
