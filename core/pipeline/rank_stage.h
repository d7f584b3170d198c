// The stage that gives ranks to a plan of counts and sets, by the rule of a recipe. Arithmetic on the profile; one thread at a time.
#pragma once

#include "allocate/rank_rule.h"
#include "base/error.h"
#include "pipeline/plan_recipe.h"
#include "plan/compression_plan.h"
#include "search/rank_budget.h"
#include "statistics/profile_data.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace espalier
{

class RankStage
{
public:
    // Keeps references to shape, profile and recipe.
    RankStage(const ModelShape& shape, const ProfileData& profile, std::string profileSha256, const PlanRecipe& recipe)
        : m_shape(shape), m_profile(profile), m_profileSha256(std::move(profileSha256)), m_recipe(recipe)
    {
    }

    // How new ranks become factors: as the recipe says, else the best that the profile allows.
    FactorSettings factors() const;
    // With ranks of the recipe's rule, at its average or share. With `bytes` those of the largest such plan that takes no more instead,
    // whatever average that is. Errors: those of assignRanks, profile.missing_statistics.
    Result<CompressionPlan> ranked(const CompressionPlan& plan, std::optional<std::int64_t> bytes = {});
    // What a unit of rank is worth, from the profile's curves; empty without them.
    RankValue value();

private:
    const std::shared_ptr<const RankCurves>& curves();

    const ModelShape& m_shape;
    const ProfileData& m_profile;
    std::string m_profileSha256;
    const PlanRecipe& m_recipe;
    std::shared_ptr<const RankCurves> m_curves;
};

}  // namespace espalier
