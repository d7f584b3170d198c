#include "model/layer_gradient.h"

#include "model/router.h"

#include <c10/core/InferenceMode.h>

#include <algorithm>

namespace espalier
{

namespace
{

// Gradient of the input of y = W x + b.
at::Tensor through(const Linear& linear, const at::Tensor& gradient)
{
    if (!linear.u.defined()) return at::mm(gradient, linear.weight.rowMajor());
    const at::Tensor low = at::mm(at::mm(gradient, linear.u.rowMajor()), linear.v.rowMajor());
    return linear.weight.defined() ? at::mm(gradient, linear.weight.rowMajor()) + low : low;
}

struct MlpPass {
    at::Tensor gate, up;  // [M,I] before the activation
    at::Tensor hidden;    // silu(gate) * up
};

MlpPass forward(const GatedMlp& mlp, const at::Tensor& x)
{
    MlpPass pass;
    pass.gate = mlp.gate(x);
    pass.up = mlp.up(x);
    pass.hidden = at::silu(pass.gate) * pass.up;
    return pass;
}

// gradient [M,H] in the compute type.
at::Tensor backward(const GatedMlp& mlp, const MlpPass& pass, const at::Tensor& gradient)
{
    const at::Tensor hidden = through(mlp.down, gradient);
    const at::Tensor up = hidden * at::silu(pass.gate);
    const at::Tensor gate = at::silu_backward(hidden * pass.up, pass.gate);
    return (through(mlp.gate, gate) + through(mlp.up, up)).to(at::kFloat);
}

}  // namespace

at::Tensor routerGradient(const RouterShape& router, const at::Tensor& logits, const RoutedTokens& routed, const at::Tensor& products)
{
    const at::Tensor weights = routed.weights.to(at::kDouble);
    const at::Tensor weighted = weights * products;
    const at::Tensor mean = weighted.sum({1}, true);
    if (router.rule == RoutingRule::SoftmaxRenormalised)
        return at::zeros(logits.sizes(), weights.options()).scatter(1, routed.selected, weighted - weights * mean);
    if (router.rule == RoutingRule::SigmoidBias) {
        // w_i = c s_i / sum s: d s_i = s_i (1 - s_i) d z_i; the bias decides the selection only, which has no derivative.
        const at::Tensor unselected = 1 - at::sigmoid(logits.to(at::kDouble)).gather(1, routed.selected);
        const at::Tensor relative = router.normalise ? weighted - weights / router.scaling * mean : weighted;
        return at::zeros(logits.sizes(), weights.options()).scatter(1, routed.selected, relative * unselected);
    }
    // w_i = s p_i: every logit moves every probability.
    const at::Tensor probability = at::softmax(logits.to(at::kDouble), 1);
    return (probability * -mean).scatter_add(1, routed.selected, weighted);
}

at::Tensor recordable(const at::Tensor& tensor)
{
    if (!tensor.defined() || !tensor.is_inference() || c10::InferenceMode::is_enabled()) return tensor;
    return at::from_blob(const_cast<void*>(tensor.const_data_ptr()), tensor.sizes(), tensor.strides(), tensor.options());
}

at::Tensor rmsNormGradient(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& gradient, double eps)
{
    const at::Tensor wide = x.to(at::kFloat);
    const at::Tensor scale = at::rsqrt(wide.square().mean({-1}, true) + eps);
    const at::Tensor weighted = gradient.to(at::kFloat) * weight.to(at::kFloat);
    return scale * (weighted - wide * (scale.square() * (wide * weighted).mean({-1}, true)));
}

at::Tensor mlpGradient(const GatedMlp& mlp, const at::Tensor& x, const at::Tensor& gradient)
{
    return backward(mlp, forward(mlp, x), gradient.to(x.scalar_type()));
}

at::Tensor moeGradient(int layer, const at::Tensor& x, const at::Tensor& gradient, const LayerWeights& weights, const PlannedLayer& plan,
                       const std::vector<Linear>& forms, const MoeArithmetic& arithmetic, const GradientObserver& observer)
{
    const RoutedBatch routed = routeBatch(x, weights, plan, arithmetic);
    at::Tensor in = at::zeros(x.sizes(), x.options().dtype(at::kFloat));
    at::Tensor products = at::zeros(routed.tokens.selected.sizes(), at::kDouble);
    auto* product = products.mutable_data_ptr<double>();
    for (std::size_t body = 0; body < plan.bodies.size(); ++body) {
        const std::int64_t begin = routed.groups.offsets[body];
        const std::int64_t count = routed.slotsOf(body);
        if (count == 0) continue;
        const BodyTokens own = routed.tokensOf(body);
        const at::Tensor tokens = own.tokens.to(x.device());
        const at::Tensor w = own.weights.to(x.device()).unsqueeze(1);
        const at::Tensor above = gradient.index_select(0, tokens);
        const auto keep = [&](const at::Tensor& dots) {
            const at::Tensor host = dots.to(at::kCPU).contiguous();
            for (std::int64_t i = 0; i < count; ++i)
                product[routed.groups.slots[static_cast<std::size_t>(begin + i)]] =
                    host.const_data_ptr<double>()[own.rowOf.empty() ? i : own.rowOf[static_cast<std::size_t>(i)]];
        };
        // A constant passes nothing on to its input; the router still chooses between it and the others.
        if (plan.bodies[body].constant.defined()) {
            keep((plan.bodies[body].constant.to(at::kDouble) * above.to(at::kDouble)).sum({1}));
            continue;
        }
        const at::Tensor expertIn = x.index_select(0, tokens);
        const PlannedExpert expert = plannedExpert(weights, plan.bodies[body].expert, forms.empty() ? nullptr : &forms[3 * body]);
        const GatedMlp& mlp = expert.mlp;
        const MlpPass pass = forward(mlp, expertIn);
        keep((mlp.down(pass.hidden).to(at::kDouble) * above.to(at::kDouble)).sum({1}));
        in.index_add_(0, tokens, backward(mlp, pass, (above * w).to(x.scalar_type())));
    }
    const at::Tensor logitGradient = routerGradient(plan.router, routed.logits, routed.tokens, products).to(at::kFloat);
    in.add_(at::mm(logitGradient.to(x.device()), routed.rows.to(at::kFloat)));

    if (weights.shared.defined()) {
        const GatedMlp shared = plannedMlp(weights.shared, plan, forms);
        if (weights.sharedGate.defined()) {
            const MlpPass pass = forward(shared, x);
            const at::Tensor open = at::sigmoid(at::linear(x, weights.sharedGate).to(at::kFloat));
            const at::Tensor output = shared.down(pass.hidden).to(at::kFloat);
            in.add_(backward(shared, pass, (gradient * open).to(x.scalar_type())));
            in.add_(at::mm((gradient * output).sum({1}, true) * open * (1 - open), weights.sharedGate.to(at::kFloat)));
        } else {
            in.add_(mlpGradient(shared, x, gradient));
        }
    }
    if (observer) {
        MoeGradient seen;
        seen.layer = layer;
        seen.input = x.to(at::kCPU);
        seen.gradient = gradient.to(at::kCPU);
        seen.selected = routed.selectedIds(plan);
        seen.weights = routed.tokens.weights;
        seen.products = products;
        observer(seen);
    }
    return in;
}

at::Tensor attentionGradient(Attention& attention, const at::Tensor& x, const at::Tensor& gradient, const LayerWeights& weights, int window)
{
    const c10::InferenceMode recording(false);
    LayerWeights own;
    own.queryNorm = recordable(weights.queryNorm);
    own.keyNorm = recordable(weights.keyNorm);
    const auto linear = [](const Linear& from) {
        Linear to;
        const auto matrix = [](const WeightMatrix& packed) {
            return packed.defined() ? WeightMatrix::plain(recordable(packed.rowMajor())) : packed;
        };
        to.weight = matrix(from.weight);
        to.u = matrix(from.u);
        to.v = matrix(from.v);
        to.bias = recordable(from.bias);
        return to;
    };
    own.qkv = linear(weights.qkv);
    own.query = linear(weights.query);
    own.key = linear(weights.key);
    own.value = linear(weights.value);
    own.output = linear(weights.output);
    own.queryA = linear(weights.queryA);
    own.queryB = linear(weights.queryB);
    own.latentA = linear(weights.latentA);
    own.latentB = linear(weights.latentB);
    at::Tensor leaf = x.clone();
    leaf.requires_grad_(true);
    const at::Tensor out = attention.forward(leaf, own, window);
    out.backward(gradient.to(out.scalar_type()).clone());
    return leaf.grad().to(at::kFloat);
}

at::Tensor headGradient(const at::Tensor& normedRows, const at::Tensor& targets, const GlobalWeights& globals, std::int64_t blockRows)
{
    at::Tensor out = at::empty(normedRows.sizes(), normedRows.options().dtype(at::kFloat));
    const std::int64_t vocabulary = globals.vocabulary;
    const std::int64_t headBlock = headBlockRows(vocabulary, normedRows.size(1));
    for (std::int64_t begin = 0; begin < normedRows.size(0); begin += blockRows) {
        const std::int64_t rows = std::min(blockRows, normedRows.size(0) - begin);
        at::Tensor block = at::softmax(headProduct(normedRows.narrow(0, begin, rows), globals).to(at::kFloat), 1);
        const at::Tensor target = targets.narrow(0, begin, rows).unsqueeze(1);
        block.scatter_add_(1, target, at::full({rows, 1}, -1.0, block.options()));
        at::Tensor sum = out.narrow(0, begin, rows);
        for (std::int64_t first = 0; first < vocabulary; first += headBlock) {
            const at::Tensor head = globals.headRows(first, std::min(headBlock, vocabulary - first));
            const at::Tensor part = at::mm(block.narrow(1, first, head.size(0)).to(head.scalar_type()), head);
            if (first == 0)
                sum.copy_(part);
            else
                sum.add_(part);
        }
    }
    return out;
}

}  // namespace espalier
