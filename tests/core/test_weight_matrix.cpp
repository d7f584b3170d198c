#include "model/weight_matrix.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string_view>
#include <vector>

namespace espalier
{

namespace
{

double relative(const at::Tensor& a, const at::Tensor& b)
{
    return ((a.to(at::kDouble) - b.to(at::kDouble)).norm() / b.to(at::kDouble).norm()).item<double>();
}

class WeightMatrixTest : public testing::TestWithParam<at::ScalarType>
{
};

// Gradients and decompositions start from what the file holds, not from something near it.
TEST_P(WeightMatrixTest, GivesBackBitForBitWhatWasPacked)
{
    for (const auto& [rows, columns] : {std::pair{1, 16}, std::pair{24, 16}, std::pair{176, 96}, std::pair{333, 257}}) {
        const at::Tensor plain = at::randn({rows, columns}).to(GetParam());
        const WeightMatrix packed = WeightMatrix::packed(plain);
        EXPECT_TRUE(at::equal(packed.rowMajor(), plain)) << rows << " x " << columns;
        EXPECT_EQ(packed.rows(), rows);
        EXPECT_EQ(packed.columns(), columns);
        EXPECT_EQ(packed.bytes(), static_cast<std::int64_t>(plain.nbytes()));
    }
}

TEST_P(WeightMatrixTest, MultipliesAsLinearDoes)
{
    const bool wide = GetParam() == at::kFloat;
    const at::Tensor plain = (at::randn({176, 96}) * 0.05).to(GetParam());
    const at::Tensor bias = at::randn({176}).to(GetParam());
    const WeightMatrix packed = WeightMatrix::packed(plain);
    for (const int rows : {1, 3, 17, 64, 300}) {
        const at::Tensor x = at::randn({rows, 96}).to(GetParam());
        const at::Tensor exact = at::linear(x.to(at::kDouble), plain.to(at::kDouble));
        EXPECT_LT(relative(packed.product(x), exact), wide ? 2e-6 : 3e-3) << rows;
        EXPECT_LT(relative(packed.product(x, bias), exact + bias.to(at::kDouble)), wide ? 2e-6 : 3e-3) << rows;
        EXPECT_EQ(packed.product(x.view({1, rows, 96})).sizes(), (at::IntArrayRef{1, rows, 176}));
    }
}

// Evaluations of one plan are compared bit for bit, cached or not.
TEST_P(WeightMatrixTest, RepeatsItself)
{
    const WeightMatrix packed = WeightMatrix::packed(at::randn({176, 96}).to(GetParam()));
    const at::Tensor x = at::randn({300, 96}).to(GetParam());
    const at::Tensor first = packed.product(x);
    for (int i = 0; i < 5; ++i)
        EXPECT_TRUE(at::equal(packed.product(x), first));
}

// Where oneDNN may use no more than AVX2 it has no products in bf16. This must be found out, and not by a name.
TEST(BlockedProducts, AreTried)
{
    const char* isa = std::getenv("ONEDNN_MAX_CPU_ISA");
    if (!isa || std::string_view(isa) != "AVX2") GTEST_SKIP() << "ONEDNN_MAX_CPU_ISA is not AVX2";
    EXPECT_FALSE(WeightMatrix::hasBlockedProducts(at::kBFloat16));
    EXPECT_TRUE(WeightMatrix::hasBlockedProducts(at::kFloat));
}

// The pages of a file go away when the layer has been read.
TEST_P(WeightMatrixTest, OwnsItsMemory)
{
    at::Tensor plain = at::randn({48, 32}).to(GetParam());
    const at::Tensor before = plain.clone();
    const WeightMatrix packed = WeightMatrix::packed(plain);
    plain.zero_();
    EXPECT_TRUE(at::equal(packed.rowMajor(), before));
}

INSTANTIATE_TEST_SUITE_P(Types, WeightMatrixTest, testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& info) { return info.param == at::kFloat ? "fp32" : "bf16"; });

}  // namespace

}  // namespace espalier
