#include "base/random.h"
#include "statistics/layer_similarity.h"
#include "statistics/output_moments.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace espalier
{

namespace
{

struct Token {
    std::vector<double> output;
    double weight;
};

double power(double weight, OutputWeight p) { return p == OutputWeight::Plain ? 1 : p == OutputWeight::Routing ? weight : weight * weight; }

// One token after the other, each a batch of its own.
OutputMoments momentsOf(const std::vector<Token>& tokens)
{
    OutputMoments moments = OutputMoments::zeros(1, static_cast<int>(tokens.front().output.size()));
    for (const Token& token : tokens)
        for (const OutputWeight p : kOutputWeights) {
            std::vector<double> sum = token.output;
            for (double& value : sum)
                value *= power(token.weight, p);
            moments.add(0, p, power(token.weight, p), sum, 0.0);
        }
    return moments;
}

// By the definition, in two passes.
double directVariance(const std::vector<Token>& tokens, OutputWeight p, const std::vector<double>& centre)
{
    double sum = 0;
    double mass = 0;
    for (const Token& token : tokens) {
        mass += power(token.weight, p);
        for (std::size_t c = 0; c < centre.size(); ++c)
            sum += power(token.weight, p) * (token.output[c] - centre[c]) * (token.output[c] - centre[c]);
    }
    return sum / mass;
}

TEST(OutputMoments, WorkedExamples)
{
    const OutputMoments plain = momentsOf({{{1, 0}, 0.5}, {{3, 0}, 0.5}});
    EXPECT_EQ(plain.mean(0, OutputWeight::Plain), (std::vector<double>{2, 0}));
    EXPECT_DOUBLE_EQ(plain.variance(0, OutputWeight::Plain), 1);

    const OutputMoments uneven = momentsOf({{{1}, 0.9}, {{3}, 0.1}});
    EXPECT_DOUBLE_EQ(uneven.mean(0, OutputWeight::Plain)[0], 2);
    EXPECT_DOUBLE_EQ(uneven.mean(0, OutputWeight::Routing)[0], 1.2);
    EXPECT_NEAR(uneven.mean(0, OutputWeight::RoutingSquared)[0], 0.84 / 0.82, 1e-15);
    EXPECT_NEAR(uneven.variance(0, OutputWeight::Routing), 0.9 * 0.04 + 0.1 * 3.24, 1e-15);
}

TEST(OutputMoments, AnExpertWithoutTokensHasZeros)
{
    const OutputMoments none = OutputMoments::zeros(3, 2);
    for (const OutputWeight p : kOutputWeights) {
        EXPECT_EQ(none.mean(2, p), (std::vector<double>{0, 0}));
        EXPECT_EQ(none.variance(2, p), 0);
    }
    EXPECT_TRUE(OutputMoments().empty());
    EXPECT_FALSE(none.empty());
}

// A mean far from 0: sums of squares would leave nothing of a variance of 1e-6 behind 1e8.
TEST(OutputMoments, NothingCancels)
{
    std::vector<Token> tokens;
    for (int t = 0; t < 200; ++t)
        tokens.push_back({{1e8 + (t % 2 == 0 ? 1e-3 : -1e-3), -1e8}, 1.0 / (1 + t % 3)});
    const OutputMoments moments = momentsOf(tokens);
    EXPECT_NEAR(moments.variance(0, OutputWeight::Plain), 1e-6, 1e-9);

    const OutputMoments constant = momentsOf(std::vector<Token>(100, {{0.1f, -3.7f}, 0.25}));
    EXPECT_EQ(constant.variance(0, OutputWeight::Plain), 0);
    EXPECT_EQ(constant.mean(0, OutputWeight::Plain), (std::vector<double>{0.1f, -3.7f}));
}

TEST(OutputMoments, PartsAddUpToTheWhole)
{
    Random random(7);
    std::vector<Token> tokens;
    for (int t = 0; t < 60; ++t)
        tokens.push_back({{random.uniform() + 5, random.uniform() - 2, random.uniform()}, random.uniform()});
    const OutputMoments whole = momentsOf(tokens);
    for (const std::ptrdiff_t cut : {1, 17, 59}) {
        OutputMoments sum = momentsOf({tokens.begin(), tokens.begin() + cut});
        sum.add(momentsOf({tokens.begin() + cut, tokens.end()}));
        for (const OutputWeight p : kOutputWeights) {
            const std::vector<double> mean = whole.mean(0, p);
            for (std::size_t c = 0; c < mean.size(); ++c)
                EXPECT_NEAR(sum.mean(0, p)[c], mean[c], 1e-13);
            EXPECT_NEAR(sum.variance(0, p), whole.variance(0, p), 1e-13);
            EXPECT_NEAR(whole.variance(0, p), directVariance(tokens, p, mean), 1e-13);
            // Its own mean is the constant that loses least.
            for (const double moved : {-0.01, 0.01}) {
                std::vector<double> other = mean;
                other[1] += moved;
                EXPECT_GT(directVariance(tokens, p, other), whole.variance(0, p));
            }
        }
    }
}

TEST(LayerSimilarity, IsAMeanOverTokens)
{
    LayerSimilarity similarity{.cosine = 1.5, .tokens = 2};
    similarity.add({.cosine = -0.5, .tokens = 2});
    EXPECT_DOUBLE_EQ(similarity.mean(), 0.25);
    EXPECT_EQ(LayerSimilarity().mean(), 0);
    EXPECT_TRUE(LayerSimilarity().empty());
}

}  // namespace

}  // namespace espalier
