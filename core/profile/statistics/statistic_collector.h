// What measures one statistic while a layer runs. Private to core/profile.
//
// One object per statistic and layer; statistics that share their work share one. Sums run in the order of the tokens whatever the number
// of threads: the same text gives the same bytes. Under a plan the experts that do not exist take part as ones without probability and
// output: logit -infinity, product 0.
#pragma once

#include "base/error.h"
#include "model/moe_model_torch.h"
#include "profile/window_batches.h"
#include "statistics/profile_data.h"

#include <functional>
#include <memory>
#include <string_view>
#include <vector>

namespace espalier
{

// What the observer's functions do not show is empty here. Called on the compute thread: beginBatch, the observer's functions while the
// layer runs, states; for every batch; then finish. A dense layer shows its states alone.
class StatisticCollector : public LayerObserver
{
public:
    virtual void beginBatch(const WindowBatch& batch) { (void)batch; }
    // in, out [B,T,H]: the hidden states before and after the layer, compute type, on the host.
    virtual void states(const at::Tensor& in, const at::Tensor& out) { (void)in, (void)out; }
    // Of what went wrong so far: the pass ends with it.
    virtual Status status() const { return {}; }
    // Moves what was measured into the layer's profile.
    virtual void finish(LayerProfile& profile) = 0;
};

// All that look on while a layer runs, in the order in which they were added.
class ObserverGroup final : public LayerObserver
{
public:
    void add(LayerObserver* observer) { m_observers.push_back(observer); }  // not owned
    bool empty() const noexcept { return m_observers.empty(); }

    void attention(int layer, const at::Tensor& attnOut) override
    {
        for (LayerObserver* observer : m_observers)
            observer->attention(layer, attnOut);
    }
    void expert(int layer, int expert, const at::Tensor& tokens, const at::Tensor& x, const at::Tensor& h, const at::Tensor& y,
                const at::Tensor& w) override
    {
        for (LayerObserver* observer : m_observers)
            observer->expert(layer, expert, tokens, x, h, y, w);
    }
    void moe(const MoeBatch& batch) override
    {
        for (LayerObserver* observer : m_observers)
            observer->moe(batch);
    }

private:
    std::vector<LayerObserver*> m_observers;
};

// What a collector is made with. References live as long as it.
struct CollectorContext {
    MoeModel& model;
    const LayerShape& shape;
    int hiddenSize = 0;
    int listLength = 0;                           // K of the Gram store of this layer
    std::function<bool(std::string_view)> wants;  // a statistic, by its name
};

// Those that the layer has use for, by the table in collectors.cpp.
std::vector<std::unique_ptr<StatisticCollector>> makeCollectors(const CollectorContext& context);

// One per file of this folder.
std::unique_ptr<StatisticCollector> routingSumCollector(const CollectorContext& context);
std::unique_ptr<StatisticCollector> gramCollector(const CollectorContext& context);
std::unique_ptr<StatisticCollector> outputMomentsCollector(const CollectorContext& context);
std::unique_ptr<StatisticCollector> channelSumsCollector(const CollectorContext& context);
std::unique_ptr<StatisticCollector> layerSimilarityCollector(const CollectorContext& context);

// Router logits [N,n] of all experts of the layer, fp32: -infinity where one does not exist under the plan.
at::Tensor allLogits(const MoeBatch& batch, int experts);
at::Tensor indexTensor(const std::vector<std::int64_t>& values);  // int64, a copy

}  // namespace espalier
