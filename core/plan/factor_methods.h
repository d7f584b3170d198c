// How ranks become factors: the methods of the slot, and what the settings in a plan say about them. Their arithmetic is in core/lowrank; a
// new one is a file there, an entry here and a test.
#pragma once

#include "base/method_registry.h"
#include "plan/compression_plan.h"

#include <string>
#include <vector>

namespace espalier
{

// svd, whitened-svd: the better the later.
const std::vector<MethodInfo>& factorMethods();
// Null: not known.
const MethodInfo* factorMethod(const std::string& id);
// Whether such factors are made from what a profile holds. False for a method that is not known, and for none.
bool factorsNeedProfile(const FactorSettings& factors);
// The same of a plan: false where it has no ranks.
bool factorsNeedProfile(const CompressionPlan& plan);
// The best method that a profile with or without factor bases allows.
const std::string& bestFactorMethod(bool profileHasFactors);

}  // namespace espalier
