#include "shell/plan/plan_controller.h"
#include "plan/plan_edit.h"
#include "plan/plan_rules.h"
#include "plan/values_search.h"

#include <QDateTime>

#include <algorithm>

namespace espalier
{

PlanController::PlanController(QObject* parent) : QObject(parent) {}

void PlanController::open(const ModelShape& shape, const PlanModel& model, const QString& name)
{
    restore(shape, PlanHistory(CompressionPlan::identity(shape).withModel(model), tr("Open %1").arg(name).toStdString(),
                               QDateTime::currentSecsSinceEpoch()));
}

void PlanController::restore(const ModelShape& shape, PlanHistory history)
{
    m_shape = shape;
    m_history = std::move(history);
    m_live.reset();
    m_scores.reset();
    m_layerImportance.clear();
    emit shapeChanged();
    emit planChanged();
    emit historyChanged();
}

void PlanController::close()
{
    m_history = PlanHistory();
    m_live.reset();
}

void PlanController::setScores(const ExpertScores& scores) { m_scores = scores; }

void PlanController::beginGesture()
{
    if (!isOpen()) return;
    if (inGesture()) finishGesture();
    m_live = committed();
    m_gestureText.clear();
}

CompressionPlan PlanController::base() const { return committed(); }

void PlanController::finishGesture()
{
    if (!inGesture()) return;
    const CompressionPlan plan = *m_live;
    m_live.reset();
    const int before = m_history.currentId();
    if (!m_gestureText.isEmpty()) m_history.commit(plan, m_gestureText.toStdString(), QDateTime::currentSecsSinceEpoch());
    if (m_history.currentId() != before) emit historyChanged();
    emit planChanged();
}

void PlanController::cancelGesture()
{
    if (!inGesture()) return;
    m_live.reset();
    say({});
    emit planChanged();
}

void PlanController::say(const QString& text, bool isError, const std::vector<int>& locks)
{
    m_offer.reset();
    emit explained(text, isError, locks);
}

void PlanController::apply(Result<CompressionPlan> plan, const QString& text, const QString& note, const std::vector<int>& locks)
{
    if (!plan.ok()) {
        say(QString::fromStdString(plan.error().describe()), true);
        return;
    }
    say(note, false, locks);
    // Without constants a plan names no profile for them.
    if (!plan->needsConstants() && !plan->constantsProfile().empty()) plan = plan->withConstantsProfile({});
    if (inGesture()) {
        m_live = std::move(plan).value();
        m_gestureText = text;
        emit planChanged();
        return;
    }
    const int before = m_history.currentId();
    m_history.commit(std::move(plan).value(), text.toStdString(), QDateTime::currentSecsSinceEpoch());
    if (m_history.currentId() == before) return;
    emit planChanged();
    emit historyChanged();
}

void PlanController::setKeep(int layer, int keep)
{
    if (!isOpen() || layer < 0 || layer >= static_cast<int>(m_shape.layers.size()) || !m_shape.layers[static_cast<std::size_t>(layer)].moe)
        return;
    if (refusesSkipped(layer)) return;
    const LayerShape& shape = m_shape.layers[static_cast<std::size_t>(layer)];
    // Moves of one gesture start from the plan before it, so that dragging there and back gives the same experts again.
    const CompressionPlan start = base();
    const LayerPlan& now = start.layer(layer);
    const int pinned = static_cast<int>(start.protectedExperts(layer).size());
    const int floor = fewestExperts(shape, now, start.protectedExperts(layer));
    QString note;
    if (keep < floor)
        note = pinned > shape.router.topK ? tr("at least %1: that many experts of layer %2 are protected").arg(floor).arg(layer)
                                          : tr("at least %1: the router picks %1").arg(floor);
    else if (keep > shape.experts)
        note = tr("at most %1: layer %2 has no more experts").arg(shape.experts).arg(layer);
    keep = std::clamp(keep, floor, shape.experts);
    std::vector<int> counts(m_shape.layers.size());
    for (const LayerShape& l : m_shape.layers)
        counts[static_cast<std::size_t>(l.index)] = static_cast<int>(start.layer(l.index).kept().size());
    counts[static_cast<std::size_t>(layer)] = keep;
    // The layer's own lock does not hold it back, since it is the user's hand that moves it.
    Result<CompressionPlan> chosen = withCounts(start.withLocked(layer, false), counts);
    if (chosen.ok()) chosen = withKeptAs(start, layer, chosen->layer(layer).kept());
    apply(std::move(chosen), tr("Layer %1: keep %2 → %3 of %4").arg(layer).arg(now.kept().size()).arg(keep).arg(shape.experts), note);
}

void PlanController::stepKeep(int layer, int delta)
{
    if (!isOpen() || layer < 0) return;
    setKeep(layer, static_cast<int>(plan().layer(layer).kept().size()) + delta);
}

void PlanController::toggleExpert(int layer, int expert)
{
    if (!isOpen()) return;
    setKept({CellId{layer, expert}}, !plan().keeps(layer, expert));
}

void PlanController::setKept(const std::set<CellId>& cells, bool kept)
{
    if (!isOpen() || cells.empty()) return;
    // A single cell of a skipped layer says why; of many those that run are taken.
    if (cells.size() == 1 && refusesSkipped(cells.begin()->layer)) return;
    Result<CompressionPlan> next = plan();
    for (const LayerShape& layer : m_shape.layers) {
        if (!next->layer(layer.index).runsExperts()) continue;
        ExpertSet set = next->layer(layer.index).kept();
        ExpertSet gone;
        bool touched = false;
        for (const CellId& cell : cells) {
            if (cell.layer != layer.index || cell.expert < 0 || cell.expert >= layer.experts) continue;
            const auto it = std::lower_bound(set.begin(), set.end(), cell.expert);
            const bool present = it != set.end() && *it == cell.expert;
            if (kept && !present) set.insert(it, cell.expert);
            if (!kept) gone.push_back(cell.expert);
            touched = touched || (kept ? !present : next->layer(layer.index).bodyOf(cell.expert) != nullptr);
        }
        if (!touched) continue;
        next = kept ? next->withKept(m_shape, layer.index, set) : withDropped(m_shape, *next, layer.index, gone);
        if (!next.ok()) break;
    }
    const QString what = cellsText(cells);
    apply(std::move(next), kept ? tr("Keep %1").arg(what) : tr("Drop %1").arg(what));
}

void PlanController::toggleProtected(int layer, int expert)
{
    if (!isOpen() || expert < 0) return;
    const ExpertSet& set = plan().protectedExperts(layer);
    const bool was = std::binary_search(set.begin(), set.end(), expert);
    CompressionPlan next = plan().withProtected(layer, expert, !was);
    // A protected expert is there: protecting a dropped one brings it back.
    if (!was && !next.keeps(layer, expert)) {
        ExpertSet kept = next.layer(layer).kept();
        kept.insert(std::lower_bound(kept.begin(), kept.end(), expert), expert);
        Result<CompressionPlan> back = next.withKept(m_shape, layer, kept);
        if (back.ok()) next = std::move(back).value();
    }
    apply(std::move(next),
          was ? tr("Unprotect expert %1 of layer %2").arg(expert).arg(layer) : tr("Protect expert %1 of layer %2").arg(expert).arg(layer));
}

void PlanController::toggleLocked(int layer)
{
    if (!isOpen() || layer < 0) return;
    const bool was = plan().isLocked(layer);
    apply(plan().withLocked(layer, !was), was ? tr("Unlock layer %1").arg(layer) : tr("Lock layer %1").arg(layer));
}

void PlanController::replacePlan(const CompressionPlan& plan, const QString& text) { apply(plan, text); }

int PlanController::addBranch(int parent, const CompressionPlan& plan, const QString& text)
{
    if (!isOpen() || parent < 0 || parent >= static_cast<int>(m_history.entries().size())) return -1;
    if (!m_history.entries()[static_cast<std::size_t>(parent)].readable()) return -1;
    const int here = m_history.currentId();
    m_history.jumpTo(parent);
    const int added = m_history.commit(plan, text.toStdString(), QDateTime::currentSecsSinceEpoch());
    m_history.jumpTo(here);
    if (added == parent) return -1;
    emit historyChanged();
    return added;
}

void PlanController::placeValues(const std::map<ValuesId, std::string>& files)
{
    m_history.placeValues(files);
    if (m_live) m_live = withValuesAt(*m_live, files);
    emit planChanged();
}

void PlanController::undo()
{
    if (!canUndo()) return;
    m_history.undo();
    say({});
    emit planChanged();
    emit historyChanged();
}

void PlanController::redo()
{
    if (!canRedo()) return;
    m_history.redo();
    say({});
    emit planChanged();
    emit historyChanged();
}

void PlanController::jumpTo(int id)
{
    if (inGesture()) return;
    m_history.jumpTo(id);
    if (m_history.currentId() != id) return;  // not readable: its row says why
    say({});
    emit planChanged();
    emit historyChanged();
}

}  // namespace espalier
