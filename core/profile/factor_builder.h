// Second moments of the experts' inputs, and what is made of them while they are there: error curves of all ranks and bases for factors
// of any rank (SVD-LLM, arXiv 2403.07378). Private to core/profile.
#pragma once

#include "base/error.h"
#include "model/moe_model_torch.h"
#include "session/profile_parts.h"
#include "statistics/profile_data.h"

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <vector>

namespace espalier
{

class Checkpoint;

// What is kept of the moments of a layer.
struct FactorWishes {
    bool curves = false;
    bool bases = false;    // implies curves
    bool moments = false;  // the sums themselves
    bool any() const { return curves || bases || moments; }
};

// Bytes of the packed moments of one expert.
std::int64_t momentBytes(const LayerShape& layer, int hiddenSize);

// packed (a lower triangle, or empty for zeros) += rows^T rows for rows [N,n].
void addProducts(std::vector<double>& packed, const at::Tensor& rows);

// Sums of products over the tokens routed to some experts of one layer, seen by way of the model's observer. Products of a few
// hundred tokens are formed in fp32 and added up in fp64, in the order of the tokens: any split into shards of whole batches gives the same
// sums to rounding (1e-15).
class MomentCollector final : public LayerObserver
{
public:
    MomentCollector(MoeModel& model, const LayerShape& layer, const std::vector<int>& experts);

    void expert(int layer, int expert, const at::Tensor& tokens, const at::Tensor& x, const at::Tensor& h, const at::Tensor& y,
                const at::Tensor& w) override;

    struct Sums {
        std::int64_t tokens = 0;
        std::vector<double> input, hidden;     // packed lower triangles
        double weightSquared = 0;              // sum w^2
        std::int64_t gainTokens = 0;           // sampled tokens
        std::vector<double> gateGain, upGain;  // [I] sum (act'(g) u)^2, sum act(g)^2 over them
    };
    const Status& status() const { return m_status; }
    std::map<int, Sums>& sums() { return m_sums; }

private:
    MoeModel& m_model;
    const LayerShape& m_layer;
    std::map<int, Sums> m_sums;
    Status m_status;
};

// Turns the moments of one layer into curves, bases and stored sums, some experts at a time. Decompositions run side by side, one
// thread each, as far as the budget reaches.
class FactorBuilder
{
public:
    // `profile` gets spectra and gains. Budget in bytes for the decompositions.
    FactorBuilder(const Checkpoint& checkpoint, const LayerShape& layer, int hiddenSize, FactorWishes wishes, std::int64_t budget,
                  LayerProfile& profile);

    // Consumes the sums; the parts are what is to be stored of these experts.
    Result<std::vector<ExpertParts>> add(std::map<int, MomentCollector::Sums>& sums);
    // After all of them: bases for experts that no token was routed to.
    Result<std::vector<ExpertParts>> finish();

private:
    struct Task;
    Status run(std::vector<Task>& tasks);
    Status decompose(Task& task);

    const Checkpoint& m_checkpoint;
    const LayerShape& m_layer;
    const int m_hiddenSize;
    const FactorWishes m_wishes;
    const std::int64_t m_budget;
    LayerProfile& m_profile;
    std::vector<double> m_pooled;  // inputs of all experts
    std::vector<int> m_unused;     // experts without tokens
};

// Experts whose moments are summed at a time: as many as `budget` holds, at least one.
std::vector<std::vector<int>> expertChunks(const std::vector<int>& experts, std::int64_t bytesPerExpert, std::int64_t budget);

}  // namespace espalier
