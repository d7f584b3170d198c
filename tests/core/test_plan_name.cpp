// What a plan is called: in the status bar, the history and the folder of an export.
#include "plan/plan_name.h"

#include "core/shapes.h"

#include <gtest/gtest.h>

namespace espalier
{

TEST(PlanName, SaysWhatThePlanDoes)
{
    const ModelShape shape = test::evenShape(4, 8, 2);
    CompressionPlan plan = CompressionPlan::identity(shape);
    EXPECT_EQ(proposedPlanName(shape, plan), "dense");
    plan = plan.withKept(shape, 1, {0, 1, 2, 5}).value();
    EXPECT_EQ(proposedPlanName(shape, plan), "28 of 32 experts");
    // The mean is over factors only: two of rank 4, one of rank 7, everything else dense.
    std::vector<RankTriple> ranks(4, RankTriple{0, 0, 0});
    ranks[0] = {4, 4, 7};
    plan = plan.withRanks(shape, 1, ranks).value();
    EXPECT_EQ(proposedPlanName(shape, plan), "28 of 32 experts, mean rank 5");
    plan = plan.withKept(shape, 1, {0, 1, 2, 3, 4, 5, 6, 7}).value();
    EXPECT_EQ(proposedPlanName(shape, plan), "mean rank 5");
}

TEST(PlanName, BecomesAPartOfAFileName)
{
    EXPECT_EQ(fileNamePart("72 of 96 experts, mean rank 41"), "72-of-96-experts-mean-rank-41");
    EXPECT_EQ(fileNamePart("../../etc/passwd"), "etc-passwd");
    EXPECT_EQ(fileNamePart("Größe (2)"), "gr-e-2");
    EXPECT_EQ(fileNamePart("…"), "");
    EXPECT_LE(fileNamePart(std::string(300, 'x')).size(), 60u);
}

}  // namespace espalier
