// How fast a plan was beside the dense model before it was exported, on the machine of whoever measured it.
#pragma once

#include "base/error.h"
#include "base/json.h"

#include <optional>
#include <string>

namespace espalier
{

struct SpeedAnswer;

struct SpeedMeasurement {
    struct Phase {
        int tokens = 0;                       // at once, or one by one behind them
        double plan = 0, dense = 0;           // tokens per second, medians
        double ratio = 0, low = 0, high = 0;  // plan / dense of rounds in turn: median, least, most
    };
    Phase prefill, decode;
    int rounds = 0;
    int threads = 0;
    std::string dtype;             // computed in
    std::string planHash;          // of the plan that was measured; empty: the one exported
    std::string modelFingerprint;  // of the model it was measured on; empty: not said
};

// What `speed --json` prints, or what toJson makes of it. Error: export.measured_invalid (names the field; a speed without a plan is none).
Result<SpeedMeasurement> parseMeasuredSpeed(const Json& value);
std::optional<SpeedMeasurement> speedMeasurementOf(const SpeedAnswer& answer);  // empty: of the dense model alone
bool holdsSpeed(const Json& value);                                             // whether it is what `speed --json` prints

Json toJson(const SpeedMeasurement& measurement);

// "1.31x faster"; "as fast", where the rounds go both ways.
std::string speedWords(const SpeedMeasurement::Phase& phase);

}  // namespace espalier
