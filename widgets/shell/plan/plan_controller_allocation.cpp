// The plan controller's edits of many layers at once: a target shared by an allocator, equal counts, choosing the experts anew.
#include "look/format.h"
#include "shell/plan/plan_controller.h"

#pragma push_macro("slots")
#undef slots  // a keyword of Qt's, and a name there
#include "allocate/layer_allocator.h"
#pragma pop_macro("slots")

#include <QStringList>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace espalier
{

namespace
{

// Least and most experts that each layer, and the whole plan, can keep; locked layers keep what they have.
struct Reach {
    std::vector<int> low;
    std::vector<int> high;
    int least = 0;
    int most = 0;
};

Reach reachOf(const ModelShape& shape, const CompressionPlan& plan)
{
    Reach reach;
    reach.low.assign(shape.layers.size(), 0);
    reach.high = reach.low;
    AllocationRequest request;
    request.plan = plan;
    const Result<AllocationProblem> problem = allocationProblem(shape, request);
    if (!problem.ok()) return reach;
    for (std::size_t i = 0; i < problem->layers.size(); ++i) {
        const auto layer = static_cast<std::size_t>(problem->layers[i]);
        reach.low[layer] = problem->budget.limits.low[i] * problem->step[i];
        reach.high[layer] = problem->budget.limits.high[i] * problem->step[i];
    }
    reach.least = std::accumulate(reach.low.begin(), reach.low.end(), 0);
    reach.most = std::accumulate(reach.high.begin(), reach.high.end(), 0);
    return reach;
}

CompressionPlan unlocked(CompressionPlan plan, const std::vector<int>& layers)
{
    for (const int layer : layers)
        plan = plan.withLocked(layer, false);
    return plan;
}

std::vector<int> locksOf(const ModelShape& shape, const CompressionPlan& plan)
{
    std::vector<int> locked;
    for (const LayerShape& layer : shape.layers)
        if (layer.moe && plan.layer(layer.index).runsExperts() && plan.isLocked(layer.index)) locked.push_back(layer.index);
    return locked;
}

int keptIn(const CompressionPlan& plan, int layer) { return static_cast<int>(plan.layer(layer).kept().size()); }

QString listOf(const std::vector<int>& numbers)
{
    QStringList texts;
    for (const int number : numbers)
        texts << QString::number(number);
    if (texts.size() < 2) return texts.join(QString());
    const QString last = texts.takeLast();
    return PlanController::tr("%1 and %2").arg(texts.join(QStringLiteral(", ")), last);
}

// "layer 0 is locked at 16", "layers 0 and 3 are locked at 16 and 12".
QString lockedAt(const CompressionPlan& plan, const std::vector<int>& layers)
{
    std::vector<int> counts;
    counts.reserve(layers.size());
    for (const int layer : layers)
        counts.push_back(keptIn(plan, layer));
    if (layers.size() == 1) return PlanController::tr("layer %1 is locked at %2").arg(layers.front()).arg(counts.front());
    if (layers.size() > 4) return PlanController::tr("%n layer(s) are locked", nullptr, static_cast<int>(layers.size()));
    return PlanController::tr("layers %1 are locked at %2").arg(listOf(layers), listOf(counts));
}

int largest(const std::vector<int>& counts) { return *std::max_element(counts.begin(), counts.end()); }

QString methodTitle(const std::string& id)
{
    for (const MethodInfo& method : allocators())
        if (method.id == id) return QString::fromStdString(method.title);
    return QString::fromStdString(id);
}

// A target that was asked for and the nearest one that can be met, with the reason in words.
struct Met {
    int target = 0;
    QString note;
    std::vector<int> locks;
};

Met nearest(const ModelShape& shape, const CompressionPlan& plan, int asked)
{
    const Reach now = reachOf(shape, plan);
    const std::vector<int> locked = locksOf(shape, plan);
    const Reach free = reachOf(shape, unlocked(plan, locked));
    Met met;
    met.target = std::clamp(asked, now.least, now.most);
    if (met.target == asked) return met;
    QStringList reasons;
    const bool low = asked < met.target;
    for (const int layer : locked) {
        const auto l = static_cast<std::size_t>(layer);
        if (low ? keptIn(plan, layer) > free.low[l] : keptIn(plan, layer) < free.high[l]) met.locks.push_back(layer);
    }
    if (!met.locks.empty()) reasons << lockedAt(plan, met.locks);
    if (low && asked < free.least) {
        int topK = 0;
        bool pinned = false;
        for (const LayerShape& layer : shape.layers) {
            if (!layer.moe) continue;
            topK = std::max(topK, plan.layer(layer.index).topK().value_or(layer.router.topK));
            pinned = pinned || static_cast<int>(plan.protectedExperts(layer.index).size()) > layer.router.topK;
        }
        reasons << PlanController::tr("the router picks %1 in each layer").arg(topK);
        if (pinned) reasons << PlanController::tr("protected experts stay");
    }
    if (!low && asked > free.most)
        reasons << (free.most < shape.totalExperts() ? PlanController::tr("layers that run have %1")
                                                     : PlanController::tr("the model has %1"))
                       .arg(format::count(free.most));
    met.note = PlanController::tr("%1 asked, %2 taken: %3.")
                   .arg(format::count(asked), format::count(met.target), reasons.join(PlanController::tr(", and ")));
    return met;
}

// The locks that hold another count than all layers would get without them. None where the count is the same (`reached`; -1: there is none
// at all).
std::vector<int> locksAgainstEqual(const ModelShape& shape, AllocationRequest request, const AllocationIntent& intent, int reached)
{
    const CompressionPlan start = request.plan;
    const std::vector<int> locked = locksOf(shape, start);
    if (locked.empty()) return {};
    request.plan = unlocked(start, locked);
    request.keepTotal = nearest(shape, request.plan, intent.keepTotal).target;
    const Result<std::vector<int>> free = allocate(intent.method, shape, request, intent.params);
    if (!free.ok() || largest(*free) == reached) return {};
    std::vector<int> against;
    for (const int layer : locked)
        if (keptIn(start, layer) != largest(*free)) against.push_back(layer);
    return against;
}

}  // namespace

std::vector<double> PlanController::orderOf(const CompressionPlan& start, const LayerShape& layer) const
{
    const auto l = static_cast<std::size_t>(layer.index);
    const auto experts = static_cast<std::size_t>(layer.experts);
    const bool higher = !m_scores || m_scores->better == Better::Higher;
    std::vector<double> score(experts, 0.0);
    if (m_scores && l < m_scores->values.rows.size() && m_scores->values.rows[l].size() == experts) score = m_scores->values.rows[l];
    std::vector<char> kept(experts, 0);
    for (const int expert : start.layer(layer.index).kept())
        kept[static_cast<std::size_t>(expert)] = 1;
    std::vector<std::size_t> byScore(experts);
    std::iota(byScore.begin(), byScore.end(), std::size_t{0});
    std::stable_sort(byScore.begin(), byScore.end(), [&](std::size_t a, std::size_t b) {
        if (kept[a] != kept[b]) return kept[a] != 0;
        if (std::isnan(score[a]) || std::isnan(score[b])) return !std::isnan(score[a]) && std::isnan(score[b]);
        return higher ? score[a] > score[b] : score[a] < score[b];
    });
    std::vector<double> order(experts);
    for (std::size_t place = 0; place < experts; ++place)
        order[byScore[place]] = static_cast<double>(experts - place);
    return order;
}

// Layers whose count is right stay as they are; in the others the experts that were chosen stay as far as the count allows.
Result<CompressionPlan> PlanController::withCounts(const CompressionPlan& start, const std::vector<int>& counts) const
{
    ExpertScores order;
    order.better = Better::Higher;
    order.values.rows.resize(m_shape.layers.size());
    Result<CompressionPlan> next = start;
    for (const LayerShape& layer : m_shape.layers) {
        const auto l = static_cast<std::size_t>(layer.index);
        const LayerPlan& now = start.layer(layer.index);
        if (!layer.moe || start.isFixed(layer.index) || counts[l] == static_cast<int>(now.kept().size())) continue;
        order.values.rows[l] = orderOf(start, layer);
        Result<ExpertSet> kept = rankedExperts(layer, start.protectedExperts(layer.index), counts[l], order);
        if (!kept.ok()) return kept.error();
        next = withKeptAs(*next, layer.index, *kept);
        if (!next.ok()) return next;
    }
    return next;
}

QString PlanController::whyUnchanged(const AllocationIntent& intent, const CompressionPlan& start) const
{
    using Change = AllocationIntent::Change;
    const Reach reach = reachOf(m_shape, start);
    const bool allLocked = std::all_of(m_shape.layers.begin(), m_shape.layers.end(),
                                       [&](const LayerShape& layer) { return !layer.moe || start.isFixed(layer.index); });
    if (intent.change == Change::Target) return {};
    if (intent.change == Change::Equality)
        return intent.equalCounts ? tr("Nothing changes: all layers keep the same number already.") : QString();
    if (start.keptExperts() == static_cast<int>(m_shape.totalExperts()))
        return tr("Nothing changes: the target keeps all experts. Lower it, and the layers share it in this way.");
    if (intent.equalCounts) return tr("Nothing changes: equal counts give every layer the same, whatever the method.");
    if (allLocked) return tr("Nothing changes: every layer is locked.");
    if (start.keptExperts() <= reach.least) return tr("Nothing changes: every layer that is not locked is at the least its router needs.");
    return tr("Nothing changes: \"%1\" gives the layers what they have already.").arg(methodTitle(intent.method));
}

void PlanController::allocateTo(const AllocationIntent& intent)
{
    if (!isOpen()) return;
    if (!m_scores) {
        say(tr("The experts have no scores yet: wait for the profile."), true);
        return;
    }
    const CompressionPlan start = unlocked(base(), intent.unlock);
    const Met met = nearest(m_shape, start, intent.keepTotal);
    AllocationRequest request;
    request.keepTotal = met.target;
    request.uniformCount = intent.equalCounts;
    request.plan = start;
    request.layerImportance = m_layerImportance;
    request.scores = *m_scores;
    const Result<std::vector<int>> keep = allocate(intent.method, m_shape, request, intent.params);
    // One count for all layers has to be that of the locked ones, whatever was asked for.
    std::vector<int> locks = met.locks;
    if (intent.equalCounts) locks = locksAgainstEqual(m_shape, request, intent, keep.ok() ? largest(*keep) : -1);
    const auto offer = [&] {
        if (!locks.empty()) m_offer = Offer{intent, locks};
    };
    if (!keep.ok()) {
        if (locks.empty())
            say(QString::fromStdString(keep.error().describe()), true);
        else
            say(tr("One count for all layers is not possible: %1.").arg(lockedAt(start, locks)), true, locks);
        offer();
        return;
    }
    Result<CompressionPlan> chosen = withCounts(start, *keep);
    const int kept = chosen.ok() ? chosen->keptExperts() : met.target;
    QString note = met.note;
    if (intent.equalCounts && kept != intent.keepTotal) {
        note = tr("Equal counts: %1 in each layer are %2 of the %3 asked for%4.")
                   .arg(largest(*keep))
                   .arg(format::count(kept), format::count(intent.keepTotal),
                        locks.empty() ? QString() : tr(", since ") + lockedAt(start, locks));
    } else if (note.isEmpty() && chosen.ok() && *chosen == base()) {
        note = whyUnchanged(intent, start);
    }
    // What was reached, which equal counts may round down.
    const QString share = format::share(kept / static_cast<double>(std::max<std::int64_t>(1, m_shape.totalExperts())));
    QString text = tr("Keep %1, %2, by %3").arg(share, QString::fromStdString(intent.method), QString::fromStdString(m_scores->method));
    if (!intent.unlock.empty()) text += tr(", %n layer(s) unlocked", nullptr, static_cast<int>(intent.unlock.size()));
    apply(std::move(chosen), text, note, locks);
    offer();
}

void PlanController::retryUnlocked()
{
    if (!m_offer || inGesture()) return;
    const Offer offer = *m_offer;
    if (offer.intent) {
        AllocationIntent intent = *offer.intent;
        intent.unlock = offer.locks;
        allocateTo(intent);
    } else {
        unlock(offer.locks);
    }
}

void PlanController::unlock(const std::vector<int>& layers)
{
    if (!isOpen() || inGesture()) return;
    apply(unlocked(committed(), layers), layers.size() == 1 ? tr("Unlock layer %1").arg(layers.front())
                                                            : tr("Unlock %n layer(s)", nullptr, static_cast<int>(layers.size())));
}

std::vector<int> PlanController::lockedLayers() const { return locksOf(m_shape, plan()); }

QString PlanController::lockedText(const std::vector<int>& layers) const
{
    const QString text = lockedAt(plan(), layers);
    return text.left(1).toUpper() + text.mid(1) + QLatin1Char('.');
}

void PlanController::refusesKeep(int layer)
{
    if (!isOpen() || layer < 0 || layer >= static_cast<int>(m_shape.layers.size()) || refusesSkipped(layer)) return;
    if (!plan().isLocked(layer)) return;
    say(tr("Layer %1 is locked at %2.").arg(layer).arg(keptIn(plan(), layer)), true, {layer});
    m_offer = Offer{std::nullopt, {layer}};
}

void PlanController::rankAnew()
{
    if (!isOpen() || inGesture()) return;
    if (!m_scores) {
        say(tr("The experts have no scores yet: wait for the profile."), true);
        return;
    }
    std::vector<int> counts(m_shape.layers.size());
    for (const LayerShape& layer : m_shape.layers)
        counts[static_cast<std::size_t>(layer.index)] = keptIn(committed(), layer.index);
    Result<CompressionPlan> ranked = selectByRanking(m_shape, committed(), counts, *m_scores);
    // The ranking says who is kept; what stands in the place of the others stays the layer's.
    Result<CompressionPlan> chosen = ranked;
    if (ranked.ok()) {
        chosen = committed();
        for (const LayerShape& layer : m_shape.layers)
            if (chosen.ok() && layer.moe && !committed().isFixed(layer.index) &&
                ranked->layer(layer.index).kept() != committed().layer(layer.index).kept())
                chosen = withKeptAs(*chosen, layer.index, ranked->layer(layer.index).kept());
    }
    const QString score = QString::fromStdString(m_scores->method);
    const bool same = chosen.ok() && *chosen == committed();
    apply(std::move(chosen), tr("Experts chosen anew by %1").arg(score),
          same ? tr("Nothing changes: the experts kept are the best by %1 already.").arg(score) : QString());
}

}  // namespace espalier
