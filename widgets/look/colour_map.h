// Perceptually uniform colour maps as equally spaced stops, and the norms that bring values to [0, 1].
#pragma once

#include "plan/expert_grid.h"

#include <QColor>
#include <QString>

#include <vector>

namespace espalier
{

enum class ColourMap { Viridis, Cividis, Magma, Grey, Difference };
QString colourMapId(ColourMap map);
ColourMap colourMapFromId(const QString& id);  // unknown: Viridis
const std::vector<QColor>& colourMapStops(ColourMap map, bool dark = false);
QColor colourAt(ColourMap map, double position, bool dark = false);  // position clamped to [0, 1]

enum class Norm { Linear, Log, Sqrt, Rank };
QString normId(Norm norm);
Norm normFromId(const QString& id);  // unknown: Log

struct NormOptions {
    Norm norm = Norm::Log;
    double clipPercent = 1.0;  // percentile p to 100 - p; 0: min to max
    bool perLayer = false;     // one range per layer

    bool operator==(const NormOptions&) const = default;
};

// The range one set of values is drawn in.
struct NormRange {
    double low = 0;
    double high = 0;     // == low: all equal or nothing finite
    bool valid = false;  // at least one finite value (log: positive)
};

// Positions of all values: NaN stays NaN (no value), below the log floor is kBelowFloor, all else in [0, 1]. All equal values lie at 0.5.
// Log of zero and of negatives is below the floor. Rank is the mid-rank percentile.
struct NormedGrid {
    static constexpr double kBelowFloor = -1.0;
    ExpertGrid positions;
    NormRange range;                // over all layers (the colour bar); unused when perLayer
    std::vector<NormRange> layers;  // perLayer only
    int belowFloor = 0;             // cells below the log floor
    int clippedLow = 0;
    int clippedHigh = 0;
};
NormedGrid normalise(const ExpertGrid& values, const NormOptions& options);
// Position of one value in a range, as normalise does it (not for Rank). NaN for NaN.
double normPosition(double value, const NormRange& range, Norm norm);
// The value at a position, inverse of normPosition.
double normValue(double position, const NormRange& range, Norm norm);

}  // namespace espalier
