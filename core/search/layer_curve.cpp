// D_l(m): the best loss a layer is known to have with m experts.
#include "plan/plan_rules.h"
#include "search/layer_pool.h"
#include "search/layer_search.h"
#include "search/selector.h"

#include "rpc/plan_event.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace espalier
{

namespace
{

class CurveSweep
{
public:
    CurveSweep(const LayerProfile& layer, const LayerShape& shape, const CompressionPlan& plan, const CurveOptions& options,
               const SelectMethod& genetic, const Params& geneticParams, LayerPool::Handle& handle)
        : m_shape(shape),
          m_layer(plan.layer(shape.index)),
          m_pinned(plan.protectedExperts(shape.index)),
          m_options(options),
          m_genetic(genetic),
          m_geneticParams(geneticParams),
          m_handle(handle),
          m_evaluator(layer, shape.router, m_layer.topK()),
          m_loss(m_evaluator)
    {
    }

    Result<LayerCurve> run()
    {
        const int n = m_shape.experts;
        const int groups = std::max(1, m_shape.router.groups);
        LayerCurve curve;
        curve.layer = m_shape.index;
        curve.lowest = fewestExperts(m_shape, m_layer, m_pinned);
        curve.outputNorm = m_evaluator.outputNorm();
        const auto counts = static_cast<std::size_t>(n - curve.lowest) + 1;
        curve.sets.resize(counts);
        curve.setLoss.resize(counts);
        curve.uncovered.resize(counts);

        ExpertBits kept = ExpertBits::all(n);
        store(curve, n, kept);
        for (int m = n - groups; m >= curve.lowest; m -= groups) {
            ESPALIER_TRY(kept, best(m, kept));
            store(curve, m, kept);
        }
        // A grouped router cannot have the counts in between: they stand for the next lower one.
        for (std::size_t i = 0; i < counts; ++i) {
            if (const std::size_t at = i - i % static_cast<std::size_t>(groups); at != i) {
                curve.sets[i] = curve.sets[at];
                curve.setLoss[i] = curve.setLoss[at];
                curve.uncovered[i] = curve.uncovered[at];
            }
            curve.loss.push_back(i == 0 ? curve.setLoss[0] : std::min(curve.loss[i - 1], curve.setLoss[i]));
        }
        return curve;
    }

private:
    void store(LayerCurve& curve, int count, const ExpertBits& kept)
    {
        const auto i = static_cast<std::size_t>(count - curve.lowest);
        const GramLoss loss = m_loss.evaluate(kept);
        curve.sets[i] = kept.toSet();
        curve.setLoss[i] = loss.loss();
        curve.uncovered[i] = loss.uncoveredShare();
    }

    Result<ExpertBits> best(int count, const ExpertBits& above)
    {
        SelectRequest request;
        request.layer = m_shape.index;
        request.keep = count;
        request.bestSets = 1;
        request.seed = m_options.seed;
        request.protectedExperts = m_pinned;
        LayerSearch search(m_loss, std::move(request), [&](const LayerSearch&) { return !m_handle.stopRequested(); });
        if (search.groups() > 1) {
            ExpertBits kept = above;
            eliminateRound(search, kept, true);
        } else {
            const LossState state(m_loss, above);
            const std::vector<double> losses = state.squaredWithoutEach();
            for (const int e : search.removable().front())
                if (above.contains(e)) search.consider(above.without(e), losses[static_cast<std::size_t>(e)]);
        }
        if (m_worth.empty()) m_worth = search.leaveOneOutWorth();
        search.loss(search.ranked(m_worth));
        if (m_options.genetic) ESPALIER_CHECK_OK(m_genetic.run(search, m_geneticParams));
        if (m_options.swap && !search.stopped()) improveBySwaps(search, search.bestSet());
        if (!search.endStep()) return cancelledError();
        return search.bestSet();
    }

    const LayerShape& m_shape;
    const LayerPlan& m_layer;
    const ExpertSet& m_pinned;
    const CurveOptions& m_options;
    const SelectMethod& m_genetic;
    const Params& m_geneticParams;
    LayerPool::Handle& m_handle;
    GramEvaluator m_evaluator;
    SetLoss m_loss;
    std::vector<double> m_worth;
};

}  // namespace

Result<std::vector<LayerCurve>> layerCurves(const ProfileData& profile, const CompressionPlan& base, const CurveOptions& options,
                                            JobContext& job)
{
    const SelectMethod genetic = geneticMethod();
    ESPALIER_TRY(const Params geneticParams, checkParams(genetic.info, options.genetic.value_or(Params())));
    std::vector<int> open;
    for (const LayerShape& shape : profile.shape.layers) {
        if (!shape.moe || base.isFixed(shape.index)) continue;
        if (profile.layers[static_cast<std::size_t>(shape.index)].gram.listLength == 0)
            return badInput("profile.missing_statistics", fmt::format("layer {}", shape.index),
                            {"The profile has no products of expert outputs for layer {shape}.", {{"shape", shape.index}}},
                            "Take the profile with --collect +gram.");
        open.push_back(shape.index);
    }
    std::vector<LayerCurve> all(profile.layers.size());
    const auto work = [&](int layer, LayerPool::Handle& handle) -> Status {
        const auto l = static_cast<std::size_t>(layer);
        CurveSweep sweep(profile.layers[l], profile.shape.layers[l], base, options, genetic, geneticParams, handle);
        ESPALIER_TRY(all[l], sweep.run());
        return {};
    };
    ESPALIER_CHECK_OK(LayerPool::run(open, options.threads, 0, job, work, [&](int layer) {
        const LayerCurve& curve = all[static_cast<std::size_t>(layer)];
        job.partial(toJson(CurveKnown{layer, curve.lowest, curve.loss}));
    }));
    std::vector<LayerCurve> curves;
    curves.reserve(open.size());
    for (const int layer : open)
        curves.push_back(std::move(all[static_cast<std::size_t>(layer)]));
    return curves;
}

std::vector<std::vector<double>> curveTable(const std::vector<LayerCurve>& curves, const ModelShape& shape, bool relative)
{
    std::vector<std::vector<double>> table;
    for (const LayerShape& layer : shape.layers)
        table.emplace_back(layer.moe ? static_cast<std::size_t>(layer.experts) + 1 : 0, std::numeric_limits<double>::infinity());
    for (const LayerCurve& curve : curves) {
        const double unit = relative && curve.outputNorm > 0 ? curve.outputNorm : 1.0;
        std::vector<double>& row = table[static_cast<std::size_t>(curve.layer)];
        for (std::size_t i = 0; i < curve.loss.size(); ++i)
            row[static_cast<std::size_t>(curve.lowest) + i] = curve.loss[i] / unit;
    }
    return table;
}

}  // namespace espalier
