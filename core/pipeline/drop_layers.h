// Which decoder layers a plan leaves out. The baseline that every method that merges layers must beat. Pure; any thread.
#pragma once

#include "base/error.h"
#include "base/method_registry.h"
#include "plan/compression_plan.h"
#include "statistics/profile_data.h"

#include <vector>

namespace espalier
{

// The slot "layers": similarity, which mostSimilarLayers is.
const std::vector<MethodInfo>& layerMethods();

// The layers that change the hidden state least: by the mean cosine between what enters and what leaves them, over all tokens of the
// profile (ShortGPT, arXiv 2403.03853: block influence 1 - cosine), most similar first; ties to the upper layer. Locked layers stay.
// Errors: profile.missing_statistics, usage.arguments (more layers than there are).
Result<std::vector<int>> mostSimilarLayers(const ProfileData& profile, const CompressionPlan& plan, int count);

// Leaves these layers out. Errors: plan.unknown_layer, usage.arguments (none would be left, or none with experts).
Result<CompressionPlan> withoutLayers(const ModelShape& shape, const CompressionPlan& plan, const std::vector<int>& layers);

}  // namespace espalier
