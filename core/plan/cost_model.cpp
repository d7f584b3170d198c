#include "plan/cost_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

namespace espalier
{

namespace
{

// Parameters of one expert whose matrices have these ranks (0 = dense). Gate, up [I, H], down [H, I]: rank r costs r (H + I).
std::int64_t expertParameters(const LayerShape& shape, int hiddenSize, const RankTriple* ranks)
{
    if (ranks == nullptr) return shape.expertParameters;
    const auto dense = static_cast<std::int64_t>(hiddenSize) * shape.expertWidth;
    std::int64_t total = shape.expertParameters;  // includes biases, where an architecture has them
    for (const int rank : *ranks)
        if (rank > 0) total += static_cast<std::int64_t>(rank) * (hiddenSize + shape.expertWidth) - dense;
    return total;
}

// Routed-expert parameters of a layer, and the average of one kept expert.
std::int64_t keptExpertParameters(const LayerShape& shape, int hiddenSize, const LayerPlan& plan)
{
    std::int64_t total = 0;
    for (std::size_t i = 0; i < plan.kept.size(); ++i)
        total += expertParameters(shape, hiddenSize, plan.ranks.empty() ? nullptr : &plan.ranks[i]);
    return total;
}

std::int64_t bytesOf(const LayerShape& shape, std::int64_t expertParameterCount)
{
    if (shape.expertParameters == 0) return 0;
    // Storage is uniform within an expert, so bytes scale with parameters.
    return expertParameterCount * shape.bytesPerExpert / shape.expertParameters;
}

}  // namespace

double PlanCost::expertParametersRemoved() const
{
    return expertParametersDense == 0 ? 0.0 : 1.0 - static_cast<double>(expertParameters) / static_cast<double>(expertParametersDense);
}

std::int64_t layerBytes(const LayerShape& shape, int hiddenSize, const LayerPlan& plan)
{
    return shape.otherBytes + static_cast<std::int64_t>(plan.kept.size()) * shape.routerBytesPerExpert +
           bytesOf(shape, keptExpertParameters(shape, hiddenSize, plan));
}

std::int64_t layerParameters(const LayerShape& shape, int hiddenSize, const LayerPlan& plan)
{
    return shape.otherParameters + static_cast<std::int64_t>(plan.kept.size()) * shape.routerParametersPerExpert +
           keptExpertParameters(shape, hiddenSize, plan);
}

PlanCost planCost(const ModelShape& shape, const CompressionPlan& plan)
{
    PlanCost cost;
    cost.bytes = shape.embeddingBytes;
    cost.parameters = shape.embeddingParameters;
    cost.activeParameters = shape.embeddingParameters;
    for (std::size_t i = 0; i < shape.layers.size(); ++i) {
        const LayerShape& layer = shape.layers[i];
        const LayerPlan& layerPlan = plan.layer(static_cast<int>(i));
        const auto kept = static_cast<std::int64_t>(layerPlan.kept.size());
        const std::int64_t experts = keptExpertParameters(layer, shape.hiddenSize, layerPlan);
        cost.bytes += layerBytes(layer, shape.hiddenSize, layerPlan);
        cost.parameters += layer.otherParameters + kept * layer.routerParametersPerExpert + experts;
        const std::int64_t topK = std::min<std::int64_t>(layerPlan.topK.value_or(layer.router.topK), kept);
        cost.activeParameters += layer.otherParameters + kept * layer.routerParametersPerExpert + (kept > 0 ? experts * topK / kept : 0);
        cost.expertParameters += experts;
        cost.expertParametersDense += layer.experts * layer.expertParameters;
    }
    return cost;
}

std::vector<FlavourChoice> flavoursFor(const ModelShape& shape, const CompressionPlan& plan)
{
    std::set<std::size_t> counts;
    std::vector<std::string> perLayer;
    bool topKDiffers = false;
    for (const LayerShape& layer : shape.layers) {
        if (!layer.moe) continue;
        const LayerPlan& layerPlan = plan.layer(layer.index);
        counts.insert(layerPlan.kept.size());
        perLayer.push_back(fmt::format("layer {} keeps {}", layer.index, layerPlan.kept.size()));
        topKDiffers = topKDiffers || layerPlan.topK.has_value();
    }
    std::string unequal;
    if (counts.size() > 1) {
        if (perLayer.size() > 8) {
            perLayer.resize(8);
            perLayer.push_back("…");
        }
        unequal = fmt::format("One global expert count is needed, but {}.", fmt::join(perLayer, ", "));
    } else if (topKDiffers) {
        unequal = "One global top-k is needed, but some layers have their own.";
    }
    std::vector<FlavourChoice> choices;
    choices.push_back({"stock", unequal.empty() && !plan.hasRanks(), "unmodified transformers, vLLM, llama.cpp converters",
                       !unequal.empty()  ? unequal
                       : plan.hasRanks() ? "Factored experts need their own modelling code."
                                         : ""});
    choices.push_back({"factored", true, "transformers with trust_remote_code, Espalier", ""});
    choices.push_back({"reconstructed", unequal.empty() && plan.hasRanks(),
                       "unmodified transformers, vLLM, llama.cpp converters. Factors are multiplied out again: ranks save nothing here",
                       !unequal.empty()   ? unequal
                       : !plan.hasRanks() ? "Nothing is factored: this would be the stock form."
                                          : ""});
    choices.push_back({"plan", true, "Espalier, with the original model at hand", ""});
    return choices;
}

}  // namespace espalier
