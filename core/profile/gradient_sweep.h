// The reverse sweep: from the states at the layer boundaries, head first and then layers in descending order, the gradient
// g_t of the NLL at every routed output, and its products with the outputs of the experts in the lists of the Gram store. Private to
// core/profile.
//
// NLL is in nats and summed over a window. The router's selection is constant, its weights are differentiable. Memory: the states of one
// group of windows at all boundaries, one layer and one gradient. Cost: about four forward passes (the layer again, its gradient, and the
// experts of the lists that no token was routed to); one more where the states have to be computed.
#pragma once

#include "base/error.h"
#include "model/moe_model_torch.h"
#include "statistics/profile_data.h"

#include <cstdint>
#include <functional>
#include <vector>

namespace espalier
{

struct SweepBatch {
    at::Tensor ids;                         // [B,T] int64
    std::vector<std::int64_t> sampledRows;  // rows of the batch that are in the Gram store, ascending, in its order
    int firstWindow = 0;                    // of this run
    std::int64_t textWindow = 0;            // the same window in the text: what drawn labels depend on
};

struct SweepSettings {
    bool drawn = false;               // a second gradient, of labels drawn from the model's own distribution
    std::int64_t boundaryBudget = 0;  // bytes for states; at least one batch is held whatever it says
};

// Bytes of the states of `tokens` tokens at all boundaries, with the gradient of one.
std::int64_t boundaryBytes(const ModelShape& shape, std::int64_t tokens, std::int64_t bytesPerValue);

// Fills layers[l].gradients of every MoE layer with a Gram store. `boundaries`: per batch the input of every layer and the output of the
// last, as the forward pass left them, or empty: then they are computed. They are consumed.
// `step` is called with the number of tokens that went through a layer, (computed states: once) and twice per gradient; the sum is
// sweepWork. Errors: cancelledError(), model.*.
Status runGradientSweep(MoeModel& model, const PreparedPlan& plan, const std::vector<SweepBatch>& batches,
                        std::vector<std::vector<at::Tensor>> boundaries, const SweepSettings& settings, std::vector<LayerProfile>& layers,
                        const std::function<bool()>& stopRequested, const std::function<void(std::int64_t)>& step);

// Token-layers of the sweep: what all calls of `step` add up to.
std::int64_t sweepWork(std::int64_t tokens, int layers, bool drawn, bool boundariesKnown);

}  // namespace espalier
