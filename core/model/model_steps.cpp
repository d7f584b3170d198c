#include "model/moe_model_impl.h"

#include "base/text.h"
#include "model/kv_cache.h"
#include "model/norm.h"
#include "model/row_operations.h"

#include <fmt/format.h>

#include <algorithm>

namespace espalier
{

namespace
{

std::int64_t bytesOf(const Linear& linear)
{
    return (linear.weight.defined() ? linear.weight.bytes() : 0) + (linear.u.defined() ? linear.u.bytes() + linear.v.bytes() : 0);
}

std::int64_t bytesOf(const GatedMlp& mlp) { return mlp.defined() ? bytesOf(mlp.gate) + bytesOf(mlp.up) + bytesOf(mlp.down) : 0; }

std::int64_t bytesOf(const at::Tensor& tensor) { return tensor.defined() ? static_cast<std::int64_t>(tensor.nbytes()) : 0; }

std::int64_t numbersOf(const LinearView& view)
{
    std::int64_t numbers = 0;
    for (const TensorView* part : {&view.dense, &view.u, &view.v})
        if (!part->shape.empty()) numbers += c10::multiply_integers(part->shape);
    return numbers;
}

std::int64_t attentionBytes(const LayerWeights& weights)
{
    std::int64_t bytes = 0;
    for (const Linear* linear : {&weights.qkv, &weights.query, &weights.key, &weights.value, &weights.output, &weights.queryA,
                                 &weights.queryB, &weights.latentA, &weights.latentB})
        bytes += bytesOf(*linear);
    return bytes;
}

}  // namespace

// Whether a step of so many tokens leaves experts out that reading whole layers would read.
bool MoeModel::Impl::readsChosen(std::int64_t tokens) const
{
    if (!demand) return false;
    std::int64_t experts = 0;
    std::int64_t chosen = 0;
    for (const LayerShape& layer : shape().layers)
        if (layer.moe) {
            experts += layer.experts;
            chosen += std::min<std::int64_t>(layer.experts, tokens * layer.router.topK);
        }
    return chosen < experts;
}

// Forms of the bodies that tokens came to, and of the MLP beside them; by place, empty where there are none.
Result<std::vector<Linear>> MoeModel::Impl::chosenForms(int layer, const PreparedPlan& plan, const RoutedBatch* routed)
{
    const PlannedLayer& planLayer = plan.data().layers[static_cast<std::size_t>(layer)];
    std::vector<FormRequest> requests;
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < planLayer.requests.size(); ++i) {
        const std::size_t body = planLayer.places[i] / 3;
        if (body < planLayer.bodies.size() && (!routed || routed->slotsOf(body) == 0)) continue;
        requests.push_back(planLayer.requests[i]);
        places.push_back(planLayer.places[i]);
    }
    std::vector<Linear> planned;
    if (requests.empty()) return planned;
    const std::int64_t before = forms->builtBytes();
    ESPALIER_TRY(const auto built, forms->linears(layer, plan.data().factors.get(), plan.data().given, requests));
    reads.fileBytes += forms->builtBytes() - before;
    planned.resize(3 * planLayer.bodies.size() + 3);
    for (std::size_t i = 0; i < built.size(); ++i)
        planned[places[i]] = built[i];
    return planned;
}

Result<at::Tensor> MoeModel::Impl::extendMoe(int layer, const at::Tensor& x, const LayerWeights& weights, const PreparedPlan& plan)
{
    const PlannedLayer& planLayer = plan.data().layers[static_cast<std::size_t>(layer)];
    if (!weights.routerNonFinite.empty() && !planLayer.routerRows.defined() &&
        !allFinite(weights.router.index_select(0, planLayer.columnIndex.to(weights.router.device()))))
        return notFiniteWeight(weights.routerNonFinite);
    const RoutedBatch routed = routeBatch(x, weights, planLayer, arithmetic);
    ESPALIER_TRY(const std::vector<Linear> planned, chosenForms(layer, plan, &routed));
    reads.weightBytes += bytesOf(routed.rows) + bytesOf(plannedMlp(weights.shared, planLayer, planned)) + bytesOf(weights.sharedGate);
    for (std::size_t body = 0; body < planLayer.bodies.size(); ++body) {
        if (routed.slotsOf(body) == 0) continue;
        const PlannedBody& runs = planLayer.bodies[body];
        if (runs.constant.defined()) {
            reads.weightBytes += bytesOf(runs.constant);
            continue;
        }
        const std::string& bad = weights.experts[static_cast<std::size_t>(runs.expert)].nonFinite;
        if (!bad.empty() && runs.ownWeights) return notFiniteWeight(bad);
        bool own = false;
        for (int matrix = 0; matrix < 3; ++matrix) {
            const Linear* form = planned.empty() ? nullptr : &planned[3 * body + static_cast<std::size_t>(matrix)];
            const bool formed = form && form->defined();
            own = own || !formed;
            reads.weightBytes +=
                formed ? bytesOf(*form) : numbersOf(checkpoint->expert(layer, runs.expert, static_cast<Matrix>(matrix))) * valueBytes();
        }
        if (own && weights.reader && demand) demand->expect(layer, runs.expert);
    }
    at::Tensor y = moeForward(layer, x, weights, planLayer, planned, routed, nullptr);
    if (weights.reader)
        if (const std::string bad = weights.reader->nonFinite(); !bad.empty()) return notFiniteWeight(bad);
    return y;
}

Result<at::Tensor> MoeModel::Impl::extend(int layer, const at::Tensor& hidden, const PreparedPlan& plan, KvCache& cache)
{
    current.reset();
    const PlannedLayer& planLayer = plan.data().layers[static_cast<std::size_t>(layer)];
    if (!planLayer.runsAttention && !planLayer.runsExperts) return hidden;
    // A layer that is mixed with another is held whole.
    const bool chosen = !plan.data().plan.layer(layer).content().mergedFrom && readsChosen(hidden.size(1));
    const std::int64_t before = chosen ? demand->bytesRead() : 0;
    ESPALIER_TRY(const auto weights, chosen ? onDemand(layer) : weightsUnder(layer, plan));
    if (!weights->nonFinite.empty()) return notFiniteWeight(weights->nonFinite);
    at::Tensor residual = hidden;
    if (planLayer.runsAttention) {
        ESPALIER_TRY(const auto planned, attending(layer, plan, weights));
        residual = hidden + attention->extend(rmsNorm(hidden, weights->inputNorm, eps), *planned, windows[static_cast<std::size_t>(layer)],
                                              cache.layer(layer), cache.keepsExpansions());
        reads.weightBytes += attentionBytes(*planned);
    }
    at::Tensor out = residual;
    if (planLayer.runsExperts) {
        const at::Tensor x = rmsNorm(residual, weights->postNorm, eps).view({residual.size(1), -1});
        at::Tensor y;
        if (shape().layers[static_cast<std::size_t>(layer)].moe) {
            ESPALIER_TRY(y, extendMoe(layer, x, *weights, plan));
        } else {
            ESPALIER_TRY(const std::vector<Linear> planned, chosenForms(layer, plan, nullptr));
            const GatedMlp mlp = plannedMlp(weights->dense, planLayer, planned);
            y = mlp(x);
            reads.weightBytes += bytesOf(mlp);
        }
        out = residual + y.view_as(residual);
    }
    if (chosen) {
        reads.fileBytes += demand->bytesRead() - before;
        reads.experts = demand->expertsRead();
    }
    if (!allFinite(out)) return notFiniteResult(fmt::format("layer {}", layer));
    return out;
}

Result<at::Tensor> MoeModel::extend(int layer, const at::Tensor& hidden, const PreparedPlan& plan, KvCache& cache)
{
    const c10::InferenceMode guard;
    const PortableScope scope(m_impl->placement.portable);
    ESPALIER_TRY(const at::Tensor out, m_impl->extend(layer, m_impl->placed(hidden), plan, cache));
    return out.to(at::kCPU);
}

ExtendReads MoeModel::extendReads() const { return m_impl->reads; }

Result<KvCache> MoeModel::makeCache(std::int64_t tokens) const
{
    const ModelConfig& config = m_impl->checkpoint->config();
    const std::int64_t bytes = kvCacheBytes(config, tokens, m_impl->valueBytes());
    if (bytes > m_impl->spare)
        return resourceError("model.cache_too_large", std::to_string(tokens),
                             {"Keys and values of {tokens} tokens take {bytes}, and the memory budget leaves {spare} beside the weights.",
                              {{"tokens", tokens}, {"bytes", formatBytes(bytes)}, {"spare", formatBytes(m_impl->spare)}}},
                             "Use a shorter prompt or fewer tokens, or raise --memory-budget.");
    return KvCache(layerCount(), bytes + kvExpansionBytes(config, m_impl->valueBytes()) <= m_impl->spare);
}

}  // namespace espalier
