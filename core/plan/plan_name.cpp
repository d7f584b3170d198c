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
    if (plan.keptExperts() < shape.totalExperts()) name = fmt::format("{} of {} experts", plan.keptExperts(), shape.totalExperts());
    if (factors > 0) name += fmt::format("{}mean rank {}", name.empty() ? "" : ", ", std::lround(rankSum / factors));
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
