// "similarity": cosine between the hidden states before and after a decoder layer, over all tokens (statistics/layer_similarity.h).
#include "profile/statistics/row_sums.h"
#include "profile/statistics/statistic_collector.h"

#include <vector>

namespace espalier
{

namespace
{

class LayerSimilarityCollector final : public StatisticCollector
{
public:
    void states(const at::Tensor& in, const at::Tensor& out) override
    {
        const at::Tensor before = in.contiguous();
        const at::Tensor after = out.contiguous();
        const std::int64_t width = before.size(-1);
        const std::int64_t rows = before.numel() / width;
        std::vector<double> cosines(static_cast<std::size_t>(rows));
        if (before.scalar_type() == at::kFloat)
            kernels::rowCosines(before.const_data_ptr<float>(), after.const_data_ptr<float>(), rows, width, cosines.data());
        else
            kernels::rowCosines(reinterpret_cast<const std::uint16_t*>(before.const_data_ptr<at::BFloat16>()),
                                reinterpret_cast<const std::uint16_t*>(after.const_data_ptr<at::BFloat16>()), rows, width, cosines.data());
        for (const double cosine : cosines)
            m_similarity.cosine += cosine;
        m_similarity.tokens += rows;
    }

    void finish(LayerProfile& profile) override { profile.similarity = m_similarity; }

private:
    LayerSimilarity m_similarity;
};

}  // namespace

std::unique_ptr<StatisticCollector> layerSimilarityCollector(const CollectorContext&)
{
    return std::make_unique<LayerSimilarityCollector>();
}

}  // namespace espalier
