// What a plan may say about a layer: every check once. The model, the exporter, allocators, searches and the window rely on it.
// Pure; any thread.
#pragma once

#include "base/error.h"
#include "plan/forms/form_rules.h"
#include "plan/layer_plan.h"
#include "plan/model_shape.h"

#include <vector>

namespace espalier
{

// Errors: plan.unknown_layer, plan.unknown_linear, plan.unknown_expert, plan.kept_below_top_k, plan.groups, plan.rank_beyond_break_even,
// plan.invalid.
Status checkLayerPlan(const ModelShape& model, int layer, const LayerPlan& plan);

// Ranks as version 1 lists them, before they become forms: one triple a kept expert, 0 to break-even. Errors as above.
Status checkRankTriples(const ModelShape& model, int layer, std::size_t kept, const std::vector<RankTriple>& ranks);

// The floor of a layer: fewest experts that its router (top-k, and where it routes in groups so many that the groups a token may choose
// hold top-k of them; two a group for routers that score a group by its two best) and its protected experts allow; a multiple of the
// groups. 0 where no expert runs.
int fewestExperts(const LayerShape& shape, const LayerPlan& plan, const ExpertSet& pinned = {});

// A linear map beside the experts.
SlotShape slotOf(const LinearShape& linear);

// The matrix as the checkpoint stores it: gate, up [I, H], down [H, I].
SlotShape slotOf(const LayerShape& shape, int hiddenSize, int expert, int matrix);
// .. of a body: what its channels leave of it, which its form stands in for.
SlotShape slotOf(const LayerShape& shape, int hiddenSize, const ExpertBody& body, int matrix);

}  // namespace espalier
