#include "pipeline/result_json.h"

#include "base/text.h"
#include "score/gram_loss.h"
#include "score/scorer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace espalier
{

Json numberJson(double value) { return std::isfinite(value) ? Json(value) : Json(); }

Json scoresJson(const ExpertScores& scores)
{
    Json values = Json::array();
    for (const auto& row : scores.values.rows) {
        Json line = Json::array();
        for (const double value : row)
            line.push_back(numberJson(value));
        values.push_back(std::move(line));
    }
    Json importance = Json::array();
    for (const double value : scores.layerImportance)
        importance.push_back(numberJson(value));
    return {{"method", scores.method},     {"title", scores.title},
            {"unit", scores.unit},         {"better", scores.better == Better::Higher ? "higher" : "lower"},
            {"values", std::move(values)}, {"layer_importance", std::move(importance)}};
}

Json allScoresJson(const ProfileData& profile)
{
    Json all = Json::object();
    for (const MethodInfo& method : scorers()) {
        if (!std::all_of(method.needs.begin(), method.needs.end(), [&](const std::string& need) { return profile.has(need); })) continue;
        if (const Result<ExpertScores> scores = score(profile, method.id); scores.ok()) all[method.id] = scoresJson(*scores);
    }
    return all;
}

Json costJson(const PlanCost& cost, const PlanCost& dense)
{
    return {{"parameters", cost.parameters},
            {"active_parameters", cost.activeParameters},
            {"bytes", cost.bytes},
            {"expert_parameters", cost.expertParameters},
            {"expert_parameters_removed", cost.expertParametersRemoved()},
            {"dense", {{"parameters", dense.parameters}, {"active_parameters", dense.activeParameters}, {"bytes", dense.bytes}}}};
}

Json windowsJson(const std::vector<WindowLoss>& losses, bool index)
{
    Json windows = Json::array();
    for (const WindowLoss& loss : losses) {
        Json item = {{"nll", numberJson(loss.nll)}, {"tokens", loss.tokens}};
        if (index) item["window"] = loss.window;
        windows.push_back(std::move(item));
    }
    return windows;
}

Json differenceJson(const PairedDifference& difference)
{
    return {{"nll", numberJson(difference.nll)}, {"se", numberJson(difference.se)},     {"ppl_ratio", numberJson(difference.pplRatio)},
            {"low", numberJson(difference.low)}, {"high", numberJson(difference.high)}, {"windows", difference.windows}};
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
