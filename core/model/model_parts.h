// The layers of a model under a plan as parts: weights, forms, attention. For passes that are not the model's own, such as training, whose
// gradients are of the weights too. The arithmetic is that of moe_model.h; who composes the parts computes in fp32.
//
// Weights lie row-major, as gradients multiply with them, unless the memory budget is too small for a layer: then its experts come one by
// one, and every use makes a copy (WeightMatrix::rowMajor). Belongs to the compute thread.
#pragma once

#include "base/error.h"
#include "model/attention.h"
#include "model/layer_weights.h"
#include "model/moe_layer.h"
#include "model/moe_model.h"
#include "model/placement.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace espalier
{

class Checkpoint;

struct LayerParts {
    std::shared_ptr<const LayerWeights> weights;
    std::shared_ptr<const LayerWeights> attention;  // what attention computes with, where the plan makes something else of its maps
    std::vector<Linear> forms;                      // as moeForward takes them

    const LayerWeights& attentionWeights() const { return attention ? *attention : *weights; }
};

class ModelParts
{
public:
    // Reads nothing large yet. `options` as for the model; the compute type is fp32 whatever they say. Errors: device.unavailable.
    static Result<std::unique_ptr<ModelParts>> create(std::shared_ptr<const Checkpoint> checkpoint, const ModelOptions& options);
    ~ModelParts();
    ModelParts(const ModelParts&) = delete;
    ModelParts& operator=(const ModelParts&) = delete;

    // The weights of a layer and the matrices that the plan makes something else of; starts reading layer + step. The plan was prepared by
    // a model of the same checkpoint. Errors: plan.form_not_run (a layer that is merged with another one), model.not_finite, checkpoint.*,
    // those of the builders of forms.
    Result<LayerParts> layer(int layer, const PreparedPlan& plan, int step);
    // Errors: model.not_finite, checkpoint.*.
    Result<std::shared_ptr<const GlobalWeights>> globals();

    const Checkpoint& checkpoint() const;
    const Placement& placement() const;
    const MoeArithmetic& arithmetic() const;
    Attention& attention();
    double eps() const;               // of the norms
    int window(int layer) const;      // of the attention, 0 = none
    bool streamsWeights() const;      // not all layers stay in memory
    std::int64_t spareBytes() const;  // that the budget leaves beside the weights
    const std::vector<std::string>& warnings() const;
    void release();  // drops every weight held

private:
    struct Impl;
    explicit ModelParts(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> m_impl;
};

}  // namespace espalier
