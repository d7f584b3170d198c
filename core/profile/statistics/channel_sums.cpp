// "channels": energy and peak of every intermediate channel of every expert (statistics/channel_sums.h).
#include "profile/statistics/row_sums.h"
#include "profile/statistics/statistic_collector.h"

#include <cstddef>

namespace espalier
{

namespace
{

class ChannelSumsCollector final : public StatisticCollector
{
public:
    ChannelSumsCollector(int experts, int width) : m_sums(ChannelSums::zeros(experts, width)) {}

    void expert(int, int expert, const at::Tensor& tokens, const at::Tensor&, const at::Tensor& h, const at::Tensor&,
                const at::Tensor& w) override
    {
        if (tokens.numel() == 0) return;
        const at::Tensor rows = h.contiguous();
        const at::Tensor weights = w.contiguous();
        const std::int64_t width = rows.size(1);
        const std::size_t offset = static_cast<std::size_t>(expert) * static_cast<std::size_t>(width);
        double* energy = m_sums.energy.data() + offset;
        double* peak = m_sums.peak.data() + offset;
        if (rows.scalar_type() == at::kFloat)
            kernels::addSquaredRows(rows.const_data_ptr<float>(), weights.const_data_ptr<float>(), rows.size(0), width, energy, peak);
        else
            kernels::addSquaredRows(reinterpret_cast<const std::uint16_t*>(rows.const_data_ptr<at::BFloat16>()),
                                    weights.const_data_ptr<float>(), rows.size(0), width, energy, peak);
    }

    void finish(LayerProfile& profile) override { profile.channels = std::move(m_sums); }

private:
    ChannelSums m_sums;
};

}  // namespace

std::unique_ptr<StatisticCollector> channelSumsCollector(const CollectorContext& context)
{
    return std::make_unique<ChannelSumsCollector>(context.shape.experts, context.shape.expertWidth);
}

}  // namespace espalier
