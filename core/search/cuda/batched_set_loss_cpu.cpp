#include "search/cuda/tables.h"

namespace espalier
{

namespace
{

class CpuSetLoss final : public BatchedSetLoss
{
public:
    explicit CpuSetLoss(const SetLossTables& tables)
        : m_tokens(static_cast<std::size_t>(tables.tokens)),
          m_listProbability(batched::listProbability(tables)),
          m_layer(batched::layerTables(tables))
    {
        m_layer.listProbability = m_listProbability.data();
    }

    Result<std::vector<BatchedLoss>> evaluate(std::span<const ExpertBits> kept) override
    {
        std::vector<BatchedLoss> losses;
        losses.reserve(kept.size());
        for (const ExpertBits& set : kept)
            losses.push_back(lossOf(set));
        return losses;
    }

private:
    BatchedLoss lossOf(const ExpertBits& kept) const
    {
        switch (m_layer.topK == m_layer.modelTopK ? m_layer.topK : 0) {
            case 2:
                return sumOverTokens<2>(kept);
            case 4:
                return sumOverTokens<4>(kept);
            case 6:
                return sumOverTokens<6>(kept);
            case 8:
                return sumOverTokens<8>(kept);
            default:
                return sumOverTokens<0>(kept);
        }
    }

    template <int kTopK>
    BatchedLoss sumOverTokens(const ExpertBits& kept) const
    {
        const batched::KeptWords words{kept.words().data(), 1};
        BatchedLoss loss;
        for (std::size_t t = 0; t < m_tokens; ++t) {
            const batched::TokenTerm term = batched::tokenTerm<kTopK>(m_layer, t, words);
            loss.squared += term.squared;
            loss.uncovered += term.uncovered ? 1 : 0;
        }
        return loss;
    }

    std::size_t m_tokens;
    std::vector<double> m_listProbability;
    batched::LayerTables m_layer;
};

}  // namespace

Result<std::unique_ptr<BatchedSetLoss>> makeCpuSetLoss(const SetLossTables& tables)
{
    ESPALIER_CHECK_OK(batched::check(tables));
    return std::unique_ptr<BatchedSetLoss>(std::make_unique<CpuSetLoss>(tables));
}

}  // namespace espalier
