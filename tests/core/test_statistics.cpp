#include "base/random.h"
#include "base/statistics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

using namespace espalier;

namespace
{
std::vector<WindowLoss> losses(std::initializer_list<double> values)
{
    std::vector<WindowLoss> windows;
    for (const double value : values)
        windows.push_back({static_cast<int>(windows.size()), value, 100});
    return windows;
}
}  // namespace

// A worked example.
TEST(Statistics, PairedDifferenceOfTheWorkedExample)
{
    const auto dense = losses({200, 250, 180, 230});
    const auto plan = losses({206, 255, 189, 232});
    const PairedDifference difference = pairedDifference(plan, dense);
    EXPECT_NEAR(difference.nll, 0.055, 1e-12);
    EXPECT_NEAR(difference.se, 0.014434, 5e-7);
    EXPECT_NEAR(difference.pplRatio, 1.056541, 5e-7);
    EXPECT_NEAR(perplexity(dense).ppl, 8.584858, 5e-7);
    EXPECT_NEAR(perplexity(plan).ppl, 9.070252, 5e-7);
    // Four windows: Student's t with three degrees of freedom, not 1.96.
    EXPECT_NEAR(difference.high, std::exp(0.055 + 3.182 * 0.0144338), 1e-5);
}

TEST(Statistics, APlanEqualToDenseHasNoDifference)
{
    const auto dense = losses({200, 250, 180, 230});
    const PairedDifference difference = pairedDifference(dense, dense);
    EXPECT_EQ(difference.nll, 0.0);
    EXPECT_EQ(difference.se, 0.0);
    EXPECT_EQ(difference.pplRatio, 1.0);
}

TEST(Statistics, OnlySharedWindowsArePairedAndOrderChangesNothing)
{
    auto dense = losses({200, 250, 180, 230});
    auto plan = losses({206, 255, 189, 232});
    const PairedDifference all = pairedDifference(plan, dense);
    std::reverse(plan.begin(), plan.end());
    EXPECT_NEAR(pairedDifference(plan, dense).se, all.se, 1e-15);
    plan.push_back({17, 1000, 100});
    EXPECT_EQ(pairedDifference(plan, dense).windows, 4);
    dense[0].tokens = 99;  // measured with another protocol: not comparable
    EXPECT_EQ(pairedDifference(plan, dense).windows, 3);
}

TEST(Statistics, StandardErrorMatchesTheDefinition)
{
    Random random(7);
    std::vector<WindowLoss> dense, plan;
    double sumD = 0, sumN = 0;
    for (int w = 0; w < 40; ++w) {
        const int tokens = 100 + static_cast<int>(random.below(50));
        dense.push_back({w, tokens * (2 + random.uniform()), tokens});
        plan.push_back({w, dense.back().nll + random.uniform() * 10, tokens});
        sumD += plan.back().nll - dense.back().nll;
        sumN += tokens;
    }
    const double delta = sumD / sumN;
    double squares = 0;
    for (int w = 0; w < 40; ++w)
        squares += std::pow(plan[w].nll - dense[w].nll - delta * plan[w].tokens, 2);
    const PairedDifference difference = pairedDifference(plan, dense);
    EXPECT_NEAR(difference.nll, delta, 1e-14);
    EXPECT_NEAR(difference.se, std::sqrt(40.0 / 39.0 * squares) / sumN, 1e-14);
    EXPECT_NEAR(difference.low, std::exp(delta - 1.96 * difference.se), 1e-12);
}

TEST(Statistics, NothingMeasuredIsNotANumberOfItsOwn)
{
    EXPECT_EQ(perplexity({}).windows, 0);
    EXPECT_EQ(perplexity({}).tokens, 0);
    EXPECT_EQ(pairedDifference({}, {}).windows, 0);
}

TEST(Random, StreamsAreFixedAndUniform)
{
    // Frozen: a seed recorded with a result must give the same draw on every machine and in every version.
    EXPECT_EQ(Random(0).next(), 0xE220A8397B1DCDAFull);
    EXPECT_NE(Random::forPurpose(1, "gram", 0).next(), Random::forPurpose(1, "gram", 1).next());
    Random random(3);
    std::vector<int> seen(10, 0);
    for (int i = 0; i < 10000; ++i)
        ++seen[random.below(10)];
    for (const int count : seen)
        EXPECT_NEAR(count, 1000, 150);
}
