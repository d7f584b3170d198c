// Collects the statistics of one MoE layer while it runs (methods.md 2.2). Private to core/profile.
#pragma once

#include "base/error.h"
#include "model/moe_model_torch.h"
#include "statistics/profile_data.h"

#include <vector>

namespace espalier
{

struct CollectorSettings {
    bool norms = true;     // ean
    bool weighted = true;  // reap
    bool gram = true;
    int listLength = 0;  // K of this layer
};

// Under a plan the experts that do not exist take part as ones without probability and output: logit -infinity, product 0.
// Sums run in the order of the tokens on one thread, so the number of threads changes nothing but the forward pass itself.
class ProfileCollector final : public LayerObserver
{
public:
    ProfileCollector(MoeModel& model, const LayerShape& shape, const CollectorSettings& settings);

    // Before each layer() call: text positions of the N tokens of the batch, and which rows (ascending) are sampled for the Gram store.
    void beginBatch(std::vector<std::int64_t> positions, std::vector<std::int64_t> sampledRows);
    void expert(int layer, int expert, const at::Tensor& tokens, const at::Tensor& x, const at::Tensor& h, const at::Tensor& y,
                const at::Tensor& w) override;
    void moe(const MoeBatch& batch) override;

    const Status& status() const { return m_status; }
    LayerProfile takeResult() { return std::move(m_profile); }

private:
    at::Tensor allLogits(const MoeBatch& batch) const;  // [N,n]
    void addSums(const MoeBatch& batch);
    void addEnergies(const MoeBatch& batch);
    void addGram(const MoeBatch& batch);

    struct ExpertRows {  // of one batch
        int expert;
        at::Tensor samples;  // [S] index into the sampled rows
        at::Tensor output;   // [S,H]
    };

    MoeModel& m_model;
    const LayerShape& m_shape;
    CollectorSettings m_settings;
    LayerProfile m_profile;
    Status m_status;
    std::vector<std::int64_t> m_positions;
    std::vector<std::int64_t> m_sampledRows;
    std::vector<std::int64_t> m_sampleOfRow;  // [N], -1 = not sampled
    std::vector<double> m_norms;              // [N][n] ||y|| of routed pairs
    std::vector<ExpertRows> m_outputs;
};

}  // namespace espalier
