#include "pipeline/verified_search.h"

#include "allocate/rank_rule.h"
#include "allocate/size_plan.h"
#include "base/text.h"
#include "pipeline/profile_rank_curves.h"
#include "pipeline/result_json.h"
#include "pipeline/stage_job.h"
#include "pipeline/window_losses.h"
#include "plan/cost_model.h"
#include "score/scorer.h"
#include "search/rank_budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace espalier
{

namespace
{

constexpr const char* kGiven = "given plan";

// Bytes that a plan of `keepTotal` experts may take: those of the start, and for every expert more or fewer what one of its experts takes
// on average.
std::int64_t bytesForCount(const ModelShape& shape, const CompressionPlan& start, int keepTotal)
{
    std::int64_t experts = 0;
    for (const LayerShape& layer : shape.layers)
        experts += expertBytesOf(shape, start, layer.index);
    const auto kept = static_cast<double>(std::max(start.keptExperts(), 1));
    const double more = static_cast<double>(keepTotal - start.keptExperts());
    return planCost(shape, start).bytes + static_cast<std::int64_t>(std::floor(more * static_cast<double>(experts) / kept));
}

// The unlocked layers as the model has them.
Result<CompressionPlan> unlockedWhole(const ModelShape& shape, const CompressionPlan& base)
{
    CompressionPlan plan = base;
    bool ranks = false;
    for (const LayerShape& layer : shape.layers) {
        if (!layer.moe) continue;
        if (base.isFixed(layer.index)) {
            ranks = ranks || !base.layer(layer.index).ranks().empty();
            continue;
        }
        ESPALIER_TRY(plan, plan.withRanks(shape, layer.index, {}));
        ExpertSet all(static_cast<std::size_t>(layer.experts));
        for (int e = 0; e < layer.experts; ++e)
            all[static_cast<std::size_t>(e)] = e;
        ESPALIER_TRY(plan, plan.withKept(shape, layer.index, all));
    }
    return ranks ? plan : plan.withFactors({});
}

class Verified
{
public:
    Verified(const VerifiedProblem& verified, JobContext& job)
        : m_verified(verified), m_shape(verified.inputs.checkpoint->shape()), m_base(verified.base), m_job(job)
    {
    }

    Result<VerifiedAnswer> run(const Params& given)
    {
        ESPALIER_TRY(const Params params, checkParams(verifiedInfo(), given));
        if (m_verified.bytes && params.at("ranks") == "free") m_rankCurves = rankCurvesOf(m_verified.inputs.profile);
        for (const LayerCurve& curve : m_verified.curves)
            m_forms->emplace(curve.layer, LayerForms(m_shape, curve.layer, curve, m_rankCurves.get()));
        ESPALIER_CHECK_OK(m_verified.bytes ? prepareBytes() : prepareCounts());
        ESPALIER_CHECK_OK(addCandidates());
        m_problem.shape = m_shape;
        m_problem.uniformCount = m_verified.uniformCount;
        m_problem.groups = m_verified.groups;
        m_problem.measure = [this](const CompressionPlan& plan, std::span<const int> windows) -> Result<std::vector<WindowLoss>> {
            ESPALIER_TRY(const CompressionPlan finished, finish(plan));
            return m_verified.measure(finished, windows);
        };
        if (m_verified.inputs.locked)
            m_problem.measureLocked = [this](const CompressionPlan& plan) -> Result<std::vector<WindowLoss>> {
                ESPALIER_TRY(const CompressionPlan finished, finish(plan));
                ESPALIER_TRY(MoeModel * model, m_verified.inputs.model());
                SilentPartials quiet(m_job);
                return measureOnce(*model, *m_verified.inputs.locked, finished, quiet);
            };
        PlanSearchOptions options = planSearchOptions(params);
        options.seed = m_verified.seed;
        options.clock = m_verified.clock;
        VerifiedAnswer answer;
        answer.allowedSeconds = options.seconds;
        // What is left of the minutes: enough for a first look in any case.
        if (options.seconds > 0) options.seconds = std::max(1.0, m_verified.timeShare * options.seconds - m_verified.spentSeconds);
        ESPALIER_TRY(answer.search, searchPlans(m_problem, options, m_job));
        if (const auto it = m_givenBack.find(answer.search.plan.hash()); it != m_givenBack.end()) answer.search.rankGivenBack = it->second;
        if (m_problem.candidates.empty() || m_problem.candidates.front().name != kGiven) answer.search.againstFirst.reset();
        answer.detail = detailOf(answer.search);
        answer.withSets = withSets();
        return answer;
    }

private:
    // Where a rule gives ranks to every plan: the whole model, and layers measured alone in it, have none.
    Result<CompressionPlan> finish(const CompressionPlan& plan) const
    {
        if (!m_verified.ranked || plan.hash() == m_problem.whole.hash() || m_alone.contains(plan.hash())) return plan;
        return m_verified.ranked(plan);
    }

    Status prepareCommon()
    {
        for (const auto& [layer, forms] : *m_forms)
            m_problem.layers.push_back(layer);
        ESPALIER_TRY(m_problem.whole, unlockedWhole(m_shape, m_base));
        return {};
    }

    // Forms whose count is within the bounds that were asked for.
    std::vector<LayerOption> allowed(int layer, std::vector<LayerOption> options) const
    {
        std::erase_if(options, [&](const LayerOption& option) { return !m_verified.bounds.allow(layer, option.count); });
        return options;
    }
    // The first free layer in which nothing is left of them.
    Status checkOptions() const
    {
        for (std::size_t i = 0; i < m_problem.options.size(); ++i)
            if (m_problem.options[i].empty())
                return badInput(
                    "allocate.infeasible", fmt::format("layer {}", m_problem.layers[i]),
                    {"No count of layer {i} that its router allows is within floor, cap and multiple.", {{"i", m_problem.layers[i]}}},
                    "Raise its cap, lower its floor, or choose another multiple.");
        return {};
    }

    // So many bytes: every form of every layer is open.
    Status prepareBytes()
    {
        ESPALIER_CHECK_OK(prepareCommon());
        m_problem.start = m_problem.whole;
        m_problem.budget = *m_verified.bytes - planCost(m_shape, m_problem.whole).bytes;
        for (const auto& [layer, forms] : *m_forms) {
            m_problem.budget += expertBytesOf(m_shape, m_problem.whole, layer);
            m_problem.options.push_back(allowed(layer, forms.options()));
        }
        ESPALIER_CHECK_OK(checkOptions());
        std::int64_t least = 0;
        for (const auto& options : m_problem.options)
            least += std::min_element(options.begin(), options.end(), [](const auto& a, const auto& b) { return a.cost < b.cost; })->cost;
        if (least > m_problem.budget && (m_base.isIdentity(m_shape) || planCost(m_shape, m_base).bytes > *m_verified.bytes))
            return badInput("plan.size_infeasible", formatBytes(*m_verified.bytes),
                            {"No plan of this model fits {format_bytes}: the smallest that this search knows takes {format_bytes2}.",
                             {{"format_bytes", formatBytes(*m_verified.bytes)},
                              {"format_bytes2", formatBytes(*m_verified.bytes + least - m_problem.budget)}}},
                            m_rankCurves
                                ? "Choose a larger size, or unlock layers."
                                : "Choose a larger size, unlock layers, or take a profile with \"curves\", which allows low ranks.");
        m_problem.cost = [this](const CompressionPlan& plan, int layer) { return expertBytesOf(m_shape, plan, layer); };
        const auto changed = [this](const CompressionPlan& from, const std::vector<LayerChange>& changes) -> Result<CompressionPlan> {
            CompressionPlan plan = from;
            for (const auto& [place, option] : changes) {
                const int layer = m_problem.layers[place];
                const LayerForms& forms = m_forms->at(layer);
                ESPALIER_TRY(plan, withForm(plan, layer, forms.setOf(option.count), forms.ranks(forms.setOf(option.count), option.level)));
            }
            return plan;
        };
        m_problem.alone = [this, changed](const LayerChange& change) { return changed(m_problem.whole, {change}); };
        m_problem.apply = [this, changed](const CompressionPlan& from,
                                          const std::vector<LayerChange>& changes) -> Result<std::optional<CompressionPlan>> {
            ESPALIER_TRY(CompressionPlan plan, changed(from, changes));
            if (planCost(m_shape, plan).bytes > *m_verified.bytes) return std::optional<CompressionPlan>();
            return std::optional(std::move(plan));
        };
        return {};
    }

    Result<CompressionPlan> withForm(const CompressionPlan& from, int layer, const ExpertSet& kept,
                                     const std::vector<RankTriple>& ranks) const
    {
        ESPALIER_TRY(const CompressionPlan bare, from.withRanks(m_shape, layer, {}));
        ESPALIER_TRY(CompressionPlan plan, bare.withKept(m_shape, layer, kept));
        if (ranks.empty()) return plan.hasRanks() ? plan : plan.withFactors({});
        plan = plan.withFactors(m_verified.factors);
        return plan.withRanks(m_shape, layer, ranks);
    }

    // So many experts: sets change, ranks of the base are handed on. Where it has any, bytes are held by giving back rank.
    Status prepareCounts()
    {
        ESPALIER_CHECK_OK(prepareCommon());
        m_problem.start = m_base;
        m_problem.budget = *m_verified.keepTotal;
        m_problem.exactly = !m_verified.uniformCount;
        for (const LayerShape& layer : m_shape.layers) {
            if (!layer.moe) continue;
            if (const auto it = m_forms->find(layer.index); it != m_forms->end()) {
                std::vector<LayerOption> options;
                for (LayerOption option : allowed(layer.index, it->second.options()))
                    if (option.level == 0) {
                        option.cost = option.count;
                        options.push_back(option);
                    }
                m_problem.options.push_back(std::move(options));
                // Groups keep equally many experts each, which not every total allows; nor do multiples.
                if (layer.router.groups > 1 || m_verified.bounds.multipleOf > 1) m_problem.exactly = false;
            } else {
                m_problem.budget -= static_cast<int>(m_base.layer(layer.index).kept().size());
            }
        }
        ESPALIER_CHECK_OK(checkOptions());
        m_problem.cost = [](const CompressionPlan& plan, int layer) { return static_cast<std::int64_t>(plan.layer(layer).kept().size()); };
        if (m_base.hasRanks() && !m_verified.ranked) {
            m_heldBytes = bytesForCount(m_shape, m_base, *m_verified.keepTotal);
            m_rankValue = rankValueOf(rankCurvesOf(m_verified.inputs.profile));
        }
        m_problem.alone = [this](const LayerChange& change) -> Result<CompressionPlan> {
            const int layer = m_problem.layers[change.first];
            ESPALIER_TRY(CompressionPlan plan, m_problem.whole.withKept(m_shape, layer, m_forms->at(layer).setOf(change.second.count)));
            m_alone.insert(plan.hash());
            return plan;
        };
        m_problem.apply = [this](const CompressionPlan& from, const std::vector<LayerChange>& changes) {
            std::vector<ExpertSet> sets(m_shape.layers.size());
            for (const auto& [place, option] : changes) {
                const int layer = m_problem.layers[place];
                sets[static_cast<std::size_t>(layer)] = m_forms->at(layer).setOf(option.count);
            }
            return held(from, sets);
        };
        return {};
    }

    Result<std::optional<CompressionPlan>> held(const CompressionPlan& from, const std::vector<ExpertSet>& sets)
    {
        ESPALIER_TRY(CompressionPlan plan, withSetsHandingRanksOn(m_shape, from, sets));
        if (m_heldBytes == 0) return std::optional(std::move(plan));
        ESPALIER_TRY(auto less, heldToBytes(m_shape, plan, m_heldBytes, m_rankValue));
        if (!less) return std::optional<CompressionPlan>();
        const auto it = m_givenBack.find(from.hash());
        m_givenBack.emplace(less->plan.hash(), less->givenBack + (it == m_givenBack.end() ? 0 : it->second));
        return std::optional(std::move(less->plan));
    }

    void refuse(const std::string& name, const std::string& code) { m_candidates.push_back({{"name", name}, {"error", code}}); }

    Status offer(const std::string& name, const std::optional<CompressionPlan>& plan, bool guarded)
    {
        if (!plan) {
            refuse(name, "plan.size_infeasible");
            return {};
        }
        std::int64_t cost = 0;
        std::vector<int> keep;
        for (const LayerShape& layer : m_shape.layers)
            keep.push_back(layer.moe ? static_cast<int>(plan->layer(layer.index).kept().size()) : 0);
        for (const int layer : m_problem.layers)
            cost += m_problem.cost(*plan, layer);
        const bool sameCount = std::all_of(m_problem.layers.begin(), m_problem.layers.end(), [&](int layer) {
            return keep[static_cast<std::size_t>(layer)] == keep[static_cast<std::size_t>(m_problem.layers.front())];
        });
        const bool outside = std::any_of(m_problem.layers.begin(), m_problem.layers.end(),
                                         [&](int layer) { return !m_verified.bounds.allow(layer, keep[static_cast<std::size_t>(layer)]); });
        if (outside) {
            refuse(name, "plan.outside_bounds");
        } else if (m_problem.exactly ? cost != m_problem.budget : cost > m_problem.budget) {
            refuse(name, "plan.other_size");
        } else if (m_verified.uniformCount && !sameCount) {
            refuse(name, "plan.unequal_counts");
        } else {
            m_candidates.push_back({{"name", name}, {"keep", keep}});
            m_problem.candidates.push_back({name, *plan, guarded});
        }
        return {};
    }

    Status addCandidates()
    {
        ESPALIER_CHECK_OK(offerGiven());
        for (const MethodInfo& method : allocators()) {
            const std::string& id = method.id;
            AllocationRequest asked = m_verified.request;
            asked.uniformCount = m_verified.uniformCount;
            if (m_verified.bytes) {
                asked.unit = BudgetUnit::Bytes;
                asked.target = *m_verified.bytes;
            } else {
                asked.keepTotal = *m_verified.keepTotal;
            }
            const Result<std::vector<int>> keep = allocate(id, m_shape, asked, {});
            if (!keep.ok()) {
                refuse(id, keep.error().code);
                continue;
            }
            ESPALIER_TRY(const auto plan, ofCounts(*keep));
            ESPALIER_CHECK_OK(offer(id, plan, method.baseline));
        }
        if (!m_verified.bytes) return {};
        ESPALIER_CHECK_OK(offerMoeI2());
        ESPALIER_CHECK_OK(offerReap());
        ESPALIER_CHECK_OK(offerSolved());
        return {};
    }

    // The plan that the search is started from. Its ranks may have been made with other factors than those at hand.
    Status offerGiven()
    {
        if (m_base.isIdentity(m_shape)) return {};
        if (m_verified.ranked && m_base.hasRanks()) return {};
        ESPALIER_CHECK_OK(offer(kGiven, m_base, true));
        if (m_verified.bytes && m_base.hasRanks() && !(m_base.factors() == m_verified.factors))
            ESPALIER_CHECK_OK(offer("given plan, other factors", m_base.withFactors(m_verified.factors), false));
        return {};
    }

    std::vector<ExpertSet> setsOf(const std::vector<int>& keep) const
    {
        std::vector<ExpertSet> sets(m_shape.layers.size());
        for (const auto& [layer, forms] : *m_forms)
            sets[static_cast<std::size_t>(layer)] = forms.setOf(keep[static_cast<std::size_t>(layer)]);
        return sets;
    }

    Result<std::optional<CompressionPlan>> ofCounts(const std::vector<int>& keep) { return held(m_problem.start, setsOf(keep)); }

    // The paper's two stages at this size: counts by importance, ranks by importance at the automatic average, as many experts as fit.
    Status offerMoeI2()
    {
        RankRequest ranks;
        const Result<ExpertScores> importance = score(m_verified.inputs.profile, "leave-one-out", {{"normalise", "raw"}});
        if (!importance.ok() || m_verified.request.layerImportance.empty()) {
            refuse("moe-i2", "allocate.no_importance");
            return {};
        }
        ranks.importance = *importance;
        ranks.factors = m_verified.factors;
        AllocationRequest asked = m_verified.request;
        asked.uniformCount = m_verified.uniformCount;
        std::optional<CompressionPlan> best;
        int low = 0;
        int high = static_cast<int>(m_shape.totalExperts());
        while (low <= high) {
            asked.keepTotal = low + (high - low) / 2;
            const Result<std::vector<int>> keep = allocate("importance", m_shape, asked, {});
            if (!keep.ok()) {
                low = asked.keepTotal + 1;
                continue;
            }
            ESPALIER_TRY(const auto counts, ofCounts(*keep));
            const Result<CompressionPlan> plan =
                counts ? assignRanks(m_shape, *counts, "moe-i2", ranks, {}) : Result<CompressionPlan>(internalError("No counts."));
            if (plan.ok() && planCost(m_shape, *plan).bytes <= *m_verified.bytes) {
                best = *plan;
                low = asked.keepTotal + 1;
            } else {
                high = asked.keepTotal - 1;
            }
        }
        return offer("moe-i2", best, true);
    }

    // Equal shares, the experts with the best REAP scores.
    Status offerReap()
    {
        AllocationRequest asked = m_verified.request;
        asked.uniformCount = m_verified.uniformCount;
        asked.unit = BudgetUnit::Bytes;
        asked.target = *m_verified.bytes;
        const Result<ExpertScores> reap = score(m_verified.inputs.profile, "reap");
        const Result<std::vector<int>> keep = allocate("uniform", m_shape, asked, {});
        if (!reap.ok() || !keep.ok()) {
            refuse("uniform, reap", reap.ok() ? keep.error().code : reap.error().code);
            return {};
        }
        ESPALIER_TRY(CompressionPlan plan, selectByRanking(m_shape, m_problem.start, *keep, *reap));
        return offer("uniform, reap", plan, true);
    }

    // One exact decision over counts and ranks, as if output error were all that counts.
    Status offerSolved()
    {
        if (!m_rankCurves) return {};
        SizeRequest request;
        request.plan = m_problem.start;
        request.bytes = *m_verified.bytes;
        request.lossCurves = m_verified.request.lossCurves;
        request.keptSets = setsByCount(m_shape, m_verified.curves);
        request.scores = m_verified.request.scores;
        request.curves = m_rankCurves;
        request.floor = m_verified.request.floor;
        request.cap = m_verified.request.cap;
        request.multipleOf = m_verified.request.multipleOf;
        request.uniformCount = m_verified.uniformCount;
        request.factors = m_verified.factors;
        const Result<SizedPlan> sized = planForBytes(m_shape, request);
        if (!sized.ok()) {
            refuse("exact with ranks", sized.error().code);
            return {};
        }
        return offer("exact with ranks", sized->plan, false);
    }

    std::function<Result<std::optional<CompressionPlan>>(const CompressionPlan&, const std::vector<ExpertSet>&)> withSets()
    {
        if (!m_verified.bytes)
            return [shape = m_shape, bytes = m_heldBytes, value = m_rankValue](
                       const CompressionPlan& from, const std::vector<ExpertSet>& sets) -> Result<std::optional<CompressionPlan>> {
                ESPALIER_TRY(CompressionPlan plan, withSetsHandingRanksOn(shape, from, sets));
                if (bytes == 0) return std::optional(std::move(plan));
                ESPALIER_TRY(auto less, heldToBytes(shape, plan, bytes, value));
                return less ? std::optional(std::move(less->plan)) : std::optional<CompressionPlan>();
            };
        return [shape = m_shape, forms = m_forms, factors = m_verified.factors](
                   const CompressionPlan& from, const std::vector<ExpertSet>& sets) -> Result<std::optional<CompressionPlan>> {
            CompressionPlan plan = from;
            for (const auto& [layer, form] : *forms) {
                const ExpertSet& kept = sets[static_cast<std::size_t>(layer)];
                if (kept.empty() || kept == from.layer(layer).kept()) continue;
                const auto level = form.levelWithin(kept, expertBytesOf(shape, from, layer));
                if (!level) return std::optional<CompressionPlan>();
                ESPALIER_TRY(plan, plan.withRanks(shape, layer, {}));
                ESPALIER_TRY(plan, plan.withKept(shape, layer, kept));
                if (*level > 0) {
                    plan = plan.withFactors(factors);
                    ESPALIER_TRY(plan, plan.withRanks(shape, layer, form.ranks(kept, *level)));
                }
            }
            return std::optional(plan.hasRanks() ? plan : plan.withFactors({}));
        };
    }

    Json detailOf(const PlanSearchResult& search) const
    {
        Json rises = Json::array();
        for (const double value : search.layerRise)
            rises.push_back(numberJson(value));
        Json trace = Json::array();
        for (const PlanSearchStep& step : search.trace)
            trace.push_back(toJson(step));
        int windows = 0;
        for (const std::vector<int>& group : m_verified.groups)
            windows += static_cast<int>(group.size());
        const auto difference = [](const std::optional<PairedDifference>& value) { return value ? toJson(*value) : Json(); };
        return {{"candidates", m_candidates},
                {"layer_rise", std::move(rises)},
                {"trace", std::move(trace)},
                {"measured", search.measured},
                {"moves", search.moves},
                {"passes", search.passes},
                {"windows", windows},
                {"bytes", planCost(m_shape, search.plan).bytes},
                {"rank_given_back", search.rankGivenBack},
                {"end", planSearchEndName(search.end)},
                {"start", search.start},
                {"change", toJson(search.change)},
                {"against_dense", difference(search.againstWhole)},
                {"against_given", difference(search.againstFirst)},
                {"locked_change", difference(search.lockedChange)}};
    }

    const VerifiedProblem& m_verified;
    const ModelShape& m_shape;
    const CompressionPlan& m_base;
    JobContext& m_job;
    std::shared_ptr<const RankCurves> m_rankCurves;
    std::shared_ptr<std::map<int, LayerForms>> m_forms = std::make_shared<std::map<int, LayerForms>>();  // free MoE layers
    RankValue m_rankValue;
    std::int64_t m_heldBytes = 0;                     // 0 = not looked at
    std::map<std::string, std::int64_t> m_givenBack;  // rank units, by plan hash
    std::set<std::string> m_alone;                    // hashes of plans in which one layer alone is changed
    Json m_candidates = Json::array();
    PlanSearchProblem m_problem;
};

}  // namespace

Result<VerifiedAnswer> searchVerified(const VerifiedProblem& problem, const Params& params, JobContext& job)
{
    return Verified(problem, job).run(params);
}

std::vector<std::vector<ExpertSet>> setsByCount(const ModelShape& shape, const std::vector<LayerCurve>& curves)
{
    std::vector<std::vector<ExpertSet>> all(shape.layers.size());
    for (const LayerCurve& curve : curves) {
        auto& sets = all[static_cast<std::size_t>(curve.layer)];
        sets.resize(static_cast<std::size_t>(shape.layers[static_cast<std::size_t>(curve.layer)].experts) + 1);
        for (std::size_t i = 0; i < curve.sets.size(); ++i)
            sets[static_cast<std::size_t>(curve.lowest) + i] = curve.sets[i];
    }
    return all;
}

std::vector<std::vector<int>> raceOrder(const std::vector<std::vector<int>>& groups)
{
    // Groups whose windows are spread over the text come first, as they are; of the others, which are runs of neighbours, any first part is
    // spread: by the digits of the place in reverse (van der Corput).
    std::vector<std::vector<int>> result;
    std::vector<const std::vector<int>*> runs;
    for (const std::vector<int>& group : groups)
        if (!group.empty() && group.back() - group.front() + 1 == static_cast<int>(group.size()))
            runs.push_back(&group);
        else
            result.push_back(group);
    std::vector<std::pair<double, std::size_t>> order;
    for (std::size_t i = 0; i < runs.size(); ++i) {
        double place = 0;
        double digit = 0.5;
        for (std::size_t rest = i; rest > 0; rest /= 2, digit /= 2)
            place += static_cast<double>(rest % 2) * digit;
        order.emplace_back(place, i);
    }
    std::sort(order.begin(), order.end());
    // order[k].second is the k-th smallest place: run k of the text is measured as number order[k].second.
    const std::size_t spread = result.size();
    result.resize(spread + runs.size());
    for (std::size_t k = 0; k < order.size(); ++k)
        result[spread + order[k].second] = *runs[k];
    return result;
}

}  // namespace espalier
