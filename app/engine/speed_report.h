// What a measured speed says, in JSON and as a table: of `speed` and of `compress --speed`.
#pragma once

#include "base/json.h"
#include "generate/speed.h"

#include <string>

namespace espalier
{

// `plan` null: the dense model alone was measured.
Json speedJson(const SpeedResult& result, const SpeedOptions& asked, const CompressionPlan* plan);
std::string speedText(const SpeedResult& result, const SpeedOptions& asked, const std::string& dtype, int threads);

}  // namespace espalier
