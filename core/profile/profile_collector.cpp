#include "profile/profile_collector.h"

#include "model/row_operations.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>

namespace espalier
{

namespace
{

at::Tensor indexTensor(const std::vector<std::int64_t>& values)
{
    return at::from_blob(const_cast<std::int64_t*>(values.data()), {static_cast<std::int64_t>(values.size())}, at::kLong).clone();
}

// What the router's scores become when all experts share the token: softmax, or sigmoids divided by their sum.
void probabilities(const float* z, double* p, std::int64_t n, bool sigmoid)
{
    const double top = *std::max_element(z, z + n);
    double sum = 0;
    for (std::int64_t e = 0; e < n; ++e)
        sum += p[e] = sigmoid ? 1.0 / (1.0 + std::exp(-static_cast<double>(z[e]))) : std::exp(z[e] - top);
    for (std::int64_t e = 0; e < n; ++e)
        p[e] /= sum;
}

}  // namespace

ProfileCollector::ProfileCollector(MoeModel& model, const LayerShape& shape, const CollectorSettings& settings)
    : m_model(model), m_shape(shape), m_settings(settings)
{
    const auto n = static_cast<std::size_t>(shape.experts);
    m_profile.layer = shape.index;
    m_profile.experts = shape.experts;
    m_profile.count.assign(n, 0);
    for (auto* sums : {&m_profile.softMass, &m_profile.routedMassRaw, &m_profile.routedMassRenormalised, &m_profile.routedMassApplied})
        sums->assign(n, 0.0);
    if (settings.norms)
        for (auto* sums : {&m_profile.norm, &m_profile.normSquared, &m_profile.maxActivation})
            sums->assign(n, 0.0);
    if (settings.weighted)
        for (auto* sums : {&m_profile.weightedNormRaw, &m_profile.weightedNormRenormalised, &m_profile.weightedNormApplied})
            sums->assign(n, 0.0);
    if (settings.gram) m_profile.gram.listLength = settings.listLength;
}

void ProfileCollector::beginBatch(std::vector<std::int64_t> positions, std::vector<std::int64_t> sampledRows)
{
    m_positions = std::move(positions);
    m_sampledRows = m_settings.gram ? std::move(sampledRows) : std::vector<std::int64_t>();
    m_sampleOfRow.assign(m_positions.size(), -1);
    for (std::size_t i = 0; i < m_sampledRows.size(); ++i)
        m_sampleOfRow[static_cast<std::size_t>(m_sampledRows[i])] = static_cast<std::int64_t>(i);
    m_norms.assign(m_positions.size() * static_cast<std::size_t>(m_shape.experts), 0.0);
    m_outputs.clear();
}

void ProfileCollector::expert(int, int expert, const at::Tensor& tokens, const at::Tensor&, const at::Tensor&, const at::Tensor& y,
                              const at::Tensor&)
{
    if (tokens.numel() == 0) return;
    const at::Tensor places = tokens.contiguous();
    const std::int64_t* row = places.const_data_ptr<std::int64_t>();
    const auto e = static_cast<std::size_t>(expert);
    const auto n = static_cast<std::size_t>(m_shape.experts);
    if (m_settings.norms || m_settings.weighted) {
        const RowEnergy rows = rowEnergy(y);
        float largest = 0;
        for (std::size_t i = 0; i < rows.energy.size(); ++i) {
            m_norms[static_cast<std::size_t>(row[i]) * n + e] = std::sqrt(rows.energy[i]);
            largest = std::max(largest, rows.largest[i]);
        }
        if (m_settings.norms) m_profile.maxActivation[e] = std::max(m_profile.maxActivation[e], static_cast<double>(largest));
    }
    if (m_sampledRows.empty()) return;

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

void ProfileCollector::moe(const MoeBatch& batch)
{
    addSums(batch);
    addEnergies(batch);
    if (!m_sampledRows.empty() && m_status.ok()) addGram(batch);
    m_outputs.clear();
}

at::Tensor ProfileCollector::allLogits(const MoeBatch& batch) const
{
    const at::Tensor logits = batch.routerLogits.to(at::kFloat);
    if (logits.size(1) == m_shape.experts) return logits.contiguous();
    at::Tensor all = at::full({logits.size(0), m_shape.experts}, -std::numeric_limits<float>::infinity(), logits.options());
    all.index_copy_(1, batch.kept, logits);
    return all;
}

void ProfileCollector::addSums(const MoeBatch& batch)
{
    const at::Tensor logits = allLogits(batch);
    const at::Tensor selected = batch.selected.contiguous();
    const at::Tensor weights = batch.weights.to(at::kFloat).contiguous();
    const std::int64_t tokens = logits.size(0);
    const std::int64_t n = logits.size(1);
    const std::int64_t k = selected.size(1);
    const bool sigmoid = m_shape.router.rule == RoutingRule::SigmoidBias;
    m_profile.tokens += tokens;
    // The exponentials by all threads, the sums in the order of the tokens.
    std::vector<double> mass(static_cast<std::size_t>(tokens * n));
    at::parallel_for(0, tokens, 64, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t t = begin; t < end; ++t)
            probabilities(logits.const_data_ptr<float>() + t * n, mass.data() + t * n, n, sigmoid);
    });
    for (std::int64_t t = 0; t < tokens; ++t) {
        const double* p = mass.data() + t * n;
        for (std::int64_t e = 0; e < n; ++e)
            m_profile.softMass[static_cast<std::size_t>(e)] += p[e];
        const std::int64_t* choice = selected.const_data_ptr<std::int64_t>() + t * k;
        const float* applied = weights.const_data_ptr<float>() + t * k;
        double chosen = 0;
        for (std::int64_t i = 0; i < k; ++i)
            chosen += p[static_cast<std::size_t>(choice[i])];
        for (std::int64_t i = 0; i < k; ++i) {
            const auto e = static_cast<std::size_t>(choice[i]);
            const double raw = p[e];
            const double renormalised = raw / chosen;
            const double weight = applied[i];
            const double norm = m_norms[static_cast<std::size_t>(t * n) + e];
            ++m_profile.count[e];
            m_profile.routedMassRaw[e] += raw;
            m_profile.routedMassRenormalised[e] += renormalised;
            m_profile.routedMassApplied[e] += weight;
            if (m_settings.norms) {
                m_profile.norm[e] += norm;
                m_profile.normSquared[e] += norm * norm;
            }
            if (m_settings.weighted) {
                m_profile.weightedNormRaw[e] += raw * norm;
                m_profile.weightedNormRenormalised[e] += renormalised * norm;
                m_profile.weightedNormApplied[e] += weight * norm;
            }
        }
    }
}

void ProfileCollector::addEnergies(const MoeBatch& batch)
{
    if (!m_settings.norms && m_sampledRows.empty()) return;
    const std::vector<double> energies = rowEnergy(batch.output).energy;
    for (const std::int64_t row : m_sampledRows)
        m_profile.gram.outputEnergy += energies[static_cast<std::size_t>(row)];
    if (!m_settings.norms) return;
    m_profile.outputEnergy += std::accumulate(energies.begin(), energies.end(), 0.0);
    const std::vector<double> routed = m_shape.sharedWidth > 0 ? rowEnergy(batch.routed).energy : energies;
    m_profile.routedEnergy += std::accumulate(routed.begin(), routed.end(), 0.0);
}

void ProfileCollector::addGram(const MoeBatch& batch)
{
    GramStore& gram = m_profile.gram;
    const auto samples = static_cast<std::int64_t>(m_sampledRows.size());
    const std::int64_t length = gram.listLength;
    const std::int64_t n = m_shape.experts;
    const std::int64_t k = batch.selected.size(1);
    const at::Tensor rows = indexTensor(m_sampledRows);
    const at::Tensor logits = allLogits(batch).index_select(0, rows);
    const at::Tensor selected = batch.selected.index_select(0, rows).contiguous();

    if (batch.selectionBias.defined() && gram.selectionBias.empty()) {
        gram.selectionBias.assign(static_cast<std::size_t>(n), 0.0f);
        for (std::int64_t i = 0; i < batch.kept.numel(); ++i)
            gram.selectionBias[static_cast<std::size_t>(batch.kept.const_data_ptr<std::int64_t>()[i])] =
                batch.selectionBias.const_data_ptr<float>()[i];
    }
    // What the router selects by.
    at::Tensor preference = logits;
    if (!gram.selectionBias.empty()) {
        preference = at::sigmoid(logits.to(at::kDouble)).to(at::kFloat);
        for (std::int64_t e = 0; e < n; ++e)
            preference.select(1, e).add_(gram.selectionBias[static_cast<std::size_t>(e)]);
    }

    // Lists: the experts the model chose, in its order, then the rest as the router would prefer them. slot[s][e]: place of expert e in the
    // list, or -1.
    std::vector<std::int64_t> slot(static_cast<std::size_t>(samples * n), -1);
    std::vector<int> order(static_cast<std::size_t>(n));
    for (std::int64_t s = 0; s < samples; ++s) {
        const float* z = preference.const_data_ptr<float>() + s * n;
        std::int64_t* place = slot.data() + s * n;
        const std::int64_t* choice = selected.const_data_ptr<std::int64_t>() + s * k;
        for (std::int64_t i = 0; i < k; ++i)
            place[choice[i]] = i;
        std::iota(order.begin(), order.end(), 0);
        std::partial_sort(order.begin(), order.begin() + length, order.end(),
                          [&](int a, int b) { return std::tuple(place[a] < 0, -z[a], a) < std::tuple(place[b] < 0, -z[b], b); });
        for (std::int64_t i = 0; i < length; ++i) {
            place[order[static_cast<std::size_t>(i)]] = i;
            gram.list.push_back(static_cast<std::uint16_t>(order[static_cast<std::size_t>(i)]));
        }
        gram.tokens.push_back(m_positions[static_cast<std::size_t>(m_sampledRows[static_cast<std::size_t>(s)])]);
    }
    gram.logits.insert(gram.logits.end(), logits.const_data_ptr<float>(), logits.const_data_ptr<float>() + logits.numel());

    const std::int64_t width = batch.output.size(1);
    const at::Tensor outputs = at::zeros({samples * length, width}, batch.output.options());
    std::vector<bool> exists(static_cast<std::size_t>(n), false);
    for (std::int64_t i = 0; i < batch.kept.numel(); ++i)
        exists[static_cast<std::size_t>(batch.kept.const_data_ptr<std::int64_t>()[i])] = true;
    std::vector<bool> filled(static_cast<std::size_t>(samples * length), false);
    const auto place = [&](int expert, const at::Tensor& which, const at::Tensor& y) {
        std::vector<std::int64_t> targets;
        const std::int64_t* sample = which.const_data_ptr<std::int64_t>();
        for (std::int64_t i = 0; i < which.numel(); ++i) {
            const std::int64_t target = sample[i] * length + slot[static_cast<std::size_t>(sample[i] * n + expert)];
            targets.push_back(target);
            filled[static_cast<std::size_t>(target)] = true;
        }
        outputs.index_copy_(0, indexTensor(targets), y.to(outputs.scalar_type()));
    };
    for (const ExpertRows& done : m_outputs)
        place(done.expert, done.samples, done.output);
    struct Missing {
        int expert = 0;
        std::vector<std::int64_t> samples;
        at::Tensor rows;  // of the batch
        at::Tensor output;
        std::optional<Error> error;
    };
    std::vector<Missing> missing;
    for (int expert = 0; expert < n; ++expert) {
        if (!exists[static_cast<std::size_t>(expert)]) continue;
        Missing entry;
        entry.expert = expert;
        std::vector<std::int64_t> entryRows;
        for (std::int64_t s = 0; s < samples; ++s)
            if (const std::int64_t at = slot[static_cast<std::size_t>(s * n + expert)];
                at >= 0 && !filled[static_cast<std::size_t>(s * length + at)]) {
                entry.samples.push_back(s);
                entryRows.push_back(m_sampledRows[static_cast<std::size_t>(s)]);
            }
        if (entry.samples.empty()) continue;
        entry.rows = indexTensor(entryRows);
        missing.push_back(std::move(entry));
    }
    // Whole experts side by side, as in the forward pass.
    std::atomic<std::size_t> next = 0;
    at::parallel_for(0, at::get_num_threads(), 1, [&](std::int64_t, std::int64_t) {
        const c10::InferenceMode guard;
        for (std::size_t i = next++; i < missing.size(); i = next++) {
            auto y = m_model.expertOutput(m_shape.index, missing[i].expert, gatherPadded(batch.input, missing[i].rows));
            if (y.ok())
                missing[i].output = y->narrow(0, 0, missing[i].rows.numel());
            else
                missing[i].error = std::move(y).error();
        }
    });
    for (const Missing& entry : missing) {
        if (entry.error) {
            m_status = *entry.error;
            return;
        }
        place(entry.expert, indexTensor(entry.samples), entry.output);
    }

    // fp64 products of the stored outputs: fp32 products lose the difference of near-duplicate experts (methods.md 4.1).
    const std::size_t begin = gram.products.size();
    const std::int64_t triangle = static_cast<std::int64_t>(gram.triangle());
    gram.products.resize(begin + static_cast<std::size_t>(samples * triangle));
    pairProducts(outputs, length, gram.products.data() + begin);
}

}  // namespace espalier
