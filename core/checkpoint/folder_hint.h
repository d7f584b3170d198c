// What a person meant who opened a folder that is no model: the cache of the Hugging Face hub, and links whose files are not there.
#pragma once

#include "base/error.h"

#include <filesystem>
#include <string>

namespace espalier
{

// The folder to open instead: "<...>/models--x--y/snapshots/<hash>" where `folder` is a model's folder of the cache (or its
// snapshots, refs or blobs), the one that refs/main names or else the only one; empty where `folder` is none or it cannot be told.
std::filesystem::path cacheSnapshot(const std::filesystem::path& folder);

// The error for a folder without config.json that the cache made: names the snapshot, or lists what there is to choose from.
// Ok where `folder` is nothing of the cache.
Status checkCacheFolder(const std::filesystem::path& folder);

// A file of the model that is a link to nothing, which is what an incomplete download and a moved cache leave.
// Ok where `path` is no such link. Error: checkpoint.link_broken.
Status checkLink(const std::filesystem::path& path);

}  // namespace espalier
