// All methods of all slots, as `methods` lists them and the window's choosers show them.
#pragma once

#include "base/method_registry.h"

#include <vector>

namespace espalier
{

std::vector<MethodInfo> allMethods();

}  // namespace espalier
