#include "lowrank/plain_svd.h"
#include "lowrank/whitened_svd.h"

#include "parity/golden.h"

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

using test::maxDifference;

at::Tensor moment(const at::Tensor& x)  // columns are tokens
{
    return at::mm(x.to(at::kDouble), x.to(at::kDouble).t());
}

// || (W - U V) X ||_F
double outputError(const at::Tensor& w, const Factors& f, const at::Tensor& x)
{
    const at::Tensor difference = w.to(at::kDouble) - at::mm(f.u.to(at::kDouble), f.v.to(at::kDouble));
    return at::mm(difference, x.to(at::kDouble)).square().sum().sqrt().item<double>();
}

WhitenedSvd whitened(const at::Tensor& w, const at::Tensor& c, double ridge = kRidge, WhitenedRoute route = WhitenedRoute::Auto)
{
    auto svd = WhitenedSvd::of(w, c, ridge, route);
    if (!svd) throw std::runtime_error(svd.error().describe());
    return std::move(svd).value();
}

ProjectionFactors projection(const at::Tensor& w, const at::Tensor& basis)
{
    auto factors = ProjectionFactors::of(w, basis);
    if (!factors) throw std::runtime_error(factors.error().describe());
    return std::move(factors).value();
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

// By hand: W = diag(2,1), sum x x^T = diag(1,9).
TEST(WhitenedSvd, KeepsWhatTheTokensUse)
{
    const c10::InferenceMode guard;
    const at::Tensor w = at::diag(at::tensor({2.0, 1.0}));
    const at::Tensor c = at::diag(at::tensor({1.0, 9.0}));
    for (const WhitenedRoute route : {WhitenedRoute::OutputSide, WhitenedRoute::InputSide}) {
        const WhitenedSvd svd = whitened(w, c, 0, route);
        EXPECT_NEAR(svd.singularValues()[0].item<double>(), 3, 1e-12);
        EXPECT_NEAR(svd.singularValues()[1].item<double>(), 2, 1e-12);
        EXPECT_NEAR(svd.error(1) * svd.error(1), 4, 1e-12);
        const Factors f = projection(w, svd.basis(2)).factors(1, at::kFloat);
        EXPECT_LE(maxDifference(at::mm(f.u, f.v), at::diag(at::tensor({0.0, 1.0}))), 1e-7);
    }
    // Plain: the 2 is kept, and the error on the tokens is 9.
    const auto plain = PlainSvd::of(w);
    ASSERT_TRUE(plain);
    const Factors f = plain->factors(1, at::kDouble);
    const at::Tensor lost = w - at::mm(f.u, f.v);
    EXPECT_NEAR(at::mm(at::mm(lost, c), lost.t()).trace().item<double>(), 9, 1e-6);
}

TEST(WhitenedSvd, ErrorIsTheSumOfWhatWasDropped)
{
    const c10::InferenceMode guard;
    for (const auto& [out, in] : {std::pair{24, 40}, std::pair{40, 24}, std::pair{16, 16}, std::pair{1, 9}, std::pair{9, 1}}) {
        const at::Tensor w = randomMatrix(out, in, 7).to(at::kDouble);
        const at::Tensor x = randomMatrix(in, 200, 8).to(at::kDouble) * at::arange(1, in + 1, at::kDouble).unsqueeze(1);
        const at::Tensor c = moment(x);
        const double whole = at::mm(w, x).square().sum().item<double>();
        for (const double ridge : {0.0, kRidge, kThinRidge}) {
            const WhitenedSvd a = whitened(w, c, ridge, WhitenedRoute::OutputSide);
            const WhitenedSvd b = whitened(w, c, ridge, WhitenedRoute::InputSide);
            const int n = std::min(out, in);
            ASSERT_EQ(a.maxRank(), n);
            ASSERT_EQ(b.maxRank(), n);
            EXPECT_LE(maxDifference(a.singularValues(), b.singularValues()), 1e-7 * a.singularValues()[0].item<double>());
            EXPECT_NEAR(a.error(0) * a.error(0), whole, 1e-9 * whole);
            for (int rank = 0; rank <= n; ++rank) {
                for (const WhitenedSvd& svd : {a, b}) {
                    const at::Tensor q = svd.basis(rank);
                    if (rank > 0) {
                        EXPECT_LE(maxDifference(at::mm(q.t(), q), at::eye(rank, q.options())), 1e-12);
                    }
                    const double error = at::mm(w - at::mm(q, at::mm(q.t(), w)), x).square().sum().item<double>();
                    EXPECT_NEAR(svd.error(rank) * svd.error(rank), error, 1e-9 * whole) << out << "x" << in << " rank " << rank;
                }
                // Without a ridge the energies are the squared singular values of W S, the best any matrix of the rank can do.
                const at::Tensor& sigma = a.singularValues();
                const double dropped = sigma.narrow(0, rank, n - rank).square().sum().item<double>();
                if (ridge == 0) {
                    EXPECT_NEAR(a.error(rank) * a.error(rank), dropped, 1e-9 * whole);
                }
            }
        }
    }
}

// (6)-(8) as they are written: Cholesky factor, SVD of W S, triangular inverse.
TEST(WhitenedSvd, IsTheProductOfTheWrittenFormula)
{
    const c10::InferenceMode guard;
    for (const auto& [out, in] : {std::pair{20, 32}, std::pair{32, 20}}) {
        const at::Tensor w = randomMatrix(out, in, 17).to(at::kDouble);
        at::Tensor c = moment(randomMatrix(in, 90, 18));
        const WhitenedSvd svd = whitened(w, c);
        c.diagonal().add_(kRidge * c.trace().item<double>() / in);
        const at::Tensor s = at::linalg_cholesky(c);
        const auto [u, sigma, vt] = at::linalg_svd(at::mm(w, s), /*full_matrices=*/false);
        EXPECT_LE(maxDifference(sigma, svd.singularValues()), 1e-7 * sigma[0].item<double>());
        for (const int rank : {1, 5, 13, 20}) {
            const at::Tensor right = at::mm(vt.narrow(0, 0, rank), at::linalg_inv(s));
            const at::Tensor ur = u.narrow(1, 0, rank), sr = sigma.narrow(0, 0, rank);
            const Factors f = projection(w, svd.basis(20)).factors(rank, at::kFloat);
            // Any split of Sigma gives the same product.
            for (const double share : {0.0, 0.5, 1.0}) {
                const at::Tensor product = at::mm(ur * sr.pow(share), sr.pow(1 - share).unsqueeze(1) * right);
                EXPECT_LE(maxDifference(at::mm(f.u.to(at::kDouble), f.v.to(at::kDouble)), product), 1e-6) << rank;
            }
        }
    }
}

TEST(WhitenedSvd, FactorsAreBalancedNestedAndRebuildTheMatrix)
{
    const c10::InferenceMode guard;
    for (const auto& [out, in] : {std::pair{24, 40}, std::pair{40, 24}}) {
        const at::Tensor w = randomMatrix(out, in, 27);
        const at::Tensor x = randomMatrix(in, 100, 28);
        const WhitenedSvd svd = whitened(w, moment(x));
        const ProjectionFactors all = projection(w, svd.basis(24).to(at::kFloat));
        ASSERT_EQ(all.maxRank(), 24);
        const Factors full = all.factors(24, at::kFloat);
        EXPECT_LE(maxDifference(at::mm(full.u, full.v), w), 2e-6);
        EXPECT_LE(maxDifference(full.u.square().sum({0}).sqrt(), full.v.square().sum({1}).sqrt()), 1e-5);
        double before = std::numeric_limits<double>::infinity();
        for (int rank = 1; rank <= 24; ++rank) {
            const Factors f = all.factors(rank, at::kFloat);
            EXPECT_TRUE(f.u.is_contiguous() && f.v.is_contiguous());
            EXPECT_TRUE(at::equal(f.u, full.u.narrow(1, 0, rank)) && at::equal(f.v, full.v.narrow(0, 0, rank)));
            const double error = outputError(w, f, x);
            EXPECT_NEAR(error, svd.error(rank), 1e-5 * svd.error(0));
            EXPECT_LE(error, before + 1e-5 * svd.error(0));
            before = error;
        }
        EXPECT_TRUE(at::equal(all.factors(6, at::kBFloat16).u, all.factors(6, at::kFloat).u.to(at::kBFloat16)));
        EXPECT_TRUE(at::equal(projection(w, svd.basis(24).to(at::kFloat)).factors(7, at::kFloat).v, all.factors(7, at::kFloat).v));
    }
}

// Fewer tokens than dimensions: the directions that the tokens leave open are decided by the ridge, that is by the weights themselves.
TEST(WhitenedSvd, FewTokens)
{
    const c10::InferenceMode guard;
    for (const auto& [out, in] : {std::pair{24, 40}, std::pair{40, 24}}) {
        const at::Tensor w = randomMatrix(out, in, 37);
        const at::Tensor x = randomMatrix(in, 3, 38);
        const double whole = outputError(w, {at::zeros({out, 1}), at::zeros({1, in})}, x);
        for (const WhitenedRoute route : {WhitenedRoute::OutputSide, WhitenedRoute::InputSide}) {
            for (const double ridge : {kRidge, kThinRidge}) {
                const WhitenedSvd svd = whitened(w, moment(x), ridge, route);
                EXPECT_TRUE(at::isfinite(svd.basis(24)).all().item<bool>());
                EXPECT_NEAR(svd.error(0), whole, 1e-6 * whole);
                EXPECT_LE(svd.error(3), (ridge == kRidge ? 1e-3 : 0.2) * whole);
                const Factors f = projection(w, svd.basis(24)).factors(8, at::kFloat);
                EXPECT_NEAR(outputError(w, f, x), svd.error(8), 1e-4 * whole);
                // What is left over goes to the largest remaining part of W: clearly better than three directions on other tokens.
                const at::Tensor other = randomMatrix(in, 50, 39);
                EXPECT_LT(outputError(w, f, other), 0.95 * outputError(w, projection(w, svd.basis(24)).factors(3, at::kFloat), other));
            }
        }
    }
}

TEST(WhitenedSvd, NoTokensIsThePlainSvd)
{
    const c10::InferenceMode guard;
    for (const auto& [out, in] : {std::pair{24, 40}, std::pair{40, 24}}) {
        const at::Tensor w = randomMatrix(out, in, 47);
        const WhitenedSvd svd = whitened(w, at::zeros({in, in}));
        const auto plain = PlainSvd::of(w);
        ASSERT_TRUE(plain);
        EXPECT_EQ(svd.error(0), 0);
        const Factors a = projection(w, svd.basis(9)).factors(9, at::kFloat), b = plain->factors(9, at::kFloat);
        EXPECT_LE(maxDifference(at::mm(a.u, a.v), at::mm(b.u, b.v)), 2e-6);
    }
    const at::Tensor none = at::zeros({5, 6});
    const Factors zero = projection(none, whitened(none, at::eye(6)).basis(5)).factors(3, at::kFloat);
    EXPECT_EQ(at::mm(zero.u, zero.v).abs().max().item<float>(), 0.0f);
}

TEST(WhitenedSvd, RefusesValuesThatAreNotFinite)
{
    const at::Tensor w = randomMatrix(8, 8, 4);
    at::Tensor bad = w.clone();
    bad.index_put_({at::tensor(3), at::tensor(5)}, std::numeric_limits<float>::infinity());
    EXPECT_EQ(WhitenedSvd::of(bad, at::eye(8)).error().code, "lowrank.not_finite");
    EXPECT_EQ(WhitenedSvd::of(w, bad).error().code, "lowrank.not_finite");
    EXPECT_EQ(ProjectionFactors::of(bad, at::eye(8)).error().code, "lowrank.not_finite");
}

class ReferenceFactors : public testing::TestWithParam<const char*>
{
};

// One expert of each fixture model, moments and errors by brute force.
TEST_P(ReferenceFactors, ErrorsByRank)
{
    const c10::InferenceMode guard;
    const test::Golden golden = test::Golden::read(std::filesystem::path(ESPALIER_TEST_FIXTURES) / "lowrank" / GetParam());
    for (const std::string name : {"gate", "up", "down"}) {
        const at::Tensor w = golden.tensor(name + ".weight").to(at::kDouble);
        const at::Tensor c = golden.tensor(name == "down" ? "moment_h" : "moment_x");
        const Json& expected = golden.json.at(name);
        const double ridge = expected.at("ridge_used");
        const double norm = expected.at("output_norm");
        for (const WhitenedRoute route : {WhitenedRoute::Auto, WhitenedRoute::OutputSide, WhitenedRoute::InputSide}) {
            const WhitenedSvd svd = whitened(w, c, ridge, route);
            const at::Tensor sigma = golden.tensor(name + ".whitened_singular_values");
            EXPECT_LE(((svd.singularValues() - sigma).abs() - sigma * 1e-6).max().item<double>(), 1e-6 * sigma[0].item<double>()) << name;
            EXPECT_NEAR(svd.error(0), norm, 1e-6 * norm) << name;
            for (const Json& row : expected.at("by_rank")) {
                const int rank = row.at("rank");
                const double error = row.at("whitened_output_error");
                EXPECT_NEAR(svd.error(rank), error, 1e-6 * error + 1e-6 * norm) << name << " rank " << rank;
                const at::Tensor q = svd.basis(rank);
                const double weightError = (w - at::mm(q, at::mm(q.t(), w))).square().sum().sqrt().item<double>();
                const double weightNorm = w.square().sum().sqrt().item<double>();
                EXPECT_NEAR(weightError, row.at("whitened_weight_error").get<double>(), 1e-6 * weightNorm) << name << " rank " << rank;
            }
            const Factors f = projection(w, svd.basis(svd.maxRank()).to(at::kFloat)).factors(8, at::kFloat);
            EXPECT_LE(maxDifference(at::mm(f.u, f.v), golden.tensor(name + ".whitened_product_rank8")), 1e-6) << name;
        }
        const auto plain = PlainSvd::of(w);
        ASSERT_TRUE(plain);
        const at::Tensor sigma = golden.tensor(name + ".singular_values");
        EXPECT_LE(((plain->singularValues() - sigma).abs() - sigma * 1e-6).max().item<double>(), 1e-6 * sigma[0].item<double>());
        for (const Json& row : expected.at("by_rank")) {
            const int rank = row.at("rank");
            EXPECT_NEAR(plain->error(rank), row.at("plain_weight_error").get<double>(), 1e-6 * plain->error(0)) << name;
            const Factors f = plain->factors(rank, at::kFloat);
            const at::Tensor lost = w - at::mm(f.u.to(at::kDouble), f.v.to(at::kDouble));
            const double error = std::sqrt(std::max(0.0, at::mm(at::mm(lost, c), lost.t()).trace().item<double>()));
            EXPECT_NEAR(error, row.at("plain_output_error").get<double>(), 1e-6 * norm) << name << " rank " << rank;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Tiny, ReferenceFactors, testing::Values("mixtral-tiny", "qwen2moe-tiny", "deepseekv2-lite-tiny"),
                         [](const auto& info) { return std::string(info.param, std::string(info.param).find('-')); });

// A profile without bases stores the curve alone; it must be the one that a decomposition would give.
TEST(WhitenedEnergies, AreThoseOfTheDecomposition)
{
    for (const auto& [rows, columns] : {std::pair{24, 40}, std::pair{40, 24}, std::pair{32, 32}}) {
        const at::Tensor w = at::randn({rows, columns});
        const at::Tensor x =
            at::randn({3 * columns, columns}, at::kDouble) * at::pow(10.0, -2.0 * at::arange(columns, at::kDouble) / columns);
        const at::Tensor moment = at::mm(x.t(), x);
        const at::Tensor energies = whitenedEnergies(w, moment).value();
        const at::Tensor reference = WhitenedSvd::of(w, moment, 0).value().energies();
        ASSERT_EQ(energies.sizes(), reference.sizes());
        EXPECT_LT(((energies - reference).abs().max() / reference.max()).item<double>(), 1e-10) << rows << " x " << columns;
    }
}

// Fewer tokens than columns: no Cholesky factor, and as many directions as there are tokens.
TEST(WhitenedEnergies, OfFewTokens)
{
    for (const auto& [rows, columns] : {std::pair{24, 40}, std::pair{40, 24}}) {
        const at::Tensor x = at::randn({5, columns}, at::kDouble);
        const at::Tensor w = at::randn({rows, columns});
        const at::Tensor energies = whitenedEnergies(w, at::mm(x.t(), x)).value();
        const double whole = at::mm(w.to(at::kDouble), x.t()).square().sum().item<double>();
        EXPECT_NEAR(energies.sum().item<double>(), whole, 1e-9 * whole);
        EXPECT_LT(energies.narrow(0, 5, energies.numel() - 5).max().item<double>(), 1e-9 * whole);
    }
}

}  // namespace

}  // namespace espalier
