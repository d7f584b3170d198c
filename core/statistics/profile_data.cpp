#include "statistics/profile_data.h"

namespace espalier
{

std::vector<double> LayerProfile::errorCurve(int expert, int matrix) const
{
    if (spectrumLength == 0 || expert < 0 || expert >= experts) return {};
    const auto length = static_cast<std::size_t>(spectrumLength);
    const float* spectrum = spectra.data() + (static_cast<std::size_t>(expert) * 3 + static_cast<std::size_t>(matrix)) * length;
    std::vector<double> curve(length + 1, 0.0);
    for (std::size_t r = length; r-- > 0;)
        curve[r] = curve[r + 1] + static_cast<double>(spectrum[r]);
    return curve;
}

double LayerProfile::outputGain(int expert, int matrix) const
{
    const auto e = static_cast<std::size_t>(expert);
    if (e >= weightSquared.size() || count[e] == 0) return 0;
    const double weight = weightSquared[e] / static_cast<double>(count[e]);
    if (matrix == 2) return weight;
    if (gainTokens[e] == 0) return 0;
    return weight * (matrix == 0 ? gateGain : upGain)[e] / static_cast<double>(gainTokens[e]);
}

}  // namespace espalier
