#include "pipeline/rank_stage.h"

#include "pipeline/profile_rank_curves.h"
#include "plan/factor_methods.h"
#include "score/scorer.h"

namespace espalier
{

FactorSettings RankStage::factors() const
{
    FactorSettings factors;
    factors.method = m_recipe.factors.empty() ? bestFactorMethod(m_profile.has("factors")) : m_recipe.factors;
    if (factorsNeedProfile(factors)) factors.profileSha256 = m_profileSha256;
    return factors;
}

Result<CompressionPlan> RankStage::ranked(const CompressionPlan& plan, std::optional<std::int64_t> bytes)
{
    RankRequest request;
    if (bytes) {
        request.bytes = bytes;
    } else {
        request.averageRank = m_recipe.averageRank;
        request.decomposeShare = m_recipe.decomposeShare;
    }
    ESPALIER_TRY(request.importance, score(m_profile, "leave-one-out", {{"normalise", "raw"}}));
    request.curves = curves();
    request.factors = factors();
    return assignRanks(m_shape, plan, m_recipe.rankRule, request, m_recipe.paramsOf("rank"));
}

RankValue RankStage::value() { return rankValueOf(curves()); }

const std::shared_ptr<const RankCurves>& RankStage::curves()
{
    if (!m_curves) m_curves = rankCurvesOf(m_profile);
    return m_curves;
}

}  // namespace espalier
