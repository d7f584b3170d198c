// All methods of all slots, as `methods` lists them and the window's choosers show them. Any thread.
#pragma once

#include "base/method_registry.h"

#include <string>
#include <vector>

namespace espalier
{

// Of the slot skip there is none yet.
const std::vector<MethodInfo>& methodsOf(Slot slot);
std::vector<MethodInfo> allMethods();
// Null: not known.
const MethodInfo* findMethod(Slot slot, const std::string& id);

}  // namespace espalier
