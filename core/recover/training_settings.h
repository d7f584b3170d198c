// How a plan is tuned by gradients: what is trained, how the steps go, what they are taken on. Plain values; equal settings, equal bits.
#pragma once

#include "base/error.h"
#include "base/json.h"

#include <cstdint>
#include <string>
#include <vector>

namespace espalier
{

// What low-rank adapters stand beside: W + (alpha / r) b a, a [r,in], b [out,r] (LoRA, arXiv 2106.09685).
struct AdapterSettings {
    int rank = 8;
    double alpha = 16;
    double dropout = 0.05;   // of what a sees
    bool experts = true;     // matrices and factors of the routed experts
    bool attention = true;  // q, k, v, o
    bool shared = true;     // shared experts
    bool dense = false;      // MLPs of layers without experts
};

enum class LearningSchedule { Constant, Linear, Cosine };

// AdamW (Loshchilov and Hutter, arXiv 1711.05101): decay is apart from the gradient.
struct StepSettings {
    int steps = 200;
    int batch = 8;       // windows per step
    int microBatch = 0;  // windows that go through the model at once; 0: as many as make about 2,048 tokens
    double rate = 1e-3;  // at its highest
    int warmup = 0;      // steps over which the rate rises from 0
    LearningSchedule schedule = LearningSchedule::Cosine;  // what follows, down to 0 after the last step
    double beta1 = 0.9;
    double beta2 = 0.999;
    double eps = 1e-8;
    double decay = 0;
    double clip = 1;  // largest norm of all gradients together; 0: none
    std::uint64_t seed = 0;
    int evaluateEvery = 20;  // steps between two looks at the live text; 0: after the last one only
};

std::string_view scheduleName(LearningSchedule schedule);  // "constant", "linear", "cosine"
Result<LearningSchedule> parseSchedule(std::string_view name);

// Rate of step 1 .. steps: rises linearly over `warmup`, then falls to 0 at the end (linear, or half a cosine), or stays. As
// transformers' get_linear_schedule_with_warmup and get_cosine_schedule_with_warmup have it at step - 1.
double rateOf(const StepSettings& settings, int step);

// Errors: recover.settings.
Status checkSettings(const AdapterSettings& adapters);
Status checkSettings(const StepSettings& steps);

Json toJson(const AdapterSettings& adapters);
Json toJson(const StepSettings& steps);

}  // namespace espalier
