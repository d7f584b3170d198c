// Stored numbers of a plan: what cannot be derived from checkpoint and profile (tuned factors, merged experts, searched masks, shared
// bases, constants, router rows). They lie in values files, safetensors beside the plan, that are named by the SHA-256 of their bytes: what
// a ValuesId names is never another number. No torch: the file itself is opened by checkpoint/values_file.
//
// Tensors of a values file, by layer l and original expert e (of a merged body its first source); floating, fp32 or narrower:
//   layers.l.experts.e.{gate,up,down}.weight  [out,in]   dense, masked
//   layers.l.experts.e.{gate,up,down}.mask    [out,in]   masked: BOOL or U8, 1 = the checkpoint's weight stays
//   layers.l.experts.e.{gate,up,down}.U, .V   [out,r], [r,in]; .bias [out] where the form has one
//   layers.l.bases.b                          [out,in]   the base b of a base-and-delta form
//   layers.l.experts.e.constant               [H]        in place of an expert
//   layers.l.NAME.weight, .mask, .U, .V, .bias           the same of the linear map NAME beside the experts ("self_attn.o_proj")
//   layers.l.router                           [E,H]      rows of all experts of the checkpoint's layer
#pragma once

#include "base/error.h"
#include "plan/compression_plan.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

class FactorSource;

struct StoredValue {
    std::string dtype;  // as safetensors spells it: "F32", "BF16", "F16", "F64", "BOOL", "U8"
    std::vector<std::int64_t> shape;
    std::span<const std::byte> bytes;  // row-major, valid as long as the file is open
};

// An open values file. Immutable, any thread.
class StoredValues
{
public:
    virtual ~StoredValues() = default;
    virtual const ValuesId& id() const = 0;  // SHA-256 of the file
    virtual std::optional<StoredValue> find(std::string_view name) const = 0;
    virtual const std::string& madeBy() const = 0;  // how the numbers were made, canonical JSON: {"method", "settings", "profile"}
    virtual std::string path() const = 0;
    // To be asked after bytes were read: whether the file is still the one that was opened. Error: input.unreadable.
    virtual Status checkUnchanged() const = 0;
};

std::string matrixValueName(int layer, int expert, int matrix, std::string_view part);  // part: "weight", "mask", "U", "V", "bias"
std::string linearValueName(int layer, std::string_view linear, std::string_view part);
std::string baseValueName(int layer, std::string_view base);
std::string constantValueName(int layer, int expert);
std::string routerValueName(int layer);

// Ids of all values files that the plan reads, ascending, each once.
std::vector<ValuesId> valuesOf(const CompressionPlan& plan);

// The open file among what was given. Errors: plan.values_missing (names the plan's id and where such files are looked for).
Result<const StoredValues*> storedValuesFor(const ValuesId& id, const std::vector<std::shared_ptr<const FactorSource>>& given);
Error valuesMissing(const ValuesId& id, std::string_view why);

// A tensor that has to be there in this shape (a size of -1: any). Errors: plan.values_damaged.
Result<StoredValue> storedValue(const StoredValues& values, const std::string& name, std::span<const std::int64_t> shape);

}  // namespace espalier
