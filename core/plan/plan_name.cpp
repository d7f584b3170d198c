#include "plan/plan_name.h"

#include <fmt/format.h>

#include <cmath>

namespace espalier
{

std::string proposedPlanName(const ModelShape& shape, const CompressionPlan& plan)
{
    if (plan.layerCount() == 0 || plan.isIdentity(shape)) return "dense";
    double rankSum = 0;
    int factors = 0;
    for (int layer = 0; layer < plan.layerCount(); ++layer)
        for (const RankTriple& triple : plan.layer(layer).ranks())
            for (const int rank : triple)
                if (rank > 0) {
                    rankSum += rank;
                    ++factors;
                }
    std::string name;
    const auto add = [&name](const std::string& text) { name += (name.empty() ? "" : ", ") + text; };
    // Experts are counted in the layers that run.
    std::int64_t experts = 0;
    std::size_t constants = 0;
    for (const LayerShape& layer : shape.layers) {
        if (plan.layer(layer.index).runsExperts()) experts += layer.experts;
        constants += plan.layer(layer.index).constants().size();
    }
    if (plan.runningLayers() < plan.layerCount()) add(fmt::format("{} of {} layers", plan.runningLayers(), plan.layerCount()));
    if (plan.keptExperts() < experts) add(fmt::format("{} of {} experts", plan.keptExperts(), experts));
    if (constants > 0) add(fmt::format("{} constant{}", constants, constants == 1 ? "" : "s"));
    std::size_t linears = 0;
    for (int layer = 0; layer < plan.layerCount(); ++layer)
        linears += plan.layer(layer).content().linears.size();
    if (linears > 0) add(fmt::format("{} linear map{}", linears, linears == 1 ? "" : "s"));
    if (factors > 0) add(fmt::format("mean rank {}", std::lround(rankSum / factors)));
    return name.empty() ? "fewer experts a token" : name;
}

std::string fileNamePart(std::string_view name)
{
    constexpr std::size_t kMost = 60;
    std::string part;
    for (const char c : name) {
        if (part.size() >= kMost) break;
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'))
            part += c;
        else if (c >= 'A' && c <= 'Z')
            part += static_cast<char>(c - 'A' + 'a');
        else if (!part.empty() && part.back() != '-')
            part += '-';
    }
    while (!part.empty() && part.back() == '-')
        part.pop_back();
    return part;
}

}  // namespace espalier
