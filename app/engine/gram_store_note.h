// What the stored products of a profile hold, for those who chose how many tokens to store.
#pragma once

#include "rpc/protocol_profile.h"
#include "statistics/profile_data.h"

#include <optional>

namespace espalier
{

// How many tokens the Gram store of a profile holds, what they take, and in words what more would buy. Nothing without a
// store.
std::optional<GramStoreNote> gramStoreNote(const ProfileData& profile);

}  // namespace espalier
