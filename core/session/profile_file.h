// Profile files (.h5): ProfileData on disk. Written by the engine only, as a new file that replaces the old one in one step.
// Plain HDF5 behind a 512-byte user block that carries kind, version, length and SHA-256 of what follows: a damaged file is
// recognised before HDF5 parses a byte of it. Any thread; calls of one process are serialised.
#pragma once

#include "base/error.h"
#include "statistics/profile_data.h"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

// Equal data give equal bytes. `parts`: files of writeLayerParts (session/profile_parts.h) whose content becomes part of the profile.
// Errors: output.unwritable, output.disk_full, profile.* of a damaged part.
Status writeProfile(const std::filesystem::path& path, const ProfileData& data, const std::vector<std::filesystem::path>& parts = {});

// Without the bulky parts, which ProfileParts reads. Errors: profile.missing, profile.unreadable, profile.not_a_profile, profile.truncated,
// profile.damaged (checksum), profile.newer_version, profile.invalid (well-formed, but the arrays do not fit together).
Result<ProfileData> readProfile(const std::filesystem::path& path);

// SHA-256 of the content, from the header of the file alone: what plans and runs record. Errors as above.
Result<std::string> profileSha256(const std::filesystem::path& path);

// One layer of an unfinished pass; `key` says which run it belongs to.
struct ProfileState {
    std::string key;
    LayerProfile profile;
    std::vector<NllProbeSet> probes = {};
};
Status writeProfileState(const std::filesystem::path& path, const ProfileState& state);
Result<ProfileState> readProfileState(const std::filesystem::path& path);

// Adds up profiles of disjoint shards. Spectra are no sums: "curves" and "factors" are left out of the result ("moments", if all have
// them, stay collected and are the caller's to add up), and so are token ids unless every shard has its own. Sums equal those of a single
// pass to rounding (1e-12). Errors: profile.other_model (fingerprint or shape), profile.other_mode (numeric mode),
// profile.other_window_length, profile.other_statistics (collected, list length), profile.overlap (the same windows twice),
// profile.nothing_to_merge.
Result<ProfileData> mergeProfiles(const std::vector<ProfileData>& shards);

}  // namespace espalier
