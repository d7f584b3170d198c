// "gram": products of the experts' outputs for the sampled tokens, in the order in which the router prefers the experts (GramStore).
// Outputs that the layer computed anyway are kept as they come; those of listed experts that a token was not routed to are computed on the
// sample.
#include "model/row_operations.h"
#include "profile/statistics/statistic_collector.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <optional>
#include <tuple>

namespace espalier
{

namespace
{

class GramCollector final : public StatisticCollector
{
public:
    explicit GramCollector(const CollectorContext& context) : m_model(context.model), m_shape(context.shape)
    {
        m_gram.listLength = context.listLength;
    }

    void beginBatch(const WindowBatch& batch) override
    {
        m_positions = batch.positions;
        m_sampledRows = batch.sampledRows;
        m_sampleOfRow.assign(m_positions.size(), -1);
        for (std::size_t i = 0; i < m_sampledRows.size(); ++i)
            m_sampleOfRow[static_cast<std::size_t>(m_sampledRows[i])] = static_cast<std::int64_t>(i);
        m_outputs.clear();
    }

    void expert(int layer, int expert, const at::Tensor& tokens, const at::Tensor& x, const at::Tensor& h, const at::Tensor& y,
                const at::Tensor& w) override;
    void moe(const MoeBatch& batch) override;
    Status status() const override { return m_status; }
    void finish(LayerProfile& profile) override { profile.gram = std::move(m_gram); }

private:
    struct ExpertRows {  // of one batch
        int expert = 0;
        at::Tensor samples;  // [S] int64, index into the sampled rows
        at::Tensor output;   // [S,H]
    };
    // Where each output goes. Row s of the sample has `length` places.
    struct Places {
        std::int64_t samples = 0;
        std::int64_t length = 0;
        std::vector<std::int64_t> slot;  // [samples][n] place of an expert in the list, or -1
        std::vector<bool> filled;        // [samples][length]
        at::Tensor outputs;              // [samples * length, H]
    };

    void addSelectionBias(const MoeBatch& batch);
    at::Tensor preferences(const at::Tensor& logits) const;
    void addLists(const at::Tensor& logits, const at::Tensor& selected, Places& places);
    void place(const ExpertRows& rows, Places& places) const;
    Status placeMissing(const MoeBatch& batch, Places& places) const;

    MoeModel& m_model;
    const LayerShape& m_shape;
    GramStore m_gram;
    Status m_status;
    std::vector<std::int64_t> m_positions;
    std::vector<std::int64_t> m_sampledRows;
    std::vector<std::int64_t> m_sampleOfRow;  // [N], -1 = not sampled
    std::vector<ExpertRows> m_outputs;
};

void GramCollector::expert(int, int expert, const at::Tensor& tokens, const at::Tensor&, const at::Tensor&, const at::Tensor& y,
                           const at::Tensor&)
{
    if (tokens.numel() == 0 || m_sampledRows.empty()) return;
    const at::Tensor places = tokens.contiguous();
    const std::int64_t* row = places.const_data_ptr<std::int64_t>();
    std::vector<std::int64_t> samples;
    std::vector<std::int64_t> picked;
    for (std::int64_t i = 0; i < places.numel(); ++i)
        if (const std::int64_t sample = m_sampleOfRow[static_cast<std::size_t>(row[i])]; sample >= 0) {
            samples.push_back(sample);
            picked.push_back(i);
        }
    if (samples.empty()) return;
    // A copy in either case: the model may use the memory of y again.
    const at::Tensor output = static_cast<std::int64_t>(picked.size()) == y.size(0) ? y.clone() : y.index_select(0, indexTensor(picked));
    m_outputs.push_back({expert, indexTensor(samples), output});
}

void GramCollector::moe(const MoeBatch& batch)
{
    if (m_sampledRows.empty() || !m_status.ok()) {
        m_outputs.clear();
        return;
    }
    const at::Tensor rows = indexTensor(m_sampledRows);
    for (const double energy : rowEnergy(batch.output.index_select(0, rows)).energy)
        m_gram.outputEnergy += energy;
    addSelectionBias(batch);
    const at::Tensor logits = allLogits(batch, m_shape.experts).index_select(0, rows);
    Places places;
    places.samples = std::ssize(m_sampledRows);
    places.length = m_gram.listLength;
    addLists(logits, batch.selected.index_select(0, rows).contiguous(), places);
    m_gram.logits.insert(m_gram.logits.end(), logits.const_data_ptr<float>(), logits.const_data_ptr<float>() + logits.numel());

    places.outputs = at::zeros({places.samples * places.length, batch.output.size(1)}, batch.output.options());
    places.filled.assign(static_cast<std::size_t>(places.samples * places.length), false);
    for (const ExpertRows& done : m_outputs)
        place(done, places);
    m_outputs.clear();
    m_status = placeMissing(batch, places);
    if (!m_status.ok()) return;

    // fp64 products of the stored outputs: fp32 products lose the difference of near-duplicate experts.
    const std::size_t begin = m_gram.products.size();
    m_gram.products.resize(begin + static_cast<std::size_t>(places.samples) * m_gram.triangle());
    pairProducts(places.outputs, places.length, m_gram.products.data() + begin);
}

void GramCollector::addSelectionBias(const MoeBatch& batch)
{
    if (!batch.selectionBias.defined() || !m_gram.selectionBias.empty()) return;
    m_gram.selectionBias.assign(static_cast<std::size_t>(m_shape.experts), 0.0f);
    for (std::int64_t i = 0; i < batch.kept.numel(); ++i)
        m_gram.selectionBias[static_cast<std::size_t>(batch.kept.const_data_ptr<std::int64_t>()[i])] =
            batch.selectionBias.const_data_ptr<float>()[i];
}

// What the router selects by.
at::Tensor GramCollector::preferences(const at::Tensor& logits) const
{
    if (m_gram.selectionBias.empty()) return logits;
    at::Tensor preference = at::sigmoid(logits.to(at::kDouble)).to(at::kFloat);
    for (std::int64_t e = 0; e < m_shape.experts; ++e)
        preference.select(1, e).add_(m_gram.selectionBias[static_cast<std::size_t>(e)]);
    return preference;
}

// Lists: the experts the model chose, in its order, then the rest as the router would prefer them.
void GramCollector::addLists(const at::Tensor& logits, const at::Tensor& selected, Places& places)
{
    const std::int64_t n = m_shape.experts;
    const std::int64_t k = selected.size(1);
    const at::Tensor preference = preferences(logits);
    places.slot.assign(static_cast<std::size_t>(places.samples * n), -1);
    std::vector<int> order(static_cast<std::size_t>(n));
    for (std::int64_t s = 0; s < places.samples; ++s) {
        const float* z = preference.const_data_ptr<float>() + s * n;
        std::int64_t* slot = places.slot.data() + s * n;
        const std::int64_t* choice = selected.const_data_ptr<std::int64_t>() + s * k;
        for (std::int64_t i = 0; i < k; ++i)
            slot[choice[i]] = i;
        std::iota(order.begin(), order.end(), 0);
        std::partial_sort(order.begin(), order.begin() + places.length, order.end(),
                          [&](int a, int b) { return std::tuple(slot[a] < 0, -z[a], a) < std::tuple(slot[b] < 0, -z[b], b); });
        for (std::int64_t i = 0; i < places.length; ++i) {
            slot[order[static_cast<std::size_t>(i)]] = i;
            m_gram.list.push_back(static_cast<std::uint16_t>(order[static_cast<std::size_t>(i)]));
        }
        m_gram.tokens.push_back(m_positions[static_cast<std::size_t>(m_sampledRows[static_cast<std::size_t>(s)])]);
    }
}

void GramCollector::place(const ExpertRows& rows, Places& places) const
{
    std::vector<std::int64_t> targets;
    const std::int64_t* sample = rows.samples.const_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < rows.samples.numel(); ++i) {
        const std::int64_t target =
            sample[i] * places.length + places.slot[static_cast<std::size_t>(sample[i] * m_shape.experts + rows.expert)];
        targets.push_back(target);
        places.filled[static_cast<std::size_t>(target)] = true;
    }
    places.outputs.index_copy_(0, indexTensor(targets), rows.output.to(places.outputs.scalar_type()));
}

Status GramCollector::placeMissing(const MoeBatch& batch, Places& places) const
{
    struct Missing {
        ExpertRows rows;
        at::Tensor inputRows;  // of the batch
        std::optional<Error> error;
    };
    const std::int64_t n = m_shape.experts;
    std::vector<Missing> missing;
    for (std::int64_t i = 0; i < batch.kept.numel(); ++i) {
        const std::int64_t expert = batch.kept.const_data_ptr<std::int64_t>()[i];
        std::vector<std::int64_t> samples;
        std::vector<std::int64_t> rows;
        for (std::int64_t s = 0; s < places.samples; ++s)
            if (const std::int64_t at = places.slot[static_cast<std::size_t>(s * n + expert)];
                at >= 0 && !places.filled[static_cast<std::size_t>(s * places.length + at)]) {
                samples.push_back(s);
                rows.push_back(m_sampledRows[static_cast<std::size_t>(s)]);
            }
        if (samples.empty()) continue;
        missing.push_back({.rows = {static_cast<int>(expert), indexTensor(samples), {}}, .inputRows = indexTensor(rows), .error = {}});
    }
    // Whole experts side by side, as in the forward pass.
    std::atomic<std::size_t> next = 0;
    at::parallel_for(0, at::get_num_threads(), 1, [&](std::int64_t, std::int64_t) {
        const c10::InferenceMode guard;
        for (std::size_t i = next++; i < missing.size(); i = next++) {
            Missing& entry = missing[i];
            auto y = m_model.expertOutput(m_shape.index, entry.rows.expert, gatherPadded(batch.input, entry.inputRows));
            if (y.ok())
                entry.rows.output = y->narrow(0, 0, entry.inputRows.numel());
            else
                entry.error = std::move(y).error();
        }
    });
    for (const Missing& entry : missing) {
        if (entry.error) return *entry.error;
        place(entry.rows, places);
    }
    return {};
}

}  // namespace

std::unique_ptr<StatisticCollector> gramCollector(const CollectorContext& context) { return std::make_unique<GramCollector>(context); }

}  // namespace espalier
