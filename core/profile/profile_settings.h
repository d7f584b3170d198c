// What a pass is asked for, made into what it does: statistics, sizes of the stores. Private to core/profile.
#pragma once

#include "profile/factor_builder.h"
#include "profile/profile_pass.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

struct ProfileSettings {
    std::vector<std::string> collected;  // in the order of statistics()
    FactorWishes factors;
    std::int64_t gramTokens = 0;  // of the whole text; 0 = no Gram store
    std::vector<int> listLength;  // of the Gram store per decoder layer, 0 = none

    bool wants(std::string_view statistic) const;
};

// Errors: profile.bad_option (Usage).
Result<ProfileSettings> profileSettings(const ProfileOptions& options, const ModelShape& shape, std::int64_t textTokens);

}  // namespace espalier
