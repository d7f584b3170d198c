// What profile_file.cpp and profile_parts.cpp share. Private to core/session.
#pragma once

#include "plan/factor_source.h"
#include "session/hdf5.h"
#include "statistics/profile_data.h"

#include <fmt/format.h>

#include <exception>
#include <filesystem>
#include <string>

namespace espalier
{

// 1.1: rank curves, parts, kept experts. 1.2: gradients. 1.3: token ids of the windows. 1.4: probes. 1.5: outputs, similarity. Older
// readers skip what they do not know.
inline constexpr h5::Format kProfileFormat = {"profile", "profile", 1, 6};
inline constexpr int kOldestMinor = 4;  // what a profile of nothing newer is written as
inline constexpr h5::Format kPartsFormat = {"profile-parts", "profile", 1, 0};

inline constexpr const char* kFactorsGroup = "factors";
inline constexpr const char* kMomentsGroup = "moments";

// Names that sort as numbers do.
inline std::string layerName(int layer) { return fmt::format("{:04}", layer); }
inline std::string expertName(int expert) { return fmt::format("{:04}", expert); }

// Of one expert's bases; `thin` under the larger ridge.
std::string basisName(int matrix, bool thin);
// Throws h5::Failure where it is malformed.
FactorBasis readBasis(const h5::Group& expert, const std::string& name);

// As stored under "probes". Reading throws a JSON exception where they are malformed.
Json probesToJson(const std::vector<NllProbeSet>& probes);
std::vector<NllProbeSet> probesFromJson(const Json& json);
// Throws h5::Failure where they do not fit the rest of the profile.
void checkProbes(const ProfileData& data);

// Everything but the layers. Throws h5::Failure or a JSON exception when malformed.
Result<ProfileData> dataFromHeader(const Json& json);
Error invalidProfile(const std::filesystem::path& path, const std::string& why);
// Of what was thrown while a profile was read: memory that ran out says nothing about the file.
Error unreadProfile(const std::filesystem::path& path, const std::exception& failure);
Error newerProfile(const std::filesystem::path& path, int major, int minor);

}  // namespace espalier
