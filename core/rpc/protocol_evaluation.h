// What a plan costs the model: measured on a text, or estimated from a profile.
#pragma once

#include "base/statistics.h"
#include "rpc/protocol.h"
#include "rpc/text_selection.h"

#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

// Which windows of a text: [indices], {"first": n} or n, {"spread": n}, {"all": true}.
struct WindowChoice {
    enum class Kind { All, First, Spread, Listed };
    Kind kind = Kind::All;
    int count = 0;             // First (0: all), Spread
    std::vector<int> indices;  // Listed
};
ESPALIER_PROTOCOL_TYPE(WindowChoice);

struct EvaluateAnswer {
    std::string planHash;
    std::vector<WindowLoss> windows;
    double ppl = 0;
    double nll = 0;  // per token
    double nllError = 0;
    std::int64_t scoredTokens = 0;
    int windowCountTotal = 0;  // of the text
    std::optional<int> windowsAsked;
    std::vector<std::string> warnings;  // about the text
    int windowLength = 0;
    std::string text;
    std::string textSha256;
    std::string tokenizerSha256;
    std::string dtype;  // computed in
    double seconds = 0;
};
ESPALIER_PROTOCOL_TYPE(EvaluateAnswer);

struct EvaluateRequest {
    static constexpr const char* kMethod = "evaluate";
    using Answer = EvaluateAnswer;
    using Partial = WindowLoss;
    std::string path;
    TextSelection text;
    int maxWindows = 0;                           // of the text; 0: all
    Json plan;                                    // as core/plan writes it; null: the whole model
    std::vector<std::filesystem::path> profiles;  // that factors and constants come from
    std::string tier;                             // "full" gives way to everything else
    WindowChoice windows;
};
ESPALIER_PROTOCOL_TYPE(EvaluateRequest);

// An estimate beside what was measured of the same plan later: [e1, e2, delta_nll], with "fitted" as a fourth number, or the same by name.
struct EstimatePoint {
    std::optional<double> e1;
    std::optional<double> e2;
    std::optional<double> fitted;  // the estimate before any pair, of profiles with probes
    double deltaNll = 0;
};
ESPALIER_PROTOCOL_TYPE(EstimatePoint);
// A list of them. Error: rpc.field.
Result<std::vector<EstimatePoint>> estimatePointsFromJson(const Json& json);

// Null where nothing says: NaN.
struct Estimate {
    static constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
    struct Layer {
        int layer = 0;
        double e1 = kUnknown;
        double e2 = kUnknown;
        double uncoveredFraction = kUnknown;
    };
    struct Calibration {
        bool calibrated = false;
        int probes = 0;  // plans measured with the profile; 0: the expansion alone
        int windows = 0;
        int pairs = 0;
        std::optional<double> residual;           // leave-one-out, of the logarithm, with probes
        std::optional<std::vector<double>> beta;  // of e1 and e2, without
        double rankCorrelation = kUnknown;
    };
    double deltaNll = kUnknown;
    double pplRatio = kUnknown;
    double band = kUnknown;  // half the width that covers nine of ten measurements, on the wider side
    double low = kUnknown;
    double high = kUnknown;
    double spread = kUnknown;
    double fitted = kUnknown;
    std::string label = "estimate";
    double e1 = kUnknown;
    double e2 = kUnknown;
    double e1Error = kUnknown;
    double ranks = kUnknown;
    double uncoveredFraction = kUnknown;
    std::vector<Layer> layers;
    std::optional<Calibration> calibration;
};
ESPALIER_PROTOCOL_TYPE(Estimate::Layer);
ESPALIER_PROTOCOL_TYPE(Estimate::Calibration);
ESPALIER_PROTOCOL_TYPE(Estimate);

struct EstimateAnswer {
    Estimate estimate;
    std::string planHash;
    double ppl = Estimate::kUnknown;  // on the text that the dense NLL was measured on
};
ESPALIER_PROTOCOL_TYPE(EstimateAnswer);

struct EstimateRequest {
    static constexpr const char* kMethod = "estimate";
    using Answer = EstimateAnswer;
    std::string profile;
    Json plan;  // as core/plan writes it; null: the whole model
    std::optional<double> denseNll;
    std::vector<EstimatePoint> pairs;
};
ESPALIER_PROTOCOL_TYPE(EstimateRequest);

}  // namespace espalier
