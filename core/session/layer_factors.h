// The factors of a profile that is not written yet, read from the files of writeLayerParts.
#pragma once

#include "base/error.h"
#include "plan/factor_source.h"
#include "statistics/profile_data.h"

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace espalier
{

// `name` stands in for the hash of the profile, wherever one is asked for; nothing but this source may have it. The files stay open.
// Errors: profile.* of a damaged part.
Result<std::shared_ptr<const FactorSource>> openLayerFactors(const std::vector<std::filesystem::path>& parts, const ProfileData& data,
                                                             const std::string& name);

}  // namespace espalier
