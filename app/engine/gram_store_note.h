// What the stored products of a profile hold, for those who chose how many tokens to store.
#pragma once

#include "base/json.h"
#include "statistics/profile_data.h"

namespace espalier
{

// How many tokens the Gram store of a profile holds, what they take, and in words ("note") what more would buy. Null without a store.
Json gramStoreJson(const ProfileData& profile);

}  // namespace espalier
