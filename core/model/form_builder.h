// How the form of a matrix computes: the terms that its product is a sum of, with the numbers that an export would hold. The one table of
// builders, one file each in forms/; preview (form_store.h) and export both build here, so that what is measured is what is written.
#pragma once

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "lowrank/plain_svd.h"
#include "lowrank/whitened_svd.h"
#include "plan/factor_source.h"
#include "plan/matrix_form.h"
#include "plan/values.h"

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <string>
#include <variant>

namespace espalier
{

// One matrix of a body: `expert` is its first source, an original id; matrix 0 gate, 1 up, 2 down. Or, where it is named, a linear map
// beside the experts.
struct MatrixSlot {
    int layer = 0;
    int expert = 0;
    int matrix = 0;
    LinearId linear = {};
    const ChannelSet* channels = nullptr;  // of the body, where some are cut: rows of gate and up, columns of down that stay

    bool sliced() const { return channels != nullptr && !channels->empty(); }
    // What is left of the matrix, or of its factors.
    at::Tensor sliceRows(const at::Tensor& rows) const;     // [out, ..] of gate and up
    at::Tensor sliceColumns(const at::Tensor& rows) const;  // [.., in] of down
    std::string channelsKey() const;                        // tells sets apart; empty: all

    std::string valueName(std::string_view part) const;  // of its stored numbers (plan/values.h)
    std::string words() const;                           // "expert 3 in layer 1"
};

struct BuildContext {
    const Checkpoint& checkpoint;
    const FactorSource* factors = nullptr;  // that derived factors come from; null: plain SVD
    const FactorSources& given;             // values files are found among them
};

// What a form is made from and other forms of the slot may share: a decomposition serves every rank. `stored`: the dtype the checkpoint
// holds the matrix in.
struct FormBasis {
    std::variant<std::monostate, at::Tensor, PlainSvd, ProjectionFactors> of;
    at::ScalarType stored = at::kFloat;

    std::int64_t bytes() const;
};

// y = weight x + u (v x) + bias: those that are there. Host, contiguous, rounded once to the checkpoint's dtype of the slot.
struct FormTerms {
    at::Tensor weight;     // [out,in]
    at::Tensor u, v;       // [out,r], [r,in]
    at::Tensor bias;       // [out]
    std::string sharedAs;  // where other matrices of the layer have the same `weight`: a name for it

    at::Tensor sum() const;  // weight + u v in fp32 [out,in]
};

struct FormBuilder {
    bool keepsBasis;  // other forms with the same key are made of the same basis: worth holding on to
    // What the basis depends on beside the slot. Equal keys, equal bases.
    std::string (*key)(const BuildContext&, const MatrixSlot&, const MatrixForm&);
    // The costly part, on one thread: the same matrix gives the same bits wherever it is asked for. Any thread, in inference mode.
    // Errors: checkpoint.*, model.*, lowrank.*, profile.*, plan.profile_without_factors, plan.values_*.
    Result<FormBasis> (*basis)(const BuildContext&, const MatrixSlot&, const MatrixForm&);
    Result<FormTerms> (*terms)(const BuildContext&, const MatrixSlot&, const MatrixForm&, const FormBasis&);
};

extern const FormBuilder kDenseBuilder;
extern const FormBuilder kLowRankBuilder;
extern const FormBuilder kBaseDeltaBuilder;
extern const FormBuilder kMaskedBuilder;

const FormBuilder& builderOf(const MatrixForm& form);
// .. of a slot that may have lost channels.
const FormBuilder& builderOf(const MatrixSlot& slot, const MatrixForm& form);

// For the builders: of stored numbers, in fp32. Errors: plan.values_damaged (shape, type, a NaN or infinity), plan.values_missing.
Result<at::Tensor> storedNumbers(const BuildContext& context, const ValuesId& id, const std::string& name, at::IntArrayRef shape);
bool hasStored(const BuildContext& context, const ValuesId& id, const std::string& name);
// A mask [out,in] of 0 and 1. Errors: plan.values_damaged.
Result<at::Tensor> storedMask(const BuildContext& context, const ValuesId& id, const std::string& name, at::IntArrayRef shape);
LinearView viewOf(const BuildContext& context, const MatrixSlot& slot);
// [out, in] of the slot and the dtype it is stored in, without reading it.
struct SlotType {
    std::int64_t out = 0, in = 0;
    at::ScalarType stored = at::kFloat;
};
SlotType typeOf(const BuildContext& context, const MatrixSlot& slot);
// The checkpoint's matrix, or the stored one. fp32.
Result<at::Tensor> wholeMatrix(const BuildContext& context, const MatrixSlot& slot, const MatrixForm& form);

// Runs `one` for 0 .. count - 1 side by side, each call on one thread even when there is a single one: a matrix product by several
// threads may round otherwise.
void eachOnOneThread(std::size_t count, const std::function<void(std::size_t)>& one);

}  // namespace espalier
