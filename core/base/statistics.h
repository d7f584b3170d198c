// Perplexity and its error, a ratio estimator over windows (core/base/README.md). fp64, order of windows irrelevant up to rounding.
#pragma once

#include <span>
#include <vector>

namespace espalier
{

// Loss of one window: NLL in nats summed over its scored tokens.
struct WindowLoss {
    int window = 0;
    double nll = 0;
    int tokens = 0;
};

struct PerplexityEstimate {
    double nll = 0;       // per token
    double ppl = 0;       // exp(nll)
    double nllError = 0;  // standard error of nll over windows; 0 for one window
    double pplError = 0;  // ppl * nllError (first order)
    long tokens = 0;
    int windows = 0;
};
PerplexityEstimate perplexity(std::span<const WindowLoss> windows);

// Paired difference plan - reference on the windows both have (matched by window index).
struct PairedDifference {
    double nll = 0;  // per token
    double se = 0;
    double pplRatio = 1;  // exp(nll)
    double low = 1;       // interval exp(nll -+ q se), q = 1.96 from 30 windows up, Student's t below
    double high = 1;
    int windows = 0;
};
PairedDifference pairedDifference(std::span<const WindowLoss> plan, std::span<const WindowLoss> reference);

// Two-sided 95 % quantile of Student's t, degrees of freedom >= 1.
double studentT975(int degreesOfFreedom);

}  // namespace espalier
