// The weights of one decoder layer, converted to the compute type and laid out for few large products. Immutable once loaded;
// shared between the store that keeps them and the pass that uses them.
#pragma once

#include "base/error.h"
#include "model/weight_matrix.h"

#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace espalier
{

class Checkpoint;
class DeviceStaging;

// y = W x + b, with W dense or W = U V.
struct Linear {
    WeightMatrix weight;  // [out,in]; undefined when factored or absent
    WeightMatrix u, v;    // [out,r], [r,in]
    at::Tensor bias;      // [out], or undefined

    bool defined() const { return weight.defined() || u.defined(); }
    at::Tensor operator()(const at::Tensor& x) const
    {
        if (weight.defined()) return weight.product(x, bias);
        return u.product(v.product(x), bias);
    }
};

// W_d( silu(W_g x) * (W_u x) )
struct GatedMlp {
    Linear gate, up;
    Linear down;

    bool defined() const { return down.defined(); }
    // [M,H] -> [M,I]
    at::Tensor hidden(const at::Tensor& x) const;
    at::Tensor operator()(const at::Tensor& x) const { return down(hidden(x)); }
};

struct ExpertWeights {
    GatedMlp mlp;
    std::string nonFinite;  // the first tensor of this expert with a NaN or infinity, or empty
};

struct LayerWeights {
    at::Tensor inputNorm, postNorm;  // [H]
    Linear qkv;                      // rows q | k | v (grouped-query attention)
    Linear output;                   // o_proj
    at::Tensor queryNorm, keyNorm;   // q_norm, k_norm; latent attention: q_a_layernorm, kv_a_layernorm
    Linear queryA, queryB;           // latent attention; queryB alone is q_proj
    Linear latentA, latentB;         // kv_a_proj_with_mqa, kv_b_proj

    at::Tensor router;      // [E,H], fp32 where the architecture routes in fp32
    at::Tensor routerBias;  // [E] fp32, added for the selection only; or undefined
    std::vector<ExpertWeights> experts;
    GatedMlp shared;
    at::Tensor sharedGate;  // [1,H], or undefined
    GatedMlp dense;         // of a layer that is not MoE

    std::string nonFinite;        // the first tensor outside the routed experts and the router with a NaN or infinity
    std::string routerNonFinite;  // name of the router's tensor if it has one
    std::int64_t bytes = 0;
};

// Reads and converts one layer, the experts on `threads` threads of its own, without the compute pool. Any thread. With a `staging` the
// weights lie row-major on its device, whole when this returns; only routerBias stays on the host, where tokens are routed. Errors:
// checkpoint.*, model.unsupported_dtype.
Result<std::shared_ptr<const LayerWeights>> loadLayer(const Checkpoint& checkpoint, int layer, at::ScalarType compute, int threads = 1,
                                                      DeviceStaging* staging = nullptr);

// One matrix in fp32 (dense; a factored one multiplied out), and the dtype it is stored in: what a decomposition starts from.
struct StoredMatrix {
    at::Tensor weight;  // [out,in] fp32
    at::ScalarType stored = at::kFloat;
};
// matrix: 0 gate, 1 up, 2 down.
Result<StoredMatrix> loadExpertMatrix(const Checkpoint& checkpoint, int layer, int expert, int matrix);

// Rows of the embedding, [ids,H], read and converted where they lie in the file. Ids in range. Errors: model.unsupported_dtype.
Result<at::Tensor> embeddingRows(const Checkpoint& checkpoint, std::span<const std::int64_t> ids, at::ScalarType compute);

struct GlobalWeights {
    at::Tensor head;       // [V,H]
    at::Tensor finalNorm;  // [H]
    std::string headNonFinite, normNonFinite;
    std::int64_t bytes = 0;
};
Result<std::shared_ptr<const GlobalWeights>> loadGlobals(const Checkpoint& checkpoint, at::ScalarType compute,
                                                         DeviceStaging* staging = nullptr);

}  // namespace espalier
