#include "model/moe_layer.h"

#include "model/router.h"
#include "model/row_operations.h"

namespace espalier
{

at::Tensor GatedMlp::hidden(const at::Tensor& x) const
{
    at::Tensor h = gate(x);
    siluMul(h, up(x));
    return h;
}

GatedMlp plannedMlp(const GatedMlp& dense, const Linear* factors)
{
    GatedMlp mlp = dense;
    if (!factors) return mlp;
    if (factors[0].defined()) mlp.gate = factors[0];
    if (factors[1].defined()) mlp.up = factors[1];
    if (factors[2].defined()) mlp.down = factors[2];
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

        const at::Tensor in = gatherRows(x, tokens);
        const GatedMlp& dense = weights.experts[static_cast<std::size_t>(expert)].mlp;
        const GatedMlp mlp = plannedMlp(dense, factors.empty() ? nullptr : &factors[3 * static_cast<std::size_t>(column)]);
        const at::Tensor h = mlp.hidden(in);
        const at::Tensor y = mlp.down(h);
        scatterAddRows(out, tokens, y, w);
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
