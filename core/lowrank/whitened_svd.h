// Whitened truncated SVD of a weight matrix (stage 2 of MoE-I2, after SVD-LLM, arXiv 2403.07378): of all W' of rank r the one with the
// smallest squared error || (W - W') X ||^2 on the calibration tokens, which are known by their second moment C = X X^T alone.
//
// Form: with the orthonormal Q whose columns are the left singular vectors of W C^(1/2), W' = Q_r (Q_r^T W).
// This is SVD-LLM's product U_r Sigma_r V_r^T S^-1, without the inverse: U_r^T W S = Sigma_r V_r^T. Subspaces are nested, so one
// decomposition serves every rank, and because W' is an orthogonal projection of W, E(r) is a sum of one number per direction. Q is found
// by an fp64 eigen-decomposition on the smaller side of W: of W C W^T, or of S^T W^T W S with the Cholesky factor S of C.
//
// The ridge (a share of C's mean diagonal added to its diagonal) decides directions that the tokens leave open and keeps S
// well defined; errors are always reported without it.
#pragma once

#include "base/error.h"
#include "lowrank/plain_svd.h"

#include <ATen/ATen.h>

#include <cstdint>

namespace espalier
{

// Share of the mean diagonal of the second moment: C + ridge * trace(C) / n * I.
inline constexpr double kRidge = 1e-6;
// For experts with fewer than twice as many tokens as the rank.
inline constexpr double kThinRidge = 1e-2;

enum class WhitenedRoute { Auto, OutputSide, InputSide };  // Auto: the smaller side

// Cheap to copy. Any thread.
class WhitenedSvd
{
public:
    WhitenedSvd() = default;
    // weight [out,in] and moment [in,in] = sum x x^T (symmetric; its scale matters to errors only), any floating dtype, finite. A zero
    // moment stands for no tokens: all directions count alike, which is the plain SVD, and every error is 0. The ridge rises tenfold
    // until the Cholesky factor exists (input side only). Errors: lowrank.not_finite, lowrank.no_convergence.
    static Result<WhitenedSvd> of(const at::Tensor& weight, const at::Tensor& moment, double ridge = kRidge,
                                  WhitenedRoute route = WhitenedRoute::Auto);

    int maxRank() const { return static_cast<int>(m_energies.numel()); }
    // [min(out,in)] fp64, descending up to the ridge: squared output error on the tokens that each direction saves, so that
    // E(r) = sum of energies from r on. Never negative.
    const at::Tensor& energies() const { return m_energies; }
    // [min(out,in)] fp64, descending: singular values of W S, ridge included (Sigma of the product above).
    const at::Tensor& singularValues() const { return m_sigma; }
    // Orthonormal columns in order, [out, columns] fp64; columns <= maxRank().
    at::Tensor basis(int columns) const;
    // || (W - W_r) X ||, the square root of E(r), before rounding.
    double error(int rank) const;
    double ridge() const { return m_ridge; }  // as used

private:
    at::Tensor m_q;         // [out, n] fp64
    at::Tensor m_energies;  // [n] fp64
    at::Tensor m_sigma;     // [n] fp64
    double m_ridge = 0;
};

// The error curve alone: [min(out,in)] fp64, descending, E(r) = sum from r on of the best approximation of every rank, without a ridge.
// Eigenvalues without vectors: several times cheaper than WhitenedSvd. Errors as WhitenedSvd::of.
Result<at::Tensor> whitenedEnergies(const at::Tensor& weight, const at::Tensor& moment);

// Factors of every rank up to the number of columns of a stored basis: U = Q D, V = D^-1 Q^T W with the diagonal D that gives
// column i of U and row i of V the same norm, so that both round alike. Previews and exports make their factors here, from the same
// basis in fp32, and therefore equal to the bit. Cheap to copy. Any thread.
class ProjectionFactors
{
public:
    ProjectionFactors() = default;
    // weight [out,in], basis [out,n] orthonormal. Errors: lowrank.not_finite.
    static Result<ProjectionFactors> of(const at::Tensor& weight, const at::Tensor& basis);

    int maxRank() const { return m_u.defined() ? static_cast<int>(m_u.size(1)) : 0; }
    // Contiguous factors of rank r (1..maxRank()), rounded once from fp32 to `dtype`.
    Factors factors(int rank, at::ScalarType dtype) const;
    std::int64_t bytes() const;

private:
    at::Tensor m_u;  // [out, n] fp32
    at::Tensor m_v;  // [n, in] fp32
};

}  // namespace espalier
