// "outputs": mean and scatter of every expert's output over the tokens routed to it (statistics/output_moments.h).
#include "profile/statistics/row_sums.h"
#include "profile/statistics/statistic_collector.h"

#include <algorithm>
#include <array>
#include <vector>

namespace espalier
{

namespace
{

class OutputMomentsCollector final : public StatisticCollector
{
public:
    OutputMomentsCollector(int experts, int hiddenSize) : m_moments(OutputMoments::zeros(experts, hiddenSize)) {}

    void expert(int, int expert, const at::Tensor& tokens, const at::Tensor&, const at::Tensor&, const at::Tensor& y,
                const at::Tensor& w) override
    {
        if (tokens.numel() == 0) return;
        const at::Tensor outputs = y.contiguous();
        const at::Tensor weights = w.contiguous();
        if (outputs.scalar_type() == at::kFloat)
            add(expert, outputs.const_data_ptr<float>(), weights.const_data_ptr<float>(), outputs.size(0));
        else
            add(expert, reinterpret_cast<const std::uint16_t*>(outputs.const_data_ptr<at::BFloat16>()), weights.const_data_ptr<float>(),
                outputs.size(0));
    }

    void finish(LayerProfile& profile) override { profile.outputs = std::move(m_moments); }

private:
    // The batch's own sums and its scatter about its own means; OutputMoments::add brings them together with what was before. One look at
    // the distances to the plain mean serves all three weights: sum w^p ||y - v||^2 = sum w^p ||y - c||^2 - mass ||v - c||^2 for any c.
    template <typename Stored>
    void add(int expert, const Stored* y, const float* w, std::int64_t rows)
    {
        const auto width = static_cast<std::size_t>(m_moments.width);
        std::array<std::vector<double>, 3> sum;
        for (std::vector<double>& values : sum)
            values.assign(width, 0.0);
        kernels::addWeightedRows(y, w, rows, m_moments.width, sum[0].data(), sum[1].data(), sum[2].data());
        std::vector<double> centre(width);
        for (std::size_t c = 0; c < width; ++c)
            centre[c] = sum[0][c] / static_cast<double>(rows);
        std::vector<double> distance(static_cast<std::size_t>(rows));
        kernels::rowDistances(y, centre.data(), rows, m_moments.width, distance.data());
        std::array<double, 3> mass = {};
        std::array<double, 3> scatter = {};
        for (std::int64_t r = 0; r < rows; ++r) {
            double weight = 1;
            for (std::size_t p = 0; p < 3; ++p) {
                mass[p] += weight;
                scatter[p] += weight * distance[static_cast<std::size_t>(r)];
                weight *= static_cast<double>(w[r]);
            }
        }
        for (std::size_t p = 0; p < 3; ++p) {
            double moved = 0;
            for (std::size_t c = 0; c < width && p > 0 && mass[p] > 0; ++c) {
                const double apart = sum[p][c] / mass[p] - centre[c];
                moved += apart * apart;
            }
            m_moments.add(expert, kOutputWeights[p], mass[p], sum[p], std::max(scatter[p] - mass[p] * moved, 0.0));
        }
    }

    OutputMoments m_moments;
};

}  // namespace

std::unique_ptr<StatisticCollector> outputMomentsCollector(const CollectorContext& context)
{
    return std::make_unique<OutputMomentsCollector>(context.shape.experts, context.hiddenSize);
}

}  // namespace espalier
