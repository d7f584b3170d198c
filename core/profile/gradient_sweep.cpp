#include "profile/gradient_sweep.h"

#include "base/random.h"

#include <algorithm>
#include <numeric>

namespace espalier
{

namespace
{

constexpr std::size_t kKinds = 2;  // labels of the text, drawn labels

at::Tensor indexTensor(const std::vector<std::int64_t>& values)
{
    return at::from_blob(const_cast<std::int64_t*>(values.data()), {static_cast<std::int64_t>(values.size())}, at::kLong).clone();
}

// One number per window and position, whatever the batches and shards.
at::Tensor uniforms(const SweepBatch& batch)
{
    const std::int64_t scored = std::max<std::int64_t>(batch.ids.size(1) - 1, 0);
    at::Tensor numbers = at::empty({batch.ids.size(0), scored}, at::kDouble);
    double* to = numbers.mutable_data_ptr<double>();
    for (std::int64_t w = 0; w < batch.ids.size(0); ++w) {
        Random random = Random::forPurpose(0, "drawn-labels", static_cast<std::uint64_t>(batch.textWindow + w));
        for (std::int64_t t = 0; t < scored; ++t)
            *to++ = random.uniform();
    }
    return numbers;
}

double squaredNorm(const at::Tensor& x) { return x.to(at::kDouble).square().sum().item<double>(); }

// Products of one batch in one layer, for the lists of its sampled rows.
class Products
{
public:
    Products(MoeModel& model, const LayerProfile& layer, const LayerPlan& plan, const SweepBatch& batch, std::size_t firstToken)
        : m_model(model), m_layer(layer), m_plan(plan), m_rows(batch.sampledRows), m_first(firstToken)
    {
    }

    void observe(const MoeGradient& seen)
    {
        const auto length = static_cast<std::size_t>(m_layer.gram.listLength);
        const std::uint16_t* list = m_layer.gram.list.data() + m_first * length;
        values.assign(m_rows.size() * length, 0.0f);
        const std::int64_t k = seen.selected.size(1);
        const at::Tensor selected = seen.selected.contiguous();
        const auto* choice = selected.const_data_ptr<std::int64_t>();
        const double* product = seen.products.const_data_ptr<double>();
        // What is left for each expert: entries of lists that no token was routed to.
        std::vector<std::vector<std::size_t>> entries(static_cast<std::size_t>(m_layer.experts));
        for (std::size_t s = 0; s < m_rows.size(); ++s)
            for (std::size_t i = 0; i < length; ++i) {
                const std::uint16_t expert = list[s * length + i];
                const std::int64_t* row = choice + m_rows[s] * k;
                const std::int64_t* at = std::find(row, row + k, expert);
                if (at != row + k)
                    values[s * length + i] = static_cast<float>(product[m_rows[s] * k + (at - row)]);
                else
                    entries[expert].push_back(s * length + i);
            }
        for (const int expert : m_plan.kept()) {
            const auto& wanted = entries[static_cast<std::size_t>(expert)];
            if (wanted.empty()) continue;
            std::vector<std::int64_t> rows;
            for (const std::size_t entry : wanted)
                rows.push_back(m_rows[entry / length]);
            const at::Tensor index = indexTensor(rows);
            const auto y = m_model.expertOutput(m_layer.layer, expert, seen.input.index_select(0, index));
            if (!y.ok()) {
                status = y.error();
                return;
            }
            const at::Tensor dots =
                (y->to(at::kDouble) * seen.gradient.index_select(0, index).to(at::kDouble)).sum({1}).to(at::kFloat).contiguous();
            for (std::size_t i = 0; i < wanted.size(); ++i)
                values[wanted[i]] = dots.const_data_ptr<float>()[i];
        }
    }

    std::vector<float> values;
    Status status;

private:
    MoeModel& m_model;
    const LayerProfile& m_layer;
    const LayerPlan& m_plan;
    const std::vector<std::int64_t>& m_rows;
    const std::size_t m_first;
};

}  // namespace

std::int64_t boundaryBytes(const ModelShape& shape, std::int64_t tokens, std::int64_t bytesPerValue)
{
    const auto boundaries = static_cast<std::int64_t>(shape.layers.size()) + 1;
    return tokens * shape.hiddenSize * (boundaries * bytesPerValue + static_cast<std::int64_t>(kKinds * sizeof(float)));
}

std::int64_t sweepWork(std::int64_t tokens, int layers, bool drawn, bool boundariesKnown)
{
    return tokens * layers * ((drawn ? 4 : 2) + (boundariesKnown ? 0 : 1));
}

Status runGradientSweep(MoeModel& model, const PreparedPlan& plan, const std::vector<SweepBatch>& batches,
                        std::vector<std::vector<at::Tensor>> boundaries, const SweepSettings& settings, std::vector<LayerProfile>& layers,
                        const std::function<bool()>& stopRequested, const std::function<void(std::int64_t)>& step)
{
    const c10::InferenceMode guard;
    const int count = model.layerCount();
    const bool known = !boundaries.empty();
    const std::size_t kinds = settings.drawn ? kKinds : 1;
    const std::int64_t width = model.numericMode() == "bf16" ? 2 : 4;

    std::vector<std::size_t> firstToken{0};  // of each batch in the Gram stores
    for (const SweepBatch& batch : batches)
        firstToken.push_back(firstToken.back() + batch.sampledRows.size());
    for (LayerProfile& layer : layers) {
        if (layer.gram.listLength == 0) continue;
        if (layer.gram.tokenCount() != firstToken.back()) return internalError("the reverse sweep and the Gram store sample other tokens");
        layer.gradients = {};
        const auto length = static_cast<std::size_t>(layer.gram.listLength);
        layer.gradients.products.assign(firstToken.back() * length, 0.0f);
        if (settings.drawn) layer.gradients.drawnProducts.assign(firstToken.back() * length, 0.0f);
        for (const SweepBatch& batch : batches)
            for (const std::int64_t row : batch.sampledRows)
                layer.gradients.window.push_back(batch.firstWindow + static_cast<std::int32_t>(row / batch.ids.size(1)));
    }

    for (std::size_t begin = 0; begin < batches.size();) {
        std::size_t end = begin;
        std::int64_t tokens = 0;
        while (end < batches.size() &&
               (known || end == begin || boundaryBytes(model.shape(), tokens + batches[end].ids.numel(), width) <= settings.boundaryBudget))
            tokens += batches[end++].ids.numel();

        std::vector<std::vector<at::Tensor>> states(end - begin);
        if (known) {
            states.swap(boundaries);  // all batches go in one round then
        } else {
            for (std::size_t b = begin; b < end; ++b) {
                ESPALIER_TRY(at::Tensor embedded, model.embed(batches[b].ids));
                states[b - begin].push_back(std::move(embedded));
            }
            for (int l = 0; l < count; ++l)
                for (std::size_t b = begin; b < end; ++b) {
                    if (stopRequested()) return cancelledError();
                    ESPALIER_TRY(at::Tensor next, model.layer(l, states[b - begin].back(), plan));
                    states[b - begin].push_back(std::move(next));
                    step(batches[b].ids.numel());
                }
        }

        std::vector<std::array<at::Tensor, kKinds>> gradients(end - begin);
        for (std::size_t b = begin; b < end; ++b) {
            if (stopRequested()) return cancelledError();
            const SweepBatch& batch = batches[b];
            const at::Tensor top = std::move(states[b - begin].back());
            states[b - begin].pop_back();
            const at::Tensor labels = batch.ids.narrow(1, 1, batch.ids.size(1) - 1);
            ESPALIER_TRY(gradients[b - begin][0], model.headGradient(top, labels));
            if (!settings.drawn) continue;
            ESPALIER_TRY(const at::Tensor drawn, model.drawTokens(top, uniforms(batch)));
            ESPALIER_TRY(gradients[b - begin][1], model.headGradient(top, drawn));
        }
        for (int l = count - 1; l >= 0; --l) {
            LayerProfile& layer = layers[static_cast<std::size_t>(l)];
            const bool wanted = layer.gram.listLength > 0;
            for (std::size_t b = begin; b < end; ++b) {
                const SweepBatch& batch = batches[b];
                for (std::size_t kind = 0; kind < kinds; ++kind) {
                    if (stopRequested()) return cancelledError();
                    at::Tensor& gradient = gradients[b - begin][kind];
                    const at::Tensor& state = states[b - begin].back();
                    Products products(model, layer, plan.plan().layer(l), batch, firstToken[b]);
                    GradientObserver observer;
                    if (wanted) observer = [&](const MoeGradient& seen) { products.observe(seen); };
                    const double squared = wanted ? squaredNorm(gradient) : 0;
                    ESPALIER_TRY(gradient, model.layerGradient(l, state, gradient, plan, observer));
                    ESPALIER_CHECK_OK(products.status);
                    if (wanted) {
                        GradientStore& store = layer.gradients;
                        (kind == 0 ? store.squared : store.drawnSquared) += squared;
                        std::copy(products.values.begin(), products.values.end(),
                                  (kind == 0 ? store.products : store.drawnProducts).begin() +
                                      static_cast<std::ptrdiff_t>(firstToken[b] * static_cast<std::size_t>(layer.gram.listLength)));
                    }
                    step(2 * batch.ids.numel());
                }
                if (wanted) layer.gradients.tokens += batch.ids.numel();
                states[b - begin].pop_back();
            }
        }
        begin = end;
    }
    return {};
}

}  // namespace espalier
