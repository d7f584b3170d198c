// What mending by least squares refits in a layer: linear maps as the plan runs them, with what flows into them. Private to core/recover.
#pragma once

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/values_file.h"
#include "model/form_builder.h"
#include "model/moe_model_torch.h"
#include "plan/compression_plan.h"
#include "recover/least_squares_solver.h"
#include "recover/scratch.h"

#include <ATen/ATen.h>

#include <map>
#include <string>
#include <vector>

namespace espalier
{

// The down projection of a body or of the shared experts, or attention's output projection; of a factored one its U.
struct Target {
    std::size_t body = 0;  // of the layer's plan; no matter where `linear` is named
    MatrixSlot slot;
    at::Tensor weight;  // [out,width] fp32: as the plan runs it, rounded as stored
    at::Tensor v;       // [r,in] of a factored one, whose inputs are v h
    at::Tensor bias;    // beside the factors
    at::ScalarType stored = at::kFloat;
    FittedMap map;

    // Inputs that are not a chunk yet.
    std::vector<MapRows> pending;
    std::int64_t pendingRows = 0;

    // tokens, weights (undefined: 1) and inputs [M,in] of some more rows; chunks go to the scratch.
    Status add(at::Tensor tokens, at::Tensor weights, const at::Tensor& inputs, Scratch& scratch);
    Status flush(Scratch& scratch);
};

// Of the experts, and the shared ones where that is asked for; or attention's. Empty: nothing to refit. `left`: something had to be left as
// it is (grids of few points, masks, bases, fewer channels, what the checkpoint stores factored).
std::vector<Target> expertTargets(const Checkpoint& checkpoint, const CompressionPlan& plan, int layer, bool shared, bool& left);
std::vector<Target> attentionTarget(const Checkpoint& checkpoint, const CompressionPlan& plan, int layer, bool& left);

// Columns of what is refitted: of factors those of U.
std::int64_t widthOf(const ModelShape& shape, const CompressionPlan& plan, const Target& target);

// Reads their matrices. Errors: those of the builders of forms.
Status loadTargets(const BuildContext& context, const CompressionPlan& plan, std::vector<Target>& targets);

// New numbers of some targets, as values files have them. `fresh` per target, in its stored type; undefined: unchanged.
struct TargetValues {
    std::vector<ValueToWrite> values;
    std::vector<at::Tensor> held;
    std::vector<std::size_t> bodies;  // that read them
    std::vector<std::string> linears;
};
// Errors: recover.not_finite.
Result<TargetValues> valuesOf(const std::vector<Target>& targets, const std::vector<at::Tensor>& fresh);

DType storedAs(at::ScalarType type);
std::span<const std::byte> bytesOf(const at::Tensor& tensor);

// The plan whose targets read their numbers from `id`.
Result<CompressionPlan> withStored(const ModelShape& shape, const CompressionPlan& plan, int layer, const std::vector<std::size_t>& bodies,
                                   const std::vector<std::string>& linears, const ValuesId& id);

// Sees what flows into the targets of a batch whose first token is `firstRow`.
class TargetInputs final : public LayerObserver
{
public:
    TargetInputs(const CompressionPlan& plan, int layer, std::vector<Target>& targets, Scratch& scratch);
    void attentionInput(int layer, const at::Tensor& in) override;
    void expert(int layer, int expert, const at::Tensor& tokens, const at::Tensor& x, const at::Tensor& h, const at::Tensor& y,
                const at::Tensor& w) override;
    void shared(int layer, const at::Tensor& h, const at::Tensor& gate) override;

    std::int64_t firstRow = 0;
    Status status;

private:
    void take(Target* target, at::Tensor tokens, at::Tensor weights, const at::Tensor& inputs);

    Scratch& m_scratch;
    std::map<int, Target*> m_byColumn;
    Target* m_shared = nullptr;
    Target* m_attention = nullptr;
};

}  // namespace espalier
