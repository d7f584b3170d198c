// The arithmetic of mending by least squares, against normal equations written out here.
#include "recover/least_squares_solver.h"

#include <gtest/gtest.h>

#include <filesystem>

namespace espalier
{

namespace
{

class LeastSquares : public ::testing::Test
{
protected:
    LeastSquares() : scratch(std::filesystem::temp_directory_path(), std::int64_t{1} << 30) { at::manual_seed(7); }

    static at::Tensor random(std::int64_t rows, std::int64_t columns) { return at::randn({rows, columns}, at::kDouble); }
    static at::Tensor all(std::int64_t count) { return at::arange(count, at::kLong); }

    // In two parts, as passes hand them over.
    static FittedMap mapOf(const at::Tensor& tokens, const at::Tensor& weights, const at::Tensor& inputs)
    {
        FittedMap map;
        map.width = inputs.size(1);
        const std::int64_t half = tokens.numel() / 2;
        for (const auto& [first, count] : {std::pair(std::int64_t{0}, half), std::pair(half, tokens.numel() - half)})
            map.rows.push_back({tokens.narrow(0, first, count), weights.defined() ? weights.narrow(0, first, count) : weights,
                                inputs.narrow(0, first, count)});
        return map;
    }
    void factorised(FittedMap& map, double ridge, FitForm form = FitForm::Auto)
    {
        const Status status = factorise(map, ridge, scratch, form);
        ASSERT_TRUE(status.ok()) << status.error().describe();
    }
    static std::vector<at::Tensor> zeros(const std::vector<FittedMap>& maps, std::int64_t rows)
    {
        std::vector<at::Tensor> changes;
        for (const FittedMap& map : maps)
            changes.push_back(at::zeros({rows, map.width}, at::kDouble));
        return changes;
    }
    static double apart(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

    Scratch scratch;
};

TEST_F(LeastSquares, NothingMissingChangesNothing)
{
    std::vector<FittedMap> maps = {mapOf(all(40), at::rand({40}, at::kDouble), random(40, 12))};
    factorised(maps[0], 1e-2);
    at::Tensor residual = at::zeros({40, 5}, at::kDouble);
    std::vector<at::Tensor> changes = zeros(maps, 5);
    sweep(maps, 3, residual, changes);
    EXPECT_EQ(changes[0].abs().max().item<double>(), 0);
    EXPECT_EQ(residual.abs().max().item<double>(), 0);
}

TEST_F(LeastSquares, OneMapEqualsTheNormalEquations)
{
    const at::Tensor weights = at::rand({200}, at::kDouble);
    const at::Tensor inputs = random(200, 16);
    std::vector<FittedMap> maps = {mapOf(all(200), weights, inputs)};
    factorised(maps[0], 1e-2);
    ASSERT_FALSE(maps[0].dual);
    const at::Tensor missing = random(200, 6);
    at::Tensor residual = missing.clone();
    std::vector<at::Tensor> changes = zeros(maps, 6);
    sweep(maps, 1, residual, changes);

    const at::Tensor g = inputs * weights.unsqueeze(1);
    const at::Tensor moments = at::mm(g.t(), g);
    const double lambda = 1e-2 * moments.diagonal().mean().item<double>();
    const at::Tensor expected = at::linalg_solve(moments + lambda * at::eye(16, at::kDouble), at::mm(g.t(), missing)).t();
    EXPECT_LT(apart(changes[0], expected), 1e-9);
    EXPECT_LT(apart(residual, missing - at::mm(g, expected.t())), 1e-9);
    // And it is a minimum: the second sweep has nothing left to do.
    const at::Tensor once = changes[0].clone();
    sweep(maps, 1, residual, changes);
    EXPECT_LT(apart(changes[0], once), 1e-9);
}

TEST_F(LeastSquares, OneSweepIsExactForMapsThatShareNoToken)
{
    const at::Tensor even = at::arange(0, 120, 2, at::kLong), odd = at::arange(1, 120, 2, at::kLong);
    std::vector<FittedMap> maps = {mapOf(even, {}, random(60, 9)), mapOf(odd, {}, random(60, 9))};
    for (FittedMap& map : maps)
        factorised(map, 1e-2);
    const at::Tensor missing = random(120, 4);
    at::Tensor once = missing.clone();
    std::vector<at::Tensor> changes = zeros(maps, 4);
    const auto first = sweep(maps, 1, once, changes);
    at::Tensor alone = missing.clone();
    std::vector<at::Tensor> single = zeros({maps[1]}, 4);
    sweep({maps[1]}, 1, alone, single);
    EXPECT_LT(apart(changes[1], single[0]), 1e-12);
    const std::vector<at::Tensor> before = {changes[0].clone(), changes[1].clone()};
    const auto second = sweep(maps, 1, once, changes);
    for (std::size_t i = 0; i < 2; ++i)
        EXPECT_LT(apart(changes[i], before[i]), 1e-10);
    EXPECT_NEAR(second[0].squares + second[0].penalty, first[0].squares + first[0].penalty, 1e-9);
}

TEST_F(LeastSquares, NoStepRaisesTheLoss)
{
    std::vector<FittedMap> maps;
    for (int e = 0; e < 5; ++e) {
        const at::Tensor tokens = std::get<0>(at::randperm(150, at::kLong).narrow(0, 0, e == 3 ? 6 : 70).sort());
        maps.push_back(mapOf(tokens, at::rand({tokens.numel()}, at::kDouble), random(tokens.numel(), 14)));
        factorised(maps.back(), 1e-2);
    }
    EXPECT_TRUE(maps[3].dual);
    at::Tensor residual = random(150, 7);
    std::vector<at::Tensor> changes = zeros(maps, 7);
    double last = residual.square().sum().item<double>();
    for (int step = 0; step < 40; ++step) {
        // One map at a time.
        std::vector<FittedMap> one = {maps[static_cast<std::size_t>(step % 5)]};
        std::vector<at::Tensor> change = {changes[static_cast<std::size_t>(step % 5)]};
        sweep(one, 1, residual, change);
        changes[static_cast<std::size_t>(step % 5)] = change[0];
        double loss = residual.square().sum().item<double>();
        for (std::size_t e = 0; e < maps.size(); ++e)
            loss += maps[e].lambda * changes[e].square().sum().item<double>();
        EXPECT_LE(loss, last * (1 + 1e-13)) << "step " << step;
        if (step < 5) {
            EXPECT_LT(loss, last);
        }
        last = loss;
    }
}

TEST_F(LeastSquares, AnEndlessRidgeLeavesTheWeights)
{
    for (const FitForm form : {FitForm::Primal, FitForm::Dual}) {
        std::vector<FittedMap> maps = {mapOf(all(50), {}, random(50, 10))};
        factorised(maps[0], 1e12, form);
        at::Tensor residual = random(50, 3);
        std::vector<at::Tensor> changes = zeros(maps, 3);
        sweep(maps, 3, residual, changes);
        EXPECT_LT(changes[0].abs().max().item<double>(), 1e-11);
    }
}

TEST_F(LeastSquares, TheDualGivesThePrimalsAnswer)
{
    for (const std::int64_t tokens : {11, 30, 64}) {
        const at::Tensor inputs = random(tokens, 30), other = random(tokens, 30), missing = random(tokens, 8);
        std::vector<at::Tensor> answers;
        for (const FitForm form : {FitForm::Primal, FitForm::Dual}) {
            // Two maps over the same tokens, so that the change that is already there counts.
            std::vector<FittedMap> maps = {mapOf(all(tokens), {}, inputs), mapOf(all(tokens), {}, other)};
            for (FittedMap& map : maps) {
                factorised(map, 1e-2, form);
                EXPECT_EQ(map.dual, form == FitForm::Dual);
            }
            at::Tensor residual = missing.clone();
            std::vector<at::Tensor> changes = zeros(maps, 8);
            sweep(maps, 4, residual, changes);
            answers.push_back(at::cat({changes[0], changes[1]}));
        }
        EXPECT_LT(apart(answers[0], answers[1]), 1e-8) << tokens;
        EXPECT_GT(answers[0].abs().max().item<double>(), 1e-3);
    }
}

// U V with an orthonormal V of full rank can be every matrix: its U, refitted, is the dense answer.
TEST_F(LeastSquares, FactorsOfFullRankEqualTheDenseAnswer)
{
    const at::Tensor inputs = random(90, 13), missing = random(90, 5);
    const at::Tensor v = std::get<0>(at::linalg_qr(random(13, 13)));
    std::vector<FittedMap> dense = {mapOf(all(90), {}, inputs)}, factored = {mapOf(all(90), {}, at::mm(inputs, v.t()))};
    std::vector<at::Tensor> changes, low;
    for (auto* maps : {&dense, &factored}) {
        factorised((*maps)[0], 1e-2);
        at::Tensor residual = missing.clone();
        auto& answer = maps == &dense ? changes : low;
        answer = zeros(*maps, 5);
        sweep(*maps, 2, residual, answer);
    }
    EXPECT_LT(apart(at::mm(low[0], v), changes[0]), 1e-9);
}

TEST_F(LeastSquares, MapsWithoutTokensOrInputsAreLeftOut)
{
    std::vector<FittedMap> maps(3);
    maps[0].width = 6;
    maps[1] = mapOf(all(10), {}, at::zeros({10, 6}, at::kDouble));
    maps[2] = mapOf(all(10), {}, random(10, 6));
    for (FittedMap& map : maps)
        factorised(map, 1e-2);
    EXPECT_FALSE(maps[0].factor.defined());
    EXPECT_FALSE(maps[1].factor.defined());
    at::Tensor residual = random(10, 2);
    std::vector<at::Tensor> changes = zeros(maps, 2);
    EXPECT_EQ(sweep(maps, 2, residual, changes).size(), 2U);
    EXPECT_EQ(changes[0].abs().max().item<double>() + changes[1].abs().max().item<double>(), 0);
    EXPECT_GT(changes[2].abs().max().item<double>(), 0);
}

TEST_F(LeastSquares, InputsThatAreNotFiniteAreAnError)
{
    at::Tensor inputs = random(20, 6);
    inputs[3][2] = std::numeric_limits<double>::infinity();
    FittedMap map = mapOf(all(20), {}, inputs);
    const Status status = factorise(map, 1e-2, scratch);
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, "recover.not_definite");
}

// The same numbers from mapped files as from memory.
TEST_F(LeastSquares, ScratchBeyondItsBoundLiesInFiles)
{
    const auto folder = std::filesystem::temp_directory_path();
    Scratch small(folder, 100);
    const at::Tensor numbers = random(64, 64);
    const Result<at::Tensor> kept = small.keep(numbers);
    ASSERT_TRUE(kept.ok()) << kept.error().describe();
    EXPECT_TRUE(at::equal(*kept, numbers));
    EXPECT_NE(kept->data_ptr(), numbers.data_ptr());
    Scratch nowhere(folder / "espalier-there-is-no-such-folder", 100);
    EXPECT_FALSE(nowhere.keep(numbers).ok());
}

}  // namespace

}  // namespace espalier
