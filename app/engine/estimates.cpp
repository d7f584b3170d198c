#include "estimates.h"

#include "session/profile_file.h"
#include "work.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

constexpr std::size_t kEstimatorsHeld = 2;

}  // namespace

Json estimateJson(const NllEstimate& estimate, const std::vector<EstimatePair>& pairs)
{
    const EstimateCalibration fit = calibrateEstimates(pairs);
    const double delta = fit.change(estimate.e1, estimate.e2);
    Json layers = Json::array();
    for (const NllEstimate::Layer& layer : estimate.layers)
        layers.push_back({{"layer", layer.layer},
                          {"e1", numberJson(layer.e1)},
                          {"e2", numberJson(layer.e2)},
                          {"uncovered_fraction", layer.uncoveredFraction}});
    return {
        {"delta_nll", numberJson(delta)},
        {"band", numberJson(fit.residual)},
        {"label", fit.label()},
        {"ppl_ratio", numberJson(std::exp(delta))},
        {"e1", numberJson(estimate.e1)},
        {"e2", numberJson(estimate.e2)},
        {"e1_error", numberJson(estimate.e1Error)},
        {"ranks", numberJson(estimate.ranks)},
        {"uncovered_fraction", estimate.uncoveredFraction},
        {"estimate_layers", std::move(layers)},
        {"calibration", {{"pairs", fit.pairs}, {"beta", {fit.beta1, fit.beta2}}, {"rank_correlation", numberJson(fit.rankCorrelation)}}}};
}

Json noEstimateJson()
{
    return {{"delta_nll", nullptr},
            {"band", nullptr},
            {"label", "estimate"},
            {"ppl_ratio", nullptr},
            {"e1", nullptr},
            {"e2", nullptr},
            {"e1_error", nullptr},
            {"ranks", nullptr},
            {"uncovered_fraction", nullptr},
            {"estimate_layers", Json::array()},
            {"calibration", nullptr}};
}

Result<std::vector<EstimatePair>> pairsFromJson(const Json& json)
{
    std::vector<EstimatePair> pairs;
    bool good = json.is_array();
    for (std::size_t i = 0; good && i < json.size(); ++i) {
        const Json& item = json[i];
        Json values[3];
        if (item.is_array() && item.size() == 3)
            std::copy(item.begin(), item.end(), values);
        else if (item.is_object())
            for (const auto& [slot, key] : {std::pair{0, "e1"}, {1, "e2"}, {2, "delta_nll"}})
                values[slot] = item.value(key, Json());
        good = std::all_of(std::begin(values), std::end(values), [](const Json& value) { return value.is_number(); });
        if (good) pairs.push_back({values[0], values[1], values[2]});
    }
    if (good) return pairs;
    Error error = usageError("The pairs are no list of estimates beside exact changes.",
                             R"(Write [{"e1": .., "e2": .., "delta_nll": ..}, ..] or [[e1, e2, delta_nll], ..].)");
    error.code = "estimate.pairs";
    return error;
}

Result<std::shared_ptr<HeldEstimator>> HeldEstimator::create(const ProfileData& profile)
{
    auto held = std::make_shared<HeldEstimator>();
    ESPALIER_TRY(held->m_estimator, NllEstimator::create(profile));
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
