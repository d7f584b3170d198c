// The ATen-facing side of the model, for .cpp files of profile, evaluate and export: tensors complete, observers of a pass.
// Every function of MoeModel runs under c10::InferenceMode and hands out inference tensors; code that computes with them holds a
// c10::InferenceMode of its own (an observer is called inside the model's).
#pragma once

#include "model/moe_model.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <functional>

namespace espalier
{

// What a MoE module did with the N = B*T tokens of one layer() call, row-major in (window, position).
// n is the number of experts that exist under the plan: all of the layer, or the kept ones.
struct MoeBatch {
    int layer = 0;
    at::Tensor input;          // [N,H] compute type: normed x, input of router and experts
    at::Tensor kept;           // [n] int64: original expert id of each router column
    at::Tensor routerLogits;   // [N,n] fp32, columns as in `kept`
    at::Tensor selectionBias;  // [n] fp32, or undefined: what the router adds for the selection only
    at::Tensor selected;       // [N,k] int64: original ids, by weight descending, ties to the lower id
    at::Tensor weights;        // [N,k] fp32: as multiplied with the expert outputs (normalised and scaled where the model does)
    at::Tensor routed;         // [N,H] compute type: weighted sum of the experts' outputs, without shared experts
    at::Tensor output;         // [N,H] compute type: MoE module output, shared experts included
};

// Called by MoeModel::layer on the compute thread: attentionInput, attention, then expert for every expert with tokens by ascending id, then
// shared where there is one, then moe.
// The tensors are the model's own; an observer reads them and keeps copies of what it wants to keep. A dense layer calls attention only.
class LayerObserver
{
public:
    virtual ~LayerObserver() = default;
    // attnOut [B,T,H]: attention output after o_proj, before the residual is added.
    virtual void attention(int layer, const at::Tensor& attnOut) { (void)layer, (void)attnOut; }
    // in [B,T,A]: what attention's output projection gets.
    virtual void attentionInput(int layer, const at::Tensor& in) { (void)layer, (void)in; }
    // The M tokens routed to `expert` (original id): tokens [M] int64 rows of MoeBatch, ascending; x [M,H] inputs, h [M,I] hidden
    // activation silu(gate x) * (up x), y [M,H] expert output before weighting, w [M] fp32 weights as applied.
    virtual void expert(int layer, int expert, const at::Tensor& tokens, const at::Tensor& x, const at::Tensor& h, const at::Tensor& y,
                        const at::Tensor& w)
    {
        (void)layer, (void)expert, (void)tokens, (void)x, (void)h, (void)y, (void)w;
    }
    // Hidden activation of the shared experts h [N,I], and what multiplies their output, gate [N,1] (undefined: 1).
    virtual void shared(int layer, const at::Tensor& h, const at::Tensor& gate) { (void)layer, (void)h, (void)gate; }
    virtual void moe(const MoeBatch& batch) { (void)batch; }
};

// What the reverse pass of a MoE module knows about its N tokens (rows as in MoeBatch).
struct MoeGradient {
    int layer = 0;
    at::Tensor input;     // [N,H] compute type: as MoeBatch::input
    at::Tensor gradient;  // [N,H] fp32: g_t, the gradient at the routed output; the layer's output adds it unchanged
    at::Tensor selected;  // [N,k] int64: original ids, as MoeBatch::selected
    at::Tensor weights;   // [N,k] fp32: as applied
    at::Tensor products;  // [N,k] fp64: g_t . f_e(x_t) of the selected experts
};
// Called inside the model's inference mode, while the layer's weights are held (expertOutput may be called).
using GradientObserver = std::function<void(const MoeGradient&)>;

}  // namespace espalier
