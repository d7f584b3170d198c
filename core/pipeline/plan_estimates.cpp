#include "pipeline/plan_estimates.h"

#include "base/file_stamp.h"
#include "pipeline/model_match.h"
#include "pipeline/result_json.h"
#include "session/profile_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

constexpr std::size_t kEstimatorsHeld = 2;

}  // namespace

Estimate estimateOf(const NllEstimate& estimate, const std::optional<ProbeBasis>& basis, const EstimateRecord& record)
{
    Estimate result;
    for (const NllEstimate::Layer& layer : estimate.layers)
        result.layers.push_back({layer.layer, layer.e1, layer.e2, layer.uncoveredFraction});
    result.e1 = estimate.e1;
    result.e2 = estimate.e2;
    result.e1Error = estimate.e1Error;
    result.ranks = estimate.ranks;
    result.uncoveredFraction = estimate.uncoveredFraction;
    Estimate::Calibration& calibration = result.calibration.emplace(Estimate::Calibration{});
    if (estimate.fitted && basis) {
        const NllInterval interval = refined(*estimate.fitted, record.fitted);
        result.deltaNll = interval.change;
        result.band = std::max(interval.high - interval.change, interval.change - interval.low);
        result.low = interval.low;
        result.high = interval.high;
        result.spread = interval.spread;
        result.fitted = estimate.fitted->change;
        calibration = {.calibrated = true,
                       .probes = basis->probes,
                       .windows = basis->windows,
                       .pairs = static_cast<int>(record.fitted.size()),
                       .residual = basis->residual,
                       .beta = {},
                       .rankCorrelation = basis->rankCorrelation};
    } else {
        const EstimateCalibration fit = calibrateEstimates(record.expansion);
        result.deltaNll = fit.change(estimate.e1, estimate.e2);
        // Nine in ten, as far as the errors are normal.
        result.band = 1.645 * fit.residual;
        result.low = result.deltaNll - result.band;
        result.high = result.deltaNll + result.band;
        result.label = fit.label();
        calibration = {.calibrated = fit.calibrated(),
                       .probes = 0,
                       .windows = 0,
                       .pairs = fit.pairs,
                       .residual = {},
                       .beta = std::vector{fit.beta1, fit.beta2},
                       .rankCorrelation = fit.rankCorrelation};
    }
    result.pplRatio = std::exp(result.deltaNll);
    return result;
}

EstimateRecord recordOf(const std::vector<EstimatePoint>& points)
{
    EstimateRecord record;
    for (const EstimatePoint& point : points) {
        if (point.e1 && point.e2) record.expansion.push_back({*point.e1, *point.e2, point.deltaNll});
        if (point.fitted) record.fitted.push_back({*point.fitted, point.deltaNll});
    }
    return record;
}

Result<EstimateRecord> recordFromJson(const Json& json)
{
    if (const Result<std::vector<EstimatePoint>> points = estimatePointsFromJson(json); points.ok()) return recordOf(*points);
    Error error = usageError("The pairs are no list of estimates beside exact changes.",
                             R"(Write [{"e1": .., "e2": .., "fitted": .., "delta_nll": ..}, ..] with what `estimate --json` answered.)");
    error.code = "estimate.pairs";
    return error;
}

std::optional<ProbeBasis> basisOf(const NllEstimator& estimator)
{
    const ProbeFit* fit = estimator.probeFit();
    if (!fit) return {};
    return ProbeBasis{.probes = fit->probes(),
                      .windows = estimator.probeWindows(),
                      .residual = fit->residual(),
                      .rankCorrelation = fit->rankCorrelation()};
}

Result<std::shared_ptr<HeldEstimator>> HeldEstimator::create(const ProfileData& profile)
{
    auto held = std::make_shared<HeldEstimator>();
    ESPALIER_TRY(held->m_estimator, NllEstimator::create(profile));
    held->m_basis = basisOf(*held->m_estimator);
    held->m_model = {profile.shape.modelType, profile.configSha256, profile.weightsSha256};
    return held;
}

Result<std::pair<NllEstimate, std::string>> HeldEstimator::estimate(const Json& json)
{
    const std::scoped_lock lock(m_mutex);
    const ModelShape& shape = m_estimator->shape();
    CompressionPlan plan = CompressionPlan::identity(shape);
    if (!json.is_null()) {
        ESPALIER_TRY(plan, planFromJson(json, shape));
    }
    ESPALIER_CHECK_OK(checkPlanModel(plan, m_model, "profile"));
    ESPALIER_TRY(NllEstimate estimate, m_estimator->estimate(plan));
    return std::pair(std::move(estimate), plan.hash());
}

std::shared_ptr<HeldEstimator> EstimatorCache::find(const std::filesystem::path& profile)
{
    const std::string stamp = fileStamp(profile);
    const std::scoped_lock lock(m_mutex);
    const auto it = std::find_if(m_held.begin(), m_held.end(), [&](const auto& item) { return item.first == stamp; });
    if (it == m_held.end()) return nullptr;
    std::rotate(it, it + 1, m_held.end());
    return m_held.back().second;
}

Result<std::shared_ptr<HeldEstimator>> EstimatorCache::load(const std::filesystem::path& profile)
{
    if (auto held = find(profile)) return held;
    std::string stamp = fileStamp(profile);
    ESPALIER_TRY(const ProfileData data, readProfile(profile));
    ESPALIER_TRY(auto held, HeldEstimator::create(data));
    put(std::move(stamp), held);
    return held;
}

void EstimatorCache::remember(const std::filesystem::path& profile, const ProfileData& data)
{
    if (!data.has("gradients") || find(profile)) return;
    if (auto held = HeldEstimator::create(data); held.ok()) put(fileStamp(profile), std::move(held).value());
}

void EstimatorCache::put(std::string stamp, std::shared_ptr<HeldEstimator> estimator)
{
    const std::scoped_lock lock(m_mutex);
    if (m_held.size() >= kEstimatorsHeld) m_held.erase(m_held.begin());
    m_held.emplace_back(std::move(stamp), std::move(estimator));
}

}  // namespace espalier
