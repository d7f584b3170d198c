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

Json estimateJson(const NllEstimate& estimate, const std::optional<ProbeBasis>& basis, const EstimateRecord& record)
{
    Json layers = Json::array();
    for (const NllEstimate::Layer& layer : estimate.layers)
        layers.push_back({{"layer", layer.layer},
                          {"e1", numberJson(layer.e1)},
                          {"e2", numberJson(layer.e2)},
                          {"uncovered_fraction", layer.uncoveredFraction}});
    Json result = {{"e1", numberJson(estimate.e1)},
                   {"e2", numberJson(estimate.e2)},
                   {"e1_error", numberJson(estimate.e1Error)},
                   {"ranks", numberJson(estimate.ranks)},
                   {"uncovered_fraction", estimate.uncoveredFraction},
                   {"estimate_layers", std::move(layers)}};
    double delta = 0;
    if (estimate.fitted && basis) {
        const NllInterval interval = refined(*estimate.fitted, record.fitted);
        delta = interval.change;
        result.update({{"band", numberJson(std::max(interval.high - delta, delta - interval.low))},
                       {"low", numberJson(interval.low)},
                       {"high", numberJson(interval.high)},
                       {"spread", numberJson(interval.spread)},
                       {"fitted", numberJson(estimate.fitted->change)},
                       {"label", "estimate"},
                       {"calibration",
                        {{"calibrated", true},
                         {"probes", basis->probes},
                         {"windows", basis->windows},
                         {"pairs", record.fitted.size()},
                         {"residual", numberJson(basis->residual)},
                         {"rank_correlation", numberJson(basis->rankCorrelation)}}}});
    } else {
        const EstimateCalibration fit = calibrateEstimates(record.expansion);
        delta = fit.change(estimate.e1, estimate.e2);
        // Nine in ten, as far as the errors are normal.
        const double band = 1.645 * fit.residual;
        result.update({{"band", numberJson(band)},
                       {"low", numberJson(delta - band)},
                       {"high", numberJson(delta + band)},
                       {"spread", nullptr},
                       {"fitted", nullptr},
                       {"label", fit.label()},
                       {"calibration",
                        {{"calibrated", fit.calibrated()},
                         {"probes", 0},
                         {"windows", 0},
                         {"pairs", fit.pairs},
                         {"beta", {fit.beta1, fit.beta2}},
                         {"rank_correlation", numberJson(fit.rankCorrelation)}}}});
    }
    result["delta_nll"] = numberJson(delta);
    result["ppl_ratio"] = numberJson(std::exp(delta));
    return result;
}

Json noEstimateJson()
{
    Json result = {{"label", "estimate"}, {"estimate_layers", Json::array()}};
    for (const char* name : {"delta_nll", "band", "low", "high", "spread", "fitted", "ppl_ratio", "e1", "e2", "e1_error", "ranks",
                             "uncovered_fraction", "calibration"})
        result[name] = nullptr;
    return result;
}

Result<EstimateRecord> recordFromJson(const Json& json)
{
    EstimateRecord record;
    bool good = json.is_array();
    for (std::size_t i = 0; good && i < json.size(); ++i) {
        const Json& item = json[i];
        Json values[4];
        if (item.is_array() && (item.size() == 3 || item.size() == 4))
            std::copy(item.begin(), item.end(), values);
        else if (item.is_object())
            for (const auto& [slot, key] : {std::pair{0, "e1"}, {1, "e2"}, {2, "delta_nll"}, {3, "fitted"}})
                values[slot] = item.value(key, Json());
        const bool expansion = values[0].is_number() && values[1].is_number();
        good = values[2].is_number() && (expansion || values[3].is_number());
        if (good && expansion) record.expansion.push_back({values[0], values[1], values[2]});
        if (good && values[3].is_number()) record.fitted.push_back({values[3], values[2]});
    }
    if (good) return record;
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
