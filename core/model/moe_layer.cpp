#include "model/moe_layer.h"

#include "model/kernels.h"
#include "model/router.h"

namespace espalier
{

at::Tensor GatedMlp::hidden(const at::Tensor& x) const
{
    if (gateUp.defined()) {
        const at::Tensor both = at::linear(x, gateUp);
        if (both.scalar_type() == at::kFloat) {
            auto sizes = both.sizes().vec();
            sizes.back() = width;
            at::Tensor out = at::empty(sizes, both.options());
            kernels::siluMul(both.const_data_ptr<float>(), out.mutable_data_ptr<float>(), both.numel() / (2 * width), width);
            return out;
        }
        return at::silu(both.narrow(-1, 0, width)) * both.narrow(-1, width, width);
    }
    return at::silu(gate(x)) * up(x);
}

namespace
{

at::Tensor gather(const at::Tensor& x, const at::Tensor& tokens)
{
    if (x.scalar_type() != at::kFloat) return x.index_select(0, tokens);
    at::Tensor out = at::empty({tokens.numel(), x.size(1)}, x.options());
    kernels::gatherRows(x.const_data_ptr<float>(), tokens.const_data_ptr<std::int64_t>(), out.mutable_data_ptr<float>(), tokens.numel(),
                        x.size(1));
    return out;
}

// out[tokens] += dt(y * w): in bf16 the product is formed in fp32, rounded, and added in bf16, as the reference does.
void scatterAdd(at::Tensor& out, const at::Tensor& y, const at::Tensor& w, const at::Tensor& tokens)
{
    if (out.scalar_type() != at::kFloat) {
        out.index_add_(0, tokens, (y.to(at::kFloat) * w.unsqueeze(1)).to(out.scalar_type()));
        return;
    }
    kernels::scatterAddRows(y.const_data_ptr<float>(), w.const_data_ptr<float>(), tokens.const_data_ptr<std::int64_t>(),
                            out.mutable_data_ptr<float>(), tokens.numel(), out.size(1));
}

}  // namespace

GatedMlp plannedMlp(const GatedMlp& dense, const Linear* factors)
{
    if (!factors || (!factors[0].defined() && !factors[1].defined() && !factors[2].defined())) return dense;
    GatedMlp mlp = dense;
    if (factors[2].defined()) mlp.down = factors[2];
    if (factors[0].defined() || factors[1].defined()) {
        if (dense.gateUp.defined()) {
            mlp.gate.weight = dense.gateUp.narrow(0, 0, dense.width);
            mlp.up.weight = dense.gateUp.narrow(0, dense.width, dense.width);
        }
        mlp.gateUp = at::Tensor();
        if (factors[0].defined()) mlp.gate = factors[0];
        if (factors[1].defined()) mlp.up = factors[1];
    }
    return mlp;
}

at::Tensor moeForward(int layer, const at::Tensor& x, const LayerWeights& weights, const PlanLayer& plan,
                      const std::vector<Linear>& factors, const MoeArithmetic& arithmetic, LayerObserver* observer)
{
    const auto columns = static_cast<int>(plan.kept.size());
    const at::Tensor rows = plan.allKept ? weights.router : weights.router.index_select(0, plan.keptIndex);
    const at::Tensor logits =
        (arithmetic.routerInFp32 ? at::linear(x.to(at::kFloat), rows) : at::linear(x, rows)).to(at::kFloat).contiguous();
    const at::Tensor bias =
        plan.allKept || !weights.routerBias.defined() ? weights.routerBias : weights.routerBias.index_select(0, plan.keptIndex);
    const RoutedTokens routed =
        routeTokens(plan.router, logits, bias, arithmetic.weightsRounded ? arithmetic.compute : at::ScalarType::Float);
    const TokenGroups groups = groupTokens(routed.selected, columns);

    at::Tensor out = at::zeros_like(x);
    const float* allWeights = routed.weights.const_data_ptr<float>();
    for (int column = 0; column < columns; ++column) {
        const std::int64_t begin = groups.offsets[static_cast<std::size_t>(column)];
        const std::int64_t count = groups.offsets[static_cast<std::size_t>(column) + 1] - begin;
        if (count == 0) continue;
        const int expert = plan.kept[static_cast<std::size_t>(column)];
        const at::Tensor tokens = groups.order.narrow(0, begin, count);
        at::Tensor w = at::empty({count}, at::kFloat);
        float* weightOut = w.mutable_data_ptr<float>();
        for (std::int64_t i = 0; i < count; ++i)
            weightOut[i] = allWeights[groups.slots[static_cast<std::size_t>(begin + i)]];

        const at::Tensor in = gather(x, tokens);
        const GatedMlp& dense = weights.experts[static_cast<std::size_t>(expert)].mlp;
        const GatedMlp mlp = plannedMlp(dense, factors.empty() ? nullptr : &factors[3 * static_cast<std::size_t>(column)]);
        const at::Tensor h = mlp.hidden(in);
        const at::Tensor y = mlp.down(h);
        scatterAdd(out, y, w, tokens);
        if (observer) observer->expert(layer, expert, tokens, in, h, y, w);
    }

    if (weights.shared.defined()) {
        const at::Tensor shared = weights.shared(x);
        if (weights.sharedGate.defined())
            out.add_(at::sigmoid(at::linear(x, weights.sharedGate)) * shared);
        else
            out.add_(shared);
    }
    if (observer) {
        MoeBatch batch;
        batch.layer = layer;
        batch.input = x;
        batch.kept = plan.keptIndex;
        batch.routerLogits = logits;
        batch.selectionBias = bias;
        batch.selected =
            plan.allKept ? routed.selected : plan.keptIndex.index_select(0, routed.selected.view({-1})).view_as(routed.selected);
        batch.weights = routed.weights;
        batch.output = out;
        observer->moe(batch);
    }
    return out;
}

}  // namespace espalier
