// Matrices in the forms of a plan, as the model runs them: built by form_builder.h, kept within a budget. One decomposition gives every
// rank, so a changed rank costs a copy. Where memory is short decompositions go
// first, and then the matrices of other layers that were used longest ago.
#pragma once

#include "base/error.h"
#include "model/form_builder.h"
#include "model/form_request.h"
#include "model/layer_weights.h"
#include "model/placement.h"
#include "plan/factor_source.h"

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>

namespace espalier
{

class Checkpoint;

// Belongs to the compute thread.
class FormStore
{
public:
    FormStore(std::shared_ptr<const Checkpoint> checkpoint, at::ScalarType compute, const Placement& placement, std::int64_t budget)
        : m_checkpoint(std::move(checkpoint)), m_compute(compute), m_placement(placement), m_budget(budget)
    {
    }

    // In the order of the requests, rounded to the stored dtype of the matrix and then converted to the compute type. `factors` and `given`
    // as in BuildContext. Missing bases are computed side by side, one thread each. Beyond the
    // budget those go that this call does not need. Errors: those of the builders.
    Result<std::vector<Linear>> linears(int layer, const FactorSource* factors, const FactorSources& given,
                                        std::span<const FormRequest> requests);
    // Matrices whose terms are one dense matrix each, with equal columns, one below the other: what a single product computes with.
    Result<Linear> stacked(int layer, const FactorSources& given, std::span<const FormRequest> requests);
    std::int64_t bytes() const { return m_bytes; }
    // Of all matrices that were made, those that are gone by now among them: as they are multiplied with.
    std::int64_t builtBytes() const { return m_builtBytes; }
    void release();

private:
    struct Key {
        int layer, expert, matrix;
        LinearId linear;
        std::string variant;                           // FormBuilder::key; empty for plain factors
        auto operator<=>(const Key&) const = default;  // NOLINT(modernize-use-nullptr): the 0 that a comparison expands to
    };
    struct Entry {
        FormBasis basis;
        std::optional<MatrixForm> form;  // that `linear` is of
        Linear linear;
        std::int64_t bytes = 0;
        std::uint64_t used = 0;
        bool cutOnly = false;  // the basis went when memory was short
    };

    WeightMatrix placed(const at::Tensor& rows) const;
    Status build(Entry& entry, const BuildContext& context, const MatrixSlot& slot, const MatrixForm& form);
    void shrink();

    const std::shared_ptr<const Checkpoint> m_checkpoint;
    const at::ScalarType m_compute;
    const Placement m_placement;
    const std::int64_t m_budget;
    std::map<Key, Entry> m_entries;
    std::map<std::string, WeightMatrix> m_shared;  // by FormTerms::sharedAs
    std::int64_t m_bytes = 0;
    std::int64_t m_builtBytes = 0;
    std::uint64_t m_clock = 0;
};

}  // namespace espalier
