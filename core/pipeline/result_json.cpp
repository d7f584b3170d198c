#include "pipeline/result_json.h"

#include "base/text.h"
#include "score/gram_loss.h"
#include "score/scorer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace espalier
{

std::map<std::string, ExpertScores> allScores(const ProfileData& profile)
{
    std::map<std::string, ExpertScores> all;
    for (const MethodInfo& method : scorers()) {
        if (!std::all_of(method.needs.begin(), method.needs.end(), [&](const std::string& need) { return profile.has(need); })) continue;
        if (Result<ExpertScores> scores = score(profile, method.id); scores.ok()) all.emplace(method.id, std::move(scores).value());
    }
    return all;
}

Json windowsJson(const std::vector<WindowLoss>& losses)
{
    Json windows = Json::array();
    for (const WindowLoss& loss : losses)
        windows.push_back(toJson(loss));
    return windows;
}

namespace
{

// Whether the Gram matrices say what the layer loses: by dropped experts. Other weights than the checkpoint's, another router: nothing is
// known, which is not 0.
bool gramCovers(const LayerPlan& layer)
{
    const LayerPlan::Content& content = layer.content();
    return content.router.empty() && content.columns.size() == content.bodies.size() &&
           std::all_of(content.bodies.begin(), content.bodies.end(), [](const Body& body) {
               const auto* expert = std::get_if<ExpertBody>(&body);
               return !expert ||
                      std::all_of(expert->matrices.begin(), expert->matrices.end(), [](const MatrixForm& form) { return form.isPlain(); });
           });
}

}  // namespace

Json gramLossesJson(const ProfileData& profile, const CompressionPlan& plan)
{
    Json losses = Json::array();
    for (const LayerProfile& layer : profile.layers) {
        if (layer.experts == 0 || layer.gram.tokenCount() == 0 || layer.layer >= plan.layerCount()) continue;
        const LayerPlan& layerPlan = plan.layer(layer.layer);
        const GramEvaluator gram(layer, profile.shape.layers[static_cast<std::size_t>(layer.layer)].router, layerPlan.topK());
        const GramLoss loss = gram.evaluate(layerPlan.kept());
        const double norm = gram.outputNorm();
        const bool known = gramCovers(layerPlan);
        losses.push_back({{"layer", layer.layer},
                          {"loss", known ? numberJson(loss.loss()) : Json()},
                          {"relative", known && norm > 0 ? numberJson(loss.loss() / norm) : Json()},
                          {"uncovered_fraction", loss.uncoveredShare()}});
    }
    return losses;
}

}  // namespace espalier
