#include "search/layer_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace espalier
{

namespace
{

constexpr double kShownUncovered = 0.01;  // above this share a longer list is called for

Error searchError(std::string code, int layer, std::string message, std::string action)
{
    Error error = usageError(std::move(message), std::move(action));
    error.code = std::move(code);
    error.subject = fmt::format("layer {}", layer);
    return error;
}

}  // namespace

LayerSearch::LayerSearch(SetLoss& loss, SelectRequest request, Report report, BatchFactory batch)
    : m_loss(loss), m_request(std::move(request)), m_report(std::move(report)), m_makeBatch(std::move(batch))
{
    m_request.bestSets = std::max(m_request.bestSets, 1);
    const RouterShape& router = loss.evaluator().router();
    if (router.groups > 1 && experts() % router.groups == 0) m_groups = router.groups;
    m_removable.resize(static_cast<std::size_t>(m_groups));
    for (int e = 0; e < experts(); ++e)
        if (!std::binary_search(m_request.protectedExperts.begin(), m_request.protectedExperts.end(), e))
            m_removable[static_cast<std::size_t>(groupOf(e))].push_back(e);
}

Status LayerSearch::check() const
{
    const int l = m_request.layer;
    const RouterShape& router = m_loss.evaluator().router();
    if (m_request.keep < router.topK || m_request.keep > experts())
        return searchError(
            "search.keep_out_of_range", l,
            fmt::format("Layer {} cannot keep {} of its {} experts: each token uses {}.", l, m_request.keep, experts(), router.topK),
            fmt::format("Keep {} to {}.", router.topK, experts()));
    if (router.groups > 1) {
        const int kept = m_request.keep / router.groups;
        if (experts() % router.groups != 0 || m_request.keep % router.groups != 0 || kept * router.topGroups < router.topK)
            return searchError("search.groups", l,
                               fmt::format("Layer {} routes in {} groups and cannot keep {} experts, equally many of each.", l,
                                           router.groups, m_request.keep),
                               fmt::format("Keep a multiple of {}.", router.groups));
    }
    for (const auto& group : m_removable)
        if (static_cast<int>(group.size()) < removedPerGroup())
            return searchError(
                "search.protected", l,
                fmt::format("Layer {} protects {} experts and is to keep {}.", l, m_request.protectedExperts.size(), m_request.keep),
                "Protect fewer experts or keep more.");
    return {};
}

double LayerSearch::combinations() const
{
    double total = 1;
    for (const auto& group : m_removable) {
        double count = 1;
        for (int i = 0; i < removedPerGroup(); ++i)
            count = std::round(count * static_cast<double>(static_cast<int>(group.size()) - i) / (i + 1));
        total *= count;
    }
    return total;
}

double LayerSearch::loss(const ExpertBits& kept)
{
    if (const auto it = m_memo.find(kept); it != m_memo.end()) return it->second;
    const GramLoss loss = m_loss.evaluate(kept);
    m_memo.emplace(kept, loss.squared);
    m_rounded.erase(kept);
    collect(kept, loss);
    return loss.squared;
}

Result<std::vector<double>> LayerSearch::losses(std::span<const ExpertBits> sets)
{
    std::vector<double> squared;
    squared.reserve(sets.size());
    if (m_makeBatch && !m_batch) {
        ESPALIER_TRY(m_batch, m_makeBatch(m_loss.evaluator()));
        if (!m_batch) m_makeBatch = {};
    }
    if (!m_makeBatch) {
        for (const ExpertBits& kept : sets)
            squared.push_back(loss(kept));
        return squared;
    }
    ESPALIER_TRY(const std::vector<BatchedLoss> rounded, m_batch->evaluate(sets));
    for (std::size_t i = 0; i < sets.size(); ++i) {
        if (m_memo.contains(sets[i]) || mayBeAmongBest(rounded[i].squared)) {
            squared.push_back(loss(sets[i]));
        } else {
            m_rounded.emplace(sets[i], rounded[i].squared);
            squared.push_back(rounded[i].squared);
        }
    }
    return squared;
}

bool LayerSearch::mayBeAmongBest(double squared) const
{
    return static_cast<int>(m_best.size()) < m_request.bestSets || squared <= m_best.back().loss.squared * (1 + kRounding);
}

void LayerSearch::consider(const ExpertBits& kept, double squared)
{
    if (mayBeAmongBest(squared))
        loss(kept);
    else
        ++m_neighbours;
}

void LayerSearch::collect(const ExpertBits& kept, const GramLoss& loss)
{
    const bool full = static_cast<int>(m_best.size()) >= m_request.bestSets;
    if (full && loss.squared > m_best.back().loss.squared) return;
    Entry entry{kept, kept.toSet(), loss};
    const auto before = [](const Entry& a, const Entry& b) {
        return a.loss.squared != b.loss.squared ? a.loss.squared < b.loss.squared : a.set < b.set;
    };
    m_best.insert(std::upper_bound(m_best.begin(), m_best.end(), entry, before), std::move(entry));
    if (static_cast<int>(m_best.size()) > m_request.bestSets) m_best.pop_back();
}

ExpertBits LayerSearch::ranked(std::span<const double> worth) const
{
    const auto value = [&](int e) {
        const double v = worth[static_cast<std::size_t>(e)];
        return std::isnan(v) ? -std::numeric_limits<double>::infinity() : v;
    };
    ExpertBits kept = ExpertBits::all(experts());
    for (const auto& group : m_removable) {
        std::vector<int> order = group;
        std::sort(order.begin(), order.end(), [&](int a, int b) { return value(a) != value(b) ? value(a) < value(b) : a > b; });
        for (int i = 0; i < removedPerGroup(); ++i)
            kept.erase(order[static_cast<std::size_t>(i)]);
    }
    return kept;
}

std::vector<double> LayerSearch::leaveOneOutWorth() const
{
    std::vector<double> worth;
    for (const GramLoss& loss : m_loss.evaluator().leaveOneOut())
        worth.push_back(loss.squared);
    return worth;
}

std::vector<ExpertBits> LayerSearch::rankedSets() const
{
    std::vector<ExpertBits> sets = {ranked(leaveOneOutWorth())};
    if (!m_request.worth.empty()) sets.push_back(ranked(m_request.worth));
    return sets;
}

bool LayerSearch::endStep()
{
    if (!m_best.empty()) m_trace.push_back(std::sqrt(m_best.front().loss.squared));
    if (m_report && !m_report(*this)) m_stopped = true;
    return !m_stopped;
}

double LayerSearch::bestSquared() const { return m_best.empty() ? std::numeric_limits<double>::infinity() : m_best.front().loss.squared; }

Selection LayerSearch::selection() const
{
    Selection selection;
    selection.layer = m_request.layer;
    for (const Entry& entry : m_best)
        selection.best.push_back({entry.set, entry.loss.loss(), entry.loss.uncoveredShare()});
    selection.trace = m_trace;
    selection.evaluated = static_cast<std::int64_t>(m_memo.size() + m_rounded.size()) + m_neighbours;
    selection.outputNorm = m_loss.evaluator().outputNorm();
    if (selection.best.empty()) return selection;
    selection.uncoveredShare = selection.best.front().uncoveredShare;
    if (selection.uncoveredShare > kShownUncovered)
        selection.warning = fmt::format(
            "Layer {}: {:.1f} % of the tokens have fewer experts left in their list of {} than they use and are charged their whole "
            "output.",
            selection.layer, 100 * selection.uncoveredShare, m_loss.evaluator().store().listLength);
    return selection;
}

}  // namespace espalier
