// Names of plans: what a plan is called where nobody has given it a name, and names as parts of file names. Pure functions, any thread.
#pragma once

#include "plan/compression_plan.h"
#include "plan/model_shape.h"

#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

// What the plan does to the model, in a few words: "dense", "72 of 96 experts", "72 of 96 experts, mean rank 41", "mean rank 41". The mean
// is over the matrices that are factors. Different plans may share one.
std::string proposedPlanName(const ModelShape& shape, const CompressionPlan& plan);

// What becomes of a layer beyond kept experts, plain ranks and constants, in words of a technical report, one entry a thing: linear maps
// beside the experts, channels, merged experts, other forms of matrices, stored router rows, a skip rule, a merged layer. Empty: nothing.
std::vector<std::string> otherForms(const LayerPlan& plan);

// Lower-case ASCII letters, digits and single dashes, at most 60 characters: "72 of 96 experts, mean rank 41" becomes
// "72-of-96-experts-mean-rank-41". Empty where nothing of the name is left.
std::string fileNamePart(std::string_view name);

}  // namespace espalier
