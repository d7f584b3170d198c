// The weights of one decoder layer, converted to the compute type and laid out for few large products. Immutable once loaded;
// shared between the store that keeps them and the pass that uses them.
#pragma once

#include "base/error.h"
#include "model/weight_matrix.h"
#include "plan/layer_plan.h"

#include <ATen/ATen.h>

#include <array>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

namespace espalier
{

class Checkpoint;
struct LinearView;
struct TensorView;
class DeviceStaging;

// y = W x + U (V x) + b: the sum of the terms that are there. W alone is a dense matrix, U V alone a factored one.
struct Linear {
    WeightMatrix weight;  // [out,in], or undefined
    WeightMatrix u, v;    // [out,r], [r,in], or undefined
    at::Tensor bias;      // [out], or undefined
    at::Tensor keep;      // what of x is left for v, in training: as x; or undefined

    bool defined() const { return weight.defined() || u.defined(); }
    at::Tensor operator()(const at::Tensor& x) const
    {
        if (!u.defined()) return weight.product(x, bias);
        const at::Tensor low = u.product(v.product(keep.defined() ? x * keep : x), bias);
        return weight.defined() ? weight.product(x) + low : low;
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
    GatedMlp mlp;           // undefined where the layer does not hold it
    std::string nonFinite;  // the first tensor of this expert with a NaN or infinity, or empty
};

// Where the experts come from that a layer does not hold. Any thread.
class ExpertSource
{
public:
    virtual ~ExpertSource() = default;
    // Converted as when the whole layer is: same bits.
    virtual std::shared_ptr<const GatedMlp> read(int expert) = 0;
    // The first tensor read here that has a NaN or infinity; empty: none, or it is known since the layer was loaded.
    virtual std::string nonFinite() const { return {}; }
};

// Reads single experts of a layer that does not fit in memory as a whole, no more than `most` of them at a time. Any thread.
class ExpertReader : public ExpertSource, public std::enable_shared_from_this<ExpertReader>
{
public:
    // The checkpoint must outlive it.
    ExpertReader(const Checkpoint& checkpoint, int layer, at::ScalarType compute, int most);
    // Blocks until fewer than `most` are held by others: a thread holds one at a time.
    std::shared_ptr<const GatedMlp> read(int expert) override;

private:
    const Checkpoint& m_checkpoint;
    const int m_layer;
    const at::ScalarType m_compute;
    std::mutex m_mutex;
    std::condition_variable m_freed;
    int m_left;
};

struct LayerWeights {
    at::Tensor inputNorm, postNorm;  // [H]
    Linear qkv;                      // rows q | k | v (grouped-query attention), or
    Linear query, key, value;        // .. one by one, where some of them are factors
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

    std::shared_ptr<ExpertSource> reader;  // where not all experts are held

    // q | k | v of x [..,H].
    at::Tensor queryKeyValue(const at::Tensor& x) const { return qkv.defined() ? qkv(x) : at::cat({query(x), key(x), value(x)}, -1); }

    // The matrices of an expert, for as long as the value lives: the layer's own, or read now.
    std::shared_ptr<const GatedMlp> expert(int id) const;

    std::string nonFinite;        // the first tensor outside the routed experts and the router with a NaN or infinity
    std::string routerNonFinite;  // name of the router's tensor if it has one
    std::int64_t bytes = 0;
};

struct LayerLoading {
    at::ScalarType compute = at::kFloat;
    int threads = 1;  // of its own that convert experts, without the compute pool
    // The first so many experts are converted and held, the others only looked through for values that are not finite, and converted each
    // time they are wanted. Negative: all are held.
    int heldExperts = -1;
    int mostRead = 1;  // of those others at a time
    // Where it is given, no expert is held nor looked through: they come from there when they are wanted.
    std::shared_ptr<ExpertSource> experts = nullptr;
    // The weights lie row-major on its device, whole when loadLayer returns, all experts held; only routerBias stays on the host, where
    // tokens are routed. Null: on the host.
    DeviceStaging* staging = nullptr;
    const LayerMerge* merge = nullptr;  // every tensor is mixed with the other layer's (model/layer_mix.h); all experts are held then
};

// Reads and converts one layer. Any thread. The checkpoint must outlive a layer that does not hold all experts. Errors: checkpoint.*,
// model.unsupported_dtype.
Result<std::shared_ptr<const LayerWeights>> loadLayer(const Checkpoint& checkpoint, int layer, const LayerLoading& loading);

// One expert, converted as loadLayer does. The first tensor that is not finite goes to `bad`, the bytes that it takes to `bytes`. Any
// thread.
std::shared_ptr<const GatedMlp> loadExpert(const Checkpoint& checkpoint, int layer, int expert, at::ScalarType compute, std::string& bad,
                                           std::int64_t& bytes);

// What the numbers of a matrix are stored in: bf16, fp16, or fp32 for everything else.
at::ScalarType storedType(const TensorView& view);
at::ScalarType storedType(const LinearView& view);
// A copy in fp32. Errors: model.unsupported_dtype, model.not_finite.
Result<at::Tensor> loadVector(const TensorView& view);

// One matrix in fp32 (dense; a factored one multiplied out), and the dtype it is stored in: what a decomposition starts from.
struct StoredMatrix {
    at::Tensor weight;  // [out,in] fp32
    at::ScalarType stored = at::kFloat;
};
Result<StoredMatrix> loadMatrix(const LinearView& view);
// matrix: 0 gate, 1 up, 2 down.
Result<StoredMatrix> loadExpertMatrix(const Checkpoint& checkpoint, int layer, int expert, int matrix);

// Rows of the embedding, [ids,H], read and converted where they lie in the file. Ids in range. Errors: model.unsupported_dtype.
Result<at::Tensor> embeddingRows(const Checkpoint& checkpoint, std::span<const std::int64_t> ids, at::ScalarType compute);

struct GlobalWeights {
    at::Tensor head;       // [V,H]; undefined where it is converted block by block
    at::Tensor finalNorm;  // [H]
    std::int64_t vocabulary = 0;
    std::string headNonFinite, normNonFinite;
    std::int64_t bytes = 0;
    std::function<at::Tensor(std::int64_t first, std::int64_t count)> readHead;

    // Rows of the head, [count,H]: a view, or converted now.
    at::Tensor headRows(std::int64_t first, std::int64_t count) const
    {
        return head.defined() ? head.narrow(0, first, count) : readHead(first, count);
    }
};
// With `headInBlocks` the head is not held: its rows are converted when they are asked for. The checkpoint must outlive the result then.
Result<std::shared_ptr<const GlobalWeights>> loadGlobals(const Checkpoint& checkpoint, at::ScalarType compute, bool headInBlocks = false,
                                                         DeviceStaging* staging = nullptr);

// Logits of normed rows, [N,H] -> [N,V] in the compute type.
at::Tensor headProduct(const at::Tensor& rows, const GlobalWeights& globals);

// Rows of the head that products take at a time, however it is held, so that results do not depend on it: about 64 MB in fp32.
std::int64_t headBlockRows(std::int64_t vocabulary, std::int64_t hiddenSize);

}  // namespace espalier
