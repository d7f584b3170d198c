// The closed form behind mending by least squares: linear maps W_e whose outputs are added up, refitted to a target by ridge regression
// towards the weights they have. Formulas: README.md here. Private to core/recover, and its tests.
//
//     minimise over D_e:   || R - sum_e G_e D_e^T ||^2 + sum_e lambda_e || D_e ||^2
//
// R [N,out] is what is missing, G_e the inputs of map e (times routing weight) on the tokens it sees, D_e [out,in] the change of W_e, and
// lambda_e = ridge * mean diag(G_e^T G_e). Block Gauss-Seidel: each step solves exactly for one D_e, so that the sum never rises. Rows of
// D_e, which are columns of R, do not know of each other: they are solved in blocks, by whoever owns a block.
#pragma once

#include "base/error.h"
#include "recover/scratch.h"

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace espalier
{

// Some of the tokens that a map sees.
struct MapRows {
    at::Tensor tokens;   // [M] int64 rows of R, each once in a map
    at::Tensor weights;  // [M] floating: what the inputs are multiplied by; undefined: 1
    at::Tensor inputs;   // [M,in] floating, any type

    std::int64_t count() const { return tokens.numel(); }
    at::Tensor scaled() const;  // weights * inputs in fp64
};

struct FittedMap {
    std::int64_t width = 0;  // columns
    std::vector<MapRows> rows;

    // Set by factorise.
    double lambda = 0;
    bool dual = false;
    at::Tensor factor;  // lower Cholesky factor [in,in], or [tokens,tokens] in the dual; undefined: nothing to fit

    std::int64_t tokens() const;
};

enum class FitForm { Auto, Primal, Dual };  // Auto: the dual where there are fewer tokens than columns

// A_e = G^T G + lambda I, or K_e = G G^T + lambda I, and its factor, in fp64. A map without tokens, or whose inputs are all zero, is left
// out. Errors: recover.not_definite (BadInput: inputs that are not finite, or a ridge too small for them), those of the scratch.
Status factorise(FittedMap& map, double ridge, Scratch& scratch, FitForm form = FitForm::Auto);

// Bytes in fp64 that factorising takes at once: for checks before.
std::int64_t factoriseBytes(std::int64_t tokens, std::int64_t width);

struct SweepLoss {
    double squares = 0;  // || R ||^2
    double penalty = 0;  // sum of lambda_e || D_e ||^2
};
// `sweeps` times over all maps: residual [N,B] fp64, in place; changes: of every map [B,in] fp64, zeros at first. Returns what is left
// after each sweep. `stop` is asked between maps; true ends early with an empty answer.
std::vector<SweepLoss> sweep(const std::vector<FittedMap>& maps, int sweeps, at::Tensor& residual, std::vector<at::Tensor>& changes,
                             const std::function<bool()>& stop = {});

}  // namespace espalier
