// Estimates of a plan's change of NLL (score/nll_estimate.h) as the verbs and `serve` give them, and the estimators that `serve` keeps.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "plan/compression_plan.h"
#include "rpc/protocol_evaluation.h"
#include "score/nll_estimate.h"
#include "statistics/profile_data.h"

#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace espalier
{

// Estimates beside what was measured of the same plans later.
struct EstimateRecord {
    std::vector<EstimatePair> expansion;   // of profiles without probes
    std::vector<MeasuredEstimate> fitted;  // of profiles with probes
};

// What an estimator that was fitted to probes rests on.
struct ProbeBasis {
    int probes = 0;
    int windows = 0;
    double residual = 0;         // leave-one-out, of the logarithm
    double rankCorrelation = 0;  // of probes and leave-one-out estimates
};

// With probes: fitted to them, refined by `record`. Without: the expansion, calibrated by `record`.
Estimate estimateOf(const NllEstimate& estimate, const std::optional<ProbeBasis>& basis, const EstimateRecord& record);

EstimateRecord recordOf(const std::vector<EstimatePoint>& points);
// A list of estimates beside exact changes (EstimatePoint). Error: estimate.pairs (usage).
Result<EstimateRecord> recordFromJson(const Json& json);
std::optional<ProbeBasis> basisOf(const NllEstimator& estimator);

// An estimator with what a plan for it is checked against.
class HeldEstimator
{
public:
    static Result<std::shared_ptr<HeldEstimator>> create(const ProfileData& profile);
    // Any thread. Errors: plan.* of a plan that does not fit, plan.other_model, profile.missing_statistics.
    Result<std::pair<NllEstimate, std::string>> estimate(const Json& plan);  // and the plan's hash
    const std::optional<ProbeBasis>& basis() const { return m_basis; }

private:
    std::mutex m_mutex;
    std::unique_ptr<NllEstimator> m_estimator;
    PlanModel m_model;
    std::optional<ProbeBasis> m_basis;
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
