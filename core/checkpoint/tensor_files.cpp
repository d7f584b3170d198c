#include "checkpoint/tensor_files.h"

#include "base/sha256.h"
#include "base/text.h"
#include "checkpoint/folder_hint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

namespace espalier
{

namespace
{

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr std::size_t kMaxConfigBytes = 4u << 20;
constexpr std::size_t kMaxShards = 20'000;
constexpr std::size_t kSampleBytes = 4096;

namespace fs = std::filesystem;

bool isFile(const fs::path& path)
{
    std::error_code failure;
    return fs::is_regular_file(path, failure);
}

Error indexError(const std::string& what)
{
    return badInput("checkpoint.index_invalid", kIndex, {"{index}: {what}.", {{"index", kIndex}, {"what", what}}},
                    "Fetch the index again.");
}

struct Index {
    Json value;
    std::vector<std::string> shards;
};

// Of a name in an index, what lies below the model folder: "./a" is "a", "weights/a" stays. Empty where the name leads out of the folder
// or is no name at all.
std::string nameInFolder(std::string_view name)
{
    if (name.empty() || name.size() > 255 ||
        std::any_of(name.begin(), name.end(), [](unsigned char c) { return c == '\\' || c < 0x20 || c == 0x7F; }))
        return {};
    std::string inside;
    for (;;) {
        const std::size_t slash = name.find('/');
        const std::string_view part = name.substr(0, slash);
        if (part.empty() || part.find("..") != std::string_view::npos) return {};
        if (part != ".") inside.append(inside.empty() ? "" : "/").append(part);
        if (slash == std::string_view::npos) return part == "." ? std::string() : inside;
        name.remove_prefix(slash + 1);
    }
}

Result<Index> readIndex(const fs::path& folder, const std::string& text)
{
    Index index;
    ESPALIER_TRY(index.value, parseJson(text, kIndex, "checkpoint"));
    if (!index.value.is_object()) return indexError("it is not a JSON object");
    const auto map = index.value.find("weight_map");  // names become those within the folder
    if (map == index.value.end() || !map->is_object() || map->empty()) return indexError("weight_map is missing, empty or no object");
    std::set<std::string> shards;
    for (auto& [tensor, shard] : map->items()) {
        if (!shard.is_string()) return indexError(fmt::format("weight_map of {} is not a file name", tensor));
        std::string inside = nameInFolder(shard.get_ref<const std::string&>());
        if (inside.empty())
            return badInput("checkpoint.shard_name", kIndex,
                            {"{index} names the file {json}, which is not a name within the model folder.",
                             {{"index", kIndex}, {"json", Json(shard).dump(-1, ' ', true)}}},
                            "Shards must lie in the model folder itself: do not open this checkpoint unless you know its origin.");
        shards.insert(inside);
        shard = std::move(inside);
    }
    if (shards.size() > kMaxShards) return indexError(fmt::format("weight_map names {} files, more than {}", shards.size(), kMaxShards));
    std::vector<std::string> missing;
    for (const std::string& shard : shards) {
        if (!isFile(folder / shard)) missing.push_back(shard);
    }
    for (const std::string& shard : missing)
        ESPALIER_CHECK_OK(checkLink(folder / shard));
    if (!missing.empty())
        return badInput(
            "checkpoint.shard_missing", missing.front(),
            {"{missing} named by {index} but not in the folder: {begin}{missing2}.",
             {{"missing", missing.size() == 1 ? "A file is" : fmt::format("{} files are", missing.size())},
              {"index", kIndex},
              {"begin",
               fmt::format("{}", fmt::join(missing.begin(),
                                           missing.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(5, missing.size())), ", "))},
              {"missing2", missing.size() > 5 ? ", ..." : ""}}},
            "Fetch what is missing into the model folder.");
    index.shards.assign(shards.begin(), shards.end());
    return index;
}

// Both directions between index and files; a tensor that two files hold.
Status checkIndex(const Index& index, TensorFiles& result)
{
    const Json& map = index.value.at("weight_map");
    std::vector<std::string_view> unlisted;
    for (std::uint32_t i = 0; i < result.files.size(); ++i) {
        const auto& tensors = result.files[i].tensors();
        for (std::uint32_t j = 0; j < tensors.size(); ++j) {
            const auto [place, inserted] = result.places.emplace(tensors[j].name, TensorFiles::Place{i, j});
            if (!inserted)
                return badInput("checkpoint.tensor_in_two_shards", tensors[j].name,
                                {"Tensor {name} is in {place} and in {i}.",
                                 {{"name", tensors[j].name}, {"place", result.names[place->second.file]}, {"i", result.names[i]}}},
                                "Shards of different downloads are mixed: fetch the checkpoint again.");
        }
    }
    for (const auto& [tensor, shard] : map.items()) {
        const auto place = result.places.find(tensor);
        const auto& name = shard.get_ref<const std::string&>();
        if (place == result.places.end() || result.names[place->second.file] != name)
            return badInput(
                "checkpoint.tensor_not_in_shard", tensor,
                {"{index} maps {tensor} to {name}, which does not hold it.", {{"index", kIndex}, {"tensor", tensor}, {"name", name}}},
                "Index and shards do not belong together: fetch the checkpoint again.");
    }
    if (map.size() < result.places.size()) {
        for (const auto& [name, place] : result.places)
            if (!map.contains(name)) unlisted.push_back(name);
        std::sort(unlisted.begin(), unlisted.end());
        result.warnings.push_back(fmt::format("{} does not list {} of the tensors in its files, {} first; they are used all the same.",
                                              kIndex, unlisted.size(), unlisted.front()));
    }
    const auto metadata = index.value.find("metadata");
    if (metadata == index.value.end() || !metadata->is_object() || !metadata->contains("total_size") ||
        metadata->at("total_size").is_null())
        return {};
    const Json& total = metadata->at("total_size");
    const std::uint64_t bytes = result.tensorBytes();
    // Some writers give a float; a float that is the right number is not worth a word.
    if (!total.is_number() || total.get<double>() != static_cast<double>(bytes))
        result.warnings.push_back(fmt::format("{} states a total_size of {} bytes, but the tensors have {}.", kIndex, total.dump(), bytes));
    return {};
}

Result<SafetensorsFile> openShard(const fs::path& folder, const std::string& name)
{
    // Caches link the files to a store elsewhere: what counts is that the name in the folder leads to a regular file.
    std::error_code failure;
    const fs::path real = fs::canonical(folder / name, failure);
    if (failure)
        return badInput("checkpoint.unreadable", name,
                        {"{name} cannot be resolved: {message}.", {{"name", name}, {"message", failure.message()}}}, "Check the link.");
    return SafetensorsFile::open(folder / name);
}

}  // namespace

const TensorInfo* TensorFiles::find(std::string_view name) const noexcept
{
    const auto place = places.find(name);
    return place == places.end() ? nullptr : &files[place->second.file].tensors()[place->second.tensor];
}

std::span<const std::byte> TensorFiles::bytes(std::string_view name) const noexcept
{
    const auto place = places.find(name);
    if (place == places.end()) return {};
    const SafetensorsFile& file = files[place->second.file];
    return file.bytes(file.tensors()[place->second.tensor]);
}

std::uint64_t TensorFiles::tensorBytes() const noexcept
{
    std::uint64_t sum = 0;
    for (const SafetensorsFile& file : files)
        sum += file.file().size() - file.dataOffset();
    return sum;
}

std::string TensorFiles::fingerprint(std::string_view configSha256) const
{
    Sha256 hash;
    hash.update(fmt::format("espalier checkpoint 1\n{}\n{}\n", configSha256, files.size()));
    for (std::size_t i = 0; i < files.size(); ++i) {
        const std::span<const std::byte> data = files[i].file().bytes().subspan(static_cast<std::size_t>(files[i].dataOffset()));
        hash.update(fmt::format("{}\n{}\n{}\n", names[i], files[i].header().size(), data.size()));
        hash.update(files[i].header());
        const std::size_t length = std::min(kSampleBytes, data.size());
        hash.update(data.subspan((data.size() - length) / 2, length));
        hash.update(data.subspan(data.size() - length, length));
    }
    return hash.finish();
}

namespace
{

Result<TensorFiles> openSingle(const fs::path& folder)
{
    TensorFiles result;
    ESPALIER_TRY(SafetensorsFile file, openShard(folder, kSingle));
    result.weightsSha256 = sha256Hex(file.header());
    result.files.push_back(std::move(file));
    result.names.emplace_back(kSingle);
    const auto& tensors = result.files.front().tensors();
    for (std::uint32_t j = 0; j < tensors.size(); ++j)
        result.places.emplace(tensors[j].name, TensorFiles::Place{0, j});
    return result;
}

Result<TensorFiles> openIndexed(const fs::path& folder)
{
    TensorFiles result;
    ESPALIER_TRY(const std::string text, readTextFile(folder / kIndex, "checkpoint", JsonLimits{}.maxBytes));
    result.weightsSha256 = sha256Hex(text);
    ESPALIER_TRY(Index index, readIndex(folder, text));
    result.names = index.shards;
    for (const std::string& name : index.shards) {
        ESPALIER_TRY(SafetensorsFile file, openShard(folder, name));
        result.files.push_back(std::move(file));
    }
    ESPALIER_CHECK_OK(checkIndex(index, result));
    return result;
}

// A single file beside an index and its shards: what transformers reads is the single file. It counts where it holds all that the index
// lists; otherwise it is a stray one, left by another download or a part of a conversion, and the complete set of shards is meant.
Result<TensorFiles> openEither(const fs::path& folder)
{
    auto single = openSingle(folder);
    auto indexed = openIndexed(folder);
    if (!indexed) {
        if (!single) return single;
        single->warnings.push_back(
            fmt::format("The folder holds {} and {}: the first is read, as transformers does. The second cannot be: {}", kSingle, kIndex,
                        indexed.error().message));
        return single;
    }
    if (!single) {
        indexed->warnings.push_back(
            fmt::format("The folder holds {} and {}: the shards that the second lists are read, because the first "
                        "cannot be ({}) Remove it: transformers would take it.",
                        kSingle, kIndex, single.error().message));
        return indexed;
    }
    std::size_t lacking = 0;
    for (const auto& [name, place] : indexed->places)
        lacking += single->places.contains(name) ? 0 : 1;
    if (lacking > 0) {
        indexed->warnings.push_back(
            fmt::format("The folder holds {} and {}: the shards that the second lists are read, because the first lacks {} of their {} "
                        "tensors. Remove it: transformers would take it and fill those with random numbers.",
                        kSingle, kIndex, lacking, indexed->places.size()));
        return indexed;
    }
    single->warnings.push_back(fmt::format("The folder holds {} and {}: the first is read, as transformers does.", kSingle, kIndex));
    return single;
}

// Says what there is instead: files under other names are read by nobody.
Error noWeights(const fs::path& folder)
{
    std::vector<std::string> others;
    std::string pickled;
    bool gguf = false;
    std::error_code failure;
    for (fs::directory_iterator it(folder, failure), end; !failure && it != end; it.increment(failure)) {
        const std::string name = it->path().filename().string();
        const std::string kind = it->path().extension().string();
        if (kind == ".safetensors") others.push_back(name);
        const bool weights = kind == ".pt" || kind == ".pth" || (kind == ".bin" && name != "training_args.bin");
        if (weights && (pickled.empty() || name < pickled)) pickled = name;
        gguf = gguf || kind == ".gguf";
    }
    std::sort(others.begin(), others.end());
    std::string there;
    if (!others.empty())
        there = fmt::format("; it holds {}{}", others.front(), others.size() > 1 ? fmt::format(" and {} more", others.size() - 1) : "");
    std::string action = "Choose the folder that holds config.json and the safetensors files.";
    if (!pickled.empty())
        action = pickled + " can execute code when read and is not opened: convert it to safetensors.";
    else if (gguf)
        action = "A GGUF file is a conversion for other programs: open the safetensors of the model that it was made from.";
    else if (others.size() == 1)
        action = "Where that file holds the whole model, rename it to model.safetensors.";
    else if (!others.empty())
        action = "Fetch model.safetensors.index.json as well: it says which tensor lies in which file.";
    return badInput("checkpoint.no_weights", folder.filename().string(),
                    {"{folder} has neither {single} nor {index}{there}.",
                     {{"folder", folder.string()}, {"single", kSingle}, {"index", kIndex}, {"there", there}}},
                    action);
}

}  // namespace

Result<TensorFiles> openTensorFiles(const fs::path& folder)
{
    std::error_code failure;
    const bool single = fs::exists(folder / kSingle, failure);
    const bool indexed = isFile(folder / kIndex);
    if (single && indexed) return openEither(folder);
    if (single) return openSingle(folder);
    if (indexed) return openIndexed(folder);
    for (const char* name : {kSingle, kIndex})
        ESPALIER_CHECK_OK(checkLink(folder / name));
    return noWeights(folder);
}

Result<ConfigFile> readConfigFile(const fs::path& folder)
{
    std::error_code failure;
    if (!fs::is_directory(folder, failure))
        return badInput("checkpoint.folder_missing", folder.string(),
                        {"{folder} {exists}.",
                         {{"folder", folder.string()}, {"exists", fs::exists(folder, failure) ? "is not a folder" : "does not exist"}}},
                        "Choose the folder that holds config.json and the safetensors files.");
    if (!fs::exists(folder / "config.json", failure)) {
        ESPALIER_CHECK_OK(checkLink(folder / "config.json"));
        ESPALIER_CHECK_OK(checkCacheFolder(folder));
    }
    ESPALIER_TRY(const std::string text, readTextFile(folder / "config.json", "config", kMaxConfigBytes));
    ConfigFile config;
    config.sha256 = sha256Hex(text);
    ESPALIER_TRY(config.value, parseJson(text, "config.json", "config", {kMaxConfigBytes, 64}));
    return config;
}

}  // namespace espalier
