#include "pipeline/profile_rank_curves.h"

#include "plan/model_shape.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace espalier
{

namespace
{

constexpr int kShownRanks = 256;

// 0..last at most kShownRanks of them, both ends included.
std::vector<int> shownRanks(int last)
{
    std::vector<int> ranks;
    if (last < kShownRanks) {
        for (int r = 0; r <= last; ++r)
            ranks.push_back(r);
        return ranks;
    }
    for (int i = 0; i < kShownRanks; ++i)
        ranks.push_back(static_cast<int>(std::lround(static_cast<double>(i) * last / (kShownRanks - 1))));
    return ranks;
}

SpectrumPoints spectrumOf(const LayerProfile& layer, int expert, int matrix, int rows, int columns)
{
    const std::vector<double> error = layer.errorCurve(expert, matrix);
    SpectrumPoints spectrum{.rows = rows,
                            .columns = columns,
                            .fullRank = layer.spectrumLength,
                            .breakEven = breakEvenRank(rows, columns),
                            .error = {},
                            .singular = {}};
    if (error.front() > 0) {
        for (const int r : shownRanks(spectrum.fullRank))
            spectrum.error.emplace_back(r, error[static_cast<std::size_t>(r)] / error.front());
        for (const int i : shownRanks(spectrum.fullRank - 1)) {
            const auto at = static_cast<std::size_t>(i);
            spectrum.singular.emplace_back(i + 1, std::sqrt(std::max(error[at] - error[at + 1], 0.0)));
        }
    }
    return spectrum;
}

}  // namespace

std::shared_ptr<const RankCurves> rankCurvesOf(const ProfileData& profile)
{
    if (!profile.has("curves")) return nullptr;
    auto curves = std::make_shared<RankCurves>();
    curves->layers.resize(profile.layers.size());
    for (const LayerProfile& layer : profile.layers) {
        auto& experts = curves->layers[static_cast<std::size_t>(layer.layer)];
        experts.resize(static_cast<std::size_t>(layer.experts));
        for (int e = 0; e < layer.experts; ++e)
            for (int matrix = 0; matrix < 3; ++matrix) {
                MatrixCurve& curve = experts[static_cast<std::size_t>(e)][static_cast<std::size_t>(matrix)];
                curve.error = layer.errorCurve(e, matrix);
                curve.weight = layer.outputEnergy > 0 ? layer.outputGain(e, matrix) / layer.outputEnergy : 0;
            }
    }
    return curves;
}

RankValue rankValueOf(std::shared_ptr<const RankCurves> curves)
{
    if (!curves) return {};
    return [curves = std::move(curves)](int layer, int expert, int matrix, int rank) {
        const MatrixCurve& curve =
            curves->layers[static_cast<std::size_t>(layer)][static_cast<std::size_t>(expert)][static_cast<std::size_t>(matrix)];
        const auto r = static_cast<std::size_t>(rank);
        return r < curve.error.size() ? curve.weight * (curve.error[r - 1] - curve.error[r]) : 0.0;
    };
}

Result<RankCurvesAnswer> rankCurves(const ProfileData& profile, int layer, int expert)
{
    if (layer < 0 || layer >= static_cast<int>(profile.layers.size()) || profile.layers[static_cast<std::size_t>(layer)].experts == 0)
        return badInput("plan.unknown_layer", fmt::format("layer {}", layer),
                        {"The profile has no experts in layer {layer}.", {{"layer", layer}}});
    const LayerProfile& data = profile.layers[static_cast<std::size_t>(layer)];
    if (expert < 0 || expert >= data.experts)
        return badInput("plan.unknown_expert", fmt::format("expert {}", expert),
                        {"Layer {layer} of the profile has {experts} experts, and no expert {expert}.",
                         {{"layer", layer}, {"experts", data.experts}, {"expert", expert}}});
    if (!profile.has("curves") || data.spectrumLength == 0)
        return badInput("profile.missing_statistics", "curves", "The profile was taken without rank curves.",
                        "Take the profile with --collect +curves.");
    const int hidden = static_cast<int>(profile.shape.hiddenSize);
    const int width = static_cast<int>(profile.shape.layers[static_cast<std::size_t>(layer)].expertWidth);
    return RankCurvesAnswer{.layer = layer,
                            .expert = expert,
                            .whitened = true,
                            .gate = spectrumOf(data, expert, 0, width, hidden),
                            .up = spectrumOf(data, expert, 1, width, hidden),
                            .down = spectrumOf(data, expert, 2, hidden, width)};
}

}  // namespace espalier
