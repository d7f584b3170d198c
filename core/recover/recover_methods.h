// Slot R: how what a plan lost is won back by changing numbers, never shapes: names, parameters and needs of the methods. No torch. What
// they do is recover_run.h's. A new method is a file with its entry and one with its work; README.md says which lines name them.
#pragma once

#include "base/method_registry.h"

#include <string>
#include <vector>

namespace espalier
{

// In the order of choosers; the first is the default.
const std::vector<MethodInfo>& recoverMethods();

// It goes step by step for as long as it is told to, rather than once over the model.
bool takesSteps(const MethodInfo& method);

MethodInfo leastSquaresInfo();
MethodInfo loraInfo();
MethodInfo routerKdInfo();
MethodInfo entropyRouterInfo();

}  // namespace espalier
