#include "lowrank/plain_svd.h"

#include <c10/core/InferenceMode.h>

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace espalier
{

namespace
{

at::Tensor randomMatrix(std::int64_t rows, std::int64_t columns, std::uint64_t seed)
{
    at::Tensor m = at::empty({rows, columns}, at::kFloat);
    auto* data = m.mutable_data_ptr<float>();
    for (std::int64_t i = 0; i < m.numel(); ++i) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        data[i] = static_cast<float>(static_cast<double>(seed >> 33) / 2147483648.0 - 0.5);
    }
    return m;
}

double maxDifference(const at::Tensor& a, const at::Tensor& b)
{
    return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

TEST(PlainSvd, SingularValuesAreThoseOfAnSvd)
{
    const c10::InferenceMode guard;
    for (const auto& [rows, columns] : {std::pair{24, 48}, std::pair{48, 24}, std::pair{17, 17}, std::pair{1, 9}}) {
        const at::Tensor w = randomMatrix(rows, columns, 7);
        const auto svd = PlainSvd::of(w);
        ASSERT_TRUE(svd);
        const at::Tensor expected = at::linalg_svdvals(w.to(at::kDouble));
        EXPECT_EQ(svd->maxRank(), std::min(rows, columns));
        EXPECT_LE(maxDifference(svd->singularValues(), expected), 1e-7 * expected[0].item<double>());
    }
}

TEST(PlainSvd, TruncationIsTheBestOfItsRank)
{
    const c10::InferenceMode guard;
    const at::Tensor w = randomMatrix(40, 64, 3);
    const auto svd = PlainSvd::of(w);
    ASSERT_TRUE(svd);
    for (const int rank : {1, 7, 24, 39}) {
        const Factors f = svd->factors(rank, at::kFloat);
        EXPECT_EQ(f.u.sizes(), (std::vector<std::int64_t>{40, rank}));
        EXPECT_EQ(f.v.sizes(), (std::vector<std::int64_t>{rank, 64}));
        const double error = (w.to(at::kDouble) - at::mm(f.u.to(at::kDouble), f.v.to(at::kDouble))).square().sum().sqrt().item<double>();
        EXPECT_NEAR(error, svd->error(rank), 1e-5 * svd->error(0));
    }
    EXPECT_NEAR(svd->error(0), w.to(at::kDouble).square().sum().sqrt().item<double>(), 1e-6);
    const Factors full = svd->factors(40, at::kFloat);
    EXPECT_LE(maxDifference(at::mm(full.u, full.v), w), 2e-6);
}

TEST(PlainSvd, SingularValuesAreSplitEvenly)
{
    const c10::InferenceMode guard;
    const auto svd = PlainSvd::of(randomMatrix(30, 20, 5));
    ASSERT_TRUE(svd);
    const Factors f = svd->factors(12, at::kFloat);
    const at::Tensor root = svd->singularValues().narrow(0, 0, 12).sqrt();
    EXPECT_LE(maxDifference(f.u.square().sum({0}).sqrt(), root), 1e-5);
    EXPECT_LE(maxDifference(f.v.square().sum({1}).sqrt(), root), 1e-5);
}

TEST(PlainSvd, RankDeficientMatrixIsRebuiltExactly)
{
    const c10::InferenceMode guard;
    const at::Tensor w = at::mm(randomMatrix(32, 4, 1), randomMatrix(4, 20, 2));
    const auto svd = PlainSvd::of(w);
    ASSERT_TRUE(svd);
    const Factors f = svd->factors(4, at::kFloat);
    EXPECT_LE(maxDifference(at::mm(f.u, f.v), w), 1e-5);
    const Factors full = svd->factors(20, at::kFloat);
    EXPECT_TRUE(at::isfinite(full.u).all().item<bool>() && at::isfinite(full.v).all().item<bool>());
    const auto zero = PlainSvd::of(at::zeros({5, 6}));
    ASSERT_TRUE(zero);
    const Factors none = zero->factors(3, at::kFloat);
    EXPECT_EQ(at::mm(none.u, none.v).abs().max().item<float>(), 0.0f);
}

TEST(PlainSvd, RoundsOnceToTheStoredType)
{
    const c10::InferenceMode guard;
    const auto svd = PlainSvd::of(randomMatrix(24, 16, 9));
    ASSERT_TRUE(svd);
    const Factors exact = svd->factors(6, at::kFloat);
    const Factors rounded = svd->factors(6, at::kBFloat16);
    EXPECT_EQ(rounded.u.scalar_type(), at::kBFloat16);
    EXPECT_TRUE(rounded.u.is_contiguous() && rounded.v.is_contiguous());
    EXPECT_TRUE(at::equal(rounded.u, exact.u.to(at::kBFloat16)));
    // The same matrix gives the same bits: the preview and the export do not differ.
    const Factors again = PlainSvd::of(randomMatrix(24, 16, 9))->factors(6, at::kFloat);
    EXPECT_TRUE(at::equal(again.u, exact.u) && at::equal(again.v, exact.v));
}

TEST(PlainSvd, RefusesValuesThatAreNotFinite)
{
    at::Tensor w = randomMatrix(8, 8, 4);
    w.index_put_({at::tensor(3), at::tensor(5)}, std::numeric_limits<float>::quiet_NaN());
    const auto svd = PlainSvd::of(w);
    ASSERT_FALSE(svd);
    EXPECT_EQ(svd.error().code, "lowrank.not_finite");
}

}  // namespace

}  // namespace espalier
