// The forward pass of a Mixture-of-Experts decoder under a compression plan, one decoder layer at a time (formulas: README.md here).
//
// Weights come from mapped safetensors: the unit of residency is a decoder layer, read and converted by a reader thread while the
// layer before it computes. In stream mode a layer's weights are freed after use; in resident mode they stay, as far as the memory
// budget reaches. Results are the same bits either way.
//
// What a plan does here is what the exporter writes: a pruned expert's router row does not exist (selection and normalisation run
// over the kept rows), and a matrix in another form runs as the products that model/form_builder.h makes of it, rounded to the stored
// dtype of the checkpoint.
//
// This header needs no ATen: at::Tensor is only named. Include model/moe_model_torch.h to call the functions that take or return
// tensors, or to observe a pass. What runs fails with input.unreadable when a file of the weights has changed since it was opened: of such
// files no number is given. One thread owns a model; all functions but the trivial getters belong to it. Tensors that go in and come
// out lie on the host, wherever the model computes.
#pragma once

#include "base/error.h"
#include "plan/compression_plan.h"
#include "plan/factor_source.h"
#include "plan/model_shape.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace at
{
class Tensor;
}

namespace espalier
{

class Checkpoint;
class KvCache;
class LayerObserver;
class TokenTree;
struct MoeGradient;

enum class ComputeType {
    Fp32,  // the reference: stored weights are converted to fp32, products are true fp32 (never TF32 or bf16 inside)
    Bf16,  // weights and activations in bf16 with fp32 islands (norms, softmax, router)
};
enum class Residency {
    Auto,      // resident when everything fits the budget, else resident up to the budget and streamed beyond it
    Resident,  // keep everything whatever the budget says
    Stream,    // keep embedding, head and at most two layers
};

struct ModelOptions {
    ComputeType compute = ComputeType::Fp32;
    Residency residency = Residency::Auto;
    std::int64_t memoryBudget = 0;  // bytes; 0 = half of the machine's memory
    int threads = 0;                // of the process's compute pool; 0 = one per core
    // "cpu", "cuda", "cuda:N". On a device layers stay as far as its free memory reaches and are streamed through pinned buffers beyond;
    // memoryBudget then bounds what is held on the host. ("portable": the device's way on the processor, for tests.)
    std::string device = "cpu";
};

// Whether "cpu", "cuda" or "cuda:N" can be computed on by this build on this machine. Errors: device.unavailable (Resource), usage.
Status checkDevice(const std::string& device);

// What extend() read, since the model was made.
struct ExtendReads {
    std::int64_t weightBytes = 0;  // of the matrices that were multiplied with, in the compute type
    std::int64_t fileBytes = 0;    // of those, converted from the files because they were not held
    std::int64_t experts = 0;      // converted from the files
};

// A plan that was checked against a model and made ready for it. A cheap value (one shared_ptr); belongs to the model that made it.
class PreparedPlan
{
public:
    PreparedPlan();
    ~PreparedPlan();
    PreparedPlan(const PreparedPlan&);
    PreparedPlan& operator=(const PreparedPlan&);
    PreparedPlan(PreparedPlan&&) noexcept;
    PreparedPlan& operator=(PreparedPlan&&) noexcept;

    const CompressionPlan& plan() const;

    struct Data;
    explicit PreparedPlan(std::shared_ptr<const Data> data);
    const Data& data() const { return *m_data; }

private:
    std::shared_ptr<const Data> m_data;
};

class MoeModel
{
public:
    // Reads nothing large yet. Errors: model.unsupported_architecture, model.unsupported_dtype, model.unsupported_routing (all
    // Unsupported: the checkpoint opens and can be exported, but its forward pass is not known here), device.unavailable.
    static Result<std::unique_ptr<MoeModel>> create(std::shared_ptr<const Checkpoint> checkpoint, const ModelOptions& options);
    ~MoeModel();
    MoeModel(const MoeModel&) = delete;
    MoeModel& operator=(const MoeModel&) = delete;

    const Checkpoint& checkpoint() const;
    std::shared_ptr<const Checkpoint> sharedCheckpoint() const;
    const ModelShape& shape() const;
    const ModelOptions& options() const;  // with threads and memoryBudget resolved
    std::string numericMode() const;      // "fp32" or "bf16"
    int layerCount() const;
    std::int64_t residentBytes() const;  // weights and factors held now
    bool streamsWeights() const;         // not all layers stay in memory
    // What the memory budget leaves beside the weights as they are going to be held: for caches and sums of the callers. Never negative.
    std::int64_t spareBytes() const;
    // What the memory budget means for this model where that is worth saying: a layer that does not fit, a budget that cannot be kept.
    const std::vector<std::string>& warnings() const;

    // Profiles that plans with whitened factors may name, and values files that hold stored numbers; replaces earlier ones. Plans prepared
    // before keep theirs.
    void setFactorSources(FactorSources sources);
    const FactorSources& factorSources() const;

    // Checks the plan against the model by plan_rules. Constants are read here; factors are computed when a layer first needs them (plain
    // SVD, or from the basis in the profile the plan names), and kept within the budget. Errors: plan.* of an invalid plan,
    // plan.form_not_run (Unsupported: a form that cannot be run here yet, by name), those of factorSourceFor and constantSourceFor,
    // plan.values_missing and plan.values_damaged of stored numbers.
    Result<PreparedPlan> prepare(const CompressionPlan& plan) const;
    PreparedPlan identity() const;

    // ids [B,T] int64 -> [B,T,H] in the compute type. Errors: model.token_out_of_range.
    Result<at::Tensor> embed(const at::Tensor& ids);

    // One decoder layer: hidden [B,T,H] -> [B,T,H]. Rows are independent windows, positions 0..T-1. A pure function of (l, hidden,
    // what the plan does in layer l) for a fixed thread count: the same call gives the same bits however the input was obtained.
    // (Another batch may round differently: callers that compare bits batch the same windows the same way.)
    // Loads the layer's weights if they are not held and starts reading layer l+1. The observer may be null.
    // Errors: model.not_finite (BadInput, names the first non-finite weight tensor), checkpoint.* while reading.
    Result<at::Tensor> layer(int layer, const at::Tensor& hidden, const PreparedPlan& plan, LayerObserver* observer = nullptr);

    // The two halves of layer(): attention and its residual connection, [B,T,H] -> [B,T,H], and the norm, the MoE module and its residual
    // connection. What the first returns serves every plan with the same CompressionPlan::entryDigest(layer, Experts). A half that the
    // plan leaves out returns its input and loads nothing. Loading, errors and bits as layer().
    // With a tree (model/token_tree.h) B is 1 and every token follows the one that the tree says.
    Result<at::Tensor> attend(int layer, const at::Tensor& hidden, const PreparedPlan& plan, LayerObserver* observer = nullptr,
                              const TokenTree* tree = nullptr);
    Result<at::Tensor> feedForward(int layer, const at::Tensor& residual, const PreparedPlan& plan, LayerObserver* observer = nullptr);

    // One decoder layer for a sequence that grows: hidden [1,T,H] of the T tokens behind those that the cache has seen there -> [1,T,H];
    // the cache has them as well then. The first tokens of a sequence give the bits of layer(), later ones those of the whole sequence but
    // for rounding. Where layers are streamed and T is small, of the routed experts those are read that these tokens chose, and no page of
    // another; forms of a plan likewise. Files that changed meanwhile are found by logits(). Loading and errors as layer().
    Result<at::Tensor> extend(int layer, const at::Tensor& hidden, const PreparedPlan& plan, KvCache& cache);
    ExtendReads extendReads() const;
    // A cache for one sequence of up to so many tokens. Errors: model.cache_too_large (Resource), before anything is allocated.
    Result<KvCache> makeCache(std::int64_t tokens) const;

    // All layers, embedding included; no logits. For tests and small models: callers that can be cancelled loop over layer().
    Result<at::Tensor> hiddenStates(const at::Tensor& ids, const PreparedPlan& plan, LayerObserver* observer = nullptr);

    // Final RMS norm over the last dimension. [.., H] -> [.., H].
    Result<at::Tensor> finalNorm(const at::Tensor& hidden);
    // Head product of normed rows [N,H] -> [N,V] fp32 (computed in the compute type, then upcast).
    Result<at::Tensor> logits(const at::Tensor& normedRows);
    // NLL in nats of token t+1 given the hidden state at t after the last layer (before the final norm): hidden [B,T,H], ids [B,T]
    // -> [B,T-1] fp64. Log-softmax in fp32, head in row blocks: memory does not grow with B.
    // Errors: model.not_finite, model.token_out_of_range.
    Result<at::Tensor> tokenNll(const at::Tensor& hidden, const at::Tensor& ids);

    // The reverse pass: gradients are fp32, of an NLL in nats summed over a window; the router's selection is constant.
    // d sum / d hidden for hidden [B,T,H] after the last layer and targets [B,T-1] int64, the token that is scored at each position but
    // the last -> [B,T,H] fp32. Errors: as tokenNll.
    Result<at::Tensor> headGradient(const at::Tensor& hidden, const at::Tensor& targets);
    // From the input of a layer and the gradient [B,T,H] of its output to that of its input. Cost: two forward passes of the layer. Reads
    // layer l-1 ahead. The observer sees the MoE module and may be empty. Errors: as layer().
    Result<at::Tensor> layerGradient(int layer, const at::Tensor& hidden, const at::Tensor& gradient, const PreparedPlan& plan,
                                     const std::function<void(const MoeGradient&)>& observer = {});
    // Draws the next token at each position but the last from the model's own distribution: hidden [B,T,H] after the last layer, uniform
    // [B,T-1] fp64 in [0,1) -> [B,T-1] int64. Errors: model.not_finite.
    Result<at::Tensor> drawTokens(const at::Tensor& hidden, const at::Tensor& uniform);

    // f_e(x) of the dense model for x [M,H] (inputs of the MoE module, after the post-attention norm) -> [M,H]; `expert` is an
    // original id, kept by the plan or not. Meant for use inside LayerObserver::moe of the same layer (its weights are loaded then), from
    // any number of threads at once there.
    Result<at::Tensor> expertOutput(int layer, int expert, const at::Tensor& x);

    // What its activation gets: x [M,H] -> [M,2I], gate and then up. As expertOutput.
    Result<at::Tensor> expertPreActivation(int layer, int expert, const at::Tensor& x);

    // Bytes of the output head in the compute type, which logits() reads.
    std::int64_t headBytes() const;

    // Drops every weight and factor held; they are read again when needed.
    void releaseWeights();

private:
    struct Impl;
    explicit MoeModel(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> m_impl;
};

}  // namespace espalier
