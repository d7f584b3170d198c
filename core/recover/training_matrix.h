// Forward and reverse pass of one linear map with adapters, and of a gated MLP of them: the gradients of the adapters and of the input,
// those of nothing else. fp32; written out, so that the experts of a layer run side by side, each on one thread. Needs no autograd: call
// with gradients off.
#pragma once

#include "model/layer_weights.h"
#include "recover/trainables.h"

#include <ATen/ATen.h>

#include <array>
#include <cstdint>

namespace espalier
{

// Dropout of what an adapter sees, drawn from (seed, place) alone: a pass that is made again gets the same.
struct Dropout {
    double share = 0;  // 0: none
    std::uint64_t seed = 0;

    // 0, or 1 / (1 - share); undefined where nothing is dropped.
    at::Tensor mask(std::uint64_t place, at::IntArrayRef shape, c10::Device device) const;
};

struct AdapterTape {
    at::Tensor mask;  // of the input; undefined: none, or the caller's
    at::Tensor seen;  // [M,in] what a saw
    at::Tensor low;   // [M,r] seen a'
};
struct MatrixTape {
    AdapterTape weight, u, v;
    at::Tensor between;  // V x, [M,rank]
};

struct AdapterPass {
    double scale = 1;
    Dropout dropout;
};

// y = W x + U (V x) + bias with adapters beside each of them. `seen`: x after dropout, for the adapters that see x. The tape may be null.
at::Tensor forwardMatrix(const Linear& linear, const MatrixAdapters& adapters, const at::Tensor& x, const at::Tensor& seen,
                         const AdapterPass& pass, MatrixTape* tape);
// Adds the gradients of the adapters, and to `dx` that of x; to `dseen` what comes through the adapters before the dropout of the caller
// (the same tensor as dx where nothing is dropped). dx and dseen may be undefined: not wanted.
void backwardMatrix(const Linear& linear, const MatrixAdapters& adapters, const MatrixTape& tape, const at::Tensor& dy,
                    const AdapterPass& pass, at::Tensor& dx, at::Tensor& dseen);

struct MlpTape {
    at::Tensor x, seen;  // [M,H]
    std::array<MatrixTape, 3> matrices;
    at::Tensor gate, up, hidden;  // [M,I]
    at::Tensor hiddenMask;        // of what the adapter of down sees
};
// x [M,H] -> [M,H]. `place` tells the MLPs of a layer apart in the dropout.
at::Tensor forwardMlp(const GatedMlp& mlp, const MlpAdapters* adapters, const at::Tensor& x, const at::Tensor& seen,
                      const AdapterPass& pass, MlpTape* tape);
void backwardMlp(const GatedMlp& mlp, const MlpAdapters* adapters, const MlpTape& tape, const at::Tensor& dy, const AdapterPass& pass,
                 at::Tensor& dx, at::Tensor& dseen);

}  // namespace espalier
