// Exact changes of NLL of a few plans on some of the profile's windows, taken with the profile so that estimates of other plans start out
// with the right size (score/probe_fit.h): every MoE layer alone with few and with many experts left out and with one rank, and all layers
// together in a few mixtures.
//
// No ATen in this header. Runs on the model's compute thread.
#pragma once

#include "base/error.h"
#include "plan/compression_plan.h"
#include "plan/factor_source.h"
#include "statistics/profile_data.h"
#include "tokenizer/windows.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace espalier
{

class MoeModel;

// Windows that probes run on, spread evenly over `rows`: so many that all probes together cost at most kProbeCost forward passes over all
// rows, but no fewer than kLeastProbeTokens tokens (of a short text a quarter, and 512 at least), and no more than kMostProbeTokens.
// Indices into `rows`, ascending.
inline constexpr double kProbeCost = 0.5;
inline constexpr std::int64_t kLeastProbeTokens = 2048;
inline constexpr std::int64_t kMostProbeTokens = 32768;
std::vector<std::int32_t> probeWindows(const ModelShape& shape, const std::vector<std::vector<int>>& rows, bool ranks);

// Plans in ascending order of the first layer they change. `importance`: [decoder layer][expert], higher matters more; a dense layer has
// none. `factors`: what ranks are made by; without a method there are none. Deterministic.
std::vector<CompressionPlan> probePlans(const ModelShape& shape, const std::vector<std::vector<double>>& importance,
                                        const FactorSettings& factors);

// Tokens times layers that runProbes computes at most: what all calls of `step` add up to where every plan is possible.
std::int64_t probeWork(const ModelShape& shape, const std::vector<std::vector<int>>& rows, bool ranks);

// `rows`: token ids of the profile's windows. `source`: of whitened factors, or null: then no plan has ranks. Layer by layer, every plan
// from the first layer on that it changes. `memory`: bytes for the states of the plans that run together. A stop is honoured between two
// layers. Errors: cancelledError(), model.*.
struct ProbeRun {
    const std::vector<std::vector<int>>& rows;
    const std::vector<std::vector<double>>& importance;
    std::shared_ptr<const FactorSource> source;
    std::int64_t memory = 0;
    std::function<bool()> stopRequested;
    std::function<void(std::int64_t)> step;
};
Result<NllProbeSet> runProbes(MoeModel& model, const ProbeRun& run);

}  // namespace espalier
