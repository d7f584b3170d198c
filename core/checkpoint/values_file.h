// Values files: safetensors that hold the stored numbers of a plan, named by the SHA-256 of their bytes (plan/values.h says which tensors).
// Mapped; nothing is read before it is asked for, but opening reads the file once to check its name.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/safetensors.h"
#include "plan/compression_plan.h"
#include "plan/factor_source.h"
#include "plan/values.h"

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace espalier
{

// The metadata of every shard says {"espalier.values": "1", "made_by": ..}.
bool isValuesFile(const std::filesystem::path& path);

// `id`, where it is not empty, is what the bytes must hash to. Errors: plan.values_missing (not there), plan.values_changed (other bytes
// than those the plan names), plan.values_damaged (no values file), checkpoint.* (not safetensors). Nothing is allocated in proportion to
// it.
Result<std::shared_ptr<const FactorSource>> openValuesFile(const std::filesystem::path& path, const ValuesId& id = {});

// Opens what the plan reads and `given` does not hold yet, and adds it. Looked for is, in this order, the file that the plan names, then
// beside `planFile` (may be empty) PLAN.values.safetensors, where PLAN is its name without .json, values/ID.safetensors, and any values
// file there or in values/ whose content is the one.
// Errors: those of openValuesFile; plan.values_missing names the places.
Status addValuesFiles(const CompressionPlan& plan, const std::filesystem::path& planFile, FactorSources& given);

// The plan with the places of those files, so that whoever gets it finds them.
CompressionPlan withValuesOf(const CompressionPlan& plan, const FactorSources& given);

struct ValueToWrite {
    TensorDeclaration tensor;
    std::span<const std::byte> bytes;  // row-major; stays there until the call returns
};
// Writes `folder`/ID.safetensors (the folder is made) and says what a plan needs to name it. `madeBy`: {"method", "settings", "profile"}.
// Errors: checkpoint.duplicate_tensor, checkpoint.tensor_size, output.*.
Result<ValuesInfo> writeValuesFile(const std::filesystem::path& folder, const std::vector<ValueToWrite>& values, const Json& madeBy);

}  // namespace espalier
