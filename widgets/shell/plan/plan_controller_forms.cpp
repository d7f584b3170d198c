// The plan controller's edits of what stands in an expert's place, and of which layers run.
#include "experts/expert_view.h"
#include "plan/plan_edit.h"
#include "shell/plan/plan_controller.h"

#include <algorithm>
#include <iterator>
#include <map>

namespace espalier
{

namespace
{

// Constants come from one profile for the whole plan: those that it has already, or the one measured here.
CompressionPlan fromProfile(const CompressionPlan& plan, const std::string& profileSha256)
{
    const bool named = plan.needsConstants() && !plan.constantsProfile().empty();
    return named ? plan : plan.withConstantsProfile(profileSha256);
}

}  // namespace

QString PlanController::cellsText(const std::set<CellId>& cells) const
{
    const CellId first = *cells.begin();
    return cells.size() == 1 ? tr("expert %1 of layer %2").arg(first.expert).arg(first.layer)
                             : tr("%n expert(s)", nullptr, static_cast<int>(cells.size()));
}

void PlanController::setConstants(const std::set<CellId>& cells, ConstantKind kind)
{
    if (!isOpen() || cells.empty()) return;
    const QString profile = plan().needsConstants() && !plan().constantsProfile().empty() ? QString() : m_constantsProblem;
    std::map<int, ExpertSet> byLayer;
    QString why;
    int left = 0;
    for (const CellId& cell : cells) {
        const QString refusal = whyNoConstant(m_shape, plan(), cell, profile);
        if (refusal.isEmpty() && cell.expert >= 0 && cell.layer < static_cast<int>(m_shape.layers.size()))
            byLayer[cell.layer].push_back(cell.expert);
        else if (++left; why.isEmpty())
            why = refusal;
    }
    if (byLayer.empty()) {
        say(tr("No constant: %1").arg(why), true);
        return;
    }
    const CompressionPlan start = fromProfile(plan(), m_constantsProfile);
    Result<CompressionPlan> next = start;
    for (const auto& [layer, experts] : byLayer) {
        next = withConstants(m_shape, *next, layer, experts, kind);
        if (!next.ok()) break;
    }
    apply(std::move(next),
          cells.size() == 1
              ? tr("Layer %1: expert %2 constant, %3").arg(cells.begin()->layer).arg(cells.begin()->expert).arg(constantTitle(kind))
              : tr("%n expert(s) constant, %1", nullptr, static_cast<int>(cells.size()) - left).arg(constantTitle(kind)),
          left > 0 ? tr("%n expert(s) left as before: %1", nullptr, left).arg(why) : QString());
}

void PlanController::setDroppedAs(std::optional<ConstantKind> kind)
{
    if (!isOpen() || inGesture()) return;
    const bool named = plan().needsConstants() && !plan().constantsProfile().empty();
    if (kind && !named && !m_constantsProblem.isEmpty()) {
        say(tr("No constants: %1").arg(m_constantsProblem), true);
        return;
    }
    const CompressionPlan start = kind ? fromProfile(plan(), m_constantsProfile) : plan();
    Result<CompressionPlan> next = withDroppedAs(m_shape, start, kind);
    QString note;
    if (next.ok()) {
        if (next->hash() == plan().hash()) {
            say(kind ? tr("Nothing changes: no layer that can be edited has dropped experts.")
                     : tr("Nothing changes: no layer that can be edited has constants."));
            return;
        }
        if (const int locks = static_cast<int>(lockedLayers().size()); locks > 0)
            note = tr("%n locked layer(s) left as before.", nullptr, locks);
    }
    apply(std::move(next),
          kind ? tr("Dropped experts become constants, %1").arg(constantTitle(*kind)) : tr("Constants become dropped experts"), note);
}

bool PlanController::hasDropped() const
{
    if (!isOpen()) return false;
    return std::any_of(m_shape.layers.begin(), m_shape.layers.end(), [this](const LayerShape& layer) {
        return layer.moe && !plan().isFixed(layer.index) && static_cast<int>(plan().layer(layer.index).columns().size()) < layer.experts;
    });
}

void PlanController::setConstantsFrom(const std::string& profileSha256)
{
    if (!isOpen() || !plan().needsConstants() || plan().constantsProfile() == profileSha256) return;
    apply(plan().withConstantsProfile(profileSha256), tr("Constants from the profile measured here"));
}

void PlanController::setSkipped(int layer, bool skip)
{
    if (!isOpen() || layer < 0 || layer >= static_cast<int>(m_shape.layers.size())) return;
    if ((plan().layer(layer).run() == LayerRun::Skipped) == skip) return;
    if (const QString why = whyNoSkip(m_shape, plan(), layer); !why.isEmpty()) {
        const bool locked = plan().isLocked(layer);
        say(tr("Layer %1 cannot be skipped: %2").arg(layer).arg(why), true, locked ? std::vector<int>{layer} : std::vector<int>{});
        if (locked) m_offer = Offer{std::nullopt, {layer}};
        return;
    }
    Result<CompressionPlan> next = withRun(m_shape, plan(), layer, skip ? LayerRun::Skipped : LayerRun::Whole);
    apply(std::move(next), skip ? tr("Layer %1: skipped").arg(layer) : tr("Layer %1: runs").arg(layer));
}

bool PlanController::refusesSkipped(int layer)
{
    if (!isOpen() || layer < 0 || layer >= static_cast<int>(m_shape.layers.size()) || plan().layer(layer).runsExperts()) return false;
    say(tr("Layer %1 is skipped: let it run again first (S).").arg(layer), true);
    return true;
}

Result<CompressionPlan> PlanController::withKeptAs(const CompressionPlan& start, int layer, const ExpertSet& kept) const
{
    const LayerPlan& now = start.layer(layer);
    const ExpertSet constants = now.constants();
    const int experts = m_shape.layers[static_cast<std::size_t>(layer)].experts;
    if (constants.empty() || static_cast<int>(now.columns().size()) < experts) return start.withKept(m_shape, layer, kept);
    const auto* first = std::get_if<ConstantBody>(now.bodyOf(constants.front()));
    ExpertSet gone;
    for (const int expert : now.kept())
        if (!std::binary_search(kept.begin(), kept.end(), expert)) gone.push_back(expert);
    // Those that come back first: one that computes is there at every moment.
    ExpertSet both;
    std::set_union(now.kept().begin(), now.kept().end(), kept.begin(), kept.end(), std::back_inserter(both));
    Result<CompressionPlan> next = start.withKept(m_shape, layer, both);
    return next.ok() && !gone.empty() ? withConstants(m_shape, *next, layer, gone, first->kind) : next;
}

}  // namespace espalier
