// "counts", "ean" and "reap": how often each expert is chosen, with what weight, and how large its outputs are. They share the
// probabilities and norms of a batch. Energies of the layer's output come with the norms.
#include "model/row_operations.h"
#include "profile/statistics/statistic_collector.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace espalier
{

namespace
{

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

class RoutingSumCollector final : public StatisticCollector
{
public:
    explicit RoutingSumCollector(const CollectorContext& context)
        : m_shape(context.shape), m_wantsNorms(context.wants("ean")), m_wantsWeighted(context.wants("reap"))
    {
        const auto n = static_cast<std::size_t>(m_shape.experts);
        m_profile.count.assign(n, 0);
        for (auto* sums : {&m_profile.softMass, &m_profile.routedMassRaw, &m_profile.routedMassRenormalised, &m_profile.routedMassApplied})
            sums->assign(n, 0.0);
        if (m_wantsNorms)
            for (auto* sums : {&m_profile.norm, &m_profile.normSquared, &m_profile.maxActivation})
                sums->assign(n, 0.0);
        if (m_wantsWeighted)
            for (auto* sums : {&m_profile.weightedNormRaw, &m_profile.weightedNormRenormalised, &m_profile.weightedNormApplied})
                sums->assign(n, 0.0);
    }

    void beginBatch(const WindowBatch& batch) override
    {
        m_norms.assign(batch.positions.size() * static_cast<std::size_t>(m_shape.experts), 0.0);
    }

    void expert(int, int expert, const at::Tensor& tokens, const at::Tensor&, const at::Tensor&, const at::Tensor& y,
                const at::Tensor&) override
    {
        if (tokens.numel() == 0 || (!m_wantsNorms && !m_wantsWeighted)) return;
        const at::Tensor places = tokens.contiguous();
        const std::int64_t* row = places.const_data_ptr<std::int64_t>();
        const auto e = static_cast<std::size_t>(expert);
        const auto n = static_cast<std::size_t>(m_shape.experts);
        const RowEnergy rows = rowEnergy(y);
        float largest = 0;
        for (std::size_t i = 0; i < rows.energy.size(); ++i) {
            m_norms[static_cast<std::size_t>(row[i]) * n + e] = std::sqrt(rows.energy[i]);
            largest = std::max(largest, rows.largest[i]);
        }
        if (m_wantsNorms) m_profile.maxActivation[e] = std::max(m_profile.maxActivation[e], static_cast<double>(largest));
    }

    void moe(const MoeBatch& batch) override
    {
        addSums(batch);
        if (m_wantsNorms) addEnergies(batch);
    }

    void finish(LayerProfile& profile) override
    {
        profile.tokens = m_profile.tokens;
        profile.count = std::move(m_profile.count);
        profile.softMass = std::move(m_profile.softMass);
        profile.routedMassRaw = std::move(m_profile.routedMassRaw);
        profile.routedMassRenormalised = std::move(m_profile.routedMassRenormalised);
        profile.routedMassApplied = std::move(m_profile.routedMassApplied);
        profile.norm = std::move(m_profile.norm);
        profile.normSquared = std::move(m_profile.normSquared);
        profile.weightedNormRaw = std::move(m_profile.weightedNormRaw);
        profile.weightedNormRenormalised = std::move(m_profile.weightedNormRenormalised);
        profile.weightedNormApplied = std::move(m_profile.weightedNormApplied);
        profile.maxActivation = std::move(m_profile.maxActivation);
        profile.outputEnergy = m_profile.outputEnergy;
        profile.routedEnergy = m_profile.routedEnergy;
    }

private:
    void addSums(const MoeBatch& batch)
    {
        const at::Tensor logits = allLogits(batch, m_shape.experts);
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
                if (m_wantsNorms) {
                    m_profile.norm[e] += norm;
                    m_profile.normSquared[e] += norm * norm;
                }
                if (m_wantsWeighted) {
                    m_profile.weightedNormRaw[e] += raw * norm;
                    m_profile.weightedNormRenormalised[e] += renormalised * norm;
                    m_profile.weightedNormApplied[e] += weight * norm;
                }
            }
        }
    }

    void addEnergies(const MoeBatch& batch)
    {
        const std::vector<double> energies = rowEnergy(batch.output).energy;
        m_profile.outputEnergy += std::accumulate(energies.begin(), energies.end(), 0.0);
        const std::vector<double> routed = m_shape.sharedWidth > 0 ? rowEnergy(batch.routed).energy : energies;
        m_profile.routedEnergy += std::accumulate(routed.begin(), routed.end(), 0.0);
    }

    const LayerShape& m_shape;
    bool m_wantsNorms;
    bool m_wantsWeighted;
    LayerProfile m_profile;
    std::vector<double> m_norms;  // [N][n] ||y|| of routed pairs
};

}  // namespace

std::unique_ptr<StatisticCollector> routingSumCollector(const CollectorContext& context)
{
    return std::make_unique<RoutingSumCollector>(context);
}

}  // namespace espalier
