// (I + eps)^alpha, the damping that MoE-I² puts on importance in both stages (arXiv 2411.01016, eq. 5; for counts the form is ours).
#pragma once

#include "base/method_registry.h"

#include <cmath>
#include <string>

namespace espalier
{

inline double dampedImportance(double importance, double alpha) { return std::pow(importance + 1e-12, alpha); }

// The parameter "alpha"; `what` it shapes, for people.
inline ParamSpec importanceExponent(const std::string& what)
{
    ParamSpec alpha;
    alpha.key = "alpha";
    alpha.type = ParamType::Number;
    alpha.defaultValue = 0.15;
    alpha.low = 0;
    alpha.high = 1.5;
    alpha.help = "How strongly importance shapes the " + what + ": 0 is uniform.";
    return alpha;
}

}  // namespace espalier
