// The windows that a profile was taken on, from the token ids in its file: what a stage that runs the model needs when no text is given.
#pragma once

#include "base/error.h"
#include "statistics/profile_data.h"
#include "tokenizer/windows.h"

#include <cstdint>
#include <optional>
#include <string>

namespace espalier
{

struct ProfileWindows {
    TokenWindows windows;
    // For people: which windows of its text the profile does not hold, as shards that were not merged do; empty when it holds all.
    std::string missing;
};

// The first `maxWindows` of them, 0 = all. nullopt for a profile without ids. Errors: profile.invalid (these ids are not what the numbers
// were measured on), ids.out_of_range (`vocabulary` of the model they are to run through).
Result<std::optional<ProfileWindows>> profileWindows(const ProfileData& profile, int maxWindows, std::int64_t vocabulary);

}  // namespace espalier
