// The forms that one layer can take under a byte budget: its best set at every count, each at several rank levels. Pure arithmetic.
#pragma once

#include "allocate/rank_rule.h"
#include "base/error.h"
#include "plan/compression_plan.h"
#include "plan/model_shape.h"
#include "search/plan_surrogate.h"
#include "search/selector.h"

#include <cstdint>
#include <optional>
#include <vector>

namespace espalier
{

// A rank level is one price per byte for all matrices of the layer: every matrix takes the rank at which what its last unit saves is worth
// that price, so a level splits its bytes over any set of experts with the least error. Level 0: all dense.
class LayerForms
{
public:
    // `curve`: of this layer. `curves` null: dense experts only. The prices are chosen so that all experts of the layer take 95, 90, ..
    // 20 % of their dense bytes, as near as the curves allow.
    LayerForms(const ModelShape& shape, int layer, const LayerCurve& curve, const RankCurves* curves);

    // Costs are bytes: experts with their router rows.
    const std::vector<LayerOption>& options() const { return m_options; }
    std::vector<RankTriple> ranks(const ExpertSet& kept, int level) const;  // empty for level 0
    // The level with the most bytes that are not above `bytes`; nullopt: none.
    std::optional<int> levelWithin(const ExpertSet& kept, std::int64_t bytes) const;
    std::int64_t bytes(const ExpertSet& kept, int level) const;
    const ExpertSet& setOf(int count) const { return m_sets[static_cast<std::size_t>(count - m_lowest)]; }

private:
    struct Expert {
        std::int64_t bytes = 0;
        double error = 0;
        RankTriple ranks{};
    };

    int m_lowest = 0;
    std::vector<ExpertSet> m_sets;             // by count, from the lowest
    std::vector<std::vector<Expert>> m_level;  // [level][expert]
    std::vector<LayerOption> m_options;
};

// Bytes that a plan gives the experts of a layer, router rows included.
std::int64_t expertBytesOf(const ModelShape& shape, const CompressionPlan& plan, int layer);

}  // namespace espalier
