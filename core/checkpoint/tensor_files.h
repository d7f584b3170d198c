// The safetensors files of a folder, with their index: which file holds which tensor, and nothing about the model.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/safetensors.h"

#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace espalier
{

struct TensorFiles {
    struct Place {
        std::uint32_t file = 0;
        std::uint32_t tensor = 0;  // in files[file].tensors()
    };

    std::vector<SafetensorsFile> files;
    std::vector<std::string> names;  // file names, parallel to files, ascending
    std::unordered_map<std::string_view, Place> places;
    std::string weightsSha256;          // of the index, or of the single file's header
    std::vector<std::string> warnings;  // total_size, tensors the index does not list

    const TensorInfo* find(std::string_view name) const noexcept;
    std::span<const std::byte> bytes(std::string_view name) const noexcept;
    std::uint64_t tensorBytes() const noexcept;  // of all tensors
    // Headers and 8 KiB of data of every file, and the digest given.
    std::string fingerprint(std::string_view configSha256) const;
};

// model.safetensors where it is there (as transformers chooses), else the shards of model.safetensors.index.json. Where both are there
// and the single file lacks tensors that complete shards hold, the shards are read, with a warning.
Result<TensorFiles> openTensorFiles(const std::filesystem::path& folder);

// config.json: text hashed, then parsed.
struct ConfigFile {
    Json value;
    std::string sha256;
};
Result<ConfigFile> readConfigFile(const std::filesystem::path& folder);

}  // namespace espalier
