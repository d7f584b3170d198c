#include "search/layer_forms.h"

#include "allocate/rank_rules.h"
#include "allocate/rank_split.h"
#include "plan/cost_model.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace espalier
{

namespace
{

// Of the dense bytes of all experts.
std::vector<double> levelShares()
{
    std::vector<double> shares;
    for (int percent = 95; percent >= 20; percent -= 5)
        shares.push_back(percent / 100.0);
    return shares;
}

}  // namespace

LayerForms::LayerForms(const ModelShape& shape, int layer, const LayerCurve& curve, const RankCurves* curves)
    : m_lowest(curve.lowest), m_sets(curve.sets)
{
    const LayerShape& layerShape = shape.layers[static_cast<std::size_t>(layer)];
    const auto experts = static_cast<std::size_t>(layerShape.experts);
    const std::int64_t perRank = shape.hiddenSize + layerShape.expertWidth;
    const std::int64_t whole = static_cast<std::int64_t>(shape.hiddenSize) * layerShape.expertWidth;
    const std::int64_t dense = layerShape.bytesPerExpert + layerShape.routerBytesPerExpert;
    m_level.push_back(std::vector<Expert>(experts, {dense, 0, {}}));

    std::vector<SplitMatrix> matrices;
    if (curves && curves->layers[static_cast<std::size_t>(layer)].size() == experts)
        for (const ExpertCurves& expert : curves->layers[static_cast<std::size_t>(layer)])
            for (const MatrixCurve& matrix : expert)
                matrices.push_back({.error = matrix.error,
                                    .weight = matrix.weight,
                                    .rankCost = expertBytes(layerShape, perRank),
                                    .denseCost = expertBytes(layerShape, whole),
                                    .maxRank = breakEvenRank(shape.hiddenSize, layerShape.expertWidth)});
    if (!matrices.empty()) {
        const RankPrices prices(matrices, 1);
        const auto at = [&](double price) {
            std::vector<Expert> level(experts);
            for (std::size_t e = 0; e < experts; ++e) {
                std::int64_t parameters = layerShape.expertParameters;
                for (std::size_t k = 0; k < 3; ++k) {
                    const int rank = prices.rankAt(3 * e + k, price);
                    level[e].ranks[k] = rank;
                    level[e].error += prices.matrix(3 * e + k).loss(rank);
                    if (rank > 0) parameters += rank * perRank - whole;
                }
                level[e].bytes = expertBytes(layerShape, parameters) + layerShape.routerBytesPerExpert;
            }
            return level;
        };
        const auto sum = [](const std::vector<Expert>& level) {
            std::int64_t bytes = 0;
            for (const Expert& expert : level)
                bytes += expert.bytes;
            return bytes;
        };
        for (const double share : levelShares()) {
            const auto wanted = static_cast<std::int64_t>(share * static_cast<double>(dense) * static_cast<double>(experts));
            double low = 0;
            double high = prices.ceiling() * 2 + std::numeric_limits<double>::min();
            if (sum(at(high)) > wanted) break;
            for (int halving = 0; halving < 60 && high - low > 1e-12 * high; ++halving) {
                const double middle = low + (high - low) / 2;
                (sum(at(middle)) > wanted ? low : high) = middle;
            }
            std::vector<Expert> level = at(high);
            if (sum(level) < sum(m_level.back())) m_level.push_back(std::move(level));
        }
    }

    const int groups = std::max(1, layerShape.router.groups);
    for (std::size_t i = 0; i < m_sets.size(); ++i) {
        const int count = m_lowest + static_cast<int>(i);
        // A grouped router cannot keep the counts in between.
        if (count % groups != 0 || static_cast<int>(m_sets[i].size()) != count) continue;
        const double relative = curve.outputNorm > 0 ? curve.loss[i] / curve.outputNorm : 0;
        for (std::size_t level = 0; level < m_level.size(); ++level) {
            LayerOption option{.count = count, .level = static_cast<int>(level), .prune = relative * relative};
            for (const int expert : m_sets[i]) {
                option.cost += m_level[level][static_cast<std::size_t>(expert)].bytes;
                option.rank += m_level[level][static_cast<std::size_t>(expert)].error;
            }
            m_options.push_back(option);
        }
    }
}

std::vector<RankTriple> LayerForms::ranks(const ExpertSet& kept, int level) const
{
    std::vector<RankTriple> ranks;
    if (level == 0) return ranks;
    for (const int expert : kept)
        ranks.push_back(m_level[static_cast<std::size_t>(level)][static_cast<std::size_t>(expert)].ranks);
    return ranks;
}

std::int64_t LayerForms::bytes(const ExpertSet& kept, int level) const
{
    std::int64_t sum = 0;
    for (const int expert : kept)
        sum += m_level[static_cast<std::size_t>(level)][static_cast<std::size_t>(expert)].bytes;
    return sum;
}

std::optional<int> LayerForms::levelWithin(const ExpertSet& kept, std::int64_t bytes) const
{
    for (std::size_t level = 0; level < m_level.size(); ++level)
        if (this->bytes(kept, static_cast<int>(level)) <= bytes) return static_cast<int>(level);
    return std::nullopt;
}

std::int64_t expertBytesOf(const ModelShape& shape, const CompressionPlan& plan, int layer)
{
    const LayerShape& layerShape = shape.layers[static_cast<std::size_t>(layer)];
    return layerBytes(layerShape, shape.hiddenSize, plan.layer(layer)) - layerShape.otherBytes;
}

}  // namespace espalier
