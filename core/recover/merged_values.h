// What was trained as stored numbers of a plan: adapters merged into their matrices and factors, in the forms the plan has, and routers
// with their trained rows.
#pragma once

#include "base/error.h"
#include "model/model_parts.h"
#include "plan/compression_plan.h"
#include "plan/factor_source.h"
#include "recover/trainables.h"

#include <filesystem>

namespace espalier
{

struct MergedPlan {
    CompressionPlan plan;  // names the parts
    FactorSources parts;   // one values file per layer that changed
};

// W + scale b a in place of W, rounded to what the checkpoint stores the matrix in; U and V each for itself, at their rank. One layer in
// memory at a time. Errors: model.*, checkpoint.*, output.*.
Result<MergedPlan> mergedPlan(ModelParts& model, const PreparedPlan& plan, const Trainables& trainables,
                              const std::filesystem::path& folder);

}  // namespace espalier
