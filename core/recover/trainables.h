// The numbers that gradient methods change: low-rank adapters beside matrices and factors, and rows of routers. All of them lie in one
// array, their gradients in a second one, so that an optimiser, a norm or a file is one loop. Belongs to the compute thread.
#pragma once

#include "base/error.h"
#include "plan/compression_plan.h"
#include "plan/model_shape.h"
#include "recover/training_settings.h"

#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace espalier
{

class Checkpoint;
class PreparedPlan;

// W + scale * b a beside a matrix (or factor) W [out,in]. Undefined where it is not trained.
struct Adapter {
    at::Tensor a, b;                  // [r,in], [out,r]: views of the values
    at::Tensor gradientA, gradientB;  // views of the gradients, which passes add to
    std::string name;                 // "layers.0.experts.3.gate.weight"
    std::uint64_t index = 0;          // among all adapters: what its dropout is drawn from

    bool defined() const { return a.defined(); }
};

// Of one linear map: y = W x + U (V x).
struct MatrixAdapters {
    Adapter weight, u, v;

    bool any() const { return weight.defined() || u.defined() || v.defined(); }
};

using MlpAdapters = std::array<MatrixAdapters, 3>;  // gate, up, down

struct LayerTrainables {
    std::vector<MlpAdapters> bodies;  // as PlannedLayer::bodies; or none
    MlpAdapters shared, dense;
    std::map<std::string, MatrixAdapters> attention;  // "q_proj", ..
    at::Tensor router, routerGradient;                // [n,H], rows as PlannedLayer::columns; or undefined

    bool any() const;
};

struct TrainableTensor {
    std::string name;
    std::vector<std::int64_t> shape;
    std::int64_t begin = 0;  // in the array
};

// What is trained.
struct TrainingTargets {
    AdapterSettings adapters;
    bool withAdapters = true;
    bool routers = false;
};

class Trainables
{
public:
    // Of a plan that was prepared for the model of the checkpoint. a is uniform in +-1/sqrt(in), as nn.Linear begins, b is 0, router rows
    // are what the model runs with. Matrices that are masked, quantised, or a base and a delta stay as they are, with a warning.
    // Errors: recover.nothing_to_train.
    static Result<Trainables> create(const Checkpoint& checkpoint, const PreparedPlan& plan, const TrainingTargets& targets,
                                     std::uint64_t seed, c10::Device device);

    LayerTrainables& layer(int index) { return m_layers[static_cast<std::size_t>(index)]; }
    const LayerTrainables& layer(int index) const { return m_layers[static_cast<std::size_t>(index)]; }
    int lowestLayer() const;  // no gradient is wanted below it

    at::Tensor& values() { return m_values; }        // [count] fp32
    at::Tensor& gradients() { return m_gradients; }  // [count] fp32
    const at::Tensor& values() const { return m_values; }
    std::int64_t count() const { return m_values.numel(); }
    const std::vector<TrainableTensor>& tensors() const { return m_tensors; }
    at::Tensor valueOf(const TrainableTensor& tensor) const;
    at::Tensor gradientOf(const TrainableTensor& tensor) const;
    double scale() const { return m_scale; }  // alpha / r
    double dropout() const { return m_dropout; }
    const TrainingTargets& targets() const { return m_targets; }
    const std::vector<std::string>& warnings() const { return m_warnings; }

private:
    friend class TrainablesBuilder;

    std::vector<LayerTrainables> m_layers;
    std::vector<TrainableTensor> m_tensors;
    at::Tensor m_values, m_gradients;
    TrainingTargets m_targets;
    double m_scale = 1;
    double m_dropout = 0;
    std::vector<std::string> m_warnings;
};

// What stands before the matrices of the shared experts, or of a dense layer's MLP, in the checkpoint: "mlp.shared_expert.".
std::string mlpPrefix(const Checkpoint& checkpoint, int layer);

}  // namespace espalier
