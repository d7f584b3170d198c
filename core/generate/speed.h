// How many tokens a second a model computes under a plan beside the dense model: prompts at once, tokens one by one. Rounds of both in
// turn, so that what the machine does meanwhile meets both.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "plan/compression_plan.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

class MoeModel;

struct SpeedOptions {
    int prefill = 512;  // tokens of the prompt
    int decode = 32;    // tokens behind it
    int rounds = 5;
    std::uint64_t seed = 0;        // of the prompt's tokens where none are given
    std::vector<int> prompt = {};  // taken again from the beginning until there are enough; empty: drawn from the vocabulary
};

struct Spread {
    double median = 0, low = 0, high = 0;
};

struct SpeedOf {
    Spread prefill, decode;                  // tokens per second
    std::int64_t bytesReadPerToken = 0;      // weights that a step multiplies with, in the compute type
    std::int64_t fileBytesReadPerToken = 0;  // of those, converted from the checkpoint's files: not held
    std::int64_t peakRssBytes = 0;           // of the process while this one ran
    std::int64_t weightBytes = 0;            // of all that an export would hold, in the compute type
    std::int64_t flopsPerToken = 0;          // 2 per multiply-add of a product with weights
    std::int64_t activeParameters = 0;
    bool atMost = false;  // FLOPs and active parameters: tokens may skip experts
};

struct SpeedRatios {
    Spread prefill, decode;  // plan / dense of each round
};

struct RoundSpeed {
    int round = 0;
    double densePrefill = 0, denseDecode = 0;
    std::optional<double> planPrefill, planDecode;
};

struct SpeedResult {
    SpeedOf dense;
    std::optional<SpeedOf> plan;
    std::optional<SpeedRatios> ratio;
    std::vector<RoundSpeed> rounds;
    // Bytes of matrices of the plan that were made again in a round that is counted, because the budget does not hold them.
    std::int64_t madeAgain = 0;
};

// What is to be said of that; empty: nothing.
std::string madeAgainWarning(const SpeedResult& result, const MoeModel& model);

// `plan` null: the dense model alone. One round that is not counted goes before: weights are loaded, forms made, kernels generated in it.
// Odd rounds run the plan first. What runs in stop checks is not counted. On the compute thread. Errors: generate.prompt_too_long; those of
// MoeModel; job.cancelled.
Result<SpeedResult> measureSpeed(MoeModel& model, const CompressionPlan* plan, const SpeedOptions& options, JobContext& job,
                                 const std::function<void(const RoundSpeed&)>& done = {});

// Median, least and most; of an even number the mean of the two in the middle. Not empty.
Spread spreadOf(std::vector<double> values);

}  // namespace espalier
