// The bf16 kernels round where the reference's operators round.
#include "model/kernels.h"
#include "model/norm.h"
#include "model/row_operations.h"

#include <gtest/gtest.h>

#include <set>

#include <cmath>
#include <vector>

namespace espalier
{

namespace
{

at::Tensor random(at::IntArrayRef sizes, double scale = 1) { return (at::randn(sizes) * scale).to(at::kBFloat16); }

// Values that differ, and by at most one bf16 step: an exponential that is off in the 7th digit may round to the other side.
void expectNear(const at::Tensor& mine, const at::Tensor& reference, double mostDifferent)
{
    ASSERT_EQ(mine.sizes(), reference.sizes());
    const at::Tensor a = mine.to(at::kDouble);
    const at::Tensor b = reference.to(at::kDouble);
    EXPECT_LE(((a - b).abs() - b.abs() / 127).max().item<double>(), 1e-30);
    EXPECT_LE((a != b).to(at::kDouble).mean().item<double>(), mostDifferent);
}

TEST(RowOperationsBf16, Norm)
{
    const at::Tensor x = random({7, 83});
    const at::Tensor weight = random({83});
    const at::Tensor wide = x.to(at::kFloat);
    const at::Tensor reference = weight * (wide * at::rsqrt(wide.square().mean({-1}, true) + 1e-6)).to(at::kBFloat16);
    expectNear(rmsNorm(x, weight, 1e-6), reference, 0.01);
    // Rows of a narrowed view.
    const at::Tensor both = at::cat({x, x}, 1);
    expectNear(rmsNorm(both.narrow(1, 83, 83), weight, 1e-6), reference, 0.01);
}

TEST(RowOperationsBf16, SiluTimesUp)
{
    at::Tensor gate = random({9, 77}, 3);
    gate.view({-1})[0] = -200.0;
    gate.view({-1})[1] = 200.0;
    const at::Tensor up = random({9, 77});
    const at::Tensor reference = at::silu(gate) * up;
    siluMul(gate, up);
    expectNear(gate, reference, 0.01);
}

TEST(RowOperations, FewShapesForAnyNumberOfRows)
{
    std::set<std::int64_t> shapes;
    for (std::int64_t rows = 1; rows <= 2048; ++rows) {
        const std::int64_t padded = paddedRows(rows);
        EXPECT_GE(padded, rows);
        EXPECT_EQ(paddedRows(padded), padded);
        if (rows > 64) {
            EXPECT_LE(static_cast<double>(padded), 1.125 * static_cast<double>(rows)) << rows;
        }
        shapes.insert(padded);
    }
    EXPECT_LE(shapes.size(), 140u);
}

TEST(RowOperationsBf16, GatherAndWeightedSum)
{
    const at::Tensor x = random({11, 35});
    const at::Tensor index = at::tensor({4, 0, 10}, at::kLong);
    const at::Tensor picked = gatherPadded(x, index);
    ASSERT_EQ(picked.size(0), 4);
    EXPECT_TRUE(at::equal(picked.narrow(0, 0, 3), x.index_select(0, index)));
    EXPECT_EQ(picked[3].abs().sum().item<float>(), 0);
    EXPECT_TRUE(at::equal(padded(x), at::cat({x, at::zeros({1, 35}, at::kBFloat16)})));

    // As index_add_ of rounded products, expert after expert.
    const std::vector<float> weight = {0.3f, 1.0f, 0.017f, 0.6f};
    const std::vector<std::int64_t> rows = {4, 0, 10, 3};
    std::vector<const std::byte*> row;
    for (const std::int64_t r : rows)
        row.push_back(static_cast<const std::byte*>(x.const_data_ptr()) + r * 35 * 2);
    at::Tensor out = random({2, 35});
    sumWeightedRows(row, weight, 2, out);
    for (std::int64_t t = 0; t < 2; ++t) {
        at::Tensor reference = at::zeros({35}, at::kBFloat16);
        for (std::int64_t i = 2 * t; i < 2 * t + 2; ++i)
            reference += (x[rows[static_cast<std::size_t>(i)]].to(at::kFloat) * weight[static_cast<std::size_t>(i)]).to(at::kBFloat16);
        EXPECT_TRUE(at::equal(out[t], reference));
    }
}

TEST(RowOperationsBf16, Rotation)
{
    const std::int64_t length = 5, heads = 3, dim = 16;
    at::Tensor x = random({2 * length, heads * dim});
    const at::Tensor angle = at::randn({length, dim / 2}) * 3;
    const at::Tensor cos = at::cat({angle.cos(), angle.cos()}, 1).to(at::kBFloat16);
    const at::Tensor sin = at::cat({angle.sin(), angle.sin()}, 1).to(at::kBFloat16);
    const at::Tensor wide = x.view({2, length, heads, dim});
    const at::Tensor turned = at::cat({wide.narrow(3, dim / 2, dim / 2).neg(), wide.narrow(3, 0, dim / 2)}, 3);
    const at::Tensor reference = (wide * cos.view({length, 1, dim}) + turned * sin.view({length, 1, dim})).reshape(x.sizes());
    const auto bits = [](at::Tensor& t) { return reinterpret_cast<std::uint16_t*>(t.mutable_data_ptr<at::BFloat16>()); };
    at::Tensor c = cos, s = sin;
    kernels::ropeHalf(bits(x), heads * dim, dim, 2 * length, heads, dim, length, bits(c), bits(s));
    EXPECT_TRUE(at::equal(x, reference));
}

TEST(RowOperationsBf16, NegativeLogLikelihood)
{
    const at::Tensor logits = random({6, 1037}, 4);
    const std::vector<std::int64_t> target = {0, 5, 1036, 17, 512, 900};
    std::vector<double> nll(6);
    negativeLogLikelihood(logits, target.data(), nll.data());
    const at::Tensor reference = at::log_softmax(logits.to(at::kDouble), 1);
    for (std::size_t i = 0; i < 6; ++i)
        EXPECT_NEAR(nll[i], -reference[static_cast<std::int64_t>(i)][target[i]].item<double>(), 1e-5);
}

TEST(RowOperations, ProductsOfPairs)
{
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
        const at::Tensor x = at::randn({3 * 4, 301}).to(type);
        std::vector<double> products(3 * 10);
        pairProducts(x, 4, products.data());
        const at::Tensor wide = x.to(at::kDouble).view({3, 4, 301});
        const at::Tensor reference = at::bmm(wide, wide.transpose(1, 2));
        std::size_t i = 0;
        for (int g = 0; g < 3; ++g)
            for (int a = 0; a < 4; ++a)
                for (int b = 0; b <= a; ++b)
                    EXPECT_NEAR(products[i++], reference[g][a][b].item<double>(), 1e-11);
    }
}

TEST(RowOperationsBf16, SeesWhatIsNotFinite)
{
    at::Tensor x = random({4, 33});
    EXPECT_TRUE(allFinite(x));
    x[3][32] = std::nan("");
    EXPECT_FALSE(allFinite(x));
    EXPECT_TRUE(allFinite(x.narrow(1, 0, 32)));
}

}  // namespace

}  // namespace espalier
