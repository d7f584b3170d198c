// What a MoeModel holds, for the files that share its work: moe_model.cpp makes it and runs layers, plan_preparation.cpp prepares plans,
// model_steps.cpp runs steps of a sequence that grows, model_head.cpp is what follows the last layer. Private to core/model.
#pragma once

#include "checkpoint/checkpoint.h"
#include "model/attention.h"
#include "model/demand_store.h"
#include "model/form_store.h"
#include "model/moe_layer.h"
#include "model/moe_model_torch.h"
#include "model/placement.h"
#include "model/planned_attention.h"
#include "model/weight_store.h"

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace espalier
{

Error notFiniteWeight(const std::string& tensor);
Error notFiniteResult(const std::string& where);

struct MoeModel::Impl {
    std::shared_ptr<const Checkpoint> checkpoint;
    ModelOptions options;
    at::ScalarType compute = at::kFloat;
    Placement placement;
    MoeArithmetic arithmetic;
    double eps = 1e-6;
    std::vector<int> windows;  // per layer, 0 = none
    std::int64_t spare = 0;
    bool streams = false;
    std::vector<std::string> warnings;
    std::unique_ptr<WeightStore> store;
    std::unique_ptr<DemandStore> demand;  // where layers are streamed on the processor
    int heldLayers = 0;                   // the first so many stay in the store
    bool streamedLayers = false;          // it may have others
    ExtendReads reads;
    std::unique_ptr<FormStore> forms;
    FactorSources sources;
    std::unique_ptr<Attention> attention;
    // Of the layer that runs: expertOutput inside an observer must not wait for the store.
    int currentLayer = -1;
    std::shared_ptr<const LayerWeights> current;

    const ModelShape& shape() const { return checkpoint->shape(); }
    int storedUnder(int layer, int expert) const { return shape().layers[static_cast<std::size_t>(layer)].sourceBodyOf(expert); }
    // Where the model computes. The way back waits for everything that was asked of a device: its weights may be dropped after that.
    at::Tensor placed(const at::Tensor& x) const { return x.to(placement.device); }
    Result<at::Tensor> normed(const at::Tensor& hidden);  // final norm, result where the model computes
    Result<std::shared_ptr<const LayerWeights>> weights(int layer)
    {
        if (currentLayer == layer && current) return current;
        return store->layer(layer);
    }
    // The layer's weights, mixed with another's where the plan says so; `step` as WeightStore::layer.
    Result<std::shared_ptr<const LayerWeights>> weightsUnder(int layer, const PreparedPlan& plan, int step = 1);
    struct Merged {
        LayerMerge merge;
        std::shared_ptr<const LayerWeights> weights;
        std::uint64_t used = 0;
    };
    std::map<int, Merged> merged;  // by layer, within mergedBudget, one at least
    std::int64_t mergedBudget = 0;
    std::uint64_t mergedClock = 0;
    // What attention computes with under the plan: the layer's own weights, or a copy of its attention with the plan's linear maps.
    Result<std::shared_ptr<const LayerWeights>> attending(int layer, const PreparedPlan& plan, std::shared_ptr<const LayerWeights> own)
    {
        if (!plan.data().layers[static_cast<std::size_t>(layer)].attentionForms) return own;
        return attentionUnder(*checkpoint, layer, plan.data().plan.layer(layer), *own, plan.data().given, *forms);
    }
    // All of a layer. Where it is streamed it takes the room of what steps keep.
    Result<std::shared_ptr<const LayerWeights>> whole(int layer, int step)
    {
        if (demand && layer >= heldLayers) {
            demand->release();
            streamedLayers = true;
        }
        return store->layer(layer, step);
    }
    // What every token needs of a layer; experts come as they are chosen.
    Result<std::shared_ptr<const LayerWeights>> onDemand(int layer)
    {
        if (layer < heldLayers) return store->layer(layer, 0);
        if (std::exchange(streamedLayers, false)) store->dropStreamed();
        return demand->layer(layer);
    }
    Result<std::shared_ptr<const LayerWeights>> begin(int layer, const PreparedPlan& plan, int step, std::vector<Linear>& planned);
    Result<PlannedLayer> planned(int layer, const LayerPlan& plan, const FactorSource* constants) const;
    Status planBodies(int layer, const LayerPlan& plan, const FactorSource* constants, PlannedLayer& planned) const;
    Result<at::Tensor> constantOf(int layer, int expert, const ConstantBody& body, const FactorSource* constants) const;
    Result<at::Tensor> routerRows(int layer, const ValuesId& id, const at::Tensor& columns) const;
    Result<at::Tensor> attend(int layer, const at::Tensor& hidden, const PreparedPlan& plan, LayerObserver* observer,
                              const TokenTree* tree = nullptr);
    Result<at::Tensor> feedForward(int layer, const at::Tensor& residual, const PreparedPlan& plan, LayerObserver* observer);
    bool readsChosen(std::int64_t tokens) const;
    std::int64_t valueBytes() const { return compute == at::kFloat ? 4 : 2; }
    Result<at::Tensor> extend(int layer, const at::Tensor& hidden, const PreparedPlan& plan, KvCache& cache);
    Result<std::vector<Linear>> chosenForms(int layer, const PreparedPlan& plan, const RoutedBatch* routed);
    Result<at::Tensor> extendMoe(int layer, const at::Tensor& x, const LayerWeights& weights, const PreparedPlan& plan);
};

}  // namespace espalier
