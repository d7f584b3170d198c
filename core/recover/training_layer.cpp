#include "recover/training_layer.h"

#include "base/random.h"
#include "checkpoint/checkpoint.h"
#include "model/layer_gradient.h"
#include "model/norm.h"
#include "model/row_operations.h"
#include "recover/router_entropy.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <functional>

namespace espalier
{

namespace
{

// Places in the dropout that belong to no adapter of a matrix: they follow those of all adapters.
constexpr std::uint64_t kLayerInput = std::uint64_t{1} << 40;
constexpr std::uint64_t kAttention = std::uint64_t{1} << 41;

// to[tokens[i]] += weight * from[i], weight 1 where there are none.
void addRows(at::Tensor& to, const at::Tensor& tokens, const at::Tensor& weights, const at::Tensor& from)
{
    if (!to.device().is_cpu()) {
        const at::Tensor rows = from.narrow(0, 0, tokens.numel());
        to.index_add_(0, tokens.to(to.device()), weights.defined() ? rows * weights.to(to.device()).unsqueeze(1) : rows);
        return;
    }
    const std::int64_t width = to.size(1);
    const auto* token = tokens.const_data_ptr<std::int64_t>();
    const float* weight = weights.defined() ? weights.const_data_ptr<float>() : nullptr;
    const float* source = from.const_data_ptr<float>();
    float* target = to.mutable_data_ptr<float>();
    for (std::int64_t i = 0; i < tokens.numel(); ++i) {
        const float w = weight ? weight[i] : 1.0f;
        const float* in = source + i * width;
        float* out = target + token[i] * width;
        for (std::int64_t j = 0; j < width; ++j)
            out[j] += w * in[j];
    }
}

at::Tensor rowsOf(const at::Tensor& x, const at::Tensor& tokens)
{
    return x.device().is_cpu() ? gatherPadded(x, tokens) : x.index_select(0, tokens.to(x.device()));
}

// As many rows as `rows`, zeros behind those that are there.
at::Tensor columnOf(const at::Tensor& weights, const at::Tensor& rows)
{
    const std::int64_t missing = rows.size(0) - weights.numel();
    const at::Tensor column = missing > 0 ? at::constant_pad_nd(weights, {0, missing}) : weights;
    return column.to(rows.device()).unsqueeze(1);
}

// Runs `one` for the bodies that have tokens: whole experts side by side, one thread each, the longest first; on a device, or where there
// are too few of them, one after the other.
void eachBody(const std::vector<LayerTape::Body>& bodies, bool host, const std::function<void(std::size_t)>& one)
{
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i < bodies.size(); ++i)
        if (bodies[i].tokens.tokens.defined()) order.push_back(i);
    const auto threads = static_cast<std::size_t>(at::get_num_threads());
    if (!host || threads < 2 || order.size() < 2 * threads) {
        for (const std::size_t i : order)
            one(i);
        return;
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return bodies[a].tokens.tokens.numel() > bodies[b].tokens.tokens.numel(); });
    std::atomic<std::size_t> next = 0;
    at::parallel_for(0, static_cast<std::int64_t>(threads), 1, [&](std::int64_t, std::int64_t) {
        const at::AutoGradMode off(false);
        for (std::size_t i = next++; i < order.size(); i = next++)
            one(order[i]);
    });
}

const MlpAdapters* bodyAdapters(const LayerPass& pass, std::size_t body)
{
    return pass.trained && !pass.trained->bodies.empty() ? &pass.trained->bodies[body] : nullptr;
}

// --- Attention, recorded.

class AttentionWeights
{
public:
    AttentionWeights(const LayerPass& pass, const at::Tensor& x, LayerTape& tape) : m_pass(pass), m_tape(tape)
    {
        const LayerWeights& from = pass.parts.attentionWeights();
        m_own.queryNorm = recordable(from.queryNorm);
        m_own.keyNorm = recordable(from.keyNorm);
        const at::Tensor mask = trains()
                                    ? pass.adapters.dropout.mask(kAttention + static_cast<std::uint64_t>(pass.layer), x.sizes(), x.device())
                                    : at::Tensor();
        m_inputMask = mask;
        if (from.qkv.defined() && (adapters("q_proj") || adapters("k_proj") || adapters("v_proj"))) {
            splitProjections(from);
        } else {
            m_own.qkv = linear(from.qkv, nullptr);
            m_own.query = linear(from.query, adapters("q_proj"), m_inputMask);
            m_own.key = linear(from.key, adapters("k_proj"), m_inputMask);
            m_own.value = linear(from.value, adapters("v_proj"), m_inputMask);
        }
        const bool compressed = from.queryA.defined();
        m_own.queryA = linear(from.queryA, adapters("q_a_proj"), m_inputMask);
        m_own.queryB = linear(from.queryB, adapters(compressed ? "q_b_proj" : "q_proj"), compressed ? at::Tensor() : m_inputMask);
        m_own.latentA = linear(from.latentA, adapters("kv_a_proj_with_mqa"), m_inputMask);
        m_own.latentB = linear(from.latentB, adapters("kv_b_proj"));
        m_own.output = linear(from.output, adapters("o_proj"));
    }
    const LayerWeights& weights() const { return m_own; }

private:
    bool trains() const { return m_pass.trained && !m_pass.trained->attention.empty(); }
    const MatrixAdapters* adapters(const char* name) const
    {
        if (!trains()) return nullptr;
        const auto found = m_pass.trained->attention.find(name);
        return found == m_pass.trained->attention.end() || !found->second.any() ? nullptr : &found->second;
    }
    at::Tensor leaf(const at::Tensor& values, const at::Tensor& gradient)
    {
        at::Tensor leaf = values.detach();
        leaf.requires_grad_(true);
        m_tape.leaves.emplace_back(leaf, gradient);
        return leaf;
    }
    at::Tensor sum(const WeightMatrix& matrix, const Adapter& adapter)
    {
        at::Tensor whole = recordable(matrix.rowMajor());
        if (!adapter.defined()) return whole;
        return at::addmm(whole, leaf(adapter.b, adapter.gradientB), leaf(adapter.a, adapter.gradientA), 1, m_pass.adapters.scale);
    }
    Linear linear(const Linear& from, const MatrixAdapters* adapters, const at::Tensor& mask = {})
    {
        Linear to;
        if (!from.defined()) return to;
        static const MatrixAdapters none;
        const MatrixAdapters& own = adapters ? *adapters : none;
        to.bias = recordable(from.bias);
        if (from.u.defined()) {
            to.u = WeightMatrix::plain(sum(from.u, own.u));
            to.v = WeightMatrix::plain(sum(from.v, own.v));
        }
        if (from.weight.defined()) to.weight = WeightMatrix::plain(recordable(from.weight.rowMajor()));
        if (own.weight.defined()) {
            to.u = WeightMatrix::plain(leaf(own.weight.b, own.weight.gradientB) * m_pass.adapters.scale);
            to.v = WeightMatrix::plain(leaf(own.weight.a, own.weight.gradientA));
            to.keep = mask;
        }
        return to;
    }
    void splitProjections(const LayerWeights& from)
    {
        const std::array<std::pair<const char*, Linear*>, 3> parts = {std::pair{"q_proj", &m_own.query}, std::pair{"k_proj", &m_own.key},
                                                                      std::pair{"v_proj", &m_own.value}};
        for (const auto& [name, to] : parts)
            *to = linear(attentionLinear(m_pass.model.checkpoint(), m_pass.layer, from, name), adapters(name), m_inputMask);
    }

    const LayerPass& m_pass;
    LayerTape& m_tape;
    at::Tensor m_inputMask;
    LayerWeights m_own;
};

at::Tensor attended(const LayerPass& pass, const at::Tensor& hidden, LayerTape* tape)
{
    const PortableScope portable(true);
    const at::Tensor inputNorm = recordable(pass.parts.weights->inputNorm);
    const at::Tensor normed = rmsNorm(hidden, inputNorm, pass.model.eps());
    // Recorded even where nobody wants it: products that record take another way and round otherwise, and what is computed again is to be
    // the same.
    LayerTape unused;
    if (!tape) tape = &unused;
    const at::AutoGradMode recording(true);
    tape->normed = normed.detach();
    tape->normed.requires_grad_(true);
    const AttentionWeights own(pass, tape->normed, *tape);
    tape->attended = pass.model.attention().forward(tape->normed, own.weights(), pass.model.window(pass.layer));
    return tape->attended.detach();
}

at::Tensor attendedGradient(LayerTape& tape, const at::Tensor& gradient)
{
    const at::AutoGradMode recording(true);
    tape.attended.backward(gradient);
    const at::AutoGradMode off(false);
    for (auto& [leaf, target] : tape.leaves)
        if (leaf.grad().defined()) target.add_(leaf.grad());
    at::Tensor result = tape.normed.grad();
    tape.attended.reset();
    tape.leaves.clear();
    return result;
}

// --- The MoE module, written out.

GatedMlp beside(const LayerPass& pass)
{
    return plannedMlp(pass.moe ? pass.parts.weights->shared : pass.parts.weights->dense, pass.plan, pass.parts.forms);
}

const MlpAdapters* besideAdapters(const LayerPass& pass)
{
    if (!pass.trained) return nullptr;
    return pass.moe ? &pass.trained->shared : &pass.trained->dense;
}

void forwardWhole(const LayerPass& pass, const LayerTape& at, at::Tensor& out, LayerTape* tape)
{
    const GatedMlp mlp = beside(pass);
    if (!mlp.defined()) return;
    const at::Tensor result = forwardMlp(mlp, besideAdapters(pass), at.x, at.seen, pass.adapters, tape ? &tape->whole : nullptr);
    const at::Tensor& gate = pass.parts.weights->sharedGate;
    at::Tensor open;
    if (pass.moe && gate.defined()) {
        open = at::sigmoid(at::linear(at.x, gate));
        out.addcmul_(open, result);
    } else {
        out.add_(result);
    }
    if (!tape) return;
    tape->wholeOut = result;
    tape->open = open;
}

void backwardWhole(const LayerPass& pass, const LayerTape& tape, const at::Tensor& gradient, at::Tensor& dx, at::Tensor& dseen)
{
    const GatedMlp mlp = beside(pass);
    if (!mlp.defined()) return;
    at::Tensor dy = gradient;
    if (tape.open.defined()) {
        dy = gradient * tape.open;
        const at::Tensor dopen = (gradient * tape.wholeOut).sum({1}, true).mul_(tape.open).mul_(1 - tape.open);
        dx.addmm_(dopen, pass.parts.weights->sharedGate);
    }
    backwardMlp(mlp, besideAdapters(pass), tape.whole, dy, pass.adapters, dx, dseen);
}

double forwardExperts(const LayerPass& pass, LayerTape& at, at::Tensor& out, bool keep)
{
    at.routed = routeBatch(at.x, *pass.parts.weights, pass.plan, pass.model.arithmetic());
    const RoutedBatch& routed = *at.routed;
    at.bodies.assign(pass.plan.bodies.size(), {});
    for (std::size_t i = 0; i < at.bodies.size(); ++i)
        if (routed.slotsOf(i) > 0) at.bodies[i].tokens = routed.tokensOf(i);
    eachBody(at.bodies, at.x.device().is_cpu(), [&](std::size_t i) {
        LayerTape::Body& body = at.bodies[i];
        const PlannedBody& planned = pass.plan.bodies[i];
        if (planned.constant.defined()) return;
        const at::Tensor in = rowsOf(at.x, body.tokens.tokens);
        const at::Tensor seen = at.seenMask.defined() ? rowsOf(at.seen, body.tokens.tokens) : in;
        const PlannedExpert expert =
            plannedExpert(*pass.parts.weights, planned.expert, pass.parts.forms.empty() ? nullptr : &pass.parts.forms[3 * i]);
        body.out = forwardMlp(expert.mlp, bodyAdapters(pass, i), in, seen, pass.adapters, keep ? &body.mlp : nullptr);
    });
    for (std::size_t i = 0; i < at.bodies.size(); ++i) {
        LayerTape::Body& body = at.bodies[i];
        if (!body.tokens.tokens.defined()) continue;
        if (pass.plan.bodies[i].constant.defined())
            addRows(out, body.tokens.tokens, body.tokens.weights,
                    pass.plan.bodies[i].constant.expand({body.tokens.tokens.numel(), out.size(1)}).contiguous());
        else
            addRows(out, body.tokens.tokens, body.tokens.weights, body.out);
        if (!keep) body = {};
    }
    if (pass.entropyWeight == 0) return 0;
    const at::Tensor entropy = routerEntropy(pass.plan.router, routed.logits).entropy;
    return (pass.own.defined() ? entropy * pass.own : entropy).sum().item<double>();
}

// FNV-1a of who was chosen, and who of them was skipped.
std::uint64_t fingerprint(const RoutedTokens& tokens)
{
    std::uint64_t hash = 0xcbf29ce484222325u;
    const auto add = [&](std::uint64_t value) { hash = (hash ^ value) * 0x100000001b3u; };
    const auto* selected = tokens.selected.const_data_ptr<std::int64_t>();
    const bool* skipped = tokens.skipped.defined() ? tokens.skipped.const_data_ptr<bool>() : nullptr;
    for (std::int64_t i = 0; i < tokens.selected.numel(); ++i)
        add(static_cast<std::uint64_t>(selected[i]) * 2 + (skipped != nullptr && skipped[i]));
    return hash;
}

// What a body adds to the gradient of its input, and the products of its outputs with the gradient above: [M] fp64.
struct BodyGradient {
    at::Tensor dx, dseen;
    std::vector<double> products;
};

BodyGradient backwardBody(const LayerPass& pass, LayerTape& tape, std::size_t i, const at::Tensor& gradient)
{
    LayerTape::Body& body = tape.bodies[i];
    const std::int64_t count = body.tokens.tokens.numel();
    BodyGradient result;
    at::Tensor above = rowsOf(gradient, body.tokens.tokens);
    const PlannedBody& planned = pass.plan.bodies[i];
    const at::Tensor out = planned.constant.defined() ? planned.constant : body.out.narrow(0, 0, count);
    const at::Tensor dots = (out.to(at::kDouble) * above.narrow(0, 0, count)).sum({1}).to(at::kCPU).contiguous();
    result.products.assign(dots.const_data_ptr<double>(), dots.const_data_ptr<double>() + count);
    if (planned.constant.defined()) return result;
    above.mul_(columnOf(body.tokens.weights, above));
    const PlannedExpert expert =
        plannedExpert(*pass.parts.weights, planned.expert, pass.parts.forms.empty() ? nullptr : &pass.parts.forms[3 * i]);
    result.dx = at::zeros_like(above);
    result.dseen = tape.seenMask.defined() ? at::zeros_like(above) : result.dx;
    backwardMlp(expert.mlp, bodyAdapters(pass, i), body.mlp, above, pass.adapters, result.dx, result.dseen);
    body.mlp = {};
    body.out.reset();
    return result;
}

void backwardExperts(const LayerPass& pass, LayerTape& tape, const at::Tensor& gradient, at::Tensor& dx, at::Tensor& dseen)
{
    const RoutedBatch& routed = *tape.routed;
    std::vector<BodyGradient> gradients(tape.bodies.size());
    eachBody(tape.bodies, tape.x.device().is_cpu(), [&](std::size_t i) { gradients[i] = backwardBody(pass, tape, i, gradient); });
    at::Tensor products = at::zeros(routed.tokens.selected.sizes(), at::kDouble);
    auto* product = products.mutable_data_ptr<double>();
    for (std::size_t i = 0; i < gradients.size(); ++i) {
        const BodyTokens& own = tape.bodies[i].tokens;
        if (!own.tokens.defined()) continue;
        const std::int64_t begin = routed.groups.offsets[i];
        for (std::int64_t slot = 0; slot < routed.slotsOf(i); ++slot)
            product[routed.groups.slots[static_cast<std::size_t>(begin + slot)]] =
                gradients[i].products[static_cast<std::size_t>(own.rowOf.empty() ? slot : own.rowOf[static_cast<std::size_t>(slot)])];
        if (!gradients[i].dx.defined()) continue;
        addRows(dx, own.tokens, {}, gradients[i].dx);
        if (tape.seenMask.defined()) addRows(dseen, own.tokens, {}, gradients[i].dseen);
        gradients[i] = {};
    }
    at::Tensor dlogits = routerGradient(pass.plan.router, routed.logits, routed.tokens, products);
    if (pass.entropyWeight != 0) {
        const at::Tensor entropy = routerEntropy(pass.plan.router, routed.logits).gradient * pass.entropyWeight;
        dlogits = dlogits + (pass.own.defined() ? entropy * pass.own.unsqueeze(1) : entropy);
    }
    const at::Tensor placed = dlogits.to(at::kFloat).to(dx.device());
    dx.addmm_(placed, routed.rows);
    if (pass.trained && pass.trained->router.defined()) {
        at::Tensor rows = pass.trained->routerGradient;
        rows.addmm_(placed.t(), tape.x);
    }
}

}  // namespace

LayerOutput forwardLayer(const LayerPass& pass, const at::Tensor& hidden, LayerTape* tape)
{
    const at::AutoGradMode off(false);
    LayerOutput result;
    LayerTape own;
    LayerTape& at = tape ? *tape : own;
    at.hidden = hidden;
    at::Tensor residual = pass.plan.runsAttention ? hidden + attended(pass, hidden, tape) : hidden;
    if (!pass.plan.runsExperts) {
        result.hidden = residual;
        return result;
    }
    at.residual = residual.view({-1, hidden.size(2)});
    at.x = rmsNorm(at.residual, pass.parts.weights->postNorm, pass.model.eps());
    if (pass.trained && pass.trained->any())
        at.seenMask = pass.adapters.dropout.mask(kLayerInput + static_cast<std::uint64_t>(pass.layer), at.x.sizes(), at.x.device());
    at.seen = at.seenMask.defined() ? at.x * at.seenMask : at.x;
    at::Tensor out = at::zeros_like(at.x);
    if (pass.moe) {
        result.entropy = forwardExperts(pass, at, out, tape != nullptr);
        result.selection = fingerprint(at.routed->tokens);
    }
    forwardWhole(pass, at, out, tape);
    result.hidden = residual + out.view_as(residual);
    return result;
}

at::Tensor backwardLayer(const LayerPass& pass, LayerTape& tape, const at::Tensor& gradient)
{
    const at::AutoGradMode off(false);
    at::Tensor middle = gradient;
    if (pass.plan.runsExperts) {
        const at::Tensor above = gradient.reshape({-1, gradient.size(2)}).contiguous();
        at::Tensor dx = at::zeros_like(above);
        at::Tensor dseen = tape.seenMask.defined() ? at::zeros_like(above) : dx;
        if (pass.moe) backwardExperts(pass, tape, above, dx, dseen);
        backwardWhole(pass, tape, above, dx, dseen);
        if (tape.seenMask.defined()) dx.addcmul_(dseen, tape.seenMask);
        middle = (above + rmsNormGradient(tape.residual, pass.parts.weights->postNorm, dx, pass.model.eps())).view(gradient.sizes());
    }
    if (!pass.plan.runsAttention) return middle;
    const at::Tensor normed = attendedGradient(tape, middle);
    return middle + rmsNormGradient(tape.hidden, pass.parts.weights->inputNorm, normed, pass.model.eps());
}

Linear attentionLinear(const Checkpoint& checkpoint, int layer, const LayerWeights& weights, std::string_view name)
{
    const bool grouped = name == "q_proj" || name == "k_proj" || name == "v_proj";
    if (grouped && weights.qkv.defined()) {
        const at::Tensor rows = weights.qkv.weight.rowMajor();
        std::int64_t row = 0;
        for (const std::string_view part : {"q_proj", "k_proj", "v_proj"}) {
            const std::int64_t count =
                checkpoint.shape().layers[static_cast<std::size_t>(layer)].linear(fmt::format("self_attn.{}", part))->out;
            if (part == name) {
                Linear linear;
                linear.weight = WeightMatrix::plain(rows.narrow(0, row, count));
                if (weights.qkv.bias.defined()) linear.bias = weights.qkv.bias.narrow(0, row, count);
                return linear;
            }
            row += count;
        }
    }
    if (name == "k_proj") return weights.key;
    if (name == "v_proj") return weights.value;
    if (name == "q_proj") return weights.query.defined() ? weights.query : weights.queryB;
    if (name == "q_a_proj") return weights.queryA;
    if (name == "q_b_proj") return weights.queryB;
    if (name == "kv_a_proj_with_mqa") return weights.latentA;
    if (name == "kv_b_proj") return weights.latentB;
    return weights.output;
}

std::int64_t tapeBytesPerToken(const Checkpoint& checkpoint, const PreparedPlan& plan, int layer, const LayerTrainables& trained,
                               bool dropout)
{
    const LayerShape& shape = checkpoint.shape().layers[static_cast<std::size_t>(layer)];
    const PlannedLayer& planned = plan.data().layers[static_cast<std::size_t>(layer)];
    const ModelConfig& config = checkpoint.config();
    const std::int64_t hidden = checkpoint.shape().hiddenSize;
    const std::int64_t heads = std::int64_t{config.heads} * config.headDim;
    const std::int64_t twice = dropout ? 2 : 1;
    // Residual stream, norms and what follows from them; q, k and v before and after what is done to them, the sum and its product.
    std::int64_t numbers = 6 * hidden + twice * hidden;
    if (planned.runsAttention) numbers += 3 * hidden + 14 * heads;
    const auto ranks = [](const MlpAdapters& adapters) {
        std::int64_t sum = 0;
        for (const MatrixAdapters& matrix : adapters) {
            for (const Adapter* adapter : {&matrix.weight, &matrix.u, &matrix.v})
                if (adapter->defined()) sum += adapter->a.size(0);
            if (matrix.u.defined()) sum += matrix.u.a.size(1);
        }
        return sum;
    };
    const auto mlp = [&](std::int64_t width, std::int64_t adapters) { return 2 * hidden + (2 + twice) * width + twice * adapters; };
    if (planned.runsExperts && shape.moe) {
        const std::int64_t own = trained.bodies.empty() ? 0 : ranks(trained.bodies.front());
        numbers += planned.router.topK * mlp(shape.expertWidth, own);
        if (shape.sharedWidth > 0) numbers += mlp(shape.sharedWidth, ranks(trained.shared));
    } else if (planned.runsExperts) {
        numbers += mlp(shape.denseWidth, ranks(trained.dense));
    }
    return numbers * 4;
}

}  // namespace espalier
