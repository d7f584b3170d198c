// Estimates of a plan's change of NLL (score/nll_estimate.h) as the verbs and `serve` give them, and the estimators that `serve` keeps.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "plan/compression_plan.h"
#include "score/nll_estimate.h"
#include "session/profile_data.h"

#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace espalier
{

// delta_nll (calibrated by `pairs`), band (null below three pairs), label, e1, e2, e1_error, uncovered_fraction, ppl_ratio, layers, and
// what the calibration found.
Json estimateJson(const NllEstimate& estimate, const std::vector<EstimatePair>& pairs);
// The same fields without an estimate.
Json noEstimateJson();

// [[e1, e2, exact], ..] or [{"e1", "e2", "delta_nll"}, ..]. Error: estimate.pairs (usage).
Result<std::vector<EstimatePair>> pairsFromJson(const Json& json);

// An estimator with what a plan for it is checked against.
class HeldEstimator
{
public:
    static Result<std::shared_ptr<HeldEstimator>> create(const ProfileData& profile);
    // Any thread. Errors: plan.* of a plan that does not fit, plan.other_model, profile.missing_statistics.
    Result<std::pair<NllEstimate, std::string>> estimate(const Json& plan);  // and the plan's hash

private:
    std::mutex m_mutex;
    std::unique_ptr<NllEstimator> m_estimator;
    PlanModel m_model;
};

// The estimators of the profiles used last, by path and content stamp. Any thread.
class EstimatorCache
{
public:
    std::shared_ptr<HeldEstimator> find(const std::filesystem::path& profile);
    // Reads the profile if need be. Errors: profile.*.
    Result<std::shared_ptr<HeldEstimator>> load(const std::filesystem::path& profile);
    // After a profile was read or taken anyway; nothing where it holds no gradients.
    void remember(const std::filesystem::path& profile, const ProfileData& data);

private:
    void put(std::string stamp, std::shared_ptr<HeldEstimator> estimator);

    std::mutex m_mutex;
    std::vector<std::pair<std::string, std::shared_ptr<HeldEstimator>>> m_held;  // most recently used last
};

}  // namespace espalier
