// The attention of a layer under a plan that gives its linear maps other forms. Private to core/model.
#pragma once

#include "base/error.h"
#include "model/form_store.h"
#include "model/layer_weights.h"
#include "plan/factor_source.h"
#include "plan/layer_plan.h"

#include <memory>

namespace espalier
{

class Checkpoint;

// Norms and maps of attention alone: those of `own`, with the plan's in their places, laid out as the layer of an export that holds them
// would be: q, k and v in one product where all three are whole matrices, else one by one. Shares the memory of `own`, and lives as long.
// Compute thread. Errors: those of the builders of forms.
Result<std::shared_ptr<const LayerWeights>> attentionUnder(const Checkpoint& checkpoint, int layer, const LayerPlan& plan,
                                                           const LayerWeights& own, const FactorSources& given, FormStore& forms);

}  // namespace espalier
